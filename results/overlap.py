"""How far two masks agree, and how far they would by chance. Numbers on arrays only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""A mask packed by `np.packbits`, eight weights a byte."""


@dataclass(frozen=True)
class Overlap:
    """Two masks of the same weights.

    Chance is that each mask keeps as many weights as it does, drawn at random and independently of the other; the
    number of shared ones is then hypergeometric. Layers are summed with `+`: chance keeps the density of each.

    Attributes:
        weights: how many there are.
        kept_a, kept_b: how many each mask keeps.
        shared: how many both keep.
        by_chance: expectation of `shared`.
        variance: of `shared`, by chance.
        most: the largest `shared` that the densities of the layers allow.
    """

    weights: int
    kept_a: int
    kept_b: int
    shared: int
    by_chance: float
    variance: float
    most: int

    @classmethod
    def counted(cls, weights: int, kept_a: int, kept_b: int, shared: int) -> Overlap:
        """Of one layer."""
        variance = 0.0
        if weights > 1:
            variance = kept_a * kept_b * (weights - kept_a) * (weights - kept_b) / (weights**2 * (weights - 1))
        return cls(weights, kept_a, kept_b, shared, kept_a * kept_b / weights, variance, min(kept_a, kept_b))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.weights + other.weights,
            self.kept_a + other.kept_a,
            self.kept_b + other.kept_b,
            self.shared + other.shared,
            self.by_chance + other.by_chance,
            self.variance + other.variance,
            self.most + other.most,
        )

    @property
    def jaccard(self) -> float | None:
        """Shared weights over those that either mask keeps; None where neither keeps any."""
        return _ratio(self.shared, self.kept_a + self.kept_b - self.shared)

    @property
    def jaccard_by_chance(self) -> float | None:
        """The same with the expected number shared."""
        return _ratio(self.by_chance, self.kept_a + self.kept_b - self.by_chance)

    @property
    def overlap(self) -> float | None:
        """Overlap coefficient: shared weights over those of the sparser mask; None where it keeps none."""
        return _ratio(self.shared, min(self.kept_a, self.kept_b))

    @property
    def overlap_by_chance(self) -> float | None:
        """Its expectation."""
        return _ratio(self.by_chance, min(self.kept_a, self.kept_b))

    @property
    def agreement(self) -> float | None:
        """0 is chance, 1 the most that the densities allow, below 0 less than chance; None where these are equal."""
        return _ratio(self.shared - self.by_chance, self.most - self.by_chance)

    @property
    def deviations(self) -> float | None:
        """By how many standard deviations of chance more are shared than expected; None where chance has no choice."""
        return _ratio(self.shared - self.by_chance, math.sqrt(self.variance))


def packed(mask: NDArray[np.bool_]) -> Bits:
    """The mask in an eighth of its memory."""
    return np.packbits(mask)


def overlap(a: Bits, b: Bits, weights: int) -> Overlap:
    """The overlap of two packed masks of so many weights."""
    return Overlap.counted(weights, _count(a), _count(b), _count(a & b))


def _count(bits: Bits) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
