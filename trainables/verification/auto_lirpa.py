"""The one place that imports auto_LiRPA: the independent second opinion on bounds.

auto_LiRPA 0.3 is the only release in the registry. Its code is older than the torch and numpy it runs on here and looks
for a few names that have moved since; `needed_patches` puts back those that are missing, before the import. Newer
releases are imported as they are. Nothing else of sparsevlr depends on this module.
"""

import contextlib
import copy
import enum
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces.architectures.layers import Reshape
from ..bounds import Box, Graph, Node, Region
from .base import Unsupported
from .lirpa_patches import accept_remove_duplicate, needed_patches

INSTALL = "pip install --no-deps auto_LiRPA==0.3"


class Method(enum.Enum):
    """The name auto_LiRPA has for each method."""

    ibp = "IBP"
    crown_ibp = "CROWN-IBP"
    crown = "CROWN"
    alpha_crown = "CROWN-Optimized"


def lirpa_margins(graph: Graph, region: Region, labels: Tensor, method: Method, *, iterations: int = 20) -> Tensor:
    """Lower bounds of `logit_y - logit_k` by auto_LiRPA, `(batch, classes)`, 0 at k = y, in the dtype of the network.

    The network is copied with its weights as they are, so masks must be in the weights already (`trace` sees to it).

    Args:
        region: of the inputs, `(batch, *shape)`; balls all of one radius.
        labels: `(batch,)`.
        iterations: gradient steps of alpha-CROWN.

    Raises:
        Unsupported: auto_LiRPA is missing, or cannot bound this network by this method.
    """
    library = load()
    _refuse(graph, method)
    weight = graph.last_linear.weight
    classes = weight.shape[0]
    unit = torch.eye(classes, dtype=weight.dtype, device=weight.device)
    differences = unit[labels][:, None, :] - unit
    options = {
        # The faster form of patches is wrong for dilated convolutions, and fails on grouped ones and on a reshape.
        "conv_mode": "matrix" if any(map(_breaks_patches, graph.nodes)) else "patches",
        # These take unstable neurons from the whole batch, which makes bounds depend on who else is in it.
        "sparse_intermediate_bounds": False,
        "sparse_conv_intermediate_bounds": False,
        "optimize_bound_args": {"iteration": iterations, "lr_alpha": 0.1},
    }
    with _quiet(), _default_dtype(weight.dtype), torch.set_grad_enabled(method is Method.alpha_crown):
        example = torch.zeros(1, *graph.nodes[0].shape, dtype=weight.dtype, device=weight.device)
        bounded = library.BoundedModule(_plain_copy(graph.network), example, bound_opts=options, device=weight.device)
        inputs = (library.BoundedTensor(region.centre, _perturbation(library, region)),)
        lower, _ = bounded.compute_bounds(x=inputs, C=differences, method=method.value, bound_upper=False)
    return lower.detach()


def _perturbation(library: "Library", region: Region) -> Any:
    if isinstance(region, Box):
        return library.PerturbationLpNorm(norm=np.inf, x_L=region.lower, x_U=region.upper)
    epsilon = region.radius.flatten()[0].item()
    if not bool((region.radius == epsilon).all()):
        raise Unsupported("auto_LiRPA has one radius for all balls")
    return library.PerturbationLpNorm(norm=2, eps=epsilon)


def installed_version() -> str | None:
    """The installed release, "unknown" for one without metadata, None where there is none."""
    try:
        return importlib.metadata.version("auto_LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if importlib.util.find_spec("auto_LiRPA") else None


@final
@dataclass(frozen=True)
class Library:
    """The three names of auto_LiRPA that are used."""

    BoundedModule: Any
    BoundedTensor: Any
    PerturbationLpNorm: Any


def load() -> Library:
    """Import auto_LiRPA, after the patches that it needs.

    Raises:
        Unsupported: in one line, with the command that installs it, where it is missing.
    """
    version = installed_version()
    if version is None:
        raise Unsupported(f"auto_LiRPA is not installed: {INSTALL}")
    for patch in needed_patches(version):
        patch.apply()
    try:
        # Its import sets up the root logger on stdout and changes the warning filters of the whole process.
        with _quiet(), _untouched_root_logger():
            package = importlib.import_module("auto_LiRPA")
            perturbations = importlib.import_module("auto_LiRPA.perturbations")
    except ImportError as error:
        raise Unsupported(f"auto_LiRPA {version} cannot be imported ({error}); the tested one: {INSTALL}") from error
    accept_remove_duplicate(package.BoundedModule)
    return Library(package.BoundedModule, package.BoundedTensor, perturbations.PerturbationLpNorm)


def _refuse(graph: Graph, method: Method) -> None:
    """Raise for what auto_LiRPA 0.3 was seen to fail on, or to bound wrongly (overlapping average pools)."""
    if method is Method.ibp:
        return
    if method is Method.alpha_crown and graph.last_linear.weight.dtype != torch.float32:
        raise Unsupported("auto_LiRPA's CROWN-Optimized mixes float32 into other networks: give it one in float32")
    for index, node in enumerate(graph.nodes):
        layer = node.layer
        if not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            continue
        name = type(layer).__name__
        if _pair(layer.stride) != _pair(layer.kernel_size) or _pair(layer.padding) != (0, 0) or layer.ceil_mode:
            raise Unsupported(
                f"auto_LiRPA's backward bounds of {name} with overlap, padding or ceil_mode fail or are wrong"
            )
        if isinstance(layer, nn.MaxPool2d) and _pair(layer.dilation) != (1, 1):
            raise Unsupported("auto_LiRPA ignores the dilation of MaxPool2d")
        if isinstance(layer, nn.MaxPool2d) and method is Method.alpha_crown:
            raise Unsupported("auto_LiRPA's CROWN-Optimized fails on MaxPool2d")
        bounds_later_layers = method is not Method.crown_ibp
        if isinstance(layer, nn.AvgPool2d) and bounds_later_layers and any(map(_is_relu, graph.nodes[index:])):
            raise Unsupported(f"auto_LiRPA's {method.value} fails on an AvgPool2d that a ReLU comes after")


def _is_relu(node: Node) -> bool:
    return isinstance(node.layer, nn.ReLU)


def _breaks_patches(node: Node) -> bool:
    layer = node.layer
    odd = isinstance(layer, nn.Conv2d) and (layer.groups > 1 or max(layer.dilation) > 1)
    return odd or isinstance(layer, Reshape)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@final
class _BatchFreeReshape(nn.Module):
    """`Reshape` without the size of the batch, which tracing would write down as that of the example."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


def _plain_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose every layer auto_LiRPA can trace; it would change the original's mode and device."""
    network = copy.deepcopy(network).eval()
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, Reshape):
                setattr(parent, name, _BatchFreeReshape(child.shape))
            elif isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Linear) and child.bias is None:
                child.bias = nn.Parameter(child.weight.new_zeros(child.out_features))
            elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) and not child.affine:
                assert child.running_mean is not None
                child.affine = True
                child.weight = nn.Parameter(torch.ones_like(child.running_mean))
                child.bias = nn.Parameter(torch.zeros_like(child.running_mean))
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No prints and warnings of the library on streams that belong to the caller."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _untouched_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """auto_LiRPA makes some tensors in torch's default dtype, whatever that of the network is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
