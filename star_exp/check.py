"""`star-exp check task=...`: whether a task's data and its checker agree with each other.

    star-exp check task=gsm8k task.path=gsm8k
    star-exp check task=jsonl task.path=mine.jsonl

Grades three answers to every problem of every split, whatever the sizes: the gold one, which must
be right, none, and the gold answer of another problem, neither of which may be. Exemplars are
graded likewise, with their rationales. Each row left out and each exception is printed.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from star_exp.checking.numbers import last_number
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError, validate_part
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.base import Exemplar, Judgement, Task
from star_exp.tasks.dataset import SPLITS, DatasetTask
from star_exp.tasks.sources import NoSplit


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
    task = built(_task_node(options.overrides))
    return 1 if check(task, Console()) else 0


def check(task: Task, console: Console) -> list[Unexpected]:
    """Prints a table, a row for each split, and gives what was judged otherwise than expected."""
    whole = task.whole() if isinstance(task, DatasetTask) else task
    table = Table("", "problems", "gold right", "empty right", "wrong right", "failed", "left out")
    lines, notes, exceptions, graded = [], [], [], 0
    for split in SPLITS:
        try:
            problems = whole.problems(split)[:]
        except NoSplit as error:
            notes.append(f"{split}: {error}")
            continue
        except ValueError as error:
            raise ConfigError(f"{split}: {error}") from error
        found = _found(whole, problems, [whole.direct(problem) for problem in problems])
        exceptions += _unexpected(found)
        left_out = whole.why_left_out(split) if isinstance(whole, DatasetTask) else {}
        lines += [line for kind in left_out.values() for line in kind]
        table.add_row(split, str(len(problems)), *_shares(found), str(whole.left_out(split)))
        counts = ", ".join(f"{len(kind)} {name}" for name, kind in left_out.items())
        notes += [f"{split}: left out {counts}"] if counts else []
        notes += _unused(task, split, len(problems))
        graded += len(problems)
    if not graded:
        raise UserError("; ".join(["the task has no problems in any split", *notes]))
    shown, unreadable = _exemplars(whole)
    if shown:
        problems = [exemplar.problem for exemplar in shown]
        found = _found(whole, problems, [exemplar.completion for exemplar in shown])
        exceptions += _unexpected(found)
        table.add_row("exemplars", str(len(shown)), *_shares(found), "0")
    for line in (*lines, *map(str, exceptions), table, *notes):
        console.print(line, highlight=False, markup=False, soft_wrap=isinstance(line, str))
    if unreadable is not None:
        raise unreadable
    return exceptions


def _exemplars(task: Task) -> tuple[Sequence[Exemplar], UserError | None]:
    """Those that are shown, if there are any, and what is wrong with them."""
    try:
        return task.shown(Problem("", "", "")), None
    except UserError as error:
        return [], error
    except ValueError:  # the task has none
        return [], None


Judged = Sequence[tuple[Problem, str, Judgement]]


def _found(task: Task, problems: Sequence[Problem], right: Sequence[str]) -> dict[str, Judged]:
    """What was given and how it was judged, by what is expected of it."""
    return {
        "right": _graded(task, list(zip(problems, right, strict=True))),
        "no answer": _graded(task, [(problem, "") for problem in problems]),
        "wrong": _graded(task, _wrong(task, problems)),
    }


def _unexpected(found: Mapping[str, Judged]) -> list[Unexpected]:
    return [
        Unexpected(problem, given, expected, judgement)
        for expected, judged in found.items()
        for problem, given, judgement in judged
        if judgement.correct != (expected == "right") or judgement.failed is not None
    ]


def _shares(found: Mapping[str, Judged]) -> list[str]:
    """Of each that was judged right; and how many checks failed."""
    shares = [
        f"{sum(j.correct for *_, j in judged) / len(judged):.1%}" if judged else "-"
        for judged in found.values()
    ]
    failed = sum(j.failed is not None for judged in found.values() for *_, j in judged)
    return [*shares, str(failed)]


def _unused(task: Task, split: str, problems: int) -> list[str]:
    size = getattr(task, f"{split}_size") if isinstance(task, DatasetTask) else None
    if size is None or size >= problems:
        return []
    said = f"{split}: task.{split}_size={size} of {problems}"
    return [f"{said}; a run has the other {problems - size} in no split"]


def _graded(task: Task, written: Sequence[tuple[Problem, str]]) -> Judged:
    judgements = task.judge(written)
    return [(*each, judgement) for each, judgement in zip(written, judgements, strict=True)]


def _wrong(task: Task, problems: Sequence[Problem]) -> list[tuple[Problem, str]]:
    """Each problem with the direct answer of the next one that has another, where one has."""
    read = [task.extract(task.direct(problem)) or "" for problem in problems]
    answers = [last_number(said) or said for said in read]  # "x=8" is no other answer than "8"
    if len(set(answers)) < 2:
        return []
    others = list(problems)
    for place in range(2 * len(answers) - 2, -1, -1):  # backwards, and around
        here, after = place % len(answers), (place + 1) % len(answers)
        same = answers[after] == answers[here]
        others[here] = others[after] if same else problems[after]
    return [
        (problem, task.direct(replace(problem, answer=other.answer)))
        for problem, other in zip(problems, others, strict=True)
    ]


def built(node: dict[str, Any]) -> Task:
    """The task of a config. ConfigError for a setting that it refuses."""
    try:
        return build(node)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _task_node(overrides: list[str]) -> dict[str, Any]:
    node = plain(compose(overrides))["task"]
    validate_part(node, "task")
    return node
