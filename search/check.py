"""What this installation and cluster can do."""

from __future__ import annotations

import platform
import time
from importlib import metadata

import torch
from joblib import cpu_count
from torch import nn

from ..spaces import SpecError
from ..spaces.datasets import DATASETS, load_dataset
from ..trainables.verification import auto_lirpa

PACKAGES = ("sparsevlr", "torch", "ray", "optuna", "numpy", "pyarrow", "moocore", "safetensors", "onnx", "onnxruntime")


def check_installation(address: str | None, data_dir: str | None) -> list[dict[str, str]]:
    """Rows of what, whether it is there, and what to do where it is not.

    Raises:
        SpecError: there is no Ray cluster at `address`.
    """
    rows = [_row("python", True, platform.python_version())]
    rows += [_package(name) for name in PACKAGES]
    lirpa = auto_lirpa.installed_version()
    rows.append(
        _row(
            "auto_LiRPA",
            lirpa is not None,
            lirpa or f"a second opinion on bounds, in tests: {auto_lirpa.INSTALL}",
        )
    )
    rows.append(_row("CPUs", True, str(cpu_count())))
    ratio = bfloat16_ratio()
    advice = "" if ratio < 1 else ": train with precision float32"
    rows.append(_row("bfloat16", ratio < 1, f"a convolution takes {ratio:.2g} x its time in float32{advice}"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rows.append(
        _row("GPUs", gpus > 0, f"{gpus} (GPU training is untested)" if gpus else "none: everything runs on CPU")
    )
    for name in DATASETS:
        try:
            data = load_dataset(name, data_dir=data_dir)
        except SpecError as error:
            rows.append(_row(f"data {name}", False, str(error)))
        else:
            sizes = (len(split.y) for split in (data.train, data.validation, data.test))
            rows.append(_row(f"data {name}", True, " / ".join(map(str, sizes)) + " train / validation / test"))
    if address is not None:
        rows.append(_row(f"Ray cluster {address}", True, _cluster(address)))
    return rows


def _package(name: str) -> dict[str, str]:
    try:
        return _row(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _row(name, False, f"not installed: pip install {name}")


def bfloat16_ratio() -> float:
    """Time of a convolution with its gradient in bfloat16 on the CPU, in units of its time in float32: far above 1
    where the processor has no instructions for it."""
    layer, x = nn.Conv2d(16, 32, 4, 2, 1), torch.ones(64, 16, 14, 14)

    def seconds(reduced: bool) -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            y = layer(x)
        y.float().sum().backward()
        return time.perf_counter() - began

    return min(seconds(True) for _ in range(5)) / min(seconds(False) for _ in range(5))


def _row(what: str, there: bool, detail: str) -> dict[str, str]:
    return {"what": what, "there": "yes" if there else "no", "detail": detail}


def _cluster(address: str) -> str:
    from .cluster import connection, resources_of_nodes

    with connection(address):
        nodes = [
            ", ".join(f"{amount:g} {name}" for name, amount in sorted(node.items()))
            for node in resources_of_nodes().values()
        ]
    return "; ".join(nodes)
