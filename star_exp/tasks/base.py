"""What a task is. Subclass `Task`, write a YAML file in conf/task/ whose _target_ is the class."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from star_exp.equations import equations
from star_exp.records import Problem

LINE = re.compile(r"^.*\S", re.MULTILINE)  # a line that holds more than blanks
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Exemplar:
    """A problem with a rationale that reaches its answer: what a base model is shown beforehand."""

    problem: Problem
    completion: str


@dataclass(frozen=True)
class Judgement:
    """How a completion was judged: right, wrong, or not at all.

    answer: what it answers, in canonical form; None where no answer could be read off.
    lenient: whether a looser reading finds the right answer; true wherever `correct` is.
    failed: what the checker failed with; None where it judged.
    """

    answer: str | None
    correct: bool
    lenient: bool
    failed: str | None = None


class Task(ABC):
    """Pure functions of its settings: two tasks with the same settings hold the same problems.

    stop: strings that end a completion, beside the model's own end-of-text token.
    separator: what stands between exemplars, and before the question, in a few-shot prompt.
    max_failed: share of judgements that may fail before a run is stopped.
    """

    stop: tuple[str, ...] = ()
    separator: str = "\n\n"
    max_failed: float = 0.02

    @abstractmethod
    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of `split`: train, dev, test, ood. ValueError for another name."""

    def left_out(self, split: str) -> int:
        """How many rows of `split` could not be used, and were left out."""
        return 0

    @abstractmethod
    def prompt(self, problem: Problem, hint: bool = False) -> str:
        """The question as the model reads it. With `hint` the gold answer (only it) is shown."""

    @abstractmethod
    def extract(self, completion: str) -> str | None:
        """What the completion answers, in canonical form; None where no answer can be read off."""

    def extract_loosely(self, completion: str) -> str | None:
        """The same, read with more good will: what a reader would take for its answer."""
        return self.extract(completion)

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether this is the right answer; None never is."""
        return answer is not None and answer == problem.answer

    def judge(self, written: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        """Judges (problem, completion) pairs, in their order.

        An exception is a check that failed, not a wrong answer. Tasks whose check may hang or take
        much memory do it in worker processes (checking/workers.py).
        """
        return [self._judge(problem, completion) for problem, completion in written]

    def _judge(self, problem: Problem, completion: str) -> Judgement:
        try:
            answer = self.extract(completion)
            correct = self.correct(problem, answer)
        except Exception as error:  # a checker may fail in any way on what a model writes
            return Judgement(None, False, False, f"{type(error).__name__}: {error}")
        try:
            lenient = correct or self.correct(problem, self.extract_loosely(completion))
        except Exception:  # on what was no answer to begin with
            lenient = False
        return Judgement(answer, correct, lenient)

    def steps(self, completion: str) -> list[int]:
        """Where each step ends: offsets of characters, exclusive and increasing; [] if it's blank.

        By default a step is a line, with its newline and the blank lines behind it. The last step
        ends with the completion.
        """
        return step_ends(completion, LINE)

    def equations(self, completion: str) -> Sequence[str]:
        """What distinct equations are counted of, without spaces (see equations.py)."""
        return equations(completion)

    def right_steps(self, problem: Problem, completion: str) -> list[bool] | None:
        """Of each step whether it and all before it are right; None where nobody knows.

        The truth that automatic labels of steps are measured by; nothing is trained on it.
        """
        return None

    @abstractmethod
    def direct(self, problem: Problem) -> str:
        """The completion that answers at once, without a rationale (the direct baseline)."""

    @abstractmethod
    def exemplars(self, per_group: int) -> list[Exemplar]:
        """`per_group` seed rationales of each group, from the train side of the split."""

    def solved(self) -> list[Exemplar]:
        """The problems of train with the completion that a human wrote, where there is one."""
        return []

    def shown(self, problem: Problem) -> Sequence[Exemplar]:
        """The exemplars of a few-shot prompt for this problem, in their order."""
        raise ValueError(f"{type(self).__name__} has no exemplars for a few-shot prompt")

    def answer_lead(self) -> str:
        """What stands right before the answer in a completion, "" where that is not known: put
        behind a part of a rationale, it makes a model answer at once."""
        return ""

    def exemplar_texts(self, per_group: int) -> list[tuple[str, str]]:
        """(prompt, rationale) of every seed rationale, without and with the answer shown."""
        return [
            (self.prompt(exemplar.problem, hint), exemplar.completion)
            for exemplar in self.exemplars(per_group)
            for hint in (False, True)
        ]

    def longest_completion(self) -> int:
        """Characters of the longest reference completion, 0 where that is not known."""
        return 0


def step_ends(completion: str, begins: re.Pattern[str]) -> list[int]:
    """The ends of steps of which each goes from one match of `begins` to the next.

    What precedes the first match belongs to the first step.
    """
    starts = [found.start() for found in begins.finditer(completion)]
    return [*starts[1:], len(completion)] if starts else []


def step_texts(completion: str, ends: Sequence[int]) -> list[str]:
    """Each step without the blanks around it: those at its end may not have been written yet."""
    return [completion[start:end].strip() for start, end in pairwise((0, *ends))]
