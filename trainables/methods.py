"""From the names in a configuration to objects: the only place that does so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import nn

from ..spaces import Parameter, SpecError, StudySpec, TrialConfig
from ..spaces.architectures import architecture_options, build_architecture
from ..spaces.rules import LATER_FAMILIES
from .bounds import Graph, UnsupportedLayer, natural_and_interval, trace
from .certified_training import (
    INITIALISATIONS,
    LOSSES,
    REGULARISERS,
    CertifiedLoss,
    Initialisation,
    Regulariser,
)
from .optimizers import OPTIMIZERS, Optimizer
from .pruning import (
    DISTRIBUTIONS,
    PATTERNS,
    SCHEDULES,
    SCORES,
    AtInit,
    Distribution,
    LearnedScore,
    Pattern,
    Schedule,
    Score,
    first_due,
)
from .starts import STARTS, Start

FAMILIES: dict[str, Mapping[str, type[Any]]] = {
    "score": SCORES,
    "distribution": DISTRIBUTIONS,
    "pattern": PATTERNS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "regulariser": REGULARISERS,
    "initialisation": INITIALISATIONS,
    "start": STARTS,
}
PRUNING = ("sparsity", "score", "distribution", "pattern", "schedule")
_WRITTEN: Mapping[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
    str | None: ("text or null", (str, type(None))),
}
"""By the type of a method's option: what has to be written for it."""
CHECKED_SAMPLES = 256
ROUNDING = 1e-9


@dataclass(frozen=True)
class Methods:
    """The methods of one trial, checked."""

    architecture: str
    architecture_options: Mapping[str, Any]
    score: Score
    distribution: Distribution
    pattern: Pattern
    schedule: Schedule
    loss: CertifiedLoss
    optimizer: Optimizer
    regulariser: Regulariser
    initialisation: Initialisation
    start: Start

    @classmethod
    def of(cls, config: TrialConfig) -> Methods:
        """The methods that `config` names.

        Raises:
            SpecError: an unknown family, method or option, a family that is left out, an option's impossible value, or
                methods that do not go together.
        """
        config = _complete(config)
        known = ("architecture", "sparsity", *FAMILIES)
        for name in config.values:
            family = name.partition(".")[0]
            if family not in known:
                raise SpecError(f"space.{name}: there is no {family!r} to choose{_hint(family, known)}")
        architecture, architecture_options = config.method("architecture")
        methods = cls(
            architecture=architecture,
            architecture_options=architecture_options,
            **{family: build_method(family, *config.method(family)) for family in FAMILIES},
        )
        if isinstance(methods.score, LearnedScore):
            _check_learned(config, methods.score, methods.schedule)
        if methods.regulariser.reads_boxes and not methods.loss.leaves_boxes:
            regulariser, loss = config.method("regulariser")[0], config.method("loss")[0]
            raise SpecError(
                f"space.regulariser: {regulariser!r} reads interval bounds, and loss {loss!r} computes none; "
                "set regulariser to none, or search the two in separate studies"
            )
        # With nothing to prune there is nothing to rewind to or to restart for: all schedules are this one.
        return methods if config.target_sparsity else replace(methods, schedule=AtInit())

    def build_network(self, shape: tuple[int, ...], classes: int, *, allow_code: bool = False) -> nn.Sequential:
        """A fresh network for inputs of `shape`, initialised from torch's global random state."""
        return build_architecture(self.architecture, self.architecture_options, shape, classes, allow_code=allow_code)


def _complete(config: TrialConfig) -> TrialConfig:
    """`config` with the families that it may leave out."""
    return replace(config, values=LATER_FAMILIES | dict(config.values))


def _check_learned(config: TrialConfig, score: LearnedScore, schedule: Schedule) -> None:
    names = config.method("score")[0], config.method("schedule")[0]
    if not schedule.once:
        able = ", ".join(name for name, kind in SCHEDULES.items() if kind.once)
        raise SpecError(
            f"space.score: {names[0]!r} is learned on a trained network, whose mask then stays: it goes with a "
            f"schedule that trains dense and prunes once ({able}), not with {names[1]!r}; set schedule to {able}, or "
            "search the two in separate studies"
        )
    steps = 1_000_000
    begin = first_due(schedule, steps) / steps
    if begin + score.span >= 1:
        raise SpecError(
            f"space.score.span: {names[0]!r} learns for {score.span:g} of training from {begin:g} on, which must end "
            "before training does: lower score.span or the schedule's start"
        )


def build_method(family: str, name: str, options: Mapping[str, Any]) -> Any:
    """The method `name` of `family` with its options.

    Raises:
        SpecError: unknown name or option, or an option's impossible value.
    """
    table = FAMILIES[family]
    if name not in table:
        raise SpecError(f"space.{family}: there is no {family} {name!r}{_hint(name, table)}")
    known = [field.name for field in fields(table[name])]
    for option in options:
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise SpecError(
                f"space.{family}.{option}: {family} {name!r} has no such option ({has}); "
                f"remove the key or limit it with `when: {{{family}: ...}}`"
            )
    for option, value in options.items():
        what, types = _WRITTEN[_option_types(family, name)[option]]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise SpecError(f"space.{family}.{option} must be {what}, but is {value!r}")
    try:
        return table[name](**options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"space.{family}: {error}") from error


