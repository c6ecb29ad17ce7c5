"""From presets, files and --set to a specification, or to one clear line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsevlr.spaces import DATASETS, PRESETS, Float, SpecError, StudySpec, load_spec
from sparsevlr.spaces.yaml_text import parse_yaml

STUDY = "data: digits\nepsilon: 0.1\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | bytes, name: str = "study.yaml") -> str:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name: str) -> None:
    spec = load_spec(name)

    assert spec.name == name
    # A preset is called after its data, and after the loss where it is a published recipe.
    assert name.startswith(spec.data)
    assert spec.data in DATASETS
    assert name == spec.data or "as published (arXiv " in spec.description
    assert PRESETS[name].description == spec.description
    assert spec.description
    assert StudySpec.from_dict(spec.to_dict()) == spec
    # The starting points cover the range of sparsity, and the sampler reaches its sparse end.
    assert [point["sparsity"] for point in spec.starting_points] == [0, 0.8, 0.95, 0.99]
    sparsity = spec.space["sparsity"]
    assert isinstance(sparsity, Float)
    assert (sparsity.scale, sparsity.high) == ("log-complement", 0.995)
    for seed in range(20):
        spec.space.check_point(spec.space.random(np.random.default_rng(seed)), complete=True)
    assert 2 <= len(spec.rungs) <= 4


def test_digits_is_the_default() -> None:
    assert load_spec() == load_spec("digits")


def test_a_file_is_named_after_itself_unless_it_says_otherwise() -> None:
    assert load_spec(write(STUDY, "my-study.yaml")).name == "my-study"
    assert load_spec(write(STUDY + "name: other", "my-study.yaml")).name == "other"
    assert load_spec(Path(write('{"data": "digits", "epsilon": 1e-1}', "s.json"))).epsilon == 0.1
    assert load_spec(write(STUDY, "no-ending")).name == "no-ending"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "study file 'study.yaml' is empty: it needs at least the keys data and epsilon"),
        ("# only a comment\n", "study file 'study.yaml' is empty"),
        ("- data\n", "must hold a mapping of keys to values, got list"),
        ("just text", "must hold a mapping of keys to values, got str 'just text'"),
        ("data: [digits\n", r"is no valid YAML: .* in line \d, column \d"),
        ("data: digits\n\tepsilon: 1", "is no valid YAML: .* in line 2"),
        ("data: digits\ndata: mnist\n", "is no valid YAML: key 'data' stands there twice in line 2, column 1"),
        ("a: &x [1]\nb: *x\n", "aliases are not supported"),
        ("a: !!python/object/apply:os.system ['true']\n", "is no valid YAML: could not determine a constructor"),
        ("a: " + "[" * 1000, "is no valid YAML"),
        ("a: 1\n---\nb: 2\n", "is no valid YAML: .* another document"),
        (b"\xff\xfe\x00\x01", "is no text in UTF-8: byte 0 is 0xff"),
        ("data: digits\n", "study file 'study.yaml': epsilon is missing"),
        (STUDY + "epochs: many\n", "study file 'study.yaml': epochs must be a whole number, got 'many'"),
        (STUDY + "epoch: 3\n", "study file 'study.yaml': epoch is unknown; did you mean 'epochs'"),
        (STUDY + "1: 3\n", "study file 'study.yaml': 1 is unknown"),
        (STUDY + "space: {sparsity: 1}\n", r"study file 'study.yaml': space\.sparsity must be at least 0 and below 1"),
    ],
)
def test_unusable_files(content: str | bytes, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(write(content))
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files() -> None:
    with pytest.raises(SpecError, match=r"study file 'absent.yaml' cannot be read: No such file or directory"):
        load_spec("absent.yaml")
    Path("folder").mkdir()
    with pytest.raises(SpecError, match="study file 'folder' cannot be read: Is a directory"):
        load_spec("folder")
    with pytest.raises(SpecError, match=r"study file 'a+' cannot be read: File name too long"):
        load_spec("a" * 300)
    with pytest.raises(SpecError, match="study file '~no-such-user/x' cannot be read: Could not determine home"):
        load_spec("~no-such-user/x")


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(SpecError, match=r"^unknown preset 'digit'; did you mean 'digits'\? \(known: digits, breast-"):
        load_spec("digit")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("trials=5", "trials", 5),
        ("epsilon=1e-3", "epsilon", 1e-3),
        ("epsilon = 5E-2", "epsilon", 0.05),
        ("verification.samples=200", "verification.samples", 200),
        ("verification.samples=null", "verification.samples", None),
        ("ramp.end=.5", "ramp.end", 0.5),
        ("ramp={end: 0.4}", "ramp.end", 0.4),
        ("objectives=[sparsity, macs]", "objectives", ("sparsity", "macs")),
        ("scheduler.kind=none", "scheduler.kind", "none"),
        ("name=on", "name", "on"),
        ("starting_points=[]", "starting_points", ()),
        ("description=", "description", None),
    ],
)
def test_set(override: str, path: str, value: Any) -> None:
    if value is None and path == "description":
        with pytest.raises(SpecError, match="description must be text, got null"):
            load_spec("digits", [override])
        return
    found: Any = load_spec("digits", [override])
    for key in path.split("."):
        found = getattr(found, key)
    assert found == value


def test_set_replaces_a_parameter_whose_name_has_dots() -> None:
    spec = load_spec("digits", ["space.optimizer.learning_rate={low: 1e-4, high: 1e-2, scale: log}"])

    assert spec.space["optimizer.learning_rate"] == Float(low=1e-4, high=1e-2, scale="log")
    assert list(spec.space) == list(load_spec("digits").space)


def test_later_set_wins() -> None:
    assert load_spec("digits", ["trials=5", "trials=6"]).trials == 6


def test_narrowing_a_choice_takes_what_hangs_on_it_along() -> None:
    spec = load_spec("digits", ["space.architecture=mlp", "space.schedule=one-shot"])

    assert "architecture.hidden" in spec.space
    assert "architecture.width" not in spec.space
    assert "schedule.end" not in spec.space
    # What the starting points say of the schedule is gone, what they say of sparsity stays.
    assert [point["sparsity"] for point in spec.starting_points] == [0, 0.8, 0.95, 0.99]
    assert not any(name.startswith("schedule") for point in spec.starting_points for name in point)


def test_narrowing_goes_down_a_chain_of_conditions() -> None:
    study = STUDY + (
        "space:\n"
        "  loss: [a, b]\n"
        "  loss.x: {choices: [1, 2], when: {loss: a}}\n"
        "  loss.y: {low: 0, high: 1, when: {loss.x: 2}}\n"
        "starting_points: [{sparsity: 0.5, loss: a, loss.x: 2, loss.y: 0.5}]\n"
    )
    spec = load_spec(write(study), ["space.loss=b"])

    assert "loss.x" not in spec.space
    assert "loss.y" not in spec.space
    assert [dict(point) for point in spec.starting_points] == [{"sparsity": 0.5}]


def test_narrowing_part_of_a_condition_keeps_the_rest() -> None:
    study = STUDY + "space: {loss: [a, b, c], loss.x: {low: 0, high: 1, when: {loss: [a, b]}}}"
    spec = load_spec(write(study), ["space.loss=[b, c]"])

    assert dict(spec.space["loss.x"].when) == {"loss": ("b",)}


def test_a_fixed_sparsity_drops_the_starting_points_that_are_not_at_it() -> None:
    spec = load_spec("breast-cancer", ["space.sparsity=0.9"])

    assert [dict(point) for point in spec.starting_points] == [{"schedule": "gradual"}]


def test_null_takes_a_parameter_out() -> None:
    spec = load_spec("digits", ["space.loss.kappa_end=null", "space.score=null"])

    assert "loss.kappa_end" not in spec.space
    assert spec.space["score"].contains("magnitude")


def test_null_takes_what_hangs_on_the_parameter_along() -> None:
    spec = load_spec("digits", ["space.architecture=null"])
    # Without a choice of its own the space has the default one, mlp.
    assert "architecture.hidden" in spec.space
    assert "architecture.width" not in spec.space

    study = STUDY + "space: {loss.a: [1, 2], loss.b: {value: 3, when: {loss.a: 1}}}\nstarting_points: [{loss.a: 1}]"
    spec = load_spec(write(study), ["space.loss.a=null"])
    assert "loss.b" not in spec.space
    assert spec.starting_points == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trials", "^--set takes key=value, got 'trials'$"),
        ("=3", "^--set takes key=value, got '=3'$"),
        ("trails=3", "^--set trails: trails is unknown; did you mean 'trials'"),
        ("verificaton.samples=3", "^--set verificaton.samples: verificaton is unknown; did you mean 'verification'"),
        ("trials.x=3", "^--set trials.x: trials has no keys of its own"),
        ("ramp.=3", "^--set ramp.: ramp has no keys"),
        ("trials=[1", r"^--set trials: '\[1' is no valid YAML"),
        ("trials=0", "^preset 'digits' with --set trials=0: trials must be at least 1, got 0$"),
        ("space.sparsity=1", r"space\.sparsity must be at least 0 and below 1"),
        ("space.sparsity={low: 0.9, high: 0.1}", r"space\.sparsity\.high must be above low"),
    ],
)
def test_impossible_sets(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        load_spec("digits", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("010", 10),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("mlp", "mlp"),
        ("my.module:net", "my.module:net"),
        ("'1'", "1"),
        ("-.inf", float("-inf")),
        ("[1e-3, {a: 2}]", [1e-3, {"a": 2}]),
    ],
)
def test_yaml_reads_scalars_as_people_do(text: str, value: Any) -> None:
    parsed = parse_yaml(text)

    assert parsed == value
    assert type(parsed) is type(value)


def test_yaml_nan() -> None:
    assert np.isnan(parse_yaml(".nan"))
