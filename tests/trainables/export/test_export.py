"""From a study to a folder, and from the folder alone back to every verdict."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors import torch as tensors
from torch import nn

from sparsevlr.results import ExportError, Record, Store, Study, open_study
from sparsevlr.results.intervals import wilson_interval
from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.export import Check, folder, recheck
from sparsevlr.trainables.export.certificate import Certificate
from sparsevlr.trainables.export.structure import described
from sparsevlr.trainables.trial import fixed_subset
from sparsevlr.trainables.verification import SoundnessError

from .studies import change, copied, exported, forge, last_report, trained


def read(path: Path, name: str) -> Any:
    return json.loads((path / name).read_bytes())


def agree(checks: list[Check]) -> bool:
    return all(check.holds for check in checks)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks}


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


def test_the_claim_is_told_and_must_be_that_of_the_card_and_the_properties(export: Path, tmp_path: Path) -> None:
    path = copied(export, tmp_path)
    checks = {check.what: check for check in recheck(path)}
    assert re.match(r"epsilon 0.03 in \[0, 1\]: \d+ verified, \d+ falsified, \d+ unknown", checks["claim"].detail)
    card = json.loads((path / folder.CARD).read_bytes())
    forge(path, folder.CARD, json.dumps(card | {"epsilon": 0.3}).encode())
    name = next((path / "vnnlib").iterdir()).name
    forge(path, f"vnnlib/{name}", (path / "vnnlib" / name).read_bytes().replace(b"Y_1", b"Y_2"))
    checks = {check.what: check for check in recheck(path)}
    assert checks["files"].holds
    assert checks["claim"].differing == ("epsilon: 0.3 in the card, 0.03",)
    assert checks["properties"].differing == (f"vnnlib/{name} is not the property of its sample",)
    listed = (path / folder.INSTANCES).read_bytes()
    forge(path, folder.INSTANCES, listed.replace(b"300", b"3", 1))
    assert by_name(recheck(path))["properties"].differing[1] == "instances.csv does not list them"
    forge(path, folder.INSTANCES, listed)
    (path / folder.CARD).write_text("[]")
    assert not {check.what: check for check in recheck(path)}["claim"].holds


def test_counterexamples_must_be_such(export: Path, tmp_path: Path) -> None:
    path = copied(export, tmp_path)
    certificate = Certificate.from_bytes((path / folder.CERTIFICATE).read_bytes())
    where = [index for index, sample in enumerate(certificate.samples) if sample.verdict == "falsified"]
    attacked = next(index for index in where if certificate.samples[index].stage == "pgd")
    # The loaded ones are a view of the file, which is written anew below.
    samples = {name: values.clone() for name, values in tensors.load_file(path / folder.SAMPLES).items()}
    position = where.index(attacked)
    checks = {check.what: check for check in recheck(path)}
    assert (checks["counterexamples"].checked, checks["counterexamples"].differing) == (len(where), ())
    number = certificate.samples[attacked].index
    natural = samples["inputs"][attacked]
    farther = natural + 1.01 * (samples["counterexamples"][position] - natural)
    for point, reason in ((natural, "is of the same class"), (farther, "lies beyond epsilon")):
        points = samples["counterexamples"].clone()
        points[position] = point
        forge(path, folder.SAMPLES, tensors.save(samples | {"counterexamples": points}))
        checks = {check.what: check for check in recheck(path)}
        assert checks["counterexamples"].differing == (f"sample {number}: {reason}",)
    forge(path, folder.SAMPLES, tensors.save(samples | {"counterexamples": samples["counterexamples"][1:].clone()}))
    assert not {check.what: check for check in recheck(path)}["counterexamples"].holds
    forge(path, folder.SAMPLES, tensors.save(samples | {"counterexamples": samples["labels"].clone()}))
    with pytest.raises(ExportError, match="must hold float32 counterexamples of the inputs' shape"):
        recheck(path)


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


def flipped(path: Path, name: str) -> bytes:
    """The file with its largest weight, or one of its inputs, changed."""
    content = tensors.load_file(path / name)
    key = "inputs" if name == folder.SAMPLES else max(content, key=lambda one: content[one].numel())
    values = content[key]
    position = values.abs().flatten().argmax() if values.dtype.is_floating_point else values.int().argmax()
    values.flatten()[position] = ~values.flatten()[position] if values.dtype == torch.bool else 0.0
    return tensors.save(content)


def weaker_model(path: Path) -> bytes:
    model = onnx.load(path / folder.MODEL)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight"))
    weight.raw_data = (np.frombuffer(weight.raw_data, "<f4") * np.float32(0.5)).tobytes()
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("name", folder.HASHED)
def test_a_file_that_was_changed_is_named(export: Path, tmp_path: Path, name: str) -> None:
    path = copied(export, tmp_path)
    content = (path / name).read_bytes()
    forged = (
        flipped(path, name) if name.endswith("safetensors") else content + (b"\n" if name.endswith("json") else b"")
    )
    (path / name).write_bytes(weaker_model(path) if name == folder.MODEL else forged)
    check = by_name(recheck(path))["files"]
    assert (check.checked - check.agree, check.differing) == (1, (f"{name} is not the file that was written",))


def test_a_digest_that_was_changed_is_found(export: Path, tmp_path: Path) -> None:
    path = copied(export, tmp_path)
    change(path, lambda content: content["sha256"].update({folder.CARD: "0" * 64}))
    assert by_name(recheck(path))["files"].differing == (f"{folder.CARD} is not the file that was written",)


def test_forged_weights_masks_and_networks_are_found_by_what_they_give(export: Path, tmp_path: Path) -> None:
    for number, (name, found) in enumerate(
        {
            folder.WEIGHTS: "outputs: weights and mask, compacted",
            folder.MASK: "mask",
            folder.MODEL: "outputs: weights and mask, compacted",
        }.items()
    ):
        path = copied(export, tmp_path / str(number))
        forge(path, name, weaker_model(path) if name == folder.MODEL else flipped(path, name))
        checks = by_name(recheck(path))
        assert checks["files"].holds
        assert not checks[found].holds


def test_forged_samples_labels_verdicts_and_margins_are_found(export: Path, tmp_path: Path) -> None:
    certificate = Certificate.from_bytes((export / folder.CERTIFICATE).read_bytes())
    unknown = next(place for place, sample in enumerate(certificate.samples) if sample.verdict == "unknown")
    wrong = next(place for place, sample in enumerate(certificate.samples) if sample.stage == "natural")
    proved = next(place for place, sample in enumerate(certificate.samples) if sample.verdict == "verified")

    def forged(how: Callable[[Any], None]) -> dict[str, Check]:
        path = copied(export, tmp_path)
        change(path, lambda content: how(content["samples"]))
        checks = by_name(recheck(path))
        shutil.rmtree(path)
        assert not agree(list(checks.values()))
        return checks

    checks = forged(lambda samples: samples[unknown].update(verdict="verified", stage="ibp"))
    index = certificate.samples[unknown].index
    assert checks["verdicts: ibp"].differing == (f"sample {index}: verified, found unknown",)
    checks = forged(lambda samples: samples[wrong].update(verdict="verified", stage="crown"))
    assert checks["verdicts: crown"].differing[0].endswith("verified, found falsified (natural)")
    checks = forged(lambda samples: samples[proved].update(margin=samples[proved]["margin"] + 1))
    assert [len(check.differing) for check in checks.values() if not check.holds] == [1]
    assert not checks["margins"].holds
    checks = forged(lambda samples: samples[proved].update(margin=samples[proved]["margin"] + 1, stage="crown"))
    assert not checks["margins"].holds
    late = {"verdict": "unknown", "stage": "", "margin": None, "reason": "exact: undecided in time"}
    checks = forged(lambda samples: samples[wrong].update(late))
    assert checks["verdicts: unknown"].differing[0].endswith("unknown, found falsified (natural)")
    checks = forged(lambda samples: samples[proved].update(label=samples[proved]["label"] ^ 1))
    assert not checks["labels"].holds

    path = copied(export, tmp_path)
    samples = tensors.load_file(path / folder.SAMPLES)
    samples["inputs"][proved] = samples["inputs"][wrong]
    forge(path, folder.SAMPLES, tensors.save(samples))
    assert not by_name(recheck(path))["verdicts: ibp"].holds


OF_KIND = {
    type(layer).__name__: described(layer)
    for layer in (
        *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        *(nn.Flatten(), nn.Dropout(0.5), Reshape((4, 4))),
    )
}


def with_option(kind: str, option: str, value: object) -> Callable[[Path], None]:
    """A network of one layer, an option of which is no such thing."""
    layer = OF_KIND[kind] | {"options": OF_KIND[kind]["options"] | {option: value}}
    content = json.dumps({"type": "Sequential", "layers": {"0": layer}}).encode()
    return lambda path: forge(path, folder.NETWORK, content)


class Opened:
    """What a pickle would do."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch pickled",))


