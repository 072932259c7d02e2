"""The loggers that conf/logger/ names, each bound to the run that it logs.

A builder takes the settings of its YAML file and gives a function of the run: Hydra instantiates it
before a run directory exists.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from star_exp.errors import UserError
from star_exp.metrics import metric

log = logging.getLogger("star_exp")
AGENT = "WANDB_RUN_ID"  # the id of the run that an agent started, which can have no other


@dataclass(frozen=True)
class RunInfo:
    """What a logger says of the run. group: all seeds of one cell; run_id: kept across resumes.

    part: "train", the run itself; a fit that it needs: "verifier", "sft" (G_SFT), "reward".
    """

    folder: Path
    run_id: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    part: str = "train"


Builder = Callable[[RunInfo], Logger | None]  # None: this one does not log that part


def csv_logger() -> Builder:
    """csv/version_<n>/metrics.csv in the run directory, a new version for each start."""

    def build(run: RunInfo) -> Logger:
        logger = CSVLogger(run.folder, name="csv", flush_logs_every_n_steps=1)  # a kill loses none
        logger.log_hyperparams(run.config)
        return logger

    return build


def tensorboard_logger() -> Builder:
    def build(run: RunInfo) -> Logger:
        try:
            logger = TensorBoardLogger(save_dir=run.folder, name="tensorboard", version="")
            logger.log_hyperparams(run.config)
            return logger
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the package tensorboard: "
                'pip install "star-exp[tensorboard]", or choose logger=wandb or logger=csv'
            ) from error

    return build


def wandb_logger(
    project: str, entity: str | None = None, offline: bool | None = None, artifacts: bool = True
) -> Builder:
    """Weights & Biases. offline None: unless logged in. Never a prompt, never an account needed.

    Under an agent for the run itself alone: it has one W&B run for all that its command does, and
    a part that came to log into it would also finish it.
    """

    def build(run: RunInfo) -> Logger | None:
        if os.environ.get(AGENT) and run.part != "train":
            return None
        return RolloutWandbLogger(
            project=project,
            entity=entity,
            offline=is_offline() if offline is None else offline,
            artifacts=artifacts,
            run=run,
        )

    return build


class RolloutWandbLogger(WandbLogger):
    """Lightning's, with an explicit step, exact metric definitions, and rollouts.

    The step is the optimizer's, given with every row: offline, W&B would count anew from 0 at each
    resume, and the fragments of one run would overlap.
    """

    def __init__(
        self, project: str, entity: str | None, offline: bool, artifacts: bool, run: RunInfo
    ):
        import wandb

        super().__init__(
            project=project,
            entity=entity,
            save_dir=run.folder,
            offline=offline,
            mode="offline"
            if offline
            else "online",  # what is set by `offline` alone comes too late
            id=os.environ.get(AGENT) or run.run_id,
            name=run.name,
            group=run.group,
            job_type=run.part,
            tags=list(run.tags),
            config=run.config,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._wandb_init.pop("anonymous")  # of no effect in wandb 0.31, and it warns of it
        self.artifacts = artifacts
        self._defined: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics, step=None) -> None:
        self._define(metrics)
        values = dict(metrics) if step is None else {**metrics, "trainer/global_step": step}
        self.experiment.log(values, step=step)

    @rank_zero_only
    def log_rollout_table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]], iteration: int, step: int
    ) -> None:
        import wandb

        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        self.experiment.log({"rollouts": table, "iteration": iteration}, step=step)

    @rank_zero_only
    def log_picture(self, path: Path, iteration: int, step: int) -> None:
        import wandb

        self.experiment.log({path.stem: wandb.Image(str(path)), "iteration": iteration}, step=step)

    @rank_zero_only
    def log_rollout_files(
        self, iteration: int, files: Sequence[Path], counts: dict[str, Any]
    ) -> None:
        """The rationales of an iteration as an artifact of type dataset, if artifacts are on."""
        import wandb

        if not self.artifacts or not files:
            return
        artifact = wandb.Artifact(
            f"rationales-it{iteration}-{self.experiment.id}", type="dataset", metadata=counts
        )
        for file in files:
            artifact.add_file(str(file), name=f"{file.parent.name}/{file.name}")
        self.experiment.log_artifact(artifact, aliases=["latest", f"it-{iteration}"])

    def _define(self, metrics) -> None:
        """Lightning defines `*` over the global step, and a second glob is ignored: exact names."""
        if not self._defined:
            self.experiment.define_metric("iteration", hidden=True)
        for name in metrics.keys() - self._defined:
            with suppress(KeyError):  # one that a callback of yours logs
                self.experiment.define_metric(name, step_metric=metric(name).axis)
            self._defined.add(name)


def is_offline() -> bool:
    """Whether nobody is logged in to W&B (by key, netrc or environment), without asking anyone."""
    import wandb

    mode = os.environ.get("WANDB_MODE")
    if mode is not None:
        return mode != "online"
    try:
        return not wandb.login(prompt=False)  # type: ignore[call-arg]
    except Exception as error:  # no network, a bad key: neither may stop a run
        log.warning("W&B is offline: %s", error)
        return True
