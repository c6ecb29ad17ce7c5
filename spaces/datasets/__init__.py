"""Data sets with fixed, seeded splits and stated input ranges."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..suggest import closest, listed, reject_unknown
from ..usercode import is_reference
from .base import Dataset, DataSource, MissingDataError, Split
from .breast_cancer import BreastCancer
from .cifar10 import Cifar10
from .digits import Digits
from .files import at_home, data_places, is_file
from .idx import IdxImages
from .mnist_5k import Mnist5k
from .own import OWN_OPTIONS, OwnOptions, call_function, load_file
from .svhn import Svhn
from .time_series import TimeSeries

DATASETS: dict[str, DataSource] = {
    "digits": Digits(),
    "mnist-5k": Mnist5k(),
    "mnist": IdxImages(
        description="handwritten digits, 1 x 28 x 28 in [0, 1], 10 classes; 55,000 + 5,000 + 10,000",
        folders=("mnist", "MNIST", "MNIST/raw"),
        remedy="download the four files of MNIST",
    ),
    "fashion-mnist": IdxImages(
        description="clothes, 1 x 28 x 28 in [0, 1], 10 classes; 55,000 + 5,000 + 10,000",
        folders=("fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
        remedy="install the Debian package dataset-fashion-mnist, or download the four files of Fashion-MNIST",
    ),
    "cifar10": Cifar10(),
    "svhn": Svhn(),
    "breast-cancer": BreastCancer(),
    "basic-motions": TimeSeries(
        description="smartwatch motion, 6 channels of 100 in [0, 1], 4 classes; 48 + 16 + 16 (in aeon)",
        loader="load_basic_motions",
    ),
    "italy-power-demand": TimeSeries(
        description="power demand of a day, 1 channel of 24 in [0, 1], 2 classes; 658 + 219 + 219 (in aeon)",
        loader="load_italy_power_demand",
    ),
}

FILE_ENDINGS = (".npz", ".parquet")

__all__ = ["DATASETS", "DataSource", "Dataset", "MissingDataError", "Split", "check_dataset_name", "load_dataset"]


def check_dataset_name(name: str) -> None:
    """Check that `name` is a key of `DATASETS`, ends like a data file, or has the form `module:function`.

    Raises:
        SpecError: otherwise, with the closest known name.
    """
    if name not in DATASETS and not name.endswith(FILE_ENDINGS) and not is_reference(name):
        raise SpecError(
            f"unknown data set {name!r}{closest(name, DATASETS)} "
            f"(known: {listed(DATASETS)}, a path to an .npz or .parquet file, or your own as module:function)"
        )


def load_dataset(
    name: str, *, options: Mapping[str, Any] | None = None, data_dir: str | None = None, allow_code: bool = False
) -> Dataset:
    """Read a data set from this machine; nothing is downloaded.

    Args:
        name: a key of `DATASETS`, a path to an .npz or .parquet file, or `module:function`.
        options: data_options of the spec; built-in data sets have none, files have those of `OwnOptions`, and a
            function is called with them.
        data_dir: directory that is looked in before `$SPARSEVLR_DATA`, `./data` and the system's places.
        allow_code: whether `module:function` may run.

    Raises:
        MissingDataError: files or package are not on this machine.
        SpecError: unknown name or option, broken or inconsistent data, or code that is not allowed.
    """
    check_dataset_name(name)
    options = dict(options or {})
    if name in DATASETS:
        reject_unknown(options, (), f"data set {name!r}")
        return DATASETS[name].load(name, data_dir)
    if not name.endswith(FILE_ENDINGS):
        return call_function(name, options, allow_code=allow_code)
    reject_unknown(options, OWN_OPTIONS, f"data set {name!r}")
    places = [Path(), *data_places(data_dir)]
    for path in (place / at_home(name) for place in places):
        if is_file(path):
            return load_file(path, OwnOptions(**options))
    raise MissingDataError(f"data file {name!r} was not found (looked in {listed(dict.fromkeys(places))})")
