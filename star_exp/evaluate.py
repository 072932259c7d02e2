"""`star-exp eval RUN_DIR`: measures a run's model, on its own task or another.

    star-exp eval outputs/.../seed0                              test and ood split, greedy
    star-exp eval outputs/.../seed0 task=svamp sampling.samples=16 sampling.temperature=0.7
    star-exp eval outputs/.../seed0 task.max_digits=7 sampling.max_new_tokens=80
    star-exp eval outputs/.../seed0 --model best --splits dev sampling=hot

The samples are kept like those of a run, below RUN_DIR/eval/, so that an interrupted evaluation
goes on and one that was made is read and not made again. `sampling.samples` is how many there are
of each problem: one if greedy, else pass@k and majority@k are measured too.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from star_exp import metrics
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.clock import Clock
from star_exp.config.build import build
from star_exp.config.compose import compose
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import UserError, did_you_mean
from star_exp.files import write_json
from star_exp.models.base import BaseModel
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout
from star_exp.run import quiet_libraries
from star_exp.store import RolloutStore, by_problem
from star_exp.tasks.base import Task

GROUPS = ("task", "sampling", "trainer")  # what an evaluation may change of a run's config
SPLITS = ("test", "ood")  # what is measured, where the task has it, if no splits are named


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("star-exp eval", description="Measure a run's model.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("overrides", nargs="*", help="task=..., task.KEY=..., sampling.KEY=...")
    parser.add_argument("--model", choices=("last", "best", "base"), default="last")
    parser.add_argument("--splits", help="comma-separated (test,ood, if the task has them)")
    parser.add_argument("--samples", type=int, help="of each problem (1); as sampling.samples=N")
    options = parser.parse_intermixed_args(arguments)
    quiet_libraries()
    evaluate(
        options.run_dir,
        overrides=options.overrides,
        which=options.model,
        splits=options.splits.split(",") if options.splits is not None else None,
        samples=options.samples,
        console=Console(),
    )
    return 0


def evaluate(
    run_dir: Path,
    *,
    overrides: list[str],
    which: str,
    splits: list[str] | None,
    samples: int | None,
    console: Console,
) -> dict[str, Any]:
    """Measures, prints a table, and writes RUN_DIR/eval/<hash>/results.json, which is returned."""
    overrides, samples = _samples(overrides, samples)
    config = _changed(_config_of(run_dir), overrides)
    config["trainer"] |= {"devices": 1, "strategy": "auto", "num_nodes": 1}  # one process measures
    validate(_without_splits(config))
    said = {
        "model": which,
        "samples": samples,
        "task": config["task"],
        "decoding": _sampler(config, overrides),
    }
    if samples > 1 and said["decoding"].get("temperature") == 0:
        raise ConfigError(
            f"{samples} samples of each problem with sampling.temperature=0 would all be the same; "
            "add sampling.temperature=0.7 or sampling=hot"
        )
    name = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = run_dir / "eval" / name
    task = build(config["task"])
    problems_of = _problems(task, splits, console)
    module, iteration = _model(run_dir, config, which)
    data = build(
        config["data"],
        task=task,
        store=RolloutStore(folder / "rollouts"),
        clock=Clock(folder / "clock"),
        seed=config["seed"],
    )
    hardware = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer: pl.Trainer = build(config["trainer"], **hardware, enable_model_summary=False)
    module.to(trainer.strategy.root_device)
    sampler, values, intervals, counts = build(said["decoding"]), {}, {}, {}
    for split, problems in problems_of.items():
        work = Work(
            task=task,
            phase=split,
            iteration=iteration,
            trained=iteration,
            problems=problems,
            samples=samples,
        )
        sample_phase(trainer, module, data, work, sampler)
        rollouts = data.store.read(iteration, split)
        values |= metrics.sampled(split, rollouts, "accuracy")
        intervals |= metrics.intervals(split, rollouts)
        counts[split] = {"problems": len(by_problem(rollouts)), "samples": samples}
        console.print(_table(split, samples, rollouts, values, intervals))
    results = {**said, "iteration": iteration, "n": counts}
    results |= {"metrics": values, "intervals": intervals}
    write_json(folder / "results.json", results)
    console.print(f"{folder / 'results.json'}: written", highlight=False, soft_wrap=True)
    return results


def _config_of(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.yaml"
    if not path.exists():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def _without_splits(config: dict[str, Any]) -> dict[str, Any]:
    """The config to validate: another task may lack the splits that the run was measured by."""
    evaluate = {**config["callbacks"]["evaluate"], "splits": [], "final_splits": []}
    return {**config, "patience": None, "callbacks": {**config["callbacks"], "evaluate": evaluate}}


def _samples(overrides: list[str], samples: int | None) -> tuple[list[str], int]:
    """The overrides without `sampling.samples=N`, and N: as it, or --samples, or neither says."""
    mine = [word for word in overrides if word.lstrip("+").startswith("sampling.samples=")]
    said = {word: word.partition("=")[2] for word in mine}
    if samples is not None:
        said[f"--samples {samples}"] = str(samples)
    for word, number in said.items():
        if not number.isdecimal() or int(number) < 1:
            raise ConfigError(f"{word}: expected at least 1, the samples of each problem")
    numbers = {int(number) for number in said.values()} or {1}
    if len(numbers) > 1:
        raise ConfigError(f"{' and '.join(said)} clash: they mean the same; leave one out")
    return [word for word in overrides if word not in mine], numbers.pop()


def _problems(
    task: Task, splits: list[str] | None, console: Console
) -> dict[str, Sequence[Problem]]:
    """The problems of each split. One that the task lacks is refused if it was asked for."""
    found: dict[str, Sequence[Problem]] = {}
    for split in SPLITS if splits is None else splits:
        try:
            problems, lack = task.problems(split), "the task has no problems in this split"
        except ValueError as error:
            problems, lack = [], str(error)
        if problems:
            found[split] = problems
        elif splits is not None:
            raise ConfigError(f"--splits {split}: {lack}")
        else:
            console.print(f"{split}: left out, {lack}", highlight=False, soft_wrap=True)
    if not found:
        raise ConfigError("there is nothing to measure; name splits that the task has by --splits")
    return found


def _changed(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The run's config with `task=...` and `task.key=...` of the command line, and no other."""
    changed = OmegaConf.create(config)
    OmegaConf.set_struct(changed, True)
    parsed = OverridesParser.create().parse_overrides(overrides)
    for override in sorted(parsed, key=lambda o: "." in str(o.key_or_group)):  # groups first
        key = str(override.key_or_group)
        group = key.split(".")[0]
        if group not in GROUPS:
            raise ConfigError(
                f"{key} can't be changed for an evaluation; {did_you_mean(group, GROUPS)}"
            )
        if key == group:
            changed[group] = compose([f"{group}={override.value()}"])[group]
            continue
        parent, _, last = key.rpartition(".")
        siblings = OmegaConf.select(changed, parent) or {}
        if last not in siblings and not override.is_add():
            raise ConfigError(f"{key}: there is no such key; {did_you_mean(last, siblings)}")
        OmegaConf.update(changed, key, override.value(), force_add=True)
    resolved = OmegaConf.to_container(changed, resolve=True)
    assert isinstance(resolved, dict)
    return resolved  # type: ignore[return-value]


