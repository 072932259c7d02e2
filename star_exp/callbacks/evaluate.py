"""How good each model is: greedy samples of held-out problems, kept in the store like others."""

from collections.abc import Sequence

import pytorch_lightning as pl

from star_exp import metrics
from star_exp.callbacks.phase import Phase, data_of, trained_iterations
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.modules.base import LanguageModel
from star_exp.sampling.base import Sampler


class Evaluate(Phase):
    """
    splits: of the task, measured for the base model and after every iteration.
    final_splits: measured for the base model and for the last one only.
    """

    def __init__(
        self, sampler: Sampler, splits: Sequence[str] = ("dev",), final_splits: Sequence[str] = ()
    ):
        self.sampler = sampler
        self.splits, self.final_splits = tuple(splits), tuple(final_splits)

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.measure(trainer, module, 0, (*self.splits, *self.final_splits))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        iteration = trained_iterations(trainer)
        self.measure(trainer, module, iteration, self.splits)
        for split in self.splits:  # logged so that checkpoints and early stopping may go by it
            rollouts = data_of(trainer).store.read(iteration, split)
            module.log(
                f"{split}/accuracy", metrics.accuracy(rollouts), logger=False, sync_dist=True
            )

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        self.measure(trainer, module, iteration, self.final_splits)

    def measure(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int, splits: Sequence[str]
    ) -> None:
        data = data_of(trainer)
        for split in splits:
            work = Work(
                task=data.task,
                phase=split,
                iteration=iteration,
                trained=iteration,
                problems=data.task.problems(split),
            )
            if work.problems:
                sample_phase(trainer, module.policy, data, work, self.sampler)
