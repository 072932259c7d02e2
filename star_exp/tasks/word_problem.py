"""Arithmetic word problems whose answer is one number, in the format of GSM8K.

    Q: Ann has 3 bags with 4 nuts each. How many nuts does she have?
    A: Ann has 3*4=12 nuts.
    #### 12

The hint of rationalization is the answer in parentheses behind the question (STaR, section 3.2):
`... does she have? (12)`. The released code of STaR puts the whole human solution there by mistake.
"""

from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass

from star_exp.checking.numbers import canonical, last_number
from star_exp.records import Problem
from star_exp.tasks.dataset import DatasetTask, identity
from star_exp.tasks.sources import Row, RowError, text, value

MARK = "####"


@dataclass(frozen=True, kw_only=True)
class WordProblem(DatasetTask):
    stop = ("\n\n",)

    @abstractmethod
    def question(self, row: Row) -> str: ...

    @abstractmethod
    def gold(self, row: Row) -> str:
        """The gold answer as the data write it."""

    def problem(self, row: Row, split: str) -> Problem:
        gold = _number(row, self.gold(row))
        return Problem(self.name(row, split), self.question(row).strip(), gold)

    def exemplar_problem(self, row: Row) -> Problem:
        """A row of the dataset, or of any word problem: {"question": ..., "answer": "12"}."""
        with suppress(RowError):
            return self.problem(row, "exemplar")
        gold = _number(row, str(value(row, "answer")))
        return Problem(f"exemplar/{row.number}", text(row, "question").strip(), gold)

    def name(self, row: Row, split: str) -> str:
        return identity(row, split, "ID", "id")

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        shown = f" ({problem.answer})" if hint else ""
        return f"Q: {problem.question}{shown}\nA:"

    def direct(self, problem: Problem) -> str:
        return f" {MARK} {problem.answer}"

    def closing(self, problem: Problem) -> str:
        return f"\n{MARK} {problem.answer}"

    def answer_lead(self) -> str:
        return f"\n{MARK}"

    def extract(self, completion: str) -> str | None:
        """What stands behind the first ####, on its line, if that is one number.

        Equality is that of numbers: the released code of STaR compares texts, so that 1080 would
        not be 1,080.
        """
        _, found, after = completion.partition(MARK)
        return canonical(after.split("\n")[0]) if found else None

    def extract_loosely(self, completion: str) -> str | None:
        """The last number of the text."""
        return last_number(completion)


def _number(row: Row, gold: str) -> str:
    """In canonical form. RowError unless it is one number."""
    number = canonical(gold)
    if number is None:
        raise RowError(f"{row.where}: the answer is {gold!r}, expected one number")
    return number
