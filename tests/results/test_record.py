import dataclasses
import math
import re

import numpy as np
import pyarrow as pa
import pytest

from sparsevlr.results import Record, RecordError, UnsafePath
from sparsevlr.results.record import COLUMNS, DIRECTIONS, RECORD_SCHEMA, canonical_json, from_table, to_table

PUBLIC = re.findall(
    r"\w+",
    """trial_id, state, config, fingerprint, seed, epoch, budget, natural_accuracy, adversarial_accuracy,
    verified_accuracy, verified_low, verified_high, verified_auc, epsilon, split, samples, n_verified, n_falsified,
    n_unknown, sparsity, nonzero_weights, total_weights, macs, size_bytes, unstable_relu_fraction, train_seconds,
    verify_seconds, checkpoint, error, rung, target_sparsity, parent, schema_version""",
)


def test_columns_are_the_public_ones_and_some_more():
    assert list(COLUMNS[: len(PUBLIC)]) == PUBLIC
    assert COLUMNS[len(PUBLIC) :] == (
        *("event", "time", "data", "decision", "shared_seconds", "verified_ramp"),
        *("layer_densities", "other_parameters", "dense_bytes", "bitmask_bytes", "csr_bytes"),
        *("layer_measures", "dense_stage"),
    )
    assert RECORD_SCHEMA.names == list(COLUMNS)
    assert set(DIRECTIONS) <= set(COLUMNS)


def test_types_are_fixed_and_numpy_scalars_become_plain():
    record = Record(event="report", trial_id="a", rung=np.int64(1), split="test", sparsity=1, macs=np.int32(7))
    assert (type(record.rung), type(record.sparsity), type(record.macs)) == (int, float, int)
    assert RECORD_SCHEMA.field("sparsity").type == pa.float64()
    assert RECORD_SCHEMA.field("macs").type == pa.int64()


@pytest.mark.parametrize(("event", "state"), [("proposed", "pending"), ("report", "running"), ("failed", "failed")])
def test_state_follows_from_the_event(event, state):
    assert Record(event=event, trial_id="a", rung=0, split="validation").state == state


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"event": "done"}, "event must be one of proposed, report, decision, failed; got 'done'"),
        ({"event": None}, "event must be one of"),
        ({"state": "finished"}, "state must be one of pending"),
        ({"split": "train"}, "split must be one of validation, test; got 'train'"),
        ({"decision": "kill"}, "decision must be one of"),
        ({"event": "report"}, "a report needs rung and split; got rung=None"),
        ({"event": "decision"}, "a decision needs the state"),
        ({"macs": 1.5}, "macs must be an integer; got 1.5"),
        ({"macs": True}, "macs must be an integer; got True"),
        ({"macs": 2**63}, "macs must fit into 64 bits"),
        ({"sparsity": "0.9"}, "sparsity must be a number; got '0.9'"),
        ({"error": 3}, "error must be text; got 3"),
        ({"config": "[1]"}, "config must be a JSON object"),
        ({"config": "{"}, "config must be a JSON object"),
        ({"layer_densities": "[0.5]"}, "layer_densities must be a JSON object"),
        ({"layer_measures": "{"}, "layer_measures must be a JSON object"),
    ],
)
def test_wrong_values_are_refused_in_one_line(values, message):
    with pytest.raises(RecordError) as error:
        Record(**{"event": "proposed", "trial_id": "a", **values})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"trial_id": "../a"}, {"trial_id": ""}, {"trial_id": None}, {"checkpoint": "/etc/passwd"}]
)
def test_paths_cannot_leave_the_study(values):
    with pytest.raises(UnsafePath):
        Record(**{"event": "proposed", "trial_id": "a", **values})


def test_frozen_with_the_key_apart():
    record = Record(event="report", trial_id="a", rung=2, split="test")
    assert record.key == ("a", 2, "test")
    assert Record(event="proposed", trial_id="a").key is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.rung = 3


def test_table_round_trip():
    records = [
        Record(event="report", trial_id="a", rung=0, split="validation", verified_auc=math.inf, time=1.5),
        Record(event="failed", trial_id="b", error="line 1\nline 2 \N{SNOWMAN}"),
    ]
    assert from_table(to_table(records)) == records


def test_text_that_no_file_can_hold_is_replaced():
    assert Record(event="failed", trial_id="a", error="bad \udc80 name").error == "bad ? name"


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": [1, 2], "a": "é"}) == canonical_json({"a": "é", "b": (1, 2)}) == '{"a":"é","b":[1,2]}'
    with pytest.raises(RecordError, match="plain JSON"):
        canonical_json({"a": math.nan})
