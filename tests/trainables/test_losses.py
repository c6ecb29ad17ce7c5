"""Values and gradients of the losses, on networks small enough to know them otherwise."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevlr.spaces.architectures.layers import Residual
from sparsevlr.trainables.bounds import (
    Box,
    Graph,
    crown_ibp_margins,
    forward,
    input_box,
    input_region,
    margin_lower_bounds,
    natural_and_interval,
    trace,
)
from sparsevlr.trainables.certified_training import LOSSES, SABR, STAPS, TAPS, Batch, latent
from sparsevlr.trainables.certified_training.geometric import geometric_mean
from sparsevlr.trainables.certified_training.interval_loss import interval_margins, margin_cross_entropy
from sparsevlr.trainables.verification import Pgd, auto_lirpa

VARIANTS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in LOSSES),
    ("ibp", {"kappa_end": 0.0}),
    ("crown-ibp", {"fusion": False}),
    ("crown-ibp", {"beta_end": 0.5, "kappa_start": 0.0}),
    ("crown-ibp", {"beta_end": 1.0, "fusion": False}),
    *((name, {"alpha": 0.4, "attack_epsilon": 1.5}) for name in ("mtl-ibp", "cc-ibp", "exp-ibp")),
]
EXPRESSIVE = ("mtl-ibp", "cc-ibp", "exp-ibp")


def small(*, batchnorm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(6)] if batchnorm else []
    return nn.Sequential(
        nn.Linear(4, 6), *norm, nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()  # fmt: skip


def batch(
    epsilon: float,
    ramp: float = 1.0,
) -> Batch:
    x = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.tensor([0, 1, 2, 0, 1]), input_box(x, epsilon, 0.0, 1.0), ramp, low=0.0, high=1.0, seed=3)


def ibp(graph: Graph, data: Batch) -> float:
    return LOSSES["ibp"](kappa_start=0.0).loss(graph, data).item()


class Held:
    """Attacks that find, whatever the weights, what they found when they were first asked; so do latent points."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ascend, self._found, self._turn = Pgd.ascend, [], 0
        self._boxes: list[Box] = []

        def held(pgd: Pgd, objective: Callable[[Tensor], Tensor], box: Box, start: Tensor) -> Tensor:
            self._turn += 1
            if self._turn > len(self._found):
                self._found.append(ascend(pgd, objective, box, start))
            return self._found[self._turn - 1]

        def carried(points: Tensor, box: Box, threshold: float) -> Tensor:
            if not self._boxes:
                self._boxes.append(Box(box.centre.detach(), box.radius.detach()))
            (was,) = self._boxes
            share = (points - was.lower) / (was.upper - was.lower)
            by_lower = torch.where(was.radius > 0, 1 - share / threshold, 0.5).clamp_min(0)
            by_upper = torch.where(was.radius > 0, 1 - (1 - share) / threshold, 0.5).clamp_min(0)
            return points + by_lower * (box.lower - was.lower) + by_upper * (box.upper - was.upper)

        monkeypatch.setattr(Pgd, "ascend", held)
        self._carried, self._monkeypatch = carried, monkeypatch

    def again(self) -> None:
        """The next loss asks for the first attack; from now on latent points move from where they first were."""
        self._turn = 0
        self._monkeypatch.setattr(latent, "carried", self._carried)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("ramp", [0.3, 1.0])
