"""From a study to a folder, and back to every verdict in a process that has seen nothing but the folder."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import torch as tensors

from sparsevlr.search.engine import score_on_test
from sparsevlr.spaces import load_dataset
from sparsevlr.spaces.architectures import ARCHITECTURES, architecture_options
from sparsevlr.trainables.export import Check, folder, recheck
from sparsevlr.trainables.pruning import PATTERNS

from .studies import change, exported, last_report, trained

Recheck = Callable[[Path], list[dict[str, Any]]]
PROGRAM = """
import dataclasses, json, pathlib, sys
from sparsevlr.trainables.export import recheck
for line in sys.stdin:
    print(json.dumps([dataclasses.asdict(check) for check in recheck(pathlib.Path(line.strip()))]), flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Recheck]:
    """The checks that another process makes of a folder."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        question, answer = process.stdin, process.stdout

        def ask(out: Path) -> list[dict[str, Any]]:
            question.write(f"{out}\n".encode())
            question.flush()
            return list(json.loads(answer.readline()))

        yield ask
        question.close()


ROUND_TRIPS: dict[str, dict[str, Any]] = {
    **{
        f"pattern {name}, {architecture}": {
            "pattern": name,
            "architecture": architecture,
            "architecture.width": 0.25,
            "sparsity": 0.6,
        }
        for name in PATTERNS
        for architecture in ("mlp", "resnet-small")
    },
    **{
        name: {"architecture": name, "architecture.width": 0.125}
        | ({"architecture.batchnorm": True} if "batchnorm" in (architecture_options(name) or {}) else {})
        for name in ARCHITECTURES
    },
    "averaged weights": {"optimizer.average": 0.9},
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_was_trained_is_what_a_fresh_process_finds(name: str, elsewhere: Recheck, tmp_path: Path) -> None:
    study = trained(tmp_path / "study", ROUND_TRIPS[name])
    out = tmp_path / "out"
    certificate = exported(study, out, split="validation", samples=30)
    # The same samples, seed and stages as in the trial's own report.
    report = last_report(study)
    counts = Counter(sample.verdict for sample in certificate.samples)
    assert [counts[verdict] for verdict in ("verified", "falsified", "unknown")] == [
        report[name] for name in ("n_verified", "n_falsified", "n_unknown")
    ]
    shutil.rmtree(study.uri)
    checks = elsewhere(out)
    assert [check for check in checks if check["agree"] != check["checked"]] == []
    assert sum(check["checked"] for check in checks if check["what"].startswith("verdicts")) == 30
    weights = tensors.load_file(out / folder.WEIGHTS)
    zeros = sum(int((weights[name] == 0).sum()) for name in tensors.load_file(out / folder.MASK))
    assert zeros >= report["total_weights"] - report["nonzero_weights"]


def test_the_stages_of_the_test_split_are_those_of_an_export(elsewhere: Recheck, tmp_path: Path) -> None:
    """And the exact stage's verdicts are found again."""
    stages = ["ibp", "pgd", "crown-ibp", "crown", "alpha-crown", "exact"]
    asked = {"samples": 30, "test_samples": 30, "pgd_steps": 1, "stages": ["ibp"], "test_stages": stages}
    study = trained(tmp_path / "study", {}, epsilon=0.05, verification=asked)
    validation = last_report(study)
    test = score_on_test(study.spec, validation, load_dataset("digits"), study.store.location, False)
    assert validation["n_unknown"] > 0
    assert test.n_unknown == 0
    out = tmp_path / "out"
    certificate = exported(study, out)
    assert list(certificate.cascade.stages) == stages
    decided = Counter(sample.stage for sample in certificate.samples)
    assert decided["exact"] > 0
    checks = elsewhere(out)
    assert [check for check in checks if check["agree"] != check["checked"]] == []
    assert decided == {
        check["what"].removeprefix("verdicts: "): check["checked"]
        for check in checks
        if check["what"].startswith("verdicts")
    }


def test_more_time_than_the_exact_stage_had_contradicts_nothing_and_less_does_not_do(tmp_path: Path) -> None:
    asked = {"samples": 30, "test_samples": 30, "stages": ["ibp", "exact"], "exact_seconds": 1e-9}
    study, out = trained(tmp_path / "study", {}, epsilon=0.05, verification=asked), tmp_path / "out"
    certificate = exported(study, out)
    late = [sample for sample in certificate.samples if "undecided in time" in sample.reason]
    assert late

    def seconds(value: float) -> dict[str, Check]:
        change(out, lambda content: content["cascade"].update(exact_seconds=value))
        return {check.what: check for check in recheck(out)}

    found = seconds(30.0)
    assert all(check.holds for check in found.values())
    assert found["verdicts: unknown"].detail == f"{len(late)} more decided than in the time there was"
    first = late[0].index
    change(
        out,
        lambda content: next(one for one in content["samples"] if one["index"] == first).update(
            verdict="verified", stage="exact", reason=""
        ),
    )
    assert not seconds(1e-9)["verdicts: exact"].holds
