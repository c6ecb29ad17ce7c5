"""Pydantic models whose errors are one line that names the key, the rule and the value received."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from .errors import SpecError
from .frozen import spelled
from .suggest import closest, listed

RULES = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "mapping": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "a list of at least {min_length}",
}


class SpecModel(BaseModel):
    """A frozen model of known keys only; fields are of pydantic's strict types, so that "10" and true are no numbers.

    Validators raise `SpecError` with a message that starts with the name of the key in this model; where the model is a
    section of another, that one puts the section's name before it.

    Raises:
        SpecError: on construction, for the first thing wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SpecError(_first_line(error, type(self))) from None

    @field_validator("*", mode="before")
    @classmethod
    def _lists_as_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def _first_line(error: ValidationError, model: type[BaseModel]) -> str:
    # An unknown key first: where a key is misspelt, another is often reported as missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    kind, path, context = problem["type"], _path(problem["loc"]), problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(model.model_fields)
        return f"{path} is unknown{closest(path, known)} (known: {listed(known)})"
    if kind == "missing":
        return f"{path} is missing: it has no default"
    if kind == "value_error":
        message, field = str(context["error"]), path.rpartition(".")[2]
        # A validator of the field itself names the field already; a model inside the field names its own key.
        return message if not path or message.startswith(field) else f"{path}.{message}"
    rule = RULES.get(kind) or RULES.get(kind.split("_")[0])
    must = f"must be {rule.format(**context)}" if rule else problem["msg"].lower()
    return f"{path} {must}, got {spelled(problem['input'])}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
