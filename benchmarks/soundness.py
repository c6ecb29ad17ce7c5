"""Is anything verified that is false? Every stage of the cascade against exact margins by mixed-integer programming.

    python benchmarks/soundness.py run --instances 2000    # resumable; what is there already is not run again
    python benchmarks/soundness.py report

An instance is a small random network in float32, of one of several kinds that together have every layer that can be
bounded; with all weights, with most of them pruned, or compacted after that; as drawn or trained on random points; and
one input with its box. The bias of its class is moved until the smallest margin over the box is close to 0, on either
side: that is where a loose or wrong argument shows. Each stage is run on its own through `verify`, as is the whole
cascade, and judged by the oracle of `milp_oracle.py`, in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from milp_oracle import EXACT, smallest_margins
from torch import Tensor, nn

from sparsevlr.spaces.architectures import Reshape, Residual
from sparsevlr.trainables.compaction import compact
from sparsevlr.trainables.verification import VERIFIERS, CascadeOptions, Verdict, Verification, verify

RAW = Path(__file__).parent / "results" / "soundness"
FORMS = ("dense", "sparse", "compacted")
CLASSES = 3
EPSILONS = (0.02, 0.05, 0.1, 0.2)
DISTANCES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the smallest margin from 0."""


def _perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)
    )


def _convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Dropout(0.5),
        nn.Conv2d(3, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, CLASSES),
    )  # fmt: skip


def _odd_convolutions() -> nn.Sequential:
    """Dilated, grouped, and of one dimension in disguise."""
    return nn.Sequential(
        Reshape((2, 1, 6)), nn.Conv2d(2, 4, (1, 2), dilation=(1, 2), groups=2), nn.ReLU(), nn.Conv2d(4, 2, (1, 3)),
        nn.BatchNorm2d(2, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, CLASSES),
    )  # fmt: skip


def _residual() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    wider = nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.ReLU(), nn.Conv2d(3, 3, 1))
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(),
        Residual(wider, nn.Conv2d(2, 3, 2, stride=2)), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES),
    )  # fmt: skip


