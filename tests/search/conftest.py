import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TINY = {
    "data": "digits",
    "epsilon": 0.03,
    "epochs": 4,
    "ramp": {"start": 0.0, "end": 0.5},
    "trials": 8,
    "space": {
        "architecture": "mlp",
        "architecture.hidden": [[16], [24, 24]],
        "sparsity": {"low": 0.0, "high": 0.99, "scale": "log-complement"},
        "schedule": "one-shot",
        "schedule.at": 0.1,
        "optimizer.learning_rate": {"low": 1e-3, "high": 1e-2, "scale": "log"},
    },
    "scheduler": {"kind": "stopping", "eta": 2, "first_rung": 1},
    "verification": {"samples": 60, "test_samples": 40, "pgd_steps": 5},
}


@pytest.fixture(scope="session", autouse=True)
def ray_settings() -> Iterator[None]:
    """Ray's sockets need a short path, and what Ray and commands that are killed leave there goes away with the tests.
    Its workers are nice as a rule: beside tests that compute they would starve."""
    folder = Path(tempfile.mkdtemp(prefix="svlr"))
    settings = {"RAY_TMPDIR": str(folder), "TMPDIR": str(folder), "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield
    for name, value in before.items():
        del os.environ[name]
        if value is not None:
            os.environ[name] = value
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell ignores Ctrl-C for what it runs in the background, and studies that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
