"""A network as ONNX, node by node from its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn

from ...results import ExportError
from ...spaces.architectures.layers import Reshape
from ..bounds import Add, Graph, Node
from ..compaction.by_mask import layer_names

OPSET, IR_VERSION = 13, 7
"""Old enough for the parsers of other verifiers, and all that these layers need."""
INPUT, OUTPUT = "input", "logits"

Shape = tuple[int, ...]


def to_onnx(graph: Graph) -> bytes:
    """The network of `graph`, in float32, as an ONNX model of `input` `(batch, *shape)` to `logits` `(batch, classes)`.

    BatchNorm, as in eval mode, stays a node of its own, so that bounds of what is read back are those of the network.
    Dropout leaves no node.

    Raises:
        ExportError: a layer has an option that ONNX has no equal of.
    """
    writer = _Writer(graph)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *graph.nodes[0].shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *graph.nodes[-1].shape])],
            list(writer.constants.values()),
        ),
        producer_name="sparsevlr",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = model.SerializeToString()
    return data


class _Writer:
    """Writes all nodes of a graph; values are named after the nodes, weights after the layers."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        names, values = layer_names(graph), [INPUT]
        for index, node in enumerate(graph.nodes[1:], start=1):
            read = [values[source] for source in node.inputs]
            if isinstance(node.layer, nn.Dropout):
                values += read
                continue
            self.name = names.get(node.layer, "")
            self.gives = OUTPUT if index == len(graph.nodes) - 1 else f"value_{index}"
            _STEPS[type(node.layer)](self, node, read, graph.nodes[node.inputs[0]].shape)
            values.append(self.gives)

    def node(self, kind: str, read: Sequence[str], gives: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, list(read), [gives], **attributes))

    def floats(self, name: str, values: Tensor) -> str:
        """A constant of the layer at hand; returns what it is called."""
        array = values.detach().cpu().numpy().astype("<f4")
        return self._constant(f"{self.name}.{name}", TensorProto.FLOAT, array)

    def reshape(self, read: str, shape: Shape, gives: str) -> None:
        # 0 stands for the size of the batch, whatever it is.
        array = np.array([0, *shape], dtype="<i8")
        self.node("Reshape", [read, self._constant(f"{gives}.shape", TensorProto.INT64, array)], gives)

    def _constant(self, name: str, kind: int, array: np.ndarray) -> str:
        self.constants[name] = helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)
        return name


def _linear(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    layer: Any = node.layer
    if len(node.shape) == 1:
        bias = [] if layer.bias is None else [to.floats("bias", layer.bias)]
        to.node("Gemm", [*read, to.floats("weight", layer.weight), *bias], to.gives, transB=1)
        return
    product = to.gives if layer.bias is None else f"{to.gives}.product"
    to.node("MatMul", [*read, to.floats("weight_transposed", layer.weight.T.contiguous())], product)
    if layer.bias is not None:
        to.node("Add", [product, to.floats("bias", layer.bias)], to.gives)


def _convolution(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    layer: Any = node.layer
    bias = [] if layer.bias is None else [to.floats("bias", layer.bias)]
    to.node(
        "Conv",
        [*read, to.floats("weight", layer.weight), *bias],
        to.gives,
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=[*layer.padding, *layer.padding],
        dilations=layer.dilation,
        group=layer.groups,
    )


def _batchnorm(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    layer: Any = node.layer
    weight = layer.weight if layer.affine else layer.running_var.new_ones(layer.num_features)
    bias = layer.bias if layer.affine else layer.running_mean.new_zeros(layer.num_features)
    values = {"weight": weight, "bias": bias, "running_mean": layer.running_mean, "running_var": layer.running_var}
    constants = [to.floats(name, value) for name, value in values.items()]
    to.node("BatchNormalization", [*read, *constants], to.gives, epsilon=layer.eps)


def _average(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    layer: Any = node.layer
    if layer.ceil_mode or layer.divisor_override is not None:
        raise ExportError(
            f"layer {to.name} cannot be exported: ONNX has no AvgPool2d with ceil_mode or divisor_override; "
            "use neither in an architecture of your own"
        )
    _pool(to, "AveragePool", node, read[0], before, count_include_pad=int(layer.count_include_pad))


def _maximum(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    layer: Any = node.layer
    _pool(to, "MaxPool", node, read[0], before, dilations=_pair(layer.dilation))


def _pool(to: _Writer, kind: str, node: Node, read: str, before: Shape, **attributes: Any) -> None:
    layer: Any = node.layer
    padding = _pair(layer.padding)
    maps, pooled = read, to.gives
    if len(before) == 2:
        # torch pools a single map without channels; ONNX wants one.
        maps, pooled = f"{to.gives}.map", f"{to.gives}.pooled"
        to.reshape(read, (1, *before), maps)
    shapes = {"kernel_shape": _pair(layer.kernel_size), "strides": _pair(layer.stride), "pads": [*padding, *padding]}
    to.node(kind, [maps], pooled, **shapes, **attributes)
    if len(before) == 2:
        to.reshape(pooled, node.shape, to.gives)


def _relu(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    to.node("Relu", read, to.gives)


def _add(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    to.node("Add", read, to.gives)


def _rearranged(to: _Writer, node: Node, read: list[str], before: Shape) -> None:
    if len(node.shape) == 1:
        to.node("Flatten", read, to.gives, axis=1)
    else:
        to.reshape(read[0], node.shape, to.gives)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_STEPS: dict[type[nn.Module], Callable[[_Writer, Node, list[str], Shape], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batchnorm,
    nn.BatchNorm2d: _batchnorm,
    nn.ReLU: _relu,
    nn.AvgPool2d: _average,
    nn.MaxPool2d: _maximum,
    nn.Flatten: _rearranged,
    Reshape: _rearranged,
    Add: _add,
}