def _pooled() -> nn.Sequential:
    """Maxima over overlapping and padded windows, and one that ReLUs come before and after."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 1, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, CLASSES),
    )  # fmt: skip


KINDS: Mapping[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "perceptron": (_perceptron, (5,)),
    "convolutional": (_convolutional, (2, 3, 3)),
    "odd convolutions": (_odd_convolutions, (12,)),
    "residual": (_residual, (1, 4, 4)),
    "pooled": (_pooled, (1, 4, 4)),
}


@dataclass(frozen=True)
class Instance:
    """A question whose answer is known.

    Attributes:
        x: `(1, *shape)`, float32, in [0, 1].
        margins: `(classes,)`, the exact smallest margins over the box; NaN where the oracle had no time.
    """

    number: int
    kind: str
    form: str
    trained: bool
    network: nn.Sequential
    x: Tensor
    label: int
    epsilon: float
    margins: np.ndarray

    @property
    def smallest(self) -> float:
        return float(np.delete(self.margins, self.label).min())


def instance(number: int) -> Instance:
    """The instance of that number: kinds, forms and training take turns, all else is drawn."""
    combinations = list(product(KINDS, FORMS, (False, True)))
    kind, form, trained = combinations[number % len(combinations)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        build, shape = KINDS[kind]
        network = _randomised(build())
        x = torch.rand(1, *shape)
        if trained:
            _train(network, shape)
        network.eval()
        if form != "dense":
            _prune(network, 0.4)
        if form == "compacted":
            network = compact(network, shape).network
        epsilon = EPSILONS[int(torch.randint(len(EPSILONS), ()))]
        distance = DISTANCES[int(torch.randint(len(DISTANCES), ()))] * (1 if torch.rand(()) < 0.5 else -1)
    with torch.no_grad():
        label = int(network(x).argmax())
    ends = (x[0].double() - epsilon).clamp(min=0), (x[0].double() + epsilon).clamp(max=1)
    margins = smallest_margins(copy.deepcopy(network).double(), *(end.numpy() for end in ends), label)
    bias = network[-1].bias
    before = bias[label].item()
    with torch.no_grad():
        bias[label] += distance - float(np.delete(margins, label).min())
    margins = margins + (bias[label].item() - before) * (np.arange(CLASSES) != label)
    return Instance(number, kind, form, trained, network, x, label, epsilon, margins)


def _randomised(network: nn.Sequential) -> nn.Sequential:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data.mul_(2)
    return network


def _train(network: nn.Sequential, shape: tuple[int, ...]) -> None:
    x, y = torch.rand(64, *shape), torch.randint(CLASSES, (64,))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def _prune(network: nn.Sequential, keep: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            mask = torch.rand_like(module.weight) < keep
            mask.view(-1)[0] = True
            module.weight *= mask


def verdicts(found: Instance) -> dict[str, Verification]:
    """What each stage says on its own, and what the whole cascade says."""
    ways: dict[str, tuple[str, ...]] = {name: (name,) for name in VERIFIERS}
    ways |= {"pgd": ("pgd",), "cascade": ("ibp", "pgd", "crown-ibp", "crown", "exact")}
    y = torch.tensor([found.label])
    return {
        way: verify(
            found.network,
            found.x,
            y,
            epsilon=found.epsilon,
            low=0,
            high=1,
            options=CascadeOptions(stages=stages, audit=0, alpha_iterations=5),
            seed=found.number,
        )
        for way, stages in ways.items()
    }


def contradiction(found: Instance, said: Verification) -> str | None:
    """What is wrong with a verdict, if anything: the oracle decides but for margins within its own tolerance."""
    slack = EXACT * max(1.0, float(np.abs(found.margins).max()))
    verdict, smallest = said.verdict[0], found.smallest
    if np.isnan(smallest) or said.stage[0] == "natural":
        return None
    if verdict == Verdict.verified and smallest < -slack:
        return "verified, though a margin is negative"
    if verdict == Verdict.falsified and smallest > slack:
        return "falsified, though all margins are positive"
    if verdict != Verdict.falsified and said.margin[0] > smallest + slack:
        return "a bound above the exact margin"
    return None


def run(instances: int) -> None:
    torch.set_num_threads(1)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    path = RAW / "instances.jsonl"
    done = {row["number"] for row in read()}
    with path.open("a") as file:
        for number in range(instances):
            if number in done:
                continue
            started = time.process_time()
            found = instance(number)
            said = verdicts(found)
            row = {
                "number": number,
                "kind": found.kind,
                "form": found.form,
                "trained": found.trained,
                "epsilon": found.epsilon,
                "smallest": found.smallest,
                "verdicts": {way: Verdict(int(one.verdict[0])).name for way, one in said.items()},
                "causes": {way: str(one.cause[0]) for way, one in said.items() if one.cause[0]},
                "natural": bool(said["cascade"].stage[0] == "natural"),
                "wrong": {way: what for way, one in said.items() if (what := contradiction(found, one))},
                "seconds": round(time.process_time() - started, 3),
            }
            file.write(json.dumps(row) + "\n")
            file.flush()


def read() -> list[dict[str, Any]]:
    path = RAW / "instances.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report() -> None:
    rows = [row for row in read() if not row["natural"] and not np.isnan(row["smallest"])]
    true = sum(row["smallest"] > 0 for row in rows)
    print(f"{len(rows)} instances with an exact answer, {true} robust and {len(rows) - true} not\n")
    print("| stage | instances | verified, of robust | falsified, of others | false | causes of unknown |")
    print("|---|---|---|---|---|---|")
    for way in [*VERIFIERS, "pgd", "cascade"]:
        asked = [row for row in rows if way in row["verdicts"]]
        robust = [row["verdicts"][way] for row in asked if row["smallest"] > 0]
        others = [row["verdicts"][way] for row in asked if row["smallest"] < 0]
        causes = Counter(row["causes"][way] for row in asked if way in row["causes"])
        wrong = sum(way in row["wrong"] for row in asked)
        cells = [way, len(asked), f"{robust.count('verified')} of {len(robust)}"]
        cells += [f"{others.count('falsified')} of {len(others)}", wrong]
        print("|", " | ".join(map(str, [*cells, ", ".join(f"{n} {cause}" for cause, n in causes.items())])), "|")
    print()
    for name in ("kind", "form", "trained"):
        print(f"by {name}:", dict(Counter(str(row[name]) for row in rows)))
    for row in rows:
        if row["wrong"]:
            print(row["number"], row["kind"], row["form"], row["smallest"], row["wrong"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--instances", type=int, default=2000)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.instances)
    else:
        report()
