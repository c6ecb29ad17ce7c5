"""Splits, scaling, and data of the user's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.spaces import Dataset, MissingDataError, SpecError, Split, load_dataset
from sparsevlr.spaces.datasets.scaling import min_max_scaled
from sparsevlr.spaces.datasets.splits import pooled_split, stratified

RNG = np.random.default_rng(1)
X = RNG.random((50, 4))
Y = np.arange(50) % 3


@given(st.lists(st.integers(0, 4), min_size=10, max_size=200), st.data())
def test_stratified_parts_are_disjoint_exact_and_balanced(labels: list[int], data: st.DataObject) -> None:
    y = np.array(labels, np.int64)
    first = data.draw(st.integers(0, len(y)))
    second = data.draw(st.integers(0, len(y) - first))
    parts = stratified(y, (first, second))

    assert [len(part) for part in parts] == [first, second]
    assert len(set(np.concatenate(parts).tolist())) == first + second
    for label in np.unique(y):
        expected = first * np.mean(y == label)
        # Every class sits at its own midpoints, so a cut misses a class's share by a sample at most, two with ties.
        assert abs(np.sum(y[parts[0]] == label) - expected) <= 2


def test_every_prefix_of_a_part_is_stratified() -> None:
    y = np.repeat(np.arange(5), 100)
    part = stratified(y, (250,))[0]

    for size in (50, 100, 150):
        assert np.abs(np.bincount(y[part[:size]], minlength=5) - size / 5).max() <= 1


def test_splits_never_change() -> None:
    """Figures of different versions compare only while their splits are the same."""
    train, validation, test = pooled_split(np.arange(20) % 2)

    assert test.tolist() == [14, 1, 6, 13]
    assert validation.tolist() == [8, 17, 3, 4]
    assert sorted([*train, *validation, *test]) == list(range(20))


def test_scaling_is_learnt_on_train_alone() -> None:
    train, other = np.array([[0.0, 5.0], [10.0, 5.0]]), np.array([[-3.0, 4.0], [5.0, 6.0], [99.0, 5.0]])
    scaled = min_max_scaled([train, other])

    assert scaled[0].tolist() == [[0, 0], [1, 0]]
    assert scaled[1].tolist() == [[0, 0], [0.5, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.bool_, np.float16])
def test_scaling_is_of_the_numbers_not_of_their_type(dtype: Any) -> None:
    ends = (0, 1) if dtype is np.bool_ else (11, 250) if dtype in (np.uint8, np.uint64) else (-20_000, 20_000)
    train, other = np.array([[ends[0]], [ends[1]]]), np.array([[ends[0] // 2], [sum(ends) // 2]])
    scaled = min_max_scaled([train.astype(dtype), other.astype(dtype)])
    wanted = min_max_scaled([train.astype(dtype).astype(float), other.astype(dtype).astype(float)])
    assert all(np.array_equal(one, two) for one, two in zip(scaled, wanted, strict=True))
    assert scaled[0].ravel().tolist() == [0, 1]


def test_scaling_by_channel() -> None:
    series = np.array([[[0.0, 1.0], [10.0, 30.0]], [[2.0, 4.0], [20.0, 50.0]]])

    assert min_max_scaled([series], over=(0, 2))[0].tolist() == [[[0, 0.25], [0, 0.5]], [[0.5, 1], [0.25, 1]]]


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


def test_npz_pool(tmp_path: Path) -> None:
    dataset = load_dataset(npz(tmp_path, x=X, y=Y))

    assert [len(split) for split in dataset.splits().values()] == [30, 10, 10]
    assert (dataset.shape, dataset.classes, dataset.labels) == ((4,), 3, ())
    rows = {row.tobytes(): label for row, label in zip(X.astype(np.float32), Y, strict=True)}
    for split in dataset.splits().values():
        assert all(rows[row.tobytes()] == label for row, label in zip(split.x, split.y, strict=True))


def test_npz_with_its_own_splits(tmp_path: Path) -> None:
    parts = {"x_train": X[:30], "y_train": Y[:30], "x_test": X[30:], "y_test": Y[30:]}
    dataset = load_dataset(npz(tmp_path, **parts))
    assert [len(split) for split in dataset.splits().values()] == [24, 6, 20]
    assert np.array_equal(dataset.test.y, Y[30:])

    parts |= {"x_validation": X[:7], "y_validation": Y[:7]}
    dataset = load_dataset(npz(tmp_path, **parts))
    assert [len(split) for split in dataset.splits().values()] == [30, 7, 20]


def test_npz_is_found_in_the_data_directory(tmp_path: Path) -> None:
    npz(tmp_path, x=X, y=Y)
    assert load_dataset("own.npz", data_dir=str(tmp_path)).classes == 3
    with pytest.raises(MissingDataError, match=r"data file 'absent\.npz' was not found \(looked in \., "):
        load_dataset("absent.npz", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["cat", "dog"])[np.arange(50) % 2], ("cat", "dog")),
        (np.arange(50) % 2 * 4 + 3, ("3", "7")),
        ((np.arange(50) % 2).astype(float), ()),
        (np.arange(50) % 2 - 1, ("-1", "0")),
        (np.arange(50) % 2 == 1, ("False", "True")),
    ],
)
def test_labels_are_numbered_in_sorted_order(tmp_path: Path, labels: Any, names: tuple[str, ...]) -> None:
    dataset = load_dataset(npz(tmp_path, x=X, y=labels))

    assert dataset.labels == names
    assert set(dataset.train.y) == {0, 1}
    first = {row.tobytes(): label for row, label in zip(X.astype(np.float32), labels, strict=True)}
    ordered = sorted(set(labels.tolist()))
    assert all(
        ordered[number] == first[row.tobytes()] for row, number in zip(dataset.train.x, dataset.train.y, strict=True)
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.where(X > 0.9, np.nan, X), "y": Y}, r"\d+ of 200 input values are missing or infinite"),
        ({"x": X * 255, "y": Y}, r"inputs must lie in \[0, 1\], got .* data_options\.scale"),
        ({"x": X, "y": Y + 0.5}, "labels must be one whole number or text a sample"),
        ({"x": X, "y": np.full(50, np.nan)}, "labels must be one whole number or text a sample"),
        ({"x": X, "y": np.where(Y == 2, np.inf, Y)}, "labels must be one whole number or text a sample"),
        ({"x": X, "y": Y[:, None]}, "labels must be one whole number or text a sample"),
        ({"x": X, "y": Y[:49]}, "50 inputs but 49 labels"),
        ({"x": X[:0], "y": Y[:0]}, "0 inputs but 0 labels"),
        ({"x": X, "y": Y * 0}, "at least 2 classes, got 1"),
        ({"x": X[:, 0], "y": Y}, r"inputs must be numbers of shape \(n, \.\.\.\)"),
        ({"x": X.astype(str), "y": Y}, "inputs must be numbers"),
        ({"images": X, "labels": Y}, "must hold the arrays x and y, .* found images, labels"),
        ({"x_train": X, "y_train": Y}, "must hold the arrays x and y"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "label 3 does not occur in training"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, r"test split: inputs have shape \(2,\)"),
        ({"x": np.array([{}] * 50), "y": Y}, r"no \.npz file of plain arrays"),
    ],
)
def test_unusable_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = npz(tmp_path, **arrays)
    with pytest.raises(SpecError, match=message) as caught:
        load_dataset(path)
    assert "own.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("keep", [0, 30, -20])
def test_truncated_own_file(tmp_path: Path, ending: str, keep: int) -> None:
    path = tmp_path / f"own.{ending}"
    if ending == "npz":
        npz(tmp_path, x=X, y=Y)
    else:
        pq.write_table(pa.table({"a": X[:, 0], "label": Y}), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpecError, match=rf"own\.{ending} \(\d+ bytes\) is no .* truncated or corrupt"):
        load_dataset(str(path))


def test_scale_range_and_shape_options(tmp_path: Path) -> None:
    path = npz(tmp_path, x=X * 255, y=Y)
    assert np.allclose(np.sort(load_dataset(path, options={"scale": 255}).train.x.ravel())[-1], X.max(), atol=0.2)

    scaled = load_dataset(path, options={"scale": "minmax", "shape": [2, 2]})
    assert scaled.shape == (2, 2)
    assert (scaled.train.x.min(), scaled.train.x.max()) == (0, 1)

    wide = load_dataset(path, options={"low": -1, "high": 300})
    assert (wide.low, wide.high) == (-1, 300)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.3), (0.1, 0.6), (-0.6, -0.1)])
def test_the_ends_of_a_range_belong_to_it_whatever_float32_makes_of_them(
    tmp_path: Path, low: float, high: float
) -> None:
    x = np.clip(low + (high - low) * X, low, high)
    x[::2] = low, high, low, high
    dataset = load_dataset(npz(tmp_path, x=x, y=Y), options={"low": low, "high": high})
    for split in dataset.splits().values():
        assert low <= float(split.x.min()) <= low + 1e-6
        assert high - 1e-6 <= float(split.x.max()) <= high
    x[0, 0] = high + 1e-6
    with pytest.raises(SpecError, match="inputs must lie in"):
        load_dataset(npz(tmp_path, x=x, y=Y), options={"low": low, "high": high})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale must be a number above 0 or minmax, got 0"),
        ({"scale": "max"}, "scale must be a number above 0 or minmax"),
        ({"scale": "minmax", "high": 2}, "leave out low and high"),
        ({"low": 1, "high": 1}, "low < high"),
        ({"low": "a"}, "low < high"),
        ({"shape": [3, 3]}, r"shape \[3, 3\] does not fit inputs of shape \(4,\)"),
        ({"shape": 4}, "shape must be a list"),
        ({"sacle": 2}, "no option 'sacle'; did you mean 'scale'"),
    ],
)
def test_impossible_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_dataset(npz(tmp_path, x=X, y=Y), options=options)


def table(**columns: Any) -> pa.Table:
    return pa.table({"a": X[:, 0], "b": X[:, 1], "label": Y} | columns)


def load_table(folder: Path, content: pa.Table, **options: Any) -> Dataset:
    pq.write_table(content, folder / "own.parquet")
    return load_dataset(str(folder / "own.parquet"), options=options)


def test_parquet(tmp_path: Path) -> None:
    assert load_table(tmp_path, table()).shape == (2,)
    named = load_table(tmp_path, table(kind=[f"k{label}" for label in Y]).drop(["label"]), target="kind")
    assert named.labels == ("k0", "k1", "k2")


@pytest.mark.parametrize("name", [None, "row"])
def test_an_index_of_pandas_is_no_feature(tmp_path: Path, name: str | None) -> None:
    frame = table().to_pandas().sample(frac=1, random_state=0)
    frame.index = [None, *frame.index[1:]]
    frame = frame.rename_axis(name)
    frame.to_parquet(tmp_path / "own.parquet")
    assert len(pq.read_schema(tmp_path / "own.parquet").names) == 4
    assert load_dataset(str(tmp_path / "own.parquet")).shape == (2,)


@pytest.mark.parametrize(
    "metadata",
    [
        "[",
        "[" * 100_000,
        "[1]",
        '{"index_columns": 3}',
        '{"index_columns": null}',
        '{"index_columns": "a"}',
        '{"index_columns": [{"kind": "range"}]}',
    ],
    ids=lambda metadata: metadata[:40],
)
def test_metadata_that_names_no_index_takes_no_column_away(tmp_path: Path, metadata: str) -> None:
    assert load_table(tmp_path, table().replace_schema_metadata({"pandas": metadata})).shape == (2,)


def test_parquet_with_its_own_splits(tmp_path: Path) -> None:
    split = ["train"] * 30 + ["validation"] * 5 + ["test"] * 15
    dataset = load_table(tmp_path, table(split=split))

    assert [len(part) for part in dataset.splits().values()] == [30, 5, 15]
    assert np.array_equal(dataset.test.x, X[35:, :2].astype(np.float32))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"b": [None, *X[1:, 1]]}, {}, "1 missing values in column 'b'"),
        ({"b": ["x"] * 50}, {}, "column 'b' must hold numbers, got string"),
        ({}, {"target": "lable"}, "has no column 'lable' for the labels; did you mean 'label'"),
        ({"split": ["held-out"] * 50}, {}, "must hold train, validation, test, got 'held-out'"),
    ],
)
def test_unusable_tables(tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_table(tmp_path, table(**columns), **options)


def test_own_function_runs_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_module.py").write_text(
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from sparsevlr.spaces import load_dataset\n"
        "Path('imported').touch()\n"
        "def arrays(n=20): return {'x': np.linspace(0, 1, n * 2).reshape(n, 2), 'y': np.arange(n) % 2}\n"
        "def made(): return load_dataset('breast-cancer')\n"
        "def nothing(): return None\n"
        "def ragged(): return {'x': [[0.5], [0.5, 0.5]], 'y': [0, 1]}\n"
        "def fails(): raise OSError('gone')\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"data set 'own_data_module:arrays' would run code .*--allow-code"):
        load_dataset("own_data_module:arrays")
    assert not Path("imported").exists()

    dataset = load_dataset("own_data_module:arrays", options={"n": 40}, allow_code=True)
    assert [len(split) for split in dataset.splits().values()] == [24, 8, 8]
    assert load_dataset("own_data_module:made", allow_code=True).classes == 2
    with pytest.raises(SpecError, match=r"must return .* got NoneType"):
        load_dataset("own_data_module:nothing", allow_code=True)
    with pytest.raises(SpecError, match=r"failed with ValueError: .*inhomogeneous"):
        load_dataset("own_data_module:ragged", allow_code=True)
    with pytest.raises(SpecError, match="failed with OSError: gone"):
        load_dataset("own_data_module:fails", allow_code=True)


def test_places_that_cannot_be_looked_in_are_told() -> None:
    with pytest.raises(SpecError, match=r"cannot be looked for in ~nobody-here: .* give the whole path"):
        load_dataset("fashion-mnist", data_dir="~nobody-here")
    with pytest.raises(SpecError, match=r"cannot be looked for in ~nobody-here/x\.npz"):
        load_dataset("~nobody-here/x.npz")
    with pytest.raises(SpecError, match="cannot be read: File name too long"):
        load_dataset("x" * 300 + ".npz")


def test_a_user_without_a_home_may_have_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert load_dataset(npz(tmp_path, x=X, y=Y)).shape == (4,)


def test_unknown_name_is_told_with_the_closest() -> None:
    with pytest.raises(SpecError, match=r"unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'\?"):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[np.nan], [1.0]], [0, 1], "1 of 2 values are missing or infinite"),
        ([[np.inf], [1.0]], [0, 1], "1 of 2 values are missing or infinite"),
        ([[1.5], [1.0]], [0, 1], r"inputs must lie in \[0, 1\], got 1 to 1.5"),
        ([[0.5], [1.0]], [0, 2], "labels must be 0 to 1, got 0 to 2"),
        ([[0.5], [1.0]], [-1, 0], "labels must be 0 to 1, got -1 to 0"),
        (np.zeros((0, 1)), [], "there are no samples"),
    ],
)
def test_dataset_refuses_unusable_splits(x: Any, y: list[int], message: str) -> None:
    good = Split(np.zeros((2, 1), np.float32), np.array([0, 1]))
    bad = Split(np.array(x, np.float32), np.array(y, np.int64))
    with pytest.raises(SpecError, match=message):
        Dataset("d", good, bad, good, classes=2)


def test_dataset_refuses_a_range_turned_around() -> None:
    split = Split(np.zeros((2, 1), np.float32), np.array([0, 1]))
    with pytest.raises(SpecError, match="low < high"):
        Dataset("d", split, split, split, classes=2, low=1.0, high=0.0)
    with pytest.raises(TypeError, match="float32"):
        Split(np.zeros((2, 1)), np.array([0, 1]))
