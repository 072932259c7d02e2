"""Tasks that are answered by a program, and checked by running it against tests in a sandbox.

    ### Task Start ###
    # These are the assertions for your function:
    assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)

    \""" Write a function to find the similar elements from the given two tuple lists. \"""
    def similar_elements(test_tup1, test_tup2):
      ...
    ### Task End ###

V-STaR's prompt (arXiv:2402.06457, appendix B; after Ni et al. 2023), with one assertion. The paper
has no hints for code: ours shows all assertions. The reference program is never shown.
"""

import ast
import builtins
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from star_exp.checking.sandbox import MOST_S, WORKERS, Check, Isolation, Limits, Verdict, walls
from star_exp.checking.workers import Outcome
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.base import Judgement
from star_exp.tasks.dataset import DatasetTask
from star_exp.tasks.sources import Row, RowError, Source, text

HEADER = "# Write Python function to complete the task and pass the assertion tests.\n\n"
START, END = "### Task Start ###", "### Task End ###"
ASSERTIONS = "# These are the assertions for your function:"
FENCED = re.compile(r"```\w*\n(.*?)\n```", re.DOTALL)


@dataclass(frozen=True)
class Tests:
    """
    asserts: those that can be shown, one a line.
    tests, names, given: see checking/sandbox.py.
    head: what a program begins with, before what the model writes; the prompt shows it.
    """

    __test__ = False  # pytest's

    asserts: tuple[str, ...]
    tests: str
    names: tuple[str, ...]
    given: str = ""
    head: str = ""


@dataclass(frozen=True, kw_only=True)
class Code(DatasetTask):
    """
    exemplars_from: numbers of rows of MBPP's own prompt split, from 0.
    exemplars_hub, exemplars_config, exemplars_path: where MBPP is, if not where the problems are.
    timeout_s: for a program with all its tests. memory_mib: for a program.
    isolation: see docs/sandbox.md; auto takes the strongest that works here.
    """

    stop = (f"\n{END}",)
    separator = f"\n{END}\n\n"

    exemplars_hub: str | None = None
    exemplars_config: str | None = None
    exemplars_path: str | None = None
    timeout_s: float = 3.0
    memory_mib: int = 512
    isolation: Isolation = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.timeout_s <= MOST_S:
            raise ValueError(f"task.timeout_s={self.timeout_s}: expected up to {MOST_S:g} seconds")
        if self.memory_mib < 64:
            raise ValueError(f"task.memory_mib={self.memory_mib}: expected at least 64")

    # what a subclass says

    @abstractmethod
    def read(self, row: Row, split: str) -> tuple[Problem, Tests]:
        """The problem of a row and its tests. The answer is the reference program."""

    # the problems and their tests

    def problem(self, row: Row, split: str) -> Problem:
        problem, self._tests[problem.id] = self.read(row, split)
        return problem

    def tests(self, problem: Problem) -> Tests:
        """UserError for a problem that the data don't have."""
        if problem.id not in self._tests:
            for split in filter(self.source.has, ("train", "dev", "test")):
                self._parsed(split)
        if problem.id not in self._tests:
            raise UserError(f"{self.path or self.hub} has no problem {problem.id!r}")
        return self._tests[problem.id]

    @cached_property
    def _tests(self) -> dict[str, Tests]:
        return {}

    def _train_rows(self, numbers: Sequence[int]) -> list[Row]:
        """Those of MBPP's prompt split: no split has them."""
        mbpp = Source(
            splits={"exemplars": "prompt"},
            hub=self.exemplars_hub or self.hub,
            config=self.exemplars_config or self.config,
            revision=None if self.exemplars_hub else self.revision,
            path=self.exemplars_path or (None if self.exemplars_hub else self.path),
        )
        rows = {row.number: row for row in mbpp.rows("exemplars") if isinstance(row, Row)}
        if missing := set(numbers) - set(rows):
            raise UserError(
                f"task.exemplars_from names row {min(missing)}, and the prompt split of "
                f"{mbpp.path or mbpp.hub} has {len(rows)} rows, from 0"
            )
        return [rows[number] for number in numbers]

    # how it is asked and answered

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        tests = self.tests(problem)
        lines = [
            START,
            *([ASSERTIONS, *tests.asserts[: None if hint else 1]] if tests.asserts else []),
            "",
            f'""" {problem.question} """',
        ]
        header = HEADER if self._begins(problem) else ""
        return header + "\n".join(lines) + "\n" + tests.head

    def _begins(self, problem: Problem) -> bool:
        """Whether it is the first exemplar, above which the header stands, once."""
        return problem.id.startswith("exemplar/") and problem == self._exemplars[0].problem

    def direct(self, problem: Problem) -> str:
        return problem.answer

    def extract(self, completion: str) -> str | None:
        """The program text up to the end mark."""
        return program(completion.partition(END)[0])

    def extract_loosely(self, completion: str) -> str | None:
        """The same, or what stands in the first ``` block."""
        fenced = FENCED.search(completion)
        return program(fenced[1]) if fenced else self.extract(completion)

    # how it is judged

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether it passes all tests. ValueError where the check failed."""
        if answer is None:
            return False
        (outcome,) = self.checked([(problem, answer)])
        if outcome.failed is not None:
            raise ValueError(outcome.failed)
        return outcome.value is not None and outcome.value.passed

    def checked(self, answers: Sequence[tuple[Problem, str]]) -> list[Outcome[Verdict]]:
        """For each program whether it passes, and why not; or what the checker failed with."""
        return WORKERS.map([self._check(problem, answer) for problem, answer in answers])

    def judge(self, written: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        """As each alone, in one go: as many at a time as there are processors."""
        read = [(p, self.extract(said), self.extract_loosely(said)) for p, said in written]
        checks = [[self._check(p, a) if a else None for a in answers] for p, *answers in read]
        distinct = list(dict.fromkeys(check for both in checks for check in both if check))
        known = dict(zip(distinct, WORKERS.map(distinct), strict=True))
        judgements = []
        for (_, answer, _), both in zip(read, checks, strict=True):
            outcomes = [known[check] if check else None for check in both]
            failed = next((o.failed for o in outcomes if o is not None and o.failed), None)
            right = [bool(o and o.value and o.value.passed) for o in outcomes]
            judgements.append(Judgement(answer, right[0], any(right), failed))
        return judgements

    def _check(self, problem: Problem, answer: str) -> Check:
        tests = self.tests(problem)
        return Check(tests.head + answer, tests.tests, tests.names, tests.given, self._limits)

    @cached_property
    def _limits(self) -> Limits:
        return Limits(
            walls=walls(self.isolation), timeout_s=self.timeout_s, memory_mib=self.memory_mib
        )


def program(written: str) -> str | None:
    """With plain line ends, and no empty lines around; None where nothing is left."""
    plain = written.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    return re.sub(r"\A(?:[ \t]*\n)+", "", plain) or None


def source(row: Row, name: str) -> str:
    """The Python in a field of a row. RowError where there is none."""
    return program(text(row, name)) or ""


def parsed(row: Row, name: str, python: str) -> ast.Module:
    """RowError, which names the field, where it isn't Python."""
    try:
        return ast.parse(python)
    except SyntaxError as error:
        raise RowError(f"{row.where}: {name!r} is not Python: {error}") from error


def used(tree: ast.AST) -> set[str]:
    """Names that are read in it, and neither assigned, nor imported, nor arguments."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | arguments
    return {node.id for node in names} - bound - {name for name, _ in imported(tree)}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """("np", "import numpy as np") of every name that is imported in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], ast.unparse(node)


BUILTINS = frozenset(dir(builtins))
