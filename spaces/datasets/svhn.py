from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from ..usercode import described
from .base import Dataset, DataSource, Labels
from .files import find_files
from .splits import as_unit_images, held_out_validation

PUBLISHED_BYTES = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}


@final
@dataclass(frozen=True)
class Svhn(DataSource):
    """Street View House Numbers (Netzer et al. 2011), cropped digits, in the published MATLAB files.

    The published test set is the test split; a fixed, stratified part of the training set is validation; the "extra"
    set is not used. The files' label 10 is digit 0.

    Attributes:
        validation: samples of the validation split.
    """

    description: str = "house-number digits, 3 x 32 x 32 in [0, 1], 10 classes; 68,257 + 5,000 + 26,032"
    validation: int = 5_000

    def load(self, name: str, data_dir: str | None) -> Dataset:
        remedy = "download train_32x32.mat and test_32x32.mat from the SVHN home page"
        paths = find_files(name, tuple(PUBLISHED_BYTES), ("svhn", "SVHN"), data_dir, remedy=remedy)
        x, y = read_digits(paths[0])
        if not self.validation < len(x):
            raise SpecError(f"data file {paths[0]} has {len(x)} images, but {self.validation} are for validation")
        train, validation = held_out_validation(x, y, self.validation)
        return Dataset(
            name=name,
            train=as_unit_images(*train),
            validation=as_unit_images(*validation),
            test=as_unit_images(*read_digits(paths[1])),
            classes=10,
            description=self.description,
        )


def read_digits(path: Path) -> tuple[NDArray[np.uint8], Labels]:
    """Images `(n, 3, 32, 32)` and labels 0..9 of one file.

    Raises:
        SpecError: a file that scipy cannot read, with its size and the published one, or one of other contents.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:
        raise SpecError(
            f"data file {path} is truncated or corrupt: expected {PUBLISHED_BYTES.get(path.name)} bytes as published, "
            f"found {path.stat().st_size}, which do not read ({described(error)}); get it again"
        ) from error
    x, y = content.get("X"), content.get("y")
    if x is None or y is None or x.dtype != np.uint8 or x.shape[:3] != (32, 32, 3) or x.shape[-1] != y.size:
        found = {key: value.shape for key, value in content.items() if isinstance(value, np.ndarray)}
        raise SpecError(f"data file {path} must hold bytes X (32, 32, 3, n) and labels y (n, 1), found {found}")
    return x.transpose(3, 2, 0, 1), y.reshape(-1).astype(np.int64) % 10
