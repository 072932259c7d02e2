"""What a task is. Subclass `Task`, write a YAML file in conf/task/ whose _target_ is the class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from star_exp.records import Problem


@dataclass(frozen=True)
class Exemplar:
    """A problem with a rationale that reaches its answer: what a base model is shown beforehand."""

    problem: Problem
    completion: str


class Task(ABC):
    """Pure functions of its settings: two tasks with the same settings hold the same problems.

    stop: strings that end a completion, beside the model's own end-of-text token.
    """

    stop: tuple[str, ...] = ()

    @abstractmethod
    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of `split`: train, dev, test, ood. ValueError for another name."""

    @abstractmethod
    def prompt(self, problem: Problem, hint: bool = False) -> str:
        """What the model reads. With `hint` the gold answer (only the answer) is shown too."""

    @abstractmethod
    def answer(self, completion: str) -> str | None:
        """What the completion answers, in canonical form; None where no answer can be read off."""

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether this is the right answer; None never is."""
        return answer is not None and answer == problem.answer

    @abstractmethod
    def direct(self, problem: Problem) -> str:
        """The completion that answers at once, without a rationale (the direct baseline)."""

    @abstractmethod
    def exemplars(self, per_group: int) -> list[Exemplar]:
        """`per_group` seed rationales of each group, from the train side of the split."""

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
