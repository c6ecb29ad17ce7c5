"""A network as a flat graph of layers, the form in which bounds are computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...spaces.architectures.layers import Reshape, Residual

Shape = tuple[int, ...]


class UnsupportedLayer(TypeError):
    """A layer that bounds cannot be computed for; the message names it, what is supported, and the remedy."""


@final
class Add(nn.Module):
    """The sum that ends a residual block."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


@final
@dataclass(frozen=True, eq=False)
class Node:
    """One layer of a graph.

    Attributes:
        layer: the live module of the network, so that the graph stays valid while weights train.
        inputs: indices of the nodes it reads; empty for the input of the network.
        shape: of its output, without the batch.
    """

    layer: nn.Module
    inputs: tuple[int, ...]
    shape: Shape


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order: the first is the input, the last gives the logits `(batch, classes)`.

    Attributes:
        network: the module the graph was traced from.
        nodes: every layer once per use.
    """

    network: nn.Module
    nodes: tuple[Node, ...]

    @property
    def last_linear(self) -> nn.Linear:
        """The layer that gives the logits, which bounds of margins merge with."""
        layer = self.nodes[-1].layer
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def features(self) -> int:
        """Index of the node that the last linear layer reads."""
        return self.nodes[-1].inputs[0]


def trace(network: nn.Module, shape: Shape) -> Graph:
    """The graph of `network` for inputs `(batch, *shape)`.

    Containers are followed recursively: `nn.Sequential` and `Residual`; `nn.Identity` leaves no node.

    Raises:
        UnsupportedLayer: for any other layer, for a layer whose forward is not the plain one of its class (hooks,
            parametrisations, subclasses: the weights that bounds read would not be the weights that are used), and
            for a network whose last layer is not an `nn.Linear` over a vector.
        ValueError: where the shapes do not fit together.
    """
    nodes = [Node(nn.Identity(), (), tuple(shape))]
    last = _walk(network, 0, nodes, path="network")
    end = nodes[last]
    if not isinstance(end.layer, nn.Linear) or len(end.shape) != 1:
        raise UnsupportedLayer(
            "a network must end in an nn.Linear that gives logits (batch, classes), "
            f"but this one ends in {_name(end.layer)} of shape {end.shape}: put the nn.Linear last"
        )
    if last != len(nodes) - 1:  # pragma: no cover - a walk always ends at the newest node
        raise AssertionError("the logits are not the last node")
    return Graph(network, tuple(nodes))


def _walk(module: nn.Module, source: int, nodes: list[Node], path: str) -> int:
    """Append the nodes of `module`, which reads node `source`; return the index of its output."""
    _check_plain(module, path)
    if type(module) is nn.Sequential:
        # Not `named_children`, which gives a module that stands at two places only once.
        for name, child in module._modules.items():
            assert child is not None
            source = _walk(child, source, nodes, f"{path}.{name}")
        return source
    if type(module) is nn.Identity:
        return source
    if type(module) is Residual:
        ends = (
            _walk(module.body, source, nodes, f"{path}.body"),
            _walk(module.shortcut, source, nodes, f"{path}.shortcut"),
        )
        shapes = [nodes[end].shape for end in ends]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path}: body and shortcut must agree in shape, got {shapes[0]} and {shapes[1]}")
        nodes.append(Node(Add(), ends, shapes[0]))
    else:
        check = _CHECKS.get(type(module))
        if check is None:
            raise UnsupportedLayer(_unsupported(module, path, "bounds do not know it"))
        check(module, path)
        nodes.append(Node(module, (source,), _output_shape(module, nodes[source].shape, path)))
    return len(nodes) - 1


def _check_plain(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise UnsupportedLayer(_unsupported(module, path, "its forward is changed by hooks (masks, reparametrisation)"))


def _output_shape(layer: nn.Module, shape: Shape, path: str) -> Shape:
    try:
        if isinstance(layer, nn.Linear):
            if shape[-1] != layer.in_features:
                raise ValueError(f"expected {layer.in_features} features")
            return (*shape[:-1], layer.out_features)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and len(shape) != 3:
            # PyTorch would take the batch for the channels.
            raise ValueError("expected (channels, height, width)")
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            if shape[0] != layer.num_features:
                raise ValueError(f"expected {layer.num_features} channels")
            layer._check_input_dim(torch.empty(1, *shape, device="meta"))
            return shape
        if isinstance(layer, nn.Conv2d):
            # Shapes only: nothing is computed on the meta device, and no statistics move.
            image = torch.empty(1, *shape, device="meta", dtype=layer.weight.dtype)
            weight = layer.weight.detach().to("meta")
            out = F.conv2d(image, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        else:
            out = layer(torch.empty(1, *shape, device="meta"))
    except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        message = str(error).splitlines()[0]
        raise ValueError(f"{path} ({_name(layer)}) cannot take inputs of shape {shape}: {message}") from error
    return tuple(out.shape[1:])


class _Check(Protocol):
    def __call__(self, layer: Any, path: str) -> None: ...


def _anything(layer: nn.Module, path: str) -> None:
    pass


def _require(rule: Callable[[Any], bool], reason: str) -> _Check:
    def check(layer: nn.Module, path: str) -> None:
        if not rule(layer):
            raise UnsupportedLayer(_unsupported(layer, path, reason))

    return check


def _some_input(layer: nn.Conv2d) -> bool:
    """Whether every window at an edge reads some input: what is beyond only takes memory."""
    assert not isinstance(layer.padding, str)
    extent = zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
    return all(padding <= dilation * (size - 1) for padding, dilation, size in extent)


_tracks = _require(
    lambda layer: layer.track_running_stats,
    "without running statistics its output depends on the whole batch (set track_running_stats=True)",
)

_CHECKS: dict[type[nn.Module], _Check] = {
    nn.Linear: _anything,
    nn.Conv2d: _require(
        lambda layer: layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and _some_input(layer),
        "only zero padding given in numbers is known, of less than the kernel's extent",
    ),
    nn.BatchNorm1d: _tracks,
    nn.BatchNorm2d: _tracks,
    nn.ReLU: _anything,
    nn.AvgPool2d: _require(
        lambda layer: layer.divisor_override is None or layer.divisor_override > 0, "divisor_override must be above 0"
    ),
    nn.MaxPool2d: _require(
        lambda layer: not layer.ceil_mode and not layer.return_indices, "ceil_mode and return_indices are not known"
    ),
    nn.Flatten: _require(lambda layer: layer.start_dim >= 1, "it must leave the batch alone (start_dim >= 1)"),
    nn.Dropout: _anything,
    Reshape: _anything,
}


def _name(layer: nn.Module) -> str:
    return type(layer).__name__


def _unsupported(layer: nn.Module, path: str, reason: str) -> str:
    known = ", ".join(sorted({*map(_type_name, _CHECKS), "Sequential", "Identity", "Residual"}))
    return (
        f"{path} is a {_name(layer)} that cannot be bounded: {reason}; supported are plain {known}: "
        "build the network from these and put masked values into their plain weights"
    )


def _type_name(kind: type[nn.Module]) -> str:
    return kind.__name__
