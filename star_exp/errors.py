"""Errors that a user can mend; the command line prints them without a traceback."""


class UserError(RuntimeError):
    """Says what was found, where, what was expected and what to do."""


class ConfigMismatch(UserError):
    """A run directory holds a run with another config."""


class CheckpointError(UserError):
    """A checkpoint can't be read."""
