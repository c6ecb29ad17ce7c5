"""A small trained classifier, on which every verdict occurs."""

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def problem() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Network, 200 points of the unit square and their labels: is a point within a circle, with some labels wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 2, generator=generator)
    y = ((x - 0.5).norm(dim=1) < 0.35).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    y[:5] = 2
    return network.eval(), x, y
