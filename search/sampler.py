"""Which configuration to try next: at random, or by Optuna's multi-objective samplers. Free of Ray."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from ..results.record import DIRECTIONS
from ..spaces import Categorical, Float, Int, Parameter, StudySpec, TrialConfig
from ..trainables.seeds import derived_seed

STARTUP_TRIALS = 10
"""How many trials are drawn at random before a model chooses."""

GOLDEN_RATIO = 0.6180339887498949
UNIT_STEP = 2.0**-20
"""Numbers lie on a grid of their scale that is exact in binary: from the value in a record the sampler's own number is
found back without rounding, so that a replayed study goes on as the one that was never interrupted."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def trial_id_of(number: int) -> str:
    """The name of a study's trial `number`, counted from 0."""
    return f"{number:05d}"


class Sampler:
    """Proposes configurations and learns from what became of them.

    Ask number k draws from a sampler seeded by (study seed, k): the same answers lead to the same questions. The
    study's starting points are asked first, what they leave open is sampled. Sparsity is an objective and a parameter
    at once, and a model left to choose it collapses to one end; so it follows a low-discrepancy (golden ratio) sequence
    over its whole range, and the model chooses everything else.

    Args:
        spec: the study: its space, starting points, sampler, objectives and seed.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        directions = ["maximize" if DIRECTIONS[name] == "max" else "minimize" for name in spec.objectives]
        self._study = optuna.create_study(directions=directions, sampler=RandomSampler(seed=0))
        self._open: dict[str, optuna.Trial] = {}

    def ask(self, number: int) -> TrialConfig:
        """The configuration of trial `number`; each number is asked once, in rising order."""
        trial_id, points = trial_id_of(number), self._spec.starting_points
        values = self._draw(number, trial_id, points[number] if number < len(points) else {})
        return TrialConfig(
            trial_id=trial_id, seed=derived_seed(self._spec.seed, "trial", number) % 2**31, values=values
        )

    def ask_again(self, number: int, config: TrialConfig) -> None:
        """Put a configuration that was asked for before into the place of trial `number`, as if it were asked now."""
        # NSGA-II notes generations in Optuna's study as it asks. The others have no memory, and fitting a model to be
        # told what is known would make a replay slow.
        if self._spec.sampler != "random":
            kind = self._spec.sampler if self._spec.sampler == "nsga2" else "random"
            self._ask(number, config.trial_id, config.values, kind)

    def _draw(self, number: int, trial_id: str, starting_point: Mapping[str, Any]) -> dict[str, Any]:
        fixed = self._fixed(number, starting_point)
        if self._spec.sampler != "random":
            return self._ask(number, trial_id, fixed, self._spec.sampler)
        rng = np.random.default_rng(derived_seed(self._spec.seed, "ask", number))
        return self._spec.space.sample(lambda name, parameter: fixed[name] if name in fixed else parameter.random(rng))

    def _fixed(self, number: int, starting_point: Mapping[str, Any]) -> dict[str, Any]:
        """Values that are not left to the sampler."""
        sparsity = self._spec.space["sparsity"]
        if "sparsity" in starting_point or not isinstance(sparsity, Float):
            return dict(starting_point)
        offset = derived_seed(self._spec.seed, "sparsity") / 2**63
        unit = math.floor((offset + number * GOLDEN_RATIO) % 1.0 / UNIT_STEP) * UNIT_STEP
        return {**starting_point, "sparsity": sparsity.from_unit(unit)}

    def _ask(self, number: int, trial_id: str, fixed: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """Ask Optuna, in whose study the trial is open from now on."""
        self._study.sampler = self._sampler(number, fixed, kind)
        self._open[trial_id] = trial = self._study.ask()

        def draw(name: str, parameter: Parameter) -> Any:
            suggested = _suggest(trial, name, parameter)
            # A fixed value went to the sampler and back through the parameter's scale, which rounds.
            return fixed.get(name, suggested)

        return self._spec.space.sample(draw)

    def tell(self, trial_id: str, objectives: Sequence[float] | None, *, stopped: bool = False) -> None:
        """What became of a trial: its final objectives; or none, because it was stopped early or failed.

        A stopped trial's values are those of a lower fidelity: told as final they would mislead the model.
        """
        if self._spec.sampler == "random":
            return
        trial = self._open.pop(trial_id)
        if objectives is not None:
            self._study.tell(trial, list(objectives))
        else:
            self._study.tell(trial, state=TrialState.PRUNED if stopped else TrialState.FAIL)

    def _sampler(self, number: int, fixed: Mapping[str, Any], kind: str) -> BaseSampler:
        # Counted in trials asked for, not in those that are over: while trials wait for promotion few are over, and the
        # model would begin late. It takes what is neither over nor promising yet for bad, until it is known better.
        startup = STARTUP_TRIALS if number < STARTUP_TRIALS else 1
        sampler = _SAMPLERS[kind](derived_seed(self._spec.seed, "ask", number) % 2**32, startup)
        if not fixed:
            return sampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            space = self._spec.space
            # A parent is no parameter of the space.
            encoded = {name: _encode(space[name], value) for name, value in fixed.items() if name in space}
            return PartialFixedSampler(encoded, sampler)


def _tpe(seed: int, startup: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def _nsga2(seed: int, startup: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=20)


def _random(seed: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _gp(seed: int, startup: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)


_SAMPLERS = {"tpe": _tpe, "nsga2": _nsga2, "gp": _gp, "random": _random}


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    """Optuna sees numbers in units of the parameter's own scale, and choices by position: they may be lists."""
    if isinstance(parameter, Float):
        return parameter.from_unit(trial.suggest_float(name, 0.0, 1.0, step=UNIT_STEP))
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    assert isinstance(parameter, Categorical)
    return parameter.choices[trial.suggest_categorical(name, range(len(parameter.choices)))]


def _encode(parameter: Parameter, value: Any) -> Any:
    if isinstance(parameter, Float):
        return round(parameter.to_unit(value) / UNIT_STEP) * UNIT_STEP
    if isinstance(parameter, Categorical):
        return parameter.choices.index(tuple(value) if isinstance(value, list) else value)
    return value
