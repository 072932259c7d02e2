"""StrategyQA (Geva et al. 2021, arXiv:2101.02235): yes or no, by steps that must be found first.

Chance is 50%, so that many a wrong rationale reaches the right answer, and is kept by STaR's filter
(section 6 of the paper). filters.Agreement asks more of them: see conf/task/strategyqa.yaml.
"""

import re
from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.dataset import DatasetTask, identity
from star_exp.tasks.sources import Row, RowError, text, value

_END = re.compile(r"(?:^|\banswer is:?)\s*(yes|no)\b\W*$", re.IGNORECASE)
_ANYWHERE = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class StrategyQA(DatasetTask):
    stop = ("\n",)
    chance = 0.5  # of a guess: star_exp.config.checks asks more of such a task

    def problem(self, row: Row, split: str) -> Problem:
        answer = value(row, "answer")
        if isinstance(answer, str) and answer.strip().lower() in ("true", "false"):
            answer = answer.strip().lower() == "true"  # CSV has no other way to say it
        if not isinstance(answer, bool):
            raise RowError(f"{row.where}: 'answer' is {answer!r}, expected true or false")
        question = " ".join(text(row, "question").split())
        return Problem(identity(row, split, "qid"), question, "yes" if answer else "no")

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        shown = f" ({problem.answer})" if hint else ""
        return f"Q: {problem.question}{shown}\nA:"

    def direct(self, problem: Problem) -> str:
        return f" {problem.answer}."

    def closing(self, problem: Problem) -> str:
        return f" So the answer is {problem.answer}."

    def answer_lead(self) -> str:
        return " So the answer is"

    def extract(self, completion: str) -> str | None:
        """The yes or no behind "answer is" at the end of the text, or the whole text."""
        found = _END.search(completion)
        return found[1].lower() if found else None

    def extract_loosely(self, completion: str) -> str | None:
        """The last yes or no of the text."""
        found = _ANYWHERE.findall(completion)
        return found[-1].lower() if found else None
