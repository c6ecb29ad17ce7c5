"""One parameter of a search space: the values it may take, and how they are drawn."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
from pydantic import Field, StrictBool, StrictFloat, StrictInt, field_serializer, field_validator, model_validator

from .errors import SpecError
from .frozen import FrozenMapping, Value, freeze, same, thaw
from .model import SpecModel
from .suggest import listed

SCALES = ("linear", "log", "log-complement")


class Parameter(SpecModel):
    """Base of all parameters.

    Attributes:
        when: the parameter exists only in configurations where each of these earlier parameters has one of the values.
    """

    when: Mapping[str, Any] = FrozenMapping({})

    @field_validator("when", mode="before")
    @classmethod
    def _values_as_tuples(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        named = {str(name): values if isinstance(values, list | tuple) else [values] for name, values in when.items()}
        if empty := [name for name, values in named.items() if not values]:
            raise SpecError(f"{empty[0]} must be a value or a list of at least one")
        return FrozenMapping({name: freeze(values, name) for name, values in named.items()})

    @field_validator("when", mode="after")
    @classmethod
    def _frozen(cls, when: Mapping[str, Any]) -> FrozenMapping:
        return FrozenMapping(when)

    @field_serializer("when")
    def _plain(self, when: Mapping[str, Any]) -> dict[str, Any]:
        return thaw(when)

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Whether the parameter may take `value`."""

    @abstractmethod
    def random(self, rng: np.random.Generator) -> Value:
        """A value drawn by the parameter's own distribution."""

    @abstractmethod
    def allowed(self) -> str:
        """What `contains` accepts, for a message."""

    def limits(self) -> tuple[float, float] | None:
        """Smallest and largest value, where values are numbers."""
        return None


@final
class Float(Parameter):
    """A real number in `[low, high]`.

    Attributes:
        scale: uniform in x (`linear`), in log x (`log`), or in log(1 - x) (`log-complement`: for sparsity, whose
            density is so drawn log-uniformly).
    """

    type: Literal["float"] = "float"
    low: StrictFloat
    high: StrictFloat
    scale: Literal["linear", "log", "log-complement"] = "linear"

    @model_validator(mode="after")
    def _check(self) -> "Float":
        if not self.low < self.high:
            raise SpecError(f"high must be above low, got low {self.low:g} and high {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise SpecError(f"low must be above 0 on scale log, got {self.low:g}")
        if self.scale == "log-complement" and self.high >= 1:
            raise SpecError(f"high must be below 1 on scale log-complement, got {self.high:g}")
        return self

    def contains(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def random(self, rng: np.random.Generator) -> float:
        return self.from_unit(float(rng.random()))

    def from_unit(self, u: float) -> float:
        """The value at fraction `u` (0 to 1) of the way from low to high on the parameter's scale."""
        if self.scale == "log":
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        elif self.scale == "log-complement":
            # log1p(-x) and expm1 keep low = 0 and dense ends exact.
            ends = math.log1p(-self.low), math.log1p(-self.high)
            value = -math.expm1(ends[0] + u * (ends[1] - ends[0]))
        else:
            value = self.low + u * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def to_unit(self, value: float) -> float:
        """The inverse of `from_unit`."""
        if self.scale == "log":
            u = math.log(value / self.low) / math.log(self.high / self.low)
        elif self.scale == "log-complement":
            u = math.log1p(-value) - math.log1p(-self.low)
            u /= math.log1p(-self.high) - math.log1p(-self.low)
        else:
            u = (value - self.low) / (self.high - self.low)
        return min(max(u, 0.0), 1.0)

    def allowed(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def limits(self) -> tuple[float, float]:
        return self.low, self.high


@final
class Int(Parameter):
    """A whole number in `[low, high]`, both included.

    Attributes:
        log: uniform in log x instead of x.
    """

    type: Literal["int"] = "int"
    low: StrictInt
    high: StrictInt
    log: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> "Int":
        if not self.low < self.high:
            raise SpecError(f"high must be above low, got low {self.low} and high {self.high}")
        if self.log and self.low < 1:
            raise SpecError(f"low must be at least 1 with log, got {self.low}")
        return self

    def contains(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def random(self, rng: np.random.Generator) -> int:
        if not self.log:
            return int(rng.integers(self.low, self.high, endpoint=True))
        # Half a unit on either side gives the ends their share.
        ends = math.log(self.low - 0.5), math.log(self.high + 0.5)
        drawn = round(math.exp(rng.uniform(*ends)))
        return min(max(drawn, self.low), self.high)

    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def limits(self) -> tuple[float, float]:
        return self.low, self.high


@final
class Categorical(Parameter):
    """One of several values: text, numbers, true and false, or lists of those."""

    choices: tuple[Any, ...] = Field(min_length=1)

    @field_validator("choices", mode="before")
    @classmethod
    def _freeze(cls, choices: Any) -> Any:
        if not isinstance(choices, list | tuple):
            return choices
        frozen = [freeze(choice, "choices") for choice in choices]
        for index, choice in enumerate(frozen):
            if any(same(choice, earlier) for earlier in frozen[:index]):
                raise SpecError(f"choices must name each choice once, got {thaw(choice)!r} twice")
        return tuple(frozen)

    @field_serializer("choices")
    def _as_lists(self, choices: tuple[Any, ...]) -> list[Any]:
        return thaw(choices)

    def contains(self, value: Any) -> bool:
        return any(same(_as_tuples(value), choice) for choice in self.choices)

    def random(self, rng: np.random.Generator) -> Value:
        return self.choices[int(rng.integers(len(self.choices)))]

    def allowed(self) -> str:
        return f"one of {listed(thaw(self.choices))}"

    def limits(self) -> tuple[float, float] | None:
        return _numeric_limits(self.choices)


@final
class Constant(Parameter):
    """A parameter that has one value and is never drawn."""

    value: Any

    @field_validator("value", mode="before")
    @classmethod
    def _freeze(cls, value: Any) -> Value:
        return freeze(value, "value")

    @field_serializer("value")
    def _as_list(self, value: Any) -> Any:
        return thaw(value)

    def contains(self, value: Any) -> bool:
        return same(_as_tuples(value), self.value)

    def random(self, rng: np.random.Generator) -> Value:
        return self.value

    def allowed(self) -> str:
        return f"{thaw(self.value)}"

    def limits(self) -> tuple[float, float] | None:
        return _numeric_limits((self.value,))


def parse_parameter(raw: Any) -> Parameter:
    """A parameter from its spelling in a study file.

    `{low, high}` is a number (`type: int` a whole one), a list or `{choices}` a choice, `{value}` or anything else one
    value that stays.

    Raises:
        SpecError: for what is none of these; the message starts with the key, relative to the parameter.
    """
    if isinstance(raw, Parameter):
        return raw
    if isinstance(raw, list | tuple):
        return Categorical(choices=tuple(raw))
    if not isinstance(raw, Mapping):
        return Constant(value=raw)
    keys = {str(key): value for key, value in raw.items()}
    if "choices" in keys:
        return Categorical(**keys)
    if "value" in keys:
        return Constant(**keys)
    if keys.get("type", "float") not in ("float", "int"):
        raise SpecError(f"type must be float or int, got {keys['type']!r}")
    return Int(**keys) if keys.get("type") == "int" else Float(**keys)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _numeric_limits(values: tuple[Any, ...]) -> tuple[float, float] | None:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return min(values), max(values)
    return None
