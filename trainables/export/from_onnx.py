"""ONNX back into a network: only what `to_onnx` writes, since the file may be anybody's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto
from torch import Tensor, nn

from ...results import ExportError
from ...spaces.architectures.layers import Reshape, Residual
from ..bounds import Graph
from .structure import MOST_LAYERS, MOST_VALUES, traced
from .to_onnx import INPUT, OPSET, OUTPUT

MOST_NESTED, LARGEST_NUMBER = 16, 1 << 20
"""Residual blocks within each other, and any attribute."""

Shape = tuple[int, ...]
_KINDS = {TensorProto.FLOAT: "<f4", TensorProto.INT64: "<i8"}


@final
@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """What an ONNX model holds.

    Attributes:
        network: in eval mode.
        graph: of it, with the shape of its inputs.
    """

    network: nn.Sequential
    graph: Graph


def from_onnx(data: bytes) -> OnnxNetwork:
    """The network in an ONNX model of opset 13, of the operators that `to_onnx` writes.

    Nothing outside `data` is read, sizes are checked before memory is taken, and branches must be residual blocks.

    Raises:
        ExportError: it is no ONNX model, or has anything else in it; the message says what.
    """
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ExportError("it is no ONNX model") from None
    if [(opset.domain, opset.version) for opset in model.opset_import] != [("", OPSET)]:
        raise ExportError(f"only ONNX opset {OPSET} is read, without other operator sets")
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise ExportError("functions, training graphs and sparse tensors are not read")
    reader = _Reader(model.graph)
    network = nn.Sequential(*reader.layers(INPUT, OUTPUT)).eval()
    reader.check_all_used()
    return OnnxNetwork(network, traced(network, reader.shape))


@dataclass(frozen=True, eq=False)
class _Value:
    """What a node gives: its layer (None for a sum), what it reads, and how many axes it has less the batch."""

    layer: nn.Module | None
    reads: tuple[str, ...]
    axes: int


class _Reader:
    """The nodes of a graph by the name of what each gives."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants: dict[str, Tensor] = {}
        for tensor in graph.initializer:
            if tensor.name in self._constants:
                raise ExportError(f"tensor {tensor.name[:80]!r} is there twice")
            self._constants[tensor.name] = _tensor(tensor)
        self.shape = _input_shape(graph)
        self.values = {INPUT: _Value(None, (), len(self.shape))}
        self._used: set[str] = {INPUT}
        if len(graph.node) > MOST_LAYERS:
            raise ExportError(f"a network may have at most {MOST_LAYERS} layers, got {len(graph.node)}")
        for node in graph.node:
            self._read(node)
        if [value.name for value in graph.output] != [OUTPUT] or OUTPUT not in self.values:
            raise ExportError(f"the one output must be called {OUTPUT!r}")
        # The way from each value back to the input, sums skipped to where their branches part.
        self._spines: dict[str, list[str]] = {INPUT: [INPUT]}
        for name, value in list(self.values.items())[1:]:
            before = value.reads[0] if value.layer is not None else self._fork(value)
            self._spines[name] = [name, *self._spines[before]]

    def layers(self, start: str, end: str, nested: int = 0) -> list[nn.Module]:
        """What leads from one value to a later one."""
        if nested > MOST_NESTED:
            raise ExportError(f"at most {MOST_NESTED} residual blocks may lie within each other")
        layers: list[nn.Module] = []
        while end != start:
            value = self.values[end]
            if end in self._used:
                raise ExportError(f"{end[:80]!r} is read by two nodes that form no residual block")
            self._used.add(end)
            if value.layer is not None:
                layers.append(value.layer)
                end = value.reads[0]
            else:
                end = self._fork(value)
                body, shortcut = (nn.Sequential(*self.layers(end, read, nested + 1)) for read in value.reads)
                layers.append(Residual(body, shortcut))
        return layers[::-1]

    def check_all_used(self) -> None:
        """
        Raises:
            ExportError: some node leads nowhere.
        """
        for name in self.values.keys() - self._used:
            raise ExportError(f"{name[:80]!r} leads to no output")

    def _fork(self, total: _Value) -> str:
        left, right = (self._spines[read] for read in total.reads)
        known = set(right)
        return next(name for name in left if name in known)

    def _read(self, node: onnx.NodeProto) -> None:
        step = _STEPS.get(node.op_type)
        if step is None or node.domain:
            raise ExportError(f"operator {node.op_type[:80]!r} is not read; those that are: {', '.join(_STEPS)}")
        if len(node.output) != 1 or not node.input or node.output[0] in self.values:
            raise ExportError(f"a {node.op_type} must read something and give one new value")
        reads = [name for name in node.input if name not in self._constants]
        for name in reads:
            if name not in self.values:
                raise ExportError(f"a {node.op_type} reads {name[:80]!r}, which nothing before it gives")
        if list(node.input)[: len(reads)] != reads or not reads:
            raise ExportError(f"a {node.op_type} must read values first, then its constants")
        constants = [self._constants[name] for name in node.input[len(reads) :]]
        if node.op_type == "Add" and len(reads) == 2 and not constants:
            self.values[node.output[0]] = _Value(None, (reads[0], reads[1]), self.values[reads[0]].axes)
        elif node.op_type == "Add" and len(reads) == 1 and len(constants) == 1:
            self._add_bias(reads[0], node.output[0], constants[0])
        elif len(reads) == 1:
            layer, axes = step(_Node(node, constants), self.values[reads[0]].axes)
            self.values[node.output[0]] = _Value(layer, (reads[0],), axes)
        else:
            raise ExportError(f"a {node.op_type} must read one value")

    def _add_bias(self, read: str, gives: str, bias: Tensor) -> None:
        """A constant may be added to a product: together they are one linear layer."""
        value = self.values.pop(read)
        layer = value.layer
        alone = not any(read in other.reads for other in self.values.values())
        if not isinstance(layer, nn.Linear) or layer.bias is not None or not alone:
            raise ExportError("a constant may be added to a MatMul only, which nothing else reads")
        if bias.shape != (layer.out_features,) or bias.dtype != torch.float32:
            raise ExportError(f"what is added to a MatMul must be {layer.out_features} numbers of float32")
        layer.bias = nn.Parameter(bias)
        self.values[gives] = value


