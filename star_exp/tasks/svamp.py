"""SVAMP (Patel et al. 2021, arXiv:2103.07191): simple word problems, varied to trap shortcuts."""

from dataclasses import dataclass

from star_exp.tasks.sources import Row, number, text
from star_exp.tasks.word_problem import WordProblem


@dataclass(frozen=True, kw_only=True)
class SVAMP(WordProblem):
    def question(self, row: Row) -> str:
        """The body, which a full stop ends, and the question."""
        body = text(row, "Body").strip().rstrip(",")
        return f"{body}{'' if body.endswith(('.', '?', '!')) else '.'} {text(row, 'Question')}"

    def gold(self, row: Row) -> str:
        return str(number(row, "Answer"))
