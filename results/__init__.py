"""What came out of a study: records, their store, queries, Pareto numerics and plots."""

from .errors import (
    ExportError,
    QueryError,
    RecordError,
    StorageError,
    StudyError,
    StudyExists,
    StudyMissing,
    UnsafePath,
    WhereError,
)
from .record import Record
from .store import Store
from .study import Study, open_study

__all__ = [
    "ExportError",
    "QueryError",
    "Record",
    "RecordError",
    "StorageError",
    "Store",
    "Study",
    "StudyError",
    "StudyExists",
    "StudyMissing",
    "UnsafePath",
    "WhereError",
    "open_study",
]
