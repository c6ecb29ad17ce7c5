"""Reading the user's own files, of formats that hold data only."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SpecError
from ..suggest import closest, listed
from ..usercode import described

SPLIT_COLUMN = "split"
SPLITS = ("train", "validation", "test")


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; never a pickled object, which could run code.

    Raises:
        SpecError: truncated, corrupt, or with objects in it.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise SpecError(
            f"data file {path} ({path.stat().st_size} bytes) is no .npz file of plain arrays, or truncated or corrupt "
            f"({described(error)})"
        ) from error


def read_parquet(path: Path, target: str) -> dict[str, NDArray[Any]]:
    """The arrays x and y of a table with one row a sample, or x_train, y_train, ... where it has a column `split`.

    All columns but these two are features, the index of a table that pandas wrote excepted.

    Raises:
        SpecError: truncated or corrupt, no column `target`, missing values, or features that are no numbers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SpecError(
            f"data file {path} ({path.stat().st_size} bytes) is no Parquet file, or truncated or corrupt "
            f"({described(error)})"
        ) from error
    if target not in table.column_names:
        raise SpecError(
            f"data file {path} has no column {target!r} for the labels{closest(target, table.column_names)} "
            f"(it has: {listed(table.column_names[:20])}); name it as data_options.target"
        )
    # pandas stores the index of a table that was sorted or shuffled, which may well tell the labels.
    index = [name for name in _index_columns(table.schema) if name not in (target, SPLIT_COLUMN)]
    table = table.drop_columns([name for name in table.column_names if name in index])
    for name in table.column_names:
        if table[name].null_count:
            raise SpecError(
                f"data file {path}: {table[name].null_count} missing values in column {name!r}; fill or drop them"
            )
    features = [name for name in table.column_names if name not in (target, SPLIT_COLUMN)]
    for name in features:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise SpecError(f"data file {path}: column {name!r} must hold numbers, got {kind}; encode or drop it")
    if not features:
        raise SpecError(f"data file {path} has no feature columns beside {target!r}")
    x = np.stack([np.asarray(table[name].to_numpy(), dtype=np.float64) for name in features], axis=1)
    y = table[target].to_numpy()
    y = y.astype(str) if y.dtype == object else y
    if SPLIT_COLUMN not in table.column_names:
        return {"x": x, "y": y}
    split = table[SPLIT_COLUMN].to_numpy().astype(str)
    if unknown := sorted(set(split) - set(SPLITS)):
        raise SpecError(
            f"data file {path}: column {SPLIT_COLUMN!r} must hold {listed(SPLITS)}, got {str(unknown[0])!r}"
        )
    parts = [part for part in SPLITS if part in split]
    return {f"x_{part}": x[split == part] for part in parts} | {f"y_{part}": y[split == part] for part in parts}


def _index_columns(schema: Any) -> list[str]:
    """The columns that pandas says it has stored an index in; what is no such saying names none."""
    try:
        columns = (schema.pandas_metadata or {}).get("index_columns")
    except (ValueError, AttributeError, RecursionError):
        return []
    return [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []
