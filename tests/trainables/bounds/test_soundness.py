"""No sampled point may beat a bound: 10,000 points of each architecture, dense and sparse, corners among them."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import nn

from sparsevlr.spaces.architectures import ARCHITECTURES
from sparsevlr.trainables.bounds import (
    NORMS,
    Norm,
    crown_ibp_margins,
    crown_margins,
    input_region,
    interval_bounds,
    margin_lower_bounds,
    trace,
)

BOXES, POINTS = 4, 2_500
EPSILON: dict[Norm, float] = {"linf": 0.1, "l2": 0.6}
CASES = [
    pytest.param(name, flip, id=f"{name}, other batchnorm" if flip else name)
    for name, kind in ARCHITECTURES.items()
    for flip in (False, True)
    if not flip or "batchnorm" in {field.name for field in fields(kind)}
]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("keep", [1.0, 0.1], ids=["dense", "masked"])
@pytest.mark.parametrize(("name", "flip_batchnorm"), CASES)
def test_sampled_points_respect_the_bounds(
    small_network: Callable[..., nn.Sequential], name: str, flip_batchnorm: bool, keep: float, norm: Norm
) -> None:
    shape, classes = (1, 6, 6), 4
    network = small_network(name, shape, classes, flip_batchnorm=flip_batchnorm, keep=keep)
    graph = trace(network, shape)
    x, labels = torch.rand(BOXES, *shape, dtype=torch.float64), torch.randint(classes, (BOXES,))
    scale = torch.rand(shape, dtype=torch.float64)
    region = input_region(x, EPSILON[norm], 0, 1, scale, norm)
    position = torch.rand(POINTS, BOXES, *shape, dtype=torch.float64) * 2 - 1
    position[: POINTS // 2] = position[: POINTS // 2].sign()
    with torch.no_grad():
        points = torch.stack([region.project(region.centre + one * region.radius) for one in position])
        logits = network(points.flatten(0, 1)).view(POINTS, BOXES, classes)
        smallest = (logits.gather(2, labels[None, :, None].expand(POINTS, -1, 1)) - logits).amin(0)
        hidden = interval_bounds(graph, region)
        bounds = {
            "IBP": margin_lower_bounds(graph.last_linear, hidden[graph.features], labels),
            "CROWN-IBP": crown_ibp_margins(graph, region, labels),
            "CROWN": crown_margins(graph, region, labels),
            "plain CROWN": crown_margins(graph, region, labels, tighten=False),
        }
        everything = torch.cat([smallest.flatten(), *(bound.flatten() for bound in bounds.values())])
        slack = 1e-12 * everything.abs().max()
        for method, bound in bounds.items():
            assert bool((bound <= smallest + slack).all()), f"{method}: {(bound - smallest).max().item()}"
        assert bool((logits.amin(0) >= hidden[-1].lower - slack).all())
        assert bool((logits.amax(0) <= hidden[-1].upper + slack).all())
