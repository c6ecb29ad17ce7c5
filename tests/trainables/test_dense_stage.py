"""Dense stages are shared, not repeated: who takes one over is the trial that trained it itself."""

import itertools
import json
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results.location import Location
from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.spaces.rules import LATER_FAMILIES
from sparsevlr.trainables import FAMILIES, Trial, run_trial
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.training import Training

from .trials import RESTARTED, SCHEDULES, WITH_STAGE, bits, changed, config, study, timeless

NETWORKS = {"plain": {}, "batchnorm": {"architecture.batchnorm": True}}
SAMPLES = 1079


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that are trained from now on; the clock of training shows how many there were."""
    epochs: list[int] = []
    train = Training._train_epoch

    def count(training: Training) -> None:
        epochs.append(training.epoch)
        train(training)

    monkeypatch.setattr(Training, "_train_epoch", count)
    monkeypatch.setattr("time.perf_counter", lambda: float(len(epochs)))
    return epochs


def stage_of(one: TrialConfig, spec: StudySpec) -> DenseStage:
    return DenseStage.of(one, spec, SAMPLES)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("schedule", WITH_STAGE)
def test_taking_a_stage_over_equals_training_it(
    spec: StudySpec, digits: Dataset, tmp_path: Path, trained: list[int], schedule: str, network: str
) -> None:
    one = config(schedule, **NETWORKS[network])
    alone, shared = study(tmp_path / "alone"), study(tmp_path / "shared")
    own = run_trial(one, spec, digits, location=alone)
    pioneer = config(schedule, trial_id="pioneer", seed=5, **NETWORKS[network])
    if pioneer.target_sparsity:
        values = {name: value for name, value in pioneer.values.items() if not name.startswith("score.")}
        pioneer = replace(pioneer, values=values | {"sparsity": 0.5, "score": "random"})
    run_trial(pioneer, spec, digits, location=shared)
    trained.clear()
    taken = run_trial(one, spec, digits, location=shared)
    assert trained == list(range(stage_of(one, spec).epochs, spec.epochs))
    assert [timeless(record) for record in taken] == [timeless(record) for record in own]
    for record in own:
        assert bits(shared, record.checkpoint) == bits(alone, record.checkpoint)
    bare = run_trial(one, spec, digits)
    assert [timeless(record) for record in bare] == [timeless(record) for record in own]


@pytest.mark.parametrize(
    ("schedule", "epochs"), zip(SCHEDULES, [0, 2, 2, 0, 1, 4, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0], strict=True)
)  # of 4 epochs with 8 steps each
def test_stages_are_the_whole_epochs_before_anything_is_pruned(spec: StudySpec, schedule: str, epochs: int) -> None:
    assert stage_of(config(schedule), spec).epochs == epochs


def test_a_trial_without_a_stage_has_its_own_seed_from_the_start_and_leaves_nothing(
    spec: StudySpec, digits: Dataset, tmp_path: Path
) -> None:
    where = study(tmp_path / "study")
    ends = [run_trial(config(seed=seed, trial_id=str(seed)), spec, digits, location=where)[0] for seed in (1, 2)]
    first, second = (bits(where, record.checkpoint)["weights.safetensors"] for record in ends)
    assert first != second
    assert where.folders() == ["checkpoints"]


def test_the_trial_s_own_seed_takes_over_where_the_stage_ends(spec: StudySpec, digits: Dataset, tmp_path: Path) -> None:
    records = {}
    for seed in (1, 2):
        where = study(tmp_path / str(seed))
        one = config("one-shot between epochs", seed=seed, **{"schedule.at": 0.25})
        records[seed] = [bits(where, record.checkpoint) for record in run_trial(one, spec, digits, location=where)]
    assert records[1][0] == records[2][0]
    assert records[1][1]["weights.safetensors"] != records[2][1]["weights.safetensors"]


def test_seconds_add_up(spec: StudySpec, digits: Dataset, tmp_path: Path, trained: list[int]) -> None:
    where = study(tmp_path / "study")

    def stays(rung: int) -> Any:
        return lambda record: record.rung < rung

    first = config("dense", trial_id="first")
    second = config("one-shot between epochs", trial_id="second")
    third = config("dense", trial_id="third")
    reports = [
        *run_trial(first, spec, digits, location=where, on_report=stays(0)),
        *run_trial(second, spec, digits, location=where),
        *run_trial(third, spec, digits, location=where),
    ]
    spent = {record.trial_id: (record.train_seconds, record.shared_seconds) for record in reports}
    # The first trained one epoch, the second the next three of its own, the third the last two.
    assert spent == {"first": (1, 0), "second": (3, 1), "third": (2, 2)}
    assert sum(train for train, _ in spent.values()) == len(trained)
    assert all(record.train_seconds + record.shared_seconds == record.epoch for record in reports)
    resumed = Trial(second, spec, digits, location=where)
    resumed.restore("checkpoints/second/rung-1")
    record = resumed.advance()
    assert (record.epoch, record.train_seconds, record.shared_seconds) == (4, 3, 1)
    # One that comes back finds more of its stage than it left.
    again = Trial(first, spec, digits, location=where)
    again.restore("checkpoints/first/rung-0")
    record = again.advance()
    assert (record.epoch, record.train_seconds, record.shared_seconds) == (2, 1, 1)
    restored = Trial(first, spec, digits, location=where)
    restored.restore(record.checkpoint)
    record = restored.advance()
    assert (record.epoch, record.train_seconds, record.shared_seconds) == (4, 1, 3)


def test_without_a_location_nothing_is_shared(spec: StudySpec, digits: Dataset, trained: list[int]) -> None:
    for _ in range(2):
        trained.clear()
        records = run_trial(config("dense"), spec, digits)
        assert trained == [0, 1, 2, 3]
        assert [record.shared_seconds for record in records] == [0, 0, 0]


CONSTANTS = {
    "data": "breast-cancer",
    "data_options": {"scale": 2},
    "epsilon": 0.04,
    "epsilon_scale": [0.5],
    "norm": "l2",
    "epochs": 5,
    "ramp": {"start": 0.1, "end": 0.5},
    "batch_size": 64,
    "precision": "bfloat16",
    "seed": 1,
}
OPTIONS = {
    "architecture": "cnn-small",
    "architecture.hidden": [24, 25],
    "architecture.width": 0.5,
    "architecture.batchnorm": True,
    "loss.kappa_start": 0.9,
    "loss.kappa_end": 0.4,
    "optimizer.learning_rate": 0.006,
    "optimizer.drop": 0.3,
    "optimizer.first_drop": 0.6,
    "optimizer.second_drop": 0.9,
    "loss.epsilon_factor": 1.5,
    "optimizer.schedule": "cosine",
    "optimizer.l1": 1e-6,
    "optimizer.average": 0.9,
    "optimizer.clip": 9.0,
    "optimizer.weight_decay": 0.1,
    "regulariser": "nrs",
    "initialisation.masked_fan_in": True,
}
INDIFFERENT = {
    "sparsity": 0.5,
    "score": "random",
    "distribution": "uniform",
    "pattern": "filter",
    "schedule.at": 0.75,
    "loss.kappa_end": 0.5,
    "optimizer.clip": 10.0,
    "regulariser": "none",
    "initialisation": "ibp",
    "initialisation.masked_fan_in": False,
}


def test_stages_that_differ_in_anything_that_matters_are_never_shared(spec: StudySpec) -> None:
    assert CONSTANTS.keys() == {*spec.constants(), "epsilon_scale", "norm", "precision", "seed"}
    chosen = LATER_FAMILIES | dict(config().values)
    dense = {family: FAMILIES[family][chosen[family]] for family in ("loss", "optimizer", *LATER_FAMILIES)}
    # A trial with a parent begins with the parent's mask: it has no dense stage.
    del dense["start"]
    assert {f"{family}.{f.name}" for family in dense for f in fields(dense[family])} <= OPTIONS.keys()
    one = config("one-shot between epochs")
    stages = [stage_of(one, spec)]
    stages += [stage_of(one, StudySpec.from_dict(spec.to_dict() | {name: CONSTANTS[name]})) for name in CONSTANTS]
    stages += [stage_of(changed(one, {name: value}), spec) for name, value in OPTIONS.items()]
    for first, second in itertools.combinations(stages, 2):
        assert first.key != second.key


def test_what_does_not_matter_leaves_the_stage_the_same(spec: StudySpec) -> None:
    one = config("one-shot between epochs")
    key = stage_of(one, spec).key
    for name, value in INDIFFERENT.items():
        assert stage_of(changed(one, {name: value}), spec).key == key
    for schedule in SCHEDULES:
        same = not {"regularised", "at-init", *RESTARTED} & {schedule}
        assert (stage_of(config(schedule, seed=3, trial_id="b"), spec).key == key) == same
    other = StudySpec.from_dict(spec.to_dict() | {"trials": 99, "sampler": "random", "verification": {"samples": 7}})
    assert stage_of(one, other).key == key


def test_rounds_are_shared_by_trials_with_the_same_rounds_only(spec: StudySpec) -> None:
    one = config("iterative")
    stage = stage_of(one, spec)
    assert stage_of(changed(one, {"sparsity": 0.5, "score": "random", "distribution": "uniform"}), spec) == stage
    assert stage_of(changed(one, {"schedule.rewind_to": 0.0}), spec) == stage
    for other in ({"schedule.rounds": 4}, {"schedule.rewind_to": 0.2}, {"sparsity": 0.0}):
        assert stage_of(changed(one, other), spec).key != stage.key
    assert stage_of(changed(one, {"sparsity": 0.0}), spec) == stage_of(config("dense"), spec)


@given(st.data())
def test_no_two_drawn_configurations_share_unless_they_agree(data: st.DataObject) -> None:
    study = StudySpec.from_dict({"data": "digits", "epsilon": 0.1})
    names = st.sampled_from([name for name in (*OPTIONS, *INDIFFERENT) if name != "architecture"])
    drops = {"optimizer.drop", "optimizer.first_drop", "optimizer.second_drop"}
    sets = st.sets(names, max_size=4).filter(lambda names: "optimizer.schedule" not in names or not names & drops)
    drawn = [data.draw(sets) for _ in range(2)]
    values = OPTIONS | INDIFFERENT
    base = config("one-shot between epochs")
    keys = [stage_of(changed(base, {name: values[name] for name in names}), study).key for names in drawn]
    matter = [{name for name in names if name in OPTIONS and name not in INDIFFERENT} for names in drawn]
    assert (keys[0] == keys[1]) == (matter[0] == matter[1])


@pytest.fixture
def stored(spec: StudySpec, digits: Dataset, tmp_path: Path) -> tuple[Location, DenseStage]:
    """A study with a stage at epochs 1 and 2."""
    where, one = study(tmp_path / "study"), config("one-shot between epochs")
    run_trial(one, spec, digits, location=where, on_report=lambda record: record.rung < 1)
    return where, stage_of(one, spec)


def epoch_found(stage: DenseStage, where: Location) -> int | None:
    found = stage.find(where, 0, 2)
    return found.epoch if found else None


def test_the_newest_within_reach_is_found(stored: tuple[Location, DenseStage]) -> None:
    where, stage = stored
    assert sorted(where.folders(f"stages/{stage.key}")) == ["epoch-1", "epoch-2"]
    reach = [(0, 2), (0, 1), (1, 2), (0, 9)]
    assert [stage.find(where, *pair).epoch for pair in reach] == [2, 1, 2, 2]
    assert stage.find(where, 2, 4) is None
    for stray in ("epoch-x", "epoch--1", "epoch-02", "notes"):
        where.write(f"stages/{stage.key}/{stray}/state.json", b"{}")
    assert epoch_found(stage, where) == 2


@pytest.mark.parametrize("name", ["weights.safetensors", "mask.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_stage_counts_as_none_and_is_made_good(
    spec: StudySpec, digits: Dataset, tmp_path: Path, stored: tuple[Location, DenseStage], name: str
) -> None:
    where, stage = stored
    file = tmp_path / "study" / "stages" / stage.key / "epoch-2" / name
    content = file.read_bytes()
    alone = study(tmp_path / "alone")
    one = config("one-shot between epochs", trial_id="next")
    whole = run_trial(one, spec, digits, location=alone)
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    cut = (b"", content[:-1], content[: len(content) // 2])
    for damaged in (*cut, flipped, b"[]", b"null", b"{}", b'{"sha256": 1}', b'{"sha256": []}', None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        assert epoch_found(stage, where) == 1
    taken = run_trial(one, spec, digits, location=where)
    assert bits(where, taken[-1].checkpoint) == bits(alone, whole[-1].checkpoint)
    assert epoch_found(stage, where) == 2


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 16}, {"epoch": 1}])
def test_a_stage_under_a_name_that_is_not_its_own_counts_as_none(
    tmp_path: Path, stored: tuple[Location, DenseStage], change: dict[str, object]
) -> None:
    where, stage = stored
    state = tmp_path / "study" / "stages" / stage.key / "epoch-2" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    assert epoch_found(stage, where) == 1


def test_what_goes_wrong_otherwise_is_not_hidden(
    stored: tuple[Location, DenseStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, stage = stored

    def full(location: Location, path: str) -> Checkpoint:
        raise MemoryError

    monkeypatch.setattr(Checkpoint, "load", full)
    with pytest.raises(MemoryError):
        stage.find(where, 0, 2)


@pytest.mark.parametrize("files", range(5))
def test_a_crash_between_files_leaves_no_stage_and_harms_no_older_one(
    tmp_path: Path, stored: tuple[Location, DenseStage], monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    where, stage = stored
    checkpoint = stage.find(where, 0, 2)
    empty = study(tmp_path / "empty")
    replace_file = Location.replace

    def cut(location: Location, path: str, data: bytes, left: list[None]) -> None:
        if not left:
            raise SystemExit
        left.pop()
        replace_file(location, path, data)

    for place, survives in ((empty, files == 4), (where, True)):
        left = [None] * files
        monkeypatch.setattr(Location, "replace", lambda *arguments, left=left: cut(*arguments, left))
        if files < 4:
            with pytest.raises(SystemExit):
                stage.leave(place, replace(checkpoint, train_seconds=1.0))
        else:
            stage.leave(place, checkpoint)
        assert (epoch_found(stage, place) == 2) == survives


def test_writers_at_the_same_time_never_show_a_reader_half_a_stage(stored: tuple[Location, DenseStage]) -> None:
    where, stage = stored
    checkpoint = stage.find(where, 0, 2)
    over, found = threading.Event(), []

    def write(seconds: float) -> None:
        for _ in range(15):
            stage.leave(where, replace(checkpoint, train_seconds=seconds))

    def read() -> None:
        while not over.is_set():
            found.append(stage.find(where, 0, 2))

    writers = [threading.Thread(target=write, args=(seconds,)) for seconds in (1.0, 2.0)]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert found
    for seen in found:
        assert seen.epoch == 2
        assert all(torch.equal(seen.weights[name], value) for name, value in checkpoint.weights.items())


def test_two_trials_that_train_the_same_stage_at_once_write_the_same_network(
    spec: StudySpec, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int]
) -> None:
    where = study(tmp_path / "study")
    with monkeypatch.context() as blind:
        blind.setattr(DenseStage, "find", lambda *arguments: None)
        written = []
        for seed in (1, 2):
            one = config("one-shot within an epoch", seed=seed, trial_id=str(seed))
            run_trial(one, spec, digits, location=where)
            written.append(bits(where, f"stages/{stage_of(one, spec).key}/epoch-2"))
    assert len(trained) == 8
    assert written[0] == written[1]
