"""Data sets of the user's own: an .npz or Parquet file, or a function."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from ..suggest import listed
from ..usercode import described, resolve
from .base import Dataset, Floats, Labels, Split
from .own_files import read_npz, read_parquet
from .scaling import min_max_scaled
from .splits import VALIDATION_FRACTION, as_split, pooled_split, stratified

Parts = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""Inputs and labels as the user has them, under `pool`, or under `train`, `test` and perhaps `validation`."""

MOST_VALIDATION = 5_000


@final
@dataclass(frozen=True)
class OwnOptions:
    """The data_options of an .npz or Parquet file.

    Attributes:
        target: Parquet: the column of labels. All others are features, but for one named `split` and pandas' index.
        scale: what inputs are divided by, or `minmax`: each feature by the training split's minimum and maximum.
        low, high: the range that inputs lie in, after `scale`; epsilon is in those units.
        shape: the shape of one input, where it is not the array's own: [channels, height, width] or
            [channels, length] or [features].
    """

    target: str = "label"
    scale: float | str | None = None
    low: float = 0.0
    high: float = 1.0
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool) and self.scale > 0
        if not (self.scale is None or self.scale == "minmax" or number):
            raise SpecError(f"data_options.scale must be a number above 0 or minmax, got {self.scale!r}")
        if self.scale == "minmax" and (self.low, self.high) != (0.0, 1.0):
            raise SpecError("data_options.scale minmax brings inputs to [0, 1]: leave out low and high")
        bounds = (self.low, self.high)
        if not all(isinstance(b, int | float) and np.isfinite(b) for b in bounds) or not self.low < self.high:
            raise SpecError(f"data_options low and high must be numbers with low < high, got {bounds}")
        if self.shape is not None:
            shape = self.shape
            if not isinstance(shape, list | tuple) or not all(isinstance(n, int) and n > 0 for n in shape):
                raise SpecError(f"data_options.shape must be a list of 1 to 3 whole numbers, got {shape!r}")
            object.__setattr__(self, "shape", tuple(shape))


OWN_OPTIONS = tuple(OwnOptions.__dataclass_fields__)


def load_file(path: Path, options: OwnOptions) -> Dataset:
    """A data set from an .npz file (arrays x and y, or x_train, y_train, ...) or a Parquet table of one row a sample.

    Raises:
        SpecError: another or a broken file, or contents that are no classification data.
    """
    arrays = read_parquet(path, options.target) if path.suffix == ".parquet" else read_npz(path)
    return dataset_of(str(path), parts_of(str(path), arrays), options)


def call_function(reference: str, options: Mapping[str, Any], *, allow_code: bool) -> Dataset:
    """A data set from `module:function`, called with the data_options, that returns a `Dataset` or a mapping of the
    arrays x and y, or x_train, y_train, ..., with inputs in [0, 1].

    Raises:
        SpecError: without `allow_code`, where the function fails, or returns something else.
    """
    function = resolve(reference, allow_code=allow_code, what="data set")
    try:
        made = function(**options)
        if isinstance(made, Mapping):
            made = {str(key): np.asarray(value) for key, value in made.items()}
    except Exception as error:
        raise SpecError(f"data set {reference!r} failed with {described(error)}") from error
    if isinstance(made, Dataset):
        return made
    if not isinstance(made, dict):
        raise SpecError(
            f"data set {reference!r} must return a sparsevlr.spaces.datasets.Dataset, or a mapping with the arrays "
            f"x and y, got {type(made).__name__}"
        )
    return dataset_of(reference, parts_of(reference, made), OwnOptions())


def parts_of(source: str, arrays: Mapping[str, NDArray[Any]]) -> Parts:
    """The arrays x and y, or x_train, y_train, x_test, y_test and perhaps x_validation and y_validation."""
    pairs = {"pool": ("x", "y")} | {part: (f"x_{part}", f"y_{part}") for part in ("train", "validation", "test")}
    parts = {part: (arrays[x], arrays[y]) for part, (x, y) in pairs.items() if x in arrays and y in arrays}
    if set(parts) not in ({"pool"}, {"train", "test"}, {"train", "validation", "test"}):
        raise SpecError(
            f"data set {source} must hold the arrays x and y, or x_train, y_train, x_test and y_test "
            f"(and perhaps x_validation, y_validation), found {listed(arrays) or 'none'}"
        )
    return parts


