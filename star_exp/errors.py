"""Errors that a user can mend; the command line prints them without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(RuntimeError):
    """Says what was found, where, what was expected and what to do."""


class ConfigMismatch(UserError):
    """A run directory holds a run with another config."""


class CheckpointError(UserError):
    """A checkpoint can't be read."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest of `names`, or all of them if none is near."""
    names = sorted(set(names))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of: {', '.join(names)}" if names else "nothing is expected here"