@dataclass(frozen=True, eq=False)
class _Node:
    """One node, its constants and its attributes."""

    proto: onnx.NodeProto
    constants: list[Tensor]

    def tensors(self, *axes: int, optional: int = 0) -> list[Tensor]:
        """Its constants: float32, with so many axes each; the last `optional` may be left out."""
        found = [constant.dim() for constant in self.constants]
        kinds = {constant.dtype for constant in self.constants}
        if not len(axes) - optional <= len(found) <= len(axes) or found != list(axes[: len(found)]):
            raise ExportError(f"the constants of a {self.proto.op_type} must have {axes} axes, got {tuple(found)}")
        if kinds - {torch.float32}:
            raise ExportError(f"the constants of a {self.proto.op_type} must be of float32")
        return self.constants

    def attributes(self, **defaults: Any) -> dict[str, Any]:
        """Its attributes, those of `defaults` only, each of the type and length there."""
        found = dict(defaults)
        for attribute in self.proto.attribute:
            name, value = attribute.name, _attribute(attribute)
            if name not in defaults:
                raise ExportError(f"attribute {name[:80]!r} of a {self.proto.op_type} is not read")
            if type(value) is not type(defaults[name]) or (
                isinstance(value, tuple) and len(value) != len(defaults[name])
            ):
                raise ExportError(
                    f"{name} of a {self.proto.op_type} must be like {defaults[name]!r}, got {value!r:.80}"
                )
            found[name] = value
        return found

    def window(self, **defaults: Any) -> dict[str, Any]:
        """The attributes of what slides over a map, by torch's names."""
        one, none = (1, 1), (0, 0, 0, 0)
        found = self.attributes(kernel_shape=one, strides=one, pads=none, **defaults)
        pads = found.pop("pads")
        if pads[:2] != pads[2:]:
            raise ExportError(f"a {self.proto.op_type} must pad both ends alike, got {pads}")
        names = {"kernel_shape": "kernel_size", "strides": "stride", "dilations": "dilation", "group": "groups"}
        for name in ("kernel_shape", "strides", "dilations"):
            if 0 in found.get(name, one):
                raise ExportError(f"{name} of a {self.proto.op_type} must be at least 1, got {found[name]}")
        return {names.get(name, name): value for name, value in found.items()} | {"padding": pads[:2]}


def _attribute(attribute: onnx.AttributeProto) -> int | float | tuple[int, ...]:
    if attribute.type == AttributeProto.FLOAT:
        return float(attribute.f)
    if attribute.type not in (AttributeProto.INT, AttributeProto.INTS):
        raise ExportError(f"attribute {attribute.name[:80]!r} must be a number or whole numbers")
    numbers = tuple(attribute.ints) if attribute.type == AttributeProto.INTS else (attribute.i,)
    if not all(0 <= number <= LARGEST_NUMBER for number in numbers):
        raise ExportError(f"attribute {attribute.name[:80]!r} must be 0 to {LARGEST_NUMBER}, got {numbers!r:.80}")
    return numbers if attribute.type == AttributeProto.INTS else numbers[0]


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    what = f"tensor {tensor.name[:80]!r}"
    if tensor.data_location != TensorProto.DEFAULT or tensor.external_data:
        raise ExportError(f"{what} lies in another file, which is never read")
    kind = _KINDS.get(tensor.data_type)
    if kind is None or tensor.HasField("segment"):
        raise ExportError(f"{what} must be of float32 or int64")
    dims = tuple(tensor.dims)
    if min(dims, default=1) < 1 or math.prod(dims) * np.dtype(kind).itemsize != len(tensor.raw_data):
        raise ExportError(f"{what} of shape {dims!r:.80} does not fit its {len(tensor.raw_data)} bytes")
    array = np.frombuffer(tensor.raw_data, kind)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).reshape(dims)


