"""From what a person gives, a preset's name, a file and `--set key=value`, to a checked specification."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, final

from .errors import SpecError
from .parameters import parse_parameter
from .rules import DEFAULT_SPACE
from .spec import StudySpec
from .suggest import closest, listed
from .yaml_text import parse_yaml


@final
@dataclass(frozen=True)
class Preset:
    """A study that comes with the package."""

    name: str

    def content(self) -> dict[str, Any]:
        """The keys of its file."""
        text = files(f"{__package__}.presets").joinpath(f"{self.name}.yaml").read_text(encoding="utf-8")
        content: dict[str, Any] = parse_yaml(text)
        return content

    @property
    def description(self) -> str:
        return str(self.content()["description"])


DEFAULT_PRESET: Final = "digits"

PRESETS: Final[dict[str, Preset]] = {
    name: Preset(name)
    for name in (
        DEFAULT_PRESET,
        "breast-cancer",
        "basic-motions",
        "mnist-5k",
        "fashion-mnist",
        "mnist",
        "cifar10",
        "svhn",
        "mnist-sabr",
        "mnist-mtl-ibp",
        "fashion-mnist-crown-ibp",
        "cifar10-2-255-mtl-ibp",
        "cifar10-8-255-ibp",
    )
}

SECTIONS: Final = ("ramp", "scheduler", "verification", "limits", "resources", "data_options", "space")
"""Keys of a specification that hold keys themselves, so that `--set` may name those with a dot."""


def load_spec(source: str | Path | None = None, overrides: Sequence[str] = ()) -> StudySpec:
    """The specification of a preset or a YAML file, with single keys replaced.

    Args:
        source: a key of `PRESETS`, else the path of a YAML file; by default the preset `digits`.
        overrides: `key=value`, the value being YAML. Keys of sections are dotted, as `verification.samples=200`; all
            after `space.` is a parameter's name, as in
            `space.optimizer.learning_rate={low: 1e-4, high: 1e-2, scale: log}`, and null takes a parameter out.
            Where a parameter is replaced, conditions and starting points that name values which it no longer takes are
            dropped.

    Raises:
        SpecError: one line that names the file or key, what was received, and what is allowed.
    """
    name = str(DEFAULT_PRESET if source is None else source)
    if name in PRESETS:
        content, origin = PRESETS[name].content(), f"preset {name!r}"
    else:
        content, origin = _read_file(name)
    if "name" not in content:
        # A file's name need not be a study's: what may not stand in one becomes a hyphen.
        content["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-._") or "study"
    for override in overrides:
        _apply(content, override)
    try:
        return StudySpec.from_dict(content)
    except SpecError as error:
        where = f"{origin} with {listed(f'--set {override}' for override in overrides)}" if overrides else origin
        raise SpecError(f"{where}: {error}") from None


def change_spec(spec: StudySpec, overrides: Sequence[str]) -> StudySpec:
    """`spec` with single keys replaced, as `load_spec` does.

    Raises:
        SpecError: as `load_spec`.
    """
    content = spec.to_dict()
    for override in overrides:
        _apply(content, override)
    return StudySpec.from_dict(content)


def _read_file(name: str) -> tuple[dict[str, Any], str]:
    origin = f"study file {name!r}"
    try:
        path = Path(name).expanduser()
        missing = not path.exists()
    except (OSError, RuntimeError) as error:
        raise SpecError(f"{origin} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if missing and path.suffix not in (".yaml", ".yml", ".json") and len(path.parts) == 1:
        raise SpecError(
            f"unknown preset {name!r}{closest(name, PRESETS)} (known: {listed(PRESETS)}, or the path of a YAML file)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{origin} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{origin} is no text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    try:
        content = parse_yaml(text)
    except SpecError as error:
        raise SpecError(f"{origin} is no valid YAML: {error}") from None
    if content is None:
        raise SpecError(f"{origin} is empty: it needs at least the keys data and epsilon")
    if not isinstance(content, dict):
        raise SpecError(
            f"{origin} must hold a mapping of keys to values, got {type(content).__name__} {content!r}"[:300]
        )
    return {str(key): value for key, value in content.items()}, origin


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SpecError(f"--set takes key=value, got {override!r}")
    try:
        value = parse_yaml(text)
    except SpecError as error:
        raise SpecError(f"--set {key}: {text!r} is no valid YAML ({error})") from None
    first, dot, rest = key.partition(".")
    if first not in StudySpec.model_fields:
        known = listed(StudySpec.model_fields)
        raise SpecError(f"--set {key}: {first} is unknown{closest(first, StudySpec.model_fields)} (known: {known})")
    if not dot:
        content[first] = value
        return
    if first not in SECTIONS or not rest:
        raise SpecError(f"--set {key}: {first} has no keys of its own (those with keys: {listed(SECTIONS)})")
    section = content.get(first)
    section = dict(section) if isinstance(section, Mapping) else {}
    content[first] = section
    if first != "space":
        section[rest] = value
    elif value is None:
        section.pop(rest, None)
        _drop_impossible(content, rest, DEFAULT_SPACE.get(rest))
    else:
        section[rest] = value
        _drop_impossible(content, rest, value)


def _drop_impossible(content: dict[str, Any], name: str, replacement: Any) -> None:
    """Take out of conditions and starting points what a replaced parameter, or one taken out (None), cannot be.

    A preset narrowed with --set then still works: its options of methods that are gone go too.
    """
    space = content["space"]
    try:
        parameter = None if replacement is None else parse_parameter(replacement)
    except SpecError:
        # The specification's own check reports it, with its full name.
        return

    def fits(value: Any) -> bool:
        return parameter is not None and parameter.contains(value)

    for other, raw in list(space.items()):
        condition = raw.get("when") if isinstance(raw, Mapping) else None
        if other not in space or not isinstance(condition, Mapping) or name not in condition:
            continue
        wanted = condition[name] if isinstance(condition[name], list | tuple) else [condition[name]]
        possible = [value for value in wanted if fits(value)]
        if possible:
            space[other] = {**raw, "when": {**condition, name: possible}}
        else:
            del space[other]
            _drop_impossible(content, other, None)
    points = content.get("starting_points") or []
    if isinstance(points, list) and all(isinstance(point, Mapping) for point in points):
        kept = [{key: value for key, value in p.items() if key != name or fits(value)} for p in points]
        # Points may have become equal or empty, and would only try the same thing again.
        content["starting_points"] = [point for index, point in enumerate(kept) if point and point not in kept[:index]]
