"""The weights of one iteration, kept for what comes after the run."""

from pathlib import Path

import pytorch_lightning as pl

from star_exp.callbacks.phase import Phase, trained_iterations
from star_exp.modules.base import LanguageModel

SFT = "sft.safetensors"  # G_SFT of V-STaR: from which a verifier starts, and its frozen reference
MADE = "sft"  # the run below a verifier's that makes it, where the generator's kept none


class KeepSFT(Phase):
    """Keeps what the first iteration trained, on the solutions that came with the problems."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        if trained_iterations(trainer) == 1 and trainer.is_global_zero:
            module.save_trained(self.folder / SFT)
