from dataclasses import dataclass
from typing import final

import numpy as np

from .base import Dataset, DataSource, MissingDataError
from .scaling import min_max_scaled
from .splits import as_split, pooled_split


@final
@dataclass(frozen=True)
class TimeSeries(DataSource):
    """Windows `(channels, length)` of the UCR and UEA archives (Dau et al. 2018; Bagnall et al. 2018) in aeon.

    The archives' own two parts are pooled and split again, 60, 20 and 20 % and stratified, as they have no validation
    part. Each channel is brought to [0, 1] by the training split's minimum and maximum (others clipped).

    Attributes:
        loader: the function of `aeon.datasets`.
    """

    description: str
    loader: str

    def load(self, name: str, data_dir: str | None) -> Dataset:
        try:
            from aeon import datasets
        except ImportError as error:
            raise MissingDataError(
                f"data set {name!r} comes with the package aeon ({error}): pip install 'sparsevlr[sensors]'"
            ) from error
        windows, archive_labels = getattr(datasets, self.loader)()
        found, y = np.unique(np.asarray(archive_labels).astype(str), return_inverse=True)
        parts = pooled_split(y.astype(np.int64))
        scaled = min_max_scaled([windows[part] for part in parts], over=(0, 2))
        train, validation, test = (as_split(x, y[part]) for x, part in zip(scaled, parts, strict=True))
        labels = tuple(str(label) for label in found)
        return Dataset(name, train, validation, test, classes=len(found), labels=labels, description=self.description)
