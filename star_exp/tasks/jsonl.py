r"""Your own problems, from a file: `star-exp run task=jsonl task.path=mine.jsonl`.

    {"question": "...", "answer": "..."}        other names: task.question=, task.answer=

The answer is read off a completion by a regular expression, by default the rest of the line behind
`####`. Two bare numbers are compared as numbers ($1,000.00 is 1000), anything else as text without
regard to case, blanks and a full stop at the end: `10 am` is not `10 pm`, `007` not `7`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from star_exp.checking.numbers import bare, last_number
from star_exp.records import Problem
from star_exp.tasks.dataset import DatasetTask, identity
from star_exp.tasks.sources import Row, RowError, text, value


@dataclass(frozen=True, kw_only=True)
class JsonLines(DatasetTask):
    """
    question, answer: names of the fields; `a.b` is field b within field a.
    groups: fields that metrics are split by.
    pattern: regular expression whose last match in a completion holds the answer, as its first
        group.
    written: how an answer is written so that `pattern` finds it; exemplars end with it.
    ask: how a question is put. shown: what a hint adds to the question.
    ends: texts that end a completion.
    """

    question: str = "question"
    answer: str = "answer"
    groups: Sequence[str] = ()
    pattern: str = r"####\s*(.+)"
    written: str = "\n#### {answer}"
    ask: str = "Q: {question}\nA:"
    shown_answer: str = " ({answer})"
    ends: Sequence[str] = ("\n\n",)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"task.pattern={self.pattern!r} is no regular expression: {error}"
            ) from error
        if groups < 1:
            raise ValueError(
                f"task.pattern={self.pattern!r} has no group; put the part that is the answer in "
                r"parentheses, as in '####\s*(.+)'"
            )
        for name, mark in (
            ("ask", "{question}"),
            ("written", "{answer}"),
            ("shown_answer", "{answer}"),
        ):
            said: str = getattr(self, name)
            if mark not in said:
                raise ValueError(f"task.{name}={said!r}: expected {mark} in it")
            for other in _NAMED.findall(said.replace(mark, " ")):
                raise ValueError(
                    f"task.{name}={said!r}: {other} would stand there as it is; only {mark} is "
                    "filled in"
                )
        if self.extract(self.written.replace("{answer}", "7")) != "7":
            raise ValueError(
                f"task.pattern={self.pattern!r} doesn't find the answer in task.written="
                f"{self.written!r}: a model that learns from the one would be judged by the other"
            )

    @property
    def stop(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.ends)

    def problem(self, row: Row, split: str) -> Problem:
        gold = value(row, self.answer)
        if not isinstance(gold, str | int | float) or not _plain(str(gold)):
            raise RowError(f"{row.where}: {self.answer!r} is {gold!r}, expected text or a number")
        groups = {name: _scalar(row, name) for name in self.groups}
        question = text(row, self.question).strip()
        return Problem(identity(row, split, "id"), question, str(gold).strip(), groups)

    def own_rationale(self, row: Row) -> str:
        """The row's "rationale", with the answer behind it where it doesn't say so itself."""
        said, problem = " " + text(row, "rationale").strip(), self.problem(row, "train")
        right = self.correct(problem, self.extract(said))
        return said if right else said + self.closing(problem)

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        shown = self.shown_answer.replace("{answer}", problem.answer) if hint else ""
        return self.ask.replace("{question}", problem.question + shown)

    def direct(self, problem: Problem) -> str:
        return " " + self.written.replace("{answer}", problem.answer).lstrip()

    def closing(self, problem: Problem) -> str:
        return self.written.replace("{answer}", problem.answer)

    def answer_lead(self) -> str:
        return self.written.partition("{answer}")[0].rstrip()

    def extract(self, completion: str) -> str | None:
        matches = [*re.finditer(self.pattern, completion)]
        return (_plain(matches[-1][1] or "") or None) if matches else None

    def extract_loosely(self, completion: str) -> str | None:
        """The same; or, without a match, the last number of the text."""
        return self.extract(completion) or last_number(completion)

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """Prompts show the gold answer as the file has it; only here is it put into the form."""
        return answer is not None and answer == _plain(problem.answer)


# {steps}, and not the braces of \text{yes} and {"a": 1}
_NAMED = re.compile(r"(?<!\w)\{[A-Za-z_]\w*\}")


def _scalar(row: Row, name: str) -> str:
    """The name of a group: one value. RowError for a list or a mapping."""
    found = value(row, name)
    if not isinstance(found, str | int | float):
        raise RowError(
            f"{row.where}: {name!r} is {found!r}, expected text or a number for task.groups"
        )
    return str(found)


def _plain(text: str) -> str:
    """Canonical form: of a number, or the text in lower case, without a full stop at its end."""
    said = " ".join(text.split()).casefold().removesuffix(".").strip()
    return bare(said) or said
