"""What goes on inside a network, layer by layer: what explains its score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from .bounds import Graph, Region, ReLUStates, widths_before_relus
from .certified_training import Batch, CertifiedLoss
from .compaction import LayerUnits
from .mask import Mask, prunable_weights
from .pruning.gradients import undisturbed
from .seeds import generator

TIGHTNESS_SAMPLES = 8
TIGHTNESS_NEURONS = 16
GRADIENT_SAMPLES = 64
"""Few: all together cost a trial about as much as two training steps per rung."""

LayerMeasures = dict[str, dict[str, float | None]]
"""By layer in the order of the network; None is a measure that has no value, as a ratio to a width of 0."""


def layer_measures(
    graph: Graph,
    mask: Mask,
    *,
    states: Mapping[int, ReLUStates],
    units: Sequence[LayerUnits],
    region: Region,
    loss: CertifiedLoss,
    batch: Batch,
) -> LayerMeasures:
    """Measures of every convolution, linear layer and ReLU of a network, which is left as it is.

    A module that stands at several places counts over all of them.

    Of convolutions and linear layers:

    - `live_units`: share of the outputs that compaction leaves.
    - `gradient_norm`: Euclidean norm of the gradient of the loss by the weights that are kept.
    - `pruned_gradient_norm`: the same by those that are pruned: what growing them would do.

    Of ReLUs:

    - `unstable_relu_fraction`: share of unstable ones among all pairs of a box and a neuron.
    - `dead_relu_fraction`: share of neurons that no box switches on.
    - `bound_tightness`: see `widths_before_relus`.

    Args:
        mask: which weights are kept.
        states: of the ReLUs, from `relu_states`.
        units: what compaction leaves of each layer.
        region: of a few inputs to measure tightness in, `(batch, *shape)`.
        loss: the gradient is its, with BatchNorm as in training.
        batch: of the training split, where the epsilon ramp is.
    """
    names = {module: name for name, module in graph.network.named_modules()}
    measures: LayerMeasures = {
        names[node.layer]: {} for node in graph.nodes if isinstance(node.layer, nn.Conv2d | nn.Linear | nn.ReLU)
    }
    left = _summed((names[graph.network.get_submodule(layer.name)], (layer.after, layer.before)) for layer in units)
    for name, (after, before) in left.items():
        measures[name]["live_units"] = after / before
    for name, kept, pruned in _gradient_norms(graph, mask, loss, batch):
        measures[name] |= {"gradient_norm": _known(kept), "pruned_gradient_norm": _known(pruned)}
    for name, (unstable, pairs, dead, neurons) in _summed(
        (names[graph.nodes[index].layer], state) for index, state in states.items()
    ).items():
        measures[name] |= {"unstable_relu_fraction": unstable / pairs, "dead_relu_fraction": dead / neurons}
    widths = widths_before_relus(graph, region, neurons=TIGHTNESS_NEURONS, generator=generator("tightness"))
    for name, (backward, interval) in _summed(
        (names[graph.nodes[index].layer], width) for index, width in widths.items()
    ).items():
        measures[name]["bound_tightness"] = _known(backward / interval) if interval else None
    return measures


def _summed(counts: Iterable[tuple[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Counts by layer, those of several places of a module added up."""
    sums: dict[str, list[float]] = {}
    for name, more in counts:
        sums[name] = [a + b for a, b in zip(sums[name], more, strict=True)] if name in sums else list(more)
    return sums


def _gradient_norms(graph: Graph, mask: Mask, loss: CertifiedLoss, batch: Batch) -> Iterator[tuple[str, float, float]]:
    """Layer, and the norms over its kept and its pruned weights."""
    weights = prunable_weights(graph.network)
    with undisturbed(graph.network), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        graph.network.train()
        gradients = torch.autograd.grad(loss.loss(graph, batch), list(weights.values()))
    for name, gradient in zip(weights, gradients, strict=True):
        kept = mask[name].to(gradient.device)
        yield name.rpartition(".")[0], float(gradient[kept].norm()), float(gradient[~kept].norm())


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
