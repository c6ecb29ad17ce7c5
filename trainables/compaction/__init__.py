"""Physical removal of what zero weights have killed: a smaller network with the same outputs and the same bounds."""

from .compact import Compaction, LayerUnits, compact

__all__ = ["Compaction", "LayerUnits", "compact"]
