"""Supervised fine-tuning on rollouts: the inner loop of STaR (Algorithm 1, line 7)."""

import torch
from torch import Tensor

from star_exp.modules.base import LanguageModel
from star_exp.modules.loss import summed_loss


class FineTune(LanguageModel):
    """Mean cross-entropy over the trained tokens of a step, wherever its examples lie.

    The sum is divided by the trained tokens of the whole step over all ranks (batch["share"]), so
    that DDP's mean of gradients is the gradient of one process with the whole batch.
    """

    def on_train_epoch_start(self) -> None:
        self.losses: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        loss = summed_loss(self.model, batch) / batch["share"]
        self.losses.append(loss.detach())
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False, sync_dist=True)
        self.log("train/lr", self._learning_rate(), on_step=True, on_epoch=False)
        return loss

    def final_loss(self) -> float:
        """Mean loss a token over the last tenth of the iteration's steps, over all ranks."""
        tail = torch.stack(self.losses[-max(1, len(self.losses) // 10) :]).mean()
        return float(self.trainer.strategy.reduce(tail, reduce_op="mean"))

    def _learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"]
