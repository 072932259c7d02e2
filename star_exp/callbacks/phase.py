"""A phase: a Lightning callback with one hook more, and the iteration that it belongs to.

One outer iteration is one Lightning epoch:

    FitLoop.setup_data     IterationData.train_dataloader() -> on_iteration_start of each phase,
                           in config order: M_{n-1} samples what the store does not hold yet
    on_train_epoch_start   ResetToBase, SeedIteration
    training_step ...      fine-tuning on what passed the filters
    on_train_epoch_end     Evaluate, Report, and last ModelCheckpoint: iteration n is durable
"""

from typing import TYPE_CHECKING

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from star_exp.modules.base import LanguageModel

if TYPE_CHECKING:
    from star_exp.data.rollouts import RolloutDataModule


class Phase(pl.Callback):
    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        """Called with M_0, before the first iteration or instead of any. May be called again."""

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        """Called before the training set of `iteration` (from 1) is read, with M_{iteration-1}.

        After a resume it is called twice for the same iteration: what is done must stay done, and
        nothing may be logged here.
        """

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """Called with the last model M_iteration; again where a kill interrupted it."""

    def on_train_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.on_run_end(trainer, module, trained_iterations(trainer))


def iteration_of(trainer: pl.Trainer) -> int:
    """The iteration, from 1, that is being prepared or trained."""
    return trained_iterations(trainer) + 1


def trained_iterations(trainer: pl.Trainer) -> int:
    """How many iterations' training is complete.

    `processed` and not `current_epoch`: in the first call after a resume the latter is one short,
    since checkpoints are written between the two being counted up (fit_loop.py).
    """
    return trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]


def stopped_early(trainer: pl.Trainer) -> bool:
    """Whether early stopping has ended the run; asked after a resume, which forgets that it has."""
    return any(
        isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )


def data_of(trainer: pl.Trainer) -> "RolloutDataModule":
    data = trainer.datamodule  # type: ignore[attr-defined]
    return data


def announce(
    trainer: pl.Trainer, phase: str, iteration: int, done: int, total: int, **counts: int
) -> None:
    """Tells every callback with an `on_progress` hook how far a phase is.

    SIGTERMException where the process was asked to end: Lightning looks no sooner than at the next
    training step, which may be an hour of sampling away.
    """
    if trainer.received_sigterm:
        raise SIGTERMException
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        listener = getattr(callback, "on_progress", None)
        if listener is not None:
            listener(trainer, phase, iteration, done, total, **counts)
