import math
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlr.results import QueryError, Record, Store, Study, WhereError, open_study
from sparsevlr.results.fold import Fold
from sparsevlr.results.pieces import Events, Loaded
from sparsevlr.results.record import COLUMNS, RECORD_SCHEMA, to_table
from sparsevlr.results.store import Snapshot, Stretch

OBJECTIVE = st.sampled_from([None, math.nan, 0.0, 0.25, 0.5, 0.75, 1.0])


def rows(table, *names):
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


class EventsInMemory:
    """Stands in for a store, which would cost seconds over hundreds of examples."""

    manifest: ClassVar = {"spec": {}}

    def __init__(self, events):
        self.events = events

    def signature(self):
        return ()

    def read(self):
        return Snapshot((Stretch((1, "0"), 0, Loaded(self.events)),))

    read_decisive = read


@pytest.fixture
def study(store, make_trial):
    for values in [
        ("a", 0.0, 0.90),
        ("b", 0.5, 0.85),
        ("c", 0.5, 0.80),
        ("d", 0.9, 0.85),
        ("e", 0.99, 0.40),
        ("f", 0.999, 0.95, "stopped"),
        ("g", 0.999, 0.95, "paused"),
        ("h", math.nan, 0.99),
    ]:
        store.append(make_trial(*values, macs=int(1000 * (1 - values[1])) if values[1] == values[1] else None))
    store.append(Record(event="proposed", trial_id="i"))
    return open_study(store.uri)


def test_trials_fold_the_events(study):
    table = study.trials()
    assert table.schema == RECORD_SCHEMA
    assert rows(table, "trial_id", "state", "decision") == [
        *((name, "completed", "complete") for name in "abcde"),
        ("f", "stopped", "stop"),
        ("g", "paused", "pause"),
        ("h", "completed", "complete"),
        ("i", "pending", None),
    ]
    assert table["verified_accuracy"].to_pylist()[:3] == [0.90, 0.85, 0.80]
    assert table["fingerprint"].to_pylist() == [*(f"f{name}" for name in "abcdefgh"), None]
    assert study.trials("sparsity >= 90% and state = 'completed'")["trial_id"].to_pylist() == ["d", "e"]


def test_a_life_in_events(store, make_report):
    def state():
        (found,) = study.trials()["state"].to_pylist()
        return found

    def decide(decision, state):
        return Record(event="decision", trial_id="t", rung=0, decision=decision, state=state)

    study = open_study(store.uri)
    steps = [
        (Record(event="proposed", trial_id="t", seed=5), "pending"),
        (decide("start", "running"), "running"),
        (make_report("t", 0, verified_accuracy=0.1), "running"),
        (decide("pause", "paused"), "paused"),
        (decide("promote", "running"), "running"),
        (Record(event="failed", trial_id="t", error="out of memory"), "failed"),
        (decide("start", "running"), "running"),
        (make_report("t", 1, verified_accuracy=0.2, error="soundness"), "running"),
        (decide("complete", "completed"), "completed"),
        (make_report("t", 1, "test", verified_accuracy=0.3), "completed"),
    ]
    errors = []
    for record, expected in steps:
        store.append(record)
        assert state() == expected
        errors.append(study.trials()["error"][0].as_py())
    assert errors == [None] * 5 + ["out of memory", None, "soundness", "soundness", "soundness"]
    (row,) = study.trials().to_pylist()
    assert (row["seed"], row["rung"], row["split"], row["verified_accuracy"]) == (5, 1, "validation", 0.2)
    assert rows(study.reports(), "rung", "split", "seed", "state") == [
        (0, "validation", 5, "completed"),
        (1, "validation", 5, "completed"),
        (1, "test", 5, "completed"),
    ]


def test_second_arrivals_are_ignored(store, make_report):
    store.append([Record(event="proposed", trial_id="t", seed=1), make_report("t", 0, verified_accuracy=0.5)])
    store.append(make_report("t", 1, verified_accuracy=0.6))
    with Store.open(store.uri, readonly=False) as again:
        again.append([make_report("t", 0, verified_accuracy=0.9), make_report("t", 1, verified_accuracy=0.9)])
        again.append([make_report("t", 1, "test", verified_accuracy=0.7), make_report("u", 1, verified_accuracy=0.8)])
        again.append(Record(event="proposed", trial_id="t", seed=2))
    study = open_study(store.uri)
    assert rows(study.reports(), "trial_id", "rung", "split", "verified_accuracy") == [
        ("t", 0, "validation", 0.5),
        ("t", 1, "validation", 0.6),
        ("t", 1, "test", 0.7),
        ("u", 1, "validation", 0.8),
    ]
    assert rows(study.trials(), "trial_id", "seed", "verified_accuracy", "state") == [
        ("t", 1, 0.6, "running"),
        ("u", None, 0.8, "running"),
    ]
    assert len(study.events()) == 5


