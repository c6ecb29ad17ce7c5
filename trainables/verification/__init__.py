"""Verification: what is proved, what is falsified, and what stays unknown."""

from .base import MarginBounds, Reason, Unsupported, Verifier, proved
from .cascade import verified_over_grid, verify
from .options import VERIFIERS, CascadeOptions
from .pgd import Pgd, random_starts
from .result import Verification
from .verdict import Cause, SoundnessError, Verdict

__all__ = [
    "VERIFIERS",
    "CascadeOptions",
    "Cause",
    "MarginBounds",
    "Pgd",
    "Reason",
    "SoundnessError",
    "Unsupported",
    "Verdict",
    "Verification",
    "Verifier",
    "proved",
    "random_starts",
    "verified_over_grid",
    "verify",
]
