"""Refuses a config that no run could use: what was found, what was expected, a near miss."""

import ast
from collections.abc import Iterator
from typing import Any

from star_exp.config.checks import first_faults
from star_exp.config.signatures import NotFound, accepts, literal_choices, signature
from star_exp.errors import UserError, did_you_mean

ROOT = "star_exp.config.schema.Run"
HANDED_OVER = {"task", "store", "clock", "seed", "base", "folder", "head", "console"}
HANDED_OVER |= {"generator", "scores", "iteration", "reward"}  # all by run.py


class ConfigError(UserError, ValueError):
    """A config can't be used. The message is for the user and complete; no traceback is needed."""


def validate(config: dict[str, Any]) -> None:
    """Raises ConfigError with every fault of a composed and resolved config.

    Keys and types first (against the constructors named by `_target_`), then pairs of settings.
    Nothing that imports torch is imported.
    """
    faults = (
        list(_faults(config, path="", target=ROOT))
        or list(_not_objects(config))
        or first_faults(config)
    )
    if faults:
        raise ConfigError("\n".join(faults))


def validate_part(node: dict[str, Any], path: str) -> None:
    """Raises ConfigError with every wrong key and type of one group's config, `path`."""
    faults = list(_faults(node, path, node.get("_target_")))
    if faults:
        raise ConfigError("\n".join(faults))


def _faults(node: dict[str, Any], path: str, target: Any) -> Iterator[str]:
    if not isinstance(target, str):
        yield f"{path}._target_={target!r}: expected the dotted path of a class or a function"
        return
    try:
        expected = signature(target)
    except NotFound as error:
        message, name, names = error.args
        yield f"{path}._target_={message}; {did_you_mean(name, names)}"
        return
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if expected is not None and not key.startswith("_"):
            parameter = expected.parameters.get(key)
            if parameter is None and not expected.open:
                yield f"{where}: there is no such key; {did_you_mean(key, expected.parameters)}"
                continue
            if parameter is not None and not _is_object(value):
                yield from _type_fault(where, parameter.annotation, value)
        yield from _below(value, where)
    if expected is not None and not node.get("_partial_"):
        handed = HANDED_OVER if path else set()
        for key, parameter in expected.parameters.items():
            if parameter.required and key not in node and key not in handed:
                kind = f" ({ast.unparse(parameter.annotation)})" if parameter.annotation else ""
                yield f"{path or 'config'}: the key {key!r} is missing{kind}"


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _below(value: Any, where: str) -> Iterator[str]:
    """Faults of the configs inside a value, wherever a `_target_` is."""
    if _is_object(value):
        yield from _faults(value, where, value["_target_"])
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _below(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _below(inner, f"{where}[{place}]")


def _not_objects(config: dict[str, Any]) -> Iterator[str]:
    """Groups and callbacks that are no configs of an object, and settings of groups that were not
    chosen."""
    for group in ("task", "model", "sampling", "module", "data", "trainer"):
        if not _is_object(config[group]):
            yield f"{group}={config[group]!r}: expected a config with a _target_"
    for group in ("callbacks", "logger"):
        for name, node in (config[group] or {}).items():
            if node is not None and not _is_object(node):
                yield f"{group}.{name}={node!r}: expected a config with a _target_, or null"
    for group, needs, choices in (
        ("verifier", {"iterations", "module", "data", "callbacks"}, "verifier=dpo, orm or process"),
        ("reward", {"from", "seed", "scale", "model"}, "reward=process"),
    ):
        node = config.get(group)
        if node is not None and not needs <= node.keys():
            yield (
                f"{group}={node!r} and {group}=none clash: settings of what is not there; "
                f"add {choices}, or leave them out"
            )


def _type_fault(where: str, annotation: ast.expr | None, value: Any) -> Iterator[str]:
    if annotation is None or accepts(annotation, value):
        return
    choices = literal_choices(annotation)
    if choices and isinstance(value, str):
        yield f"{where}={value!r}: {did_you_mean(value, choices)}"
    else:
        yield f"{where}={value!r} is {_type_name(value)}; expected {ast.unparse(annotation)}"


def _type_name(value: Any) -> str:
    names = {int: "an integer", str: "a string", float: "a number", bool: "a boolean"}
    names |= {list: "a list", dict: "a mapping", type(None): "empty (null)"}
    return names.get(type(value), type(value).__name__)