def test_front_is_over_completed_trials_only(study):
    assert rows(study.pareto_front(), "trial_id", "sparsity") == [("a", 0.0), ("d", 0.9), ("e", 0.99)]
    assert study.pareto_front(where="sparsity < 90%")["trial_id"].to_pylist() == ["a", "b"]
    assert study.pareto_front("verified_accuracy")["trial_id"].to_pylist() == ["h"]
    assert study.pareto_front(["macs", "verified_accuracy"])["trial_id"].to_pylist() == ["a", "d", "e"]
    assert study.pareto_front().schema == RECORD_SCHEMA


def test_equal_trials_are_all_on_the_front(store, make_trial):
    for name in ("y", "x"):
        store.append(make_trial(name, 0.5, 0.5))
    assert open_study(store.uri).pareto_front()["trial_id"].to_pylist() == ["x", "y"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(OBJECTIVE, OBJECTIVE, st.sampled_from(["completed", "completed", "stopped"])), max_size=9))
def test_front_equals_brute_force_over_the_trials(points):
    records = []
    for number, (sparsity, verified, state) in enumerate(points):
        values = {"sparsity": sparsity, "verified_accuracy": verified}
        records += [
            Record(event="report", trial_id=f"t{number}", rung=0, split="validation", **values),
            Record(event="decision", trial_id=f"t{number}", state=state),
        ]
    study = Study(EventsInMemory(to_table(records)))
    able = [
        (row["trial_id"], row["sparsity"], row["verified_accuracy"])
        for row in study.trials().to_pylist()
        if row["state"] == "completed"
        and all(row[name] is not None and row[name] == row[name] for name in ("sparsity", "verified_accuracy"))
    ]
    front = {
        name
        for name, s, v in able
        if not any(s2 >= s and v2 >= v and (s2 > s or v2 > v) for _, s2, v2 in able)
    }  # fmt: skip
    assert set(study.pareto_front()["trial_id"].to_pylist()) == front


def test_test_figures_are_those_of_the_validation_front(store, make_trial, make_report):
    store.append(make_trial("a", 0.5, 0.8, macs=7, n_verified=80))
    store.append(make_trial("b", 0.9, 0.7))
    store.append(make_trial("c", 0.4, 0.6))
    store.append(make_report("a", 0, "test", verified_accuracy=0.1, samples=360, n_verified=36))
    store.append(make_report("b", 7, "test", verified_accuracy=0.9, samples=360))
    store.append(make_report("c", 0, "test", verified_accuracy=1.0, samples=360))
    study = open_study(store.uri)
    front = study.pareto_front(split="test")
    # b was tested at another rung, so that its network of today has no test figures.
    assert rows(front, "trial_id", "split", "sparsity", "macs", "verified_accuracy", "samples", "n_verified") == [
        ("a", "test", 0.5, 7, 0.1, 360, 36),
        ("b", "test", 0.9, None, None, None, None),
    ]
    assert front["state"].to_pylist() == ["completed"] * 2
    assert study.pareto_front()["verified_accuracy"].to_pylist() == [0.8, 0.7]
    assert study.hypervolume(split="test") == pytest.approx(0.5 * 0.1)
    with pytest.raises(QueryError, match="split is one of validation, test; got 'train'"):
        study.pareto_front(split="train")


def test_hypervolume_and_its_reference_points(store, make_trial):
    store.append(make_trial("a", 0.5, 0.8, macs=50, unstable_relu_fraction=0.25))
    store.append(make_trial("b", 0.75, 0.6, macs=100, unstable_relu_fraction=0.5))
    store.append(make_trial("c", 0.9, 0.9, "stopped", macs=200))
    study = open_study(store.uri)
    assert study.hypervolume() == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)
    assert study.hypervolume(reference=[0.5, 0.5]) == pytest.approx(0.25 * 0.1)
    assert study.hypervolume(reference={"verified_accuracy": 0.5, "sparsity": 0.0}) == pytest.approx(0.15 + 0.025)
    # The worst MACs of any report, the stopped trial's too.
    assert study.hypervolume("macs,verified_accuracy") == pytest.approx(150 * 0.8)
    assert study.hypervolume(["unstable_relu_fraction"]) == pytest.approx(0.75)
    assert study.hypervolume(["macs"], reference=[60]) == pytest.approx(10)
    for reference in ([0.5], {"sparsity": 0.0}, [math.nan, 0.0]):
        with pytest.raises(QueryError, match="the reference needs"):
            study.hypervolume(reference=reference)


