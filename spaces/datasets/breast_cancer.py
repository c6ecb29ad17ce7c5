from dataclasses import dataclass
from typing import final

import numpy as np

from .base import Dataset, DataSource
from .scaling import min_max_scaled
from .splits import as_split, pooled_split


@final
@dataclass(frozen=True)
class BreastCancer(DataSource):
    """The Wisconsin diagnostic table (Street et al. 1993) that scikit-learn embeds, each feature brought to [0, 1] by
    the training split's minimum and maximum (others clipped); split 60, 20 and 20 %, stratified."""

    description: str = "Wisconsin diagnostic table, 30 features in [0, 1], 2 classes; 341 + 114 + 114 (in scikit-learn)"

    def load(self, name: str, data_dir: str | None) -> Dataset:
        from sklearn.datasets import load_breast_cancer

        pool = load_breast_cancer()
        y = pool.target.astype(np.int64)
        parts = pooled_split(y)
        scaled = min_max_scaled([pool.data[part] for part in parts])
        train, validation, test = (as_split(x, y[part]) for x, part in zip(scaled, parts, strict=True))
        labels = tuple(str(label) for label in pool.target_names)
        return Dataset(name, train, validation, test, classes=2, labels=labels, description=self.description)
