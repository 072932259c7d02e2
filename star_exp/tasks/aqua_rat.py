"""AQuA-RAT (Ling et al. 2017, arXiv:1705.04146): algebra questions with five choices."""

import re
from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.choice import Choice
from star_exp.tasks.dataset import identity
from star_exp.tasks.sources import Row, RowError, text, value


@dataclass(frozen=True, kw_only=True)
class AquaRat(Choice):
    """Options bring their letters along, `A)21`: they are written as `(a) 21` here."""

    def problem(self, row: Row, split: str) -> Problem:
        options = value(row, "options")
        if not isinstance(options, list) or not all(isinstance(each, str) for each in options):
            raise RowError(f"{row.where}: 'options' is {options!r}, expected a list of texts")
        choices = [re.sub(r"^\s*\(?[A-E]\s*\)\s*", "", option) for option in options]
        name = identity(row, split)
        return self.asked(row, name, text(row, "question"), choices, text(row, "correct"))
