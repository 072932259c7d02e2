"""What reasoning-gym is asked: its tasks, their settings, its scorers. Importing it takes seconds.

Entries are made and answers scored in worker processes. Some scorers hand what a model wrote to
`eval`, or to sympy's parser, which evaluates it too: there, both are replaced by what takes nothing
but literals and mathematics.
"""

import ast
import os
import pickle
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, lru_cache
from typing import Any

import reasoning_gym
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import CURRICULA, DATASETS
from sympy.parsing import sympy_parser

from star_exp.checking.workers import Workers
from star_exp.errors import UserError, did_you_mean

Settings = Mapping[str, Any]  # of a task's configuration
Entry = Mapping[str, Any]  # question, answer, metadata
Order = tuple[str, bytes, int, int, range]  # task, its pickled settings, seed, size, indices
Item = tuple[str, bytes, Entry, str]  # task, its pickled settings, entry, answer

CHUNK = 10  # entries that are made at a time


def settings(name: str, levels: Mapping[str, int], others: Settings) -> Settings:
    """Of a task: what its curriculum says at these levels, then `others`. UserError if wrong."""
    if name not in DATASETS:
        raise UserError(f"task.name={name}: {did_you_mean(name, DATASETS)}")
    known = asdict(DATASETS[name][1]())
    for key in others:
        if key not in known or key in ("seed", "size"):
            near = did_you_mean(key, [key for key in known if key not in ("seed", "size")])
            raise UserError(f"task.settings: {name} has no {key!r}; {near}")
    given = {
        key: tuple(value) if isinstance(known[key], tuple) else value
        for key, value in others.items()
    }
    return {**_at_levels(name, levels), **given}


def _at_levels(name: str, levels: Mapping[str, int]) -> dict[str, Any]:
    if not levels:
        return {}
    if name not in CURRICULA:
        raise UserError(f"task.levels={dict(levels)}: {name} has no curriculum; set task.settings")
    curriculum: Any = CURRICULA[name]()  # type: ignore[operator]  # a class, whatever is said there
    for attribute, level in levels.items():
        if attribute not in curriculum.attributes:
            near = did_you_mean(attribute, curriculum.attributes)
            raise UserError(f"task.levels: {name} has no {attribute!r}; {near}")
        most = len(curriculum.attributes[attribute].levels) - 1
        if not 0 <= level <= most:
            raise UserError(f"task.levels.{attribute}={level}: expected 0 to {most}")
        curriculum.set_attr_level(attribute, level)
    made = asdict(curriculum.generate_configuration())
    return {key: value for key, value in made.items() if key not in ("seed", "size")}


def entries(name: str, chosen: Settings, seed: int, size: int) -> Iterator[Entry]:
    """The entries of a dataset of this seed and size, a few at a time. The same in every process.

    UserError where reasoning-gym refuses the settings, or can't make an entry with them.
    """
    pickled = pickle.dumps(chosen)
    for start in range(0, size, CHUNK):
        indices = range(start, min(start + CHUNK, size))
        with _same_hashes():
            (made,) = MAKER.map([(name, pickled, seed, size, indices)])
        if made.failed is not None:
            raise UserError(f"{name} refuses task.settings={dict(chosen)}: {made.failed}")
        yield from made.value or ()


@contextmanager
def _same_hashes() -> Iterator[None]:
    """Processes started meanwhile walk through a set of texts in one order: some tasks go by it."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        yield
    finally:
        del os.environ["PYTHONHASHSEED"]
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before


# in a worker


def make(order: Order) -> list[Entry]:
    name, chosen, seed, size, indices = order
    dataset, made = _dataset(name, chosen, seed, size), []
    for index in indices:
        random.seed(seed + index)  # list_functions draws from it too
        made.append(dataset[index])
    return made


def score(item: Item) -> float:
    """In [0, 1]; 0 for an answer that the scorer can't read: some raise an error then."""
    name, chosen, entry, answer = item
    _disarm()
    scorer = _dataset(name, chosen, seed=0, size=1)  # it goes by the settings and the entry alone
    try:
        return float(scorer.score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception:  # whatever a scorer meets in what a model wrote
        return 0.0


@lru_cache(maxsize=16)
def _dataset(name: str, chosen: bytes, seed: int, size: int) -> Any:
    known = pickle.loads(chosen)
    if "datasets" in known:  # of "composite": tasks with their weights and their own settings
        parts = [{"weight": 1, "config": {}} | each for each in known["datasets"]]
        known = {**known, "datasets": [DatasetSpec(**part) for part in parts]}
    random.seed(seed)
    return reasoning_gym.create_dataset(name, seed=seed, size=size, **known)


@cache
def _disarm() -> None:
    """From now on neither reasoning-gym's `eval` nor sympy's parser runs code in this process."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            vars(module)["eval"] = evaluated
    written_out = sympy_parser.stringify_expr  # the first that reads a text in every way to parse

    def checked(text: str, *others: Any) -> str:
        _refuse_code(text, MATHEMATICS)
        return written_out(text, *others)

    sympy_parser.stringify_expr = checked


def evaluated(text: str) -> Any:
    """What a Python expression of numbers, strings, lists and operators amounts to.

    ValueError or SyntaxError for any other: it is not evaluated.
    """
    _refuse_code(text, LITERALS)
    return eval(text.strip(), {"__builtins__": {}})


def _refuse_code(text: str, allowed: tuple[type[ast.AST], ...]) -> None:
    """ValueError or SyntaxError, unless `text` is an expression of these nodes.

    Of functions only those of FUNCTIONS are called, and by their names.
    """
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        if not isinstance(node, allowed):
            raise ValueError(f"{type(node).__name__} is neither a literal nor mathematics")
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) not in FUNCTIONS:
            raise ValueError(f"{ast.unparse(node.func)} is no function of mathematics")


LITERALS = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Load),
    *(ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator),
)
MATHEMATICS = (*LITERALS, ast.Name, ast.Call)
FUNCTIONS = {
    *("exp", "log", "ln", "sqrt", "Abs", "abs", "Integral"),  # gold answers hold integrals
    *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
    *("sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh", "acoth"),
}

MAKER: Workers[Order, list[Entry]] = Workers(make, workers=1, timeout_s=600)
WORKERS: Workers[Item, float] = Workers(score)
