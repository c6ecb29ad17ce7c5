"""Trials in a process of their own, for tests.

A `Nursery` is a process that has imported everything and run nothing; it forks for every job, so that a fresh process
does not cost the seconds that imports take. Jobs are JSON; what comes out is what the trials leave in their studies.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from sparsevlr.results.location import Location, locate
from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.datasets import load_dataset
from sparsevlr.trainables import Trial


def one_rung(spec: dict[str, Any], studies: dict[str, str], checkpoint: str | None) -> None:
    """Advance one trial in each of the studies, from `checkpoint` on; keys are configurations, values are folders."""
    data = load_dataset("digits")
    for config, folder in studies.items():
        trial = Trial(TrialConfig.from_json(config), StudySpec.from_dict(spec), data, location=locate(folder))
        if checkpoint is not None:
            trial.restore(checkpoint)
        trial.advance()


def on_actor(spec: dict[str, Any], config: str, folder: str) -> None:
    """A whole trial on the actor that Ray would run it on."""
    actor = new_actor(spec, config, locate(folder))
    for _ in StudySpec.from_dict(spec).rungs:
        actor.step()


def new_actor(spec: dict[str, Any], config: str, study: Location) -> Any:
    """A worker as Ray sets it up, without Ray."""
    from sparsevlr.trainables.ray_trainable import RayTrial

    actor = object.__new__(RayTrial)
    actor.setup(
        {"trial": config, "checkpoint": None},
        spec=spec,
        data=load_dataset("digits"),
        study=study,
        allow_code=True,
    )
    return actor


class Nursery:
    """Runs functions of this module, each in a process that nothing ran in before."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, function: Callable[..., None], **arguments: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([function.__name__, arguments]), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "0\n", "a fresh process has failed, see its stderr"

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    """A fork for every job of stdin; its exit status to stdout."""
    # The optimizers of torch import the latter when they are first made.
    for module in ("sparsevlr.trainables.ray_trainable", "torch._dynamo"):
        importlib.import_module(module)

    load_dataset("digits")
    # A worker has one thread, and bits are compared.
    torch.set_num_threads(1)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            function, arguments = json.loads(line)
            globals()[function](**arguments)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
