"""Where every file of a study lives. No other module spells a file name.

::

    STORAGE/NAME/study.json                               spec, versions, time of creation
    STORAGE/NAME/journal/EPOCH-TOKEN-FIRST.jsonl          events of a living (or killed) driver session
    STORAGE/NAME/parts/EPOCH-TOKEN-FIRST-LAST.parquet     sealed events, immutable
    STORAGE/NAME/digests/EPOCH-TOKEN-FIRST-LAST.parquet   of so many events those that decide what the trials are
    STORAGE/NAME/checkpoints/TRIAL/.../state.json         of a checkpoint: progress, and the digest of every other file
    STORAGE/NAME/checkpoints/TRIAL/.../mask.safetensors   which weights are kept; beside it weights, optimizer, pruner
    STORAGE/NAME/stages/KEY/epoch-EPOCH/                  dense stages that trials share, as long as the study runs
    STORAGE/NAME/confirmations/TRIAL/seed-NUMBER.json     what a trial came to again with a fresh seed
    STORAGE/NAME/plots/...                                drawn on request
    STORAGE/NAME/driver.lock                              the driver's lock, on a file system
    STORAGE/NAME/leases/EPOCH-TOKEN.json                  a driver's heartbeat, on an object store
    STORAGE/NAME/fences/EPOCH-TOKEN.json                  what that driver saw of the sessions before; written once

A *session* is one process that writes; EPOCH counts sessions, TOKEN tells two apart that chose the same number.
FIRST and LAST are positions of events inside the session: names alone say what a file covers. A part that lies in
another is superseded by it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import UnsafePath

STUDY_FILE = "study.json"
JOURNAL = "journal"
PARTS = "parts"
DIGESTS = "digests"
CHECKPOINTS = "checkpoints"
STAGES = "stages"
CONFIRMATIONS = "confirmations"
PLOTS = "plots"
LOCK = "driver.lock"
LEASES = "leases"
FENCES = "fences"
STATE, MASK = "state.json", "mask.safetensors"
WEIGHTS, OPTIMIZER, PRUNER = "weights.safetensors", "optimizer.safetensors", "pruner.safetensors"

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128 characters"
_STAGE_KEY = re.compile(r"[0-9a-f]{16}")
_STAGE_EPOCH = re.compile(r"epoch-(?P<epoch>0|[1-9][0-9]{0,8})")
_SESSION = r"(?P<session>[0-9]{6,}-[0-9a-f]{8})"
_JOURNAL_FILE = re.compile(_SESSION + r"-(?P<first>[0-9]{12})\.jsonl")
_SESSION_FILE = re.compile(_SESSION + r"\.json")
_PART_FILE = re.compile(_SESSION + r"-(?P<first>[0-9]{12})-(?P<last>[0-9]{12})\.parquet")


class JournalName(NamedTuple):
    """What a journal file's name says."""

    session: str
    first: int


class PartName(NamedTuple):
    """What the name of a part or a digest says; ``last`` is included."""

    session: str
    first: int
    last: int


def check_study_name(name: str) -> str:
    """The name, or UnsafePath."""
    if not _COMPONENT.fullmatch(name):
        raise UnsafePath(f"a study's name consists of {_RULE}; got {name[:200]!r}")
    return name


def check_trial_id(trial_id: str) -> str:
    """The id, or UnsafePath: ids become folder names."""
    if not isinstance(trial_id, str) or not _COMPONENT.fullmatch(trial_id):
        raise UnsafePath(f"a trial id consists of {_RULE}; got {trial_id!r:.200}")
    return trial_id


def check_checkpoint(path: str) -> str:
    """A checkpoint's path, relative to its study: ``checkpoints/TRIAL/...``, or UnsafePath."""
    folder, *rest = path.split("/")
    if folder != CHECKPOINTS or not rest or not all(_COMPONENT.fullmatch(part) for part in rest):
        raise UnsafePath(f"a checkpoint is {CHECKPOINTS}/TRIAL/... inside its study; got {path[:200]!r}")
    return path


def checkpoint_path(trial_id: str, *parts: str) -> str:
    """``checkpoints/TRIAL/part/...``, relative to the study."""
    return check_checkpoint("/".join((CHECKPOINTS, check_trial_id(trial_id), *parts)))


def stage_folder(key: str) -> str:
    """``stages/KEY``, relative to the study: everything that is stored of one dense stage."""
    if not _STAGE_KEY.fullmatch(key):
        raise UnsafePath(f"the key of a dense stage is 16 hexadecimal digits; got {key[:200]!r}")
    return f"{STAGES}/{key}"


def stage_path(key: str, epoch: int) -> str:
    """``stages/KEY/epoch-EPOCH``, relative to the study."""
    return check_saved(f"{stage_folder(key)}/epoch-{epoch}")


def parse_stage_epoch(name: str) -> int | None:
    """The epoch that a folder of a dense stage is about; None for folders that are none of ours."""
    match = _STAGE_EPOCH.fullmatch(name)
    return int(match["epoch"]) if match else None


def check_saved(path: str) -> str:
    """Where weights may lie, relative to the study: a checkpoint's path or a dense stage's, or UnsafePath."""
    folder, _, rest = path.partition("/")
    if folder != STAGES:
        return check_checkpoint(path)
    key, _, name = rest.partition("/")
    if parse_stage_epoch(name) is None:
        raise UnsafePath(f"a dense stage is {STAGES}/KEY/epoch-EPOCH inside its study; got {path[:200]!r}")
    return f"{stage_folder(key)}/{name}"


def confirmation_folder(trial_id: str) -> str:
    """``confirmations/TRIAL``, relative to the study."""
    return f"{CONFIRMATIONS}/{check_trial_id(trial_id)}"


def confirmation_path(trial_id: str, number: int) -> str:
    """``confirmations/TRIAL/seed-NUMBER.json``, relative to the study."""
    return f"{confirmation_folder(trial_id)}/seed-{number}.json"


def plot_path(name: str) -> str:
    """``plots/NAME``, relative to the study."""
    if not _COMPONENT.fullmatch(name):
        raise UnsafePath(f"a plot's file name consists of {_RULE}; got {name[:200]!r}")
    return f"{PLOTS}/{name}"


def session_name(epoch: int, token: str) -> str:
    """``EPOCH-TOKEN``; sorts by epoch up to 999,999 sessions."""
    return f"{epoch:06d}-{token}"


def session_order(session: str) -> tuple[int, str]:
    """Sort key of sessions, by epoch first."""
    epoch, token = session.split("-")
    return int(epoch), token


def session_file(session: str) -> str:
    """Name inside the folder of leases, or that of fences."""
    return f"{session}.json"


def parse_session_file(name: str) -> str | None:
    """The session; None for files that are none of ours."""
    match = _SESSION_FILE.fullmatch(name)
    return match["session"] if match else None


def journal_file(session: str, first: int) -> str:
    """Name inside the journal folder."""
    return f"{session}-{first:012d}.jsonl"


def part_file(session: str, first: int, last: int) -> str:
    """Name inside the folder of parts, or that of digests."""
    return f"{session}-{first:012d}-{last:012d}.parquet"


def parse_journal(name: str) -> JournalName | None:
    """What the name says; None for files that are none of ours."""
    match = _JOURNAL_FILE.fullmatch(name)
    return JournalName(match["session"], int(match["first"])) if match else None


def parse_part(name: str) -> PartName | None:
    """What the name says; None for files that are none of ours, unfinished ones among them."""
    match = _PART_FILE.fullmatch(name)
    return PartName(match["session"], int(match["first"]), int(match["last"])) if match else None