def dataset_of(source: str, parts: Parts, options: OwnOptions) -> Dataset:
    """Check, split, scale and number the classes of a user's arrays.

    A pool is split 60, 20 and 20 %; where only validation is missing, 20 % of train (5,000 at most) become it. Labels
    that are not 0 to k-1 already are numbered in their sorted order.
    """
    inputs = {part: _inputs(f"data set {source}, {part}", x, options.shape) for part, (x, _) in parts.items()}
    names, labels = _numbered(source, {part: y for part, (_, y) in parts.items()})
    for part, y in labels.items():
        if len(y) != len(inputs[part]) or len(y) == 0:
            raise SpecError(f"data set {source}, {part}: {len(inputs[part])} inputs but {len(y)} labels")
    if "pool" in parts:
        chosen = pooled_split(labels["pool"])
        split = [(inputs["pool"][index], labels["pool"][index]) for index in chosen]
    else:
        if "validation" not in parts:
            size = min(MOST_VALIDATION, round(VALIDATION_FRACTION * len(labels["train"])))
            x, y = inputs["train"], labels["train"]
            for part, index in zip(("validation", "train"), stratified(y, (size, len(y) - size)), strict=True):
                inputs[part], labels[part] = x[index], y[index]
        split = [(inputs[part], labels[part]) for part in ("train", "validation", "test")]
    train, validation, test = _scaled(split, options)
    numbered = names == tuple(str(number) for number in range(len(names)))
    return Dataset(
        name=source,
        train=train,
        validation=validation,
        test=test,
        classes=len(names),
        low=float(options.low),
        high=float(options.high),
        labels=() if numbered else names,
        description=f"your own data from {source}",
    )


def _inputs(where: str, x: NDArray[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    if x.ndim < 2 or not (np.issubdtype(x.dtype, np.number) or x.dtype == np.bool_) or np.iscomplexobj(x):
        raise SpecError(f"{where}: inputs must be numbers of shape (n, ...), got {x.dtype} of shape {x.shape}")
    if not np.isfinite(x).all():
        missing = int(np.count_nonzero(~np.isfinite(x)))
        raise SpecError(f"{where}: {missing} of {x.size} input values are missing or infinite; fill or drop them")
    if shape is None:
        return x
    if np.prod(shape) != np.prod(x.shape[1:]):
        raise SpecError(f"{where}: data_options.shape {list(shape)} does not fit inputs of shape {x.shape[1:]}")
    return x.reshape(len(x), *shape)


def _numbered(source: str, labels: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, ...], dict[str, Labels]]:
    for part, y in labels.items():
        fractional = np.issubdtype(y.dtype, np.floating) and not np.all(np.isfinite(y) & (y == np.round(y)))
        if y.ndim != 1 or fractional or y.dtype == object:
            what = "fractions or missing values" if fractional else f"{y.dtype} of shape {y.shape}"
            raise SpecError(f"data set {source}, {part}: labels must be one whole number or text a sample, got {what}")
    known = np.unique(labels["pool"] if "pool" in labels else labels["train"])
    for part, y in labels.items():
        if unknown := sorted(set(y.tolist()) - set(known.tolist())):
            raise SpecError(f"data set {source}, {part}: label {unknown[0]!r} does not occur in training")
    whole = known.astype(np.int64) if np.issubdtype(known.dtype, np.floating) else known
    return tuple(str(name) for name in whole), {
        part: np.searchsorted(known, y).astype(np.int64) for part, y in labels.items()
    }


def _scaled(split: list[tuple[NDArray[Any], Labels]], options: OwnOptions) -> list[Split]:
    arrays = [x for x, _ in split]
    if options.scale == "minmax":
        arrays = list(min_max_scaled(arrays))
    elif isinstance(options.scale, int | float):
        arrays = [x / options.scale for x in arrays]
    return [
        as_split(_inside(x.astype(np.float32), options.low, options.high), y)
        for x, (_, y) in zip(arrays, split, strict=True)
    ]


def _inside(x: Floats, low: float, high: float) -> Floats:
    """`x`, but what rounding to float32 has carried past an end of the range is the last number before it."""
    for end, beyond, inwards in ((low, np.less, np.inf), (high, np.greater, -np.inf)):
        with np.errstate(over="ignore"):
            rounded = np.float32(end)
        if np.isfinite(rounded) and beyond(float(rounded), end):
            x = np.where(x == rounded, np.nextafter(rounded, np.float32(inwards)), x)
    return x
