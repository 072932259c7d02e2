'''HumanEval (Chen et al. 2021, arXiv:2107.03374) in MBPP's prompt: V-STaR's transfer for code.

    {"task_id": "HumanEval/53", "entry_point": "add",
     "prompt": "def add(x: int, y: int):\\n    """Add two numbers x and y ...""",
     "canonical_solution": "    return x + y\\n", "test": "def check(candidate): ..."}

The docstring is the task; imports, helpers and the signature stand below it, and the model goes on
with the body. An assertion is shown where one can be read off the tests.
'''

import ast
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.base import Exemplar
from star_exp.tasks.code import BUILTINS, Tests, parsed, source, used
from star_exp.tasks.dataset import identity
from star_exp.tasks.mbpp import MBPP
from star_exp.tasks.sources import Row, RowError, text


@dataclass(frozen=True, kw_only=True)
class HumanEval(MBPP):
    """exemplars_from: rows of MBPP, which is read from exemplars_hub or exemplars_path."""

    def read(self, row: Row, split: str) -> tuple[Problem, Tests]:
        if split == "exemplar":
            return super().read(row, split)
        given = source(row, "prompt")
        name, whole = text(row, "entry_point"), source(row, "test")
        head, docstring = _split(row, given, name)
        tests = Tests(
            _asserts(parsed(row, "test", whole), name),
            f"{whole}\ncheck({name})",
            names=(name,),
            given=given,  # its helpers: tests call them too
            head=head,
        )
        answer = source(row, "canonical_solution")
        return Problem(identity(row, split, "task_id"), docstring, answer), tests

    def shown(self, problem: Problem) -> Sequence[Exemplar]:
        if not self._has_mbpp():
            raise ValueError(
                "task.path has no exemplars, which are MBPP's: give task.exemplars_path=FOLDER "
                "with its prompt.jsonl, or data/prompts=bare"
            )
        return super().shown(problem)

    def _train_rows(self, numbers: Sequence[int]) -> list[Row]:
        return super()._train_rows(numbers) if self._has_mbpp() else []

    def _has_mbpp(self) -> bool:
        """Whoever reads local files is not sent to the hub for the exemplars."""
        return self.path is None or self.exemplars_path is not None


def _split(row: Row, given: str, name: str) -> tuple[str, str]:
    """What stands around the docstring of the function, and the docstring."""
    for function in parsed(row, "prompt", given).body:
        if isinstance(function, ast.FunctionDef) and function.name == name:
            for node in function.body:  # one comes after an import
                match node:
                    case ast.Expr(value=ast.Constant(value=str(said))):
                        lines = given.splitlines(keepends=True)
                        del lines[node.lineno - 1 : node.end_lineno]
                        return "".join(lines).rstrip() + "\n", inspect.cleandoc(said).strip()
    raise RowError(f"{row.where}: 'prompt' has no function {name!r} with a docstring")


def _asserts(tests: ast.Module, name: str) -> tuple[str, ...]:
    """Those that speak of nothing but the function."""
    found = []
    for node in ast.walk(tests):
        if isinstance(node, ast.Assert) and used(node) - BUILTINS == {"candidate"}:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and inner.id == "candidate":
                    inner.id = name
            found.append(f"assert {ast.unparse(node.test)}")
    return tuple(found)
