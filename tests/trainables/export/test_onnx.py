"""ONNX out and in again: the same outputs by torch and by ONNX Runtime, and nothing read that was not written."""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from sparsevlr.results import ExportError
from sparsevlr.spaces.architectures import ARCHITECTURES, Reshape, Residual, architecture_options, build_architecture
from sparsevlr.trainables.bounds import crown_ibp_margins, input_box, trace
from sparsevlr.trainables.compaction import compact
from sparsevlr.trainables.export.folder import parse_json, to_json
from sparsevlr.trainables.export.from_onnx import from_onnx
from sparsevlr.trainables.export.outputs import AGREEMENT, difference, onnx_logits, torch_logits
from sparsevlr.trainables.export.structure import built, described
from sparsevlr.trainables.export.to_onnx import to_onnx
from sparsevlr.trainables.mask import prunable_weights


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def block(body: list[nn.Module], *shortcut: nn.Module) -> Residual:
    return Residual(nn.Sequential(*body), nn.Sequential(*shortcut) if shortcut else nn.Identity())


TWICE = nn.Linear(4, 4)
LAYERS: dict[str, tuple[tuple[int, ...], list[nn.Module]]] = {
    "linear alone": ((4,), []),
    "without bias": ((4,), [nn.Linear(4, 4, bias=False), nn.ReLU()]),
    "strides, padding, dilation, groups": (
        (2, 9, 7),
        [conv(2, 4, stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2, bias=False), nn.ReLU(), nn.Flatten()],
    ),
    "batchnorm of maps and vectors": (
        (2, 5, 5),
        [
            conv(2, 3),
            nn.BatchNorm2d(3, eps=0.1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(27, 6),
            nn.BatchNorm1d(6, affine=False),
        ],
    ),
    "batchnorm of sequences": ((3, 5), [nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten()]),
    "average pools": (
        (2, 8, 8),
        [
            nn.AvgPool2d(3, 2, 1),
            nn.ReLU(),
            nn.AvgPool2d((2, 1), (1, 2), (1, 0), count_include_pad=False),
            nn.Flatten(),
        ],
    ),
    "maximum pools": ((2, 9, 9), [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 3), 1, dilation=(2, 1)), nn.Flatten()]),
    "a pool over a map without channels": ((6, 6), [nn.AvgPool2d(2), nn.ReLU(), nn.Flatten()]),
    "linear over more than vectors": ((3, 4), [nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False), nn.Flatten()]),
    "reshapes": ((12,), [Reshape((3, 2, 2)), conv(3, 2, 2), nn.Flatten(2), Reshape((2,)), nn.Dropout(), nn.Identity()]),
    "residual blocks": (
        (2, 4, 4),
        [
            block([conv(2, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()], conv(2, 3, 1)),
            block([block([conv(3, 3, padding=1)]), nn.ReLU()], block([nn.ReLU()], conv(3, 3, 1), nn.ReLU())),
            block([block([nn.ReLU()])]),
            nn.Flatten(),
        ],
    ),
    "a block that begins and ends with the network": ((4,), [block([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)])]),
    "one layer at two places": ((4,), [TWICE, nn.ReLU(), TWICE]),
}


