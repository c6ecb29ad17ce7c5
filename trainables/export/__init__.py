"""Networks that can be taken away: written to a folder of their own, and checked again from that alone."""

from .certificate import Certificate
from .exporting import export_trial
from .rechecking import Check, recheck

__all__ = ["Certificate", "Check", "export_trial", "recheck"]
