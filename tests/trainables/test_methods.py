"""What is refused before any trial runs, and what leaves a fingerprint."""

import pickle
import re
from dataclasses import Field, fields
from pathlib import Path

import pytest
import yaml

from sparsevlr.spaces import PRESETS, SpecError, StudySpec, TrialConfig, load_spec
from sparsevlr.trainables import check_space
from sparsevlr.trainables.errors import TrialError
from sparsevlr.trainables.methods import FAMILIES as METHODS
from sparsevlr.trainables.methods import Methods, build_method, dense_fingerprint, fingerprint
from sparsevlr.trainables.verification import SoundnessError

FAMILIES = {"architecture": "mlp", "score": "magnitude", "distribution": "global", "schedule": "gradual", "loss": "ibp"}


def study(**space: object) -> StudySpec:
    return StudySpec.from_dict({"data": "digits", "epsilon": 0.1, "space": space})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"score": "magnitud"}, "did you mean 'magnitude'"),
        ({"schedule": "one-shot", "schedule.end": 0.3}, "no such option.*its options are at.*when"),
        ({"schedule": ["one-shot", "gradual"], "schedule.at": 0.1}, "schedule 'gradual' has no such option"),
        ({"loss.kappa_end": {"low": 0.0, "high": 2.0}}, r"kappa_end is a share in \[0, 1\], but is 2"),
        ({"optimizer.learning_rate": 0.0}, "learning_rate must be above 0"),
        (
            {"loss": ["ibp", "taps"], "architecture": "mlp", "architecture.hidden": {"value": [8]}},
            r"loss 'taps' in architecture 'mlp'.* cannot be split .*lower loss.classifier_relus",
        ),
        ({"loss": ["ibp", "pgd"], "regulariser": "nrs"}, "'nrs' reads interval bounds, and loss 'pgd' computes none"),
        ({"loss": "sabr", "loss.subselection": {"low": 0.0, "high": 0.5}}, "subselection must be above 0"),
        ({"architecture": "mlp", "architecture.depth": 3}, "depth"),
        (
            {"pattern": "n-m", "sparsity": 0.4},
            r"sparsity must lie in \[0.5, 0.99\d+\], .*pattern 'n-m' \{'n': 2.*got 0.4",
        ),
        ({"pattern": ["unstructured", "n-m"]}, r"sparsity must lie in .* got 0: move it to 0.5"),
        (
            {"pattern": "n-m", "pattern.n": {"low": 1, "high": 3, "type": "int"}, "pattern.m": 3, "sparsity": 0.9},
            "pattern.n and pattern.m must keep to 1 <= n < m, but are 3 and 3",
        ),
        (
            {"pattern": "block", "pattern.size": 64, "sparsity": 0.99},
            "pattern 'block'.*can reach in architecture 'mlp'",
        ),
        (
            {"pattern": "filter", "sparsity": {"low": 0.5, "high": 0.9995}, "architecture": ["mlp", "cnn-small"]},
            r"sparsity must lie in \[0, 0.99\d+\], which pattern 'filter' can reach in architecture .*, got 0.9995",
        ),
        ({"pattern.n": 2, "sparsity": 0.9}, "pattern 'unstructured' has no such option"),
        ({"score": "snip", "score.batches": 0}, "score.batches must be at least 1"),
        ({"distribution": "layered", "distribution.first": {"low": -3.0, "high": 0.0}}, "log10 multiplier"),
        (
            {"score": "hydra", "schedule": "gradual"},
            r"space.score: 'hydra' is learned.*\(one-shot\), not with 'gradual'",
        ),
        ({"score": ["magnitude", "hydra"], "schedule": "drop-and-grow"}, "not with 'drop-and-grow'"),
        ({"score": "hydra", "schedule": ["one-shot", "iterative"]}, "not with 'iterative'"),
        (
            {"score": "hydra", "schedule": "one-shot", "schedule.at": {"low": 0.0, "high": 0.8}},
            r"space.score.span: 'hydra' learns for 0.2 of training from 0.8 on",
        ),
        ({"regulariser": "nsr"}, "did you mean 'nrs'"),
        ({"regulariser.weight": 0.01}, "regulariser 'none' has no such option"),
        ({"initialisation.masked_fan_in": 1}, "space.initialisation.masked_fan_in must be true or false, but is 1"),
        ({"score": "taylor", "score.batches": 1.5}, "space.score.batches must be a whole number, but is 1.5"),
        ({"loss.kappa_end": "abc"}, "space.loss.kappa_end must be a number, but is 'abc'"),
        ({"loss.kappa_end": True}, "space.loss.kappa_end must be a number, but is True"),
        ({"optimizer.schedule": 1}, "space.optimizer.schedule must be text, but is 1"),
        (
            {"optimizer.schedule": ["drops", "cosine"], "optimizer.first_drop": {"low": 0.5, "high": 0.8}},
            r"optimizer.first_drop is for schedule drops .* cosine, .* `when: \{optimizer.schedule: drops\}`",
        ),
        ({"schedule": "drop-and-grow", "schedule.initial": 0.0}, "schedule.initial is a fraction of the target"),
    ],
)
def test_spaces_with_an_impossible_configuration(space: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_space(study(**space), (1, 8, 8), 10)


OF_METHODS = [
    (family, name, option)
    for family, methods in METHODS.items()
    for name, method in methods.items()
    for option in fields(method)
]


@pytest.mark.parametrize(
    ("family", "name", "option"), OF_METHODS, ids=[f"{family}-{name}-{one.name}" for family, name, one in OF_METHODS]
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_option(
    family: str, name: str, option: Field[object]
) -> None:
    kind = type(option.default)
    wrong = {float: ("1", True, None, [1.0]), int: ("1", True, 1.5), bool: ("yes", 1), str: (1, True, None)}
    for value in wrong.get(kind, (1, ["trial"])):
        with pytest.raises(
            SpecError, match=f"space.{family}.{option.name} must be .*, but is {re.escape(repr(value))}"
        ):
            build_method(family, name, {option.name: value})


def test_the_example_in_the_guide_is_possible() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    (example,) = (text for text in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL) if text.startswith("data:"))
    check_space(StudySpec.from_dict(yaml.safe_load(example)), (1, 8, 8), 10)


SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32), "svhn": (3, 32, 32)}


