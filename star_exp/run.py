"""One run: builds what the config names, fits, and leaves a run directory behind.

`run` is called by Hydra for each job, with a config that is already validated. The same config
again continues where the last call stopped; a finished run returns its result at once.
"""

import hashlib
import logging
import os
import platform
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from star_exp import rewarding, summary, verifying
from star_exp.callbacks.panel import Track
from star_exp.callbacks.reset import SeedIteration
from star_exp.checkpoints import MovableCheckpoint, WholeCheckpointIO
from star_exp.clock import Clock
from star_exp.config.build import build
from star_exp.errors import CheckpointError, UserError
from star_exp.loggers import RunInfo
from star_exp.modules.base import LanguageModel, Load, started_from
from star_exp.progress import Progress
from star_exp.records import Problem
from star_exp.rundir import RunDirectory, is_main_process, together
from star_exp.scores import ScoreStore
from star_exp.store import RolloutStore
from star_exp.tasks.base import Task

log = logging.getLogger("star_exp")
PACKAGES = (
    *("star-exp", "torch", "transformers", "tokenizers", "pytorch-lightning", "peft", "datasets"),
    *("math-verify", "reasoning-gym", "wandb", "pyarrow"),
)
OTHER_TASK = re.compile(r"ood/[^/=]+/accuracy")


def run(
    config: dict[str, Any],
    overrides: Sequence[str] = (),
    generator: Path | None = None,
    part: str = "train",
) -> float | None:
    """Runs or resumes; returns the metric that a sweeper optimizes (config.optimized_metric).

    generator: the run whose rollouts a verifier is trained on, where this is a verifier's fit.
    part: what this is to the run that was asked for (loggers.RunInfo).
    Raises UserError where the run directory, its checkpoint or its rollouts can't be used.
    """
    if config["from"] is not None and generator is None:
        config, generator = verifying.alone(config), Path(config["from"])
    console = Console()
    quiet_libraries()
    with RunDirectory(Path(config["run_dir"]), main=is_main_process()) as directory:
        results = directory.open(config, [*overrides])
        if results["status"] == "finished":
            _say(console, results, directory.root, "finished before; nothing is left to do")
            return results["final"].get(config["optimized_metric"])
        try:
            _fit(config, directory, console, generator, part)
            together()
            if config["verifier"] is not None:
                _verify(config, directory)
        except BaseException as error:
            directory.failed(error)
            raise
        results = directory.finish()
        together()  # a fit that follows reads what this one has left
        if is_main_process():
            _say(console, results, directory.root, "finished")
        return results["final"].get(config["optimized_metric"])


def _fit(
    config: dict[str, Any],
    directory: RunDirectory,
    console: Console,
    generator: Path | None,
    part: str,
) -> None:
    progress = directory.progress
    making = _BaseProgress(console if is_main_process() else Console(quiet=True), progress)
    judge = None
    if config.get("reward"):
        progress.at("reward model", progress.iteration)
        judge = rewarding.load(config, partial(run, part="reward"), making)
    task = build(config["task"])
    source = build(config["model"])
    progress.at("base model", progress.iteration)
    folder = source.prepare(task, Path(config["cache_dir"]), making)
    of_reward = {} if judge is None else {"reward model": judge.fingerprint()}
    directory.note_data({**fingerprints(task), **of_reward})
    _describe(console, directory, "base", source.description(task))

    pl.seed_everything(config["seed"], verbose=False)
    base: Load = partial(source.load, folder)
    handed: dict[str, Any] = {}
    if generator is not None:
        sft = verifying.sft(config, generator, partial(run, part="sft"))
        base = partial(started_from, base, sft)
        handed = {"generator": generator, "scores": ScoreStore(directory.root / "scores")}
    if judge is not None:
        handed["reward"] = rewarding.reward(judge, task, config["reward"]["scale"])
    module: LanguageModel = build(config["module"], base=base)
    if judge is not None:
        judge.check_reads(module.policy, "reward.from=")
    data = build(
        config["data"],
        task=task,
        store=RolloutStore(directory.root / "rollouts"),
        clock=Clock(directory.root / "clock"),
        seed=config["seed"],
        **handed,
    )
    trainer = build(
        config["trainer"],
        max_epochs=config["iterations"],
        reload_dataloaders_every_n_epochs=1,  # each iteration asks for its own training set
        use_distributed_sampler=False,  # it would reshuffle; Steps shares a batch out itself
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=directory.root,
        callbacks=_callbacks(config, directory, console),
        logger=_loggers(config, directory, part) or False,
        plugins=[WholeCheckpointIO()],
    )
    if judge is not None:
        judge.verifier.to(trainer.strategy.root_device)
        _describe(console, directory, "reward", {"name": judge.name, "model": str(judge.root)})
    checkpoint = _last_checkpoint(directory.root)
    if checkpoint is not None:
        log.info("resumed from %s", checkpoint)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    except BaseException as error:
        _close_wandb(trainer, exit_code=1)
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Lightning exits by itself, without a word
        raise
    _close_wandb(trainer, exit_code=0)
    if is_main_process():
        module.save(directory.root)


