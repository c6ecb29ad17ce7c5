"""The margins of one sample over its box, reduced to the inputs and the ReLUs that are undecided there.

What is stable over the box is linear and disappears; every ReLU that is left is one variable. The maximum of a pool is
written with ReLUs: beginning with the value `m` that has the largest lower bound, each other value `v` that may exceed
it takes it to `max(m, v) = m + relu(v - m)`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from .graph import Add, Graph
from .linear import rows_at_once
from .region import Box
from .relaxation import Interval, MaxRelaxation, relax, window_positions
from .transpose import transpose
from .units import unit_rows


@final
@dataclass(frozen=True)
class PiecewiseLinear:
    """Margins as functions of `n` inputs `x` and `u` variables `y = relu(weight @ [x, y] + constant)`.

    Attributes:
        centre, radius: `(n,)`, the box of the inputs.
        weight: `(u, n + u)`; in its last columns strictly lower triangular.
        constant: `(u,)`.
        lower, upper: `(u,)`, bounds of what each ReLU reads.
        blocks: consecutive ranges of variables that do not read each other.
        margins: `(classes, n + u)`, coefficients of `logit_y - logit_k`.
        margin_constants: `(classes,)`.
    """

    centre: Tensor
    radius: Tensor
    weight: Tensor
    constant: Tensor
    lower: Tensor
    upper: Tensor
    blocks: tuple[slice, ...]
    margins: Tensor
    margin_constants: Tensor


@torch.no_grad()
def reduce_margins(
    graph: Graph, box: Box, bounds: Sequence[Interval], label: int, most: float = math.inf
) -> PiecewiseLinear:
    """The margins of one sample.

    Args:
        box: centre and radius, each `(1, *shape)`.
        bounds: of every node, each `(1, *node.shape)`.
        label: the class y.
        most: variables that it may have, whose matrix grows with their square.

    Raises:
        TooManyVariables: it would have more; before any memory is taken for them.
    """
    reduction = _Reduction(graph, box, bounds)
    if reduction.variables > most:
        raise TooManyVariables(reduction.variables)
    return reduction.of(label)


class TooManyVariables(ValueError):
    """Of a piecewise linear function.

    Attributes:
        variables: how many it would have.
    """

    def __init__(self, variables: int) -> None:
        super().__init__(f"{variables} undecided ReLUs and pooled values")
        self.variables = variables


@dataclass(frozen=True)
class _Block:
    """Variables that begin at one node.

    Attributes:
        outputs: `(count,)`, flat positions in the node that each variable adds to.
        read: of some of the variables, a node, and what they read as linear functions of it: rows `(some, *shape)` and
            constants `(some,)`.
        lower, upper: `(count,)`, its bounds.
    """

    outputs: Tensor
    read: Callable[[Tensor], tuple[int, Tensor, Tensor]]
    lower: Tensor
    upper: Tensor


class _Reduction:
    def __init__(self, graph: Graph, box: Box, bounds: Sequence[Interval]) -> None:
        self._graph, self._box, self._bounds = graph, box, bounds
        self._blocks: dict[int, list[_Block]] = {}
        self._pools: dict[int, MaxRelaxation] = {}
        for index, node in enumerate(graph.nodes):
            if isinstance(node.layer, nn.ReLU):
                self._blocks[index] = self._relu(node.inputs[0])
            elif isinstance(node.layer, nn.MaxPool2d):
                self._pools[index] = pool = _pool(node.layer, bounds[node.inputs[0]])
                self._blocks[index] = self._maximum(node.layer, node.inputs[0], pool)
        self._inputs = box.centre.numel()
        self._first: dict[int, int] = {}
        self.variables = 0
        for index, blocks in self._blocks.items():
            self._first[index] = self.variables
            self.variables += sum(len(block.outputs) for block in blocks)

    def of(self, label: int) -> PiecewiseLinear:
        like = self._box.centre
        weight = like.new_zeros(self.variables, self._inputs + self.variables)
        constant, lower, upper = like.new_zeros(3, self.variables)
        slices: list[slice] = []
        for index, blocks in self._blocks.items():
            first = start = self._first[index]
            for block in blocks:
                here = slice(start, start + len(block.outputs))
                for some in torch.arange(len(block.outputs), device=like.device).split(rows_at_once(self._graph)):
                    if not len(some):
                        continue
                    weight[start + some], constant[start + some] = self._traced(*block.read(some))
                if isinstance(self._graph.nodes[index].layer, nn.MaxPool2d):
                    # The maximum so far holds what earlier values of the same window have added.
                    earlier = torch.cat([other.outputs for other in blocks])[: start - first]
                    same = (block.outputs[:, None] == earlier[None, :]).to(like)
                    weight[here, self._inputs + first : self._inputs + start] -= same
                lower[here], upper[here] = block.lower, block.upper
                slices.append(here)
                start = here.stop
        last = self._graph.last_linear
        rows = last.weight[label] - last.weight
        bias = rows.new_zeros(len(rows)) if last.bias is None else last.bias[label] - last.bias
        margins, constants = self._traced(self._graph.features, rows, bias)
        return PiecewiseLinear(
            self._box.centre.flatten(),
            self._box.radius.flatten(),
            weight,
            constant,
            lower,
            upper,
            tuple(piece for piece in slices if piece.stop > piece.start),
            margins,
            constants,
        )

    def _relu(self, source: int) -> list[_Block]:
        lower, upper = (bound.flatten() for bound in self._bounds[source])
        neurons = (~(lower >= 0) & ~(upper <= 0)).nonzero().squeeze(1)
        read = partial(self._neurons, source, neurons, lower)
        return [_Block(neurons, read, lower[neurons], upper[neurons])]

    def _neurons(self, source: int, neurons: Tensor, like: Tensor, some: Tensor) -> tuple[int, Tensor, Tensor]:
        return unit_rows(self._graph, source, neurons[some], like)

    def _maximum(self, layer: nn.MaxPool2d, source: int, pool: MaxRelaxation) -> list[_Block]:
        """One block per further value of the windows."""
        lower, upper = (bound[0].flatten(1) for bound in self._bounds[source])
        chosen = pool.chosen[0].flatten(1)
        channels, outputs = chosen.shape
        taps = window_positions(layer, self._graph.nodes[source].shape[1:]).to(chosen.device)
        least, most = lower.gather(1, chosen), upper.gather(1, chosen)
        blocks = []
        for tap in taps:
            place = tap.clamp(min=0).expand(channels, -1)
            low, high = lower.gather(1, place), upper.gather(1, place)
            # NaN counts as a value that may exceed all others.
            rivals = (tap >= 0) & (place != chosen) & ~(high <= least)
            channel, output = rivals.nonzero(as_tuple=True)
            size = lower.shape[1]
            read = partial(self._differences, source, channel * size + place[rivals], channel * size + chosen[rivals])
            bounds = ((low - most)[rivals], (high - least)[rivals])
            blocks.append(_Block(channel * outputs + output, read, *bounds))
            least = torch.where(rivals, torch.maximum(least, low), least)
            most = torch.where(rivals, torch.maximum(most, high), most)
        return blocks

    def _differences(self, source: int, plus: Tensor, minus: Tensor, some: Tensor) -> tuple[int, Tensor, Tensor]:
        """Rows that subtract one value of node `source` from another."""
        rows = self._box.centre.new_zeros(len(some), math.prod(self._graph.nodes[source].shape))
        rows.scatter_(1, plus[some, None], 1).scatter_(1, minus[some, None], -1)
        return source, rows.view(-1, *self._graph.nodes[source].shape), rows.new_zeros(len(some))

    def _traced(self, index: int, rows: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients `(rows, n + u)` on all variables, and constants, of linear functions of node `index`."""
        found = rows.new_zeros(len(rows), self._inputs + self.variables)
        pending = {index: rows}
        for current in range(index, 0, -1):
            if current not in pending:
                continue
            node, rows = self._graph.nodes[current], pending.pop(current)
            shape = self._graph.nodes[node.inputs[0]].shape
            if current in self._blocks:
                outputs = torch.cat([block.outputs for block in self._blocks[current]])
                start = self._inputs + self._first[current]
                found[:, start : start + len(outputs)] += rows.flatten(1)[:, outputs]
            if isinstance(node.layer, nn.ReLU):
                rows = rows * (self._bounds[node.inputs[0]].lower >= 0)
            elif current in self._pools:
                flat = rows.new_zeros(len(rows), shape[0], shape[1] * shape[2])
                chosen = self._pools[current].chosen.flatten(2).expand(len(rows), -1, -1)
                rows = flat.scatter_add(2, chosen, rows.flatten(2)).view(len(rows), *shape)
            elif not isinstance(node.layer, Add):
                rows, added = transpose(node.layer, rows, shape)
                constants = constants + added
            for source in node.inputs:
                pending[source] = pending[source] + rows if source in pending else rows
        found[:, : self._inputs] = pending[0].flatten(1)
        return found, constants


def _pool(layer: nn.MaxPool2d, before: Interval) -> MaxRelaxation:
    relaxation = relax(layer, before)
    assert isinstance(relaxation, MaxRelaxation)
    return relaxation
