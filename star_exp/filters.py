"""Which rollouts are trained on: filters list[Rollout] -> list[Rollout], applied in order."""

from collections import Counter
from dataclasses import dataclass

from star_exp.records import Rollout


@dataclass(frozen=True)
class Correct:
    """Those that reach the right answer, ended by themselves (STaR, Algorithm 1, lines 5 and 6)."""

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        return [rollout for rollout in rollouts if rollout.correct and not rollout.truncated]


@dataclass(frozen=True)
class Distinct:
    """The first of those with the same question and the same text, whatever their problems' ids."""

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        first = {}
        for rollout in rollouts:
            first.setdefault((rollout.question, rollout.text), rollout)
        return list(first.values())


@dataclass(frozen=True)
class AtMost:
    """At most `per_problem` rollouts of a problem, the first ones."""

    per_problem: int

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        seen: Counter[str] = Counter()
        kept = []
        for rollout in rollouts:
            seen[rollout.problem] += 1
            if seen[rollout.problem] <= self.per_problem:
                kept.append(rollout)
        return kept
