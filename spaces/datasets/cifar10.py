from dataclasses import dataclass
from typing import final

import numpy as np

from .base import Dataset, DataSource
from .files import check_size, find_files, read_bytes
from .splits import as_unit_images, held_out_validation

FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32


@final
@dataclass(frozen=True)
class Cifar10(DataSource):
    """CIFAR-10 (Krizhevsky 2009) in its published binary version: records of a label byte and 3 x 32 x 32 pixels.

    The published test batch is the test split; a fixed, stratified part of the training batches is validation.

    Attributes:
        records: records in each file.
        validation: samples of the validation split.
    """

    description: str = "colour photographs, 3 x 32 x 32 in [0, 1], 10 classes; 45,000 + 5,000 + 10,000"
    records: int = 10_000
    validation: int = 5_000

    def load(self, name: str, data_dir: str | None) -> Dataset:
        remedy = "download and extract cifar-10-binary.tar.gz from the CIFAR-10 home page"
        paths = find_files(name, FILES, ("cifar-10-batches-bin", "cifar10", "cifar-10"), data_dir, remedy=remedy)
        contents = [read_bytes(path) for path in paths]
        for path, content in zip(paths, contents, strict=True):
            check_size(path, len(content), self.records * RECORD)
        rows = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, RECORD)
        x, y = rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0].astype(np.int64)
        published = len(x) - self.records
        train, validation = held_out_validation(x[:published], y[:published], self.validation)
        return Dataset(
            name=name,
            train=as_unit_images(*train),
            validation=as_unit_images(*validation),
            test=as_unit_images(x[published:], y[published:]),
            classes=10,
            labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            description=self.description,
        )