def _verify(config: dict[str, Any], directory: RunDirectory) -> None:
    """The verifier's fit, and what it gives among the generator's results."""
    results = directory.results()
    verifier = verifying.after(config, results["final"]["iteration"])
    run(verifier, generator=directory.root, part="verifier")
    directory.add(verifying.picked(Path(verifier["run_dir"])))


def _close_wandb(trainer: pl.Trainer, exit_code: int) -> None:
    """Ends the W&B run, if one began; else the next job of a multirun would log into it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and is_main_process() and logger._experiment is not None:
            logger.experiment.finish(exit_code=exit_code)


def _callbacks(config: dict[str, Any], directory: RunDirectory, console: Console) -> list:
    """Those of the config, in its order, but for solutions, which others choose and train by, and
    those that tell what the others did; and those that every fit needs around them."""
    handed = {
        "star_exp.callbacks.report.Report": {"folder": directory.root, "head": directory.head},
        "star_exp.callbacks.keep.KeepSFT": {"folder": directory.root},
        "star_exp.callbacks.balance.Balance": {"folder": directory.root},
        "star_exp.callbacks.panel.Panel": {"console": console},
    }
    last = {"solutions": -1, "report": 1, "panel": 1}
    named = sorted(config["callbacks"].items(), key=lambda item: last.get(item[0], 0))
    nodes = [node for _, node in named if node is not None]
    callbacks = [build(node, **handed.get(node["_target_"], {})) for node in nodes]
    callbacks = [Track(directory.progress), *callbacks, SeedIteration(config["seed"])]
    if config["patience"] is not None:
        callbacks.append(EarlyStopping("dev/accuracy", mode="max", patience=config["patience"]))
    # Two of them: `save_last` saves only together with a new best. In this order: a kill between
    # them repeats the iteration; in the other the best model could be missed for ever.
    folder = directory.root / "checkpoints"
    if _measures_dev(config):
        best = MovableCheckpoint(
            folder, "best", monitor="dev/accuracy", mode="max", enable_version_counter=False
        )
        callbacks.append(best)
    callbacks.append(MovableCheckpoint(folder, "last", enable_version_counter=False))
    return callbacks


def _measures_dev(config: dict[str, Any]) -> bool:
    evaluate = config["callbacks"].get("evaluate")
    return bool(evaluate) and "dev" in evaluate["splits"]


def _loggers(config: dict[str, Any], directory: RunDirectory, part: str) -> list:
    choices, seed = config["choices"], config["seed"]
    suffix = "" if part == "train" else f"-{part}"
    info = RunInfo(
        folder=directory.root,
        run_id=directory.manifest["run_id"],
        name="{variant}-{task}-{model}".format_map(choices) + f"-s{seed}" + suffix,
        group=f"{config['name']}/{directory.manifest['config_hash_no_seed']}",
        tags=(*choices.values(), *config["tags"]),
        config={**config, **directory.manifest},
        part=part,
    )
    built = [build(node)(info) for node in (config["logger"] or {}).values() if node]
    return [logger for logger in built if logger is not None]


def _last_checkpoint(root: Path) -> Path | None:
    """The checkpoint to resume from, None at the start. CheckpointError if it is damaged."""
    path = root / "checkpoints" / "last.ckpt"
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch saves zip archives, with checksums
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        broken = str(error)
    if broken is not None:
        raise CheckpointError(
            f"{path} can't be read ({broken}); it was damaged after it was written. Delete it and "
            "give the same command again: the iterations are trained again from the rollouts in "
            f"{root / 'rollouts'}, which are kept and not sampled anew"
        )
    return path


class _BaseProgress:
    """A line for each quarter of the steps that make a base model, and the run's progress."""

    def __init__(self, console: Console, progress: Progress):
        self.console, self.progress = console, progress

    def __call__(self, done: int, of: int) -> None:
        self.progress.at("base model", self.progress.iteration, done, of)
        if done * 4 // of > (done - 1) * 4 // of:
            self.console.print(f"  base model: step {done} of {of}", highlight=False)