def randomise_(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()


def network_of(name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    torch.manual_seed(0)
    shape, layers = LAYERS[name]
    features = nn.Sequential(*layers).eval()(torch.zeros(2, *shape)).shape[1]
    network = nn.Sequential(*layers, nn.Linear(features, 3)).eval()
    randomise_(network)
    return network, shape


def same_by_all(network: nn.Sequential, shape: tuple[int, ...]) -> None:
    """Outputs by ONNX Runtime and of what is read back, for batches of several sizes; and the same bounds."""
    data = to_onnx(trace(network, shape))
    onnx.checker.check_model(data, full_check=True)
    again = from_onnx(data)
    assert again.graph.nodes[0].shape == shape
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(1))
    wanted = torch_logits(network, x, 7)
    assert bool((wanted[0] != wanted[1]).any())
    for found in (onnx_logits(data, x, 7), onnx_logits(data, x, 1), torch_logits(again.network, x, 7)):
        assert difference(found, wanted).max() <= AGREEMENT
    margins = [bounds(one, shape, x) for one in (network, again.network)]
    assert torch.allclose(*margins, rtol=1e-5, atol=1e-5)
    # What is read back is written as it was.
    assert difference(onnx_logits(to_onnx(again.graph), x, 7), wanted).max() <= AGREEMENT


def bounds(network: nn.Sequential, shape: tuple[int, ...], x: Tensor) -> Tensor:
    with torch.no_grad():
        return crown_ibp_margins(trace(network, shape), input_box(x, 0.05, 0.0, 1.0), torch.zeros(7, dtype=torch.int64))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back(name: str) -> None:
    same_by_all(*network_of(name))


def options_of(name: str) -> list[dict[str, Any]]:
    """Narrow, with BatchNorm and without where there is the choice."""
    choices = (False, True) if "batchnorm" in (architecture_options(name) or {}) else ()
    return [{"width": 0.25, "batchnorm": choice} for choice in choices] or [{"width": 0.25}]


@pytest.mark.parametrize("shape", [(5,), (2, 12), (1, 8, 8)], ids=str)
@pytest.mark.parametrize(("name", "options"), [(name, one) for name in ARCHITECTURES for one in options_of(name)])
def test_every_architecture_comes_back_compacted(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_architecture(name, options, shape, 3).eval()
    randomise_(network)
    with torch.no_grad():
        for weight in list(prunable_weights(network).values())[:-1]:
            weight[torch.rand_like(weight) < 0.3] = 0
    same_by_all(compact(network, shape).network, shape)


def test_layers_may_be_called_what_torch_allows() -> None:
    layers = {"fc-1": nn.Linear(3, 4), "0a": nn.ReLU(), "the last": nn.Linear(4, 2)}
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    again = built(parse_json(to_json(described(network))), network.state_dict())
    assert [name for name, _ in again.named_children()] == list(layers)
    for name in ("", "a.b", "train", "line\nbreak"):
        with pytest.raises(ExportError, match="a layer cannot be called"):
            built({"type": "Sequential", "layers": {name: described(nn.ReLU())}}, {})


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "one layer at two places"])
def test_every_layer_is_described_and_built_again(name: str) -> None:
    network, shape = network_of(name)
    again = built(parse_json(to_json(described(network))), network.state_dict())
    x = torch.rand(7, *shape)
    assert repr(again) == repr(network)
    assert torch.equal(again(x), network(x))
    assert not any(module.training for module in again.modules())


def test_options_that_onnx_does_not_have_are_refused() -> None:
    network = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(9, 2)).eval()
    with pytest.raises(ExportError, match="AvgPool2d with ceil_mode"):
        to_onnx(trace(network, (1, 5, 5)))


def model(name: str = "residual blocks") -> onnx.ModelProto:
    network, shape = network_of(name)
    return onnx.ModelProto.FromString(to_onnx(trace(network, shape)))


def first(kind: str, found: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in found.graph.node if node.op_type == kind)


def outside(found: onnx.ModelProto) -> None:
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def attribute(kind: str, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    def change(found: onnx.ModelProto) -> None:
        node = first(kind, found)
        kept = [one for one in node.attribute if one.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

    return change


def replaced(name: str, *dims: int, kind: int = TensorProto.FLOAT) -> Callable[[onnx.ModelProto], None]:
    """Another tensor of zeros in the place of the first whose name has this ending."""

    def change(found: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in found.graph.initializer if tensor.name.endswith(name))
        count = torch.Size(dims).numel()
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, dims, bytes(count * (8 if kind == 7 else 4)), raw=True))

    return change


