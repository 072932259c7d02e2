"""What an iteration starts from: the base model, or the last one with an optimizer new or old.

None of these in the config: weights, optimizer and schedule all go on (as B-STaR does).
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from star_exp.callbacks.phase import Phase, iteration_of
from star_exp.modules.base import LanguageModel
from star_exp.seeds import derive


class ResetToBase(Phase):
    """Every iteration fine-tunes M_0 with a fresh optimizer (STaR, Algorithm 1, line 7)."""

    # not called when an epoch is resumed halfway, so restored weights are never wiped
    def on_train_epoch_start(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        base: dict[str, Any] = module.base_weights() if trainer.is_global_zero else {}
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=trainer.world_size > 1
        )
        set_model_state_dict(module.model, base, options=options)  # one call for one device and DDP
        trainer.strategy.setup_optimizers(trainer)


class ResetOptimizer(Phase):
    """Every iteration goes on from the last weights, with a fresh optimizer and learning rate."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        trainer.strategy.setup_optimizers(trainer)


class SeedIteration(pl.Callback):
    """An iteration is a function of weights, data and seed: checkpoints hold no RNG state."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        torch.manual_seed(
            derive(self.seed, "train", iteration_of(trainer), trainer.global_rank) % 2**32
        )
