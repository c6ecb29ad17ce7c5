"""What every data set promises; those that are not on this machine are skipped with the reason."""

import functools

import numpy as np
import pytest

from sparsevlr.spaces import DATASETS, PRESETS, Dataset, MissingDataError, SpecError, load_dataset, load_spec

pytestmark = pytest.mark.parametrize("name", DATASETS)


@functools.cache
def loaded(name: str) -> Dataset | str:
    try:
        return load_dataset(name)
    except MissingDataError as error:
        return str(error)


def available(name: str) -> Dataset:
    dataset = loaded(name)
    if isinstance(dataset, str):
        pytest.skip(dataset)
    return dataset


def test_is_described(name: str) -> None:
    assert DATASETS[name].description
    assert "\n" not in DATASETS[name].description


def test_splits_have_one_form(name: str) -> None:
    dataset = available(name)

    assert dataset.name == name
    for split in dataset.splits().values():
        assert split.x.dtype == np.float32
        assert split.y.dtype == np.int64
        assert split.x.shape == (len(split), *dataset.shape)
        assert split.x.flags.c_contiguous


def test_inputs_fill_the_stated_range(name: str) -> None:
    dataset = available(name)

    assert (dataset.low, dataset.high) == (0.0, 1.0)
    for split in dataset.splits().values():
        assert split.x.min() >= 0
        assert split.x.max() <= 1
    # A forgotten division by 255, or one too many, would still lie in range or be refused; this tells them apart.
    assert dataset.train.x.min() == 0
    assert dataset.train.x.max() == 1


def test_every_class_is_in_every_split(name: str) -> None:
    dataset = available(name)

    for split in dataset.splits().values():
        assert set(np.unique(split.y)) == set(range(dataset.classes))
    assert len(dataset.labels) in (0, dataset.classes)


def test_validation_is_stratified_as_train(name: str) -> None:
    dataset = available(name)
    shares = [np.bincount(split.y) / len(split) for split in (dataset.train, dataset.validation)]

    assert np.abs(shares[0] - shares[1]).max() <= 1.5 / len(dataset.validation)


def test_splits_share_no_sample(name: str) -> None:
    dataset = available(name)
    seen: dict[bytes, str] = {}
    shared = 0
    for split_name, split in dataset.splits().items():
        step = max(1, len(split) // 2_000)
        for row in split.x[::step]:
            shared += seen.setdefault(row.tobytes(), split_name) != split_name
    # The published sets themselves hold a few equal pictures in train and test.
    assert shared <= 1e-3 * len(seen)


def test_description_states_the_sizes(name: str) -> None:
    dataset = available(name)

    for split in dataset.splits().values():
        assert f"{len(split):,}" in dataset.description


def test_fits_its_presets(name: str) -> None:
    specs = [spec for spec in map(load_spec, PRESETS) if spec.data == name]
    if not specs:
        pytest.skip(f"there is no preset for {name}")
    for spec in specs:
        spec.check_against(available(name))


def test_refuses_options_it_has_not(name: str) -> None:
    with pytest.raises(SpecError, match=f"data set '{name}' has no option 'scale'"):
        load_dataset(name, options={"scale": 255})
