"""What may be searched: ordered parameters, some of which exist only for certain values of earlier ones."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import numpy as np

from .errors import SpecError
from .frozen import FrozenMapping, freeze, same, spelled, thaw
from .parameters import Categorical, Constant, Float, Int, Parameter, parse_parameter
from .suggest import closest, listed

__all__ = ["Categorical", "Constant", "Float", "Int", "Parameter", "SearchSpace"]

Draw = Callable[[str, Parameter], Any]
"""Chooses a value for the parameter of that name."""


@final
class SearchSpace:
    """Parameters by their dotted names, in the order in which they are drawn.

    Raises:
        SpecError: an impossible parameter, or a `when` that names no earlier parameter or a value which that one
            never takes. Messages start with the parameter's name.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        parsed: dict[str, Parameter] = {}
        for name, raw in parameters.items():
            try:
                parameter = parse_parameter(raw)
            except SpecError as error:
                raise SpecError(f"{name}.{error}") from None
            _check_condition(str(name), parameter, parsed)
            parsed[str(name)] = parameter
        self.parameters: Mapping[str, Parameter] = FrozenMapping(parsed)

    def sample(self, draw: Draw) -> dict[str, Any]:
        """A configuration whose values `draw` chooses, in order; inactive parameters are left out, constants not drawn.

        Raises:
            SpecError: when `draw` returns a value that the parameter cannot take.
        """
        values: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if not _active(parameter, values):
                continue
            if isinstance(parameter, Constant):
                values[name] = parameter.value
                continue
            values[name] = freeze(draw(name, parameter), name)
            if not parameter.contains(values[name]):
                raise SpecError(f"{name} must be {parameter.allowed()}, got {spelled(values[name])}")
        return values

    def random(self, rng: np.random.Generator) -> dict[str, Any]:
        """A configuration drawn by the parameters' own distributions."""
        return self.sample(lambda _, parameter: parameter.random(rng))

    def check_point(self, point: Mapping[str, Any], *, complete: bool = False) -> None:
        """Check a configuration, or (not `complete`) one of which some values are left for the sampler to draw.

        Raises:
            SpecError: an unknown name, a value that the parameter cannot take, or one for a parameter that does not
                exist beside the others; with `complete`, a missing one. Messages start with the parameter's name.
        """
        for name in point:
            if name not in self.parameters:
                known = listed(self.parameters)
                raise SpecError(
                    f"{name} is no parameter of the space{closest(name, self.parameters)} (it has: {known})"
                )
        known_values: dict[str, Any] = {}
        undrawn: set[str] = set()
        for name, parameter in self.parameters.items():
            depends_on_undrawn = any(other in undrawn for other in parameter.when)
            decided = {other: parameter.when[other] for other in parameter.when if other not in undrawn}
            possible = all(_holds(other, values, known_values) for other, values in decided.items())
            if name not in point:
                if possible and isinstance(parameter, Constant) and not depends_on_undrawn:
                    known_values[name] = parameter.value
                elif possible:
                    if complete:
                        raise SpecError(f"{name} is missing: it must be {parameter.allowed()}")
                    undrawn.add(name)
                continue
            if not possible:
                condition = listed(f"{other} in {thaw(values)}" for other, values in parameter.when.items())
                raise SpecError(f"{name} exists only when {condition}: leave it out")
            if not parameter.contains(point[name]):
                raise SpecError(f"{name} must be {parameter.allowed()}, got {spelled(point[name])}")
            known_values[name] = freeze(point[name], name)

    def to_dict(self) -> dict[str, Any]:
        """The parameters as JSON holds them; `SearchSpace(space.to_dict()) == space`."""
        return {name: parameter.model_dump(mode="json") for name, parameter in self.parameters.items()}

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]

    def __contains__(self, name: object) -> bool:
        return name in self.parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and list(self.to_dict().items()) == list(other.to_dict().items())

    def __hash__(self) -> int:
        return hash(tuple(self.parameters))

    def __repr__(self) -> str:
        return f"SearchSpace({self.to_dict()!r})"


def _holds(other: str, values: tuple[Any, ...], configuration: Mapping[str, Any]) -> bool:
    return other in configuration and any(same(configuration[other], value) for value in values)


def _active(parameter: Parameter, configuration: Mapping[str, Any]) -> bool:
    return all(_holds(other, values, configuration) for other, values in parameter.when.items())


def _check_condition(name: str, parameter: Parameter, earlier: Mapping[str, Parameter]) -> None:
    for other, values in parameter.when.items():
        if other not in earlier:
            raise SpecError(
                f"{name}.when must name a parameter that stands before it, got {other!r}{closest(other, earlier)} "
                f"(before it: {listed(earlier) or 'none'})"
            )
        for value in values:
            if not earlier[other].contains(value):
                raise SpecError(f"{name}.when.{other} must be {earlier[other].allowed()}, got {spelled(value)}")
