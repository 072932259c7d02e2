r"""MATH (Hendrycks et al. 2021, arXiv:2103.03874) and MATH-500 (Lightman et al. 2023): LaTeX.

    Problem:
    What is $2^5$?
    Solution: Doubling five times gives $\boxed{32}$.

Answers are LaTeX and compared as mathematics, in worker processes: sympy may hang on what a model
writes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from star_exp.checking.maths import boxed, equivalent, normal
from star_exp.checking.workers import Workers
from star_exp.records import Problem
from star_exp.tasks.base import Judgement
from star_exp.tasks.dataset import DatasetTask, identity
from star_exp.tasks.sources import NotAsked, Row, RowError, optional, text

_SAID = re.compile(r"answer is:?\s*(.+?)(?:\.(?:\s|$)|\n|$)")


def _same(pair: tuple[str, str]) -> bool:
    return equivalent(*pair)


WORKERS: Workers[tuple[str, str], bool] = Workers(_same)


@dataclass(frozen=True, kw_only=True)
class Math(DatasetTask):
    """levels: of difficulty that are asked, 1 to 5; None: all."""

    stop = ("\nProblem:",)
    levels: Sequence[int] | None = None

    def problem(self, row: Row, split: str) -> Problem:
        if self.levels is not None and _level(row) not in self.levels:
            raise NotAsked(f"{row.where}: the level is {row.fields.get('level')!r}")
        answer = optional(text, row, "answer")
        answer = boxed(text(row, "solution")) if answer is None else answer
        if answer is None or not answer.strip():
            raise RowError(f"{row.where}: 'solution' has no \\boxed answer")
        subject = optional(text, row, "subject", "type") or "other"
        groups = {"level": str(_level(row) or "?"), "subject": subject}
        question = text(row, "problem", "question").strip()
        return Problem(identity(row, split, "unique_id"), question, answer.strip(), groups)

    def own_rationale(self, row: Row) -> str:
        return f" {text(row, 'solution').strip()}"

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        shown = f" (${problem.answer}$)" if hint else ""
        return f"Problem:\n{problem.question}{shown}\nSolution:"

    def direct(self, problem: Problem) -> str:
        return rf" $\boxed{{{problem.answer}}}$."

    def closing(self, problem: Problem) -> str:
        return ""  # the rationale of an exemplar boxes its answer itself

    def answer_lead(self) -> str:
        return r"\boxed{"

    def extract(self, completion: str) -> str | None:
        r"""What the last \boxed{...} holds, in its normal form: \dfrac12 is 0.5."""
        found = boxed(completion)
        return normal(found) or None if found else None

    def extract_loosely(self, completion: str) -> str | None:
        """The same, or what comes behind "answer is"."""
        said = _SAID.findall(completion)
        return self.extract(completion) or (normal(said[-1]) or None if said else None)

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """ValueError where the check failed: it hung, or took too much memory."""
        if answer is None or answer == normal(problem.answer):
            return answer is not None
        (outcome,) = WORKERS.map([(problem.answer, answer)])
        if outcome.failed is not None:
            raise ValueError(outcome.failed)
        return bool(outcome.value)

    def judge(self, written: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        """As each alone, in one go: the workers share them out.

        Only an answer in a box can make the checker fail.
        """
        answers = [(self.extract(said), self.extract_loosely(said)) for _, said in written]
        golds = [problem.answer for problem, _ in written]
        pairs = [(gold, a) for gold, ab in zip(golds, answers, strict=True) for a in set(ab) if a]
        distinct = list(dict.fromkeys(pairs))
        known = dict(zip(distinct, WORKERS.map(distinct), strict=True))
        judgements = []
        for gold, (strict, loose) in zip(golds, answers, strict=True):
            outcomes = [known[gold, answer] if answer else None for answer in (strict, loose)]
            failed = outcomes[0].failed if outcomes[0] else None
            right = [bool(outcome and outcome.value) for outcome in outcomes]
            judgements.append(Judgement(strict, right[0], any(right), failed))
        return judgements


def _level(row: Row) -> int | None:
    """Of `Level 3` or 3; None where it isn't known (two rows say `Level ?`)."""
    found = re.search(r"\d", str(row.fields.get("level", "")))
    return int(found[0]) if found else None
