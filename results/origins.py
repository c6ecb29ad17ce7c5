"""What trials have in common by descent, so that what they agree on is no evidence."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class Origins:
    """Lines of descent of trials.

    Args:
        trials: those columns of `Study.trials`, all of the study.
    """

    COLUMNS = ("trial_id", "parent", "dense_stage", "seed")

    def __init__(self, trials: pa.Table) -> None:
        self._rows = {row["trial_id"]: row for row in trials.select(self.COLUMNS).to_pylist()}

    def line(self, trial_id: str) -> list[str]:
        """The trial, its parent, its parent's parent and so on, as far as the study knows them."""
        found: list[str] = []
        current: str | None = trial_id
        while current is not None and current in self._rows and current not in found:
            found.append(current)
            current = self._rows[current]["parent"]
        return found

    def common(self, a: str, b: str) -> str | None:
        """Why the masks of two trials are not independent; None where nothing is known to join them.

        `lineage`: one descends from the other, or both from a third. `dense stage`: they, or trials that they descend
        from, were pruned from the same dense network. `seed`: the same initial weights or the same draws.
        """
        lines = self.line(a), self.line(b)
        if set(lines[0]) & set(lines[1]):
            return "lineage"
        for column, name in (("dense_stage", "dense stage"), ("seed", "seed")):
            values: list[set[Any]] = [{self._rows[one][column] for one in line} - {None} for line in lines]
            if values[0] & values[1]:
                return name
        return None
