"""The same network by three ways: what each gives for the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from ...results import ExportError
from .to_onnx import INPUT, OUTPUT

AGREEMENT = 1e-5
"""Outputs are the same if they differ by no more than this, relative to the largest logit where that is above 1."""
_ERRORS_ONLY = 3


@torch.no_grad()
def torch_logits(network: nn.Module, x: Tensor, batch: int) -> Tensor:
    """`(samples, classes)` of a network in eval mode."""
    return torch.cat([network(some) for some in x.split(batch)])


def onnx_logits(model: bytes, x: Tensor, batch: int) -> Tensor:
    """`(samples, classes)` by ONNX Runtime on the CPU.

    Raises:
        ExportError: it does not take the model.
    """
    session = session_of(model)
    with _refusing():
        found = [session.run([OUTPUT], {INPUT: some.numpy()})[0] for some in x.split(batch)]
    return torch.from_numpy(np.concatenate(found))


def session_of(model: bytes, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU; 0 threads leave their number to it.

    Raises:
        ExportError: it does not take the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    with _refusing():
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Its errors have no common class but this one.
        raise ExportError(f"ONNX Runtime does not take the network: {' '.join(str(error).split())}") from error


def difference(found: Tensor, wanted: Tensor) -> Tensor:
    """`(samples,)`: the largest difference of any logit, relative to the largest of `wanted` where that is above 1."""
    if found.shape != wanted.shape:
        raise ExportError(f"logits must be of shape {tuple(wanted.shape)}, got {tuple(found.shape)}")
    scale = wanted.abs().amax(1).clamp(min=1)
    return (found - wanted).abs().amax(1) / scale
