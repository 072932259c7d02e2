"""Equations that a rationale is written with: which there are, and whether they hold.

equations("They cost 3 x $4 = <<3*4=12>>12.")       ["3*4=12"], what is annotated
equations("17+25=42:4+8+42\\n4+8=12:42+12")         ["17+25=42", "4+8=12"], what looks like one
holds("3*4=12", tolerance=1e-3)                     True
"""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

LONGEST = 200  # characters of an expression that is evaluated


def equations(text: str) -> list[str]:
    """The annotations of a text; where it has none, what looks like an equation; without spaces."""
    return annotations(text) or _plain(text)


def annotations(text: str) -> list[str]:
    """What stands between << and >>, the calculator's annotations of GSM8K."""
    return ["".join(found.split()) for found in re.findall("<<([^<>]*)>>", text)]


def _plain(text: str) -> list[str]:
    """What is written with digits and signs alone around an equals sign: "3 x $4 = $12": 3*4=12."""
    text = re.sub(r"(?<=\d) ?[x\u00d7] ?(?=\d)", "*", text.replace("$", ""))
    text = text.translate(str.maketrans("\u2212\u00f7", "-/"))
    runs = [run.replace(" ", "").strip(".,=") for run in re.findall(r"[\d+\-*/.,()%= ]+", text)]
    return [run for run in runs if re.search(r"\d\D*=\D*\d", run)]


@lru_cache(maxsize=100_000)  # the samples of a problem share most of their equations
def holds(equation: str, tolerance: float) -> bool:
    """Whether all sides of it are the same number."""
    values = [_evaluate(side) for side in equation.split("=")]
    known = [value for value in values if value is not None]
    return 2 <= len(known) == len(values) and max(known) - min(known) < tolerance


def _evaluate(expression: str) -> Fraction | None:
    """The exact value of numbers joined by + - * / ( ); None if it isn't that, or has no value.

    >>> _evaluate("20%*(1,000-50)")
    Fraction(190, 1)
    """
    if len(expression) > LONGEST or set(expression) - set("0123456789+-*/.,()%"):
        return None
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression)
    plain = re.sub(r"(\d[\d.]*|\.\d+)%", r"(\1/100)", plain)
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    """ValueError for anything but numbers and the four operations."""
    match node:
        case ast.Constant(value=value):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError(f"{ast.unparse(node)} is no arithmetic")


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
