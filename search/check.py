"""What this installation and cluster can do."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

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
    rows += [_row(name, True, metadata.version(name)) for name in PACKAGES]
    lirpa = auto_lirpa.installed_version()
    rows.append(
        _row(
            "auto_LiRPA",
            lirpa is not None,
            lirpa or f"needed for alpha-CROWN and the second opinion: {auto_lirpa.INSTALL}",
        )
    )
    rows.append(_row("CPUs", True, str(os.cpu_count())))
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
