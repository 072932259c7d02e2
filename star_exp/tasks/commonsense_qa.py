"""CommonsenseQA (Talmor et al. 2019, arXiv:1811.00937) as STaR has it (section 4.2, appendix B)."""

from dataclasses import dataclass

from star_exp.records import Problem
from star_exp.tasks.choice import Choice
from star_exp.tasks.dataset import identity
from star_exp.tasks.sources import Row, RowError, text, value


@dataclass(frozen=True, kw_only=True)
class CommonsenseQA(Choice):
    """Reads the form of the hub, and that of the authors' files (question.stem)."""

    def problem(self, row: Row, split: str) -> Problem:
        stem = text(row, "question.stem", "question")
        choices, labels = _choices(row)
        key = text(row, "answerKey")
        if key not in labels:
            raise RowError(f"{row.where}: 'answerKey' is {key!r}, expected one of {labels}")
        letter = chr(ord("a") + labels.index(key))
        return self.asked(row, identity(row, split, "id"), stem, choices, letter)


def _choices(row: Row) -> tuple[list[str], list[str]]:
    """Texts and labels: of {"label": [...], "text": [...]}, or of [{"label": ..., "text": ...}]."""
    found = value(row, "question.choices", "choices")
    try:
        if isinstance(found, dict):
            pairs = list(zip(found["label"], found["text"], strict=True))
        else:
            pairs = [(choice["label"], choice["text"]) for choice in found]
    except (KeyError, TypeError, ValueError) as error:
        raise RowError(f"{row.where}: the choices can't be read ({error!r})") from error
    return [str(text) for _, text in pairs], [str(label) for label, _ in pairs]
