"""What a trial does: prune, certify-train, verify. Everything but `ray_trainable` is free of Ray."""

from .errors import Diverged, TrialError
from .mask import Mask
from .methods import FAMILIES, Methods, check_space
from .trial import Trial, run_trial

__all__ = [
    "FAMILIES",
    "Diverged",
    "Mask",
    "Methods",
    "Trial",
    "TrialError",
    "check_space",
    "run_trial",
]
