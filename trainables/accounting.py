"""What a network costs: weights, multiply-accumulates, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from .bounds import Graph, Node
from .mask import prunable_weights

FLOAT_BYTES = 4


@dataclass(frozen=True)
class NetworkCost:
    """Counts measured on the weights as they are, never taken from what was asked for.

    Attributes:
        total_weights: weights of all convolution and linear layers.
        nonzero_weights: those of them that are not exactly zero.
        macs: multiply-accumulates of one input through the nonzero weights.
        size_bytes: all parameters and buffers in float32; each weight tensor dense, or as a bitmask and its nonzero
            values, whichever is smaller.
    """

    total_weights: int
    nonzero_weights: int
    macs: int
    size_bytes: int

    @property
    def sparsity(self) -> float:
        """Fraction of weights that are zero, in [0, 1]."""
        return 1.0 - self.nonzero_weights / self.total_weights


def network_cost(graph: Graph) -> NetworkCost:
    """Count the network behind `graph`."""
    weights = prunable_weights(graph.network)
    nonzero = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    encoded = sum(
        min(weight.numel() * FLOAT_BYTES, math.ceil(weight.numel() / 8) + nonzero[name] * FLOAT_BYTES)
        for name, weight in weights.items()
    )
    everything = sum(value.numel() for value in graph.network.state_dict().values() if value.is_floating_point())
    total = sum(weight.numel() for weight in weights.values())
    macs = sum(
        int(node.layer.weight.count_nonzero()) * _uses(node)
        for node in graph.nodes
        if isinstance(node.layer, nn.Linear | nn.Conv2d)
    )
    return NetworkCost(
        total_weights=total,
        nonzero_weights=sum(nonzero.values()),
        macs=macs,
        size_bytes=encoded + (everything - total) * FLOAT_BYTES,
    )


def _uses(node: Node) -> int:
    """How often each weight of a layer is multiplied for one input: once per output position."""
    # A convolution's output is (channels, height, width), a linear layer's (..., features).
    return math.prod(node.shape[1:] if isinstance(node.layer, nn.Conv2d) else node.shape[:-1])
