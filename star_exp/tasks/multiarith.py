"""MultiArith (Roy and Roth 2015, arXiv:1608.01413): word problems of two or more steps."""

from dataclasses import dataclass

from star_exp.tasks.sources import Row, number, text
from star_exp.tasks.word_problem import WordProblem


@dataclass(frozen=True, kw_only=True)
class MultiArith(WordProblem):
    def question(self, row: Row) -> str:
        return text(row, "question", "input")

    def gold(self, row: Row) -> str:
        return str(number(row, "final_ans", "target"))
