"""Any task of reasoning-gym (Stojanovski et al. 2025, arXiv:2505.24760), with its own scorer.

    star-exp run task=reasoning_gym task.name=chain_sum task.levels='{num_terms: 3}'

Problems are made on the spot, and there are no rationales to learn from but those written here, for
a few tasks, by a function of the problem (EXPLAINED). For the others exemplars answer at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.seeds import derive
from star_exp.tasks.base import Exemplar, Judgement, Task

MARK = "####"
Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(Task):
    """
    name: of the task in reasoning-gym. settings: of its configuration, as they are called there.
    levels: of its curriculum, {attribute: level}, from 0; they come before `settings`.
    groups: keys of an entry's metadata that metrics are split by.
    right_from: score of reasoning-gym's scorer from which an answer counts as right, up to 1.
    shots: exemplars of a few-shot prompt.
    """

    name: str
    settings: Mapping[str, Any] | None = None
    levels: Mapping[str, int] | None = None
    groups: Sequence[str] = ()
    right_from: float = 1.0
    train_size: int = 4000
    dev_size: int = 200
    test_size: int = 500
    shots: int = 4
    seed: int = 0
    max_new_tokens: int = 128

    stop = ("\n\n",)

    def __post_init__(self) -> None:
        if not 0 < self.right_from <= 1:
            raise ValueError(f"task.right_from={self.right_from}: expected a score in (0, 1]")
        for name in ("train_size", "dev_size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}={getattr(self, name)}: expected at least 1")

    def problems(self, split: str) -> Sequence[Problem]:
        """No question is in two splits, or twice in dev or test: test's come first, then dev's."""
        if split == "ood":
            return []
        if split not in ("train", "dev", "test"):
            raise ValueError(f"there is no split {split!r}; there are train, dev and test")
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, list[Problem]]:
        splits: dict[str, list[Problem]] = {}
        taken = {exemplar.problem.question for exemplar in self.exemplars(self.shots)}
        for split in ("test", "dev", "train"):
            made = self._made(split, getattr(self, f"{split}_size"))
            fresh = [problem for problem in made if problem.question not in taken]
            distinct = list({problem.question: problem for problem in fresh}.values())
            splits[split] = fresh if split == "train" else distinct
            taken |= {problem.question for problem in distinct}
        if not splits["train"]:
            raise ValueError(
                f"task.name={self.name}: every question of train is in dev or test too; make dev "
                "and test smaller, or the questions more varied (task.settings)"
            )
        return splits

    def _made(self, split: str, size: int) -> list[Problem]:
        return [self._problem(split, index, entry) for index, entry in self._entries(split, size)]

    def _problem(self, split: str, index: int, entry: Entry) -> Problem:
        groups = {name: str(entry["metadata"].get(name, "?")) for name in self.groups}
        question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
        return Problem(f"{split}/{index}", question, answer, groups)

    def _entries(self, split: str, size: int) -> list[tuple[int, Entry]]:
        made = _gym().dataset(self.name, self._settings, self._seed(split), size)
        return list(enumerate(made))

    def _seed(self, split: str) -> int:
        return derive(self.seed, "reasoning_gym", split) % 2**31

    @cached_property
    def _settings(self) -> Any:
        return _gym().settings(self.name, self.levels or {}, self.settings or {})

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        shown = f" ({problem.answer})" if hint else ""
        return f"Q: {problem.question}{shown}\nA:"

    def direct(self, problem: Problem) -> str:
        return f" {MARK} {problem.answer}"

    def answer_lead(self) -> str:
        return f" {MARK}"

    def extract(self, completion: str) -> str | None:
        """All that stands behind the last ####: an answer may have several lines."""
        _, found, after = completion.rpartition(MARK)
        return (after.strip() or None) if found else None

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """What reasoning-gym's scorer says; it knows of several right answers, where there are."""
        (judgement,) = self._scored([(problem, answer)])
        if isinstance(judgement, str):
            raise ValueError(judgement)
        return judgement >= self.right_from

    def judge(self, written: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        answers = [self.extract(completion) for _, completion in written]
        scores = self._scored([(p, a) for (p, _), a in zip(written, answers, strict=True)])
        judgements = []
        for answer, score in zip(answers, scores, strict=True):
            if isinstance(score, str):
                judgements.append(Judgement(answer, False, False, score))
            else:
                right = score >= self.right_from
                judgements.append(Judgement(answer, right, right))
        return judgements

    def _scored(self, asked: Sequence[tuple[Problem, str | None]]) -> list[float | str]:
        """A score in [0, 1] for each answer, or what the scorer failed with."""
        items = []
        for problem, answer in asked:
            split, _, index = problem.id.partition("/")
            if answer is not None:
                items.append((self.name, self._settings, self._seed(split), int(index), answer))
        outcomes = iter(_gym().WORKERS.map(items))
        scores: list[float | str] = []
        for _, answer in asked:
            outcome = next(outcomes) if answer is not None else None
            scores.append(0.0 if outcome is None else outcome.failed or outcome.value or 0.0)
        return scores

    def exemplars(self, per_group: int) -> list[Exemplar]:
        explain = EXPLAINED.get(self.name, lambda entry: "")
        made = []
        for index, entry in self._entries("seed", per_group):
            problem = self._problem("seed", index, entry)
            made.append(Exemplar(problem, f" {explain(entry)}{self.direct(problem)}"))
        return made

    def shown(self, problem: Problem) -> Sequence[Exemplar]:
        return self.exemplars(self.shots)


# rationales


def _running_total(entry: Entry) -> str:
    """4 - 1 - 7 -> `4-1=3, 3-7=-4`"""
    first, *rest = entry["metadata"]["expression"].split()
    total, steps = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + int(term) if sign == "+" else total - int(term)
        steps.append(f"{total}{sign}{term}={after}")
        total = after
    return ", ".join(steps)


def _letter_by_letter(entry: Entry) -> str:
    """sun -> `n, nu, nus`"""
    backward = entry["metadata"]["word"][::-1]
    return ", ".join(backward[: end + 1] for end in range(len(backward)))


EXPLAINED: dict[str, Callable[[Entry], str]] = {
    "chain_sum": _running_total,
    "spell_backward": _letter_by_letter,
}


def _gym() -> Any:
    """checking/gym.py, which imports reasoning-gym. UserError where that is not installed."""
    try:
        from star_exp.checking import gym
    except ModuleNotFoundError as error:
        raise UserError(
            "task=reasoning_gym needs the package reasoning-gym: pip install 'star-exp[gym]'"
        ) from error
    return gym
