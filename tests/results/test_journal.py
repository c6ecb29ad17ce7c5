import json
import math
import zlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results import Record
from sparsevlr.results.journal import MOST_EVENTS, JournalFile, decode, encode, parse
from sparsevlr.results.parts import from_bytes, to_bytes, to_events
from sparsevlr.results.pieces import EVENT_SCHEMA
from sparsevlr.results.record import COLUMNS

FLOATS = st.floats()
RECORDS = st.builds(
    Record,
    event=st.just("failed"),
    trial_id=st.just("t1"),
    verified_accuracy=st.none() | FLOATS,
    macs=st.none() | st.integers(-(2**63), 2**63 - 1),
    error=st.none() | st.text(),
    time=FLOATS,
)


def same(left, right):
    """Equal with NaN equal to NaN, and -0.0 different from 0.0."""
    return repr(left) == repr(right)


@given(RECORDS, st.integers(0, MOST_EVENTS - 1))
def test_a_line_brings_back_every_bit(record, sequence):
    line = encode(record, sequence)
    assert line.count(b"\n") == 1
    assert line.isascii()
    position, columns = decode(line[:-1])
    assert position == sequence
    assert same({name: columns.get(name) for name in COLUMNS}, record.to_dict())


def test_lines_are_strict_json():
    record = Record(event="failed", trial_id="a", sparsity=math.nan, verified_auc=-math.inf, epsilon=math.inf)
    payload = encode(record, 0)[9:]
    columns = json.loads(payload, parse_constant=lambda name: pytest.fail(name))
    assert [columns[name] for name in ("sparsity", "verified_auc", "epsilon")] == ["NaN", "-Infinity", "Infinity"]


@given(RECORDS, st.data())
def test_a_changed_byte_is_noticed(record, data):
    line = bytearray(encode(record, 3)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(line)) is None


@pytest.mark.parametrize(
    "columns",
    [
        [],
        "text",
        {"trial_id": "a", "event": "failed"},
        {"sequence": True, "trial_id": "a", "event": "failed"},
        {"sequence": 0, "event": "failed"},
        {"sequence": 0, "trial_id": "a", "event": "failed", "macs": 2**63},
        {"sequence": 0, "trial_id": "a", "event": "failed", "sparsity": "high"},
        {"sequence": 0, "trial_id": "a", "event": "failed", "error": {}},
    ],
)
def test_sound_lines_with_unsound_content_are_corrupt(columns):
    payload = json.dumps(columns).encode()
    assert decode(b"%08x %s" % (zlib.crc32(payload), payload)) is None


def test_columns_of_a_newer_version_are_left_out():
    payload = json.dumps({"sequence": 0, "trial_id": "a", "event": "failed", "colour": "red"}).encode()
    assert decode(b"%08x %s" % (zlib.crc32(payload), payload)) == (0, {"trial_id": "a", "event": "failed"})


def test_corruption_is_told_by_file_and_line_and_a_torn_tail_is_not():
    lines = [encode(Record(event="failed", trial_id=f"t{i}"), i) for i in range(3)]
    found = parse(lines[0] + b"\0" * 20 + b"\n" + lines[2] + lines[1][:30], "j.jsonl")
    assert [columns["trial_id"] for _, columns in found.events] == ["t0", "t2"]
    assert found.problems == ["j.jsonl, line 2: corrupt event skipped"]
    assert parse(b"", "j.jsonl") == ([], [])


def test_journal_file_never_takes_over_another(tmp_path):
    file = JournalFile(tmp_path / "j.jsonl")
    file.append([b"a\n", b"b\n"])
    file.close()
    assert (tmp_path / "j.jsonl").read_bytes() == b"a\nb\n"
    with pytest.raises(FileExistsError):
        JournalFile(tmp_path / "j.jsonl")


def test_parts_of_other_versions_open():
    events = to_events([(7, Record(event="failed", trial_id="a", sparsity=math.nan).to_dict())])
    assert from_bytes(to_bytes(events)).schema == EVENT_SCHEMA
    older = events.drop_columns(["data", "verified_auc"])
    newer = older.append_column("colour", pa.array(["red"]))
    read = from_bytes(to_bytes(newer))
    assert read.schema == EVENT_SCHEMA
    assert read["data"].to_pylist() == [None]
    assert read["sequence"].to_pylist() == [7]
