import pytest
import torch
from torch import Tensor, nn

from sparsevlr.trainables.bounds import (
    Box,
    ReLUStates,
    UnsupportedLayer,
    input_box,
    interval_bounds,
    interval_relu,
    margin_lower_bounds,
    margins,
    relu_states,
    trace,
    unstable_relu_fraction,
)


def _two_layers() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([[2.0, 1.0], [1.0, -1.0]]),
            "0.bias": torch.tensor([1.0, -1.0]),
            "2.weight": torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
            "2.bias": torch.tensor([1.0, 0.0]),
        }
    )
    return network


def test_two_layers_by_hand() -> None:
    """Over [-1, 1]^2: hidden 2a + b + 1 in [-2, 4] and a - b - 1 in [-3, 1], after ReLU [0, 4] and [0, 1]."""
    graph = trace(_two_layers(), (2,))
    zero = torch.zeros(2, 2, dtype=torch.float64)
    bounds = interval_bounds(graph, input_box(zero, 1.0, -1, 1))
    assert bounds[1].lower[0].tolist() == [-2, -3]
    assert bounds[1].upper[0].tolist() == [4, 1]
    assert bounds[2].lower[0].tolist() == [0, 0]
    assert bounds[2].upper[0].tolist() == [4, 1]
    # logit_0 = h_0 - h_1 + 1 in [0, 5] and logit_1 = 0.
    assert bounds[3].lower[0].tolist() == [0, 0]
    assert bounds[3].upper[0].tolist() == [5, 0]
    lower = margin_lower_bounds(graph.last_linear, bounds[2], torch.tensor([0, 1]))
    assert lower.tolist() == [[0, 0], [-5, 0]]
    assert unstable_relu_fraction(relu_states(graph, input_box(zero, 1.0, -1, 1)).values()) == 1.0


def test_states_count_neurons_over_all_batches() -> None:
    graph = trace(_two_layers(), (2,))
    x = torch.tensor([[0.0, 0.0], [0.9, -0.9], [0.9, 0.9]], dtype=torch.float64)
    # With epsilon 0.1 no neuron changes its sign but the second one of x = (0.9, -0.9)... by hand:
    # (0, 0): [0.7, 1.3], [-1.2, -0.8]; (0.9, -0.9): [1.6, 2.2], [0.6, 1.0]; (0.9, 0.9): [3.4, 4], [-1.2, -0.8].
    assert relu_states(graph, input_box(x, 0.1, -1, 1)) == {2: ReLUStates(unstable=0, pairs=6, dead=0, neurons=2)}
    # Only (0.9, -0.9) switches the second neuron on.
    assert relu_states(graph, input_box(x[[0, 2]], 0.1, -1, 1), batch_size=1)[2].dead == 1
    # With epsilon 0.45, clipped: (0, 0): [-0.35, ..] unstable, [.., -0.1]; (0.9, -0.9): [0.9, ..], [-0.1, ..] unstable;
    # (0.9, 0.9): [.., ..] > 0, [-1.55, -0.45].
    for batch_size in (1, 2, 256):
        states = relu_states(graph, input_box(x, 0.45, -1, 1), batch_size=batch_size)
        assert states == {2: ReLUStates(unstable=2, pairs=6, dead=0, neurons=2)}
        assert unstable_relu_fraction(states.values()) == 2 / 6


def test_a_network_without_relu_has_no_unstable_neurons() -> None:
    box = input_box(torch.rand(2, 3), 0.1, 0, 1)
    states = relu_states(trace(nn.Sequential(nn.Linear(3, 2)), (3,)), box)
    assert states == {}
    assert unstable_relu_fraction(states.values()) == 0


def test_box_is_clipped_to_the_input_range() -> None:
    box = input_box(torch.tensor([[0.0, 0.5, 0.95]]), 0.1, 0, 1)
    assert box.lower.tolist()[0] == pytest.approx([0, 0.4, 0.85])
    assert box.upper.tolist()[0] == pytest.approx([0.1, 0.6, 1.0])


@pytest.mark.parametrize("epsilon", [0.0, torch.zeros(5, 1)])
def test_epsilon_zero_is_the_point_itself(epsilon: float | Tensor) -> None:
    x = torch.rand(5, 7)
    centre, radius = input_box(x, epsilon, 0, 1)
    assert torch.equal(centre, x)
    assert torch.equal(radius, torch.zeros(5, 7))


def test_epsilon_per_sample() -> None:
    box = input_box(torch.full((2, 3), 0.5), torch.tensor([[0.1], [0.2]]), 0, 1)
    assert box.radius[:, 0].tolist() == pytest.approx([0.1, 0.2])


def test_scales_widen_and_fix_features() -> None:
    box = input_box(torch.tensor([[0.5, 0.5, 0.95], [0.1, 0.0, 0.2]]), 0.1, 0, 1, torch.tensor([0.0, 0.5, 2.0]))
    assert box.lower.flatten().tolist() == pytest.approx([0.5, 0.45, 0.75, 0.1, 0.0, 0.0])
    assert box.upper.flatten().tolist() == pytest.approx([0.5, 0.55, 1.0, 0.1, 0.05, 0.4])


@pytest.mark.parametrize("epsilon", [-0.1, float("nan")])
def test_impossible_epsilon(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be at least 0, got"):
        input_box(torch.zeros(1, 2), epsilon, 0, 1)


def test_fused_relu_equals_the_plain_formula() -> None:
    centre, radius = torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    lower, upper = (centre - radius).relu(), (centre + radius).relu()
    fused = interval_relu(centre, radius)
    assert torch.allclose(fused[0], (lower + upper) / 2)
    assert torch.allclose(fused[1], (upper - lower) / 2)
    # All three kinds of neurons must occur.
    assert (lower > 0).any()
    assert (upper == 0).any()
    assert ((lower == 0) & (upper > 0)).any()


def test_fused_relu_gradients() -> None:
    centre = torch.randn(30, dtype=torch.float64, requires_grad=True)
    radius = torch.rand(30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(interval_relu, (centre, radius))


@pytest.mark.parametrize("limit", [margins.CLASS_TABLE_LIMIT, 2])
def test_margins_are_exact_for_the_last_layer(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a box, a linear margin is smallest at the corner that its coefficients point away from."""
    monkeypatch.setattr(margins, "CLASS_TABLE_LIMIT", limit)
    last = nn.Linear(6, 5).double()
    centre, radius = torch.randn(8, 6, dtype=torch.float64), torch.rand(8, 6, dtype=torch.float64)
    labels = torch.randint(5, (8,))
    found = margin_lower_bounds(last, Box(centre, radius), labels)
    for sample in range(8):
        for other in range(5):
            difference = last.weight[labels[sample]] - last.weight[other]
            corner = last(centre[sample] - radius[sample] * difference.sign())
            assert found[sample, other].item() == pytest.approx((corner[labels[sample]] - corner[other]).item())
    assert torch.equal(found[torch.arange(8), labels], torch.zeros(8, dtype=torch.float64))


def test_dropout_is_the_identity_in_eval_mode_and_refused_in_training() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)).eval()
    graph, x = trace(network, (4,)), torch.rand(5, 4)
    assert torch.allclose(interval_bounds(graph, Box(x, torch.zeros_like(x)))[-1].centre, network(x))
    network.train()
    with pytest.raises(UnsupportedLayer, match=r"Dropout.*eval mode"):
        interval_bounds(graph, Box(x, torch.zeros_like(x)))
