"""What every registered loss owes, on every architecture and in a whole training."""

import copy
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsevlr.spaces import StudySpec, TrialConfig
from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.spaces.datasets import Dataset, load_dataset
from sparsevlr.trainables.bounds import NORMS, Norm, Region, input_region, interval_bounds, settle, trace
from sparsevlr.trainables.certified_training import LOSSES, Batch, CertifiedLoss
from sparsevlr.trainables.dense_stage import DenseStage
from sparsevlr.trainables.errors import Diverged
from sparsevlr.trainables.methods import Methods
from sparsevlr.trainables.training import Training

CHEAP = {"attack_steps": 2, "latent_steps": 2}
WORKS_ON = [(loss, architecture) for loss in LOSSES for architecture in ARCHITECTURES]
BY_NORM = [
    *((*pair, "linf") for pair in WORKS_ON),
    *((loss, name, "l2") for loss in LOSSES for name in ("mlp", "cnn-small")),
    *((loss, "max-pooling", norm) for loss in LOSSES for norm in NORMS),
]


def cheap(name: str) -> CertifiedLoss:
    known = {field.name for field in fields(LOSSES[name])}
    return LOSSES[name](**{option: value for option, value in CHEAP.items() if option in known})


def network(architecture: str) -> nn.Sequential:
    torch.manual_seed(0)
    if architecture == "max-pooling":
        convolution = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.MaxPool2d(2)
        head = nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)
        return nn.Sequential(*convolution, *head).double().train()
    known = {field.name for field in fields(ARCHITECTURES[architecture])}
    small = {"width": 0.1, "hidden": (8, 6), "batchnorm": True}
    options = {option: value for option, value in small.items() if option in known}
    return ARCHITECTURES[architecture](**options).build((1, 6, 6), 3).double().train()


def batch(epsilon: float, *, norm: Norm = "linf", boxes: dict[int, Region] | None = None, ramp: float = 0.5) -> Batch:
    drawn = torch.Generator().manual_seed(1)
    x = torch.rand(6, 1, 6, 6, dtype=torch.float64, generator=drawn)
    factors = torch.rand(1, 6, 6, dtype=torch.float64, generator=drawn)
    region = input_region(x, epsilon * factors, 0.0, 1.0, norm=norm)
    return Batch(x, torch.tensor([0, 1, 2, 0, 1, 2]), region, ramp, boxes, low=0.0, high=1.0, seed=5)


def single(batch: Batch) -> Batch:
    centre, radius = (values.float() for values in batch.region[:2])
    return replace(batch, x=batch.x.float(), region=batch.region._replace(centre=centre, radius=radius))


@pytest.mark.parametrize(("name", "architecture", "norm"), BY_NORM)
def test_at_epsilon_0_it_is_plain_cross_entropy(name: str, architecture: str, norm: Norm) -> None:
    net = network(architecture)
    expected = F.cross_entropy(copy.deepcopy(net)(batch(0.0).x), batch(0.0).y).item()
    for ramp in (0.0, 0.5):
        value = cheap(name).loss(trace(net, (1, 6, 6)), batch(0.0, norm=norm, ramp=ramp)).item()
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "architecture", "norm"), BY_NORM)
def test_it_is_deterministic_and_leaves_everything_but_running_statistics(
    name: str, architecture: str, norm: Norm
) -> None:
    net, data = network(architecture), batch(0.02, norm=norm)
    graph, loss, natural = trace(net, (1, 6, 6)), cheap(name), copy.deepcopy(net)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    value = loss.loss(graph, data)
    gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)
    net.load_state_dict(before)
    assert loss.loss(graph, data).item() == value.item()
    assert value.isfinite()
    assert torch.equal(torch.get_rng_state(), state)
    # Statistics have moved as one natural pass moves them.
    natural(data.x)
    for key, value in natural.state_dict().items():
        assert torch.allclose(net.state_dict()[key], value, atol=1e-12), key
    assert net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool(gradient.any()) for gradient in gradients if gradient.dim() > 1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("architecture", ["mlp", "resnet-small"])