def test_a_verdict_that_an_attack_refutes_is_told(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsound(*arguments: Any, **options: Any) -> Any:
        raise SoundnessError(3, "ibp")

    monkeypatch.setattr("sparsevlr.trainables.export.rechecking.verify", unsound)
    (check,) = (check for check in recheck(export) if not check.holds)
    assert check.what == "soundness"
    assert "sample 3 was verified by stage 'ibp'" in check.differing[0]


HUGE = (1 << 62).to_bytes(8, "little")


def header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda path: shutil.rmtree(path), r"certificate\.json: No such file"),
    "a missing file": (lambda path: (path / folder.MODEL).unlink(), r"model\.onnx: No such file"),
    "a pickle for weights": (
        lambda path: forge(path, folder.WEIGHTS, pickle.dumps(Opened())),
        r"weights\.safetensors: it is no safetensors file",
    ),
    "a pickle for samples": (
        lambda path: forge(path, folder.SAMPLES, pickle.dumps(Opened())),
        r"samples\.safetensors: it is no safetensors file",
    ),
    "a pickle for the network": (lambda path: forge(path, folder.MODEL, pickle.dumps(Opened())), r"model\.onnx: "),
    "a pickle for the certificate": (
        lambda path: (path / folder.CERTIFICATE).write_bytes(pickle.dumps(Opened())),
        "certificate.json: it is no JSON",
    ),
    "a huge header": (lambda path: forge(path, folder.WEIGHTS, HUGE), "no safetensors file"),
    "a huge tensor": (
        lambda path: forge(
            path, folder.MASK, header({"x": {"dtype": "BOOL", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}})
        ),
        r"mask\.safetensors: it is no safetensors file",
    ),
    "another path": (
        lambda path: change(path, lambda content: content["sha256"].update({"../../secret": "0" * 64})),
        r"sha256 names '\.\./\.\./secret', which is no file of an export",
    ),
    "another path below": (
        lambda path: change(path, lambda content: content["sha256"].update({"vnnlib/../../x.vnnlib": "0" * 64})),
        "which is no file of an export",
    ),
    "a link": (
        lambda path: ((path / folder.MODEL).unlink(), (path / folder.MODEL).symlink_to("/etc/passwd")),
        r"model\.onnx leads elsewhere",
    ),
    "a folder that is a link": (
        lambda path: (shutil.rmtree(path / "vnnlib"), (path / "vnnlib").symlink_to("/etc")),
        "leads elsewhere",
    ),
    "a pipe": (
        lambda path: ((path / folder.MODEL).unlink(), os.mkfifo(path / folder.MODEL)),
        r"model\.onnx must be a file",
    ),
    "a folder for a file": (
        lambda path: ((path / folder.MODEL).unlink(), (path / folder.MODEL).mkdir()),
        r"model\.onnx",
    ),
    "a file larger than memory": (
        lambda path: os.truncate(path / folder.MODEL, 1 << 40),
        r"model\.onnx may have at most",
    ),
    "deep JSON": (
        lambda path: (path / folder.CERTIFICATE).write_text("[" * 100_000),
        r"certificate\.json: it is nested more than 200 deep",
    ),
    "NaN": (lambda path: change(path, lambda content: content.update(epsilon=float("nan"))), "no JSON"),
    "a newer version": (lambda path: change(path, lambda content: content.update(version=2)), "has version 2"),
    "no verdict": (
        lambda path: change(path, lambda content: content["samples"][0].update(verdict="perhaps")),
        r"samples\[0\]\.verdict must be one of unknown, verified, falsified, got 'perhaps'",
    ),
    "no stage": (
        lambda path: change(path, lambda content: content["samples"][0].update(verdict="verified", stage="oath")),
        "the stage of sample .* got 'oath'",
    ),
    "one sample twice": (
        lambda path: change(path, lambda content: content["samples"][1].update(index=content["samples"][0]["index"])),
        "every sample must be of an index of its own, got [0-9]+ twice",
    ),
    "fewer verdicts": (lambda path: change(path, lambda content: content["samples"].pop()), "as many as"),
    "steps without end": (
        lambda path: change(path, lambda content: content["cascade"].update(alpha_iterations=10_001)),
        "cascade.alpha_iterations must be at most 10000",
    ),
    "an unknown stage": (
        lambda path: change(path, lambda content: content["cascade"].update(stages=["ibp", "oath"])),
        "cascade.*'oath'",
    ),
    "an unknown option": (
        lambda path: change(path, lambda content: content["cascade"].update(colour=1)),
        "cascade.colour is unknown",
    ),
    "an option of another type": (
        lambda path: change(path, lambda content: content["cascade"].update(audit=1.5)),
        r"cascade\.audit must be a whole number|cascade\.audit .*1\.5",
    ),
    "no radius": (lambda path: change(path, lambda content: content.update(epsilon=0)), "epsilon must be above 0"),
    "a range that does not hold the samples": (
        lambda path: change(path, lambda content: content.update(high=0.5)),
        r"samples\.safetensors: every input must lie in the input range",
    ),
    "an unknown layer": (
        lambda path: forge(path, folder.NETWORK, b'{"type": "Sequential", "layers": {"0": {"type": "LSTM"}}}'),
        r"network\.json: 'LSTM' with these options is no known layer",
    ),
    "a layer without end": (
        lambda path: forge(
            path,
            folder.NETWORK,
            (path / folder.NETWORK).read_bytes().replace(b'"in_features": 64', b'"in_features": 900000000'),
        ),
        r"network\.json: tensor '1\.weight' must be torch\.float32 of shape \(12, 900000000\)",
    ),
    **{
        f"{option} of a {kind}": (with_option(kind, option, value), rf"network\.json: {option} of a {kind} cannot be ")
        for kind, option, value in [
            ("MaxPool2d", "stride", [2.5, 2]),
            ("MaxPool2d", "kernel_size", [1]),
            ("AvgPool2d", "count_include_pad", 0),
            ("Conv2d", "stride", 0),
            ("Conv2d", "padding", -1),
            ("BatchNorm2d", "eps", -1.0),
            ("BatchNorm2d", "momentum", [1]),
            ("Flatten", "start_dim", None),
            ("Reshape", "shape", [[1]]),
            ("Dropout", "p", True),
        ]
    },
    "other weights": (
        lambda path: forge(path, folder.WEIGHTS, tensors.save({"x": torch.zeros(1)})),
        r"network\.json: layers and weights must have the same tensors",
    ),
    "a mask of other layers": (
        lambda path: forge(path, folder.MASK, tensors.save({"x": torch.zeros(1, dtype=torch.bool)})),
        r"mask\.safetensors: the mask covers \['x'\]",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = copied(export, tmp_path)
    spoil, message = HOSTILE[how]
    spoil(path)
    with pytest.raises(ExportError, match=message) as refused:
        recheck(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "pickled").exists()
