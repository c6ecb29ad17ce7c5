"""What reports say of single layers, as a table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .errors import QueryError
from .untrusted import parse_json

MEASURES = (
    "density",
    "live_units",
    "gradient_norm",
    "pruned_gradient_norm",
    "unstable_relu_fraction",
    "dead_relu_fraction",
    "bound_tightness",
)
"""Of convolutions and linear layers the first four, of ReLUs the others."""

_OF_REPORT = ("trial_id", "state", "rung", "epoch")
LAYER_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("state", pa.string()),
        ("rung", pa.int64()),
        ("epoch", pa.int64()),
        ("layer", pa.string()),
        *((name, pa.float64()) for name in MEASURES),
    ]
)


def layer_table(reports: pa.Table) -> pa.Table:
    """One row per report and layer, with `LAYER_SCHEMA`; reports in their order, layers in that of the network.

    Raises:
        QueryError: `layer_measures` or `layer_densities` of a report does not hold numbers by layer.
    """
    rows: list[dict[str, Any]] = []
    for report in reports.select([*_OF_REPORT, "layer_measures", "layer_densities"]).to_pylist():
        measures, densities = _object(report, "layer_measures"), _object(report, "layer_densities")
        for layer in dict.fromkeys([*measures, *densities]):
            row = {name: report[name] for name in _OF_REPORT} | {"layer": layer}
            found = measures.get(layer, {})
            if not isinstance(found, dict):
                raise _wrong(report, "layer_measures", found)
            found = {"density": densities.get(layer)} | found
            for name in MEASURES:
                value = found.get(name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise _wrong(report, name, value)
                try:
                    row[name] = None if value is None else float(value)
                except OverflowError:
                    raise _wrong(report, name, "a number of too many digits") from None
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=LAYER_SCHEMA)


def _object(report: dict[str, Any], column: str) -> dict[str, Any]:
    text = report[column]
    if text is None:
        return {}
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _wrong(report, column, text)
    return value


def _wrong(report: dict[str, Any], name: str, value: Any) -> QueryError:
    return QueryError(
        f"{name} of trial {report['trial_id']}, rung {report['rung']}, must hold numbers by layer; got "
        f"{value!r:.80}: leave the trial out, with --where"
    )
