"""Any task of reasoning-gym (Stojanovski et al. 2025, arXiv:2505.24760), with its own scorer.

    star-exp run task=reasoning_gym task.name=chain_sum task.levels='{num_terms: 3}'

Problems are made on the spot, and there are no rationales to learn from but those written here, for
a few tasks, by a function of the problem (EXPLAINED). For the others exemplars answer at once.
"""

import logging
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from star_exp.checking.numbers import canonical, last_number
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.seeds import derive
from star_exp.tasks.base import Exemplar, Judgement, Task

log = logging.getLogger("star_exp")

MARK = "####"
ROUND = 100  # entries that are at least drawn at a time
ROUNDS = 10  # as many as are wanted, at most, until all of them are found
FEW = 0.02  # with a smaller share of new questions in a round there are no more to be found
TRIED = 20  # gold answers that are scored before any other
NO_ANSWER = "-?-"
_SAID = re.compile(r".*\banswer is:? *", re.IGNORECASE)

Entry = Mapping[str, Any]
Made = list[tuple[Problem, Entry]]
Answers = Sequence[tuple[Problem, str | None]]


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(Task):
    """
    name: of the task in reasoning-gym. settings: of its configuration, as they are called there.
    levels: of its curriculum, {attribute: level}, from 0; they come before `settings`.
    groups: keys of an entry's metadata that metrics are split by.
    right_from: score of reasoning-gym's scorer from which an answer counts as right, up to 1.
    seed_pool: questions kept for seed rationales, at most a quarter of those that train could have
        where they run out.
    shots: exemplars of a few-shot prompt, the first of seed_pool.
    max_failed: share of checks that may fail before the run is stopped.
    """

    name: str
    settings: Mapping[str, Any] | None = None
    levels: Mapping[str, int] | None = None
    groups: Sequence[str] = ()
    right_from: float = 1.0
    train_size: int = 4000
    dev_size: int = 200
    test_size: int = 500
    seed_pool: int = 400
    shots: int = 4
    seed: int = 0
    max_new_tokens: int = 128
    max_failed: float = 0.02

    stop = ("\n\n",)

    def __post_init__(self) -> None:
        if not 0 < self.right_from <= 1:
            raise ValueError(f"task.right_from={self.right_from}: expected a score in (0, 1]")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"task.max_failed={self.max_failed}: expected a share in [0, 1]")
        for name in ("train_size", "dev_size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.shots <= self.seed_pool:
            raise ValueError(
                f"task.shots={self.shots}, task.seed_pool={self.seed_pool}: expected 0 <= shots <= "
                "seed_pool"
            )

    def problems(self, split: str) -> Sequence[Problem]:
        """No question is there twice, be it in two splits or in one.

        UserError where dev or test would be less than half of what is asked for.
        """
        if split == "ood":
            return []
        if split not in ("train", "dev", "test"):
            raise ValueError(f"there is no split {split!r}; there are train, dev and test")
        return [problem for problem, _ in self._made[split]]

    def left_out(self, split: str) -> int:
        """Entries whose gold answer can't be written: it is empty, or ends the completion."""
        return self._unwritten.get(split, 0)

    @cached_property
    def _made(self) -> dict[str, Made]:
        """test, dev, train and, beside train, seed: the pool that exemplars come from."""
        test = self._distinct("test", self.test_size, set())
        self._vet(test[:TRIED])
        taken = {problem.question for problem, _ in test}
        dev = self._distinct("dev", self.dev_size, taken)
        taken |= {problem.question for problem, _ in dev}
        rest = self._distinct("train", self.train_size + self.seed_pool, taken)
        pool = min(self.seed_pool, max(len(rest) // 4, len(rest) - self.train_size))
        train = rest[pool : pool + self.train_size]
        made = {"test": test, "dev": dev, "train": train, "seed": rest[:pool]}
        for split in ("test", "dev", "train"):
            self._describe(split, len(made[split]), getattr(self, f"{split}_size"))
        return made

    def _distinct(self, split: str, size: int, taken: set[str]) -> Made:
        """`size` problems whose questions differ and aren't `taken`; fewer if there are no more."""
        found: dict[str, tuple[Problem, Entry]] = {}
        drawn, self._unwritten[split] = max(size, ROUND), 0
        for turn in range(ROUNDS):
            before = len(found)
            seed = derive(self.seed, "reasoning_gym", split, turn) % 2**31
            entries = _gym().entries(self.name, self._settings, seed, drawn)
            for index, entry in enumerate(entries, start=turn * drawn):
                problem = self._problem(f"{split}/{index}", entry)
                if problem is None:
                    self._unwritten[split] += 1
                elif problem.question not in taken:
                    found.setdefault(problem.question, (problem, entry))
                if len(found) == size:
                    return list(found.values())
            if len(found) - before < FEW * drawn:
                break
        return list(found.values())

    def _problem(self, name: str, entry: Entry) -> Problem | None:
        """None if its answer can't be written. UserError if it has none."""
        if entry["answer"] is None:
            raise UserError(
                f"task.name={self.name} has no gold answer to its question {name}, only a scorer: "
                "there is nothing to learn from; take another task of reasoning-gym"
            )
        groups = {key: str(entry["metadata"].get(key, "?")) for key in self.groups}
        question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
        problem = Problem(name, question, answer, groups)
        written = self.direct(problem)
        cut = any(stop in written for stop in self.stop)
        return None if cut or self.extract(written) != answer else problem

    def _vet(self, made: Made) -> None:
        """UserError for a task whose scorer takes a gold answer for wrong, or any for right."""
        golds = self._scores([(entry, problem.answer) for problem, entry in made])
        for (problem, _), score in zip(made, golds, strict=True):
            if isinstance(score, str):
                raise UserError(
                    f"task.name={self.name}: its scorer fails on its own gold answer "
                    f"{problem.answer!r}: {score}"
                )
            if score < self.right_from:
                raise UserError(
                    f"task.name={self.name}: its gold answer {problem.answer!r} gets the score "
                    f"{score:g}, less than task.right_from={self.right_from:g}; lower that, or "
                    "take another task of reasoning-gym"
                )
        others = self._scores([(entry, NO_ANSWER) for _, entry in made])
        most = max((score for score in others if not isinstance(score, str)), default=0.0)
        if most >= self.right_from:
            raise UserError(
                f"task.name={self.name}: its scorer gives {NO_ANSWER!r} the score {most:g}, and "
                f"task.right_from={self.right_from:g} makes that right, as it would anything; take "
                "another task of reasoning-gym"
            )

    def _describe(self, split: str, found: int, wanted: int) -> None:
        """What is said of a split that is smaller than asked for."""
        if found == wanted:
            return
        said = (
            f"task.name={self.name} has {found} questions for {split}, instead of "
            f"task.{split}_size={wanted}: with these settings no more are found"
        )
        if not found or (split != "train" and 2 * found < wanted):
            raise UserError(
                f"{said}; make task.test_size and task.dev_size smaller, or the questions more "
                "varied (task.settings, task.levels)"
            )
        log.warning(said)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {problem.id: entry for made in self._made.values() for problem, entry in made}

    @cached_property
    def _unwritten(self) -> dict[str, int]:
        return {}

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
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

    def extract_loosely(self, completion: str) -> str | None:
        """The last line, from behind "answer is" where it says so, without its full stop."""
        _, _, after = completion.rpartition(MARK)
        line = after.strip().rpartition("\n")[2]
        return _SAID.sub("", line).strip().removesuffix(".") or None

    def _loosely(self, problem: Problem, completion: str) -> str | None:
        """The same, by what the gold answer is: the last number, or as many lines as it has."""
        _, _, after = completion.rpartition(MARK)
        number, lines = canonical(problem.answer), len(problem.answer.splitlines())
        if number is not None:
            found = last_number(after)
            return problem.answer if found == number else found  # 0.50 may have to be "0.50"
        if lines > 1:
            return "\n".join(after.rstrip().splitlines()[-lines:]).strip() or None
        return self.extract_loosely(completion)

    def correct(self, problem: Problem, answer: str | None) -> bool:
        """What reasoning-gym's scorer says; it knows of several right answers, where there are."""
        (judgement,) = self._scored([(problem, answer)])
        if isinstance(judgement, str):
            raise ValueError(judgement)
        return judgement >= self.right_from

    def judge(self, written: Sequence[tuple[Problem, str]]) -> list[Judgement]:
        strict = [(problem, self.extract(said)) for problem, said in written]
        loose = [(problem, self._loosely(problem, said)) for problem, said in written]
        scores, other_scores = self._scored(strict), self._scored(_where_other(loose, strict))
        judgements = []
        for (_, answer), score, other in zip(strict, scores, other_scores, strict=True):
            if isinstance(score, str):
                judgements.append(Judgement(answer, False, False, score))
            else:
                right = score >= self.right_from
                lenient = not isinstance(other, str) and other >= self.right_from
                judgements.append(Judgement(answer, right, right or lenient))
        return judgements

    def _scored(self, asked: Answers) -> list[float | str]:
        return self._scores([(self._entries[problem.id], answer) for problem, answer in asked])

    def _scores(self, asked: Sequence[tuple[Entry, str | None]]) -> list[float | str]:
        """A score in [0, 1] for each answer, or what the scorer failed with."""
        chosen = pickle.dumps(self._settings)
        answered = [(entry, answer) for entry, answer in asked if answer is not None]
        outcomes = iter(_gym().WORKERS.map((self.name, chosen, *each) for each in answered))
        scores: list[float | str] = []
        for _, answer in asked:
            outcome = next(outcomes) if answer is not None else None
            scores.append(0.0 if outcome is None else outcome.failed or outcome.value or 0.0)
        return scores

    def exemplars(self, per_group: int) -> list[Exemplar]:
        """Of a pool whose questions are in no split. UserError if that holds fewer."""
        if per_group > len(self._pool):
            raise UserError(
                f"{per_group} seed rationales are asked for (model.seed_rationales, or "
                f"task.shots), and task.name={self.name} has {len(self._pool)} questions for them "
                f"(task.seed_pool={self.seed_pool}); make the one smaller or the other larger"
            )
        return self._pool[:per_group]

    def shown(self, problem: Problem) -> Sequence[Exemplar]:
        return self.exemplars(self.shots)

    @cached_property
    def _pool(self) -> list[Exemplar]:
        explain = EXPLAINED.get(self.name, lambda entry: "")
        return [
            Exemplar(problem, f" {explain(entry)}{self.direct(problem)}")
            for problem, entry in self._made["seed"]
        ]


def _where_other(loose: Answers, strict: Answers) -> Answers:
    """No answer where both read the same: it needs no second score."""
    return [(p, a if a != b else None) for (p, a), (_, b) in zip(loose, strict, strict=True)]


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
