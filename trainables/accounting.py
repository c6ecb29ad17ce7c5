"""What a network costs: weights, multiply-accumulates, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .bounds import Graph, Node
from .mask import prunable_weights

FLOAT_BYTES = 4
INDEX_BYTES = 4


@dataclass(frozen=True)
class NetworkCost:
    """Counts measured on the weights as they are, never taken from what was asked for.

    Attributes:
        total_weights: weights of all convolution and linear layers; sparsity is counted over these alone.
        nonzero_weights: those of them that are not exactly zero.
        other_parameters: biases, scales and shifts of normalisation, and its running statistics: always kept.
        layer_densities: nonzero share of each layer's weights, in [0, 1], by layer name in network order.
        macs: multiply-accumulates of one input through the nonzero weights.
        size_bytes: all parameters and buffers in float32; each weight tensor dense, or as a bitmask and its nonzero
            values, whichever is smaller.
        dense_bytes: the same with every weight tensor dense.
        bitmask_bytes: with every weight tensor as a bitmask and its nonzero values.
        csr_bytes: with every weight tensor in compressed sparse rows (a convolution as one row per filter): its nonzero
            values, and int32 for the column of each and for the start of each row and the end.
    """

    total_weights: int
    nonzero_weights: int
    other_parameters: int
    layer_densities: Mapping[str, float]
    macs: int
    size_bytes: int
    dense_bytes: int
    bitmask_bytes: int
    csr_bytes: int

    @property
    def sparsity(self) -> float:
        """Fraction of weights that are zero, in [0, 1]."""
        return 1.0 - self.nonzero_weights / self.total_weights


def network_cost(graph: Graph) -> NetworkCost:
    """Count the network behind `graph`."""
    weights = prunable_weights(graph.network)
    nonzero = {name: int(weight.count_nonzero()) for name, weight in weights.items()}
    dense = {name: weight.numel() * FLOAT_BYTES for name, weight in weights.items()}
    bitmask = {name: math.ceil(w.numel() / 8) + nonzero[name] * FLOAT_BYTES for name, w in weights.items()}
    csr = {
        name: nonzero[name] * (FLOAT_BYTES + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES
        for name, weight in weights.items()
    }
    everything = sum(value.numel() for value in graph.network.state_dict().values() if value.is_floating_point())
    total = sum(weight.numel() for weight in weights.values())
    macs = sum(
        int(node.layer.weight.count_nonzero()) * _uses(node)
        for node in graph.nodes
        if isinstance(node.layer, nn.Linear | nn.Conv2d)
    )
    others = everything - total
    return NetworkCost(
        total_weights=total,
        nonzero_weights=sum(nonzero.values()),
        other_parameters=others,
        layer_densities={
            name.removesuffix("weight").removesuffix("."): nonzero[name] / weight.numel()
            for name, weight in weights.items()
        },
        macs=macs,
        size_bytes=sum(min(dense[name], bitmask[name]) for name in weights) + others * FLOAT_BYTES,
        dense_bytes=sum(dense.values()) + others * FLOAT_BYTES,
        bitmask_bytes=sum(bitmask.values()) + others * FLOAT_BYTES,
        csr_bytes=sum(csr.values()) + others * FLOAT_BYTES,
    )


def dense_macs(graph: Graph) -> int:
    """Multiply-accumulates of one input, those with zeros included: what dense kernels compute."""
    return sum(
        node.layer.weight.numel() * _uses(node) for node in graph.nodes if isinstance(node.layer, nn.Linear | nn.Conv2d)
    )


def _uses(node: Node) -> int:
    """How often each weight of a layer is multiplied for one input: once per output position."""
    # A convolution's output is (channels, height, width), a linear layer's (..., features).
    return math.prod(node.shape[1:] if isinstance(node.layer, nn.Conv2d) else node.shape[:-1])