def _describe(
    console: Console, directory: RunDirectory, part: str, description: dict[str, Any]
) -> None:
    directory.head[part] = description
    if is_main_process():
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in description.items())
        log.info("%s model: %s", part, said)
        console.print(f"{part} model: {said}", highlight=False, soft_wrap=True)


def _say(console: Console, results: dict[str, Any], root: Path, what: str) -> None:
    console.print(summary.table(results["iterations"]))
    final = results["final"]
    others = [name.removesuffix("/accuracy") for name in final if OTHER_TASK.fullmatch(name)]
    for split in ("dev", "test", "ood", *sorted(others)):
        if f"{split}/accuracy" in final:
            line = f"{split}: {summary.measured(results['iterations'][0], final, split)}"
            console.print(line, highlight=False, soft_wrap=True)
    for name in (name for name in final if name.startswith(("general/", "faithful/"))):
        if name.count("/") == 1:  # not each part of it
            console.print(f"{name}: {final[name]:.3g}", highlight=False)
    for split in ("dev", "test"):
        if any(name.startswith(f"{split}/pass@") for name in final):
            console.print(summary.picked(final, split))
    console.print(f"{root}: {what}", highlight=False, soft_wrap=True)


def quiet_libraries() -> None:
    """Notices that say nothing to the user of a run; warnings of substance stay."""
    disable_progress_bar()  # transformers shows one for every model that is read
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are in memory
    warnings.filterwarnings("ignore", r".*Total length of `\w+` across ranks is zero.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")


def fingerprints(task: Task) -> dict[str, str]:
    """A hash of each split's problems, with how many there are, and how many rows were left out.

    And of what is asked: the prompt of each, with a hint too, and the exemplars that are shown. Of
    a pool that is made as it is asked for, the first 1,000 stand for all.
    """
    found = {}
    for split in ("train", "dev", "test", "ood"):
        try:
            problems = task.problems(split)
        except ValueError:  # the task has no such split
            continue
        known = problems if isinstance(problems, list) else problems[:1000]
        asked = [(each, task.prompt(each), task.prompt(each, hint=True)) for each in known]
        digest = hashlib.blake2b(repr(asked).encode(), digest_size=8).hexdigest()
        bad = task.left_out(split)
        found[split] = f"{digest} of {len(problems)}" + (f", {bad} rows left out" if bad else "")
    try:
        shown = task.shown(Problem("", "", ""))
        digest = hashlib.blake2b(repr([*shown]).encode(), digest_size=8).hexdigest()
        found["exemplars"] = f"{digest} of {len(shown)}"
    except (ValueError, UserError):  # the task has none
        pass
    return found


def hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "gpu": gpu}


def versions() -> dict[str, str]:
    """Of what decides the numbers: what trains and samples, and what reads and judges."""
    return {"python": sys.version.split()[0], **dict(_installed())}


def _installed() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # an extra
            yield name, version(name)
