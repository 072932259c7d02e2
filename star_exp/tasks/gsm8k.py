"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168) as STaR has it (section 4.2, appendix I)."""

import re
from dataclasses import dataclass

from star_exp.tasks.sources import Row, RowError, text
from star_exp.tasks.word_problem import MARK, WordProblem


@dataclass(frozen=True, kw_only=True)
class GSM8K(WordProblem):
    """calculator: whether exemplars keep the annotations <<48/2=24>>; they are plain text."""

    calculator: bool = True

    def question(self, row: Row) -> str:
        return text(row, "question")

    def gold(self, row: Row) -> str:
        _, found, after = text(row, "answer").rpartition(MARK)
        if not found:
            raise RowError(f"{row.where}: 'answer' has no line {MARK} with the final answer")
        return after.strip()

    def own_rationale(self, row: Row) -> str:
        solution = text(row, "answer")
        return " " + (solution if self.calculator else re.sub("<<[^>]*>>", "", solution))
