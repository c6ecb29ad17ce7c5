import pytest

from sparsevlr.spaces import StudySpec
from sparsevlr.spaces.datasets import Dataset, load_dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def spec() -> StudySpec:
    """A study of seconds: three rungs, little data to verify."""
    return StudySpec.from_dict(
        {
            "data": "digits",
            "epsilon": 0.03,
            "epochs": 4,
            "ramp": {"start": 0.0, "end": 0.5},
            "scheduler": {"kind": "stopping", "eta": 2, "first_rung": 1},
            "verification": {"samples": 60, "test_samples": 40, "pgd_steps": 5},
        }
    )
