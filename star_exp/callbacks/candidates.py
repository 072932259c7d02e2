"""Candidates: many texts of each held-out problem, from which a verifier or a vote picks one."""

from collections.abc import Sequence

import pytorch_lightning as pl

from star_exp import metrics
from star_exp.callbacks.phase import Phase, data_of
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.data.verification import verifier_data_of
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.records import Rollout
from star_exp.sampling.base import Policy, Sampler


def phase_of(split: str) -> str:
    return f"{split}-candidates"


class Candidates(Phase):
    """`samples` of each problem by the last model: pass@k, majority@k, best-of-k for k up to that.

    V-STaR draws 128 and measures k = 64 on them (section 4.1). Which of them is picked without a
    trained verifier is measured here: by vote, or by the model's own likelihood.
    """

    def __init__(
        self,
        sampler: Sampler,
        samples: int = 128,
        splits: Sequence[str] = ("dev", "test"),
        rollouts_a_shard: int = 4096,
    ):
        if samples < 2:
            raise UserError(f"callbacks.candidates.samples={samples}: expected at least 2")
        self.sampler, self.samples, self.splits = sampler, samples, tuple(splits)
        self.problems_a_shard = max(1, rollouts_a_shard // samples)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        for split in self.splits:
            self._draw(trainer, module.policy, iteration, split)

    def _draw(self, trainer: pl.Trainer, policy: Policy, iteration: int, split: str) -> None:
        data = data_of(trainer)
        work = Work(
            task=data.task,
            phase=phase_of(split),
            iteration=iteration,
            trained=iteration,
            problems=data.task.problems(split),
            samples=self.samples,
            problems_a_shard=self.problems_a_shard,
        )
        sample_phase(trainer, policy, data, work, self.sampler)

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The metrics of an iteration, for the report; {} for all but the last."""
        store, values = data_of(trainer).store, {}
        for split in self.splits:
            rollouts = store.read(iteration, phase_of(split))
            values |= metrics.candidates(split, rollouts)
            values |= metrics.selected(split, rollouts, "likelihood", own_likelihood(rollouts))
        return values


class CandidatesOfGenerator(Candidates):
    """In a verifier's fit: the same, by the generator's last model, where its run drew none."""

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        data = verifier_data_of(trainer)
        for split in self.splits:
            if not data.solutions.shards(data.iteration, phase_of(split)):
                self._draw(trainer, data.writer(module.policy), data.iteration, split)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """All is drawn when the fit begins."""

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """What needs no verifier, beside what the last one gives."""
        data, values = verifier_data_of(trainer), {}
        for split in self.splits if iteration == trainer.max_epochs else ():
            rollouts = data.candidates(split)
            values |= metrics.candidates(split, rollouts)
            values |= metrics.selected(split, rollouts, "likelihood", own_likelihood(rollouts))
        return values


def own_likelihood(rollouts: Sequence[Rollout]) -> list[float]:
    """log p of each under the model that wrote it, as it was sampled: a verifier for free."""
    return [rollout.logprob for rollout in rollouts]
