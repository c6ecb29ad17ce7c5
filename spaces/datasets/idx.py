import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from .base import Dataset, DataSource
from .files import check_size, find_files, read_bytes
from .splits import as_unit_images, held_out_validation

PUBLISHED_LABELS = {"657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": "fashion-mnist"}
"""SHA-256 of the training labels: MNIST's files and those of its drop-in replacements have the same names and sizes."""
PUBLISHED_SAMPLES = 60_000
"""Of the training set."""

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@final
@dataclass(frozen=True)
class IdxImages(DataSource):
    """Grey images in the four IDX files of MNIST (LeCun et al. 1998), plain or gzip.

    The published test set is the test split; a fixed, stratified part of the published training set is validation.

    Attributes:
        folders: sub-folders in which the files are commonly kept.
        remedy: how to get them.
        validation: samples of the validation split.
    """

    description: str
    folders: tuple[str, ...]
    remedy: str
    validation: int = 5_000

    def load(self, name: str, data_dir: str | None) -> Dataset:
        paths = find_files(name, FILES, self.folders, data_dir, remedy=self.remedy)
        images, labels, test_images, test_labels = (
            read_idx(path, dimensions) for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
        )
        really = PUBLISHED_LABELS.get(sha256(labels.tobytes()).hexdigest())
        if really not in (None, name):
            raise SpecError(f"data file {paths[1]} belongs to {really!r}, not to {name!r}: use data: {really}")
        if really is None and name in PUBLISHED_LABELS.values() and len(labels) == PUBLISHED_SAMPLES:
            raise SpecError(
                f"data file {paths[1]} does not hold the labels of {name!r} as published, but perhaps those of a data "
                f"set whose files have the same names: pass another directory as --data-dir, or get it again"
            )
        for path, found, expected in ((paths[1], labels, images), (paths[3], test_labels, test_images)):
            check_size(path, len(found), len(expected), "labels, one an image")
        if not self.validation < len(images):
            raise SpecError(f"data file {paths[0]} has {len(images)} images, but {self.validation} are for validation")
        train, validation = held_out_validation(images[:, None], labels.astype(np.int64), self.validation)
        return Dataset(
            name=name,
            train=as_unit_images(*train),
            validation=as_unit_images(*validation),
            test=as_unit_images(test_images[:, None], test_labels),
            classes=10,
            description=self.description,
        )


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file as an array of that many dimensions.

    Raises:
        SpecError: another format, or other than the number of bytes that its header promises.
    """
    content = read_bytes(path)
    header = 4 + 4 * dimensions
    # Two zero bytes, the type (8 = unsigned byte), the number of dimensions; then each size, big-endian.
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise SpecError(
            f"data file {path} is no IDX file of {dimensions}-dimensional bytes: "
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected {bytes((0, 0, 8, dimensions)).hex(' ')}"
        )
    sizes = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    check_size(path, len(content), header + math.prod(sizes))
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)
