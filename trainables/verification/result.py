"""The outcome of a verification, sample by sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from .verdict import Verdict


@final
@dataclass(frozen=True)
class Verification:
    """Verdicts of a network over a set of samples at one epsilon.

    Attributes:
        verdict: `(samples,)` int8, values of `Verdict`.
        stage: `(samples,)` str, the stage that decided: `natural`, `pgd` or a verifier; empty where unknown.
        margin: `(samples,)` float64, the best lower bound of the smallest margin that any stage found; -inf where no
            stage gave one (misclassified samples are not bounded).
        cause: `(samples,)` str, values of `Cause`; empty where decided.
        reason: `(samples,)` str, why an unknown sample was not bounded further, in words: stage and failure, budget or
            time-out; empty where decided, and where no stage is left.
        counterexamples: of each falsified sample the input `(*shape)` that changes its class, within epsilon of it and
            in the input range; the sample itself where it is misclassified.
        seconds: wall-clock time of each stage.
    """

    verdict: np.ndarray
    stage: np.ndarray
    margin: np.ndarray
    cause: np.ndarray
    reason: np.ndarray
    counterexamples: Mapping[int, np.ndarray]
    seconds: Mapping[str, float]

    @property
    def samples(self) -> int:
        return len(self.verdict)

    @property
    def n_verified(self) -> int:
        return int((self.verdict == Verdict.verified).sum())

    @property
    def n_falsified(self) -> int:
        """Misclassified and attacked samples together."""
        return int((self.verdict == Verdict.falsified).sum())

    @property
    def n_unknown(self) -> int:
        return int((self.verdict == Verdict.unknown).sum())

    @property
    def natural_accuracy(self) -> float:
        """Fraction classified correctly without any change of the input."""
        return float((self.stage != "natural").mean())

    @property
    def adversarial_accuracy(self) -> float:
        """Fraction neither misclassified nor attacked successfully."""
        # One division of counts, as in the other accuracies: 1 - n/N could round below the verified accuracy.
        return (self.samples - self.n_falsified) / self.samples

    @property
    def verified_accuracy(self) -> float:
        """Fraction proved robust."""
        return self.n_verified / self.samples
