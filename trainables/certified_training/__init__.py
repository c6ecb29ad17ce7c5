"""Losses, regularisers, schedules and initialisation of certified training."""

from .base import Batch, CertifiedLoss, Initialisation, Regulariser
from .ibp import IBP
from .initialisation import IBPInitialisation
from .no_regulariser import NoRegulariser
from .nrs import NRS
from .ramp import SmoothedRamp

LOSSES: dict[str, type[CertifiedLoss]] = {"ibp": IBP}
REGULARISERS: dict[str, type[Regulariser]] = {"none": NoRegulariser, "nrs": NRS}
INITIALISATIONS: dict[str, type[Initialisation]] = {"ibp": IBPInitialisation}

__all__ = [
    "IBP",
    "INITIALISATIONS",
    "LOSSES",
    "REGULARISERS",
    "Batch",
    "CertifiedLoss",
    "IBPInitialisation",
    "Initialisation",
    "Regulariser",
    "SmoothedRamp",
]
