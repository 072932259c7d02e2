"""What a `_target_` accepts, read from its source without importing it.

The constructor is the schema: a class's `__init__` (or dataclass fields) says which keys its config
may have and of which types. Importing it would import torch and Lightning, ten seconds in which a
typing error in a key could have been reported, so the source is parsed instead. This holds for the
user's own classes as for ours; what can't be read (compiled code) is left to the constructor.
"""

import ast
import importlib.util
import keyword
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    annotation: ast.expr | None
    required: bool


@dataclass(frozen=True)
class Signature:
    """parameters by name; `open` if there is **kwargs, so that any further key is accepted."""

    parameters: dict[str, Parameter]
    open: bool = False


class NotFound(LookupError):
    """The dotted path leads to nothing; the message names the part that is missing."""


def signature(target: str) -> Signature | None:
    """The signature of the class or function at this dotted path; None if it can't be read.

    Raises NotFound(message, wrong name, names there are) where the path is surely wrong.
    """
    module, names = _module(target)
    if module is None or module.suffix != ".py":
        return None
    if not names:
        raise NotFound(f"{target} is a module; expected a class or a function", "", [])
    found = _lookup(module, names[0])
    if found is None:
        if _may_define(module, names[0]):
            return None
        raise NotFound(
            f"{target}: there is no {names[0]!r} in {module.name}", names[0], _names(module)
        )
    return _of(*found) if len(names) == 1 else None


def accepts(annotation: ast.expr | None, value: Any) -> bool:
    """Whether a config value fits an annotation; what can't be judged (other classes) does."""
    match annotation:
        case None:
            return True
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):  # a forward reference
            return accepts(ast.parse(text, mode="eval").body, value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return accepts(left, value) or accepts(right, value)
        case ast.Subscript(value=generic, slice=inside):
            return _accepts_generic(ast.unparse(generic), inside, value)
        case ast.Name(id=name):
            check = _PLAIN.get(name)
            return True if check is None else check(value)
    return True


def _accepts_generic(generic: str, inside: ast.expr, value: Any) -> bool:
    arguments = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    match generic.rpartition(".")[2]:
        case "Literal":
            return value in [ast.literal_eval(argument) for argument in arguments]
        case "Optional":
            return value is None or accepts(inside, value)
        case "Union":
            return any(accepts(argument, value) for argument in arguments)
        case "tuple" | "list" | "Sequence":
            return isinstance(value, list) and all(accepts(arguments[0], item) for item in value)
        case "dict" | "Mapping":
            return isinstance(value, dict)
    return True


def literal_choices(annotation: ast.expr | None) -> list[str]:
    """The strings that a Literal (alone or in a union) allows; [] for other annotations."""
    if annotation is None:
        return []
    return [
        choice
        for node in ast.walk(annotation)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
        for choice in ast.literal_eval(ast.unparse(ast.Tuple([node.slice], ast.Load())))
        for choice in (choice if isinstance(choice, tuple) else (choice,))
        if isinstance(choice, str)
    ]


_PLAIN = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "Path": lambda value: isinstance(value, str),
}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef)


def _module(target: str) -> tuple[Path | None, list[str]]:
    """The source file of the longest prefix of `target` that is a module, and what follows it."""
    top, *rest = target.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise NotFound(f"{target}: there is no package {top!r} in this environment", top, [])
    path = Path(spec.origin) if spec.origin else None
    while path is not None and path.name == "__init__.py" and rest:
        below = [path.parent / rest[0] / "__init__.py", path.parent / f"{rest[0]}.py"]
        deeper = next((candidate for candidate in below if candidate.exists()), None)
        if deeper is None:
            break
        path, rest = deeper, rest[1:]
    return path, rest


def _may_define(module: Path, name: str) -> bool:
    """Whether a name without a plain definition may be there: an alias, an `if`, a lazy import."""
    text, tree = module.read_text(), _parse(module)
    if re.search(r"import \*|^def __getattr__|_LazyModule", text, re.MULTILINE):
        return True
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=found, ctx=ast.Store()) | ast.alias(name=found, asname=None):
                if found == name:
                    return True
            case ast.alias(asname=found) | ast.ClassDef(name=found) | ast.FunctionDef(name=found):
                if found == name and node not in tree.body and not _is_method(tree, node):
                    return True
    return False


def _is_method(tree: ast.Module, node: ast.AST) -> bool:
    return any(node in owner.body for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef))


def _names(module: Path) -> list[str]:
    """What a path through this module may go on with: its own; of a package, what it gathers."""
    body = _parse(module).body
    names = [node.name for node in body if isinstance(node, _DEFINITIONS)]
    if module.name == "__init__.py":
        imports = [node for node in body if isinstance(node, ast.ImportFrom)]
        names += [alias.asname or alias.name for node in imports for alias in node.names]
        names += [path.stem for path in module.parent.glob("*.py")]
        names += [path.parent.name for path in module.parent.glob("*/__init__.py")]
    return [name for name in names if not name.startswith("_")]


@lru_cache(maxsize=64)
def _parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def _lookup(module: Path, name: str) -> tuple[Path, ast.AST] | None:
    """The definition of `name` in a module, followed through `from x import name`."""
    for node in _parse(module).body:
        if isinstance(node, _DEFINITIONS) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(module, node, alias.name)
    return None


def _imported(module: Path, node: ast.ImportFrom, name: str) -> tuple[Path, ast.AST] | None:
    if node.level:  # from .x import y: a folder up for each further dot
        folder = module.parents[node.level - 1]
        parts = node.module.split(".") if node.module else []
        bases = [folder.joinpath(*parts, "__init__.py"), folder.joinpath(*parts).with_suffix(".py")]
        source = next((base for base in bases if base.exists()), None)
    else:
        source, rest = _module(node.module or "")
        source = None if rest else source
    return _lookup(source, name) if source is not None and source.suffix == ".py" else None


def _of(module: Path, node: ast.AST) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, skip=0)
    assert isinstance(node, ast.ClassDef)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(_fields(module, node))
    for statement in reversed(node.body):  # after its overloads, if it has any
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _of_function(statement, skip=1)
        if isinstance(statement, ast.FunctionDef) and statement.name == "__new__":
            return None
    for base in node.bases:  # no constructor of its own: the first base that has one
        found = _lookup(module, base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            return _of(*found)
        if isinstance(base, ast.Attribute):  # pl.Callback: not followed, and without arguments
            return Signature({}, open=True) if ast.unparse(base) != "pl.Callback" else Signature({})
    return Signature({}) if not node.bases else Signature({}, open=True)


def _fields(module: Path, node: ast.ClassDef) -> dict[str, Parameter]:
    fields: dict[str, Parameter] = {}
    for base in node.bases:
        found = _lookup(module, base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef) and found[1].decorator_list:
            fields |= _fields(*found)  # type: ignore[arg-type]
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            name = name[:-1] if name[-1] == "_" and keyword.iskeyword(name[:-1]) else name  # from_
            fields[name] = Parameter(statement.annotation, statement.value is None)
    return fields


def _of_function(node: ast.FunctionDef, skip: int) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = {
        argument.arg: Parameter(argument.annotation, place < required)
        for place, argument in enumerate(positional)
        if place >= skip
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(argument.annotation, default is None)
    return Signature(parameters, open=arguments.kwarg is not None)
