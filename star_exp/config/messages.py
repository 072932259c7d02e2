"""Errors of Hydra and OmegaConf, said again for the one who typed the command."""

import re
from collections.abc import Iterator

from star_exp.config.validate import ConfigError
from star_exp.errors import UserError, did_you_mean


def for_the_user(error: Exception, arguments: list[str]) -> str | None:
    """A complete message for an error that the user can mend; None for all others (a traceback)."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ConfigError):
            return f"the config can't be used\n{cause}"
        message = _of_hydra(cause, arguments)  # before OSError, which a missing choice is as well
        if message is not None:
            return message
        if isinstance(cause, UserError | OSError):
            return str(cause)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _of_hydra(error: BaseException, arguments: list[str]) -> str | None:
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import (
        InterpolationResolutionError,
        MissingMandatoryValue,
        OmegaConfBaseException,
    )

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or _choices(group))
        return f"{group}={choice}: there is no such choice; {did_you_mean(choice, options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} can't be read as an override KEY=VALUE"
    if isinstance(error, MissingMandatoryValue):
        return f"{getattr(error, 'full_key', '') or 'a key'} has no value (???); give it one"
    if isinstance(error, InterpolationResolutionError):
        return f"{str(error).splitlines()[0]} ({getattr(error, 'full_key', '')})"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if "'${experiment}/${variant}'" in str(error):  # what both have beside, in config.yaml
        groups = ("experiment", "variant")
        words = [word for word in arguments if word.lstrip("~+").partition("=")[0] in groups]
        return f"{' '.join(words)}: experiment= and variant= take one name each"
    key = _unknown_key(str(error))
    if key is None:
        return str(error)
    if key in _accepted_keys(arguments):
        return f"{key} is not in the config, but can be added to it: write +{key}=..."
    return f"{key}: there is no such key; {did_you_mean(key, _known_keys(arguments))}"


def _unknown_key(message: str) -> str | None:
    for pattern in (r"Could not override '([^']+)'", r"full_key: (\S+)", r"No match .* '([^']+)'"):
        found = re.search(pattern, message)
        if found:
            return found[1].split("=")[0].lstrip("+~")
    return None


def _choices(group: str) -> list[str]:
    from star_exp.config.compose import conf_dir

    return [path.stem for path in (conf_dir() / group).glob("*.yaml")]


def _config_of(arguments: list[str]) -> dict:
    """The config that the group choices among `arguments` compose, or that of none of them."""
    from star_exp.config.compose import compose, conf_dir

    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    choices = [word for word in arguments if word.split("=")[0] in groups and "," not in word]
    try:
        return dict(compose(choices))
    except Exception:  # whatever is wrong with a choice is not what is being reported
        return dict(compose())


def _known_keys(arguments: list[str]) -> list[str]:
    """Every dotted key of the config, and every group."""
    from star_exp.config.compose import conf_dir

    keys = [path.name for path in conf_dir().iterdir() if path.is_dir()]

    def collect(node: dict, prefix: str) -> None:
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if hasattr(value, "items"):
                collect(value, f"{prefix}{name}.")

    collect(_config_of(arguments), "")
    return keys


def _accepted_keys(arguments: list[str]) -> list[str]:
    """Keys that are not in the config but that a constructor would take: trainer.precision."""
    from star_exp.config.signatures import NotFound, signature

    accepted = []
    for group, node in _config_of(arguments).items():
        if hasattr(node, "items") and "_target_" in node:
            try:
                found = signature(node["_target_"])
            except NotFound:
                continue
            accepted += [f"{group}.{name}" for name in (found.parameters if found else ())]
    return accepted