def test_gradients_agree_with_finite_differences(
    name: str, options: dict[str, object], ramp: float, batchnorm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = small(batchnorm=batchnorm), batch(0.07, ramp)
    graph, loss, held = trace(net, (4,)), LOSSES[name](**options), Held(monkeypatch)
    parameters = list(net.parameters())
    analytic = torch.autograd.grad(loss.loss(graph, data), parameters)
    held.again()
    loss.loss(graph, data)

    def value() -> float:
        held.again()
        with torch.no_grad():
            return loss.loss(graph, data).item()

    for parameter, gradient in zip(parameters, analytic, strict=True):
        flat = parameter.data.view(-1)
        for position in range(0, flat.numel(), 4):
            kept, ends = flat[position].item(), []
            for step in (1e-6, -1e-6):
                flat[position] = kept + step
                ends.append(value())
            flat[position] = kept
            numeric = (ends[0] - ends[1]) / 2e-6
            assert gradient.view(-1)[position].item() == pytest.approx(numeric, abs=1e-7, rel=1e-4)


def attacked(graph: Graph, data: Batch) -> float:
    return LOSSES["pgd"](attack_steps=20).loss(graph, data).item()


@pytest.mark.parametrize("name", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("fusion", [True, False])
def test_certified_losses_exceed_the_loss_at_every_point_of_the_box(name: str, fusion: bool) -> None:
    net, data = small(), batch(0.15)
    graph = trace(net, (4,))
    options = {"fusion": fusion, "beta_end": 1.0} if name == "crown-ibp" else {}
    robust = LOSSES[name](kappa_start=0.0, **options).loss(graph, data).item()
    natural = F.cross_entropy(net(data.x), data.y).item()
    assert robust > attacked(graph, data) > natural
    for signs in itertools.product((-1, 0, 1), repeat=4):
        points = data.region.centre + torch.tensor(signs) * data.region.radius
        assert F.cross_entropy(net(points), data.y).item() <= robust


@pytest.mark.parametrize("name", EXPRESSIVE)
def test_expressive_losses_lead_from_the_attack_to_the_interval_bounds(name: str) -> None:
    graph, data = trace(small(), (4,)), batch(0.1)
    values = [LOSSES[name](alpha=alpha).loss(graph, data).item() for alpha in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert values[0] == pytest.approx(LOSSES["pgd"]().loss(graph, data).item(), rel=1e-12)
    assert values[-1] == pytest.approx(ibp(graph, data), rel=1e-12)
    assert values == sorted(values)
    assert values[0] < values[2] < values[-1]
    wider = LOSSES[name](alpha=0.0, attack_epsilon=2.0).loss(graph, data).item()
    assert wider == pytest.approx(LOSSES["pgd"]().loss(graph, batch(0.2)).item(), rel=1e-6)


def test_expressive_losses_by_hand() -> None:
    adversarial, interval = (torch.tensor([[0.0, value]], dtype=torch.float64) for value in (2.0, -1.0))
    label = torch.tensor([0])
    low, high = math.log1p(math.exp(-2.0)), math.log1p(math.exp(1.0))
    expected = {
        "mtl-ibp": 0.75 * low + 0.25 * high,
        "cc-ibp": math.log1p(math.exp(-(0.75 * 2.0 - 0.25 * 1.0))),
        "exp-ibp": low**0.75 * high**0.25,
    }
    for name, value in expected.items():
        assert LOSSES[name](alpha=0.25).combined(adversarial, interval, label).item() == pytest.approx(value)


def test_a_loss_that_underflows_has_a_geometric_mean_with_a_gradient() -> None:
    first = torch.tensor([0.0, 1.0], requires_grad=True)
    second = torch.tensor([2.0, 4.0], requires_grad=True)
    value = geometric_mean(first, second, 0.5)
    assert value.tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
    value.sum().backward()
    assert first.grad.tolist() == pytest.approx([0.0, 1.0])
    assert second.grad.tolist() == pytest.approx([0.0, 0.25], abs=1e-12)


def widened_box(low: float, high: float) -> tuple[Batch, Box]:
    x = torch.tensor([[0.1, 0.5, 0.95]], dtype=torch.float64)
    data = Batch(x, torch.tensor([0]), input_box(x, 0.2, low, high), 1.0, low=low, high=high)
    return data, data.widened(2.0)


def test_widened_boxes_are_those_of_a_larger_epsilon() -> None:
    for low, high in ((0.0, 1.0), (0.05, 0.97), (-1.0, 2.0)):
        data, wide = widened_box(low, high)
        expected = input_box(data.x, 0.4, low, high)
        assert torch.allclose(wide.lower, expected.lower, atol=1e-12)
        assert torch.allclose(wide.upper, expected.upper, atol=1e-12)
        assert torch.equal(data.widened(1.0).centre, data.region.centre)


@pytest.mark.parametrize("fusion", [True, False])
def test_crown_ibp_over_a_ball_exceeds_the_loss_within_it(fusion: bool) -> None:
    net, data = small(), batch(0.0)
    data = replace(data, region=input_region(data.x, 0.2, 0.0, 1.0, norm="l2"))
    graph = trace(net, (4,))
    fused = LOSSES["crown-ibp"](kappa_start=0.0, fusion=fusion, beta_end=1.0).loss(graph, data).item()
    assert ibp(graph, data) > attacked(graph, data) > F.cross_entropy(net(data.x), data.y).item()
    assert fused > attacked(graph, data)
    boxes = replace(data, region=input_box(data.x, 0.2, 0.0, 1.0))
    assert ibp(graph, data) < ibp(graph, boxes)
    for _ in range(200):
        points = data.region.project(data.x + 0.3 * torch.randn_like(data.x))
        assert F.cross_entropy(net(points), data.y).item() <= fused


@pytest.mark.parametrize("subselection", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("epsilon", [0.05, 0.6])
def test_the_small_box_lies_in_the_large_one_and_in_the_input_range(subselection: float, epsilon: float) -> None:
    graph = trace(small(), (4,))
    x = torch.rand(30, 4, dtype=torch.float64).round(decimals=1)
    features = torch.tensor([epsilon, 0.0, 2 * epsilon, epsilon / 3], dtype=torch.float64)
    box = input_box(x, features, 0.0, 1.0)
    data = Batch(x, torch.arange(30) % 3, box, 1.0, low=0.0, high=1.0)
    found = SABR(subselection=subselection).small_box(graph, data)
    assert bool((found.lower >= box.lower - 1e-12).all() and (found.upper <= box.upper + 1e-12).all())
    assert bool((found.lower >= -1e-12).all() and (found.upper <= 1 + 1e-12).all())
    assert torch.allclose(found.radius, subselection * box.radius)
    # The attack has moved it, to where the loss is larger.
    losses = [F.cross_entropy(forward(graph, points), data.y).item() for points in (found.centre, box.centre)]
    assert losses[0] > losses[1] if subselection < 1 else losses[0] == losses[1]


def test_the_small_box_is_where_an_attack_on_the_whole_box_ends_moved_inwards(monkeypatch: pytest.MonkeyPatch) -> None:
    data, attacked_boxes = batch(0.1), []
    inside = torch.full_like(data.x, 0.25)
    inside[:, 0], inside[:, 1] = 0.9, -1.0

    def ascend(pgd: Pgd, objective: Callable[[Tensor], Tensor], box: Box, start: Tensor) -> Tensor:
        attacked_boxes.append(box)
        return box.centre + inside * box.radius

    monkeypatch.setattr(Pgd, "ascend", ascend)
    found = SABR(subselection=0.4).small_box(trace(small(), (4,)), data)
    (box,) = attacked_boxes
    assert torch.equal(box.centre, data.region.centre)
    assert torch.equal(box.radius, data.region.radius)
    assert torch.allclose(found.centre, data.region.centre + inside.clamp(-0.6, 0.6) * data.region.radius)


def test_sabr_lies_between_the_attack_and_the_interval_bounds() -> None:
    graph, data = trace(small(), (4,)), batch(0.1)
    values = [SABR(subselection=share).loss(graph, data).item() for share in (1e-9, 0.3, 1.0)]
    assert values[0] == pytest.approx(LOSSES["pgd"]().loss(graph, data).item(), rel=1e-6)
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(ibp(graph, data), rel=1e-12)


def test_loss_fusion_agrees_with_all_margins_where_both_are_exact() -> None:
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Linear(4, 2)).double(), batch(0.2)
    data = Batch(data.x, data.y % 2, data.region, 1.0)
    fused, plain = (
        LOSSES["crown-ibp"](kappa_start=0.0, beta_end=1.0, fusion=fusion).loss(trace(net, (4,)), data).item()
        for fusion in (True, False)
    )
    # One wrong class and no ReLU: the chord touches the exponential at the worst point.
    worst = margin_lower_bounds(net[0], data.region, data.y)
    assert fused == pytest.approx(F.cross_entropy(-worst, data.y).item(), rel=1e-12)
    assert plain == pytest.approx(fused, rel=1e-12)


@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
def test_fused_backward_bounds_are_no_looser_than_the_intervals_they_replace(ramp: float) -> None:
    """The chord is at most the exponential at the upper end, and backward bounds of one linear layer are exact."""
    torch.manual_seed(1)
    net, data = nn.Sequential(nn.Linear(4, 3)).double(), batch(0.3, ramp)
    fused = LOSSES["crown-ibp"](kappa_start=0.0, beta_end=1.0).loss(trace(net, (4,)), data).item()
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        signs = torch.randint(0, 2, data.x.shape, generator=generator) * 2 - 1
        assert F.cross_entropy(net(data.region.centre + signs * data.region.radius), data.y).item() <= fused
    assert fused < ibp(trace(net, (4,)), data)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_loss_fusion_survives_bounds_of_every_size(scale: float) -> None:
    net = small().float()
    with torch.no_grad():
        net[-1].weight *= scale
    x = batch(0.2).x.float()
    data = Batch(x, batch(0.2).y, input_box(x, 0.2, 0.0, 1.0), 1.0)
    loss = LOSSES["crown-ibp"](kappa_start=0.0, beta_end=1.0)
    value = loss.loss(trace(net, (4,)), data)
    value.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in net.parameters())
    assert value.item() >= attacked(trace(net, (4,)), data) - 1e-6


def test_dead_neurons_have_finite_gradients() -> None:
    """Bounds of 0 to 0, as every neuron without weights has them: their chord is 0 / 0."""
    net = small()
    with torch.no_grad():
        net[0].weight[2:4], net[0].bias[2:4] = 0.0, 0.0
    for fusion in (True, False):
        loss = LOSSES["crown-ibp"](fusion=fusion).loss(trace(net, (4,)), batch(0.1, 0.5))
        assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(loss, net.parameters()))


def test_beta_mixes_backward_with_interval_bounds() -> None:
    """The sum in the cross entropy is mixed with loss fusion, each margin without."""
    graph, data = trace(small(), (4,)), batch(0.2)
    data = Batch(data.x[:1], data.y[:1], data.region.pick(slice(1)), 1.0)

    def losses(fusion: bool) -> list[float]:
        kinds = (LOSSES["crown-ibp"](kappa_start=0.0, beta_end=beta, fusion=fusion) for beta in (0.0, 0.3, 1.0))
        return [kind.loss(graph, data).item() for kind in kinds]

    interval, mixed, backward = map(math.exp, losses(True))
    assert interval != pytest.approx(backward, rel=1e-3)
    assert mixed == pytest.approx(0.7 * interval + 0.3 * backward, rel=1e-9)
    worst = interval_margins(graph, data.region, data), crown_ibp_margins(graph, data.region, data.y)
    expected = margin_cross_entropy(0.7 * worst[0] + 0.3 * worst[1], data.y).item()
    assert losses(False)[1] == pytest.approx(expected, rel=1e-9)


def test_beta_at_0_is_interval_bound_propagation() -> None:
    graph, data = trace(small(), (4,)), batch(0.1, 1.0)
    for fusion in (True, False):
        assert LOSSES["crown-ibp"](fusion=fusion).loss(graph, data).item() == LOSSES["ibp"]().loss(graph, data).item()
    halfway = LOSSES["crown-ibp"](beta_start=0.8, beta_end=0.4)
    assert [halfway.beta(ramp) for ramp in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 0.6, 0.4])


