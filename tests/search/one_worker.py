"""A study driven by one worker without Ray: what any study of one worker must come to."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from sparsevlr.results import Study, open_study
from sparsevlr.results.paths import STUDY_FILE
from sparsevlr.results.record import from_table
from sparsevlr.results.store import Store
from sparsevlr.search.study_run import StudyRun
from sparsevlr.spaces import StudySpec, load_dataset
from sparsevlr.trainables.trial import Trial

TIMES = {"time", "train_seconds", "verify_seconds", "shared_seconds"}


def run_to_the_end(spec: StudySpec, path: Path) -> Study:
    """Run or resume the study at `path`, one trial after the other; an error of its storage comes out."""
    new = not path.exists()
    data = load_dataset(spec.data)
    with Store.create(path, spec.to_dict()) if new else Store.open(path, readonly=False) as store:
        run = StudyRun(spec, store)
        run.replay(from_table(Study(store).events()))
        while (assignment := run.next_trial()) is not None:
            run.started(assignment.config.trial_id)
            trial = Trial(assignment.config, spec, data, location=store.location)
            if assignment.checkpoint is not None:
                trial.restore(assignment.checkpoint)
            while run.reported(trial.advance()) == "continue":
                pass
    return open_study(path)


def gone_on(study: Path, spec: StudySpec, whole: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events of a study that was cut, once it has gone on as far as `spec` says, and of one that never was."""
    uncut = searched(run_to_the_end(spec, whole))
    assert 0 < len(searched(open_study(study))) < len(uncut)
    shutil.copy(whole / STUDY_FILE, study / STUDY_FILE)
    return searched(run_to_the_end(spec, study)), uncut


def searched(study: Study) -> list[dict[str, Any]]:
    """The events of the search proper, times aside; a trial that was halted and went on counts as one that went on."""
    events: pa.Table = study.events()
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in events.to_pylist()
        if row["split"] != "test" and row["decision"] != "halt"
    ]
