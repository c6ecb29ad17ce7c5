"""What a data set is, and what a source of one does."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class MissingDataError(SpecError):
    """A data set's files or package are not on this machine; the message says where to get them."""


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Inputs `x`, float32 `(n, *shape)`, with their classes `y`, int64 `(n,)`."""

    x: Floats
    y: Labels

    def __post_init__(self) -> None:
        if self.x.dtype != np.float32 or self.y.dtype != np.int64:
            raise TypeError(f"a split holds float32 inputs and int64 labels, got {self.x.dtype} and {self.y.dtype}")
        if self.y.ndim != 1 or len(self.x) != len(self.y):
            raise SpecError(
                f"inputs and labels must be equally many, got shapes {self.x.shape} and {self.y.shape}: "
                "check that they come from the same files"
            )

    def __len__(self) -> int:
        return len(self.y)


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint, fixed splits: train; validation, which the search decides on; test, measured once at the end.

    Inputs lie in `[low, high]`; epsilon is in those units, and boxes are clipped to that range.

    Raises:
        SpecError: empty splits, splits of different shapes, missing values, inputs out of range, or labels outside
            0..classes-1.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    low: float = 0.0
    high: float = 1.0
    labels: tuple[str, ...] = ()
    """What each class stands for, in the source's own words; empty where the class number is its name."""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise SpecError(
                f"data set {self.name!r}: the input range must have low < high, got {self.low}, {self.high}"
            )
        if self.classes < 2:
            raise SpecError(f"data set {self.name!r}: a classifier needs at least 2 classes, got {self.classes}")
        for split_name, split in self.splits().items():
            self._check(split_name, split)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return self.train.x.shape[1:]

    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def _check(self, split_name: str, split: Split) -> None:
        where = f"data set {self.name!r}, {split_name} split"
        if len(split) == 0:
            raise SpecError(f"{where}: there are no samples, but every split needs at least one")
        if split.x.shape[1:] != self.shape:
            raise SpecError(f"{where}: inputs have shape {split.x.shape[1:]}, but in training {self.shape}")
        # Extremes carry NaN along, so two passes check range and completeness at once.
        smallest, largest = float(split.x.min()), float(split.x.max())
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            missing = int(np.count_nonzero(~np.isfinite(split.x)))
            raise SpecError(
                f"{where}: {missing} of {split.x.size} values are missing or infinite; "
                "fill them in or leave those samples out"
            )
        if smallest < self.low or largest > self.high:
            raise SpecError(
                f"{where}: inputs must lie in [{self.low:g}, {self.high:g}], got {smallest:g} to {largest:g}; "
                "for a file of your own set data_options.scale (255 for bytes, or minmax), or low and high"
            )
        if split.y.min() < 0 or split.y.max() >= self.classes:
            raise SpecError(f"{where}: labels must be 0 to {self.classes - 1}, got {split.y.min()} to {split.y.max()}")


class DataSource(ABC):
    """One data set as it is found on a machine; its dataclass fields say where."""

    description: str

    @abstractmethod
    def load(self, name: str, data_dir: str | None) -> Dataset:
        """Read, split and scale. `data_dir` is looked in first.

        Raises:
            MissingDataError: the files or the package are not there.
            SpecError: they are, but truncated, corrupt or inconsistent.
        """
