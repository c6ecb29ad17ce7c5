"""Smaller networks that give the same: known answers by hand, then random sparse networks of every architecture."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsevlr.spaces.architectures import ARCHITECTURES, Reshape, Residual, build_architecture
from sparsevlr.trainables.accounting import network_cost
from sparsevlr.trainables.bounds import (
    crown_ibp_margins,
    crown_margins,
    input_box,
    interval_bounds,
    margin_lower_bounds,
    trace,
)
from sparsevlr.trainables.compaction import Compaction, compact, plan
from sparsevlr.trainables.verification import CascadeOptions, verify

EXACT = 1e-12


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight).float(), torch.tensor(bias).float()
    return layer


def random_network(*layers: nn.Module) -> nn.Sequential:
    """Random weights, statistics and affine parameters, none of them zero."""
    torch.manual_seed(0)
    network = nn.Sequential(*layers).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            randomise_(module)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data.normal_()
            module.bias.data.normal_()
    return network


def randomise_(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.3, 2)
    norm.weight.data.normal_()
    norm.bias.data.normal_(0, 0.3)


def counts(compaction: Compaction) -> list[tuple[int, int]]:
    return [(layer.before, layer.after) for layer in compaction.layers]


def left(compaction: Compaction) -> list[list[int]]:
    return [layer.kept.tolist() for layer in compaction.layers]


def outputs(network: nn.Sequential, shape: tuple[int, ...]) -> Tensor:
    weight = network[-1].weight
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    with torch.no_grad():
        return network.eval()(x)


def checked(network: nn.Sequential, shape: tuple[int, ...]) -> Compaction:
    """Compact, with what must hold of every float64 network: the same outputs, and nothing more to remove."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compaction = compact(network, shape)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.allclose(outputs(compaction.network, shape), outputs(network, shape), rtol=EXACT, atol=EXACT)
    again = compact(compaction.network, shape)
    assert not again.smaller
    assert counts(again) == [(layer.after, layer.after) for layer in compaction.layers]
    return compaction


def test_a_dead_a_constant_and_a_living_neuron() -> None:
    # Neuron 0 lives, 1 is never read, 2 is constantly relu(3), 3 is constantly relu(-4) = 0.
    first = linear([[1, 2], [5, 5], [0, 0], [0, 0]], [0.5, 1, 3, -4])
    network = nn.Sequential(first, nn.ReLU(), linear([[1, 0, 2, 7], [-1, 0, 0.5, 7]], [0.25, 0]))
    compaction = compact(network, (2,))
    smaller = compaction.network
    assert compaction.smaller
    assert left(compaction) == [[0], [0, 1]]
    assert [layer.name for layer in compaction.layers] == ["0", "2"]
    assert smaller[0].weight.tolist() == [[1, 2]]
    assert smaller[0].bias.tolist() == [0.5]
    assert smaller[2].weight.tolist() == [[1], [-1]]
    assert smaller[2].bias.tolist() == [0.25 + 2 * 3, 0.5 * 3]


def test_a_dense_network_stays_as_it_is() -> None:
    network = random_network(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    compaction = compact(network, (3,))
    assert not compaction.smaller
    assert counts(compaction) == [(4, 4), (2, 2)]
    state, copied = network.state_dict(), compaction.network.state_dict()
    assert state.keys() == copied.keys()
    assert all(torch.equal(value, copied[name]) for name, value in state.items())
    assert all(value.data_ptr() != copied[name].data_ptr() for name, value in state.items())
    assert network.training
    assert not any(module.training for module in compaction.network.modules())


def test_no_random_number_is_drawn() -> None:
    network = random_network(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    state = torch.get_rng_state()
    compact(network, (3,))
    assert torch.equal(torch.get_rng_state(), state)


def test_deaths_go_down_a_chain_in_both_directions() -> None:
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)]
    network = random_network(*layers)
    with torch.no_grad():
        # Nobody reads neuron 2 of the third layer, which alone reads 2 of the second, and so on to the first.
        network[6].weight[:, 2] = 0
        network[4].weight[:2, 2] = 0
        network[2].weight[:2, 2] = 0
        # Neuron 0 of the first layer is a constant, so that 0 of the second is one, and 0 of the third.
        network[0].weight[0] = 0
        network[2].weight[0, 1:] = 0
        network[4].weight[0, 1:] = 0
    assert left(checked(network, (2,))) == [[1], [1], [1], [0, 1]]


