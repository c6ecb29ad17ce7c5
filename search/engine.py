"""Launching and resuming a study on Ray, and what follows the last trial."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from ..results import Record, StorageError, Store, Study, StudyError, open_study
from ..results.location import Location, below, locate, storage_errors, to_type
from ..results.paths import plot_path
from ..results.untrusted import inside
from ..spaces import SpecError, StudySpec, TrialConfig, change_spec, check_changes
from ..spaces.datasets import Dataset, load_dataset
from ..trainables import Trial, check_space
from ..trainables.errors import CheckpointError, TrialError
from ..trainables.ray_trainable import Overdue, RayTrial, failed_record, in_time, sees, settle_torch
from .cluster import as_trials_run, check_resources, cluster, last_line, terminable, trial_resources, without_aws_keys
from .ray_adapters import StudyCallback, StudyScheduler, StudySearcher
from .study_run import StudyRun

MOST_PENDING = 10_000
"""Trials that Ray may ask for ahead: more than there will ever be slots, which the searcher keeps to."""
POLL_SECONDS = 5.0
NO_ROOM_SECONDS = 60.0
"""How long a front waits for a node to be measured on, at a limit of the study."""

Observer = Callable[[StudyRun], None]
"""Called when a study begins to run and after each of its events, for a display."""


def search(
    spec: StudySpec,
    uri: str,
    *,
    address: str | None = None,
    ship: bool = True,
    data_dir: str | None = None,
    allow_code: bool = False,
    observe: Observer = lambda run: None,
) -> Study:
    """Run a new study to its end, or to one of its limits, and score its front on the test split.

    Args:
        spec: what to search.
        uri: where the study shall live, STORAGE/NAME; a path or any pyarrow URI.
        address: of a running Ray cluster; None starts one on this machine and ends it afterwards.
        ship: whether workers of that cluster get this package from here; else it has to be installed on every node.
        data_dir: where data files are looked for first.
        allow_code: whether `module:function` in the spec may run.
        observe: for a display.

    Returns:
        The study.

    Raises:
        SpecError: the spec is impossible, or does not fit its data.
        StudyError: the study exists already; or its front could not be measured on the test split, for want of workers
            that live, which `resume` does then.
        StorageError: its storage fails, now or later: it can be resumed then.
    """
    data = checked_data(spec, data_dir, allow_code)
    check_resources(spec, address)
    with Store.create(uri, spec.to_dict()) as store, store.lead() as leading:
        run = StudyRun(spec, store, on_change=observe, may_write=leading.check)
        try:
            _run(run, store, data, observe, uri=uri, address=address, ship=ship, allow_code=allow_code)
        except SpecError:
            # A node cannot run it: the same command shall do once that is mended.
            leading.check()
            store.withdraw()
            raise
    return open_study(uri)


def resume(
    uri: str,
    *,
    more_trials: int = 0,
    spec: StudySpec | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    ship: bool = True,
    data_dir: str | None = None,
    allow_code: bool = False,
    observe: Observer = lambda run: None,
) -> Study:
    """Go on with a study that was interrupted or came to a limit, or extend one that is finished.

    Everything comes from the store: what was reported is neither lost nor done again, unfinished trials go on from
    their last checkpoint, and sampler and rungs continue as if nothing had happened.

    Args:
        uri: the study.
        more_trials: how many trials to add to those it was meant to have.
        spec: what the study shall be from now on, its name aside; by default what it is. Only keys of `MAY_CHANGE` may
            differ, and all that differs beyond is named by the error.
        overrides: `key=value` on top of that, as for `load_spec`.
        address, ship, data_dir, allow_code, observe: as for `search`.

    Raises:
        StudyMissing: there is no such study.
        StudyLocked: another driver works on it.
        StorageError: its storage fails, now or later.
        StudyError: its events do not belong to its spec, or a limit is reached still. Nothing is changed then. Or its
            front could not be measured, as for `search`.
        SpecError: its data is not here, or something differs that may not.
    """
    with Store.open(uri, readonly=False) as store, store.lead() as leading:
        before = StudySpec.from_dict(store.spec)
        wanted = _changed(before, spec, overrides, more_trials)
        data = checked_data(wanted, data_dir, allow_code)
        check_resources(wanted, address)
        study = Study(store)
        proposed = study.states().total()
        if wanted.trials < proposed:
            raise SpecError(f"trials must be at least {proposed}, as many as the study has, got {wanted.trials}")
        run = StudyRun(wanted, store, on_change=observe, may_write=leading.check)
        run.replay(study.replay())
        if run.limit_reached and not run.finished and not _untested(store):
            raise StudyError(f"{run.limit_reached.story}; raise the limit: {run.limit_reached.remedy(store.uri)}")
        if wanted != before:
            leading.check()
            store.replace_spec(wanted.to_dict())
        store.seal_abandoned()
        try:
            _run(run, store, data, observe, uri=uri, address=address, ship=ship, allow_code=allow_code)
        except SpecError:
            # A node cannot run it: the same command shall do once that is mended.
            if wanted != before:
                leading.check()
                store.replace_spec(before.to_dict())
            raise
    return open_study(uri)


def _changed(before: StudySpec, spec: StudySpec | None, overrides: Sequence[str], more_trials: int) -> StudySpec:
    """The specification that a study goes on with.

    Raises:
        SpecError: something differs that may not.
    """
    # A file's name need not be the study's.
    given = before if spec is None else change_spec(spec, [f"name={json.dumps(before.name)}"])
    wanted = change_spec(given, overrides)
    wanted = change_spec(wanted, [f"trials={wanted.trials + more_trials}"])
    check_changes(before, wanted)
    return wanted


def checked_data(spec: StudySpec, data_dir: str | None, allow_code: bool) -> Dataset:
    """The data of a study.

    Raises:
        SpecError: they are not here, or the spec does not fit them.
    """
    data = load_dataset(spec.data, options=spec.data_options, data_dir=data_dir, allow_code=allow_code)
    spec.check_against(data, allow_code=allow_code)
    check_space(spec, data.shape, data.classes, allow_code=allow_code)
    return data


def _run(
    run: StudyRun,
    store: Store,
    data: Dataset,
    observe: Observer,
    *,
    uri: str,
    address: str | None,
    ship: bool,
    allow_code: bool,
) -> None:
    observe(run)
    if not run.finished or _untested(store):
        # Twice: Ray, when it starts, puts handlers of its own in the place of ours, and ends with an abort.
        reached = cluster(run.spec, store.location, address, allow_code=allow_code, ship=ship)
        with without_aws_keys(), terminable(), reached as slots, terminable():
            # Once for all: a node fetches them when its first trial asks, and its trials read them from shared memory.
            shared = ray.put(data)
            if not run.finished and not run.limit_reached:
                _run_trials(run, store.location, shared, slots, allow_code)
            _clear_up(run, store)
            _score_front_on_test(run, store, shared, slots, uri, allow_code)
    else:
        _clear_up(run, store)


def _clear_up(run: StudyRun, store: Store) -> None:
    """Dense stages are of no use to a study without further trials, however the measuring of its front ends."""
    if run.finished:
        run.may_write()
        store.discard_stages()


def _run_trials(run: StudyRun, location: Location, data: Any, slots: Callable[[], int], allow_code: bool) -> None:
    spec = run.spec
    # Ray starts one worker after the other for a searcher of one's own, unless told how many may be under way.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MOST_PENDING)
    trainable = tune.with_resources(
        tune.with_parameters(RayTrial, spec=spec.to_dict(), data=data, study=location, allow_code=allow_code),
        tune.PlacementGroupFactory([trial_resources(spec)]),
    )
    # Ray's own files of a run are of no further use: the study's store holds everything.
    scratch = tempfile.mkdtemp(prefix="sparsevlr-")
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(run, slots),
                scheduler=StudyScheduler(run),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=scratch,
                verbose=0,
                callbacks=[StudyCallback(run)],
                # How often a trial may lose its worker the study decides.
                failure_config=tune.FailureConfig(max_failures=-1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    except Exception:
        # Ray puts what its views of the study raise into an error of its own.
        if run.error is None:
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if run.error is not None:
        raise run.error


def _untested(store: Store) -> list[dict[str, Any]]:
    """Rows of the validation front that have not been measured on the test split yet."""
    return [record.to_dict() for record in Study(store).untested_front()]


def _score_front_on_test(
    run: StudyRun, store: Store, data: Any, slots: Callable[[], int], uri: str, allow_code: bool
) -> None:
    """Measure the validation front on the test split, each trial once; the search never sees these rows.

    Raises:
        StorageError: a worker does not reach the study.
        StudyError: workers died, again and again, or a limit is reached and no node has room. All others are measured.
    """
    score = as_trials_run(run.spec, scored_on_test)
    rows = {score.remote(run.spec.to_dict(), row, data, store.location, allow_code): row for row in _untested(store)}
    waiting, lost, had_room = list(rows), dict[str, str](), time.monotonic()
    while waiting:
        done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
        for task in done:
            row = rows[task]
            try:
                run.tested(ray.get(task))
            except RayTaskError as error:
                if isinstance(error.cause, StorageError):
                    raise error.cause from error
                run.tested(replace(_without_figures(row, error), error=last_line(str(error))))
            except RayError as error:
                # Its worker died, again and again: Ray retries such tasks by itself.
                lost[row["trial_id"]] = f"the worker process died again and again: {last_line(str(error)).rstrip('.')}"
        if done or slots() or not run.limit_reached:
            had_room = time.monotonic()
        elif time.monotonic() - had_room > NO_ROOM_SECONDS:
            lost |= {rows[task]["trial_id"]: "no node has room for a trial" for task in waiting}
            break
    if lost:
        raise StudyError(
            f"trials {', '.join(sorted(lost))} could not be measured on the test split "
            f"({'; '.join(sorted(set(lost.values())))}); all else is stored, and they are measured with: "
            f"sparsevlr resume {shlex.quote(to_type(uri))}"
        )


def scored_on_test(spec: dict[str, Any], row: dict[str, Any], *arguments: Any) -> Record:
    """`score_on_test` on a worker, which may take as long as a rung."""
    settled = StudySpec.from_dict(spec)
    settle_torch(settled)
    seconds = settled.limits.rung_seconds
    try:
        with in_time(seconds):
            return score_on_test(spec, row, *arguments)
    except Overdue:
        return _without_figures(row, TrialError(f"not measured in {seconds:g} s, which is limits.rung_seconds"))


def score_on_test(
    spec: dict[str, Any], row: dict[str, Any], data: Dataset, location: Location, allow_code: bool
) -> Record:
    """The test record of a completed trial, given its row among the study's trials.

    What goes wrong here (a soundness error that only the test split brings to light, say) is told in the record's
    `error`, without figures. The trial keeps its place: nobody joins or leaves the front because of the test split.

    Raises:
        StorageError: the study is not to be seen from here, which says nothing of the trial.
    """
    config = TrialConfig(trial_id=row["trial_id"], seed=row["seed"], values=json.loads(row["config"]))
    try:
        trial = Trial(config, StudySpec.from_dict(spec), data, location=location, allow_code=allow_code)
        trial.restore(row["checkpoint"])
        return trial.score_on_test()
    except StorageError:
        raise
    except Exception as error:
        if isinstance(error, CheckpointError):
            _check_seen(location)
        return _without_figures(row, error)


def _check_seen(location: Location) -> None:
    here = socket.gethostname()
    remedy = f"mount it there, then go on with: sparsevlr resume {shlex.quote(location.shown)}"
    with storage_errors(f"read the study {location.shown} on node {here}", remedy):
        seen = sees(location)
    if not seen:
        raise StorageError(f"node {here} does not see the study {location.shown}; {remedy}")


def _without_figures(row: dict[str, Any], error: Exception) -> Record:
    failed = failed_record(row["trial_id"], error)
    return replace(failed, event="report", state="running", split="test", rung=row["rung"])


def free_uri(storage: str, name: str) -> str:
    """STORAGE/NAME, numbered from 2 where that study exists already."""
    if not storage:
        raise StorageError("the storage is empty text; give a folder or a URI")
    location = locate(storage)
    remedy = "give a folder that can be read, or another --storage"
    with storage_errors(f"list the studies in {location.shown}", remedy):
        if location.local is not None and location.local.is_file():
            raise StorageError(f"the storage {storage} is a file; give a folder")
        existing = set(location.folders())
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return below(storage, next(candidate for candidate in candidates if candidate not in existing))


def plot_file(study: Study) -> Path:
    """Where the picture of a study's front belongs: in the study, or here if that is on remote storage. Raises
    UnsafePath where a link leads outside the study."""
    folder = study.store.location.local
    if folder is None:
        return Path(f"{study.name}-front.png")
    inside(folder, plot_path("front.png"))
    return folder / plot_path("front.png")
