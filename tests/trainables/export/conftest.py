from pathlib import Path

import pytest

from sparsevlr.results import Study

from .studies import exported, trained


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Small and fully connected, trained well enough for every verdict."""
    space = {"architecture.hidden": [12], "schedule.at": 0.1, "sparsity": 0.7}
    return trained(tmp_path_factory.mktemp("studies") / "mlp", space, epochs=12)


@pytest.fixture(scope="session")
def export(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of it; tests change copies only."""
    out = tmp_path_factory.mktemp("exports") / "mlp"
    exported(study, out, samples=100)
    return out