def test_the_natural_share_is_that_of_kappa() -> None:
    net, data = small(), batch(0.1, 0.5)
    graph = trace(net, (4,))
    natural, robust = F.cross_entropy(net(data.x), data.y).item(), ibp(graph, data)
    loss = LOSSES["ibp"](kappa_start=0.8, kappa_end=0.5)
    assert loss.kappa(0.5) == pytest.approx(0.6)
    assert loss.loss(graph, data).item() == pytest.approx(0.6 * natural + 0.4 * robust, rel=1e-12)


def test_latent_attacks_estimate_from_below_what_intervals_bound_from_above() -> None:
    graph, data = trace(small(), (4,)), batch(0.1)
    boxed = LOSSES["taps"](expansion=1e9).loss(graph, data).item()
    assert attacked(graph, data) < boxed < ibp(graph, data)
    assert LOSSES["taps"](expansion=1e-9).loss(graph, data).item() == pytest.approx(ibp(graph, data), rel=1e-6)
    small_boxed = STAPS(expansion=1e9, subselection=0.5).loss(graph, data).item()
    assert small_boxed < boxed
    assert STAPS(subselection=1.0).loss(graph, data).item() == pytest.approx(TAPS().loss(graph, data).item())


@pytest.mark.parametrize("name", ["taps", "staps"])
def test_latent_attacks_may_begin_along_the_ramp(name: str) -> None:
    graph = trace(small(), (4,))
    for ramp, latent_from, intervals in ((0.5, 1.0, True), (1.0, 1.0, False), (0.5, 0.5, False), (0.5, 0.0, False)):
        found = LOSSES[name](latent_from=latent_from).loss(graph, batch(0.1, ramp)).item()
        other = "sabr" if name == "staps" else "ibp"
        plain = LOSSES[other](**({"kappa_start": 0.0} if other == "ibp" else {})).loss(graph, batch(0.1, ramp)).item()
        assert (found == plain) == intervals


