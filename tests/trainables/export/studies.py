"""Studies of one trial, their exports, and what a check of these says."""

import json
import shutil
from pathlib import Path
from typing import Any

from sparsevlr.results import Study
from sparsevlr.spaces import StudySpec
from sparsevlr.trainables.export import Certificate, Check, export_trial
from sparsevlr.trainables.export.folder import CERTIFICATE, digest

from ...search.one_worker import run_to_the_end

SPEC: dict[str, Any] = {
    "data": "digits",
    "epsilon": 0.03,
    "epochs": 1,
    "ramp": {"start": 0.0, "end": 0.5},
    "trials": 1,
    "scheduler": {"kind": "none"},
    "verification": {"samples": 30, "test_samples": 30, "pgd_steps": 5},
}
SPACE: dict[str, Any] = {
    "architecture": "mlp",
    "sparsity": 0.8,
    "schedule": "one-shot",
    "schedule.at": 0.0,
    "optimizer.learning_rate": 0.01,
}


def trained(path: Path, space: dict[str, Any], **changes: Any) -> Study:
    """A study of one completed trial, `00000`."""
    return run_to_the_end(StudySpec.from_dict(SPEC | changes | {"space": SPACE | space}), path)


def exported(study: Study, out: Path, trial_id: str = "00000", **options: Any) -> Certificate:
    return export_trial(study, trial_id, out, **{"split": "test", "samples": 1000, "properties": 10} | options)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its digest in the certificate with it."""
    (folder / name).write_bytes(content)
    change(folder, lambda certificate: certificate["sha256"].update({name: digest(content)}))


def change(folder: Path, how: Any) -> None:
    """Change the JSON of the certificate."""
    content = json.loads((folder / CERTIFICATE).read_bytes())
    how(content)
    (folder / CERTIFICATE).write_text(json.dumps(content))


def last_report(study: Study) -> dict[str, Any]:
    row: dict[str, Any] = study.trials().to_pylist()[0]
    return row


def agree(checks: list[Check]) -> bool:
    return all(check.holds for check in checks)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks}
