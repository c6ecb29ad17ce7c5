"""Samples under verification, and bounding them batch by batch."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar, final

import numpy as np
import torch
from torch import Tensor, nn

from ..bounds import NORMS, TOLERANCE, Graph, Norm, Region, UnsupportedLayer, input_region, trace
from .base import Reason, Unsupported, Verifier, proved
from .verdict import Cause

Values = np.ndarray | Tensor
T = TypeVar("T")
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch says on GPUs, on Windows and macOS, and on Linux."""


@final
@dataclass(frozen=True)
class Inputs:
    """Labelled samples on the device and in the dtype of a network.

    Attributes:
        graph: of the network, which is in eval mode.
        x: `(samples, *shape)`, within `[low, high]`.
        y: `(samples,)`, int64.
        low, high: the input range, which regions are clipped to.
        scale: the radius of each feature as a multiple of epsilon; a tensor broadcasts to `shape`.
        norm: of differences over `scale`.
    """

    graph: Graph
    x: Tensor
    y: Tensor
    low: float
    high: float
    scale: float | Tensor
    norm: Norm

    @staticmethod
    def of(graph: Graph, x: Values, y: Values, low: float, high: float, scale: float | Values, norm: Norm) -> "Inputs":
        """The samples, checked against the network.

        Raises:
            ValueError: where shapes, labels, the input range, the scales or the norm do not fit.
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
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        return Inputs(graph, samples, labels, low, high, _scales(scale, samples), norm)

    @cached_property
    def double(self) -> Graph:
        """The same network in float64."""
        if self.x.dtype == torch.float64:
            return self.graph
        network = copy.deepcopy(self.graph.network).eval().double()
        return trace(network, self.graph.nodes[0].shape)

    def region(self, samples: Tensor, epsilon: float, dtype: torch.dtype) -> Region:
        """Where the inputs around some samples may lie."""
        return input_region(self.x[samples].to(dtype), epsilon, self.low, self.high, self._scale(dtype), self.norm)

    @torch.no_grad()
    def confirmed(self, samples: Tensor, points: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Which points change the class of their sample, by a forward pass in float64.

        Args:
            samples: `(batch,)`, indices.
            points: `(batch, *shape)`, of any dtype; NaN for none.

        Returns:
            `(batch,)` bool, and the points as inputs of the network, moved into the region by no more than rounding.
        """
        natural = self.x[samples]
        centre, inside = natural.double(), self.region(samples, epsilon, torch.float64).project(points.double())
        # A box is told by its centre and radius, whose sum may miss the end of the range by its last bit.
        inside = inside.clamp(self.low, self.high)
        rounded = inside.to(natural)
        farther = (rounded.double() - centre).abs() > (inside - centre).abs()
        rounded = torch.where(farther, torch.nextafter(rounded, natural), rounded)
        logits = self.double.network(rounded.double())
        return (logits.argmax(1) != self.y[samples]) & torch.isfinite(logits).all(1), rounded

    def _scale(self, dtype: torch.dtype) -> float | Tensor:
        return self.scale.to(dtype) if isinstance(self.scale, Tensor) else self.scale


