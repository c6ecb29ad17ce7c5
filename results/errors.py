"""Errors of a study and its storage. Each message is one line: the rule, the value received, the remedy."""


class StudyError(Exception):
    """Base of everything that can go wrong with a study, its storage or a query on it."""


class StudyExists(StudyError):
    """A study of that name is there already; it can be resumed, never overwritten."""


class StudyMissing(StudyError):
    """There is no study where one was looked for."""


class StorageError(StudyError):
    """The storage of a study cannot be read or written: permissions, a full disk, a vanished mount."""


class RecordError(StudyError, ValueError):
    """A record whose columns contradict the schema."""


class StorageDown(StorageError):
    """An object store does not answer, so nothing is known about what lies there."""


class UnsafePath(StudyError, ValueError):
    """A name or path that could lead outside its study."""


class QueryError(StudyError, ValueError):
    """A query that names unknown columns, objectives or splits."""


class WhereError(QueryError):
    """A filter that does not parse; the message gives the position (counted from 1) and what was expected there."""


class ExportError(StudyError):
    """A trial that cannot be exported, a folder that cannot be exported to, or one that is no export."""
