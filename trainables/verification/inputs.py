"""Samples under verification, and bounding them batch by batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from ..bounds import Box, Graph, UnsupportedLayer, input_box
from .base import MarginBounds, Unsupported, Verifier

Values = np.ndarray | Tensor


@final
@dataclass(frozen=True)
class Inputs:
    """Labelled samples on the device and in the dtype of a network.

    Attributes:
        x: `(samples, *shape)`, within `[low, high]`.
        y: `(samples,)`, int64.
        low, high: the input range, which boxes are clipped to.
        scale: the radius of each feature as a multiple of epsilon; a tensor broadcasts to `shape`.
    """

    x: Tensor
    y: Tensor
    low: float
    high: float
    scale: float | Tensor

    @staticmethod
    def of(graph: Graph, x: Values, y: Values, low: float, high: float, scale: float | Values) -> "Inputs":
        """The samples, checked against the network.

        Raises:
            ValueError: where shapes, labels, the input range or the scales do not fit.
        """
        weight = graph.last_linear.weight
        samples = torch.as_tensor(x).to(weight.device, weight.dtype)
        labels = torch.as_tensor(y).to(weight.device, torch.int64)
        if samples.shape[1:] != graph.nodes[0].shape or labels.shape != samples.shape[:1]:
            raise ValueError(
                f"x must be (samples, {', '.join(map(str, graph.nodes[0].shape))}) and y (samples,), "
                f"got {tuple(samples.shape)} and {tuple(labels.shape)}"
            )
        if not len(labels):
            raise ValueError("verification needs at least one sample, got none")
        if not bool(((samples >= low) & (samples <= high)).all()):
            raise ValueError(
                f"every input must lie in the input range [{low}, {high}], "
                f"got values from {samples.min().item():.6g} to {samples.max().item():.6g}"
            )
        if not bool(((labels >= 0) & (labels < weight.shape[0])).all()):
            raise ValueError(
                f"labels must be 0 to {weight.shape[0] - 1}, got {labels.min().item()} to {labels.max().item()}"
            )
        return Inputs(samples, labels, low, high, _scales(scale, samples))

    def box(self, samples: Tensor, epsilon: float) -> Box:
        """The boxes around some samples."""
        return input_box(self.x[samples], epsilon, self.low, self.high, self.scale)


def _scales(scale: float | Values, samples: Tensor) -> float | Tensor:
    """
    Raises:
        ValueError: no scales of the features of `samples`.
    """
    if isinstance(scale, float):
        return scale
    scales, shape = torch.as_tensor(scale).to(samples), samples.shape[1:]
    if scales.dim() > len(shape) or any(a not in (1, b) for a, b in zip(scales.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"scale must broadcast to an input of shape {tuple(shape)}, got {tuple(scales.shape)}")
    if not bool(((scales >= 0) & scales.isfinite()).all()):
        raise ValueError(f"every scale must be finite and at least 0, got {scales.min().item():g}")
    return scales


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """The network in eval mode, every module's own flag restored afterwards."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@torch.no_grad()
def correctly_classified(network: nn.Module, inputs: Inputs, batch_size: int) -> Tensor:
    """`(samples,)`: whether the arg max of finite logits is the label."""
    correct = []
    for x, y in zip(inputs.x.split(batch_size), inputs.y.split(batch_size), strict=True):
        logits = network(x)
        correct.append((logits.argmax(1) == y) & torch.isfinite(logits).all(1))
    return torch.cat(correct)


def bounded(
    verifier: Verifier, graph: Graph, inputs: Inputs, samples: Tensor, epsilon: float, batch_size: int
) -> Iterator[tuple[Tensor, MarginBounds | str]]:
    """Bounds of some samples batch by batch: `(samples of the batch, bounds, or why there are none)`.

    A batch that is too large for memory is halved. Any other failure leaves its samples without bounds: a verifier that
    fails must never decide anything, and must not take the rest of the cascade with it.
    """
    waiting = list(samples.split(batch_size))[::-1]
    while waiting:
        batch = waiting.pop()
        if not len(batch):
            continue
        labels = inputs.y[batch]
        try:
            found = verifier.margins(graph, inputs.box(batch, epsilon), labels)
            expected = (len(batch), graph.last_linear.out_features)
            if tuple(found.lower.shape) != expected or tuple(found.scale.shape) != expected[:1]:
                raise ValueError(f"margins must be of shape {expected}, got {tuple(found.lower.shape)}")
        except (Unsupported, UnsupportedLayer) as error:
            # The network is the reason, so that no other batch would fare better.
            yield torch.cat([batch, *waiting[::-1]]), str(error)
            return
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
                continue
            yield batch, f"{type(error).__name__}: {_first_line(error)}"
        else:
            yield batch, found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU (where torch raises a plain RuntimeError)."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in message or "not enough memory" in message)
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
