"""Masks of a study's trials, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as tensors

from .checkpoints import read_file, read_state
from .errors import QueryError, StorageError
from .location import Location
from .origins import Origins
from .overlap import Overlap, overlap, packed
from .paths import MASK

Masks = Mapping[str, NDArray[np.bool_]]
"""By layer, True where a weight is kept, of the weight's shape."""

OVERLAP_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("trial_a", "trial_b", "common", "layer")),
        *((name, pa.int64()) for name in ("weights", "kept_a", "kept_b", "shared")),
        ("by_chance", pa.float64()),
        *((name, pa.float64()) for name in ("jaccard", "jaccard_by_chance", "overlap", "overlap_by_chance")),
        *((name, pa.float64()) for name in ("agreement", "deviations")),
    ]
)


class KeptCounts(NamedTuple):
    """How many of some trials keep each weight.

    Attributes:
        trials: their ids.
        counts: by layer, int64 of the weight's shape, from 0 to the number of trials.
    """

    trials: tuple[str, ...]
    counts: Mapping[str, NDArray[np.int64]]


def read_mask(location: Location, checkpoint: str) -> Masks:
    """The mask that a checkpoint holds, by the layer names of `layer_densities`, in the order of the network.

    Raises:
        StorageError: the checkpoint is missing, damaged, or holds no mask.
        UnsafePath: the path leads outside the study.
    """
    data = read_file(location, checkpoint, MASK, read_state(location, checkpoint))
    try:
        found = tensors.load(data)
    except SafetensorError as error:
        raise StorageError(f"checkpoint {checkpoint} cannot be read: {MASK}: {error}") from error
    if not found or any(mask.dtype != np.bool_ for mask in found.values()):
        raise StorageError(f"checkpoint {checkpoint} cannot be read: {MASK} must hold booleans")
    layers = {name.rpartition(".")[0]: mask for name, mask in found.items()}
    return {layer: layers[layer] for layer in sorted(layers, key=_place)}


def overlap_table(location: Location, trials: pa.Table, origins: Origins) -> pa.Table:
    """One row per pair of trials of equal layers and shapes, per layer and, with `layer` null, over all layers.

    Args:
        trials: rows of `Study.trials` that have a checkpoint.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    bits: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for trial_id, checkpoint in _with_checkpoint(trials):
        masks = read_mask(location, checkpoint)
        shapes[trial_id] = _shapes(masks)
        bits[trial_id] = {layer: packed(mask) for layer, mask in masks.items()}
    rows: list[dict[str, Any]] = []
    for a, b in combinations(bits, 2):
        if shapes[a] != shapes[b]:
            continue
        named = {"trial_a": a, "trial_b": b, "common": origins.common(a, b)}
        layers = {
            layer: overlap(bits[a][layer], bits[b][layer], int(np.prod(shape))) for layer, shape in shapes[a].items()
        }
        first, *others = layers.values()
        rows += [named | {"layer": layer} | _columns(one) for layer, one in layers.items()]
        rows.append(named | {"layer": None} | _columns(sum(others, start=first)))
    return pa.Table.from_pylist(rows, schema=OVERLAP_SCHEMA)


def kept_counts(location: Location, trials: pa.Table) -> KeptCounts:
    """Counts over trials (rows of `Study.trials`) that have a checkpoint.

    Raises:
        QueryError: there are none, or they are of different layers or shapes.
    """
    counts: dict[str, NDArray[np.int64]] = {}
    counted: list[str] = []
    for trial_id, checkpoint in _with_checkpoint(trials):
        masks = read_mask(location, checkpoint)
        if counted and _shapes(masks) != _shapes(counts):
            raise QueryError(
                f"masks are counted over trials of one architecture, but {counted[0]} and {trial_id} differ in layers "
                "or shapes: choose one with where, such as config.architecture = 'mlp'"
            )
        counted.append(trial_id)
        for layer, mask in masks.items():
            counts[layer] = counts[layer] + mask if layer in counts else mask.astype(np.int64)
    if not counted:
        raise QueryError("no completed trial with a mask matches: ask for others with where, or wait for the study")
    return KeptCounts(tuple(counted), counts)


def _place(layer: str) -> list[tuple[int, str]]:
    """Files have no order; the modules of a sequence are named by their numbers, 10 after 2."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in layer.split(".")]


def _with_checkpoint(trials: pa.Table) -> list[tuple[str, str]]:
    rows = trials.select(["trial_id", "checkpoint"]).to_pylist()
    return [(row["trial_id"], row["checkpoint"]) for row in rows if row["checkpoint"] is not None]


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {layer: array.shape for layer, array in arrays.items()}


def _columns(one: Overlap) -> dict[str, float | None]:
    return {name: getattr(one, name) for name in OVERLAP_SCHEMA.names if hasattr(one, name)}
