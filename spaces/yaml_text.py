"""YAML as people expect it: 1e-3 is a number, `on` is text, and a key stands there once."""

import re
from typing import Any, final

import yaml

from .errors import SpecError


@final
class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 instead of 1.1, without aliases, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            # A few nested aliases unfold to gigabytes, and a specification may come from somebody else.
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not supported; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key_node.value!r} stands there twice", problem_mark=key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# Emptied of YAML 1.1's scalars, by which 1e-3 is text and 1:30 is 90.
_Loader.yaml_implicit_resolvers = {}

for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def _number(text: str) -> float:
    # Python spells infinity and NaN without the leading dot.
    return float(re.sub(r"\.(?=[iInN])", "", text))


_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: _number(node.value))


def parse_yaml(text: str) -> Any:
    """The content of one YAML document (JSON is YAML too).

    Raises:
        SpecError: for text that is no YAML, in one line with the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(f"{error.problem or error.context}{place}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(str(error)) from None
    except RecursionError:
        raise SpecError("lists or mappings are nested too deeply") from None
