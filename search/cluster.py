"""The Ray cluster that a study runs on: reaching it, and whether a trial fits on it."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from ..spaces import SpecError, StudySpec

PROBE_SECONDS = 5.0


def check_resources(spec: StudySpec, address: str | None) -> None:
    """Refuse what could only wait for ever, before a study is created.

    Raises:
        SpecError: a trial asks for more than this machine has (a cluster is asked once it is reached), or nothing
            listens at `address`.
    """
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
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        raise SpecError(f"{where}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def resources_of_nodes() -> list[Mapping[str, float]]:
    """CPU, GPU and memory of each living node of the cluster we are connected to."""
    return [
        {name: amount for name, amount in node["Resources"].items() if name in ("CPU", "GPU", "memory")}
        for node in ray.nodes()
        if node["Alive"]
    ]


def workers(spec: StudySpec) -> int:
    """Trials at once on this machine: as asked, else as many as its cores allow, one at least."""
    return spec.resources.workers or max(1, int((os.cpu_count() or 1) // spec.resources.cpus_per_trial))


def slots(spec: StudySpec) -> int:
    """Trials at once on the cluster we are connected to.

    Raises:
        SpecError: a trial fits on none of its nodes.
    """
    asked = {"CPU": spec.resources.cpus_per_trial, "GPU": spec.resources.gpus_per_trial}
    fits = sum(
        math.floor(min(node.get(name, 0.0) / amount for name, amount in asked.items() if amount > 0))
        for node in resources_of_nodes()
    )
    if not fits:
        raise SpecError(
            f"a trial asks for {asked['CPU']:g} CPUs and {asked['GPU']:g} GPUs, and no node of the cluster has as "
            "much: lower resources.cpus_per_trial or resources.gpus_per_trial"
        )
    return min(fits, spec.resources.workers or fits)


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
def cluster(spec: StudySpec, address: str | None, allow_code: bool) -> Iterator[int]:
    """A connection to Ray; yields how many trials fit at once."""
    # Modules of the user's own are found in the current directory by workers as they are by the command.
    paths = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {"PYTHONPATH": paths}} if allow_code else None
    cpus = math.ceil(workers(spec) * spec.resources.cpus_per_trial)
    local = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    with connection(address, runtime_env=environment, **local):
        yield workers(spec) if address is None else slots(spec)


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
