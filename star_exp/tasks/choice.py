"""Questions with choices, in the format of STaR for CommonsenseQA (section 4.2, figure 2).

    Q: What do people use to absorb extra ink from a fountain pen?
    Answer Choices:
    (a) shirt pocket
    (e) blotter
    A: ... Therefore, the answer is blotter (e).

The hint of rationalization is a mark behind the right choice: `(e) blotter (CORRECT)`.
"""

import re
from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.dataset import DatasetTask
from star_exp.tasks.sources import Row, RowError

MARK = " (CORRECT)"
_END = re.compile(r"\(([a-z])\)\.?\s*$")
# "(a), (b) or (c)." and "not (c)." name a letter, and don't answer with it
_NO_ANSWER = re.compile(
    r"(?:\bnot|\([a-z]\)(?:[\s,;/]|\bor\b|\band\b)*)\s*\([a-z]\)\.?\s*$", re.IGNORECASE
)
_ANYWHERE = re.compile(r"\(([a-z])\)|\b(?:answer|choice|option) is:? +\(?([a-e])\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Choice(DatasetTask):
    stop = ("\n",)  # a rationale is one line

    def asked(self, row: Row, name: str, stem: str, choices: list[str], letter: str) -> Problem:
        """The problem that asks `stem`; letter: of the right one of `choices`, a for the first."""
        place = ord(letter.lower()) - ord("a") if len(letter) == 1 else -1
        if not 0 <= place < len(choices):
            raise RowError(
                f"{row.where}: the right answer is {letter!r}, and there are {len(choices)} choices"
            )
        lines = [f"({chr(ord('a') + n)}) {text.strip()}" for n, text in enumerate(choices)]
        question = "\n".join([" ".join(stem.split()), "Answer Choices:", *lines])
        return Problem(name, question, letter.lower())

    def stem(self, problem: Problem) -> str:
        """Without the choices."""
        return problem.question.partition("\nAnswer Choices:\n")[0]

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        question = problem.question
        if hint:
            lines = question.split("\n")
            right = next(
                place
                for place in range(len(lines) - 1, 0, -1)
                if lines[place].startswith(f"({problem.answer}) ")
            )
            lines[right] += MARK
            question = "\n".join(lines)
        return f"Q: {question}\nA:"

    def direct(self, problem: Problem) -> str:
        return f" ({problem.answer})."

    def closing(self, problem: Problem) -> str:
        """` Therefore, the answer is blotter (e).`"""
        mark = f"({problem.answer}) "
        choice = next(
            line for line in reversed(problem.question.split("\n")) if line.startswith(mark)
        )
        return (
            f" Therefore, the answer is {choice.removeprefix(mark).rstrip('.')} ({problem.answer})."
        )

    def answer_lead(self) -> str:
        return " Therefore, the answer is"

    def extract(self, completion: str) -> str | None:
        """The letter that the text ends with, as `(e).`; the released code reads it there."""
        found = _END.search(completion)
        return found[1] if found and not _NO_ANSWER.search(completion) else None

    def extract_loosely(self, completion: str) -> str | None:
        """The last letter in parentheses, or behind "the answer is"."""
        found = [first or second for first, second in _ANYWHERE.findall(completion)]
        return found[-1].lower() if found else None
