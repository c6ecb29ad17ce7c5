"""The verification cascade: cheap stages first, each seeing only what is still undecided."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..bounds import Graph, trace
from .base import Verifier, proved
from .inputs import Inputs, Values, bounded, correctly_classified, eval_mode, is_out_of_memory
from .options import ATTACK, CascadeOptions
from .pgd import Pgd, random_starts
from .result import Verification
from .verdict import SoundnessError, Verdict

_DEFAULT = CascadeOptions()
_AUDIT_STREAM = 1_000_000_007
"""Added to the seed of the attack in the audit, which must not repeat the starts that a sample has survived."""

CHEAP = ("ibp", "crown-ibp")


def verify(
    network: nn.Module,
    x: Values,
    y: Values,
    *,
    epsilon: float,
    low: float,
    high: float,
    scale: float | Values = 1.0,
    options: CascadeOptions = _DEFAULT,
    seed: int = 0,
    verifiers: Mapping[str, Verifier] | None = None,
) -> Verification:
    """Decide for each sample whether any input within `epsilon scale` of it, in `[low, high]`, changes its class.

    The network counts as in eval mode and is left as it was. Verdicts depend on the samples, the options and the seed,
    not on the batch size. A proof needs every margin above the tolerance (see `proved`); what the stages leave
    undecided, whose budget is used up or whose verifier fails, is unknown.

    Args:
        x: `(samples, *shape)`, within `[low, high]`.
        y: `(samples,)`.
        epsilon: in the units of the input.
        scale: the radius of each feature as a multiple of epsilon, at least 0; an array broadcasts to `shape`.
        seed: of the attack's starts and of the choice of audited samples.
        verifiers: replace those of the same names in `options.stages`.

    Raises:
        SoundnessError: a sample that a stage verified is falsified by the audit.
        UnsupportedLayer: the network has a layer without bounds.
        ValueError: inputs, labels, epsilon, range or scales do not fit.
    """
    with eval_mode(network):
        return _Cascade(network, x, y, epsilon, low, high, scale, options, seed).run(
            {**options.verifiers(), **(verifiers or {})}
        )


class _Cascade:
    """The state of one verification."""

    def __init__(
        self,
        network: nn.Module,
        x: Values,
        y: Values,
        epsilon: float,
        low: float,
        high: float,
        scale: float | Values,
        options: CascadeOptions,
        seed: int,
    ) -> None:
        self._network, self._epsilon, self._options, self._seed = network, float(epsilon), options, seed
        self._graph = trace(network, tuple(x.shape[1:]))
        self._inputs = Inputs.of(self._graph, x, y, low, high, scale)
        self._verdict = np.full(len(y), Verdict.unknown, dtype=np.int8)
        self._stage = np.full(len(y), "", dtype=object)
        self._reason = np.full(len(y), "", dtype=object)
        shape = (len(y), self._graph.last_linear.out_features)
        self._margins = torch.full(shape, -torch.inf, dtype=self._inputs.x.dtype, device=self._inputs.x.device)
        self._proved = torch.zeros(shape, dtype=torch.bool, device=self._inputs.x.device)
        self._seconds: dict[str, float] = {}

    def run(self, verifiers: Mapping[str, Verifier]) -> Verification:
        with self._timed("natural"):
            correct = correctly_classified(self._network, self._inputs, self._options.batch_size)
            self._decide((~correct).nonzero().squeeze(1), Verdict.falsified, "natural")
        for stage in self._options.stages:
            with self._timed(stage):
                if stage == ATTACK:
                    found = self._attacked(self._undecided(), self._seed)
                    self._decide(found, Verdict.falsified, ATTACK)
                else:
                    self._bound(stage, verifiers[stage])
        with self._timed("audit"):
            self._audit()
        self._reason[self._verdict != Verdict.unknown] = ""
        return Verification(
            self._verdict, self._stage.astype(str), self._smallest_margin(), self._reason.astype(str), self._seconds
        )

    def _bound(self, stage: str, verifier: Verifier) -> None:
        samples = self._within_budget(stage, self._undecided())
        for batch, found in bounded(
            verifier, self._graph, self._inputs, samples, self._epsilon, self._options.batch_size
        ):
            if isinstance(found, str):
                self._reason[batch.cpu().numpy()] = f"{stage}: {found}"
                continue
            # Methods are incomparable margin by margin: the best of each is kept, and a proof of each by any counts.
            self._margins[batch] = torch.fmax(self._margins[batch], found.lower.detach().to(self._margins))
            self._proved[batch] |= proved(found.lower, found.scale, self._inputs.y[batch])
            self._decide(batch[self._proved[batch].all(1)], Verdict.verified, stage)

    def _within_budget(self, stage: str, samples: Tensor) -> Tensor:
        limit = self._options.limit(stage)
        if limit is None or len(samples) <= limit:
            return samples
        margin = self._smallest_margin()[samples.cpu().numpy()]
        order = torch.from_numpy(np.argsort(-margin, kind="stable")).to(samples.device)
        left = samples[order[limit:]].cpu().numpy()
        self._reason[left] = f"{stage}: the budget of {limit} samples is used up"
        return samples[order[:limit].sort().values]

    def _attacked(self, samples: Tensor, seed: int) -> Tensor:
        """Those of `samples` that the attack changes the class of."""
        attack, found = self._options.pgd, []
        waiting = list(samples.split(self._options.batch_size))[::-1] if len(samples) else []
        while waiting:
            batch = waiting.pop()
            try:
                found.append(batch[self._attack(attack, batch, seed)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(batch) < 2:
                    raise
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
        return torch.cat(found) if found else samples

    def _attack(self, attack: Pgd, batch: Tensor, seed: int) -> Tensor:
        x = self._inputs.x
        starts = random_starts(batch, tuple(x.shape[1:]), attack.restarts, seed).to(x)
        box = self._inputs.box(batch, self._epsilon)
        return attack.attack(self._network, box, self._inputs.y[batch], starts)[1]

    def _audit(self) -> None:
        """Attack some of what is verified: a success means that a bound is wrong.

        Raises:
            SoundnessError: naming the first such sample.
        """
        chosen = np.flatnonzero(self._verdict == Verdict.verified)
        if self._options.audit is not None and len(chosen) > self._options.audit:
            generator = np.random.default_rng([abs(self._seed), _AUDIT_STREAM])
            chosen = np.sort(generator.choice(chosen, self._options.audit, replace=False))
        samples = torch.from_numpy(chosen).to(self._inputs.y.device)
        for sample in self._attacked(samples, self._seed + _AUDIT_STREAM).tolist():
            raise SoundnessError(sample, str(self._stage[sample]))

    def _undecided(self) -> Tensor:
        return torch.from_numpy(np.flatnonzero(self._verdict == Verdict.unknown)).to(self._inputs.y.device)

    def _decide(self, samples: Tensor, verdict: Verdict, stage: str) -> None:
        index = samples.cpu().numpy()
        self._verdict[index], self._stage[index] = verdict, stage

    def _smallest_margin(self) -> np.ndarray:
        others = self._margins.scatter(1, self._inputs.y[:, None], torch.inf)
        return others.amin(1).double().cpu().numpy()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - started


def verified_over_grid(
    network: nn.Module,
    x: Values,
    y: Values,
    epsilons: Sequence[float],
    *,
    low: float,
    high: float,
    scale: float | Values = 1.0,
    options: CascadeOptions = _DEFAULT,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Verified accuracy at each epsilon by the cheap ones among the stages, intervals and CROWN-IBP: `(epsilons,)`.

    A proof at one epsilon holds at every smaller one, so that the largest comes first and the result never rises with
    epsilon. Both are used where the stages have neither. Of the other options only the batch size applies.

    Args:
        known: `(samples,)` bool, those that are proved already at an epsilon no smaller than any of `epsilons`.

    Other arguments and errors as of `verify`.
    """
    accuracies = np.zeros(len(epsilons))
    names = [name for name in options.stages if name in CHEAP] or CHEAP
    cheap = [CascadeOptions(stages=(name,)).verifiers()[name] for name in names]
    with eval_mode(network):
        graph: Graph = trace(network, tuple(x.shape[1:]))
        inputs = Inputs.of(graph, x, y, low, high, scale)
        correct = correctly_classified(network, inputs, options.batch_size)
        verified = torch.zeros_like(correct) if known is None else torch.from_numpy(known).to(correct)
        for index in np.argsort(-np.asarray(epsilons, dtype=np.float64), kind="stable"):
            margins = torch.zeros(len(correct), graph.last_linear.out_features, dtype=torch.bool, device=correct.device)
            for verifier in cheap:
                samples = (correct & ~verified).nonzero().squeeze(1)
                for batch, found in bounded(
                    verifier, graph, inputs, samples, float(epsilons[index]), options.batch_size
                ):
                    if not isinstance(found, str):
                        margins[batch] |= proved(found.lower, found.scale, inputs.y[batch])
                        verified[batch] = margins[batch].all(1)
            accuracies[index] = float(verified.double().mean())
    return accuracies
