"""Studies that the real command runs while they are killed at random, and what must hold of them in the end.

What the chaos benchmark and its small test have in common; Linux only, since processes are looked up in /proc. Every
driver leads a session of its own, so that all its processes (Ray's too, whose workers have process groups of their own)
are known by their session, and no other process is ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from sparsevlr.results import Study, open_study
from sparsevlr.results.location import locate
from sparsevlr.results.paths import CHECKPOINTS, JOURNAL, LOCK, STUDY_FILE
from sparsevlr.results.record import OVER, to_table
from sparsevlr.search.engine import score_on_test
from sparsevlr.spaces import StudySpec, TrialConfig, load_dataset
from sparsevlr.trainables import run_trial

TIMES = ("time", "train_seconds", "verify_seconds", "shared_seconds")
STARTUP_SECONDS = 30.0
MOMENT_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
GRACE_SECONDS = 3.0

INSTALLED = [str(Path(sys.executable).with_name("sparsevlr"))]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Strike:
    """One kill.

    Attributes:
        kind: of `KINDS`.
        after: number of events in the study at which it is due.
        delay: in [0, 1): how long after that, as a fraction of `MOMENT_SECONDS`; of `STARTUP_SECONDS` after the start
            of the driver, where it was due by then.
    """

    kind: str
    after: int
    delay: float


@dataclass(frozen=True)
class Hit:
    """What a strike met: the study's state, what was ended, and how the driver took it (None: it went on)."""

    kind: str
    seconds: float
    events: int
    phase: str
    last_event: str
    victim: str
    exit_code: int | None
    seconds_to_exit: float | None
    left_over: int


class Process(NamedTuple):
    """A living process of a driver's session."""

    pid: int
    title: str


class Driver:
    """A `sparsevlr` command in a session of its own; a context manager that ends whatever is left of it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True
        )
        self.pid = self._process.pid
        self.started = time.monotonic()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self._errors.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def processes(self) -> list[Process]:
        """The living processes of its session, its own included."""
        found = []
        for folder in Path("/proc").iterdir():
            # A process may end while we look at it.
            with contextlib.suppress(OSError, ValueError):
                pid = int(folder.name)
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found.append(Process(pid, title))
        return found

    def workers(self) -> list[Process]:
        """Ray's workers, those that hold an actor and those that wait; not the agents, which end their node."""
        return [
            process
            for process in self.processes()
            if process.title.startswith("ray::") and not process.title.endswith("Agent")
        ]

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.exit_code is not None

    def end(self) -> int:
        """Let what is left of its session end by itself for a while, then end it; how many had to be ended."""
        if self.exit_code is None:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return len(left)


def _kill_driver(driver: Driver, rng: random.Random) -> str:
    os.kill(driver.pid, signal.SIGKILL)
    return "driver"


def _kill_group(driver: Driver, rng: random.Random) -> str:
    os.killpg(driver.pid, signal.SIGKILL)
    return "process group"


def _kill_worker(driver: Driver, rng: random.Random) -> str:
    while not (workers := driver.workers()) and driver.exit_code is None:
        time.sleep(0.02)
    if not workers:
        return "none was left"
    victim = rng.choice(workers)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGKILL)
    return victim.title


def _terminate(driver: Driver, rng: random.Random) -> str:
    os.kill(driver.pid, signal.SIGTERM)
    return "driver"


def _interrupt(driver: Driver, rng: random.Random) -> str:
    # As a terminal does on Ctrl-C.
    os.killpg(driver.pid, signal.SIGINT)
    return "process group"


KINDS: dict[str, Callable[[Driver, random.Random], str]] = {
    "SIGKILL to the driver": _kill_driver,
    "SIGKILL to the group": _kill_group,
    "SIGKILL to a worker": _kill_worker,
    "SIGTERM": _terminate,
    "Ctrl-C": _interrupt,
}
SURVIVED = "SIGKILL to a worker"


def plan(kills: int, events: int, seed: int) -> list[Strike]:
    """Strikes spread over a study of about so many events; every kind once in a row of as many as there are kinds.

    So no trial meets more than two deaths of its worker in one session: the third would make it fail, as it should.
    """
    rng = random.Random(seed)
    kinds = [kind for _ in range(0, kills, len(KINDS)) for kind in rng.sample(list(KINDS), len(KINDS))]
    moments = sorted(rng.randrange(events) for _ in range(kills))
    return [Strike(kind, after, rng.random()) for kind, after in zip(kinds, moments, strict=False)]


