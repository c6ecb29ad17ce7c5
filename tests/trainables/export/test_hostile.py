"""Folders that somebody made to do harm: refused in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as tensors
from torch import nn

from sparsevlr.results import ExportError
from sparsevlr.spaces.architectures.layers import Reshape
from sparsevlr.trainables.export import folder, recheck
from sparsevlr.trainables.export.structure import described

from .studies import change, copied, forge

OF_KIND = {
    type(layer).__name__: described(layer)
    for layer in (
        *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        *(nn.Flatten(), nn.Dropout(0.5), Reshape((4, 4))),
    )
}


def with_option(kind: str, option: str, value: object) -> Callable[[Path], None]:
    """A network of one layer, an option of which is no such thing."""
    layer = OF_KIND[kind] | {"options": OF_KIND[kind]["options"] | {option: value}}
    content = json.dumps({"type": "Sequential", "layers": {"0": layer}}).encode()
    return lambda path: forge(path, folder.NETWORK, content)


class Opened:
    """What a pickle would do."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch pickled",))


HUGE = (1 << 62).to_bytes(8, "little")


def header(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda path: shutil.rmtree(path), r"certificate\.json: No such file"),
    "a missing file": (lambda path: (path / folder.MODEL).unlink(), r"model\.onnx: No such file"),
    "a pickle for weights": (
        lambda path: forge(path, folder.WEIGHTS, pickle.dumps(Opened())),
        r"weights\.safetensors: it is no safetensors file",
    ),
    "a pickle for samples": (
        lambda path: forge(path, folder.SAMPLES, pickle.dumps(Opened())),
        r"samples\.safetensors: it is no safetensors file",
    ),
    "a pickle for the network": (lambda path: forge(path, folder.MODEL, pickle.dumps(Opened())), r"model\.onnx: "),
    "a pickle for the certificate": (
        lambda path: (path / folder.CERTIFICATE).write_bytes(pickle.dumps(Opened())),
        "certificate.json: it is no JSON",
    ),
    "a huge header": (lambda path: forge(path, folder.WEIGHTS, HUGE), "no safetensors file"),
    "a huge tensor": (
        lambda path: forge(
            path, folder.MASK, header({"x": {"dtype": "BOOL", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}})
        ),
        r"mask\.safetensors: it is no safetensors file",
    ),
    "another path": (
        lambda path: change(path, lambda content: content["sha256"].update({"../../secret": "0" * 64})),
        r"sha256 names '\.\./\.\./secret', which is no file of an export",
    ),
    "another path below": (
        lambda path: change(path, lambda content: content["sha256"].update({"vnnlib/../../x.vnnlib": "0" * 64})),
        "which is no file of an export",
    ),
    "a link": (
        lambda path: ((path / folder.MODEL).unlink(), (path / folder.MODEL).symlink_to("/etc/passwd")),
        r"model\.onnx leads elsewhere",
    ),
    "a folder that is a link": (
        lambda path: (shutil.rmtree(path / "vnnlib"), (path / "vnnlib").symlink_to("/etc")),
        "leads elsewhere",
    ),
    "a pipe": (
        lambda path: ((path / folder.MODEL).unlink(), os.mkfifo(path / folder.MODEL)),
        r"model\.onnx must be a file",
    ),
    "a folder for a file": (
        lambda path: ((path / folder.MODEL).unlink(), (path / folder.MODEL).mkdir()),
        r"model\.onnx",
    ),
    "a file larger than memory": (
        lambda path: os.truncate(path / folder.MODEL, 1 << 40),
        r"model\.onnx may have at most",
    ),
    "deep JSON": (
        lambda path: (path / folder.CERTIFICATE).write_text("[" * 100_000),
        r"certificate\.json: it is nested more than 200 deep",
    ),
    "NaN": (lambda path: change(path, lambda content: content.update(epsilon=float("nan"))), "no JSON"),
    "a newer version": (lambda path: change(path, lambda content: content.update(version=2)), "has version 2"),
    "no verdict": (
        lambda path: change(path, lambda content: content["samples"][0].update(verdict="perhaps")),
        r"samples\[0\]\.verdict must be one of unknown, verified, falsified, got 'perhaps'",
    ),
    "no stage": (
        lambda path: change(path, lambda content: content["samples"][0].update(verdict="verified", stage="oath")),
        "the stage of sample .* got 'oath'",
    ),
    "one sample twice": (
        lambda path: change(path, lambda content: content["samples"][1].update(index=content["samples"][0]["index"])),
        "every sample must be of an index of its own, got [0-9]+ twice",
    ),
    "fewer verdicts": (lambda path: change(path, lambda content: content["samples"].pop()), "as many as"),
    "steps without end": (
        lambda path: change(path, lambda content: content["cascade"].update(alpha_iterations=10_001)),
        "cascade.alpha_iterations must be at most 10000",
    ),
    "an unknown stage": (
        lambda path: change(path, lambda content: content["cascade"].update(stages=["ibp", "oath"])),
        "cascade.*'oath'",
    ),
    "an unknown option": (
        lambda path: change(path, lambda content: content["cascade"].update(colour=1)),
        "cascade.colour is unknown",
    ),
    "an option of another type": (
        lambda path: change(path, lambda content: content["cascade"].update(audit=1.5)),
        r"cascade\.audit must be a whole number|cascade\.audit .*1\.5",
    ),
    "no radius": (lambda path: change(path, lambda content: content.update(epsilon=0)), "epsilon must be above 0"),
    "a range that does not hold the samples": (
        lambda path: change(path, lambda content: content.update(high=0.5)),
        r"samples\.safetensors: every input must lie in the input range",
    ),
    "an unknown layer": (
        lambda path: forge(path, folder.NETWORK, b'{"type": "Sequential", "layers": {"0": {"type": "LSTM"}}}'),
        r"network\.json: 'LSTM' with these options is no known layer",
    ),
    "a layer without end": (
        lambda path: forge(
            path,
            folder.NETWORK,
            (path / folder.NETWORK).read_bytes().replace(b'"in_features": 64', b'"in_features": 900000000'),
        ),
        r"network\.json: tensor '1\.weight' must be torch\.float32 of shape \(12, 900000000\)",
    ),
    **{
        f"{option} of a {kind}": (with_option(kind, option, value), rf"network\.json: {option} of a {kind} cannot be ")
        for kind, option, value in [
            ("MaxPool2d", "stride", [2.5, 2]),
            ("MaxPool2d", "kernel_size", [1]),
            ("AvgPool2d", "count_include_pad", 0),
            ("Conv2d", "stride", 0),
            ("Conv2d", "padding", -1),
            ("BatchNorm2d", "eps", -1.0),
            ("BatchNorm2d", "momentum", [1]),
            ("Flatten", "start_dim", None),
            ("Reshape", "shape", [[1]]),
            ("Dropout", "p", True),
        ]
    },
    "other weights": (
        lambda path: forge(path, folder.WEIGHTS, tensors.save({"x": torch.zeros(1)})),
        r"network\.json: layers and weights must have the same tensors",
    ),
    "a mask of other layers": (
        lambda path: forge(path, folder.MASK, tensors.save({"x": torch.zeros(1, dtype=torch.bool)})),
        r"mask\.safetensors: the mask covers \['x'\]",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = copied(export, tmp_path)
    spoil, message = HOSTILE[how]
    spoil(path)
    with pytest.raises(ExportError, match=message) as refused:
        recheck(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "pickled").exists()
