from dataclasses import dataclass
from typing import final

import numpy as np

from .base import Dataset, DataSource
from .splits import as_split, pooled_split


@final
@dataclass(frozen=True)
class Digits(DataSource):
    """The 1,797 handwritten digits that scikit-learn embeds (Alpaydin and Kaynak 1998), their 17 levels scaled to
    [0, 1]; split 60, 20 and 20 %, stratified."""

    description: str = "handwritten digits, 1 x 8 x 8 in [0, 1], 10 classes; 1,079 + 359 + 359 (in scikit-learn)"

    def load(self, name: str, data_dir: str | None) -> Dataset:
        from sklearn.datasets import load_digits

        pool = load_digits()
        x = (pool.images / 16).astype(np.float32)[:, None]
        y = pool.target.astype(np.int64)
        train, validation, test = (as_split(x[part], y[part]) for part in pooled_split(y))
        return Dataset(name, train, validation, test, classes=10, description=self.description)
