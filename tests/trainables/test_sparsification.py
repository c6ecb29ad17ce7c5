"""Every way to become sparse, looked at in every step of training."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.datasets import Dataset
from sparsevlr.trainables import Methods
from sparsevlr.trainables.bounds import Graph
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.mask import Mask
from sparsevlr.trainables.optimizers import optimizer_tensors
from sparsevlr.trainables.pruning import SCHEDULES as SCHEDULE_TABLE
from sparsevlr.trainables.pruning import kept_weights
from sparsevlr.trainables.sparsification import Sparsification
from sparsevlr.trainables.training import Training

from .trials import SCHEDULES, config

SPARSE = [name for name in SCHEDULES if name not in ("dense", "regularised")]
ARCHITECTURE_OPTIONS = {name: {"architecture.width": 0.125} for name in ARCHITECTURES} | {
    "mlp": {"architecture.hidden": [12], "architecture.batchnorm": True}
}


@pytest.fixture
def short(spec: StudySpec) -> StudySpec:
    """4 epochs of 4 steps."""
    return StudySpec.from_dict(spec.to_dict() | {"batch_size": 256})


def training_of(one: TrialConfig, spec: StudySpec, data: Dataset) -> Training:
    methods, stage = Methods.of(one), DenseStage.of(one, spec, len(data.train.y))
    return Training(methods, one.target_sparsity, spec, data, one.seed, stage, device=torch.device("cpu"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Training, int], None]], None]:
    """Has a function called after every optimizer step, with the training and the number of the step."""

    def watch(look: Callable[[Training, int], None]) -> None:
        step_of = Training._step

        def step(training: Training, batch: Any, step: int) -> None:
            step_of(training, batch, step)
            look(training, step)

        monkeypatch.setattr(Training, "_step", step)

    return watch


def pruned_state(training: Training) -> dict[str, torch.Tensor]:
    """Weights, and what the optimizer remembers of them, where the mask has pruned."""
    state = dict(training.network.state_dict()) | optimizer_tensors(training._optimizer, training._parameters)
    return {
        key: value[~training.mask[key.rpartition("/")[2]]]
        for key, value in state.items()
        if key.rpartition("/")[2] in training.mask and value.dim()
    }


@pytest.mark.parametrize("schedule", SPARSE)
def test_every_step_has_the_sparsity_that_is_due_and_zeros_where_it_is_pruned(
    short: StudySpec, digits: Dataset, watched: Any, schedule: str
) -> None:
    one = config(schedule)
    methods, target = Methods.of(one), one.target_sparsity
    seen = []

    def at(training: Training, sparsity: float) -> bool:
        missing = kept_weights(training.mask.total, sparsity) - training.mask.kept
        # A neuron has at most 64 weights, and 24 that read it.
        return 0 <= missing < 88 if methods.pattern.whole_units else missing == 0

    def look(training: Training, step: int) -> None:
        assert at(training, methods.schedule.due(step, 16).of(target))
        for values in pruned_state(training).values():
            assert not values.any()
        seen.append(step)

    watched(look)
    training = training_of(one, short, digits)
    training.train_until(4)
    assert seen == list(range(16))
    assert at(training, target)
    # What is remembered for pruning alone is gone in the end.
    assert not training.checkpoint("", 0.0).pruner


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("schedule", ["at-init", "drop-and-grow", "drop-and-grow at random", "iterative", "hydra"])
def test_works_on_every_architecture(short: StudySpec, digits: Dataset, schedule: str, architecture: str) -> None:
    plain = {name: value for name, value in config(schedule).values.items() if not name.startswith("architecture")}
    values = plain | {"architecture": architecture, "regulariser": "nrs"} | ARCHITECTURE_OPTIONS[architecture]
    training = training_of(TrialConfig(trial_id="1", seed=0, values=values), short, digits)
    training.train_until(4)
    assert training.mask.kept == kept_weights(training.mask.total, 0.9)
    assert not any(bool(values.any()) for values in pruned_state(training).values())


SETTLED = {
    "one-shot at 0": 0,
    "one-shot within an epoch": 10,
    "one-shot between epochs": 8,
    "gradual": 8,
    "gradual after a dense stage": 12,
    "dense": 0,
    "at-init": 0,
    "drop-and-grow": 11,
    "drop-and-grow at random": 15,
    "drop-and-grow from a denser network": 13,
    "drop-and-grow of filters": 12,
    "iterative": 11,
    "iterative by whole epochs": 12,
    "hydra": 12,
    "hydra between epochs": 8,
    "regularised": 5,
}
"""The step of 16 whose decision on the mask is the last."""


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_mask_is_settled_after_its_last_change_and_not_before(
    short: StudySpec, digits: Dataset, watched: Any, schedule: str
) -> None:
    one = config(schedule, **({"score.learning_rate": 0.05} if schedule.startswith("hydra") else {}))
    training = training_of(one, short, digits)
    settled = [training._sparsification.settled(step) for step in range(16)]
    assert settled == [step >= SETTLED[schedule] for step in range(16)]
    masks = []
    watched(lambda training, step: masks.append(training.mask))
    training.train_until(4)
    changed = [step for step in range(1, 16) if masks[step] is not masks[step - 1]]
    assert max(changed, default=0) in (SETTLED[schedule], SETTLED[schedule] - schedule.startswith("hydra"))


@pytest.mark.parametrize("schedule", SPARSE)
def test_masks_are_reproducible_from_the_seed(short: StudySpec, digits: Dataset, schedule: str) -> None:
    ends = []
    for _ in range(2):
        training = training_of(config(schedule), short, digits)
        training.train_until(4)
        ends.append(training.mask)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_every_registered_schedule_is_tried() -> None:
    assert {values["schedule"] for values in SCHEDULES.values()} == SCHEDULE_TABLE.keys()


def masks_of(one: TrialConfig, spec: StudySpec, digits: Dataset, watched: Any) -> list[dict[str, torch.Tensor]]:
    masks = []
    watched(lambda training, step: masks.append(dict(training.mask)))
    training_of(one, spec, digits).train_until(spec.epochs)
    return masks


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int((one[name] & ~other[name]).sum()) for name in one}


@pytest.mark.parametrize("grow", ["gradient", "random"])
@pytest.mark.parametrize("distribution", ["erk", "global", "lamp"])
def test_exploration_exchanges_until_its_end_and_then_stops(
    short: StudySpec, digits: Dataset, watched: Any, grow: str, distribution: str
) -> None:
    options = {"distribution": distribution, "schedule.grow": grow, "schedule.updates": 4, "schedule.end": 0.5}
    masks = masks_of(config("drop-and-grow", **{"score": "random"} | options), short, digits, watched)
    changes = [sum(different(one, other).values()) for one, other in itertools.pairwise(masks)]
    # Two steps between updates; the fourth, at half the training, is the end.
    assert [step for step, changed in enumerate(changes, 1) if changed] == [2, 4, 6]
    assert changes[1] > changes[3] > changes[5]
    sizes = [{name: int(kept.sum()) for name, kept in mask.items()} for mask in masks]
    assert len({sum(size.values()) for size in sizes}) == 1
    assert (sizes[-1] == sizes[0]) == (distribution == "erk")


def test_a_sparsity_that_rises_is_exact_at_every_update_and_at_the_end(
    short: StudySpec, digits: Dataset, watched: Any
) -> None:
    one = config(
        "drop-and-grow from a denser network", **{"schedule.updates": 4, "schedule.end": 1.0, "score": "random"}
    )
    masks = masks_of(one, short, digits, watched)
    steps, total = len(masks), sum(kept.numel() for kept in masks[0].values())
    target = one.values["sparsity"]
    for step, mask in enumerate(masks):
        due = 1 - 0.4 * (1 - step * 4 // steps / 4) ** 3
        assert sum(int(kept.sum()) for kept in mask.values()) == round((1 - target * due) * total)
    training = training_of(one, short, digits)
    training.train_until(short.epochs)
    assert training.mask.kept == round((1 - target) * total)
    # What is left at the end is not what a random score would leave, but the largest.
    worth = training.network.state_dict()
    assert all(float(worth[name][kept].abs().min()) > 0 for name, kept in training.mask.items())


@pytest.mark.parametrize(
    ("pattern", "distribution", "sparsity"), [("block", "global", 0.7), ("filter", "uniform", 0.9)]
)
def test_the_last_update_grows_nothing_that_no_step_would_train(
    spec: StudySpec, digits: Dataset, pattern: str, distribution: str, sparsity: float
) -> None:
    schedule = {"schedule": "drop-and-grow", "schedule.initial": 0.5, "schedule.updates": 5, "schedule.end": 1.0}
    options = {"pattern": pattern, "distribution": distribution, "sparsity": sparsity}
    size = {"pattern.size": 4} if pattern == "block" else {}
    spec = StudySpec.from_dict(spec.to_dict() | {"ramp": {"start": 0.0, "end": 1.0}})
    training = training_of(config(**schedule | options | size), spec, digits)
    training._train_epochs(spec.epochs, lambda: False)
    before = training.mask
    training.train_until(spec.epochs)
    # Groups do not add up to what is asked for: there is room that stays free.
    assert training.mask.kept < before.kept
    assert not any(different(dict(training.mask), dict(before)).values())


@pytest.mark.parametrize(("at", "span", "learning"), [(0.5, 0.001, 1), (0.51, 0.48, None)])
def test_scores_are_learned_for_a_step_and_weights_finetuned_for_one_at_least(
    spec: StudySpec, digits: Dataset, at: float, span: float, learning: int | None
) -> None:
    one = config("hydra", **{"schedule.at": at, "score.span": span})
    training = training_of(one, StudySpec.from_dict(spec.to_dict() | {"batch_size": 539}), digits)
    steps = training._steps.total
    assert steps == 8
    found = training._sparsification._learning_steps
    assert len(found) == (learning or 2)
    assert found.stop < steps


def test_the_order_of_layers_in_a_file_decides_nothing(short: StudySpec, digits: Dataset) -> None:
    one = config("drop-and-grow", **{"distribution": "lamp", "loss": "sabr", "loss.attack_steps": 2})
    first = training_of(one, short, digits)
    first.train_until(1)
    kept, ends = first.checkpoint("key", 0.0), []
    for mask in (kept.mask, Mask(dict(list(kept.mask.items())[::-1]))):
        training = training_of(one, short, digits)
        moments = {name: value.clone() for name, value in kept.optimizer.items()}
        training.restore(replace(kept, mask=mask, optimizer=moments), "key")
        assert list(training.mask) == list(first.mask)
        training.train_until(short.epochs)
        ends.append(training.mask)
    assert not any(different(dict(ends[0]), dict(ends[1])).values())


def test_random_growth_differs_from_gradient_growth(
    short: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch, watched: Any
) -> None:
    ends = []
    for grow in ("gradient", "random"):
        with monkeypatch.context() as patched:
            masks: list[dict[str, torch.Tensor]] = []
            step_of = Training._step

            def step(training: Training, batch: Any, step: int, of: Any = step_of, seen: Any = masks) -> None:
                of(training, batch, step)
                seen.append(dict(training.mask))

            patched.setattr(Training, "_step", step)
            training_of(config("drop-and-grow", **{"schedule.grow": grow}), short, digits).train_until(2)
        ends.append(masks)
    assert not any(different(ends[0][0], ends[1][0]).values())
    assert any(different(ends[0][-1], ends[1][-1]).values())


def test_growing_leaves_batchnorm_statistics_and_the_rest_of_the_network_alone(
    short: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config("drop-and-grow", **{"architecture.batchnorm": True, "schedule.updates": 4, "schedule.end": 0.5})
    before_step, seen = Sparsification.before_step, []

    def watch(sparsification: Sparsification, step: int, ramp: float) -> None:
        network, mask = sparsification._network, sparsification.mask
        before = {name: value.clone() for name, value in network.state_dict().items()}
        before_step(sparsification, step, ramp)
        if sparsification.mask is mask:
            return
        seen.append(step)
        for name, value in network.state_dict().items():
            stays = mask[name] & sparsification.mask[name] if name in mask else torch.ones_like(value, dtype=torch.bool)
            assert torch.equal(value[stays], before[name][stays])
            assert not value[~stays].any()

    monkeypatch.setattr(Sparsification, "before_step", watch)
    training = training_of(one, short, digits)
    training.train_until(4)
    assert seen == [0, 2, 4, 6]


@pytest.mark.parametrize("rewind_to", [0.0, 0.5])
def test_rounds_rewind_to_exactly_what_was_kept(
    short: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch, rewind_to: float
) -> None:
    values = {"schedule.rounds": 4, "schedule.rewind_to": rewind_to, "architecture.batchnorm": True}
    before_step, rewound = Sparsification.before_step, []
    states: dict[int, dict[str, torch.Tensor]] = {}

    def watch(sparsification: Sparsification, step: int, ramp: float) -> None:
        network = sparsification._network
        states[step] = {name: value.clone() for name, value in network.state_dict().items()}
        before_step(sparsification, step, ramp)
        if sparsification._methods.schedule.due(step, 16).rewind:
            rewound.append(step)
            assert not sparsification._optimizer.state
            for name, value in network.state_dict().items():
                kept = sparsification.mask.get(name, torch.ones_like(value, dtype=torch.bool))
                assert torch.equal(value, states[int(rewind_to * 4)][name].masked_fill(~kept, 0))

    monkeypatch.setattr(Sparsification, "before_step", watch)
    training = training_of(config("iterative", **values), short, digits)
    initial = {name: value.clone() for name, value in training.network.state_dict().items()}
    training.train_until(4)
    assert rewound == [4, 8, 12]
    assert all(torch.equal(states[0][name], value) for name, value in initial.items())


def test_what_is_scored_at_the_end_of_a_round_is_what_it_has_trained(short: StudySpec, digits: Dataset) -> None:
    one = config("iterative", **{"schedule.rounds": 4})
    training = training_of(one, short, digits)
    training.train_until(1)
    assert training.mask.sparsity == 0
    # The round's own ramp has come to its end at half of it.
    assert training.ramp == 1
    training.train_until(2)
    assert training.mask.kept == kept_weights(training.mask.total, 1 - 0.1 ** (1 / 3))


def test_scores_are_learned_while_the_weights_stand_still(short: StudySpec, digits: Dataset, watched: Any) -> None:
    states, masks, batches = [], [], []

    def look(training: Training, step: int) -> None:
        states.append({name: value.clone() for name, value in training.network.state_dict().items()})
        masks.append(training.mask)
        batches.append(bool(training.checkpoint("", 0.0).pruner))

    watched(look)
    one = config("hydra", **{"schedule.at": 0.25, "score.learning_rate": 0.05, "architecture.batchnorm": True})
    training = training_of(one, short, digits)
    training.train_until(4)
    learned = range(4, 12)
    assert [step for step, learns in enumerate(batches) if learns] == list(learned)
    dense = states[3]
    for step in learned:
        for name, value in states[step].items():
            if name in masks[step]:
                assert torch.equal(value, dense[name].masked_fill(~masks[step][name], 0.0))
            elif "running" not in name and "tracked" not in name:
                assert torch.equal(value, dense[name])
    assert any(different(dict(masks[4]), dict(masks[11])).values())
    assert not any(different(dict(masks[11]), dict(masks[15])).values())
    finetuned = training.network.state_dict()
    assert any(not torch.equal(states[11][name], finetuned[name]) for name in masks[15])


@pytest.mark.parametrize("schedule", ["at-init", "drop-and-grow from a denser network"])
def test_what_is_drawn_for_a_random_mask_does_not_follow_from_it(
    short: StudySpec, digits: Dataset, schedule: str
) -> None:
    options = {"initialisation": "ibp", "initialisation.masked_fan_in": True, "score": "random", "sparsity": 0.9}
    one = config(schedule, **options | {"architecture.hidden": [256, 256]})
    training = training_of(one, short, digits)
    training.train_until(0)
    for name, kept in training.mask.items():
        signs = training.network.state_dict()[name][kept].sign()
        # Scores and weights from one stream of numbers are one another's images: the kept ones then share a sign.
        assert abs(float(signs.mean())) < 5 / len(signs) ** 0.5


@pytest.mark.parametrize("schedule", ["at-init", "drop-and-grow", "gradual"])
def test_weights_are_drawn_again_by_the_mask_where_it_is_there_from_the_start(
    short: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    drawn = {}
    for masked in (False, True):
        training = training_of(
            config(schedule, **{"initialisation": "ibp", "initialisation.masked_fan_in": masked}), short, digits
        )
        training._sparsification.before_step(0, 0.0)
        drawn[masked] = (training.mask, training.network.state_dict())
    masks = [mask for mask, _ in drawn.values()]
    assert not any(different(dict(masks[0]), dict(masks[1])).values())
    for name, kept in masks[0].items():
        plain, again = (state[name] for _, state in drawn.values())
        assert torch.equal(plain, again) == (schedule == "gradual")
        assert not again[~kept].any()
        assert bool((again[kept] != 0).all())


@pytest.mark.parametrize("architecture", ["mlp", "cnn-small", "resnet-small"])
def test_filters_that_nothing_reads_are_drawn_anew_without_a_change_of_the_outputs(
    short: StudySpec, digits: Dataset, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    plain = {name: value for name, value in config("drop-and-grow of filters").values.items()}
    values = {name: value for name, value in plain.items() if not name.startswith("architecture")}
    values |= {"architecture": architecture, "sparsity": 0.5} | (
        {"architecture.hidden": [24, 24]} if architecture == "mlp" else {"architecture.width": 0.125}
    )
    training = training_of(TrialConfig(trial_id="1", seed=0, values=values), short, digits)
    x = torch.from_numpy(digits.train.x[:20])
    woken = []
    wake = Sparsification._wake

    def watched_wake(self: Sparsification, step: int, graph: Graph) -> None:
        network = training.network.eval()
        before, outputs = {name: value.clone() for name, value in network.state_dict().items()}, network(x)
        wake(self, step, graph)
        assert torch.equal(network(x), outputs)
        for name, kept in self.mask.items():
            changed = network.state_dict()[name] != before[name]
            # Whole filters that had no weight, and nothing else.
            assert not changed[kept].any()
            assert not changed[kept.flatten(1).any(1)].any()
            woken.append(int(changed.flatten(1).all(1).sum()))
        training.network.train()

    monkeypatch.setattr(Sparsification, "_wake", watched_wake)
    training.train_until(4)
    assert sum(woken) > 10
    assert not any(bool(values.any()) for values in pruned_state(training).values())