def branches(found: onnx.ModelProto) -> None:
    """Doubles again and again: as a tree of layers it would be of 2^20."""
    del found.graph.node[:]
    values = ["input", "r", *(f"v{index}" for index in range(20))]
    found.graph.node.append(helper.make_node("Relu", ["input"], ["r"]))
    for (one, two), gives in zip(pairwise(values), values[2:], strict=False):
        found.graph.node.append(helper.make_node("Add", [one, two], [gives]))
    found.graph.node.append(helper.make_node("Flatten", [values[-1]], ["logits"], axis=1))


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "a negative epsilon": (
        attribute("BatchNormalization", epsilon=-1.0),
        "epsilon of a BatchNormalization must be at least 0 and finite, got -1",
    ),
    "external data": (outside, "lies in another file"),
    "a huge tensor": (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 40), "does not fit its"),
    "a negative size": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -3), "does not fit its"),
    "another type": (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING), "float32 or int64"),
    "an integer weight": (replaced(".weight", 3, 2, 3, 3, kind=7), "must be of float32"),
    "a tensor twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "is there twice"),
    "another opset": (lambda m: setattr(m.opset_import[0], "version", 21), "only ONNX opset 13"),
    "another domain": (lambda m: m.opset_import.add(domain="com.microsoft", version=1), "only ONNX opset 13"),
    "a function": (lambda m: m.functions.add(name="f"), "functions"),
    "another operator": (lambda m: setattr(m.graph.node[0], "op_type", "Loop"), "operator 'Loop' is not read"),
    "an operator of others": (lambda m: setattr(m.graph.node[0], "domain", "mine"), "is not read"),
    "an unknown attribute": (attribute("Conv", auto_pad="SAME_UPPER"), "must be a number"),
    "an attribute that is not read": (attribute("Relu", slope=1.0), "attribute 'slope' of a Relu is not read"),
    "a huge padding": (attribute("Conv", pads=[1 << 40] * 4), "'pads' must be 0 to"),
    "uneven padding": (attribute("Conv", pads=[1, 1, 0, 1]), "pad both ends alike"),
    "no stride": (attribute("Conv", strides=[0, 1]), "strides of a Conv must be at least 1"),
    "one stride": (attribute("Conv", strides=[1]), "strides of a Conv must be like"),
    "groups": (attribute("Conv", group=2), "group must fit"),
    "no groups": (attribute("Conv", group=0), "group must fit"),
    "another kernel": (attribute("Conv", kernel_shape=[5, 5]), "kernel_shape"),
    "a flatten of the batch": (attribute("Flatten", axis=0), "axis 1"),
    "a transposed product": (attribute("Gemm", transA=1), "a Gemm must have"),
    "another weight": (replaced(".bias", 9), "a bias must have 3 numbers, got 9"),
    "no output": (lambda m: m.graph.output.pop(), "one output must be called"),
    "a second input": (lambda m: m.graph.input.append(m.graph.input[0]), "one input must be called"),
    "no input shape": (lambda m: m.graph.input[0].type.tensor_type.shape.Clear(), "sizes of at least 1"),
    "a huge input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1 << 40),
        "input must be float32",
    ),
    "another input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 5),
        "cannot take inputs of shape",
    ),
    "what nothing gives": (lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"), "which nothing before it gives"),
    "a cycle": (lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[-2].output[0]), "nothing before it"),
    "a value twice": (lambda m: m.graph.node[1].output.__setitem__(0, m.graph.node[0].output[0]), "one new value"),
    "a loose end": (lambda m: m.graph.node.add(op_type="Relu", input=["input"], output=["z"]), "leads to no output"),
    "branches without end": (branches, "form no residual block"),
    "many layers": (
        lambda m: m.graph.node.extend(helper.make_node("Relu", ["input"], [f"z{index}"]) for index in range(1001)),
        "at most 1000 layers",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_was_not_written_is_refused_in_one_line(how: str) -> None:
    change, message = BROKEN[how]
    found = model()
    change(found)
    with pytest.raises(ExportError, match=message) as refused:
        from_onnx(found.SerializeToString())
    assert "\n" not in str(refused.value)


def test_layers_that_take_no_memory_may_not_give_values_without_end() -> None:
    network = nn.Sequential(nn.MaxPool2d(300, 1), nn.Flatten(), nn.Linear(201**2, 2)).eval()
    with pytest.raises(ExportError, match="at most 16777216 values for an input"):
        from_onnx(to_onnx(trace(network, (1, 500, 500))))


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"no model at all", bytes(1000)])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ExportError):
        from_onnx(data)


WHOLE = {name: model(name).SerializeToString() for name in ("residual blocks", "linear over more than vectors")}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_a_model_with_broken_bytes_is_a_network_or_refused(name: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(WHOLE[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    with suppress(ExportError):
        found = from_onnx(bytes(data))
        found.network(torch.zeros(1, *found.graph.nodes[0].shape))