def test_a_channel_before_a_flatten_goes_only_with_all_its_positions() -> None:
    network = random_network(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    with torch.no_grad():
        network[3].weight[:, 4:8] = 0
        network[3].weight[:, 8:11] = 0
    compaction = checked(network, (1, 3, 3))
    assert left(compaction) == [[0, 2], [0, 1]]
    assert torch.equal(compaction.network[3].weight, network[3].weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])


def test_a_constant_channel_before_a_flatten_is_folded() -> None:
    network = random_network(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 4, 2))
    with torch.no_grad():
        network[0].weight[1] = 0
    compaction = checked(network, (1, 4, 4))
    assert left(compaction) == [[0], [0, 1]]
    constant = network[0].bias[1]
    assert torch.allclose(
        compaction.network[3].bias, network[3].bias + constant * network[3].weight[:, 4:].sum(1), rtol=EXACT
    )


@pytest.mark.parametrize(("padding", "constant", "goes"), [(0, 1.5, True), (1, 1.5, False), (1, -1.5, True)])
def test_a_constant_channel_before_padding_goes_only_at_zero(padding: int, constant: float, goes: bool) -> None:
    # A kernel of 3 on a map of 4: with padding the constant counts less at the border.
    network = random_network(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=padding), nn.Flatten(), nn.LazyLinear(2)
    )
    network(torch.rand(1, 1, 4, 4, dtype=torch.float64))
    with torch.no_grad():
        network[0].weight[0] = 0
        network[0].bias[0] = constant
    assert left(checked(network, (1, 4, 4)))[0] == ([1] if goes else [0, 1])


def test_padding_that_no_nonzero_tap_and_no_needed_position_meets_does_no_harm() -> None:
    network = random_network(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16, 2))
    with torch.no_grad():
        network[0].weight[0] = 0
        middle = torch.zeros(3, 3)
        middle[1, 1] = 1
        network[1].weight[0, 0] *= middle
        # Output 1 reads all taps, but only its inner positions are read in turn.
        inner = torch.zeros(4, 4)
        inner[1:3, 1:3] = 1
        network[3].weight[:, 16:] *= inner.flatten()
    assert left(checked(network, (1, 4, 4)))[0] == [1]


def test_constants_that_padding_has_made_uneven_fold_after_a_flatten() -> None:
    network = random_network(
        nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 2)
    )
    with torch.no_grad():
        network[0].weight[0] = 0
        network[1].weight[0, 1] = 0
        network[1].weight[1:, 0] = 0
    assert left(checked(network, (1, 3, 3))) == [[1], [1, 2], [0, 1]]


def test_batchnorm_follows_its_channels_and_its_constants() -> None:
    network = random_network(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    norm = network[1]
    with torch.no_grad():
        network[0].weight[0] = 0
        norm.weight[0], norm.bias[0] = 2.0, 5.0
        norm.weight[2] = 0
        network[3].weight[:, 3] = 0
    compaction = checked(network, (2,))
    assert left(compaction) == [[1], [0, 1]]
    scaled = (network[0].bias[0] - norm.running_mean[0]) / (norm.running_var[0] + norm.eps).sqrt() * 2 + 5
    assert scaled > 0
    expected = network[3].bias + network[3].weight[:, 0] * scaled + network[3].weight[:, 2] * norm.bias[2].relu()
    assert torch.allclose(compaction.network[3].bias, expected, rtol=EXACT)
    assert torch.equal(compaction.network[1].running_var, norm.running_var[1:2])


def residual(shortcut: nn.Module) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    return random_network(
        nn.Conv2d(1, 3, 1), nn.ReLU(), Residual(body, shortcut), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2)
    )


def test_an_identity_shortcut_keeps_channels_together() -> None:
    network = residual(nn.Identity())
    with torch.no_grad():
        # Nobody reads channel 0 after the sum, but the body reads it before.
        network[5].weight[:, :4] = 0
    compaction = checked(network, (1, 2, 2))
    assert left(compaction) == [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1]]
    # What the body adds to channel 0 is not needed.
    assert bool((compaction.network[2].body[2].weight[0] == 0).all())
    with torch.no_grad():
        network[2].body[0].weight[:, 0] = 0
    assert left(checked(network, (1, 2, 2))) == [[1, 2], [0, 1], [1, 2], [0, 1]]


def test_a_constant_sum_needs_constants_of_both_branches() -> None:
    network = residual(nn.Identity())
    with torch.no_grad():
        network[0].weight[1] = 0
        network[0].bias[1] = 2
    assert left(checked(network, (1, 2, 2)))[0] == [0, 1, 2]
    with torch.no_grad():
        network[2].body[2].weight[1] = 0
    assert left(checked(network, (1, 2, 2))) == [[0, 2], [0, 1], [0, 2], [0, 1]]


