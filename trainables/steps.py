"""How training splits into optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass

from ..spaces import StudySpec


@dataclass(frozen=True)
class Steps:
    """The steps of a whole training; schedules and ramps count in them.

    Attributes:
        batch_size: samples of one step.
        per_epoch: steps of one epoch; a remainder below a whole batch is left out.
        total: steps of all epochs.
    """

    batch_size: int
    per_epoch: int
    total: int

    @classmethod
    def of(cls, spec: StudySpec, samples: int) -> Steps:
        """The steps of every trial of a study whose training split has so many samples."""
        batch_size = min(spec.batch_size, samples)
        per_epoch = samples // batch_size
        return cls(batch_size, per_epoch, spec.epochs * per_epoch)