@pytest.mark.parametrize("name", [name for name in PRESETS if load_spec(name).data in SHAPES])
def test_presets_hold_no_impossible_configuration(name: str) -> None:
    spec = load_spec(name)
    check_space(spec, SHAPES[spec.data], 10)


def test_networks_that_cannot_be_bounded_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_mine.py").write_text(
        "from torch import nn\n"
        "def dropout(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, classes))\n"
        "def gelu(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, message in (("dropout", "Dropout"), ("gelu", "GELU")):
        with pytest.raises(SpecError, match=message):
            check_space(study(architecture=f"networks_of_mine:{name}"), (1, 8, 8), 10, allow_code=True)


def test_a_default_leaves_no_fingerprint_and_anything_else_does() -> None:
    def of(**values: object) -> str:
        plain = FAMILIES | {"optimizer": "adam", "sparsity": 0.5}
        return fingerprint(TrialConfig(trial_id="a", seed=1, values=plain | values), study())

    assert of(**{"schedule.end": 0.3, "loss.kappa_end": 0.5}) == of()
    assert of(**{"schedule.end": 0.31}) != of()
    assert of(sparsity=0.6) != of()
    # Families that came later: a configuration that names them means what one without them has always meant.
    assert of(regulariser="none", initialisation="ibp", **{"initialisation.masked_fan_in": False}) == of()
    assert of() == "041fbff0d497500b"
    assert of(regulariser="nrs") != of()
    assert of(**{"initialisation.masked_fan_in": True}) != of()


def test_a_configuration_from_before_there_were_patterns_is_one_without() -> None:
    plain = FAMILIES | {"optimizer": "adam", "sparsity": 0.5}
    old = TrialConfig(trial_id="a", seed=1, values=plain)
    new = TrialConfig(trial_id="a", seed=1, values=plain | {"pattern": "unstructured"})
    assert Methods.of(old) == Methods.of(new)
    assert fingerprint(old, study()) == fingerprint(new, study()) == old.fingerprint(study().constants())
    blocks = TrialConfig(trial_id="a", seed=1, values=plain | {"pattern": "block"})
    assert fingerprint(blocks, study()) != fingerprint(old, study())
    assert dense_fingerprint(blocks, study()) == dense_fingerprint(old, study())
    sized = TrialConfig(trial_id="a", seed=1, values=plain | {"pattern": "block", "pattern.size": 4})
    assert fingerprint(sized, study()) == fingerprint(blocks, study())


def test_a_layer_without_filters_is_refused_before_any_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grouped_network.py").write_text(
        "from torch import nn\n"
        "def grouped(shape, classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(),\n"
        "                         nn.Linear(64, classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for pattern in ("unstructured", "block"):
        check_space(
            study(architecture="grouped_network:grouped", pattern=pattern, sparsity=0.5), (1, 8, 8), 10, allow_code=True
        )
    with pytest.raises(SpecError, match=r"pattern 'filter': .*grouped convolution .*'grouped_network:grouped'"):
        check_space(
            study(architecture="grouped_network:grouped", pattern="filter", sparsity=0.5),
            (1, 8, 8),
            10,
            allow_code=True,
        )


def test_a_soundness_error_survives_the_way_from_worker_to_driver() -> None:
    error = pickle.loads(pickle.dumps(SoundnessError(3, "ibp")))
    assert isinstance(error, TrialError)
    assert (error.sample, error.stage) == (3, "ibp")
