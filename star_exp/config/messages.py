"""Errors of Hydra, OmegaConf and the disk, said again for the one who typed the command."""

import re

from star_exp.config.validate import ConfigError, did_you_mean
from star_exp.errors import UserError


def for_the_user(error: Exception, arguments: list[str]) -> str | None:
    """A complete message for an error that the user can mend; None for all others (a traceback)."""
    for cause in _causes(error):
        message = _of_hydra(cause, arguments)
        if message is not None:
            return message
        if isinstance(cause, ConfigError):
            return f"the config can't be used\n{cause}"
        if isinstance(cause, UserError | OSError):
            return str(cause)
    return None


def _causes(error: BaseException | None):
    """The error and what it came from, innermost first."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return reversed(chain)


def _of_hydra(error: BaseException, arguments: list[str]) -> str | None:
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: there is no such choice; {did_you_mean(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} can't be read as an override KEY=VALUE: {error}"
    if isinstance(error, InterpolationResolutionError):
        return f"an interpolation can't be resolved: {error}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    key = _unknown_key(str(error))
    if key is None:
        return str(error)
    return f"{key}: there is no such key; {did_you_mean(key, _known_keys(arguments))}"


def _unknown_key(message: str) -> str | None:
    for pattern in (
        r"Could not override '([^']+)'",
        r"Could not find '([^']+)'",
        r"override '([^']+)'[^\n]*No match",
    ):
        found = re.search(pattern, message)
        if found:
            return found[1].split("=")[0].lstrip("+~")
    return None


def _known_keys(arguments: list[str]) -> list[str]:
    """Every dotted key and group of the config that the group choices among `arguments` compose."""
    from star_exp.config.compose import compose, conf_dir

    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    choices = [word for word in arguments if word.split("=")[0] in groups and "," not in word]
    keys: list[str] = list(groups)

    def collect(node: dict, prefix: str) -> None:
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                collect(value, f"{prefix}{name}.")

    collect(dict(compose(choices)), "")
    return keys
