"""Training goes on with the smaller network, and the whole one takes back what that has learned."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ..accounting import dense_macs
from ..bounds import Graph, trace
from ..mask import Mask
from ..optimizers import load_optimizer, optimizer_tensors
from .by_mask import fold_, layer_names, plan_by_mask
from .compact import removed
from .plan import Plan
from .units import shrinkable

WORTHWHILE = 0.9
"""The smaller network is trained if this share of the multiply-accumulates is left, or less."""


class Trained(NamedTuple):
    """What an optimizer step works on.

    Attributes:
        graph: of the network.
        mask: of its weights.
        optimizer: of its parameters.
    """

    graph: Graph
    mask: Mask
    optimizer: torch.optim.Optimizer


@final
class InTraining:
    """The smaller network in the place of the whole one, whose mask does not change any more.

    What is left has the loss and the gradient that it has in the whole network, and keeps its optimizer state. What is
    gone stays in the whole network as it is, its kept weights included, but gives zero (see `fold_`). A regulariser
    no longer sees the ReLUs that are gone. What goes follows from the mask, and taking values from the whole network
    and giving them back is exact: it makes no difference whether one goes on with a network that has been expanded or
    with the smaller one itself.

    Args:
        whole: in training mode; constants are folded into its biases.
        build: makes an optimizer for the parameters of the smaller network.

    Attributes:
        trained: what to train instead: `whole` itself where the smaller network saves too little, or where a parameter
            stands at two places.
    """

    def __init__(self, whole: Trained, build: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> None:
        self._whole = self.trained = whole
        self._places: dict[str, Any] = {}
        graph = whole.graph
        plan = plan_by_mask(graph, whole.mask)
        if not any(bool(own.any()) for own in plan.gone) or _shares_parameters(graph):
            return
        network = removed(graph, plan).network
        smaller = trace(network, graph.nodes[0].shape)
        if dense_macs(smaller) > WORTHWHILE * dense_macs(graph):
            return
        fold_(graph, plan.gone)
        self._places = _places(graph, plan)
        state = {name: value[self._places[name]] for name, value in graph.network.state_dict().items()}
        network.load_state_dict(state)
        parameters, own = dict(graph.network.named_parameters()), dict(network.named_parameters())
        for name, parameter in own.items():
            parameter.requires_grad_(parameters[name].requires_grad)
        optimizer = build(own.values())
        moments = optimizer_tensors(whole.optimizer, parameters)
        load_optimizer(optimizer, own, {key: value[self._place(key, value)].clone() for key, value in moments.items()})
        mask = Mask({name: kept[self._places[name]] for name, kept in whole.mask.items()})
        self.trained = Trained(smaller, mask, optimizer)

    @torch.no_grad()
    def expand_(self) -> None:
        """Give the whole network and its optimizer what has been trained."""
        if self.trained is self._whole:
            return
        network, smaller = self._whole.graph.network, self.trained.graph.network
        state, own = network.state_dict(), smaller.state_dict()
        for name, place in self._places.items():
            state[name][place] = own[name]
        parameters = dict(network.named_parameters())
        moments = optimizer_tensors(self._whole.optimizer, parameters)
        for key, value in optimizer_tensors(self.trained.optimizer, dict(smaller.named_parameters())).items():
            name = key.partition("/")[2]
            if key not in moments:
                moments[key] = torch.zeros_like(parameters[name] if value.dim() else value)
            moments[key][self._place(key, value)] = value
        load_optimizer(self._whole.optimizer, parameters, moments)

    def _place(self, key: str, value: Tensor) -> Any:
        """Where what an optimizer remembers of a parameter stands: with its values, or, one number, by itself."""
        return self._places[key.partition("/")[2]] if value.dim() else ...


def _places(graph: Graph, plan: Plan) -> dict[str, Any]:
    """The index of what is left in each tensor of the network's state, by name; on the CPU it goes with any device."""
    names, places = layer_names(graph), {}
    kept = [rows.cpu() for rows in plan.kept]
    for node, rows in zip(graph.nodes[1:], kept[1:], strict=True):
        for key, value in node.layer.state_dict().items():
            place: Any = ...
            if shrinkable(node) and key == "weight":
                place = (rows[:, None], kept[node.inputs[0]])
            elif value.dim() and (shrinkable(node) or isinstance(node.layer, nn.BatchNorm1d | nn.BatchNorm2d)):
                place = rows
            places[f"{names[node.layer]}.{key}"] = place
    return places


def _shares_parameters(graph: Graph) -> bool:
    uses = sum(len(list(node.layer.parameters())) for node in graph.nodes)
    return uses != len(list(graph.network.parameters()))
