import importlib.metadata
import importlib.util
import logging
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.trainables.bounds import crown_margins, input_box, trace
from sparsevlr.trainables.verification import Unsupported, auto_lirpa
from sparsevlr.trainables.verification.auto_lirpa import Method, lirpa_margins, load
from sparsevlr.trainables.verification.lirpa_patches import accept_remove_duplicate, needed_patches


def _small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Reshape((1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )


def _names(version: str = "0.3") -> set[str]:
    return {patch.name for patch in needed_patches(version)}


def test_newer_releases_are_imported_unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "appdirs", None)
    assert "appdirs" in _names("0.3")
    for version in ("0.4.0", "0.5", "0.7.1", "1.0", "unknown"):
        assert not needed_patches(version)


def test_only_what_is_missing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "appdirs", None)
    monkeypatch.setitem(sys.modules, "numpy.lib.arraysetops", None)
    assert {"appdirs", "numpy.lib.arraysetops"} <= _names()
    monkeypatch.setitem(sys.modules, "appdirs", types.ModuleType("appdirs"))
    assert "appdirs" not in _names()
    assert "numpy.lib.arraysetops" in _names()
    monkeypatch.setitem(sys.modules, "numpy.lib.arraysetops", types.ModuleType("numpy.lib.arraysetops"))
    assert "numpy.lib.arraysetops" not in _names()


def test_each_patch_puts_back_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patches are applied none is missing; what they add is what the library expects."""
    for module in ("appdirs", "numpy.lib.arraysetops"):
        monkeypatch.setitem(sys.modules, module, None)
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    monkeypatch.delattr(helper, "_set_opset_version", raising=False)
    assert "torch.onnx.symbolic_helper._set_opset_version" in _names()
    for patch in needed_patches("0.3"):
        patch.apply()
    assert not _names()
    assert sys.modules["numpy.lib.arraysetops"].isin is np.isin
    assert isinstance(sys.modules["appdirs"].user_data_dir("auto_LiRPA"), str)
    helper._set_opset_version(12)


def test_the_parameter_listing_is_only_replaced_where_it_is_too_old() -> None:
    class Old(nn.Linear):
        def _named_members(self, get_members_fn, prefix="", recurse=True):  # type: ignore[no-untyped-def,override]
            return super()._named_members(get_members_fn, prefix, recurse)

    class New(nn.Linear):
        pass

    with pytest.raises(TypeError, match="remove_duplicate"):
        list(Old(2, 2).parameters())
    accept_remove_duplicate(Old)
    assert len(list(Old(2, 2).parameters())) == 2
    kept = New._named_members
    accept_remove_duplicate(New)
    assert New._named_members is kept


def test_missing_library_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert auto_lirpa.installed_version() is None
    with pytest.raises(Unsupported, match=r"^auto_LiRPA is not installed: pip install --no-deps auto_LiRPA==0\.3$"):
        load()


def test_a_library_that_fails_to_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_lirpa, "installed_version", lambda: "0.9")
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(Unsupported, match=r"auto_LiRPA 0\.9 cannot be imported .*pip install"):
        load()


def test_importing_leaves_streams_filters_and_loggers_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "auto_LiRPA"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    filters = list(warnings.filters)
    load()
    assert logging.getLogger().handlers == []
    assert warnings.filters == filters
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_alpha_crown_is_sound_and_no_looser_than_crown() -> None:
    network = _small().eval()
    graph = trace(network, (6,))
    x, labels = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    box = input_box(x, 0.3, 0, 1)
    lower = lirpa_margins(graph, box, labels, Method.alpha_crown, iterations=10)
    assert bool((lower >= crown_margins(graph, box, labels, tighten=False) - 1e-5).all())
    spread = torch.rand(3000, *x.shape) * 2 - 1
    spread[:1500] = spread[:1500].sign()
    with torch.no_grad():
        logits = network((box.centre + spread * box.radius).flatten(0, 1)).view(3000, 4, 3)
    smallest = (logits.gather(2, labels[None, :, None].expand(3000, -1, 1)) - logits).amin(0)
    assert bool((lower <= smallest + 1e-5).all())
    assert bool((lower > crown_margins(graph, box, labels, tighten=False) + 1e-4).any())


def test_the_default_dtype_and_the_network_are_left_alone() -> None:
    network = _small().double().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    box = input_box(torch.rand(2, 6, dtype=torch.float64), 0.1, 0, 1)
    lirpa_margins(trace(network, (6,)), box, torch.tensor([0, 1]), Method.crown)
    assert torch.get_default_dtype() is torch.float32
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "method", "reason"),
    [
        (nn.MaxPool2d(2, 1), Method.crown, "MaxPool2d with overlap"),
        (nn.AvgPool2d(2, 1), Method.crown_ibp, "AvgPool2d with overlap"),
        (nn.AvgPool2d(2), Method.crown, "AvgPool2d that a ReLU comes after"),
        (nn.MaxPool2d(2), Method.alpha_crown, "fails on MaxPool2d"),
    ],
)
def test_what_it_cannot_do_is_said(layer: nn.Module, method: Method, reason: str) -> None:
    body = nn.Sequential(layer, nn.Flatten())
    features = body(torch.zeros(1, 1, 4, 4)).shape[1]
    network = nn.Sequential(*body, nn.Linear(features, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    box = input_box(torch.rand(2, 1, 4, 4), 0.1, 0, 1)
    with pytest.raises(Unsupported, match=reason):
        lirpa_margins(trace(network, (1, 4, 4)), box, torch.tensor([0, 1]), method)
