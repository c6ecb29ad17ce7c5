"""Networks that can be taken away: written to a folder of their own, and checked again from that alone."""

from .certificate import Certificate
from .export import PROPERTIES, SAMPLES, export_trial
from .recheck import Check, recheck

__all__ = ["PROPERTIES", "SAMPLES", "Certificate", "Check", "export_trial", "recheck"]
