"""Ends of a trial that a study records and survives."""


class TrialError(Exception):
    """A trial cannot go on; the message is what the study records. The study itself goes on."""


class Diverged(TrialError):
    """The training loss is not finite any more."""


class Disconnected(TrialError):
    """No path of kept weights leads from the inputs of the network to its outputs."""


class Left(Exception):
    """This process has been asked to end. The trial is saved up to its last whole epoch, for whoever goes on."""


class CheckpointError(TrialError):
    """A checkpoint is missing, incomplete or does not fit the network it is loaded into."""
