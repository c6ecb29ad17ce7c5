"""Sparsity bands: how the range of a front is summed up for a person."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..results.pareto import Floats


class Band(NamedTuple):
    """Sparsities in [low, high)."""

    name: str
    low: float
    high: float


BANDS = (
    Band("below 60 %", 0.0, 0.6),
    Band("60 - 90 %", 0.6, 0.9),
    Band("90 - 97 %", 0.9, 0.97),
    Band("97 % and more", 0.97, float("inf")),
)


class Best(NamedTuple):
    """How many trials fall into a band, and the best of them."""

    band: Band
    trials: int
    verified_accuracy: float | None


def best_by_band(results: Floats) -> list[Best]:
    """Sum up sparsities and verified accuracies ``(trials, 2)`` by band; `verified_accuracy` is None in an empty band.
    A trial without either does not count."""
    sparsity, verified = results[np.isfinite(results).all(axis=1)].T
    inside = [verified[(band.low <= sparsity) & (sparsity < band.high)] for band in BANDS]
    return [
        Best(band, len(values), float(values.max()) if len(values) else None)
        for band, values in zip(BANDS, inside, strict=True)
    ]