def test_best_under_constraints(study):
    assert study.best().trial_id == "h"
    assert study.best(min_sparsity=0.5).trial_id == "d"
    assert study.best(min_sparsity=0.5, max_sparsity=0.6).trial_id == "b"
    assert study.best(min_sparsity=0.95).trial_id == "e"
    assert study.best(max_macs=500, min_sparsity=None).trial_id == "d"
    assert study.best("config.sparsity < 0.1 and sparsity is not null").trial_id == "a"
    assert study.best(min_sparsity=0.999) is None
    assert study.best(min_sparsity=0.5).state == "completed"
    with pytest.raises(QueryError, match=r"min_COLUMN or max_COLUMN; got min_sparsty; did you mean sparsity\?"):
        study.best(min_sparsty=0.5)
    with pytest.raises(QueryError, match="got sparsity"):
        study.best(sparsity=0.5)


def test_best_breaks_ties_by_rule(store, make_trial):
    for name, sparsity, natural in [("d", 0.5, 0.9), ("c", 0.6, 0.8), ("b", 0.6, 0.9), ("a", 0.6, 0.9)]:
        store.append(make_trial(name, sparsity, 0.7, natural_accuracy=natural, adversarial_accuracy=math.nan))
    store.append(make_trial("0", 0.9, math.nan))
    assert open_study(store.uri).best().trial_id == "a"


def test_queries_name_what_is_wrong(study):
    with pytest.raises(QueryError, match="'speed' is no objective; choose from sparsity, natural_accuracy"):
        study.pareto_front(["speed"])
    with pytest.raises(QueryError, match="one or more different columns; got sparsity, sparsity"):
        study.pareto_front("sparsity, sparsity")
    with pytest.raises(QueryError, match="got none"):
        study.pareto_front([])
    with pytest.raises(WhereError, match="position 1"):
        study.trials("sparsty > 1")


def test_an_empty_study_answers_everything(store):
    study = open_study(store.uri)
    for table in (study.trials(), study.reports(), study.events(), study.pareto_front(split="test")):
        assert (len(table), table.column_names) == (0, list(COLUMNS))
    assert study.trials("config.score = 'x'").num_rows == 0
    assert (study.hypervolume(), study.hypervolume("macs"), study.best(), study.problems) == (0.0, 0.0, None, ())
    assert (study.name, study.spec["name"], study.objectives) == ("small", "small", ("sparsity", "verified_accuracy"))


def test_each_call_sees_what_was_added_and_reads_only_then(store, make_report, monkeypatch):
    study = open_study(store.uri)
    reads = []
    read = Store._snapshot
    monkeypatch.setattr(Store, "_snapshot", lambda self, digested: reads.append(digested) or read(self, digested))
    for count in range(3):
        for _ in range(2):
            assert len(study.reports()) == len(study.trials()) == count
        store.append(make_report(f"t{count}"))
    assert reads == [False, True] * 3


def test_foreign_rows_are_left_out_and_break_nothing():
    events = to_table([Record(event="failed", trial_id="a")]).to_pylist()
    strange = [{**events[0], "event": "weird"}, {**events[0], "trial_id": None}, {**events[0], "rung": None}]
    strange[2] |= {"event": "report", "trial_id": "b", "split": "validation", "checkpoint": "../../etc", "config": "{{"}
    table = Fold(Events([Loaded(pa.Table.from_pylist(events + strange, schema=RECORD_SCHEMA))])).trials
    assert rows(table, "trial_id", "state") == [("a", "failed"), ("b", "running")]
    study = Study(EventsInMemory(pa.Table.from_pylist(events + strange, schema=RECORD_SCHEMA)))
    with pytest.raises(WhereError, match=r"no trial has config\.score"):
        study.trials("config.score = 'magnitude'")


def test_a_study_holds_json_and_parquet_only(store, make_trial):
    store.append(make_trial("a", 0.5, 0.5))
    store.close()
    files = [path for path in Path(store.uri).rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".json", ".parquet"]
