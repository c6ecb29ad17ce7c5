"""Filter pruning (Li et al. 2017, arXiv 1608.08710)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ..bounds import Graph
from ..mask import prunable_weights
from .base import Distribution, Pattern
from .groups import choose_groups
from .liveness import Wiring, layers, most_weights_left


@final
@dataclass(frozen=True)
class Filter(Pattern):
    """Whole filters of convolutions and neurons of linear layers go, and what read nothing but them goes with them.

    A filter is worth the mean of its weights' scores. At least one stays in each layer, and all classes do: the last
    linear layer loses only the columns of neurons that have gone. The budget is spread over the other layers. What a
    filter takes along is followed through BatchNorm, ReLU, pooling, flattening and residual sums, there only where all
    branches are dead (`Wiring`); so the sparsity is that of the network in which dead filters are physically removed.
    It is the lowest that whole filters reach without falling below the target.
    """

    description: ClassVar[str] = "pattern: whole filters and neurons, with the weights that read them"
    whole_units: ClassVar[bool] = True

    def groups(self, weight: Tensor) -> Tensor:
        return torch.arange(len(weight)).view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)

    def limits(self, graph: Graph) -> tuple[float, float]:
        """
        Raises:
            ValueError: a layer has no filters in this sense, see `check_wiring`.
        """
        total = sum(weight.numel() for weight in prunable_weights(graph.network).values())
        return 0.0, 1.0 - most_weights_left(graph) / total

    def select(
        self, scores: Mapping[str, Tensor], kept: int, distribution: Distribution, graph: Graph
    ) -> dict[str, Tensor]:
        may_stay = {name: values != -torch.inf for name, values in scores.items()}
        wiring = Wiring(graph, may_stay)
        layer = layers(graph)
        inner = {name: values for name, values in scores.items() if layer[name] is not graph.last_linear}
        if not inner:
            raise ValueError("a network of one linear layer has no filter that could go: its outputs are the classes")
        index = {name: self.groups(values) for name, values in inner.items()}
        chosen = choose_groups(inner, index, kept, distribution, lambda stay: wiring.live(stay)[0], least=1)
        _, live = wiring.live(chosen)
        masks = {}
        for name, (outputs, inputs) in live.items():
            ends = [1] * (scores[name].dim() - 2)
            masks[name] = may_stay[name] & outputs.view(-1, 1, *ends) & inputs.view(1, -1, *ends)
        return {name: masks[name] for name in scores}