def test_a_projection_sets_channels_free() -> None:
    network = residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    with torch.no_grad():
        network[5].weight[:, :4] = 0
    assert left(checked(network, (1, 2, 2))) == [[0, 1, 2], [0, 1], [1, 2], [1, 2], [0, 1]]
    with torch.no_grad():
        network[2].body[0].weight[:] = 0
    assert left(checked(network, (1, 2, 2)))[1] == [0]


def test_a_residual_sum_with_the_input_itself_keeps_the_input() -> None:
    network = random_network(
        Residual(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)), nn.Identity()),
        nn.Flatten(),
        nn.Linear(2 * 4, 2),
    )
    with torch.no_grad():
        network[2].weight[:, :4] = 0
        network[0].body[2].weight[1, :2] = 0
    assert left(checked(network, (2, 2, 2))) == [[2], [0, 1], [0, 1]]


@pytest.mark.parametrize("layer", [0, 3, 7])
def test_one_unit_of_a_wholly_dead_layer_stays(layer: int) -> None:
    network = random_network(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 4, 2),
    )  # fmt: skip
    with torch.no_grad():
        network[layer].weight[:] = 0
    compaction = checked(network, (1, 4, 4))
    assert [layer.after for layer in compaction.layers] == [1, 1, 2]
    assert network_cost(trace(compaction.network, (1, 4, 4))).macs == 0


