"""Exports of which something was changed: what the check of a folder finds."""

import json
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

from sparsevlr.results import ExportError
from sparsevlr.trainables.export import Check, folder, recheck
from sparsevlr.trainables.export.certificate import Certificate
from sparsevlr.trainables.verification import SoundnessError

from .studies import agree, by_name, change, copied, forge


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


def test_a_verdict_that_an_attack_refutes_is_told(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsound(*arguments: Any, **options: Any) -> Any:
        raise SoundnessError(3, "ibp")

    monkeypatch.setattr("sparsevlr.trainables.export.rechecking.verify", unsound)
    (check,) = (check for check in recheck(export) if not check.holds)
    assert check.what == "soundness"
    assert "sample 3 was verified by stage 'ibp'" in check.differing[0]
