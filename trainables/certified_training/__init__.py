"""Losses, regularisers, schedules and initialisation of certified training."""

from .adversarial import Adversarial
from .base import Batch, CertifiedLoss, Initialisation, Regulariser
from .cc_ibp import CcIBP
from .cross_entropy import CrossEntropy
from .crown_ibp import CrownIBP
from .exp_ibp import ExpIBP
from .ibp import IBP
from .initialisation import IBPInitialisation
from .mtl_ibp import MtlIBP
from .no_regulariser import NoRegulariser
from .nrs import NRS
from .ramp import RAMPS, LinearRamp, SmoothedRamp
from .sabr import SABR
from .shi import Shi
from .staps import STAPS
from .taps import TAPS

LOSSES: dict[str, type[CertifiedLoss]] = {
    "ibp": IBP,
    "crown-ibp": CrownIBP,
    "sabr": SABR,
    "mtl-ibp": MtlIBP,
    "cc-ibp": CcIBP,
    "exp-ibp": ExpIBP,
    "taps": TAPS,
    "staps": STAPS,
    "cross-entropy": CrossEntropy,
    "pgd": Adversarial,
}
REGULARISERS: dict[str, type[Regulariser]] = {"none": NoRegulariser, "nrs": NRS, "shi": Shi}
INITIALISATIONS: dict[str, type[Initialisation]] = {"ibp": IBPInitialisation}

__all__ = [
    "IBP",
    "INITIALISATIONS",
    "LOSSES",
    "NRS",
    "RAMPS",
    "REGULARISERS",
    "SABR",
    "STAPS",
    "TAPS",
    "Adversarial",
    "Batch",
    "CcIBP",
    "CertifiedLoss",
    "CrossEntropy",
    "CrownIBP",
    "ExpIBP",
    "IBPInitialisation",
    "Initialisation",
    "LinearRamp",
    "MtlIBP",
    "Regulariser",
    "Shi",
    "SmoothedRamp",
]
