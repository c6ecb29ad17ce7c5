"""The command line as a person or a program meets it."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from sparsevlr.results import Record, StorageError, Store, Study, open_study
from sparsevlr.search import check, cli
from sparsevlr.search.cli import Kind, main
from sparsevlr.spaces import load_spec

from .conftest import TINY
from .one_worker import run_to_the_end, searched


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return command


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A study of 40 trials whose figures are drawn, not trained."""
    rng = np.random.default_rng(0)
    uri = str(tmp_path / "studies" / "drawn")
    with Store.create(uri, load_spec("digits", ["trials=50"]).to_dict()) as store:
        for number in range(40):
            trial_id = f"{number:05d}"
            sparsity = float(1 - 10 ** -rng.uniform(0, 2.3))
            verified = int(rng.integers(0, 300))
            config = json.dumps({"score": ["magnitude", "random"][number % 2], "sparsity": sparsity})
            store.append(Record(event="proposed", trial_id=trial_id, config=config, target_sparsity=sparsity))
            if number == 7:
                store.append(Record(event="failed", trial_id=trial_id, error="Diverged: the loss became nan"))
                continue
            measured = {
                "natural_accuracy": 0.9,
                "adversarial_accuracy": 0.85,
                "verified_accuracy": verified / 359,
                "verified_low": 0.0,
                "verified_high": 1.0,
                "samples": 359,
                "n_verified": verified,
                "macs": int(rng.integers(1000, 9000)),
            }
            report = {"trial_id": trial_id, "split": "validation", "rung": 2, "epoch": 27, "sparsity": sparsity}
            store.append(Record(event="report", **report, **measured))
            if number < 36:
                decision = ("complete", "completed") if number % 3 else ("stop", "stopped")
                store.append(
                    Record(event="decision", trial_id=trial_id, decision=decision[0], state=decision[1], rung=2)
                )
    return uri


def brute_force_front(trials: list[dict[str, Any]]) -> set[str]:
    completed = {
        row["trial_id"]: (row["verified_accuracy"], row["sparsity"]) for row in trials if row["state"] == "completed"
    }
    return {
        one
        for one, (verified, sparsity) in completed.items()
        if not any(a >= verified and b >= sparsity and (a, b) != (verified, sparsity) for a, b in completed.values())
    }


def test_the_front_printed_is_the_brute_force_front_of_the_trials_printed(run: Any, study: str) -> None:
    trials = json.loads(run("trials", study, "--json").out)
    front = json.loads(run("pareto", study, "--format", "json").out)
    assert len(trials) == 40
    assert {row["trial_id"] for row in front} == brute_force_front(trials)
    filtered = json.loads(run("pareto", study, "--format", "json", "--where", "config.score = 'random'").out)
    some = [row for row in trials if json.loads(row["config"])["score"] == "random"]
    assert {row["trial_id"] for row in filtered} == brute_force_front(some)


def test_output_for_programs_is_nothing_but_that(run: Any, study: str) -> None:
    for arguments in (
        ("trials", study, "--json"),
        ("trials", study, "--format", "json"),
        ("pareto", study, "--format", "json"),
        ("pareto", study, "--json"),
        ("status", study, "--json"),
        ("list", "pruners", "--json"),
        ("check", "--json"),
    ):
        ran = run(*arguments)
        assert (ran.code, ran.err) == (0, "")
        found = json.loads(ran.out)
        assert isinstance(found, list)
        assert all(isinstance(row, dict) for row in found)
        assert found
    rows = list(csv.DictReader(io.StringIO(run("pareto", study, "--format", "csv").out)))
    assert {row["state"] for row in rows} == {"completed"}


def test_tables_show_intervals_states_and_errors(run: Any, study: str) -> None:
    front, trials = run("pareto", study).out, run("trials", study).out
    assert "verified (95 %)" in front
    assert "359 samples" in front
    assert "Diverged: the loss became nan" in trials
    for state in ("completed", "stopped", "failed", "running"):
        assert state in trials


