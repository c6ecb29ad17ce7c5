"""Ray's view of the sampler: when a trial is asked for, and what is told about its end."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from ..spaces import StudySpec
from .recorder import Recorder
from .sampler import Sampler
from .scores import objective_values


class StudySearcher(Searcher):
    """Hands out the study's trials, never more at once than there are slots to run them.

    Ray asks ahead of demand; a proposal made early would know less than it could, and with one worker the same seed
    would not give the same study.

    Args:
        spec: the study.
        sampler: proposes and learns.
        recorder: proposals are durable before Ray sees them.
        slots: how many trials can run at once.
    """

    def __init__(self, spec: StudySpec, sampler: Sampler, recorder: Recorder, slots: int) -> None:
        super().__init__(metric=None, mode=None)
        self._spec, self._sampler, self._recorder, self._slots = spec, sampler, recorder, slots
        self._live: dict[str, str] = {}
        self._asked = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._asked >= self._spec.trials:
            return str(Searcher.FINISHED)
        if len(self._live) >= self._slots:
            return None
        config = self._sampler.ask(self._asked)
        self._recorder.proposed(config)
        self._live[trial_id] = config.trial_id
        self._asked += 1
        return {"trial": config.to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        own_id = self._live.pop(trial_id)
        state = self._recorder.states[own_id]
        completed = state == "completed"
        values = objective_values(self._recorder.reports[own_id], self._spec.objectives) if completed else None
        self._sampler.tell(own_id, values, stopped=state == "stopped")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the memory of a study."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed from its store, not from Ray's experiment state")