def _scales(scale: float | Values, samples: Tensor) -> float | Tensor:
    """
    Raises:
        ValueError: no scales of the features of `samples`.
    """
    if isinstance(scale, int | float):
        if not 0 <= scale < float("inf"):
            raise ValueError(f"scale must be finite and at least 0, got {scale:g}")
        return float(scale)
    scales, shape = torch.as_tensor(scale).to(samples), samples.shape[1:]
    if scales.dim() > len(shape) or any(a not in (1, b) for a, b in zip(scales.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"scale must broadcast to an input of shape {tuple(shape)}, got {tuple(scales.shape)}")
    if not bool(((scales >= 0) & scales.isfinite()).all()):
        raise ValueError(f"every scale must be finite and at least 0, got {scales.min().item():g}")
    return scales


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """The network in eval mode, and products in full float32, whatever is set: the tolerance of proofs does not cover
    TF32 or bfloat16. Every module's own flag, and what was set, are restored afterwards."""
    flags = [(module, module.training) for module in network.modules()]
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    network.eval()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
        for module, training in flags:
            module.training = training


def in_batches(samples: Tensor, batch_size: int, work: Callable[[Tensor], T]) -> Iterator[tuple[Tensor, T]]:
    """Each batch of `samples` with what `work` makes of it; one that is too large for memory is halved."""
    waiting = list(samples.split(batch_size))[::-1] if len(samples) else []
    while waiting:
        batch = waiting.pop()
        try:
            done = work(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) < 2:
                raise
            waiting += _halves(batch)
        else:
            yield batch, done


def _halves(batch: Tensor) -> list[Tensor]:
    """The last one first: they go on a stack."""
    half = len(batch) // 2
    return [batch[half:], batch[:half]]


@torch.no_grad()
def correctly_classified(inputs: Inputs, batch_size: int) -> Tensor:
    """`(samples,)`: whether the arg max of finite logits is the label, by a forward pass in float64."""

    def correct(batch: Tensor) -> Tensor:
        logits = inputs.double.network(inputs.x[batch].double())
        return (logits.argmax(1) == inputs.y[batch]) & torch.isfinite(logits).all(1)

    samples = torch.arange(len(inputs.y), device=inputs.y.device)
    return torch.cat([found for _, found in in_batches(samples, batch_size, correct)])


class Bounded(NamedTuple):
    """What is known of the margins of a batch.

    Attributes:
        lower: `(batch, classes)`, float64, lower bounds.
        proved: `(batch, classes)` bool, whether a margin is positive beyond rounding.
        points, reasons: as of `MarginBounds`.
    """

    lower: Tensor
    proved: Tensor
    points: Tensor | None
    reasons: Mapping[int, Reason]


def bounded(
    verifier: Verifier, inputs: Inputs, samples: Tensor, epsilon: float, batch_size: int
) -> Iterator[tuple[Tensor, Bounded | str]]:
    """Bounds of some samples batch by batch: `(samples of the batch, bounds, or why there are none)`.

    A batch that is too large for memory is halved. Any other failure leaves its samples without bounds: a verifier that
    fails must never decide anything, and must not take the rest of the cascade with it.
    """
    waiting = list(samples.split(min(batch_size, verifier.largest_batch or batch_size)))[::-1]
    while waiting:
        batch = waiting.pop()
        if not len(batch):
            continue
        try:
            found = _beyond_rounding(verifier, inputs, batch, epsilon)
        except (Unsupported, UnsupportedLayer) as error:
            # The network is the reason, so that no other batch would fare better.
            yield torch.cat([batch, *waiting[::-1]]), str(error)
            return
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                waiting += _halves(batch)
                continue
            yield batch, f"{type(error).__name__}: {_first_line(error)}"
        else:
            yield batch, found


def _beyond_rounding(verifier: Verifier, inputs: Inputs, batch: Tensor, epsilon: float) -> Bounded:
    """The bounds of a batch; those of samples with a margin within rounding of 0 are taken from float64."""
    if verifier.in_double or inputs.x.dtype not in TOLERANCE:
        return _bounded(verifier, inputs, inputs.double, batch, epsilon)[0]
    found, doubtful = _bounded(verifier, inputs, inputs.graph, batch, epsilon)
    if inputs.x.dtype == torch.float64 or not bool(doubtful.any()):
        return found
    again = doubtful.nonzero().squeeze(1)
    try:
        precise, _ = _bounded(verifier, inputs, inputs.double, batch[again], epsilon)
    except Unsupported as error:
        reason = Reason(Cause.rounding, f"a margin is within rounding of 0, and {error}")
        return found._replace(reasons={**found.reasons, **dict.fromkeys(again.tolist(), reason)})
    found.lower[again], found.proved[again] = precise.lower, precise.proved
    return found


def _bounded(verifier: Verifier, inputs: Inputs, graph: Graph, batch: Tensor, epsilon: float) -> tuple[Bounded, Tensor]:
    """Bounds through `graph`, and `(batch,)` bool: whether rounding may have decided if a margin is proved."""
    labels, weight = inputs.y[batch], graph.last_linear.weight
    found = verifier.margins(graph, inputs.region(batch, epsilon, weight.dtype), labels)
    expected = (len(batch), weight.shape[0])
    if tuple(found.lower.shape) != expected or tuple(found.scale.shape) != expected[:1]:
        raise ValueError(f"margins must be of shape {expected}, got {tuple(found.lower.shape)}")
    lower = found.lower.detach().to(weight.dtype)
    proofs = proved(lower, found.scale, labels)
    doubtful = (~proofs & (lower >= -TOLERANCE[weight.dtype] * found.scale[:, None])).any(1)
    return Bounded(lower.double(), proofs, found.points, found.reasons), doubtful


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU (where torch raises a plain RuntimeError)."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in message for text in _NO_MEMORY)
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
