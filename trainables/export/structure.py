"""The layers of a network as JSON, so that it can be built again without the code that once built it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...results import ExportError
from ...spaces.architectures.layers import Reshape, Residual
from ..bounds import Graph, UnsupportedLayer, trace

DEEPEST, LARGEST_NUMBER = 32, 1 << 30
MOST_LAYERS, MOST_VALUES = 1000, 1 << 24
"""Of a network, and what all of its layers together give for one input."""

_OPTIONS: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine"),
    nn.ReLU: (),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "count_include_pad"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Dropout: ("p",),
    nn.Identity: (),
    Reshape: ("shape",),
}
"""Layers that `trace` knows, and what each is made from; `ExportError` has refused all other options before."""
_KINDS = {kind.__name__: kind for kind in _OPTIONS}


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= LARGEST_NUMBER


def _pair(least: int) -> Callable[[Any], bool]:
    one = _whole(least)
    return lambda value: all(map(one, value)) and len(value) == 2 if isinstance(value, list) else one(value)


def _real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST_NUMBER


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


_MAY_BE: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("in_features", "out_features", "in_channels", "out_channels", "groups", "num_features"), _whole(1)
    ),
    **dict.fromkeys(("kernel_size", "stride", "dilation"), _pair(1)),
    "padding": _pair(0),
    **dict.fromkeys(("bias", "affine", "count_include_pad"), _truth),
    "eps": _real,
    "momentum": lambda value: value is None or _real(value),
    "p": lambda value: _real(value) and value <= 1,
    **dict.fromkeys(("start_dim", "end_dim"), _whole(-DEEPEST)),
    "shape": lambda value: isinstance(value, list) and all(map(_whole(1), value)),
}
"""What an option may be, in JSON."""


def described(module: nn.Module) -> dict[str, Any]:
    """A network that `to_onnx` has written, as JSON: its type, and its layers by name or its options."""
    if isinstance(module, nn.Sequential):
        return {
            "type": "Sequential",
            "layers": {name: described(child) for name, child in module._modules.items() if child},
        }
    if isinstance(module, Residual):
        return {"type": "Residual", "body": described(module.body), "shortcut": described(module.shortcut)}
    options = {name: getattr(module, name) for name in _OPTIONS[type(module)]}
    if "bias" in options:
        options["bias"] = options["bias"] is not None
    return {"type": type(module).__name__, "options": options}


def built(content: Any, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """The network that `described` gave, in eval mode, with these weights and statistics by torch's names.

    Raises:
        ExportError: it is no description, names other layers or options, or the tensors do not fit.
    """
    # On the meta device no size, however large, takes memory.
    with torch.device("meta"):
        network = _built(content, DEEPEST)
    if not isinstance(network, nn.Sequential):
        raise ExportError("a network must be a Sequential")
    state = network.state_dict()
    if state.keys() != tensors.keys():
        odd = sorted(state.keys() ^ tensors.keys())
        raise ExportError(f"layers and weights must have the same tensors, but {odd[0][:80]!r} is only in one of them")
    for name, wanted in state.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ExportError(
                f"tensor {name!r} must be {wanted.dtype} of shape {tuple(wanted.shape)}, "
                f"got {found.dtype} of shape {tuple(found.shape)}"
            )
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval()


def traced(network: nn.Sequential, shape: tuple[int, ...]) -> Graph:
    """The graph of a network, if it is of a size that this machine can be expected to compute.

    Raises:
        ExportError: it is too large, its layers do not fit together, or bounds do not know one of them.
    """
    layers = sum(1 for module in network.modules() if not list(module.children()))
    if layers > MOST_LAYERS:
        raise ExportError(f"a network may have at most {MOST_LAYERS} layers, got {layers}")
    try:
        graph = trace(network, shape)
    except (UnsupportedLayer, ValueError) as error:
        raise ExportError(" ".join(str(error).split())) from error
    if (values := values_of(graph)) > MOST_VALUES:
        raise ExportError(f"the layers of a network may give at most {MOST_VALUES} values for an input, got {values}")
    return graph


def values_of(graph: Graph) -> int:
    """How many values all layers together give for one input; of a pool, those that its windows read."""
    return sum(math.prod(node.shape) * _taps(node.layer) for node in graph.nodes)


def _taps(layer: nn.Module) -> int:
    if not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return 1
    size = layer.kernel_size
    return math.prod(size) if isinstance(size, tuple) else size**2


def _built(content: Any, deeper: int) -> nn.Module:
    if not isinstance(content, dict) or not deeper:
        raise ExportError(f"a layer must be a mapping with its type, at most {DEEPEST} within each other")
    kind = content.get("type")
    if kind == "Sequential" and isinstance(content.get("layers"), dict) and len(content) == 2:
        network = nn.Sequential()
        for name, child in content["layers"].items():
            # What torch allows, as far as it can be printed.
            if not name or "." in name or not name.isprintable() or hasattr(network, name):
                raise ExportError(f"a layer cannot be called {name[:80]!r}")
            network.add_module(name, _built(child, deeper - 1))
        return network
    if kind == "Residual" and content.keys() == {"type", "body", "shortcut"}:
        body = _built(content["body"], deeper - 1)
        if not isinstance(body, nn.Sequential):
            raise ExportError("the body of a Residual must be a Sequential")
        return Residual(body, _built(content["shortcut"], deeper - 1))
    layer = _KINDS.get(kind) if isinstance(kind, str) else None
    options = content.get("options")
    if layer is None or not isinstance(options, dict) or len(content) != 2 or set(options) != set(_OPTIONS[layer]):
        raise ExportError(f"{kind!r:.80} with these options is no known layer; those are {', '.join(_KINDS)}")
    for name, value in options.items():
        if not _MAY_BE[name](value):
            raise ExportError(f"{name} of a {kind} cannot be {value!r:.80}")
    try:
        # JSON has lists where torch wants tuples.
        return layer(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})
    except (TypeError, ValueError, RuntimeError, OverflowError, ZeroDivisionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ExportError(f"a {kind} cannot be built: {reason}") from error