def test_status_counts_and_estimates(run: Any, study: str) -> None:
    facts = json.loads(run("status", study, "--json").out)[0]
    assert (facts["trials"], facts["over"], facts["failed"], facts["running"]) == (50, 36, 1, 4)
    assert facts["finished"] is False
    assert facts["seconds_left"] >= 0
    text = run("status", study).out
    assert "36 of 50 trials over" in text
    assert "97 % and more" in text


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_front_can_be_drawn(run: Any, study: str, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"front.{ending}"
    assert run("pareto", study, "--plot", str(file), "--objectives", "verified_accuracy,macs").code == 0
    assert file.stat().st_size > 1000


@pytest.mark.parametrize("kind", list(Kind))
def test_every_family_is_listed_with_a_description(run: Any, kind: Kind) -> None:
    rows = json.loads(run("list", kind.value, "--json").out)
    assert rows
    assert all(row["name"] and row["description"] for row in rows)


def test_a_study_of_which_events_are_lost_is_left_as_it_is(run: Any, study: str) -> None:
    (part,) = (Path(study) / "parts").iterdir()
    part.write_bytes(b"PAR1")
    before = sorted(path for path in Path(study).rglob("*"))
    ran = run("resume", study)
    assert ran.code == 2
    assert re.fullmatch(rf"error: the study {study} cannot go on, .* missing: parts/.*from a copy.*\n", ran.err)
    assert sorted(path for path in Path(study).rglob("*")) == before


def test_a_plot_that_cannot_be_written_hides_no_front(
    study: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Study, target: object, **_: object) -> Path:
        raise StorageError("no room for it")

    monkeypatch.setattr(Study, "plot", refused)
    cli._follow(study, lambda observer: open_study(study))
    told = capsys.readouterr()
    assert "sparsity" in told.out
    assert "plot  none: no room for it" in told.err


def test_an_interruption_before_the_study_promises_nothing(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(observer: object) -> Study:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        cli._follow(study, interrupted)
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted before the study began; no trial has run\n"


def test_check_names_a_package_that_is_not_installed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PACKAGES", ("torch", "no-such-package"))
    rows = {row["what"]: row for row in json.loads(run("check", "--json").out)}
    assert (rows["torch"]["there"], rows["no-such-package"]["there"]) == ("yes", "no")
    assert "pip install no-such-package" in rows["no-such-package"]["detail"]


def test_check_names_what_is_missing_and_how_to_get_it(run: Any, tmp_path: Path) -> None:
    rows = {row["what"]: row for row in json.loads(run("check", "--data-dir", str(tmp_path), "--json").out)}
    assert rows["data digits"]["there"] == "yes"
    assert rows["torch"]["there"] == "yes"
    assert "train_32x32.mat" in rows["data svhn"]["detail"]


@pytest.mark.parametrize(("ratio", "there"), [(0.6, "yes"), (8.0, "no")])
def test_check_advises_against_bfloat16_where_it_is_slower(
    run: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, there: str
) -> None:
    monkeypatch.setattr("sparsevlr.search.check.bfloat16_ratio", lambda: ratio)
    row = next(row for row in json.loads(run("check", "--json").out) if row["what"] == "bfloat16")
    assert row["there"] == there
    assert ("precision float32" in row["detail"]) == (there == "no")


def spec_file(folder: Path, content: object) -> str:
    path = folder / "study.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "digitz"], "unknown preset 'digitz'.*digits"),
        (["search", "missing.yaml"], "missing.yaml.*No such file"),
        (["search", "--trials", "0"], "trials must be at least 1, got 0"),
        (["search", "--trials", "many"], "--trials.*integer"),
        (["search", "--set", "epsilon=0"], "epsilon must be above 0"),
        (["search", "--set", "epsilon=-0.1"], "epsilon must be above 0"),
        (["search", "--set", "epsilon=1.5"], "epsilon must be at most 1"),
        (["search", "--set", "epsilon"], "key=value"),
        (["search", "--set", "epsilonn=0.1"], "epsilonn is unknown.*epsilon"),
        (["search", "--set", "space.sparsity=1"], "sparsity"),
        (["search", "--set", "space.sparsity={low: 0.5, high: 1.0}"], "sparsity"),
        (["search", "--set", "space.score=magnitud"], "magnitud.*did you mean 'magnitude'"),
        (["search", "--set", "space.loss.kappa_end=1.5"], "kappa_end"),
        (["search", "--set", "space.loss.kapa_end=0.5"], "no such option.*kappa_end"),
        (["search", "--set", "space.colour=red"], "colour"),
        (["search", "--set", "objectives=[sparsity, speed]"], "speed"),
        (["search", "--set", "ramp={start: 0.5, end: 0.5}"], "ramp"),
        (["search", "--set", "space.architecture=mine:build"], "--allow-code"),
        (["search", "svhn", "--data-dir", "."], "train_32x32.mat"),
        (["search", "--set", "resources.gpus_per_trial=64.0"], "gpus_per_trial.*GPUs of this machine"),
        (["search", "--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["search", "--set", "space.architecture=cnn7", "--set", "batch_size=1"], "larger batch"),
        (["search", "--name", "123", "--trials", "0"], "trials"),
        (["resume", "nowhere/at-all"], "nowhere/at-all"),
        (["pareto", "nowhere/at-all"], "nowhere/at-all"),
        (["export", "nowhere/at-all", "00000", "--out", "out"], "nowhere/at-all"),
        (["verify", "nowhere"], "nowhere is no whole export: certificate.json"),
        (["list", "colours"], "colours"),
        (["status", "~no-such-user/x"], "cannot use the storage ~no-such-user/x: .*whole path"),
        (["search", "--storage", ""], "the storage is empty text; give a folder"),
        (["dance"], "dance"),
        ([], ""),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []
    if arguments:
        assert len(ran.err.splitlines()) == 1
        assert ran.err.startswith("error: ")
        assert re.search(message, ran.err)


@pytest.mark.parametrize("content", ["", "- a list", "a: [1", "\x00\xff", "just words"])
def test_study_files_that_hold_no_study(run: Any, tmp_path: Path, content: str) -> None:
    ran = run("search", spec_file(tmp_path, content), "--storage", str(tmp_path / "studies"))
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert "study.yaml" in ran.err
    assert not (tmp_path / "studies").exists()


def test_a_truncated_data_file_is_named(run: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((60, 4), np.float32), y=np.arange(60) % 3)
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(whole[: len(whole) // 2])
    study = spec_file(tmp_path, TINY | {"data": str(tmp_path / "mine.npz")})
    ran = run("search", study, "--storage", str(tmp_path / "studies"))
    assert ran.code == 2
    assert "mine.npz" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_name_that_exists_says_how_to_resume(run: Any, study: str) -> None:
    storage, _, name = study.rpartition("/")
    ran = run("search", "--name", name, "--storage", storage)
    assert ran.code == 2
    assert f"sparsevlr resume {study}" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_storage_that_cannot_be_written_to(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    ran = run("search", "--storage", str(tmp_path / "file"))
    assert ran.code == 2
    assert "file" in ran.err
    assert "is a file" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_names_with_brackets_are_names(run: Any, study: str, tmp_path: Path) -> None:
    odd = tmp_path / "[red] [" / "odd]"
    odd.mkdir(parents=True)
    Path(study).rename(odd / "drawn")
    for command in ("pareto", "trials", "layers", "status"):
        ran = run(command, str(odd / "drawn"))
        assert ran.code == 0
    assert "[red] [/odd]" in ran.out.replace("\n", "")


def test_trials_without_test_figures_are_pointed_out(run: Any, study: str) -> None:
    assert "have no figures on test" in run("pareto", study, "--split", "test").err


def test_a_network_is_taken_away_and_checked_without_its_study(run: Any, tmp_path: Path) -> None:
    changes = ["trials=1", "scheduler.kind=none", "space.architecture.hidden=[[12]]", "epochs=12", "space.sparsity=0.7"]
    study = run_to_the_end(load_spec(spec_file(tmp_path, TINY), changes), tmp_path / "small")
    out = tmp_path / "taken"
    ran = run("export", study.uri, "00000", "--out", str(out), "--samples", "50", "--properties", "2")
    assert (ran.code, ran.out) == (0, "")
    assert f"trial 00000 is in {out}; of 50 test samples" in ran.err
    assert f"verify {out}" in ran.err
    assert len(list((out / "vnnlib").iterdir())) == 2
    again = run("export", study.uri, "00000", "--out", str(out))
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert "is no empty folder" in again.err

    shutil.rmtree(study.uri)
    ran = run("verify", str(out))
    assert (ran.code, ran.err) == (0, "")
    assert "everything agrees" in ran.out
    ran = run("verify", str(out), "--json")
    checks = {row["what"]: row for row in json.loads(ran.out)}
    assert (ran.code, ran.err) == (0, "")
    assert all(row["holds"] and row["checked"] == row["agree"] for row in checks.values())
    assert sum(row["checked"] for what, row in checks.items() if what.startswith("verdicts: ")) == 50

    certificate = json.loads((out / "certificate.json").read_text())
    first = next(one for one in certificate["samples"] if one["verdict"] == "falsified")
    first.update(verdict="verified", stage="ibp")
    (out / "certificate.json").write_text(json.dumps(certificate))
    ran = run("verify", str(out))
    assert ran.code == 1
    assert "NOT everything agrees" in ran.out
    assert f"sample {first['index']}: verified, found falsified" in ran.out
    assert ran.err == f"{out} does not hold what it says\n"
    (out / "weights.safetensors").unlink()
    ran = run("verify", str(out))
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "weights.safetensors: No such file" in ran.err


def test_layers_of_a_study_and_what_its_masks_share(run: Any, tmp_path: Path) -> None:
    changes = ["trials=3", "scheduler.kind=none", "space.architecture.hidden=[[24, 24]]"]
    changes += ["sampler=random", "space.sparsity={low: 0.2, high: 0.8}"]
    uri = str(run_to_the_end(load_spec(spec_file(tmp_path, TINY), changes), tmp_path / "small").store.location.local)
    layers = json.loads(run("layers", uri, "--json").out)
    assert [row["layer"] for row in layers] == ["1", "2", "3", "4", "5"] * 3
    assert all(0 < row["density"] <= 1 for row in layers if row["layer"] in "135")
    assert all(0 < row["bound_tightness"] <= 1 for row in layers if row["layer"] in "24")
    assert len(json.loads(run("layers", uri, "--json", "--where", "trial_id = '00001'").out)) == 5
    table = run("layers", uri)
    assert (table.code, table.err) == (0, "")
    assert "15 measurements of layers, 3 trials" in table.out

    pairs = json.loads(run("layers", uri, "--overlap", "--format", "json").out)
    assert [row["layer"] for row in pairs] == ["1", "3", "5", None] * 3
    assert all(row["shared"] <= min(row["kept_a"], row["kept_b"]) for row in pairs)
    densities = {row["trial_id"]: row["density"] for row in layers if row["layer"] == "1"}
    assert pairs[0]["kept_a"] == round(densities[pairs[0]["trial_a"]] * 64 * 24)
    text = run("layers", uri, "--overlap")
    assert text.code == 0
    assert "masks of 3 pairs of completed trials" in text.out
    rows = list(csv.DictReader(io.StringIO(run("layers", uri, "--overlap", "--format", "csv").out)))
    assert len(rows) == 12

    wrong = run("layers", uri, "--where", "layer = '1'")
    assert wrong.code == 2
    assert len(wrong.err.splitlines()) == 1
    (Path(uri) / "checkpoints" / "00001" / "rung-0" / "mask.safetensors").write_bytes(b"")
    damaged = run("layers", uri, "--overlap")
    assert damaged.code == 2
    assert "checkpoints/00001/rung-0 cannot be read: mask.safetensors is not the file" in damaged.err


def at(seconds: float, **columns: Any) -> Record:
    return Record(time=1e9 + seconds, **columns)


def trial_of(number: int, begins: float, spec_seconds: float) -> list[Record]:
    """A trial that is completed ten seconds after it begins."""
    trial_id = f"{number:05d}"
    figures = {"verified_accuracy": 0.5, "sparsity": 0.5, "train_seconds": spec_seconds, "verify_seconds": 1.0}
    report = {"trial_id": trial_id, "split": "validation", "rung": 0, "epoch": 1}
    return [
        at(begins, event="proposed", trial_id=trial_id, config="{}"),
        at(begins + 10, event="report", **report, **figures),
        at(begins + 10, event="decision", trial_id=trial_id, decision="complete", state="completed", rung=0),
    ]


@pytest.mark.parametrize(
    ("limits", "ends_by", "left"),
    [
        ({}, "trials", 40.0),
        ({"compute_seconds": 60}, "compute_seconds", 10.0),
        ({"stagnation": 6}, "stagnation", 15.0),
        ({"compute_seconds": 600, "wall_seconds": 1}, "trials", 40.0),
    ],
)
def test_status_counts_active_time_and_estimates_from_the_newest_session_what_ends_the_study_first(
    run: Any, tmp_path: Path, limits: dict[str, float], ends_by: str, left: float
) -> None:
    uri = str(tmp_path / "study")
    # Ten seconds a trial before a night's break, five seconds a trial after it.
    with Store.create(uri, load_spec("digits", ["trials=12", f"limits={json.dumps(limits)}"]).to_dict()) as store:
        store.append([*trial_of(0, 0, 9.0), *trial_of(1, 10, 9.0)])
    with Store.open(uri, readonly=False) as store:
        store.append([*trial_of(2, 40000, 9.0), *trial_of(3, 40000, 9.0)])
    facts = json.loads(run("status", uri, "--json").out)[0]
    assert facts["seconds_active"] == 30.0
    assert (facts["ends_by"], facts["seconds_left"]) == (ends_by, left)
    assert facts["limits"]["trials"] == {"used": 4, "allowed": 12}
    used = {"compute_seconds": 40.0, "stagnation": 3, "wall_seconds": 10.0}
    for name, allowed in limits.items():
        assert facts["limits"][name] == {"used": used[name], "allowed": allowed}
        assert f"{name}: {used[name]:g} of {allowed}" in run("status", uri).out


def test_status_says_that_a_limit_is_reached_and_how_to_raise_it(run: Any, tmp_path: Path) -> None:
    uri = str(tmp_path / "study")
    with Store.create(uri, load_spec("digits", ["limits.compute_seconds=5"]).to_dict()) as store:
        store.append(trial_of(0, 0, 9.0))
    text = run("status", uri).out.replace("\n", " ")
    assert "limits.compute_seconds is reached: 10 of 5 seconds of training and verification" in text
    assert "--set limits.compute_seconds=20" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "epochs=81", "--set", "ramp.end=0.7"],
            r"epochs 40 -> 81; ramp\.end 0\.6 -> 0\.7 .*sparsevlr",
        ),
        (["--set", "trials=3"], "trials must be at least 40, as many as the study has, got 3"),
        (["--set", "limits.hours=3"], "limits.hours is unknown"),
        (["--spec", "breast-cancer", "--trials", "2"], 'data "digits" -> "breast-cancer"'),
        (["--spec", "missing.yaml"], "missing.yaml"),
    ],
)
def test_what_a_resume_must_not_change_is_refused_in_one_line_and_nothing_is_changed(
    run: Any, study: str, arguments: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in Path(study).rglob("*") if path.is_file()}
    ran = run("resume", study, *arguments)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert re.search(message, ran.err)
    assert {path: path.read_bytes() for path in Path(study).rglob("*") if path.is_file()} == before


def test_a_limit_ends_a_search_and_a_resume_says_how_to_raise_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spec_file(tmp_path, TINY | {"limits": {"compute_seconds": 0.01}, "resources": {"workers": 1}})
    study = str(tmp_path / "studies" / "limited")
    ran = run("search", file, "--name", "limited", "--storage", str(tmp_path / "studies"))
    assert ran.code == 0
    line = next(line for line in ran.err.splitlines() if line.startswith("limits.compute_seconds is reached"))
    assert f"sparsevlr resume {study} --set limits.compute_seconds=" in line
    assert "1 paused" in line
    before = searched(open_study(study))
    assert [row["state"] for row in before] == ["pending", "running", "running"]
    assert open_study(study).events()["decision"].to_pylist()[-1] == "halt"
    refused = run("resume", study)
    assert refused.code == 2
    assert "limits.compute_seconds is reached" in refused.err
    assert "--set limits.compute_seconds=" in refused.err
    assert searched(open_study(study)) == before
    assert run("resume", study, "--set", "limits=null", "--set", "trials=2").code == 2
    resumed = run("resume", study, "--set", "limits={}", "--set", "trials=2")
    assert resumed.code == 0
    monkeypatch.chdir(tmp_path)
    export = next(line.split() for line in resumed.err.splitlines() if " export " in line)
    assert run(*export[1:], "--no-measure").code == 0
    assert run("verify", export[-1]).code == 0
    whole = run_to_the_end(load_spec(file, ["trials=2", "limits={}", "name=limited"]), tmp_path / "whole")
    assert searched(open_study(study)) == searched(whole)
    assert open_study(study).spec["trials"] == 2
