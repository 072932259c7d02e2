"""MBPP (Austin et al. 2021, arXiv:2108.07732): short Python functions, each with three assertions.

    {"task_id": 601, "text": "Write a function to find the longest chain which ...",
     "code": "class Pair(object): ...", "test_setup_code": "",
     "test_list": ["assert max_chain_length([Pair(5, 24), Pair(15, 25)], 2) == 1", ...]}

The challenge tests are not used, as in the papers that report on MBPP.
"""

import ast
from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.code import BUILTINS, Code, Tests, imported, parsed, program, source, used
from star_exp.tasks.dataset import identity
from star_exp.tasks.sources import Row, RowError, optional, text, value

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, kw_only=True)
class MBPP(Code):
    """V-STaR, section 4: trained on train, measured on test."""

    def read(self, row: Row, split: str) -> tuple[Problem, Tests]:
        code = source(row, "code")
        asserts = _asserts(row)
        setup = program(optional(text, row, "test_setup_code") or "") or ""
        whole = "\n".join([setup, *asserts])
        wanted = used(parsed(row, "test_list", whole))
        tree = parsed(row, "code", code)
        defined = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
        imports = {name: line for name, line in imported(tree) if name not in defined}
        tests = Tests(
            asserts,
            whole,
            # A test takes a builtin of this name from the program where that redefines it: sum.
            names=tuple(sorted((wanted & defined) | (wanted - BUILTINS - {*imports}))),
            # and a module from outside of it: what decides must not be the program's
            given="\n".join(imports[name] for name in sorted(wanted & {*imports})),
        )
        return Problem(identity(row, split, "task_id"), text(row, "text").strip(), code), tests

    def own_rationale(self, row: Row) -> str:
        return source(row, "code")


def _asserts(row: Row) -> tuple[str, ...]:
    found = value(row, "test_list")
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise RowError(f"{row.where}: 'test_list' is {found!r}, expected a list of assertions")
    return tuple(program(each) or "" for each in found)
