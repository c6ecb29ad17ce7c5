"""Exports of a study by L2."""

import json
from pathlib import Path

import pytest
from safetensors import torch as tensors

from sparsevlr.results import ExportError, Study
from sparsevlr.results.plot import front_figure
from sparsevlr.search.tables import front_table
from sparsevlr.trainables.export import folder, recheck
from sparsevlr.trainables.export.certificate import Certificate

from .studies import change, copied, exported, forge, trained


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    space = {"architecture.hidden": [12], "schedule.at": 0.1, "sparsity": 0.7}
    return trained(tmp_path_factory.mktemp("studies") / "l2", space, norm="l2", epsilon=0.15, epochs=12)


@pytest.fixture(scope="module")
def export(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "l2"
    exported(study, out, samples=100, properties=3)
    return out


def certificate_of(path: Path) -> Certificate:
    return Certificate.from_bytes((path / folder.CERTIFICATE).read_bytes())


def checks_of(path: Path) -> dict[str, tuple[str, ...]]:
    return {check.what: check.differing for check in recheck(path)}


def test_it_says_by_what_norm_and_agrees(study: Study, export: Path) -> None:
    certificate = certificate_of(export)
    assert certificate.norm == "l2"
    assert {sample.verdict for sample in certificate.samples} >= {"verified", "falsified"}
    assert not any(checks_of(export).values())
    claim = next(check for check in recheck(export) if check.what == "claim")
    assert claim.detail.startswith("epsilon 0.15 by L2 in [0, 1]: ")
    assert "epsilon: 0.15 by L2 (in units" in (export / folder.README).read_text()
    assert json.loads((export / folder.CARD).read_bytes())["norm"] == "l2"
    assert not (export / "vnnlib").exists()
    assert not (export / folder.INSTANCES).exists()
    assert "vnnlib" not in (export / folder.README).read_text()
    front = front_table(study.pareto_front(), None, study.objectives, 120, study.by_norm)
    assert "epsilon 0.15 by L2" in str(front.title)
    (axes,) = front_figure(study.trials(), study.pareto_front(), study.objectives, by_norm=study.by_norm).axes
    assert "epsilon 0.15 by L2" in axes.texts[0].get_text()


def test_the_norm_belongs_to_the_claim(export: Path, tmp_path: Path) -> None:
    path = copied(export, tmp_path)
    change(path, lambda certificate: certificate.update(norm="linf"))
    found = checks_of(path)
    assert found["claim"] == ("norm: 'l2' in the card, 'linf'",)
    # By Linf the same epsilon is far more to ask for.
    assert any(story for what, story in found.items() if what.startswith("verdicts: "))
    change(path, lambda certificate: certificate.update(norm="l1"))
    with pytest.raises(ExportError, match="norm"):
        recheck(path)
    change(path, lambda certificate: certificate.update(norm="l2"))
    change(path, lambda certificate: certificate["cascade"].update(stages=["ibp", "exact"]))
    with pytest.raises(ExportError, match=r"cascade\.stages has exact, .*: norm must be linf, got l2"):
        recheck(path)


def test_counterexamples_beyond_the_ball_are_found(export: Path, tmp_path: Path) -> None:
    """Though they are within the box around it."""
    path = copied(export, tmp_path)
    certificate = certificate_of(path)
    falsified = [index for index, sample in enumerate(certificate.samples) if sample.verdict == "falsified"]
    samples = {name: values.clone() for name, values in tensors.load_file(path / folder.SAMPLES).items()}
    natural, points = samples["inputs"][falsified], samples["counterexamples"]
    farther = (natural + 1.2 * (points - natural)).clamp(0, 1)
    beyond = (farther - natural).flatten(1).norm(dim=1) > 0.151
    assert bool(beyond.any())
    assert float((farther - natural).abs().max()) < 0.15
    forge(path, folder.SAMPLES, tensors.save(samples | {"counterexamples": farther}))
    wanted = [certificate.samples[index].index for index, far in zip(falsified, beyond.tolist(), strict=True) if far]
    assert checks_of(path)["counterexamples"] == tuple(f"sample {index}: lies beyond epsilon" for index in wanted)


def test_a_certificate_without_a_norm_is_one_by_linf() -> None:
    old = {
        "split": "test",
        "epsilon": 0.1,
        "low": 0.0,
        "high": 1.0,
        "cascade": {},
        "seed": 0,
        "samples": [{"index": 0, "label": 0, "verdict": "unknown", "stage": "", "margin": None}],
        "sha256": dict.fromkeys(folder.HASHED, "0" * 64),
    }
    assert Certificate(**old).norm == "linf"  # type: ignore[arg-type]
