"""Dominance, ranks, spread and hypervolume on arrays ``(points, objectives)``; knows nothing of trials or stores.

Everything but `orient` takes *oriented* values: larger is better in every column. A point with NaN in any objective is
incomparable: it ranks last and is on no front. Duplicates of a point share its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Spread = Literal["epsilon-net", "crowding"]


def orient(values: ArrayLike, directions: Sequence[str]) -> Floats:
    """Values with every ``min`` column negated, so that larger is better. Raises ValueError on unknown directions."""
    array = _matrix(values)
    if array.shape[1] != len(directions):
        raise ValueError(f"one direction per objective; got {array.shape[1]} objectives, {len(directions)} directions")
    for direction in directions:
        if direction not in ("max", "min"):
            raise ValueError(f"a direction is 'max' or 'min'; got {direction!r}")
    return array * np.array([1.0 if direction == "max" else -1.0 for direction in directions])


def non_dominated_ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Rank of each point ``(points,)``, 0 for the front: a rank per point, not an order of the points.

    Points with NaN share one rank behind all others.
    """
    array = _matrix(values)
    known = ~np.isnan(array).any(axis=1)
    ranks = np.zeros(len(array), dtype=np.int64)
    if known.any():
        levels = _levels(array[known])
        if levels.shape[1] == 1:
            ranks[known] = levels[:, 0].max() - levels[:, 0]
        else:
            ranks[known] = moocore.pareto_rank(levels, maximise=True)
        ranks[~known] = ranks[known].max() + 1
    return ranks


def front_mask(values: ArrayLike) -> NDArray[np.bool_]:
    """True for points that no other point dominates ``(points,)``; every duplicate of such a point counts."""
    array = _matrix(values)
    mask: NDArray[np.bool_] = np.logical_not(np.isnan(array).any(axis=1))
    if mask.any():
        mask[mask] = moocore.is_nondominated(_levels(array[mask]), maximise=True, keep_weakly=True)
    return mask


def crowding_distances(values: ArrayLike) -> Floats:
    """Crowding distance of each point ``(points,)`` of one front (Deb et al. 2002); infinite at the ends."""
    array = _unit_box(_matrix(values))
    distances = np.zeros(len(array))
    for column in array.T:
        order = np.argsort(column, kind="stable")
        gaps = np.zeros(len(order))
        gaps[[0, -1]] = np.inf
        gaps[1:-1] = column[order[2:]] - column[order[:-2]]
        distances[order] += gaps
    return distances


def epsilon_net_order(values: ArrayLike, count: int | None = None) -> NDArray[np.int64]:
    """The first ``count`` points of one front, farthest first (Schmucker et al. 2021): each next point is the one with
    the largest distance to those before it, in the front's unit box. The first is the best in the first objective.
    Ties go to the earlier point; duplicates come last.
    """
    array = _unit_box(_matrix(values))
    wanted = len(array) if count is None else min(count, len(array))
    if wanted <= 0:
        return np.empty(0, dtype=np.int64)
    # lexsort's last key is the primary one.
    chosen = [int(np.lexsort(-array.T[::-1])[0])]
    nearest = np.full(len(array), np.inf)
    while len(chosen) < wanted:
        nearest = np.minimum(nearest, np.square(array - array[chosen[-1]]).sum(axis=1))
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen, dtype=np.int64)


def order_by_rank_and_spread(
    values: ArrayLike,
    count: int | None = None,
    spread: Spread = "epsilon-net",
    settled: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Indices of the best ``count`` points (default: all), best first: by non-dominated rank, then by spread in a rank.

    With one objective this is the plain order from best to worst. Points with NaN come last. ``count`` saves the
    quadratic cost of spreading fronts that are not needed; so does ``settled``, which marks points ``(points,)`` whose
    places do not matter: a front that has its place whole and holds only such stays in index order.
    """
    array = _matrix(values)
    ranks = non_dominated_ranks(array)
    unknown: NDArray[np.bool_] = np.asarray(np.isnan(array).any(axis=1))
    wanted = len(array) if count is None else max(0, min(count, len(array)))
    order: list[int] = []
    for rank in np.unique(ranks):
        if len(order) >= wanted:
            break
        members = np.flatnonzero(ranks == rank)
        fits = len(order) + len(members) <= wanted
        if unknown[members[0]] or (fits and settled is not None and settled[members].all()):
            inside = np.arange(len(members))
        elif spread == "epsilon-net":
            inside = epsilon_net_order(array[members], wanted - len(order))
        elif spread == "crowding":
            inside = np.argsort(-crowding_distances(array[members]), kind="stable")
        else:
            raise ValueError(f"spread is 'epsilon-net' or 'crowding'; got {spread!r}")
        order.extend(members[inside].tolist())
    return np.array(order[:wanted], dtype=np.int64)


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate above ``reference`` ``(objectives,)``; points with a non-finite value, or not
    above the reference in every objective, add nothing.
    """
    array = _matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != array.shape[1:] or not np.isfinite(corner).all():
        raise ValueError(f"the reference needs one finite value per objective ({array.shape[1]}); got {reference!r}")
    inside = np.isfinite(array).all(axis=1) & (array > corner).all(axis=1)
    if not inside.any():
        return 0.0
    return float(moocore.hypervolume(array[inside], ref=corner, maximise=True))


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"values must have the shape (points, objectives); got {array.shape}")
    return array


def _levels(array: Floats) -> Floats:
    """Each column replaced by the positions of its values in order. Dominance depends on order only, so this changes
    nothing but makes infinities safe for C code that subtracts."""
    return np.column_stack([np.unique(column, return_inverse=True)[1] for column in array.T]).astype(np.float64)


def _unit_box(array: Floats) -> Floats:
    """Columns scaled to [0, 1] by their finite range; infinities go to its ends, a constant column to 0."""
    scaled = np.zeros_like(array)
    for source, target in zip(array.T, scaled.T, strict=True):
        finite = source[np.isfinite(source)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        # Halves first: high - low may overflow where both are representable.
        span = high / 2 - low / 2
        if span > 0:
            target[:] = (np.clip(source, low, high) / 2 - low / 2) / span
        else:
            target[:] = np.where(np.isfinite(source), 0.5, np.where(source > 0, 1.0, 0.0))
    return scaled
