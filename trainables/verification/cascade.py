"""The verification cascade: cheap stages first, each seeing only what is still undecided."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..bounds import Norm, trace
from .base import Reason, Verifier
from .inputs import Inputs, Values, bounded, correctly_classified, eval_mode, in_batches
from .options import ATTACK, CascadeOptions
from .pgd import Pgd, random_starts
from .result import Verification
from .verdict import Cause, SoundnessError, Verdict

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
    norm: Norm = "linf",
    options: CascadeOptions = _DEFAULT,
    seed: int = 0,
    verifiers: Mapping[str, Verifier] | None = None,
) -> Verification:
    """Decide for each sample whether any input within `epsilon scale` of it, in `[low, high]`, changes its class.

    The network counts as in eval mode and is left as it was. Verdicts depend on the samples, the options and the seed,
    not on the batch size; those of a stage with a budget of seconds depend on the machine as well. A proof needs every
    margin to be positive beyond rounding: where float32 cannot tell, the stage runs again in float64. Classes are those
    of a forward pass in float64, and a counterexample counts once such a pass has confirmed it. What the stages leave
    undecided, whose budget is used up or whose verifier fails, is unknown.

    Args:
        x: `(samples, *shape)`, within `[low, high]`.
        y: `(samples,)`.
        epsilon: in the units of the input.
        scale: the radius of each feature as a multiple of epsilon, at least 0; an array broadcasts to `shape`.
        norm: by which inputs are within epsilon, of differences over `scale`. The exact stage knows `linf` alone.
        seed: of the attack's starts and of the choice of audited samples.
        verifiers: replace those of the same names in `options.stages`.

    Raises:
        SoundnessError: a sample that a stage verified is falsified by the audit.
        UnsupportedLayer: the network has a layer without bounds.
        ValueError: inputs, labels, epsilon, range, scales or norm do not fit.
    """
    with eval_mode(network):
        return _Cascade(network, x, y, epsilon, low, high, scale, norm, options, seed).run(
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
        norm: Norm,
        options: CascadeOptions,
        seed: int,
    ) -> None:
        self._network, self._epsilon, self._options, self._seed = network, float(epsilon), options, seed
        graph = trace(network, tuple(x.shape[1:]))
        self._inputs = Inputs.of(graph, x, y, low, high, scale, norm)
        self._verdict = np.full(len(y), Verdict.unknown, dtype=np.int8)
        self._stage = np.full(len(y), "", dtype=object)
        self._cause = np.full(len(y), Cause.no_stage_left, dtype=object)
        self._reason = np.full(len(y), "", dtype=object)
        self._counterexamples: dict[int, np.ndarray] = {}
        shape, device = (len(y), graph.last_linear.out_features), self._inputs.x.device
        self._margins = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        self._proved = torch.zeros(shape, dtype=torch.bool, device=device)
        self._seconds: dict[str, float] = {}

    def run(self, verifiers: Mapping[str, Verifier]) -> Verification:
        with self._timed("natural"):
            correct = correctly_classified(self._inputs, self._options.batch_size)
            wrong = (~correct).nonzero().squeeze(1)
            self._falsify(wrong, self._inputs.x[wrong], "natural")
        for stage in self._options.stages:
            with self._timed(stage):
                if stage == ATTACK:
                    self._falsify(*self._attacked(self._undecided(), self._seed), ATTACK)
                else:
                    self._bound(stage, verifiers[stage])
        with self._timed("audit"):
            self._audit()
        decided = self._verdict != Verdict.unknown
        self._cause[decided] = self._reason[decided] = ""
        return Verification(
            self._verdict,
            self._stage.astype(str),
            self._smallest_margin(),
            self._cause.astype(str),
            self._reason.astype(str),
            self._counterexamples,
            self._seconds,
        )

    def _bound(self, stage: str, verifier: Verifier) -> None:
        samples = self._within_budget(stage, self._undecided())
        for batch, found in bounded(verifier, self._inputs, samples, self._epsilon, self._options.batch_size):
            if isinstance(found, str):
                self._note(batch.tolist(), Reason(Cause.failure, found), stage)
                continue
            # Methods are incomparable margin by margin: the best of each is kept, and a proof of each by any counts.
            self._margins[batch] = torch.fmax(self._margins[batch], found.lower)
            self._proved[batch] |= found.proved
            self._decide(batch[self._proved[batch].all(1)], Verdict.verified, stage)
            for position, reason in found.reasons.items():
                self._note([int(batch[position])], reason, stage)
            if found.points is not None:
                self._falsify_by(found.points, batch, stage)

    def _within_budget(self, stage: str, samples: Tensor) -> Tensor:
        limit = self._options.limit(stage)
        if limit is None or len(samples) <= limit:
            return samples
        margin = self._smallest_margin()[samples.cpu().numpy()]
        order = torch.from_numpy(np.argsort(-margin, kind="stable")).to(samples.device)
        used_up = Reason(Cause.budget, f"the budget of {limit} samples is used up")
        self._note(samples[order[limit:]].tolist(), used_up, stage)
        return samples[order[:limit].sort().values]

    def _falsify_by(self, points: Tensor, batch: Tensor, stage: str) -> None:
        """Falsify the samples of the batch whose points, NaN for none, are counterexamples.

        Raises:
            SoundnessError: the same stage has verified one of them.
        """
        named = (~points.isnan()).flatten(1).all(1)
        if not bool(named.any()):
            return
        confirmed, inputs = self._inputs.confirmed(batch[named], points[named], self._epsilon)
        for sample in batch[named][confirmed].tolist():
            if self._verdict[sample] == Verdict.verified:
                raise SoundnessError(sample, stage)
        self._falsify(batch[named][confirmed], inputs[confirmed], stage)
        unconfirmed = Reason(Cause.rounding, "its counterexample changes no class in a forward pass in float64")
        left = [sample for sample in batch[named].tolist() if self._verdict[sample] == Verdict.unknown]
        self._note(left, unconfirmed, stage)

    def _attacked(self, samples: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Those of `samples` that the attack changes the class of, and the inputs that do so."""
        found, points = [samples[:0]], [self._inputs.x[:0]]
        for _, (broken, inputs) in in_batches(
            samples, self._options.batch_size, lambda batch: self._attack(self._options.pgd, batch, seed)
        ):
            found.append(broken)
            points.append(inputs)
        return torch.cat(found), torch.cat(points)

    def _attack(self, attack: Pgd, batch: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        x = self._inputs.x
        starts = random_starts(batch, tuple(x.shape[1:]), attack.restarts, seed).to(x)
        region = self._inputs.region(batch, self._epsilon, x.dtype)
        points, broken = attack.attack(self._network, region, self._inputs.y[batch], starts)
        batch, points = batch[broken], points[broken]
        if len(batch):
            confirmed, points = self._inputs.confirmed(batch, points, self._epsilon)
            batch, points = batch[confirmed], points[confirmed]
        return batch, points

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
        for sample in self._attacked(samples, self._seed + _AUDIT_STREAM)[0].tolist():
            raise SoundnessError(sample, str(self._stage[sample]))

    def _undecided(self) -> Tensor:
        return torch.from_numpy(np.flatnonzero(self._verdict == Verdict.unknown)).to(self._inputs.y.device)

    def _decide(self, samples: Tensor, verdict: Verdict, stage: str) -> None:
        index = samples.cpu().numpy()
        self._verdict[index], self._stage[index] = verdict, stage

    def _falsify(self, samples: Tensor, points: Tensor, stage: str) -> None:
        self._decide(samples, Verdict.falsified, stage)
        self._counterexamples.update(zip(samples.tolist(), points.cpu().numpy(), strict=True))

    def _note(self, samples: Sequence[int], reason: Reason, stage: str) -> None:
        self._cause[samples], self._reason[samples] = reason.cause, f"{stage}: {reason.text}"

    def _smallest_margin(self) -> np.ndarray:
        others = self._margins.scatter(1, self._inputs.y[:, None], torch.inf)
        return others.amin(1).cpu().numpy()

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
    norm: Norm = "linf",
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
        inputs = Inputs.of(trace(network, tuple(x.shape[1:])), x, y, low, high, scale, norm)
        classes = inputs.graph.last_linear.out_features
        correct = correctly_classified(inputs, options.batch_size)
        verified = torch.zeros_like(correct) if known is None else torch.from_numpy(known).to(correct)
        for index in np.argsort(-np.asarray(epsilons, dtype=np.float64), kind="stable"):
            margins = torch.zeros(len(correct), classes, dtype=torch.bool, device=correct.device)
            for verifier in cheap:
                samples = (correct & ~verified).nonzero().squeeze(1)
                for batch, found in bounded(verifier, inputs, samples, float(epsilons[index]), options.batch_size):
                    if not isinstance(found, str):
                        margins[batch] |= found.proved
                        verified[batch] = margins[batch].all(1)
            accuracies[index] = float(verified.double().mean())
    return accuracies
