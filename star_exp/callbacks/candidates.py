"""Candidates: many texts of each held-out problem, from which a verifier or a vote picks one."""

from collections.abc import Sequence

import pytorch_lightning as pl

from star_exp import metrics
from star_exp.callbacks.phase import Phase, data_of, trained_iterations
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.data.verification import verifier_data_of
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.records import Rollout
from star_exp.sampling.base import Policy, Sampler
from star_exp.tasks.base import Task


def phase_of(split: str) -> str:
    return f"{split}-candidates"


class Candidates(Phase):
    """`samples` of each problem: pass@k, majority@k, best-of-k for k up to that.

    V-STaR draws 128 and measures k = 64 on them (section 4.1). Which of them is picked without a
    trained verifier is measured here: by vote, by the model's own likelihood, or by the reward
    model that a run has.

    splits: by the base model and after every iteration; final_splits: by the last model.
    """

    def __init__(
        self,
        sampler: Sampler,
        samples: int = 128,
        splits: Sequence[str] = (),
        final_splits: Sequence[str] = ("dev", "test"),
        rollouts_a_shard: int = 4096,
    ):
        if samples < 2:
            raise UserError(f"callbacks.candidates.samples={samples}: expected at least 2")
        self.sampler, self.samples = sampler, samples
        self.splits, self.final_splits = tuple(splits), tuple(final_splits)
        self.problems_a_shard = max(1, rollouts_a_shard // samples)

    @property
    def all_splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.splits, *self.final_splits)))

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        for split in self.splits:
            self._draw(trainer, module.policy, 0, split)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        for split in self.splits:
            self._draw(trainer, module.policy, trained_iterations(trainer), split)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        for split in self.final_splits:
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
            rewarded=True,
            problems_a_shard=self.problems_a_shard,
        )
        sample_phase(trainer, policy, data, work, self.sampler)

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The metrics of an iteration, for the report; {} where nothing was drawn."""
        data, values = data_of(trainer), {}
        for split in self.all_splits:
            rollouts = data.store.read(iteration, phase_of(split))
            values |= picked(split, rollouts, data.task)
            if rollouts and data.reward is not None:  # alone: the sum knows the right answer
                given = [data.reward.given(rollout) for rollout in rollouts]
                values |= metrics.selected(split, rollouts, "reward", given, probable=True)
        return values


class CandidatesOfGenerator(Candidates):
    """In a verifier's fit: the same, by the generator's last model, where its run drew none."""

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        data = verifier_data_of(trainer)
        for split in self.all_splits:
            if not data.solutions.shards(data.iteration, phase_of(split)):
                self._draw(trainer, data.writer(module.policy), data.iteration, split)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        """All is drawn when the fit begins."""

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """All is drawn when the fit begins."""

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """What needs no verifier, beside what the last one gives."""
        data, values = verifier_data_of(trainer), {}
        for split in self.all_splits if iteration == trainer.max_epochs else ():
            values |= picked(split, data.candidates(split), data.task)
        return values


def picked(split: str, rollouts: Sequence[Rollout], task: Task) -> dict[str, float]:
    """How good candidates are, and those that are picked without a verifier being trained."""
    values = metrics.candidates(split, rollouts, task.equations)
    values |= metrics.selected(split, rollouts, "likelihood", own_likelihood(rollouts))
    return values


def own_likelihood(rollouts: Sequence[Rollout]) -> list[float]:
    """log p of each under the model that wrote it, as it was sampled: a verifier for free."""
    return [rollout.logprob for rollout in rollouts]
