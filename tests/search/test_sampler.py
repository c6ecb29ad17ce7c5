import itertools

import numpy as np
import pytest

from sparsevlr.search.sampler import Sampler
from sparsevlr.spaces import StudySpec

SPACE = {
    "architecture": ["mlp", "cnn-small"],
    "architecture.hidden": {"choices": [[16], [32, 32]], "when": {"architecture": "mlp"}},
    "sparsity": {"low": 0.0, "high": 0.995, "scale": "log-complement"},
    "schedule": ["one-shot", "gradual"],
    "schedule.at": {"low": 0.0, "high": 0.4, "when": {"schedule": "one-shot"}},
    "optimizer.learning_rate": {"low": 1e-3, "high": 1e-2, "scale": "log"},
}

# The Gaussian process takes most of a second for each question after its tenth.
NUMBERS = {"tpe": range(40), "nsga2": range(40), "gp": range(14), "random": range(40)}


def spec(sampler: str = "tpe", **changes: object) -> StudySpec:
    content = {"data": "digits", "epsilon": 0.05, "space": SPACE, "sampler": sampler, "seed": 4}
    return StudySpec.from_dict(content | changes)


def asked(sampler: Sampler, numbers: range) -> list[dict[str, object]]:
    """Ask and answer, worse where sparser, every fifth one stopped, every seventh failed."""
    configs = []
    for number in numbers:
        config = sampler.ask(number)
        sparsity = config.target_sparsity
        if number % 7 == 6:
            sampler.tell(config.trial_id, None)
        elif number % 5 == 4:
            sampler.tell(config.trial_id, None, stopped=True)
        else:
            sampler.tell(config.trial_id, [1 - sparsity**3, sparsity])
        configs.append({"seed": config.seed, **config.values})
    return configs


@pytest.mark.parametrize("sampler", NUMBERS)
def test_the_same_answers_lead_to_the_same_questions(sampler: str) -> None:
    first, second = (asked(Sampler(spec(sampler)), NUMBERS[sampler]) for _ in range(2))
    assert first == second
    other = asked(Sampler(spec(sampler, seed=5)), NUMBERS[sampler])
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("sampler", NUMBERS)
def test_conditional_parameters_stay_together(sampler: str) -> None:
    for values in asked(Sampler(spec(sampler)), NUMBERS[sampler]):
        assert ("architecture.hidden" in values) == (values["architecture"] == "mlp")
        assert ("schedule.at" in values) == (values["schedule"] == "one-shot")
        if "architecture.hidden" in values:
            assert values["architecture.hidden"] in [(16,), (32, 32)]


@pytest.mark.parametrize("seed", range(5))
def test_sparsity_covers_its_whole_range_whatever_the_model_likes(seed: int) -> None:
    sparsities = [values["sparsity"] for values in asked(Sampler(spec("tpe", seed=seed)), range(24))]
    density = np.log10(1 - np.array(sparsities, dtype=float))
    edges = np.linspace(np.log10(0.005), 0, 9)
    assert np.histogram(density, edges)[0].min() >= 1


def test_starting_points_come_first_and_what_they_leave_open_is_drawn() -> None:
    points = [
        {"sparsity": 0.95, "schedule": "one-shot", "schedule.at": 0.1},
        {"architecture": "mlp", "architecture.hidden": [32, 32]},
    ]
    first, second = itertools.islice(asked(Sampler(spec(starting_points=points)), range(2)), 2)
    assert first["sparsity"] == pytest.approx(0.95)
    assert (first["schedule"], first["schedule.at"]) == ("one-shot", pytest.approx(0.1))
    assert (second["architecture"], second["architecture.hidden"]) == ("mlp", (32, 32))
    assert {"optimizer.learning_rate", "schedule"} <= first.keys() & second.keys()


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_a_model_goes_by_the_few_that_are_over_while_most_wait_for_promotion(kind: str) -> None:
    def eleventh(best: int | None) -> dict[str, object]:
        sampler = Sampler(spec(kind))
        trials = [sampler.ask(number).trial_id for number in range(10)]
        for number in () if best is None else (0, 1, 2, 3):
            sampler.tell(trials[number], [0.9 if number == best else 0.1, 0.5])
        return dict(sampler.ask(10).values)

    assert eleventh(0) == eleventh(0) != eleventh(3)
    # Nothing is known yet: that is no error.
    assert eleventh(None)
