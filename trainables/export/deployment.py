"""What an exported network costs where it runs, beside the dense one of the same architecture."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ...results import ExportError
from ..accounting import dense_macs
from ..bounds import Graph
from . import peak_memory
from .outputs import session_of
from .to_onnx import INPUT, OUTPUT, to_onnx

BATCHES = (1, 64)
REPEATS, UNCOUNTED = 30, 3
SECONDS = 120


def deployed_cost(exported: bytes, network: Graph, dense: Graph) -> dict[str, Any]:
    """Bytes on disk, multiply-accumulates, and time and memory of ONNX Runtime on one thread of this machine.

    Times are medians over repeats in which both models take turns, at each of `BATCHES` inputs; memory is what loading
    and running takes at the largest of them, in a process of its own, beyond importing ONNX Runtime (null on
    systems other than Linux).

    Args:
        exported: the model, as ONNX.
        network: what it holds.
        dense: the whole network of the same architecture; the values of its weights do not matter.

    Raises:
        ExportError: ONNX Runtime does not take a model.
    """
    models = {"exported": exported, "dense": to_onnx(dense)}
    times = _seconds(models, network.nodes[0].shape)
    return {
        "runtime": f"ONNX Runtime {onnxruntime.__version__}, one thread, {platform.machine()} {platform.system()}",
        **{
            name: {
                "file_bytes": len(model),
                # Zeros are multiplied too: the runtime knows nothing of sparsity.
                "macs": dense_macs(network if name == "exported" else dense),
                "latency_seconds": {str(batch): times[name, batch] for batch in BATCHES},
                "peak_memory_bytes": _peak(model, network.nodes[0].shape),
            }
            for name, model in models.items()
        },
    }


def _seconds(models: Mapping[str, bytes], shape: tuple[int, ...]) -> dict[tuple[str, int], float]:
    sessions = {name: session_of(model, threads=1) for name, model in models.items()}
    drawn = np.random.default_rng(0)
    inputs = {batch: drawn.random((batch, *shape), dtype=np.float32) for batch in BATCHES}
    spent: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in models for batch in BATCHES}
    for _ in range(UNCOUNTED + REPEATS):
        for name, batch in spent:
            started = time.perf_counter()
            sessions[name].run([OUTPUT], {INPUT: inputs[batch]})
            spent[name, batch].append(time.perf_counter() - started)
    return {which: statistics.median(values[UNCOUNTED:]) for which, values in spent.items()}


def _peak(model: bytes, shape: tuple[int, ...]) -> int | None:
    if sys.platform != "linux":
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        program = [sys.executable, str(peak_memory.__file__), str(path), INPUT, str(max(BATCHES)), *map(str, shape)]
        try:
            done = subprocess.run(program, capture_output=True, text=True, timeout=SECONDS, check=True)
        except subprocess.CalledProcessError:
            # Some kernels keep a process from resetting its peak.
            return None
        except (subprocess.TimeoutExpired, OSError) as error:
            raise ExportError(
                f"the memory of ONNX Runtime cannot be measured: {error}; export with --no-measure"
            ) from error
    return int(done.stdout)
