"""From a study to a folder: what is written, and what is not."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import torch as tensors

from sparsevlr.results import ExportError, Record, Store, Study, open_study
from sparsevlr.results.intervals import wilson_interval
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.export import folder, recheck
from sparsevlr.trainables.export.certificate import Certificate
from sparsevlr.trainables.trial import fixed_subset

from .studies import agree, exported, forge, last_report, trained


def read(path: Path, name: str) -> Any:
    return json.loads((path / name).read_bytes())


def test_the_fixture_has_every_verdict(export: Path) -> None:
    certificate = Certificate.from_bytes((export / folder.CERTIFICATE).read_bytes())
    assert {sample.verdict for sample in certificate.samples} == {"verified", "falsified", "unknown"}
    assert {"natural", "ibp", "pgd"} <= {sample.stage for sample in certificate.samples}
    assert agree(recheck(export))


def test_the_folder_holds_the_network_as_it_was_trained(study: Study, export: Path) -> None:
    checkpoint = Checkpoint.load(study.store.location, last_report(study)["checkpoint"])
    weights, mask = (tensors.load_file(export / name) for name in (folder.WEIGHTS, folder.MASK))
    assert weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(weights[name], value) for name, value in checkpoint.weights.items())
    assert all(torch.equal(mask[name], value) for name, value in checkpoint.mask.items())
    assert not list(export.rglob("*.pkl")) + list(export.rglob("*.pt"))


def test_the_samples_are_the_seeded_ones_of_the_split(study: Study, export: Path, digits: Dataset) -> None:
    certificate = Certificate.from_bytes((export / folder.CERTIFICATE).read_bytes())
    assert [sample.index for sample in certificate.samples] == fixed_subset(len(digits.test), 100, "test")
    samples = tensors.load_file(export / folder.SAMPLES)
    chosen = [sample.index for sample in certificate.samples]
    assert np.array_equal(samples["inputs"].numpy(), digits.test.x[chosen])
    assert samples["labels"].tolist() == digits.test.y[chosen].tolist()


def test_the_card_says_where_the_network_comes_from(study: Study, export: Path, digits: Dataset) -> None:
    card, report = read(export, folder.CARD), last_report(study)
    assert (card["study"], card["trial"], card["epsilon"]) == ("mlp", "00000", 0.03)
    assert card["data"]["splits"] == {name: len(split) for name, split in digits.splits().items()}
    assert card["configuration"] == json.loads(report["config"])
    assert [row["trial_id"] for row in card["lineage"]] == ["00000"]
    assert card["sparsity"]["sparsity"] == report["sparsity"]
    assert card["compacted"]["macs"] == report["macs"]
    verified = card["accuracy"]["validation"]["verified_accuracy"]
    assert verified["value"] == report["verified_accuracy"]
    assert (verified["low"], verified["high"]) == wilson_interval(report["n_verified"], report["samples"])
    assert "test" not in card["accuracy"]
    assert {"torch", "onnx", "onnxruntime", "sparsevlr"} <= card["versions"]["export"].keys()
    page = (export / folder.README).read_text()
    assert f"{report['sparsity']:.2%}" in page
    assert f"| validation | 30 | {report['natural_accuracy']:.1%}" in page


def test_the_card_tells_what_the_network_costs_where_it_runs(tmp_path: Path) -> None:
    hidden = {"choices": [[256, 256]]}
    space = {"architecture.hidden": hidden, "sparsity": 0.95, "pattern": "filter"}
    exported(trained(tmp_path / "study", space), tmp_path / "out", samples=10, measure=True)
    cost = json.loads((tmp_path / "out" / folder.CARD).read_bytes())["deployed"]
    sparse, dense = cost["exported"], cost["dense"]
    assert sparse["file_bytes"] == (tmp_path / "out" / folder.MODEL).stat().st_size < dense["file_bytes"]
    assert sparse["macs"] < 0.2 * dense["macs"]
    assert dense["macs"] == 64 * 256 + 256 * 256 + 256 * 10
    assert all(sparse["latency_seconds"][batch] > 0 for batch in ("1", "64"))
    # The dense model alone is 340 kB of weights.
    assert 300_000 < dense["peak_memory_bytes"] < 1e9
    assert "| bytes on disk |" in (tmp_path / "out" / folder.README).read_text()
    assert agree(recheck(tmp_path / "out"))


def test_figures_on_test_are_told_where_they_were_measured(study: Study, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study.uri, tmp_path / "mlp"))
    report = last_report(study) | {"event": "report", "state": "completed", "split": "test", "verified_accuracy": 0.4}
    with Store.open(copy, readonly=False) as store:
        store.append([Record(**report)])
    exported(open_study(copy), tmp_path / "out", samples=10)
    assert read(tmp_path / "out", folder.CARD)["accuracy"]["test"]["verified_accuracy"]["value"] == 0.4


def parsed(text: str) -> tuple[dict[str, list[float]], list[tuple[int, int]]]:
    """Bounds of each input, and pairs of outputs of the disjunction, of a VNN-LIB file; anything else fails."""
    bounds: dict[str, list[float]] = {}
    pairs: list[tuple[int, int]] = []
    for line in text.splitlines():
        if re.fullmatch(r";.*|\(declare-const [XY]_\d+ Real\)|", line):
            continue
        if found := re.fullmatch(r"\(assert \((<=|>=) (X_\d+) (-?\d+\.\d+)\)\)", line):
            ends = bounds.setdefault(found[2], [])
            assert found[1] == ("<=" if ends else ">=")
            ends.append(float(found[3]))
        else:
            found = re.fullmatch(r"\(assert \(or (.*)\)\)", line)
            assert found, line
            assert re.fullmatch(r"(\(and \(>= Y_\d+ Y_\d+\)\) ?)+", found[1])
            assert not pairs
            pairs = [(int(a), int(b)) for a, b in re.findall(r"\(>= Y_(\d+) Y_(\d+)\)", found[1])]
    return bounds, pairs


def test_properties_are_the_boxes_of_samples(export: Path) -> None:
    certificate = Certificate.from_bytes((export / folder.CERTIFICATE).read_bytes())
    inputs = tensors.load_file(export / folder.SAMPLES)["inputs"]
    where = {sample.index: position for position, sample in enumerate(certificate.samples)}
    lines = (export / folder.INSTANCES).read_text().splitlines()
    assert len(lines) == 10
    for line in lines:
        network, name, seconds = line.split(",")
        assert (network, int(seconds)) == (folder.MODEL, 300)
        position = where[int(re.fullmatch(r"vnnlib/sample-(\d+)\.vnnlib", name)[1])]  # type: ignore[index]
        sample = certificate.samples[position]
        assert sample.stage != "natural"
        text = (export / name).read_text()
        bounds, pairs = parsed(text)
        assert text.count("declare-const X") == len(bounds) == 64
        assert text.count("declare-const Y") == 10
        x = inputs[position].double().numpy().ravel()
        found = np.array([bounds[f"X_{index}"] for index in range(64)])
        assert np.array_equal(found, np.clip(np.stack([x - 0.03, x + 0.03], 1), 0.0, 1.0))
        assert pairs == [(other, sample.label) for other in range(10) if other != sample.label]


def test_radii_that_differ_between_features_are_taken_along(tmp_path: Path) -> None:
    rows = [[float(row % 3 > 0)] for row in range(8)]
    study = trained(tmp_path / "study", {"architecture.hidden": [12], "sparsity": 0.5}, epsilon_scale=rows, epochs=3)
    certificate = exported(study, tmp_path / "out", properties=1)
    assert agree(recheck(tmp_path / "out"))
    bounds, _ = parsed(next((tmp_path / "out" / "vnnlib").iterdir()).read_text())
    moves = np.array([high > low for low, high in (bounds[f"X_{index}"] for index in range(64))]).reshape(8, 8)
    assert not moves[::3].any()
    assert moves[1::3].all()
    # With the same radius everywhere more can be attacked.
    path = tmp_path / "out"
    samples = tensors.load_file(path / folder.SAMPLES)
    forge(path, folder.SAMPLES, tensors.save(samples | {"scale": torch.ones(1, 8, 8)}))
    assert not agree(recheck(path))
    forge(path, folder.SAMPLES, tensors.save(samples | {"scale": -samples["scale"]}))
    with pytest.raises(ExportError, match=r"samples.safetensors must hold a finite scale"):
        recheck(path)
    forge(path, folder.SAMPLES, tensors.save(samples | {"scale": torch.ones(8, 8)}))
    with pytest.raises(ExportError, match="must hold a float32 scale of shape"):
        recheck(path)
    assert "epsilon_scale" in (path / folder.README).read_text()
    assert certificate.epsilon == 0.03


def test_all_samples_and_no_properties(study: Study, tmp_path: Path, digits: Dataset) -> None:
    certificate = exported(study, tmp_path / "out", samples=None, properties=0)
    assert [sample.index for sample in certificate.samples] == list(range(len(digits.test)))
    assert not (tmp_path / "out" / "vnnlib").exists()
    assert agree(recheck(tmp_path / "out"))


def test_a_folder_that_is_there_is_left_alone(study: Study, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for taken in (tmp_path, tmp_path / "mine.txt", tmp_path / "link", tmp_path / "mine.txt" / "below"):
        with pytest.raises(ExportError, match="give a"):
            exported(study, taken, samples=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "mine.txt"]
    exported(study, tmp_path / "empty", samples=5)
    assert agree(recheck(tmp_path / "empty"))


def test_a_disk_that_fails_leaves_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(folder, "sync_folder", full)
    with pytest.raises(ExportError, match=r"cannot export to .*No space left"):
        exported(study, tmp_path / "out", samples=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("event", ["none", "stop"])
def test_only_completed_trials_are_exported(study: Study, tmp_path: Path, event: str) -> None:
    copy = Path(shutil.copytree(study.uri, tmp_path / "study"))
    with Store.open(copy, readonly=False) as store:
        store.append([Record(event="proposed", trial_id="00001", config="{}", seed=1)])
        if event == "stop":
            store.append([Record(event="decision", trial_id="00001", decision="stop", state="stopped")])
    wanted = {"none": "pending", "stop": "stopped"}[event]
    with pytest.raises(ExportError, match=f"trial 00001 is {wanted}: only completed"):
        exported(open_study(copy), tmp_path / "out", trial_id="00001")
    with pytest.raises(ExportError, match="no trial '7'"):
        exported(open_study(copy), tmp_path / "out", trial_id="7")
    assert not (tmp_path / "out").exists()


def test_a_changed_checkpoint_is_not_exported(study: Study, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study.uri, tmp_path / "study"))
    file = copy / last_report(study)["checkpoint"] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ExportError, match=r"weights\.safetensors is not the file that was written"):
        exported(open_study(copy), tmp_path / "out")


def test_a_checkpoint_of_another_configuration_is_not_exported(study: Study, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study.uri, tmp_path / "study"))
    file = copy / last_report(study)["checkpoint"] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "0" * 16}))
    with pytest.raises(ExportError, match="trial 00000 is of another configuration: 0000"):
        exported(open_study(copy), tmp_path / "out", samples=5)
