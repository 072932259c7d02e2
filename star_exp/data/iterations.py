"""What the data of a fit have in common, whatever is trained: a loader for each iteration."""

from abc import abstractmethod

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from star_exp.callbacks.phase import Phase, iteration_of, stopped_early
from star_exp.clock import Clock
from star_exp.modules.base import LanguageModel
from star_exp.prompts import Prompts
from star_exp.rewards import Reward
from star_exp.store import RolloutStore
from star_exp.tasks.base import Task


class IterationData(pl.LightningDataModule):
    """
    reward: what is sampled to be trained on is scored by it; None: right or wrong is all there is.
    num_examples, num_tokens: of the iteration that was prepared last, for the report.
    """

    def __init__(
        self,
        task: Task,
        store: RolloutStore,
        clock: Clock,
        seed: int,
        prompts: Prompts,
        reward: Reward | None = None,
    ):
        super().__init__()
        self.task, self.store, self.clock, self.seed = task, store, clock, seed
        self.prompts, self.reward = prompts, reward
        self.num_examples = 0
        self.num_tokens = 0

    @property
    def trains(self) -> bool:
        """Whether anything is trained; else the base model is measured, and no more."""
        return True

    def told(self) -> dict[str, float]:
        """More of the iteration that was prepared last, as metrics."""
        return {}

    @abstractmethod
    def steps(
        self, module: LanguageModel, iteration: int, rank: int, world: int
    ) -> Dataset[dict[str, Tensor]]:
        """This rank's part of every optimizer step of an iteration."""

    def train_dataloader(self) -> DataLoader:
        """Runs the phases of the coming iteration, and gives exactly the steps of its schedule.

        FitLoop.setup_data asks for it at the start of each epoch: when iteration n-1 is in its
        checkpoint and before iteration n is sized. It is the one place where phases can run and
        still decide how many steps there are.
        """
        trainer = self.trainer
        assert trainer is not None
        iteration, module = iteration_of(trainer), trainer.lightning_module
        assert isinstance(module, LanguageModel)
        phases = [callback for callback in trainer.callbacks if isinstance(callback, Phase)]  # type: ignore[attr-defined]
        remaining = (trainer.max_epochs or 0) - iteration + 1
        if not self.trains or stopped_early(trainer):
            remaining = 0
        for phase in phases if iteration == 1 else ():
            phase.on_base_model(trainer, module)
        for phase in phases if remaining > 0 else ():
            phase.on_iteration_start(trainer, module, iteration)
        if remaining <= 0:  # fit will return at once, without on_train_end
            for phase in phases:
                phase.on_run_end(trainer, module, iteration - 1)
            return DataLoader([], batch_size=None)  # type: ignore[arg-type]
        steps = self.steps(module, iteration, trainer.global_rank, trainer.world_size)
        return DataLoader(steps, batch_size=None, shuffle=False)
