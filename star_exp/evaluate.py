"""`star-exp eval RUN_DIR`: measures a run's model, on its own task or another.

    star-exp eval outputs/.../seed0                              test and ood split
    star-exp eval outputs/.../seed0 task=svamp sampling.samples=16
    star-exp eval outputs/.../seed0 task.max_digits=7 sampling.max_new_tokens=80
    star-exp eval outputs/.../seed0 --model best --splits dev sampling=hot sampling.samples=8

    star-exp eval outputs/.../seed0 task=humaneval sampling.samples=64 --verifier VERIFIERS_RUN_DIR

`accuracy` is always that of one greedy sample of each problem. With sampling.samples=N, N others
are drawn beside it, of which pass@k and majority@k are measured, and, if the run has a verifier or
one is named, how it picks from them.

All samples are kept like those of a run, below RUN_DIR/eval/, in a folder that is named by what is
measured, the data included: an interrupted evaluation goes on, and one that was made is read and
not made again.
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

from star_exp import metrics, verifying
from star_exp.callbacks.candidates import phase_of
from star_exp.callbacks.other_tasks import limit_of
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.check import built
from star_exp.clock import Clock
from star_exp.config.build import build
from star_exp.config.compose import compose
from star_exp.config.validate import ConfigError, validate
from star_exp.data.iterations import IterationData
from star_exp.errors import UserError, did_you_mean
from star_exp.files import write_json
from star_exp.models.base import BaseModel
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout
from star_exp.run import quiet_libraries
from star_exp.store import RolloutStore, by_problem
from star_exp.tasks.base import Task
from star_exp.verifying import Picker

GROUPS = ("task", "sampling", "trainer")  # what an evaluation may change of a run's config
SPLITS = ("test", "ood")  # what is measured, where the task has it, if no splits are named
TEMPERATURE = 0.7  # of several samples: Wang et al. 2022 (arXiv:2203.11171, 3.1) and V-STaR's
ROLLOUTS_A_SHARD = 4096
Interval = tuple[float, float]
FEWEST = 10  # problems of which a bootstrap says anything
INTERVALS = (
    "95% intervals over problems: Wilson's for one sample, a bootstrap's for several; - where that "
    f"says nothing, for fewer than {FEWEST} problems or where all are alike"
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("star-exp eval", description="Measure a run's model.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("overrides", nargs="*", help="task=..., task.KEY=..., sampling.KEY=...")
    parser.add_argument("--model", choices=("last", "best", "base"), default="last")
    parser.add_argument("--splits", help="comma-separated (test,ood, if the task has them)")
    parser.add_argument("--samples", type=int, help="of each problem (1); as sampling.samples=N")
    parser.add_argument(
        "--verifier", type=Path, help="run directory of a verifier (the run's own, if it has one)"
    )
    options = parser.parse_intermixed_args(arguments)
    quiet_libraries()
    evaluate(
        options.run_dir,
        overrides=options.overrides,
        which=options.model,
        splits=options.splits.split(",") if options.splits is not None else None,
        samples=options.samples,
        console=Console(),
        verifier=options.verifier,
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
    verifier: Path | None = None,
) -> dict[str, Any]:
    """Measures, prints a table, and writes RUN_DIR/eval/<hash>/results.json, which is returned."""
    overrides, samples = _samples(overrides, samples)
    before = _config_of(run_dir)
    if not before["callbacks"].get("evaluate"):
        raise UserError(
            f"{run_dir} is the run of a verifier, which writes nothing that could be measured; "
            f"give the run that it is to pick for, and --verifier {run_dir}"
        )
    config = _changed(before, overrides)
    config["trainer"] |= {"devices": 1, "strategy": "auto", "num_nodes": 1}  # one process measures
    config["sampling"] = _sampler(before, config, overrides)
    checked = _to_validate(config, which)
    validate(checked)
    greedy = _at(config["sampling"], 0.0)
    sampled = _of_several(config["sampling"], samples, overrides, console)
    if verifier is not None and sampled is None:
        raise ConfigError(
            f"--verifier {verifier} picks one of several samples, and there is one of each "
            "problem; add sampling.samples=16"
        )
    task = built(config["task"])
    problems_of = _problems(task, splits, console)
    shown = checked["data"]["prompts"]["few_shot"] == "always"
    said = {
        "model": which,
        "samples": samples,
        "verifier": str(verifier) if verifier else None,
        "task": config["task"],
        "decoding": {"accuracy": greedy, "samples": sampled},
        "data": {split: _fingerprint(task, of, shown) for split, of in problems_of.items()},
    }
    name = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = run_dir / "eval" / name
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
    draw = partial(_drawn, trainer, module, data, task, iteration)
    picker = _picker(run_dir, verifier, module, iteration) if sampled is not None else None
    values: dict[str, float] = {}
    intervals: dict[str, Interval | None] = {}
    counts: dict[str, dict[str, int]] = {}
    for split, problems in problems_of.items():
        rollouts = draw(split, problems, 1, greedy)
        values |= metrics.sampled(split, rollouts, "accuracy", task.equations)
        intervals |= metrics.intervals(split, rollouts, task.equations)
        if sampled is not None:
            several = draw(phase_of(split), problems, samples, sampled)
            found = metrics.candidates(split, several, task.equations)
            intervals_of = metrics.intervals(split, several, task.equations)
            sure = {name: intervals_of[name] for name in found}
            if picker is not None:
                scores = picker.scores(several, task)
                probable = picker.verifier.probable
                values |= metrics.selected(split, several, picker.name, scores, probable)
                sure |= _of_picked(split, several, scores, picker.name)
            values |= found
            intervals |= {name: _bootstrapped(sure[name], len(problems)) for name in sure}
        counts[split] = {"problems": len(problems), "samples": samples}
        console.print(_table(split, samples, rollouts, values, intervals))
    console.print(INTERVALS, highlight=False, soft_wrap=True)
    results = {**said, "iteration": iteration, "n": counts}
    results |= {"metrics": values, "intervals": intervals}
    write_json(folder / "results.json", results)
    console.print(f"{folder / 'results.json'}: written", highlight=False, soft_wrap=True)
    return results


def _picker(
    run_dir: Path, verifier: Path | None, module: LanguageModel, iteration: int
) -> Picker | None:
    """The verifier that was named, or the run's own for the model of this iteration, if any; where
    the module is. UserError if it can't read what the module writes."""
    own = run_dir / "verifier" / f"iter_{iteration:03d}"
    if verifier is None and not (own / "verifier.safetensors").exists():
        return None
    picker = verifying.picker(verifier or own, _say_step)
    picker.check_reads(module.policy, "--verifier ")
    picker.verifier.to(module.device)
    return picker