def _input_shape(graph: onnx.GraphProto) -> Shape:
    if [value.name for value in graph.input] != [INPUT]:
        raise ExportError(f"the one input must be called {INPUT!r}")
    kind = graph.input[0].type.tensor_type
    shape = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    if kind.elem_type != TensorProto.FLOAT or not shape or min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise ExportError(f"{INPUT} must be float32 with a batch and sizes of at least 1, got sizes {shape!r:.80}")
    return shape


def _gemm(node: _Node, axes: int) -> tuple[nn.Module, int]:
    wanted = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    if node.attributes(**wanted | {"transB": 0}) != wanted:
        raise ExportError(f"a Gemm must have {wanted}")
    weight, *bias = node.tensors(2, 1, optional=1)
    return _with(nn.Linear(weight.shape[1], weight.shape[0], bool(bias), device="meta"), weight, bias), 1


def _matmul(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.attributes()
    (weight,) = node.tensors(2)
    return _with(nn.Linear(weight.shape[0], weight.shape[1], False, device="meta"), weight.T.contiguous(), []), axes


def _convolution(node: _Node, axes: int) -> tuple[nn.Module, int]:
    weight, *bias = node.tensors(4, 1, optional=1)
    options = node.window(dilations=(1, 1), group=1)
    groups = options["groups"]
    if axes != 3 or options["kernel_size"] != tuple(weight.shape[2:]) or not groups or weight.shape[0] % groups:
        raise ExportError("a Conv must read maps, and its kernel_shape and group must fit its weight")
    channels = weight.shape[1] * groups
    return _with(nn.Conv2d(channels, weight.shape[0], **options, bias=bool(bias), device="meta"), weight, bias), 3


def _with(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: list[Tensor]) -> nn.Module:
    if bias and bias[0].shape != weight.shape[:1]:
        raise ExportError(f"a bias must have {weight.shape[0]} numbers, got {bias[0].shape[0]}")
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(bias[0]) if bias else None
    return layer


def _batchnorm(node: _Node, axes: int) -> tuple[nn.Module, int]:
    weight, bias, mean, variance = node.tensors(1, 1, 1, 1)
    if len({len(constant) for constant in node.constants}) > 1:
        raise ExportError("the constants of a BatchNormalization must be equally many")
    kind = nn.BatchNorm2d if axes == 3 else nn.BatchNorm1d
    epsilon = node.attributes(epsilon=1e-5)["epsilon"]
    if not 0 <= epsilon < math.inf:
        raise ExportError(f"epsilon of a BatchNormalization must be at least 0 and finite, got {epsilon:g}")
    layer = kind(len(weight), eps=epsilon, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    layer.running_mean, layer.running_var, layer.num_batches_tracked = mean, variance, torch.tensor(0)
    return layer, axes


def _average(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.tensors()
    options = node.window(count_include_pad=0)
    return nn.AvgPool2d(**options | {"count_include_pad": bool(options["count_include_pad"])}), _of_maps(axes)


def _maximum(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.tensors()
    return nn.MaxPool2d(**node.window(dilations=(1, 1))), _of_maps(axes)


def _of_maps(axes: int) -> int:
    if axes != 3:
        raise ExportError("a pool must read maps")
    return axes


def _relu(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.attributes()
    node.tensors()
    return nn.ReLU(), axes


def _flatten(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.tensors()
    if node.attributes(axis=1) != {"axis": 1}:
        raise ExportError("a Flatten must have axis 1")
    return nn.Flatten(), 1


def _reshape(node: _Node, axes: int) -> tuple[nn.Module, int]:
    node.attributes()
    if len(node.constants) != 1 or node.constants[0].dtype != torch.int64 or node.constants[0].dim() != 1:
        raise ExportError("a Reshape must have its shape as a constant")
    batch, *shape = node.constants[0].tolist()
    if batch != 0 or not shape or not all(1 <= size <= LARGEST_NUMBER for size in shape):
        raise ExportError(
            f"a Reshape must keep the batch by a 0 and have sizes of at least 1, got {[batch, *shape]!r:.80}"
        )
    return Reshape(shape), len(shape)


def _sum(node: _Node, axes: int) -> tuple[nn.Module, int]:
    raise ExportError("an Add must read two values, or one and a constant")


_STEPS: Mapping[str, Callable[[_Node, int], tuple[nn.Module, int]]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _convolution,
    "BatchNormalization": _batchnorm,
    "Relu": _relu,
    "Add": _sum,
    "AveragePool": _average,
    "MaxPool": _maximum,
    "Flatten": _flatten,
    "Reshape": _reshape,
}
