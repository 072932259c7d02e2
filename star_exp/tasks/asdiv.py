"""ASDiv (Miao et al. 2020, arXiv:2106.15772): diverse word problems of primary school.

As papers mostly do, only rows whose answer is one number are problems: 2,094 of the 2,305. The
others ask for a name, a time, a ratio, or several numbers.
"""

from dataclasses import dataclass

from star_exp.checking.numbers import canonical
from star_exp.records import Problem
from star_exp.tasks.sources import NotAsked, Row, text
from star_exp.tasks.word_problem import WordProblem


@dataclass(frozen=True, kw_only=True)
class ASDiv(WordProblem):
    def problem(self, row: Row, split: str) -> Problem:
        gold = self.gold(row)
        if canonical(gold) is None:
            raise NotAsked(f"{row.where}: the answer is {gold!r}, not one number")
        return super().problem(row, split)

    def question(self, row: Row) -> str:
        return f"{text(row, 'Body', 'body').strip()} {text(row, 'Question', 'question').strip()}"

    def gold(self, row: Row) -> str:
        return text(row, "Answer", "answer")