def test_latent_attacks_find_the_corners_of_the_latent_box() -> None:
    """A classifier without unstable ReLUs is linear in the box, so the worst corner is known for every class."""
    net, data = small(), batch(0.05)
    with torch.no_grad():
        net[2].bias += 5.0
    graph = trace(net, (4,))
    assert TAPS().split(graph) == 2
    found = LOSSES["taps"](expansion=1e9, latent_steps=4, latent_step_size=2.0).loss(graph, data).item()
    merged = nn.Linear(6, 3).double()
    with torch.no_grad():
        merged.weight.copy_(net[4].weight @ net[2].weight)
        merged.bias.copy_(net[4].weight @ net[2].bias + net[4].bias)
    _, centre, radius = natural_and_interval(trace(nn.Sequential(net[0], net[1], merged), (4,)), None, *data.region)
    worst = margin_lower_bounds(merged, Box(centre, radius), data.y)
    assert found == pytest.approx(F.cross_entropy(-worst, data.y).item(), rel=1e-6)


def test_latent_points_are_carried_by_the_end_of_the_box_that_they_are_near() -> None:
    lower = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]], requires_grad=True)
    upper = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    box = Box((lower + upper) / 2, (upper - lower) / 2)
    points = torch.tensor([[0.0, 0.25, 0.5, 0.9, 1.0]])
    moved = latent.carried(points, box, 0.5)
    assert torch.equal(moved, points)
    moved.sum().backward()
    assert lower.grad.flatten().tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.5])
    assert upper.grad.flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, 0.8, 0.5])