def test_units_that_a_reshape_puts_into_one_channel_go_together() -> None:
    network = random_network(
        nn.Linear(3, 8), Reshape((2, 2, 2)), nn.Conv2d(2, 2, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        network[2].weight[:, 0] = 0
    compaction = checked(network, (3,))
    assert left(compaction) == [[4, 5, 6, 7], [0, 1], [0, 1]]
    assert compaction.network[1].shape == (1, 2, 2)


def test_what_cannot_shrink_stays_and_says_so() -> None:
    grouped = nn.Conv2d(4, 4, 1, groups=2)
    network = random_network(
        nn.Conv2d(1, 4, 1), grouped, nn.Flatten(2), nn.Linear(4, 3), nn.Flatten(), nn.Linear(12, 2)
    )
    with torch.no_grad():
        network[0].weight[0] = 0
        network[3].weight[1] = 0
        network[5].weight[:, :3] = 0
    assert counts(checked(network, (1, 2, 2))) == [(4, 4), (4, 4), (3, 3), (2, 2)]


def test_a_layer_without_a_bias_gets_one_for_a_constant() -> None:
    network = random_network(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].bias = None
    assert compact(network, (2,)).network[1].bias is None
    with torch.no_grad():
        network[0].weight[0] = 0
    assert compact(network, (2,)).network[1].bias is not None
    assert left(checked(network, (2,)))[0] == [1]


def test_a_module_that_stands_at_two_places_becomes_two() -> None:
    twice, relu = nn.Linear(3, 3), nn.ReLU()
    network = random_network(twice, relu, twice, relu, nn.Linear(3, 2))
    with torch.no_grad():
        network[4].weight[:, 0] = 0
    assert left(checked(network, (3,))) == [[0, 1, 2], [1, 2], [0, 1]]


def test_dilated_convolutions_and_overlapping_pools() -> None:
    network = random_network(
        nn.Conv2d(1, 3, 3, dilation=2, padding=2), nn.MaxPool2d(3, stride=2, padding=1), nn.Dropout(0.5),
        nn.Conv2d(3, 3, 2, stride=2, padding=1), nn.AvgPool2d(2, stride=1, padding=1), nn.Flatten(),
        nn.Linear(3 * 16, 2),
    )  # fmt: skip
    with torch.no_grad():
        network[0].weight[0] = 0
        network[0].bias[0] = 0
        network[3].weight[:, 1] = 0
        network[6].weight[:, 16:32] = 0
    assert left(checked(network, (1, 7, 7))) == [[2], [0, 2], [0, 1]]


SPARSITY = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
CASES = [
    pytest.param(name, batchnorm, id=f"{name}{', batchnorm' if batchnorm else ''}")
    for name, kind in ARCHITECTURES.items()
    for batchnorm in (False, True)
    if not batchnorm or "batchnorm" in {field.name for field in fields(kind)}
]
SHAPE, CLASSES = (1, 7, 7), 4


def sparse_network(name: str, batchnorm: bool, sparsity: float, seed: int) -> nn.Sequential:
    """A random network in float64 with random zeros in weights, biases and BatchNorm scales."""
    options = {field.name for field in fields(ARCHITECTURES[name])}
    values = {"width": 0.15, "hidden": (16, 12, 9), "batchnorm": batchnorm}
    torch.manual_seed(seed)
    network = build_architecture(name, {key: values[key] for key in options & values.keys()}, SHAPE, CLASSES)
    network = network.double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                randomise_(module)
                module.weight *= torch.rand_like(module.weight) < 0.9
            elif isinstance(module, nn.Linear | nn.Conv2d):
                # The few that are left are large enough for the logits to differ.
                module.weight *= (torch.rand_like(module.weight) >= sparsity) * 3
                module.bias.normal_().mul_(torch.rand_like(module.bias) < 0.6)
    return network


def all_bounds(network: nn.Sequential, x: Tensor, y: Tensor) -> list[Tensor]:
    graph = trace(network, SHAPE)
    box = input_box(x, 0.1, 0, 1)
    with torch.no_grad():
        features = interval_bounds(graph, box)[graph.features]
        return [
            network(x),
            margin_lower_bounds(graph.last_linear, features, y),
            crown_ibp_margins(graph, box, y),
            crown_margins(graph, box, y),
        ]


@pytest.mark.parametrize(("name", "batchnorm"), CASES)
@settings(max_examples=12, deadline=None)
@given(sparsity=SPARSITY, seed=st.integers(0, 2**32))
def test_outputs_bounds_and_verdicts_of_any_sparse_network_are_the_same(
    name: str, batchnorm: bool, sparsity: float, seed: int
) -> None:
    network = sparse_network(name, batchnorm, sparsity, seed)
    compaction = checked(network, SHAPE)
    smaller = compaction.network
    x = torch.rand(6, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        y = network(x).argmax(1)
    for before, after in zip(all_bounds(network, x, y), all_bounds(smaller, x, y), strict=True):
        assert torch.allclose(after, before, rtol=0, atol=EXACT * (1 + float(before.abs().max())))
    cost, less = (network_cost(trace(module, SHAPE)) for module in (network, smaller))
    assert less.macs <= cost.macs
    assert less.size_bytes <= cost.size_bytes
    options = CascadeOptions(pgd_steps=3, audit=None)
    verdicts, same = (
        verify(module, x, y, epsilon=0.1, low=0.0, high=1.0, options=options).verdict for module in (network, smaller)
    )
    assert verdicts.tolist() == same.tolist()
    single = compact(network.float(), SHAPE).network
    assert single[-1].weight.dtype == torch.float32
    expected = outputs(network, SHAPE)
    assert torch.allclose(outputs(single, SHAPE), expected, rtol=0, atol=1e-6 * (1 + float(expected.abs().max())))


def survivors(network: nn.Sequential) -> list[int]:
    """How many neurons each hidden layer of an MLP keeps, by removing one at a time until none can be."""
    weights = [module.weight.detach().clone() for module in network if isinstance(module, nn.Linear)]
    while True:
        for layer, (reads, written) in enumerate(pairwise(weights)):
            idle = [unit for unit in range(len(reads)) if not reads[unit].any() or not written[:, unit].any()]
            if idle:
                stay = [unit for unit in range(len(reads)) if unit != idle[0]]
                weights[layer], weights[layer + 1] = reads[stay], written[:, stay]
                break
        else:
            return [max(1, len(weight)) for weight in weights[:-1]]


@settings(max_examples=60, deadline=None)
@given(sparsity=SPARSITY, seed=st.integers(0, 2**32))
def test_no_neuron_is_left_that_could_go(sparsity: float, seed: int) -> None:
    network = sparse_network("mlp", False, sparsity, seed)
    compaction = compact(network, SHAPE)
    assert [layer.after for layer in compaction.layers[:-1]] == survivors(network)


def test_what_constant_channels_add_is_summed_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they would take a number for each channel, output and position."""
    torch.manual_seed(0)
    layer, channels = nn.Conv2d(9, 4, 3, padding=1), torch.tensor([0, 2, 3, 5, 8])
    value, wanted = torch.rand(5, 6, 6, dtype=torch.float64), torch.rand(4, 6, 6) < 0.1
    value[:2] = 0.0
    found = []
    for most in (1 << 22, 2 * 4 * 36, 1):
        monkeypatch.setattr(plan, "VALUES_AT_ONCE", most)
        found.append(plan._contributions(layer, value, channels, wanted))
    for total, same in found[1:]:
        assert torch.allclose(total, found[0][0], rtol=0, atol=1e-12)
        assert torch.equal(same, found[0][1])
    assert found[0][1].any()
    assert not found[0][1].all()
