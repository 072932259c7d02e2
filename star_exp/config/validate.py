"""Refuses a config that no run could use: what was found, what was expected, a near miss."""

import ast
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from star_exp.config.checks import clashes
from star_exp.config.signatures import NotFound, accepts, literal_choices, signature

ROOT = "star_exp.config.schema.Run"
HANDED_OVER = {"task", "store", "clock", "seed", "base", "folder", "head", "console"}  # by run.py


class ConfigError(ValueError):
    """A config can't be used. The message is for the user and complete; no traceback is needed."""


def validate(config: dict[str, Any]) -> None:
    """Raises ConfigError with every fault of a composed and resolved config.

    Keys and types first (against the constructors named by `_target_`), then pairs of settings.
    Nothing that imports torch is imported.
    """
    faults = list(_faults(config, path="", target=ROOT)) or list(clashes(config))
    if faults:
        raise ConfigError("\n".join(faults))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence that names the nearest of `names`, or all of them if none is near."""
    names = sorted(set(names))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of: {', '.join(names)}" if names else "nothing is expected here"


def _faults(node: dict[str, Any], path: str, target: str) -> Iterator[str]:
    try:
        expected = signature(target)
    except NotFound as error:
        message, *rest = error.args
        yield f"{path}._target_: {message}" + (f"; {did_you_mean(*rest)}" if rest else "")
        return
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if expected is not None and not key.startswith("_"):
            parameter = expected.parameters.get(key)
            if parameter is None and not expected.open:
                yield f"{where}: there is no such key; {did_you_mean(key, expected.parameters)}"
                continue
            if parameter is not None and not isinstance(value, dict):
                yield from _type_fault(where, parameter.annotation, value)
        yield from _below(value, where)
    if expected is not None and not node.get("_partial_"):
        given = set(node)
        for key, parameter in expected.parameters.items():
            if parameter.required and key not in given | HANDED_OVER:
                kind = f" ({ast.unparse(parameter.annotation)})" if parameter.annotation else ""
                yield f"{path or 'config'}: the key {key!r} is missing{kind}"


def _below(value: Any, where: str) -> Iterator[str]:
    """Faults of the configs inside a value, wherever a `_target_` is."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield from _faults(value, where, value["_target_"])
        else:
            for key, inner in value.items():
                yield from _below(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _below(inner, f"{where}[{place}]")


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