def torment(
    spec: Path,
    study: Path,
    strikes: Sequence[Strike],
    *,
    program: Sequence[str] = INSTALLED,
    seed: int = 0,
    tell: Callable[[Hit], None] = lambda hit: None,
) -> list[Hit]:
    """Search the spec of a file, strike, resume, and so on; then resume once more and let the study end.

    Args:
        spec: a YAML file.
        study: where the study shall live.
        strikes: in the order of `after`. Those that come too late for the study are left out.
        program: the command, with whatever stands before its arguments.
        seed: of the choice of workers.
        tell: called after each strike.

    Raises:
        RuntimeError: a driver ended by itself other than well, with what it said.
    """
    # A shell ignores Ctrl-C for what it runs in the background, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, began, waiting, hits = random.Random(seed), time.monotonic(), list(strikes), []
    while True:
        known = _events(study)
        with Driver([*program, *_arguments(spec, study)]) as driver:
            while waiting and _wait_for(driver, study, waiting[0], known):
                strike = waiting.pop(0)
                hits.append(_hit(driver, study, strike, known, began, rng))
                tell(hits[-1])
                if hits[-1].exit_code is not None:
                    break
            else:
                driver.wait(10 * PATIENCE_SECONDS)
                if driver.exit_code != 0:
                    raise RuntimeError(f"the driver ended by itself with {driver.exit_code}: {driver.errors[-2000:]}")
                return hits


def _arguments(spec: Path, study: Path) -> list[str]:
    if (study / STUDY_FILE).exists():
        return ["resume", str(study)]
    return ["search", str(spec), "--storage", str(study.parent), "--name", study.name]


def _events(study: Path) -> int:
    return len(open_study(study).events()) if (study / STUDY_FILE).exists() else 0


def _wait_for(driver: Driver, study: Path, strike: Strike, known: int) -> bool:
    """Returns at the moment of a strike; False when the driver has ended before it."""
    if strike.after <= known:
        moment = max(driver.started + strike.delay * STARTUP_SECONDS, time.monotonic())
    else:
        while not (study / STUDY_FILE).exists():
            if driver.wait(0.01):
                return False
        opened = open_study(study)
        while len(opened.events()) < strike.after:
            if driver.wait(0.02):
                return False
        moment = time.monotonic() + strike.delay * MOMENT_SECONDS
    return not driver.wait(moment - time.monotonic())


def _hit(driver: Driver, study: Path, strike: Strike, known: int, began: float, rng: random.Random) -> Hit:
    struck = time.monotonic()
    victim = KINDS[strike.kind](driver, rng)
    ended = driver.wait(PATIENCE_SECONDS) if strike.kind != SURVIVED else False
    seconds_to_exit = round(time.monotonic() - struck, 2)
    left_over = driver.end() if strike.kind != SURVIVED else 0
    events = open_study(study).events().to_pylist() if (study / STUDY_FILE).exists() else []
    last = [events[-1][name] for name in ("trial_id", "event", "decision", "rung")] if events else []
    return Hit(
        kind=strike.kind,
        seconds=round(struck - began, 2),
        events=len(events),
        phase=_phase(study, events, known),
        last_event=" ".join(str(value) for value in last if value is not None),
        victim=victim,
        exit_code=driver.exit_code,
        seconds_to_exit=seconds_to_exit if ended else None,
        left_over=left_over,
    )


def _phase(study: Path, events: Rows, known: int) -> str:
    if len(events) == known:
        return "starting"
    over = sum(state in OVER for state in open_study(study).trials()["state"].to_pylist())
    return "running" if over < open_study(study).spec["trials"] else "ending"


def timeless(table: pa.Table) -> Rows:
    """The rows less what takes longer or shorter each time."""
    return table.drop_columns(list(TIMES)).to_pylist()


def search_events(study: Study) -> Rows:
    """The events of the search in their order. Test rows, which several workers measure side by side, come after it."""
    return [row for row in timeless(study.events()) if row["split"] != "test"]


def check(study: Study, whole: Study | None = None) -> dict[str, list[str]]:
    """What must hold of a study that was killed, each with what was found against it.

    Args:
        study: the study, at its end.
        whole: an uninterrupted study of the same spec, where the outcome is the same each time: with one worker.
    """
    found = {
        "every trial is over, none has failed": _unfinished(study),
        "keys are unique": _doubled(study),
        "no rung is missing": _gaps(study),
        "each row equals the bare trial's": _other_than_bare(study),
        "the front is measured on test, once": _front(study),
        "nothing is left that nobody needs": _litter(study),
    }
    if whole is not None:
        found["events equal the uninterrupted run's"] = _differences(search_events(study), search_events(whole))
        found["reports equal the uninterrupted run's"] = _differences(
            _sorted(timeless(study.reports())), _sorted(timeless(whole.reports()))
        )
        found["trials equal the uninterrupted run's"] = _differences(timeless(study.trials()), timeless(whole.trials()))
    return found


