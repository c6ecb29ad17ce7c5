"""Training trials again: with seeds that nothing was picked by, kept as they come, no part of the search."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparsevlr.results import QueryError, RecordError, open_study
from sparsevlr.results.confirmations import read_confirmations
from sparsevlr.search import confirm as module
from sparsevlr.search.confirm import confirm, trained_again
from sparsevlr.spaces import SpecError, StudySpec, load_dataset

from .conftest import TINY
from .one_worker import run_to_the_end
from .test_cli import Ran, run  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    spec = StudySpec.from_dict(TINY | {"trials": 6, "resources": {"workers": 2}})
    return run_to_the_end(spec, tmp_path_factory.mktemp("confirm") / "study").uri


def test_each_seed_is_another_network_of_the_same_configuration(uri: str) -> None:
    study = open_study(uri)
    row = study.pareto_front().to_pylist()[-1]
    arguments = load_dataset("digits"), study.store.location, False
    first, again, other = (trained_again(study.spec, row, number, *arguments) for number in (0, 0, 1))
    assert [record.split for record in first] == ["validation", "test"]
    assert [record.verified_accuracy for record in first] == [record.verified_accuracy for record in again]
    assert {record.config for record in (*first, *other)} == {row["config"]}
    assert len({row["seed"], first[0].seed, other[0].seed}) == 3
    # A dense network too, all of whose training is the dense stage that the study's seed drives.
    dense = row | {"config": json.dumps(json.loads(row["config"]) | {"sparsity": 0.0})}
    unstable = [trained_again(study.spec, dense, number, *arguments)[0].unstable_relu_fraction for number in (0, 1)]
    assert unstable[0] != unstable[1]
    assert all(record.checkpoint is None for record in first)


def test_the_front_is_trained_again_and_what_is_there_is_not(uri: str, run: object) -> None:  # noqa: F811
    study = open_study(uri)
    front, events = study.pareto_front()["trial_id"].to_pylist(), len(study.events())
    ran: Ran = run("confirm", uri, "--seeds", "2", "--json")  # type: ignore[operator]
    assert ran.code == 0
    rows = json.loads(ran.out)
    assert [row["trial_id"] for row in rows] == front
    assert ran.err.count("verified on validation") == 2 * len(front)
    assert len(open_study(uri).events()) == events
    for row in rows:
        found = read_confirmations(study.store.location, row["trial_id"])
        values = [found[number][0].verified_accuracy for number in (0, 1)]
        assert row["seeds"] == 2
        assert row["validation_verified_accuracy_mean"] == pytest.approx(np.mean(values))
        assert row["validation_verified_accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
        assert row["optimism"] == pytest.approx(row["validation_verified_accuracy"] - np.mean(values))
        assert row["test_verified_accuracy_mean"] == pytest.approx(
            np.mean([found[number][1].verified_accuracy for number in (0, 1)])
        )
    # Nothing is left to do, so that not even Ray is started.
    assert confirm(uri, seeds=2).to_pylist() == rows
    again: Ran = run("confirm", uri, "--seeds", "1")  # type: ignore[operator]
    assert "searched figures exceed those of fresh seeds by" in again.err


def test_a_seed_that_fails_is_counted_and_costs_nothing_else(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = open_study(uri).pareto_front().to_pylist()[0]

    def broken(*arguments: object, **options: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(module, "Trial", broken)
    study = open_study(uri)
    records = trained_again(study.spec, row, 7, load_dataset("digits"), study.store.location, False)
    assert [(record.event, record.error) for record in records] == [("failed", "MemoryError: no room")]
    module.save_confirmation(study.store.location, 7, records)
    table = study.confirmations([row["trial_id"]]).to_pylist()
    assert table[0]["failed"] == 1
    (Path(uri) / "confirmations" / row["trial_id"] / "seed-7.json").unlink()


def test_what_cannot_be_confirmed_is_refused(uri: str) -> None:
    states = dict(zip(*(open_study(uri).trials()[name].to_pylist() for name in ("trial_id", "state")), strict=True))
    stopped = next(trial_id for trial_id, state in states.items() if state == "stopped")
    with pytest.raises(QueryError, match=f"only completed trials can be confirmed, but {stopped} is stopped"):
        confirm(uri, [stopped])
    with pytest.raises(QueryError, match="there is no trial '00099'"):
        confirm(uri, ["00099"])
    with pytest.raises(SpecError, match="seeds must be at least 1, got 0"):
        confirm(uri, seeds=0)
    completed = next(trial_id for trial_id, state in states.items() if state == "completed")
    broken = Path(uri) / "confirmations" / completed / "seed-9.json"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text('[{"event": "report"}]')
    with pytest.raises(RecordError, match=r"seed-9.json of trial .* holds no confirmation"):
        confirm(uri, [completed])
    broken.unlink()
