"""The Ray cluster that a study runs on: reaching it, and whether a trial fits on it."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from joblib import cpu_count
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, RayTaskError
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..results import StorageError
from ..results.location import STORAGE_ERRORS, Location
from ..spaces import SpecError, StudySpec
from ..trainables.ray_trainable import sees
from .shipping import unpacked_wheel

PROBE_SECONDS = 5.0
NODE_SECONDS = 600.0
"""How long a node may take to fetch the package and to start a first worker; seconds, where it is not overloaded."""
MOST_OF_A_REASON = 300
COUNT_SECONDS = 5.0
"""How often the nodes of a cluster are counted."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a driver that it has been submitted as a job, and in which environment."""


def check_resources(spec: StudySpec, address: str | None) -> None:
    """Refuse what could only wait for ever, before a study is created.

    Raises:
        SpecError: a trial asks for more than this machine has (a cluster is asked once it is reached), or nothing
            listens at `address`, or it is one for Ray's clients, which are cut off from the study when they lose touch.
    """
    if address is not None and address.startswith("ray://"):
        raise SpecError(
            f"address must be HOST:PORT of a cluster that this machine is a node of, or auto, got {address}; from any "
            "other machine, submit the search as a Ray job"
        )
    if address is not None:
        _probe(address)
        return
    asked = spec.resources
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.gpus_per_trial > gpus:
        raise SpecError(
            f"resources.gpus_per_trial must be at most the {gpus} GPUs of this machine, got {asked.gpus_per_trial:g}; "
            "a cluster with more is named by --address"
        )
    memory = (asked.memory_gb_per_trial or 0.0) * workers(spec)
    if memory > _memory_gb():
        raise SpecError(
            f"resources.memory_gb_per_trial must be at most {_memory_gb() / workers(spec):.3g} for {workers(spec)} "
            f"trials at once on this machine, got {asked.memory_gb_per_trial:g}; lower it, or resources.workers"
        )