@cache
def _option_types(family: str, name: str) -> Mapping[str, Any]:
    return get_type_hints(FAMILIES[family][name])


def fingerprint(config: TrialConfig, spec: StudySpec) -> str:
    """What `config` trains to within `spec`, as 16 hexadecimal digits; options at their default leave no trace."""
    config = _complete(config)
    return config.fingerprint(spec.constants(), _defaults(config))


def dense_fingerprint(config: TrialConfig, spec: StudySpec) -> str:
    """What `config` trains to as long as nothing is pruned, its seed being the study's; otherwise as `fingerprint`.

    What is not known to be about pruning counts, so that a family to come keeps trials apart until it is told not to.
    A schedule counts where the ramp or the learning rate runs in its own way.
    """
    config = _complete(config)
    own = Methods.of(config).schedule.restarts
    pruning = [family for family in PRUNING if not (family == "schedule" and own)]
    values = {name: value for name, value in config.values.items() if name.partition(".")[0] not in pruning}
    return replace(config, values=values).fingerprint(spec.constants() | {"seed": spec.seed}, _defaults(config))


def _defaults(config: TrialConfig) -> dict[str, Any]:
    """Defaults of all options that the methods of `config` have, by dotted name, and of families to be left out."""
    defaults: dict[str, Any] = dict(LATER_FAMILIES)
    defaults |= {
        f"architecture.{name}": value
        for name, value in (architecture_options(config.method("architecture")[0]) or {}).items()
    }
    for family in FAMILIES:
        defaults |= _method_defaults(family, str(config.values[family]))
    return defaults


@cache
def _method_defaults(family: str, name: str) -> Mapping[str, Any]:
    options = fields(FAMILIES[family][name])
    return {f"{family}.{f.name}": f.default for f in options if f.default not in (MISSING, None)}


def check_space(spec: StudySpec, shape: tuple[int, ...], classes: int, *, allow_code: bool = False) -> None:
    """Refuse a study whose space holds an impossible configuration, before any trial runs.

    A seeded sample of 256 configurations is resolved, every number of the space at both of its ends as well; each
    architecture among them is built once, bounds are propagated through it as in training, each loss that may go with
    it must fit it, and each such pattern must reach every sparsity of the space.

    Raises:
        SpecError: naming the key and the rule it breaks.
    """
    rng = np.random.default_rng(0)

    def at_end(end: int) -> Callable[[str, Parameter], Any]:
        return lambda name, parameter: limits[end] if (limits := parameter.limits()) else parameter.random(rng)

    draws = [at_end(0), at_end(1), *[lambda name, parameter: parameter.random(rng)] * CHECKED_SAMPLES]
    graphs: dict[str, Graph] = {}
    seen: set[tuple[str, Pattern]] = set()
    for draw in draws:
        values = spec.space.sample(draw)
        methods = Methods.of(TrialConfig(trial_id="check", seed=0, values=values))
        key = f"{methods.architecture} {sorted(methods.architecture_options.items())}"
        if key not in graphs:
            network = methods.build_network(shape, classes, allow_code=allow_code).train()
            x = torch.zeros(min(spec.batch_size, 2), *shape)
            try:
                graphs[key] = trace(network, shape)
                natural_and_interval(graphs[key], x, x, torch.zeros_like(x))
            except (UnsupportedLayer, ValueError) as error:
                raise SpecError(f"space.architecture {methods.architecture!r}: {error}") from error
        try:
            methods.loss.check(graphs[key])
        except ValueError as error:
            loss = next(name for name, kind in LOSSES.items() if kind is type(methods.loss))
            raise SpecError(
                f"space.loss {loss!r} in architecture {methods.architecture!r} "
                f"{dict(methods.architecture_options) or ''}: {error}"
            ) from error
        if (key, methods.pattern) not in seen:
            seen.add((key, methods.pattern))
            _check_pattern(spec, methods, graphs[key])


def _check_pattern(spec: StudySpec, methods: Methods, graph: Graph) -> None:
    """
    Raises:
        SpecError: the pattern cannot reach a sparsity of the space in this architecture.
    """
    limits = spec.space["sparsity"].limits()
    assert limits is not None
    name = next(name for name, kind in PATTERNS.items() if kind is type(methods.pattern))
    pattern = f"pattern {name!r} {asdict(methods.pattern) or ''}".rstrip()  # type: ignore[call-overload]
    where = f"in architecture {methods.architecture!r} {dict(methods.architecture_options) or ''}".rstrip()
    try:
        least, most = methods.pattern.limits(graph)
    except ValueError as error:
        raise SpecError(f"space.{pattern}: {error}, {where}") from error
    for wanted, bound, broken in (
        (limits[0], least, limits[0] < least - ROUNDING),
        (limits[1], most, limits[1] > most + ROUNDING),
    ):
        if broken:
            raise SpecError(
                f"space.sparsity must lie in [{least:.6g}, {most:.6g}], which {pattern} can reach {where}, "
                f"got {wanted:g}: move it to {bound:.6g}, or choose another pattern"
            )


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are {', '.join(known)})"