@pytest.mark.parametrize("norm", NORMS)
def test_it_leaves_the_interval_bounds_of_the_box_or_of_a_part_of_it(name: str, architecture: str, norm: Norm) -> None:
    boxes: dict[int, Region] = {}
    data = batch(0.05, norm=norm, boxes=boxes)
    graph, loss = trace(network(architecture), (1, 6, 6)), cheap(name)
    loss.loss(graph, data)
    assert boxes.keys() == (set(range(len(graph.nodes) - 1)) if loss.leaves_boxes else set())
    bounds = interval_bounds(settle(graph, data.x), data.region)
    for index, seen in boxes.items():
        # A loss over a part of the box leaves smaller ones.
        assert bool((seen.lower >= bounds[index].lower - 1e-9).all())
        assert bool((seen.upper <= bounds[index].upper + 1e-9).all())
        assert bool((seen.radius > 0).any())


@pytest.mark.parametrize(("name", "architecture", "norm"), BY_NORM)
def test_in_bfloat16_it_is_near_what_it_is_in_float32_and_no_bounds_cross(
    name: str, architecture: str, norm: Norm
) -> None:
    loss, found = cheap(name), []
    for reduced in (False, True):
        net, boxes = network(architecture).float(), dict[int, Region]()
        data = single(batch(0.05, norm=norm, boxes=boxes))
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            value = loss.loss(trace(net, (1, 6, 6)), data)
        assert value.dtype == torch.float32
        gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert all(bool((box.radius >= 0).all() and (box.lower <= box.upper).all()) for box in boxes.values())
        found.append((value.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    (exact, exactly), (near, nearly) = found
    assert near == pytest.approx(exact, rel=0.02)
    # Attacks may take another corner of the box by a rounding error.
    assert F.cosine_similarity(exactly, nearly, dim=0) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_the_seed_decides_the_attack_and_nothing_else(name: str) -> None:
    graph, data = trace(network("mlp"), (1, 6, 6)), batch(0.2)
    other = Batch(data.x, data.y, data.region, data.ramp, low=0.0, high=1.0, seed=6)
    known = {field.name for field in fields(LOSSES[name])}
    values = [cheap(name).loss(graph, each).item() for each in (data, other)]
    assert (values[0] != values[1]) == bool(known & {"attack_steps", "latent_steps"})


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_weight_gives_no_finite_loss(name: str, value: float) -> None:
    net = network("mlp")
    with torch.no_grad():
        net[-1].weight[0, 0] = value
    assert not cheap(name).loss(trace(net, (1, 6, 6)), batch(0.1)).isfinite()


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


SPEC = StudySpec.from_dict({"data": "digits", "epsilon": 0.05, "epochs": 2, "ramp": {"start": 0.0, "end": 0.5}})


def training(name: str, digits: Dataset, spec: StudySpec = SPEC, **options: object) -> Training:
    known = {field.name for field in fields(LOSSES[name])}
    values: dict[str, object] = {
        "architecture": "mlp",
        "architecture.hidden": [12, 10],
        "architecture.batchnorm": True,
        "sparsity": 0.7,
        "score": "magnitude",
        "distribution": "global",
        "schedule": "gradual",
        "schedule.end": 0.75,
        "optimizer": "adam",
        "loss": name,
    }
    if "batchnorm" not in {field.name for field in fields(ARCHITECTURES["mlp"])}:
        del values["architecture.batchnorm"]
    values |= {f"loss.{option}": value for option, value in CHEAP.items() if option in known}
    given = {name: value for name, value in (values | options).items() if value is not None}
    config = TrialConfig(trial_id="a", seed=4, values=given)
    stage = DenseStage.of(config, spec, len(digits.train.y))
    return Training(Methods.of(config), 0.7, spec, digits, 4, stage, device=torch.device("cpu"))


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_resumes_bit_for_bit_and_keeps_pruned_weights_at_zero(name: str, digits: Dataset) -> None:
    whole, first, second = (training(name, digits) for _ in range(3))
    whole.train_until(2)
    first.train_until(1)
    assert 0 < first.mask.sparsity < 0.7
    torch.manual_seed(torch.seed() % 1000)
    second.restore(first.checkpoint("key", 0.0), "key")
    second.train_until(2)
    assert whole.mask.sparsity == pytest.approx(0.7, abs=0.01)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    for key, kept in whole.mask.items():
        assert not whole.network.get_parameter(key)[~kept].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_that_explodes_says_so(name: str, digits: Dataset) -> None:
    with pytest.raises(Diverged, match="learning_rate"):
        training(name, digits, **{"optimizer.learning_rate": 1e30}).train_until(2)


@pytest.mark.parametrize(("value", "norm"), [(torch.nan, "nan"), (1e30, "inf")])
@pytest.mark.parametrize(
    "pruning", [{}, {"score": "hydra", "schedule": "one-shot", "schedule.at": 0.0, "schedule.end": None}]
)
def test_a_gradient_that_explodes_says_so(value: float, norm: str, pruning: dict[str, object], digits: Dataset) -> None:
    one = training("ibp", digits, **pruning)
    weight = next(iter(one.network.parameters()))
    weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), value))
    with pytest.raises(Diverged, match=f"the norm of the gradient became {norm} in epoch 1 .*learning_rate"):
        one.train_until(1)


