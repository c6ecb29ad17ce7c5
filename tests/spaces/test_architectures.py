"""The single architectures' layers, fitted kernels, and networks of the user's own."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsevlr.spaces import SpecError
from sparsevlr.spaces.architectures import Reshape, Residual, build_architecture, check_architecture
from sparsevlr.spaces.architectures.shapes import fitted


def weights(network: nn.Sequential) -> list[tuple[int, ...]]:
    return [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_cnn_small_is_the_published_one() -> None:
    assert weights(build_architecture("cnn-small", {}, (1, 28, 28), 10)) == [
        (16, 1, 4, 4),
        (32, 16, 4, 4),
        (100, 32 * 10 * 10),
        (10, 100),
    ]


def test_cnn7_is_the_published_one() -> None:
    network = build_architecture("cnn7", {}, (3, 32, 32), 10)

    assert [shape[0] for shape in weights(network)] == [64, 64, 128, 128, 128, 512, 10]
    assert weights(network)[5] == (512, 128 * 16 * 16)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network) == 5
    assert sum(isinstance(m, nn.BatchNorm1d) for m in network) == 1
    plain = build_architecture("cnn7", {"width": 0.25, "batchnorm": False}, (3, 32, 32), 10)
    assert [shape[0] for shape in weights(plain)] == [16, 16, 32, 32, 32, 128, 10]
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in plain)


def test_cnn_medium_halves_the_map_twice() -> None:
    assert weights(build_architecture("cnn-medium", {}, (1, 28, 28), 10)) == [
        (32, 1, 3, 3),
        (32, 32, 4, 4),
        (64, 32, 3, 3),
        (64, 64, 4, 4),
        (512, 64 * 7 * 7),
        (512, 512),
        (10, 512),
    ]


def test_resnet_small_has_eight_weight_layers_beside_its_shortcuts() -> None:
    network = build_architecture("resnet-small", {}, (3, 32, 32), 10)
    blocks = [m for m in network if isinstance(m, Residual)]

    assert [type(block.shortcut) for block in blocks] == [nn.Identity, nn.Sequential, nn.Sequential]
    assert len(weights(network)) == 8 + 2


def test_cnn1d_convolves_over_time_only() -> None:
    network = build_architecture("cnn1d", {}, (6, 100), 4)

    assert weights(network)[:3] == [(32, 6, 1, 5), (32, 32, 1, 5), (64, 32, 1, 5)]


def test_mlp_takes_its_hidden_layers_as_list_tuple_or_number() -> None:
    for hidden in ([8, 4], (8, 4)):
        assert weights(build_architecture("mlp", {"hidden": hidden}, (2, 3), 5)) == [(8, 6), (4, 8), (5, 4)]
    assert weights(build_architecture("mlp", {"hidden": 7}, (3,), 2)) == [(7, 3), (2, 7)]
    assert weights(build_architecture("mlp", {"hidden": []}, (3,), 2)) == [(2, 3)]


@pytest.mark.parametrize("hidden", [[0], [2.5], ["8"], [True], "8", None])
def test_mlp_refuses_impossible_layers(hidden: object) -> None:
    with pytest.raises(SpecError, match=r"architecture\.hidden must be a list of whole numbers"):
        build_architecture("mlp", {"hidden": hidden}, (3,), 2)


def test_batchnorm_must_be_a_flag() -> None:
    with pytest.raises(SpecError, match=r"architecture\.batchnorm must be true or false, got 'no'"):
        build_architecture("cnn7", {"batchnorm": "no"}, (3,), 2)


def test_residual_adds_and_reshape_keeps_the_batch() -> None:
    x = torch.rand(5, 6)
    body = nn.Sequential(nn.Linear(6, 6))

    assert torch.equal(Residual(body, nn.Identity())(x), body(x) + x)
    assert torch.equal(Reshape((2, 3))(x), x.view(5, 2, 3))


@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3), st.integers(0, 3))
def test_fitted_kernels_have_no_dead_taps(size: int, kernel: int, stride: int, padding: int) -> None:
    taps, pad = fitted(size, kernel, stride, padding)

    assert 1 <= taps <= kernel
    assert 0 <= pad <= padding
    starts = range(-pad, size + pad - taps + 1, stride)
    assert len(starts) >= 1
    for tap in range(taps):
        assert any(0 <= start + tap < size for start in starts)


def test_fitted_leaves_fitting_kernels_alone() -> None:
    assert fitted(28, 4, 2, 1) == (4, 1)
    assert fitted(5, 3, 1, 1) == (3, 1)


def test_unknown_name_is_told_with_the_closest() -> None:
    with pytest.raises(SpecError, match=r"unknown architecture 'cnn-smal'; did you mean 'cnn-small'\? \(known: mlp"):
        check_architecture("cnn-smal")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a new module of the user's, in the directory that the command runs in."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "Path('imported').touch()\n"
        "def net(shape, classes, hidden=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], hidden), nn.ReLU(), nn.Linear(hidden, classes))\n"
        "def wrong_end(shape, classes): return nn.Sequential(nn.Linear(shape[0], classes), nn.ReLU())\n"
        "def wrong_classes(shape, classes): return nn.Sequential(nn.Linear(shape[0], classes + 1))\n"
        "def wrong_shape(shape, classes): return nn.Sequential(nn.Linear(shape[0] + 1, classes))\n"
        "def shared(shape, classes):\n"
        "    twice = nn.Linear(shape[0], shape[0])\n"
        "    return nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(shape[0], classes))\n"
        "def wrong_type(shape, classes): return nn.Linear(shape[0], classes)\n"
        "def fails(shape, classes): raise RuntimeError('no luck')\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


def test_own_network_runs_only_when_allowed(module: str) -> None:
    with pytest.raises(SpecError, match="pass --allow-code if you trust it"):
        build_architecture(f"{module}:net", {}, (3,), 2)
    assert not Path("imported").exists()

    network = build_architecture(f"{module}:net", {"hidden": 5}, (3,), 2, allow_code=True)
    assert weights(network) == [(5, 3), (2, 5)]
    assert network.training


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_end", "whose last layer is an nn.Linear, got Sequential ending in ReLU"),
        ("wrong_classes", r"logits of shape \(batch, 2\), got \(2, 3\)"),
        ("wrong_shape", r"fails on an input of shape \(3,\)"),
        ("wrong_type", "must return a torch.nn.Sequential .* got Linear"),
        ("shared", r"one tensor at two places, 0\.weight and 2\.weight: give each place a layer of its own"),
        ("fails", "failed with RuntimeError: no luck"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_own_network_is_checked(module: str, function: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        build_architecture(f"{module}:{function}", {}, (3,), 2, allow_code=True)
    assert "\n" not in str(caught.value)


def test_own_module_that_is_missing() -> None:
    with pytest.raises(SpecError, match="importing 'no_such_module' failed with ModuleNotFoundError"):
        check_architecture("no_such_module:net", allow_code=True)
