"""The reward model of a run: the one that reward.from names, or one that is made beforehand.

    cache_dir/reward-1a2b3c4d/seed0/     the run directory of a verifier's fit (verifying.py)
        generator/                       the run that it is on: M_0 after the solutions, G_SFT

It depends on task and model, on optimizer, batch and prompts (module.* and data.*), and on its own
settings, so that all variants and seeds have the same one: it is made by the first, and stays as it
is (B-STaR, section A.1). Under torchrun or Slurm, let one run make it before others begin.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from star_exp import verifying
from star_exp.config.compose import cell_hash
from star_exp.errors import UserError
from star_exp.models.base import Progress
from star_exp.rewards import Reward
from star_exp.rundir import is_main_process
from star_exp.tasks.base import Task
from star_exp.verifying import Config, Picker

OF_DATA = ("_target_", "order", "prompts", "batch_size", "packing", "bucket", "exemplars")


def load(config: Config, run: Callable[[Config], Any], progress: Progress) -> Picker:
    """The verifier whose scores are the rewards of a run; made here, by `run`, if there is none.

    UserError where its scores are no chances of being right.
    """
    named = config["reward"]["from"]
    root = Path(named) if named is not None else _made(config, run)
    picker = verifying.picker(root, progress)
    if not picker.verifier.probable:
        raise UserError(
            f"reward.from={named}: {type(picker.verifier).__name__} gives no chance of being right "
            "in [0, 1]; give the fit of verifier=process or verifier=orm"
        )
    return picker


def reward(picker: Picker, task: Task, scale: Any) -> Reward:
    return Reward(picker.name, partial(picker.scores, task=task), scale)


def _made(config: Config, run: Callable[[Config], Any]) -> Path:
    """The folder of the reward model of this config, whichever run has made it."""
    model = config["reward"]["model"]
    shared = {
        **{name: config[name] for name in ("task", "model", "trainer", "logger", "cache_dir")},
        "name": "reward",
        "seed": config["reward"]["seed"],
        "choices": {**config["choices"], "variant": "reward"},
        "sampling": model["callbacks"]["candidates"]["sampler"],
        # one rate for all: a variant may have its own
        "module": {**config["module"], "rate": {"_target_": "star_exp.schedule.LinearDecay"}},
        "data": {name: value for name, value in config["data"].items() if name in OF_DATA},
        "callbacks": {name: config["callbacks"].get(name) for name in verifying.SHARED},
        **{"tags": [], "patience": None, "from": None, "reward": None, "optimized_metric": ""},
    }
    named = {**shared, "callbacks": {}, "verifier": model}  # what is reported names no model
    cell = cell_hash(OmegaConf.create(named))
    root = Path(config["cache_dir"]) / f"reward-{cell}" / f"seed{shared['seed']}"
    shared |= {"cell": cell, "iterations": model["iterations"]}
    lock = FileLock(root.with_suffix(".lock"))
    if is_main_process():
        root.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for the reward model in {root}, which another run is making")
            lock.acquire()
    try:
        if not (root / verifying.WEIGHTS).exists():
            generator = root / "generator"
            run(verifying.of_solutions({**shared, "run_dir": str(generator)}))
            run({**shared, "run_dir": str(root), "from": str(generator), "verifier": model})
    finally:
        lock.release()
    return root
