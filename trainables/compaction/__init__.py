"""Physical removal of what zero weights have killed: a smaller network with the same outputs and the same bounds."""

from .compact import Compaction, LayerUnits, compact
from .in_training import InTraining, Trained

__all__ = ["Compaction", "InTraining", "LayerUnits", "Trained", "compact"]
