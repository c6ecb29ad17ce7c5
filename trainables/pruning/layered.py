"""Densities that the search may bend over depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from .base import Distribution
from .budget import room, spread
from .proportional import BASES

MOST = 2.0


@final
@dataclass(frozen=True)
class Layered(Distribution):
    """Densities of a base rule times `10^b`, b being linear in depth from `first` over `middle` to `last`.

    Layers lie at equal steps of depth, in the order of the network, so that the same three names fit networks of any
    depth; of two layers `middle` has no part, of one only `first`. The budget of the whole network is exact: only
    ratios of densities matter (equal bends change nothing), and layers that come out above 1 stay dense while the
    rest is solved again.

    Attributes:
        first, middle, last: log10 of the multiplier at the first layer, at half the depth and at the last layer, each
            in [-2, 2].
        base: `uniform`, `erk` or `fan-in`, what is multiplied.
    """

    description: ClassVar[str] = "distribution: densities bent over depth, at the first, middle and last layer"
    first: float = 0.0
    middle: float = 0.0
    last: float = 0.0
    base: str = "erk"

    def __post_init__(self) -> None:
        for name in ("first", "middle", "last"):
            if not -MOST <= getattr(self, name) <= MOST:
                raise ValueError(
                    f"distribution.{name} is a log10 multiplier in [-{MOST:g}, {MOST:g}], but is {getattr(self, name)}"
                )
        if self.base not in BASES:
            raise ValueError(f"distribution.base must be one of {', '.join(BASES)}, but is {self.base!r}")

    def allocate(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, int]:
        steps = max(len(scores) - 1, 1)
        part = BASES[self.base]().part
        wanted = {
            name: 10.0 ** self._bend(index / steps) * part(score) for index, (name, score) in enumerate(scores.items())
        }
        return spread(wanted, room(scores), kept)

    def _bend(self, depth: float) -> float:
        """At a depth in [0, 1]."""
        if depth <= 0.5:
            return self.first + (self.middle - self.first) * 2.0 * depth
        return self.middle + (self.last - self.middle) * (2.0 * depth - 1.0)
