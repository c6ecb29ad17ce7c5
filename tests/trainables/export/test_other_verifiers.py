"""Others confirm certificates: Marabou, complete and not ours, from the files; and a mixed-integer program."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from safetensors import torch as tensors
from scipy.sparse import lil_array
from torch import nn

from sparsevlr.trainables.export.certificate import Certificate
from sparsevlr.trainables.export.folder import CERTIFICATE, MODEL, SAMPLES
from sparsevlr.trainables.export.from_onnx import from_onnx

EACH = 8
"""Samples per verdict."""


def chosen(folder: Path) -> list[tuple[int, str]]:
    """Some positions among the samples, with their verdicts: verified, and falsified by an attack."""
    certificate = Certificate.from_bytes((folder / CERTIFICATE).read_bytes())
    found = {
        verdict: [
            position
            for position, sample in enumerate(certificate.samples)
            if sample.verdict == verdict and sample.stage != "natural"
        ][:EACH]
        for verdict in ("verified", "falsified")
    }
    assert len(found["verified"]) == EACH
    assert found["falsified"]
    return [(position, verdict) for verdict, positions in found.items() for position in positions]


def box(folder: Path, position: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Lower and upper ends of each input, and the label."""
    certificate = json.loads((folder / CERTIFICATE).read_bytes())
    samples = tensors.load_file(folder / SAMPLES)
    x = samples["inputs"][position].double().numpy().ravel()
    ends = np.clip([x - certificate["epsilon"], x + certificate["epsilon"]], certificate["low"], certificate["high"])
    return ends[0], ends[1], int(samples["labels"][position])


def test_marabou_confirms_certificates(export: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        marabou = pytest.importorskip("maraboupy.Marabou")
    options = marabou.createOptions(verbosity=0, timeoutInSeconds=60)
    for position, verdict in chosen(export):
        lower, upper, label = box(export, position)
        answers = []
        for other in set(range(10)) - {label}:
            network = marabou.read_onnx(str(export / MODEL))
            inputs, outputs = (network.inputVars[0].ravel(), network.outputVars[0].ravel())
            for variable, low, high in zip(inputs, lower, upper, strict=True):
                network.setLowerBound(variable, low)
                network.setUpperBound(variable, high)
            network.addInequality([outputs[label], outputs[other]], [1, -1], 0)
            answers.append(network.solve(verbose=False, options=options)[0])
            if answers[-1] == "sat":
                break
        assert answers[-1] == ("sat" if verdict == "falsified" else "unsat")
        assert set(answers) <= {"sat", "unsat"}


def smallest_margin(network: nn.Sequential, lower: np.ndarray, upper: np.ndarray, label: int, other: int) -> float:
    """The least `logit_label - logit_other` over a box, of linear layer, ReLU, linear layer, by HiGHS."""
    first, last = (layer for layer in network if isinstance(layer, nn.Linear))
    w, b, v, c = (t.detach().double().numpy() for t in (first.weight, first.bias, last.weight, last.bias))
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    high = w @ centre + b + np.abs(w) @ radius
    low = w @ centre + b - np.abs(w) @ radius
    n, m = w.shape[1], len(b)
    # Variables: inputs x, a = relu(w x + b), and d = 1 where it is active: a >= wx + b, a <= wx + b - low (1 - d),
    # a <= high d.
    rows = lil_array((3 * m, n + 2 * m))
    for unit in range(m):
        rows[unit, :n], rows[unit, n + unit] = -w[unit], 1
        rows[m + unit, :n], rows[m + unit, n + unit], rows[m + unit, n + m + unit] = -w[unit], 1, -min(low[unit], 0)
        rows[2 * m + unit, n + unit], rows[2 * m + unit, n + m + unit] = 1, -max(high[unit], 0)
    above = np.concatenate([b, np.full(2 * m, -np.inf)])
    below = np.concatenate([np.full(m, np.inf), b - np.minimum(low, 0), np.zeros(m)])
    found = scipy.optimize.milp(
        np.concatenate([np.zeros(n), v[label] - v[other], np.zeros(m)]),
        constraints=scipy.optimize.LinearConstraint(rows.tocsr(), above, below),
        bounds=scipy.optimize.Bounds(
            np.concatenate([lower, np.zeros(2 * m)]), np.concatenate([upper, np.maximum(high, 0), np.ones(m)])
        ),
        integrality=np.concatenate([np.zeros(n + m), np.ones(m)]),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0
    return float(found.fun + c[label] - c[other])


def test_a_mixed_integer_program_confirms_certificates(export: Path) -> None:
    network = from_onnx((export / MODEL).read_bytes()).network
    certificate = Certificate.from_bytes((export / CERTIFICATE).read_bytes())
    for position, verdict in chosen(export):
        lower, upper, label = box(export, position)
        exact = min(smallest_margin(network, lower, upper, label, other) for other in set(range(10)) - {label})
        assert (exact > 0) == (verdict == "verified")
        margin = certificate.samples[position].margin
        assert margin is None or margin <= exact + 1e-4
        # The program is about the network that is there.
        with torch.no_grad():
            logits = network(torch.from_numpy((lower + upper) / 2).float().reshape(1, 1, 8, 8))[0]
        assert exact <= min(float(logits[label] - logits[other]) for other in set(range(10)) - {label}) + 1e-4