def test_the_place_of_the_split() -> None:
    def block() -> Residual:
        return Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), nn.Identity())

    plain = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 4),
        nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    graph = trace(plain, (1, 6, 6))
    assert [TAPS(classifier_relus=count).split(graph) for count in (1, 2)] == [6, 2]
    residual = trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), block(), nn.ReLU(), block(), nn.Linear(3, 2)), (3,))
    # One ReLU is inside the second block, which the first part must not reach into.
    assert TAPS().split(residual) == 7
    assert isinstance(residual.nodes[7].layer, nn.ReLU)
    assert TAPS(classifier_relus=2).split(residual) == 2
    with pytest.raises(ValueError, match=r"it has 4 in all|it has 3 in all"):
        TAPS(classifier_relus=4).check(residual)
    with pytest.raises(ValueError, match="it has 1 in all"):
        TAPS().check(trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), (3,)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ibp", {"kappa_end": 1.5}),
        ("ibp", {"epsilon_factor": 0.0}),
        ("ibp", {"epsilon_factor": math.nan}),
        ("crown-ibp", {"beta_start": -0.1}),
        ("sabr", {"subselection": 0.0}),
        ("sabr", {"subselection": 1.1}),
        ("sabr", {"attack_steps": 0}),
        ("taps", {"latent_from": 1.1}),
        ("pgd", {"attack_step_size": 2.5}),
        ("mtl-ibp", {"alpha": 1.01}),
        ("cc-ibp", {"attack_epsilon": 0.9}),
        ("exp-ibp", {"attack_epsilon": math.inf}),
        ("taps", {"classifier_relus": 0}),
        ("taps", {"latent_steps": 0}),
        ("staps", {"threshold": 0.0}),
        ("staps", {"expansion": 0.0}),
        ("staps", {"subselection": 0.0}),
        ("staps", {"latent_step_size": 0.0}),
    ],
)
def test_impossible_options_are_refused_by_name(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{next(iter(options))} .*but is"):
        LOSSES[name](**options)


class Summed(nn.Module):
    """The sum in the cross entropy of one label, its margins merged with the last layer."""

    def __init__(self, net: nn.Sequential, label: int) -> None:
        super().__init__()
        last = net[-1]
        self.body, self.margins = net[:-1], nn.Linear(last.in_features, last.out_features).double()
        with torch.no_grad():
            self.margins.weight.copy_(last.weight - last.weight[label])
            self.margins.bias.copy_(last.bias - last.bias[label])

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.margins(self.body(x))).sum(1, keepdim=True)


def test_loss_fusion_agrees_with_auto_lirpa() -> None:
    net, data = small(), batch(0.2)
    library = auto_lirpa.load()
    loss = LOSSES["crown-ibp"](kappa_start=0.0, beta_end=1.0)
    for sample, label in enumerate(data.y.tolist()):
        here = slice(sample, sample + 1)
        one = Batch(data.x[here], data.y[here], data.region.pick(here), 1.0)
        # In float32, which auto_LiRPA makes some tensors in whatever the network is.
        lower, upper = one.region.lower.float(), one.region.upper.float()
        bounded = library.BoundedModule(Summed(copy.deepcopy(net), label).float(), one.x.float())
        region = library.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        inputs = (library.BoundedTensor((lower + upper) / 2, region),)
        _, total = bounded.compute_bounds(x=inputs, method="CROWN-IBP", bound_lower=False)
        assert loss.loss(trace(net, (4,)), one).item() == pytest.approx(total.log().item(), rel=1e-5)