@contextmanager
def connection(address: str | None, **options: Any) -> Iterator[None]:
    """A connection to the cluster at `address`, or to one that is started on this machine and ended with it.

    Raises:
        SpecError: no cluster answers there, or this process is connected to one already.
    """
    if ray.is_initialized():
        raise SpecError("this process is connected to a Ray cluster already: call ray.shutdown() first")
    if address is not None:
        _probe(address)
    try:
        # Without "local" Ray would turn to any cluster that the environment or its temporary folder names.
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        raise SpecError(f"{where}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def resources_of_nodes() -> dict[str, Mapping[str, float]]:
    """CPU, GPU and memory of each living node of the cluster we are connected to, by its id."""
    return {
        node["NodeID"]: {name: amount for name, amount in node["Resources"].items() if name in ("CPU", "GPU", "memory")}
        for node in ray.nodes()
        if node["Alive"]
    }


def trial_resources(spec: StudySpec) -> dict[str, float]:
    """What a trial asks of a node, by Ray's names: CPU, GPU, memory in bytes."""
    asked = spec.resources
    resources = {"CPU": asked.cpus_per_trial, "GPU": asked.gpus_per_trial, "memory": asked.memory_gb_per_trial or 0.0}
    resources["memory"] = float(round(resources["memory"] * 1e9))
    return {name: amount for name, amount in resources.items() if amount}


def as_trials_run(spec: StudySpec, function: Callable[..., Any]) -> Any:
    """A function as a Ray task that takes the place of a trial."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return ray.remote(**{names[name]: amount for name, amount in trial_resources(spec).items()})(function)


def workers(spec: StudySpec) -> int:
    """Trials at once on this machine: as asked, else as many as its cores and memory allow, one at least.

    Cores are those that this process may use: fewer than there are in a container, or beside others in a batch system.
    """
    asked = spec.resources
    fit = cpu_count() / asked.cpus_per_trial
    if asked.memory_gb_per_trial is not None:
        fit = min(fit, _memory_gb() / asked.memory_gb_per_trial)
    return asked.workers or max(1, int(fit))


def _memory_gb() -> float:
    """Of this machine, in units of 10^9 bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


class Slots:
    """Trials at once on the cluster we are connected to, counted anew when asked: nodes die, and others join.

    Raises:
        SpecError: at first, a trial fits on none of its nodes. Later on none may be left for a while.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._count()
        if not self._slots:
            asked = ", ".join(f"{amount:g} {name}" for name, amount in trial_resources(spec).items())
            raise SpecError(
                f"a trial asks for {asked}, and no node of the cluster has as much: lower resources.cpus_per_trial, "
                "gpus_per_trial or memory_gb_per_trial"
            )

    def __call__(self) -> int:
        if time.monotonic() - self._counted > COUNT_SECONDS:
            self._count()
        return self._slots

    def _count(self) -> None:
        fits = sum(_fitting(self._spec, node) for node in resources_of_nodes().values())
        self._slots, self._counted = min(fits, self._spec.resources.workers or fits), time.monotonic()


def _fitting(spec: StudySpec, node: Mapping[str, float]) -> int:
    """How many trials fit on a node at once."""
    return math.floor(min(node.get(name, 0.0) / amount for name, amount in trial_resources(spec).items()))


def check_nodes(spec: StudySpec, location: Location) -> None:
    """Refuse a cluster with a node that could not run the trials it would be given. Who joins later is not asked.

    Raises:
        SpecError: a node lacks something that the package needs, or does not see the study.
    """
    asked = {
        node: ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(sees).remote(
            location
        )
        for node, resources in resources_of_nodes().items()
        if _fitting(spec, resources)
    }
    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    for node, answer in asked.items():
        try:
            sees_study = ray.get(answer, timeout=NODE_SECONDS)
        except NodeDiedError:
            continue
        except RayError as error:
            if node not in resources_of_nodes():
                continue
            raise SpecError(
                f"node {names[node]} can run no trial: {last_line(str(error))}; {_remedy(error, location)}"
            ) from error
        if not sees_study:
            raise SpecError(
                f"node {names[node]} does not see the study {location.shown}: put it on storage that all nodes share"
            )


def _remedy(error: RayError, location: Location) -> str:
    if isinstance(error, GetTimeoutError):
        return f"it did not answer within {NODE_SECONDS:g} s: see whether it is overloaded, or end Ray there"
    if isinstance(error, RayTaskError) and isinstance(error.cause, (StorageError, *STORAGE_ERRORS)):
        return f"let it read {location.shown}; for an object store every node needs credentials of its own"
    return "install there what sparsevlr requires"


def last_line(text: str) -> str:
    """The end of what Ray has to say of an error, which may be a traceback with the cause below, or a page."""
    line = " ".join(([line for line in text.splitlines() if line.strip()] or ["no reason given"])[-1].split())
    return line if len(line) <= MOST_OF_A_REASON else f"{line[:MOST_OF_A_REASON]}..."


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a search as Ctrl-C does: the lock is released, and Ray's processes end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def without_aws_keys() -> Iterator[None]:
    """Ray Tune would hand the driver's AWS keys to its workers in their runtime environment, which Ray logs. Workers
    have them from the environment of their node."""
    told = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in told if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = told


@contextmanager
def cluster(
    spec: StudySpec, location: Location, address: str | None, *, allow_code: bool, ship: bool
) -> Iterator[Callable[[], int]]:
    """A connection to Ray for the study at `location`; yields what tells how many trials fit at once.

    Raises:
        SpecError: no cluster answers, or one that cannot run this study.
    """
    cpus = math.ceil(workers(spec) * spec.resources.cpus_per_trial)
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    if address is None and spec.resources.memory_gb_per_trial:
        local["_memory"] = round(workers(spec) * spec.resources.memory_gb_per_trial * 1e9)
    with tempfile.TemporaryDirectory(prefix="sparsevlr-") as folder:
        environment: dict[str, Any] = {}
        if allow_code:
            # Modules of the user's own are found in the current directory by workers as they are by the command.
            paths = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
            environment["env_vars"] = {"PYTHONPATH": paths}
        # A job that brings modules of its own brings the package, and Ray takes them from one of the two only.
        if address is not None and ship and "py_modules" not in _environment_of_job():
            environment["py_modules"] = unpacked_wheel(Path(folder))
        with connection(address, runtime_env=environment or None, **local):
            if address is None:
                yield lambda: workers(spec)
                return
            slots = Slots(spec)
            check_nodes(spec, location)
            yield slots


def _environment_of_job() -> Mapping[str, Any]:
    """The runtime environment that this driver was submitted with as a Ray job, if it was."""
    job = json.loads(os.environ.get(JOB, "{}"))
    return dict(job.get("runtime_env") or {})


def _probe(address: str) -> None:
    """Ray tries for minutes, noisily, to reach an address where nothing listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`, or leave --address out"
        ) from error