def _unfinished(study: Study) -> list[str]:
    trials = study.trials().to_pylist()
    expected = [f"{number:05d}" for number in range(study.spec["trials"])]
    found = [] if [row["trial_id"] for row in trials] == expected else ["trials are missing or out of order"]
    wrong = [row for row in trials if row["state"] not in ("completed", "stopped")]
    return found + [f"trial {row['trial_id']} is {row['state']}: {row['error']}" for row in wrong]


def _doubled(study: Study) -> list[str]:
    """Of what is stored, not of what readers see, who leave out second arrivals."""
    rows = study.store.read().events.to_pylist()
    keys = Counter((row["trial_id"], row["rung"], row["split"]) for row in rows if row["event"] == "report")
    keys += Counter((row["trial_id"], row["event"]) for row in rows if row["event"] == "proposed")
    return [f"{key} is stored {times} times" for key, times in keys.items() if times > 1]


def _gaps(study: Study) -> list[str]:
    last = len(StudySpec.from_dict(study.spec).rungs) - 1
    rungs: dict[str, list[int]] = {row["trial_id"]: [] for row in study.trials().to_pylist()}
    for row in study.reports("split = 'validation'").to_pylist():
        rungs[row["trial_id"]].append(row["rung"])
    completed = set(study.trials("state = 'completed'")["trial_id"].to_pylist())
    return [
        f"trial {trial} has reported at {found}"
        for trial, found in rungs.items()
        if not found or found != list(range(len(found))) or (trial in completed) != (found[-1] == last)
    ]


def _other_than_bare(study: Study) -> list[str]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    spec, rows = StudySpec.from_dict(study.spec), _sorted(study.reports().to_pylist())
    data = load_dataset(spec.data)
    expected = []
    with tempfile.TemporaryDirectory(prefix="sparsevlr-") as folder:
        location = locate(folder)
        for trial in study.trials().to_pylist():
            asked = {row["split"]: row for row in rows if row["trial_id"] == trial["trial_id"]}
            config = TrialConfig(trial_id=trial["trial_id"], seed=trial["seed"], values=json.loads(trial["config"]))
            last = asked["validation"]["rung"]
            expected += run_trial(config, spec, data, location=location, on_report=lambda row, end=last: row.rung < end)
            if "test" in asked:
                row = trial | {"checkpoint": expected[-1].checkpoint}
                expected.append(score_on_test(spec.to_dict(), row, data, location, False))
    # Which checkpoints still exist and what the trial's state is now, no bare trial can tell.
    untold = dict.fromkeys(("state", "checkpoint", *TIMES))
    bare = _sorted(to_table(expected).to_pylist())
    return _differences([row | untold for row in rows], [row | untold for row in bare])


def _front(study: Study) -> list[str]:
    front = set(study.pareto_front()["trial_id"].to_pylist())
    tested = [row["trial_id"] for row in study.reports("split = 'test'").to_pylist()]
    return [] if front and sorted(front) == sorted(tested) else [f"front {sorted(front)}, measured on test {tested}"]


def _litter(study: Study) -> list[str]:
    folder = study.store.location.local
    assert folder is not None
    needed = {row["checkpoint"] for row in study.trials().to_pylist() if row["checkpoint"]}
    stored = {path.relative_to(folder).as_posix() for path in folder.glob(f"{CHECKPOINTS}/*/*")}
    found = [f"{path} is missing" for path in sorted(needed - stored)]
    found += [f"{path} is left" for path in sorted(stored - needed)]
    hidden = (*folder.rglob("*.tmp"), *folder.glob(f"{JOURNAL}/*"), *folder.glob(LOCK), *folder.glob(f".{LOCK}.*"))
    return found + [f"{path.relative_to(folder)} is left" for path in hidden] + list(study.problems)


def _sorted(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: (row["trial_id"], row["split"], row["rung"]))


def _differences(found: Rows, expected: Rows) -> list[str]:
    told = [] if len(found) == len(expected) else [f"{len(found)} rows instead of {len(expected)}"]
    for number, (row, other) in enumerate(zip(found, expected, strict=False)):
        wrong = {name: (row[name], other[name]) for name in row if row[name] != other[name]}
        if wrong:
            told.append(f"row {number} (trial {row['trial_id']}, rung {row['rung']}, {row['split']}): {wrong}")
    return told[:20]


def told(hits: Sequence[Hit]) -> Rows:
    """Hits as JSON holds them."""
    return [asdict(hit) for hit in hits]
