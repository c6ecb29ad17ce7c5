"""What a search space must hold for trials to run on it, beyond each parameter's own rules, and what its study must.

Messages start with the parameter's name.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from .errors import SpecError
from .frozen import FrozenMapping
from .parameters import Categorical, Constant, Parameter
from .space import SearchSpace
from .suggest import closest, listed

LATER_FAMILIES: Final[dict[str, str]] = {
    "pattern": "unstructured",
    "regulariser": "none",
    "initialisation": "ibp",
    "start": "fresh",
}
"""Families that a configuration may leave out, with what that means: so old ones keep their meaning and fingerprint."""

FAMILIES: Final = ("architecture", "score", "distribution", "schedule", "loss", "optimizer", *LATER_FAMILIES)
"""Each names one method by its own key, and that method's options as `family.option`."""

SPARSITY: Final = "sparsity"

DEFAULT_SPACE: Final[Mapping[str, Any]] = FrozenMapping(
    {
        "architecture": "mlp",
        SPARSITY: {"low": 0.0, "high": 0.995, "scale": "log-complement"},
        "score": "magnitude",
        "distribution": "lamp",
        "schedule": "gradual",
        "loss": "ibp",
        "optimizer": "adam",
        **LATER_FAMILIES,
    }
)
"""What a space gets for a family, or the sparsity, that it leaves out."""


def with_defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` after the defaults of what they leave out."""
    missing = {name: value for name, value in DEFAULT_SPACE.items() if name not in parameters}
    return missing | dict(parameters)


def check_norm(norm: str, name: str, stages: Collection[str]) -> None:
    """
    Raises:
        SpecError: for a stage of verification, among those that `name` lists, that does not go with the norm.
    """
    if norm != "linf" and "exact" in stages:
        raise SpecError(f"{name} has exact, which knows boxes alone: norm must be linf, got {norm}")


def check_names(space: SearchSpace) -> None:
    """
    Raises:
        SpecError: for a name that is no family, no `family.option` and not `sparsity`.
    """
    known = (*FAMILIES, SPARSITY)
    if "start.parent" in space:
        raise SpecError("start.parent is chosen by the study for each trial: leave it out")
    for name in space:
        family, *option = name.split(".")
        if name == SPARSITY or (family in FAMILIES and len(option) <= 1 and all(option)):
            continue
        raise SpecError(
            f"{name} is unknown{closest(family, known)} (known: {listed(known)}, and options as family.option)"
        )


def check_values(space: SearchSpace) -> None:
    """
    Raises:
        SpecError: a sparsity outside [0, 1), a family whose methods are no names, a family that only sometimes exists,
            or a gradual schedule that could end before it starts.
    """
    for name in (*FAMILIES, SPARSITY):
        if space[name].when:
            raise SpecError(f"{name} must exist in every configuration: leave out its when")
    for family in FAMILIES:
        if not all(isinstance(choice, str) for choice in possible_values(space[family]) or (None,)):
            raise SpecError(f"{family} must be the name of a method or a list of names, got {space[family].allowed()}")
    limits = space[SPARSITY].limits()
    if limits is None or not 0 <= limits[0] <= limits[1] < 1:
        got = space[SPARSITY].allowed()
        raise SpecError(f"{SPARSITY} must be at least 0 and below 1 (the fraction of weights removed), got {got}")
    if "schedule.start" in space and "schedule.end" in space:
        start, end = space["schedule.start"].limits(), space["schedule.end"].limits()
        if start and end and start[1] >= end[0]:
            raise SpecError(
                f"schedule.end must always be above schedule.start, got end {space['schedule.end'].allowed()} "
                f"and start {space['schedule.start'].allowed()}"
            )


def check_architectures(space: SearchSpace, *, allow_code: bool) -> None:
    """Check that every architecture of the space exists and takes the options that the space gives it.

    Raises:
        SpecError: otherwise; or for `module:function` without `allow_code`.
    """
    # Imports torch, which reading and checking a specification can do without.
    from .architectures import ARCHITECTURES, architecture_options, check_architecture

    for name in possible_values(space["architecture"]) or ():
        check_architecture(name, allow_code=allow_code)
        known = architecture_options(name)
        if known is None:
            continue
        for key, parameter in space.parameters.items():
            option = key.removeprefix("architecture.")
            if option == key or name not in parameter.when.get("architecture", (name,)):
                continue
            if option not in known:
                raise SpecError(
                    f"space.{key} is no option of architecture {name!r}{closest(option, known)} "
                    f"(it has: {listed(known)}); if another has it, say when: {{architecture: [...]}}"
                )
            for value in possible_values(parameter) or parameter.limits() or ():
                try:
                    ARCHITECTURES[name](**{option: value})
                except SpecError as error:
                    raise SpecError(f"space.{error}") from None


def possible_values(parameter: Parameter) -> tuple[Any, ...] | None:
    """All values that a parameter may take, where they can be listed."""
    if isinstance(parameter, Categorical):
        return parameter.choices
    return (parameter.value,) if isinstance(parameter, Constant) else None
