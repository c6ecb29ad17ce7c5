"""Networks that may be searched: one class per architecture, whose dataclass fields are its options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from ..errors import SpecError
from ..suggest import closest, listed, reject_unknown
from ..usercode import described, is_reference, resolve
from .base import Architecture
from .cnn1d import Cnn1d
from .cnn7 import Cnn7
from .cnn_medium import CnnMedium
from .cnn_small import CnnSmall
from .layers import Reshape, Residual
from .mlp import Mlp
from .resnet_small import ResnetSmall
from .shapes import check_problem

ARCHITECTURES: dict[str, type[Architecture]] = {
    "mlp": Mlp,
    "cnn-small": CnnSmall,
    "cnn-medium": CnnMedium,
    "cnn7": Cnn7,
    "resnet-small": ResnetSmall,
    "cnn1d": Cnn1d,
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Reshape",
    "Residual",
    "architecture_options",
    "build_architecture",
    "check_architecture",
]


def check_architecture(name: str, *, allow_code: bool = False) -> None:
    """Check that `name` can be built, as far as this shows without building it.

    Raises:
        SpecError: for a name that is neither registered nor `module:function`, or for the latter without `allow_code`.
    """
    if name in ARCHITECTURES:
        return
    if not is_reference(name):
        raise SpecError(
            f"unknown architecture {name!r}{closest(name, ARCHITECTURES)} "
            f"(known: {listed(ARCHITECTURES)}, or your own as module:function)"
        )
    resolve(name, allow_code=allow_code, what="architecture")


def architecture_options(name: str) -> dict[str, Any] | None:
    """The options of a registered architecture with their defaults; None for a `module:function`, which has its own."""
    kind = ARCHITECTURES.get(name)
    return None if kind is None else {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]


def build_architecture(
    name: str, options: Mapping[str, Any], shape: tuple[int, ...], classes: int, *, allow_code: bool = False
) -> nn.Sequential:
    """A fresh network `(batch, *shape) -> (batch, classes)`, initialised from torch's global random state.

    `name` is a key of `ARCHITECTURES` or `module:function`, called as `function(shape, classes, **options)`.

    Raises:
        SpecError: unknown name or option, an impossible option, `module:function` without `allow_code`, or a network of
            the user's own that is no `nn.Sequential` ending in `nn.Linear(..., classes)` or has a weight twice.
    """
    check_architecture(name, allow_code=allow_code)
    check_problem(shape, classes)
    if name not in ARCHITECTURES:
        return _build_own(name, options, shape, classes)
    known = architecture_options(name) or {}
    reject_unknown(options, known, f"architecture {name!r}")
    return ARCHITECTURES[name](**options).build(tuple(shape), classes)


def _build_own(name: str, options: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> nn.Sequential:
    function = resolve(name, allow_code=True, what="architecture")
    try:
        network = function(tuple(shape), classes, **options)
    except Exception as error:
        raise SpecError(f"architecture {name!r} failed with {described(error)}") from error
    if not isinstance(network, nn.Sequential) or len(network) == 0 or not isinstance(network[-1], nn.Linear):
        ending = f" ending in {type(network[-1]).__name__}" if isinstance(network, nn.Sequential) and network else ""
        raise SpecError(
            f"architecture {name!r} must return a torch.nn.Sequential whose last layer is an nn.Linear, "
            f"got {type(network).__name__}{ending}"
        )
    places: dict[int, str] = {}
    for place, tensor in network.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and (first := places.setdefault(id(tensor), place)) != place:
            raise SpecError(
                f"architecture {name!r} has one tensor at two places, {first} and {place}: "
                "give each place a layer of its own, since weights are counted, pruned and stored by place"
            )
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, *shape))
    except Exception as error:
        raise SpecError(
            f"architecture {name!r} fails on an input of shape {tuple(shape)}: {described(error)}"
        ) from error
    network.train(training)
    if tuple(logits.shape) != (2, classes):
        raise SpecError(
            f"architecture {name!r} must return logits of shape (batch, {classes}), "
            f"got {tuple(logits.shape)} for a batch of 2"
        )
    return network
