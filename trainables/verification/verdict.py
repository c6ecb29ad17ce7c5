"""What is known about a sample."""

import enum
from typing import Any

from ..errors import TrialError


class Verdict(enum.IntEnum):
    """The outcome for one sample and one epsilon.

    Only a proof gives `verified`; `falsified` has a counterexample, of which a natural misclassification is one; all
    else is `unknown`: bounds too loose, a budget used up, a verifier that failed.
    """

    unknown = 0
    verified = 1
    falsified = 2


class Cause(enum.StrEnum):
    """Why a sample is unknown.

    Attributes:
        no_stage_left: every stage has bounded it, and none well enough.
        budget: a stage may take no more samples.
        time_out: a stage used up its seconds.
        rounding: the smallest margin is so close to 0 that floating point cannot tell.
        failure: a verifier failed, or cannot bound this network.
    """

    no_stage_left = "no stage left"
    budget = "budget"
    time_out = "time-out"
    rounding = "rounding"
    failure = "failure"


class SoundnessError(TrialError):
    """A sample was verified and falsified at once: a bound is wrong, and no figure of this network can be trusted."""

    def __init__(self, sample: int, stage: str) -> None:
        super().__init__(
            f"sample {sample} was verified by stage {stage!r}, yet an attack changes its class: "
            "the bounds of that stage are unsound on this network, so none of its verdicts may be used"
        )
        self.sample = sample
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send errors to the driver pickled, and the default would call the class with the message.
        return type(self), (self.sample, self.stage)