def _sampler(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The run's evaluation sampler (greedy), with what the command line says of `sampling`."""
    words = [override.lstrip("+").partition("=")[0] for override in overrides]
    if "sampling" in words:
        return config["sampling"]
    keys = [word.removeprefix("sampling.") for word in words if word.startswith("sampling.")]
    changed = {key: config["sampling"][key] for key in keys}
    return {**config["callbacks"]["evaluate"]["sampler"], **changed}


def _model(run_dir: Path, config: dict[str, Any], which: str) -> tuple[LanguageModel, int]:
    """The module with the weights that were asked for, and the iteration they are of."""
    final, path = run_dir / "model", run_dir / "checkpoints" / f"{which}.ckpt"
    source: BaseModel = build(config["model"])
    if which == "last" and final.exists():
        results = json.loads((run_dir / "results.json").read_text())
        module = build(config["module"], base=partial(source.load, final))
        return module, results["final"]["iteration"]
    if which != "base" and not path.exists():
        raise UserError(f"{path} is not there: the run has no {which} model yet; --model base has")
    if which == "base" or source.lora is not None or not final.exists():
        trained = build(_config_of(run_dir)["task"])  # the base was made with the run's own task
        base = source.prepare(trained, Path(config["cache_dir"]), _say_step)
    else:
        base = final  # what is trained in it is replaced
    module: LanguageModel = build(config["module"], base=partial(source.load, base))
    if which == "base":
        return module, 0
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    return module, int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def _say_step(done: int, of: int) -> None:
    if done % 100 == 0 or done == of:
        print(f"  base model: step {done} of {of}")


def _table(
    split: str,
    samples: int,
    rollouts: list[Rollout],
    values: dict[str, float],
    intervals: dict[str, tuple[float, float]],
) -> Table:
    """What was measured of a split and of its groups, with 95% intervals over problems."""
    table = Table(title=f"{split}, samples of each problem: {samples}", title_justify="left")
    for heading in ("", "value", "95% interval", "problems"):
        table.add_column(heading, justify="left" if not heading else "right")
    parts = {f"accuracy/{group}": part for group, part in metrics.by_group(rollouts).items()}
    for metric, (low, high) in intervals.items():
        phase, _, name = metric.partition("/")
        if phase == split:
            problems = len(by_problem(parts.get(name, rollouts)))
            table.add_row(name, f"{values[metric]:.1%}", f"{low:.1%} - {high:.1%}", str(problems))
    return table
