"""How tight interval bounds are inside a network."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .graph import Graph
from .interval import interval_bounds
from .linear import as_intervals, crown_ibp_bounds
from .region import Region


class Widths(NamedTuple):
    """Summed widths of two bounds of what one ReLU reads, of the same neurons over the same boxes.

    Attributes:
        backward: of the better of interval and CROWN-IBP bounds.
        interval: of interval bounds, never smaller.
    """

    backward: float
    interval: float


@torch.no_grad()
def widths_before_relus(graph: Graph, region: Region, *, neurons: int, generator: torch.Generator) -> dict[int, Widths]:
    """Widths before each ReLU of the graph, by its node.

    Backward over interval is a ratio in [0, 1] that no scale of weights enters: 1 where intervals are as tight as
    backward bounds, as before the first ReLU. It is an upper bound of the propagation tightness of Mao et al. (2024,
    arXiv 2306.10426), which has the narrowest possible box in place of the backward bounds, and equal to it where no
    earlier ReLU is unstable.

    Args:
        region: of the inputs, `(batch, *shape)`.
        neurons: how many of each layer to look at, the same ones in each box; all where it has no more.
        generator: draws them; of the CPU.
    """
    read = {index: node.inputs[0] for index, node in enumerate(graph.nodes) if isinstance(node.layer, nn.ReLU)}
    chosen: dict[int, Tensor] = {}
    for source in read.values():
        shape = graph.nodes[source].shape
        drawn = torch.zeros(shape, dtype=torch.bool).flatten()
        drawn[torch.randperm(len(drawn), generator=generator)[:neurons]] = True
        chosen[source] = drawn.view(shape).to(region.centre.device).expand(len(region.centre), *shape)
    backward, interval = crown_ibp_bounds(graph, region, chosen), as_intervals(interval_bounds(graph, region))

    def width(lower: Tensor, upper: Tensor, neurons: Tensor) -> float:
        # Bounds that meet may cross by a rounding error.
        return float((upper - lower)[neurons].double().clamp(min=0).sum())

    return {
        index: Widths(width(*backward[source], chosen[source]), width(*interval[source], chosen[source]))
        for index, source in read.items()
    }
