"""Which trial a new one may begin from. Free of Ray, stores and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..results import Record
from ..results.pareto import front_mask, orient
from ..results.record import DIRECTIONS
from ..spaces import TrialConfig
from ..spaces.rules import LATER_FAMILIES
from .scores import objective_values

PARENT = "start.parent"
SINGLE_WEIGHTS: tuple[str, Mapping[str, object]] = (LATER_FAMILIES["pattern"], {})


def wants_parent(config: TrialConfig) -> bool:
    return config.values.get("start", "fresh") != "fresh"


def without_parent(values: Mapping[str, object]) -> dict[str, object]:
    """A configuration's values as the sampler chose them."""
    return {name: value for name, value in values.items() if name != PARENT}


def choose_parent(
    config: TrialConfig, completed: Mapping[str, tuple[TrialConfig, Record]], objectives: Sequence[str]
) -> str | None:
    """The trial that `config` shall begin from, None where there is none to fit.

    It is on the front of all completed trials, has the same architecture, and is no sparser than `config` asks for: a
    mask can be pruned further, not filled up. Its pattern is that of `config`, unless that takes single weights: whole
    groups are not to be had of a mask with holes in them. Of these the sparsest is nearest; ties go to the earlier
    trial.

    Args:
        completed: configuration and last report of each completed trial, by its id.
    """
    if not completed:
        return None
    values = [objective_values(report, objectives) for _, report in completed.values()]
    front = front_mask(orient(values, [DIRECTIONS[objective] for objective in objectives]))
    architecture, pattern = config.method("architecture"), _pattern(config)
    nearest: dict[str, float] = {
        name: report.sparsity
        for (name, (other, report)), member in zip(completed.items(), front, strict=True)
        if member
        and report.sparsity is not None
        and report.sparsity <= config.target_sparsity
        and other.method("architecture") == architecture
        and pattern in (SINGLE_WEIGHTS, _pattern(other))
    }
    return max(sorted(nearest), key=nearest.__getitem__) if nearest else None


def _pattern(config: TrialConfig) -> tuple[str, Mapping[str, object]]:
    return config.method("pattern") if "pattern" in config.values else SINGLE_WEIGHTS
