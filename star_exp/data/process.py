"""What a process reward model is trained on: steps, labelled by how samples go on behind them.

Of 624+259= the solution `4931 2560 6260 #863` is wrong from its second step on:

    4931             8 completions, 5 of them right     1, or 5/8
    4931 2560        8 completions, none right          0
    ...
    the whole        is wrong                           0

Math-Shepherd (Wang et al. 2024, arXiv:2312.08935) calls these hard and soft estimation. Completions
are drawn by callbacks/complete.py.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl

from star_exp.clock import Clock
from star_exp.data.encode import Example
from star_exp.data.steps import begun, judged, step_ends
from star_exp.data.verification import Groups, Solution, VerifierData, verifier_data_of
from star_exp.errors import UserError, did_you_mean
from star_exp.modules.base import LanguageModel
from star_exp.modules.process import ProcessReward
from star_exp.prompts import Prompts
from star_exp.records import Problem, Rollout
from star_exp.sampling.base import Policy
from star_exp.scores import Key, ScoreStore, key
from star_exp.store import RolloutStore, read_shard
from star_exp.tasks.base import Task

log = logging.getLogger("star_exp")

COMPLETIONS = "completions"  # the phase
Tokens = tuple[int, ...]
LABELS = ("hard", "soft")


class ProcessData(VerifierData):
    """
    labels: hard, whether any completion of a step was right; soft, which share of them.
    """

    def __init__(
        self,
        task: Task,
        store: RolloutStore,
        clock: Clock,
        seed: int,
        generator: Path,
        scores: ScoreStore,
        prompts: Prompts,
        groups: Groups,
        batch_size: int,
        iteration: int,
        phases: Sequence[str] = ("solutions", "generate"),
        rounds: int | None = None,
        labels: Literal["hard", "soft"] = "hard",
    ):
        if labels not in LABELS:
            raise UserError(f"verifier.data.labels={labels}: {did_you_mean(labels, LABELS)}")
        super().__init__(
            *(task, store, clock, seed, generator, scores, prompts, groups, batch_size),
            *(iteration, phases, rounds),
        )
        self.labels = labels

    def example(self, policy: Policy, rollout: Rollout) -> Example:
        """A solution behind its question, of which the tokens behind its steps are trained."""
        return judged(policy, self.task, self.prompt(policy, rollout), rollout)

    def unfinished(self, policy: Policy) -> list[tuple[Problem, Tokens]]:
        """What is to be completed: the solutions' first steps, as often as they occur."""
        return [
            (rollout.asked, rollout.tokens[:end])
            for rollout in self.compared
            for end in begun(policy, self.task, rollout)
        ]

    @property
    def completions(self) -> Iterator[Rollout]:
        """Shard by shard: there are many."""
        for path in self.store.shards(self.iteration, COMPLETIONS):
            yield from read_shard(path)

    @cached_property
    def completed(self) -> dict[tuple[str, Tokens], float]:
        """The share of right completions, by problem and what they go on from; unjudged ones are
        left out."""
        drawn: Counter[tuple[str, Tokens]] = Counter()
        right: Counter[tuple[str, Tokens]] = Counter()
        for rollout in self.completions:
            start = rollout.problem, rollout.segments[0].tokens
            drawn[start] += rollout.failed is None
            right[start] += rollout.correct
        return {start: right[start] / number for start, number in drawn.items() if number}

    def labelled_steps(self, policy: Policy, rollout: Rollout) -> dict[int, float]:
        """By its end: the label of each step that has one. That of the whole is its own."""
        shares = {
            end: self.completed[start]
            for end in begun(policy, self.task, rollout)
            if (start := (rollout.problem, rollout.tokens[:end])) in self.completed
        }
        if self.labels == "hard":
            shares = {end: float(share > 0) for end, share in shares.items()}
        whole = [] if rollout.truncated else step_ends(policy, self.task, rollout)[-1:]
        return shares | dict.fromkeys(whole, float(rollout.correct))

    def learned(self, module: LanguageModel) -> dict[Key, Solution]:
        """Of solutions with a labelled step: what was cut off before may have none."""
        assert isinstance(module, ProcessReward)
        found, policy = {}, module.policy
        for rollout in self.compared:
            labels = self.labelled_steps(policy, rollout)
            if not labels:
                continue
            every = module.lm_weight > 0  # a language model's loss is taken on every token
            read = super().example(policy, rollout) if every else self.example(policy, rollout)
            start = len(self.prompt(policy, rollout))
            trained = (place - start for place, trained in enumerate(read.trained) if trained)
            steps = tuple(labels.get(end, -1.0) for end in trained)
            found[key(rollout)] = Solution(read, float(rollout.correct), None, steps)
        if len(found) < len(self.compared):
            log.info(
                "%d of %d solutions were cut off before a step was done, and are left out",
                *(len(self.compared) - len(found), len(self.compared)),
            )
        return found


def process_data_of(trainer: pl.Trainer) -> ProcessData:
    data = verifier_data_of(trainer)
    assert isinstance(data, ProcessData), "this callback belongs to a process reward model's fit"
    return data