def test_the_box_that_is_trained_on_is_a_multiple_of_epsilon(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    loss: Callable[..., torch.Tensor] = LOSSES["ibp"].loss
    monkeypatch.setattr(
        LOSSES["ibp"], "loss", lambda self, graph, batch: seen.append(batch) or loss(self, graph, batch)
    )
    for factor in (1.0, 1.5):
        training("ibp", digits, **{"loss.epsilon_factor": factor}).train_until(2)
    plain, wide = seen[len(seen) // 2 - 1], seen[-1]
    assert plain.ramp == wide.ramp == 1.0
    assert plain.region.radius.max().item() == pytest.approx(0.05)
    assert wide.region.radius.max().item() == pytest.approx(0.075)
    assert len({batch.seed for batch in seen}) == len(seen) // 2


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "sabr", "mtl-ibp", "staps", "pgd"])
def test_training_by_l2_lowers_the_certified_loss(name: str, digits: Dataset) -> None:
    spec = StudySpec.from_dict(SPEC.to_dict() | {"norm": "l2", "epsilon": 0.1, "epochs": 10})
    losses = []
    for epochs in (0, 10):
        one = training(name, digits, spec, **{"optimizer.learning_rate": 0.01})
        if epochs:
            one.train_until(epochs)
        some = one.batch(range(200))
        balls = replace(some, region=one.region(some.x, 0.1), ramp=1.0)
        one.network.eval()
        losses.append(LOSSES["ibp"](kappa_start=0.0).loss(one.graph, balls).item())
    assert losses[1] < losses[0]


def test_a_feature_of_scale_0_is_held_in_training(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    loss: Callable[..., torch.Tensor] = LOSSES["mtl-ibp"].loss
    monkeypatch.setattr(
        LOSSES["mtl-ibp"], "loss", lambda self, graph, batch: seen.append(batch) or loss(self, graph, batch)
    )
    scale = torch.ones(1, 8, 8)
    scale[:, 2], scale[:, :, 5] = 0.0, 2.0
    scaled = StudySpec.from_dict(SPEC.to_dict() | {"epsilon_scale": scale.tolist()})
    training("mtl-ibp", digits, scaled, **{"loss.epsilon_factor": 2.0}).train_until(2)
    batch = seen[-1]
    expected = input_region(batch.x, 0.05 * 2.0 * scale, 0.0, 1.0)
    assert all(torch.equal(*pair) for pair in zip(batch.region, expected, strict=True))
    wide = batch.widened(2.0)
    held = (scale == 0).expand_as(batch.x)
    assert bool(held.any())
    assert torch.equal(wide.lower[held], batch.x[held])
    assert torch.equal(wide.upper[held], batch.x[held])


@pytest.mark.parametrize("name", LOSSES)
def test_documented(name: str) -> None:
    kind = LOSSES[name]
    assert kind.description.startswith("loss: ")
    documented = "".join(parent.__doc__ or "" for parent in kind.__mro__)
    for field in fields(kind):
        assert field.name in documented, f"{kind.__name__} does not say what {field.name} is"
