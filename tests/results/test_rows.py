import csv
import io
import json
import math

import pytest

from sparsevlr.results import QueryError, Record
from sparsevlr.results.record import COLUMNS, to_table
from sparsevlr.results.rows import format_rows

TABLE = to_table(
    [
        Record(event="report", trial_id="a", rung=1, split="test", sparsity=math.nan, macs=3, verified_auc=math.inf),
        Record(event="failed", trial_id="b", error='said "no",\nthen ü'),
    ]
)


def test_json_is_an_array_of_objects_and_strict():
    rows = json.loads(format_rows(TABLE, "json"), parse_constant=lambda name: pytest.fail(name))
    assert [list(row) for row in rows] == [list(COLUMNS)] * 2
    assert (rows[0]["sparsity"], rows[0]["verified_auc"], rows[0]["macs"]) == (None, None, 3)
    assert rows[1]["error"] == 'said "no",\nthen ü'
    assert json.loads(format_rows(TABLE.slice(0, 0), "json")) == []


def test_csv_reads_back():
    rows = list(csv.DictReader(io.StringIO(format_rows(TABLE, "csv"), newline="")))
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["macs"], rows[0]["sparsity"], rows[1]["error"]) == ("3", "", 'said "no",\nthen ü')


def test_other_formats_are_refused():
    with pytest.raises(QueryError, match="json or csv; got 'xml'"):
        format_rows(TABLE, "xml")
