"""`star-exp check task=...`: whether a task's data and its checker agree with each other.

    star-exp check task=gsm8k task.path=gsm8k
    star-exp check task=jsonl task.path=mine.jsonl

Grades three answers to every problem of every split: the gold one, which must be right, none, and
the gold answer of another problem, neither of which may be. Each exception is printed with its row.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError, validate_part
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.base import Judgement, Task

SPLITS = ("train", "dev", "test")
SHOWN = 20  # exceptions that are printed


@dataclass(frozen=True)
class Unexpected:
    """A judgement that should have come out otherwise."""

    problem: Problem
    given: str
    expected: str
    judgement: Judgement

    def __str__(self) -> str:
        said = self.judgement.failed or f"judged {'right' if self.judgement.correct else 'wrong'}"
        return (
            f"{self.problem.id}: {self.given!r}, read as {self.judgement.answer!r}, was expected "
            f"to be {self.expected}, where the gold answer is {self.problem.answer!r}: {said}"
        )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("star-exp check", description="Grade a task's own answers.")
    parser.add_argument("overrides", nargs="+", help="task=..., task.KEY=...")
    options = parser.parse_args(arguments)
    others = [word for word in options.overrides if not word.lstrip("+").startswith("task")]
    if others:
        raise ConfigError(f"{others[0]}: only task=... and task.KEY=... can be given here")
    node = _task_node(options.overrides)
    console = Console()
    exceptions = check(build(node), console)
    for exception in exceptions[:SHOWN]:
        console.print(str(exception), highlight=False, markup=False, soft_wrap=True)
    if len(exceptions) > SHOWN:
        console.print(f"and {len(exceptions) - SHOWN} more", highlight=False)
    return 1 if exceptions else 0


def check(task: Task, console: Console) -> list[Unexpected]:
    """Prints a table, a row for each split, and gives what was judged otherwise than expected."""
    table = Table("split", "problems", "gold right", "empty right", "wrong right", "failed")
    exceptions, graded, absent = [], 0, []
    for split in SPLITS:
        try:
            problems = task.problems(split)[:]
        except ValueError as error:
            absent.append(f"{split}: {error}")
            continue
        found = {
            "right": _graded(task, problems, [task.direct(problem) for problem in problems]),
            "no answer": _graded(task, problems, ["" for _ in problems]),
            "wrong": _graded(task, problems, _wrong(task, problems)),
        }
        for expected, judged in found.items():
            exceptions += [
                Unexpected(problem, given, expected, judgement)
                for problem, given, judgement in judged
                if judgement.correct != (expected == "right") or judgement.failed is not None
            ]
        shares = [
            f"{sum(j.correct for *_, j in judged) / max(1, len(judged)):.1%}"
            for judged in found.values()
        ]
        failed = sum(j.failed is not None for judged in found.values() for *_, j in judged)
        table.add_row(split, str(len(problems)), *shares, str(failed))
        graded += len(problems)
    for line in absent:
        console.print(line, highlight=False, soft_wrap=True)
    if not graded:
        raise UserError("the task has no problems in any split")
    console.print(table)
    return exceptions


def _graded(
    task: Task, problems: Sequence[Problem], given: Sequence[str]
) -> list[tuple[Problem, str, Judgement]]:
    judgements = task.judge(list(zip(problems, given, strict=True)))
    return list(zip(problems, given, judgements, strict=True))


def _wrong(task: Task, problems: Sequence[Problem]) -> list[str]:
    """For each problem the direct answer of the next one that has another."""
    answers = [problem.answer for problem in problems]
    others = answers[:]
    for place in range(2 * len(answers) - 2, -1, -1):  # backwards, and around
        here, after = place % len(answers), (place + 1) % len(answers)
        same = answers[after] == answers[here]
        others[here] = others[after] if same else answers[after]
    return [
        task.direct(replace(problem, answer=other))
        for problem, other in zip(problems, others, strict=True)
    ]


def _task_node(overrides: list[str]) -> dict[str, Any]:
    node = plain(compose(overrides))["task"]
    validate_part(node, "task")
    return node
