"""Tables as text for programs: JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pyarrow as pa

from .errors import QueryError


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows with plain JSON types; numbers that JSON lacks (NaN, infinities) become None."""
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]


def format_rows(table: pa.Table, format: str) -> str:
    """The table as text that ends with a newline.

    ``json``: an array of objects, one per row, keys are the columns. ``csv``: RFC 4180 with a header line; null is an
    empty field. Raises QueryError for any other format.
    """
    rows = plain_rows(table)
    if format == "json":
        return json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=table.column_names, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    raise QueryError(f"format is json or csv; got {format!r}")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