def _of_picked(
    split: str, rollouts: list[Rollout], scores: list[float], name: str
) -> dict[str, Interval]:
    """Intervals of best_of_k, for k up to a problem's fewest samples; {} if none was judged."""
    fewest = min(len(mine) for mine in by_problem(rollouts).values())
    found = {k: metrics.best_of(rollouts, scores, k).values() for k in metrics.sizes(fewest)}
    return {
        f"{split}/best_of_{k}/{name}": metrics.bootstrap_interval(of)
        for k, of in found.items()
        if of
    }


def _bootstrapped(interval: Interval, problems: int) -> Interval | None:
    """None where it is narrow because the problems are few or alike, and not because it is sure."""
    low, high = interval
    return interval if problems >= FEWEST and low < high else None


def _drawn(
    trainer: pl.Trainer,
    module: LanguageModel,
    data: IterationData,
    task: Task,
    iteration: int,
    phase: str,
    problems: Sequence[Problem],
    samples: int,
    sampler: dict[str, Any],
) -> list[Rollout]:
    """What the store holds of a phase once it is whole."""
    work = Work(
        task=task,
        phase=phase,
        iteration=iteration,
        trained=iteration,
        problems=problems,
        samples=samples,
        problems_a_shard=max(1, ROLLOUTS_A_SHARD // samples),
    )
    sample_phase(trainer, module.policy, data, work, build(sampler))
    return data.store.read(iteration, phase)


def _config_of(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.yaml"
    if not path.exists():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def _to_validate(config: dict[str, Any], which: str) -> dict[str, Any]:
    """The config of the evaluation alone: nothing is trained, and the task may have one split."""
    callbacks, prompts = config["callbacks"], config["data"]["prompts"]
    evaluate = {"splits": [], "final_splits": [], "sampler": config["sampling"]}
    shown = prompts["few_shot"] == "always" or (prompts["few_shot"], which) == ("first", "base")
    prompts = {**prompts, "few_shot": "always" if shown else "never", "few_shot_train": False}
    return {
        **config,
        "patience": None,
        "verifier": None,
        "reward": None,
        "data": {**config["data"], "phases": [], "general": None, "prompts": prompts},
        "callbacks": {
            "evaluate": {**callbacks["evaluate"], **evaluate},
            "report": callbacks["report"],
        },
    }


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


def _fingerprint(task: Task, problems: Sequence[Problem], shown: bool) -> str:
    """A hash of what is asked, and of the exemplars before it: no other split has to be there."""
    asked = [(each, task.prompt(each), [*task.shown(each)] if shown else []) for each in problems]
    digest = hashlib.blake2b(repr(asked).encode(), digest_size=8).hexdigest()
    return f"{digest} of {len(asked)}"


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


def _sampler(
    before: dict[str, Any], config: dict[str, Any], overrides: list[str]
) -> dict[str, Any]:
    """The run's evaluation sampler, with what the command line says of `sampling`.

    Its length limit is the task's, unless it was set, now or for the run.
    """
    words = [override.lstrip("+").partition("=")[0] for override in overrides]
    keys = [word.removeprefix("sampling.") for word in words if word.startswith("sampling.")]
    usual = config["callbacks"]["evaluate"]["sampler"]
    if "sampling" in words:
        sampler = dict(config["sampling"])
    else:
        sampler = {**usual, **{key: config["sampling"][key] for key in keys}}
    if "max_new_tokens" in usual and "max_new_tokens" not in keys:
        own, other = (built(each["task"]) for each in (before, config))
        sampler["max_new_tokens"] = limit_of(own, other, usual["max_new_tokens"])
    return sampler


def _of_several(
    sampler: dict[str, Any], samples: int, overrides: list[str], console: Console
) -> dict[str, Any] | None:
    """What several samples of a problem are drawn with; None for one, which is greedy."""
    words = {word.lstrip("+").partition("=")[0] for word in overrides}
    temperature = sampler.get("temperature")
    if samples == 1:
        if temperature and words & {"sampling", "sampling.temperature"}:
            raise ConfigError(
                f"sampling.temperature={temperature} is of several samples, and there is one of "
                "each problem, which is greedy; add sampling.samples=16 for pass@k and majority@k"
            )
        return None
    if temperature != 0:
        return sampler
    if "sampling.temperature" in words:
        raise ConfigError(
            f"{samples} samples of each problem with sampling.temperature=0 would all be the same; "
            f"leave it out, for {TEMPERATURE}, or raise it"
        )
    console.print(
        f"{samples} samples of each problem are drawn with sampling.temperature={TEMPERATURE}",
        highlight=False,
        soft_wrap=True,
    )
    return _at(sampler, TEMPERATURE)


def _at(sampler: dict[str, Any], temperature: float) -> dict[str, Any]:
    """The sampler at another temperature; a sampler of the user's own may have none, and stays."""
    return {**sampler, "temperature": temperature} if "temperature" in sampler else sampler


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
    intervals: dict[str, Interval | None],
) -> Table:
    """What was measured of a split and of its groups, with 95% intervals over problems."""
    several = f", @k of {samples} samples" if samples > 1 else ""
    table = Table(title=f"{split}: greedy accuracy{several}", title_justify="left")
    for heading in ("", "value", "95% interval", "problems"):
        table.add_column(heading, justify="left" if not heading else "right")
    parts = {f"accuracy/{group}": part for group, part in metrics.by_group(rollouts).items()}
    for metric, interval in intervals.items():
        phase, _, name = metric.partition("/")
        if phase == split:
            problems = len(by_problem(parts.get(name, rollouts)))
            said = "-" if interval is None else "{:.1%} - {:.1%}".format(*interval)
            table.add_row(name, f"{values[metric]:.1%}", said, str(problems))
    return table
