"""Losses, schedules and initialisation of certified training."""

from .base import Batch, CertifiedLoss
from .ibp import IBP
from .initialisation import ibp_initialise_
from .ramp import SmoothedRamp

LOSSES: dict[str, type[CertifiedLoss]] = {"ibp": IBP}

__all__ = ["IBP", "LOSSES", "Batch", "CertifiedLoss", "SmoothedRamp", "ibp_initialise_"]
