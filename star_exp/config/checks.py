"""Values out of range, and settings that are each right and clash together.

Each check yields sentences that name the settings and a way out. Keys and types have been checked
before. They come in this order, and the first check that finds something ends the list.
"""

from collections.abc import Callable, Iterator
from typing import Any

from star_exp.config.build import build
from star_exp.metrics import metric
from star_exp.sampling.ranges import RANGES

Check = Callable[[dict[str, Any]], Iterator[str]]

AT_LEAST = {
    "iterations": 0,
    "seed": 0,
    "patience": 1,
    "data.batch_size": 1,
    "data.bucket": 1,
    "data.problems_per_iteration": 1,
    "data.exemplars": 0,
    "data.schedule.first": 1,
    "callbacks.generate.samples": 1,
    "callbacks.rationalize.samples": 1,
    "model.hidden": 1,
    "model.layers": 1,
    "model.heads": 1,
    "model.seed_rationales": 1,
    "model.steps": 1,
    "model.batch_size": 1,
    "model.lora.rank": 0,
    "module.kl_to_base": 0,
    "trainer.devices": 1,
}
ABOVE_ZERO = ("module.learning_rate", "model.learning_rate", "data.schedule.growth")
SET_BY_PROGRAM = {
    "max_epochs": "iterations=",
    "callbacks": "+callbacks.NAME={_target_: ...}",
    "logger": "logger=",
    "fast_dev_run": "debug=smoke",
    "limit_train_batches": "data.schedule.first=",
    "default_root_dir": "run_dir=",
    "max_steps": "data.schedule.first=",
    "plugins": "trainer.strategy=",
    "enable_progress_bar": "callbacks.panel=",
    **dict.fromkeys(("min_steps", "min_epochs", "max_time"), "iterations="),
    **dict.fromkeys(("log_every_n_steps", "enable_model_summary"), "logger="),
    **dict.fromkeys(("num_sanity_val_steps", "use_distributed_sampler"), "nothing: it is off"),
    "reload_dataloaders_every_n_epochs": "nothing: it is 1",
}


def _ranges(config: dict[str, Any]) -> Iterator[str]:
    for key, least in AT_LEAST.items():
        value = _select(config, key)
        if isinstance(value, int | float) and value < least:
            yield f"{key}={value}: expected at least {least}"
    for key in ABOVE_ZERO:
        value = _select(config, key)
        if isinstance(value, int | float) and value <= 0:
            yield f"{key}={value}: expected a number above 0"
    if config["seed"] >= 2**32:
        yield f"seed={config['seed']}: expected a number below 2**32"
    share = config["data"].get("replay", 0)
    if not 0 <= share < 1:
        yield f"data.replay={share}: expected a share in [0, 1)"
    told = set()
    for where, sampler in _samplers(config):
        for key, (right, expected) in RANGES.items():
            value = sampler.get(key)
            said = isinstance(value, int | float) and not right(value) and (key, value)
            if said and said not in told:  # of those that are set from one place, the first
                told.add(said)
                yield f"{where}.{key}={value}: expected {expected}"
    for key in ("name", "run_dir", "cache_dir"):
        if not config[key]:
            yield f"{key} is empty; expected a name"
    try:
        metric(config["optimized_metric"])
    except KeyError as error:
        yield f"optimized_metric={config['optimized_metric']}: {error.args[0]}"


def _program(config: dict[str, Any]) -> Iterator[str]:
    for key, instead in SET_BY_PROGRAM.items():
        if key in config["trainer"]:
            yield f"trainer.{key} is set by the program; instead of it there is {instead}"
    for name in ("evaluate", "report"):
        if not config["callbacks"].get(name):
            yield f"callbacks.{name} is missing: without it nothing would be measured or reported"


def _digits(config: dict[str, Any]) -> Iterator[str]:
    low, high = config["task"].get("min_digits"), config["task"].get("max_digits")
    if low is not None and high is not None and low > high:
        yield (
            f"task.min_digits={low} and task.max_digits={high} clash: the shortest problems are "
            f"longer than the longest; raise max_digits to {low} or lower min_digits"
        )


def _task(config: dict[str, Any]) -> Iterator[str]:
    """What the task says of its settings, and whether it has the splits that are measured."""
    try:
        task = build(config["task"])
        for split in config["callbacks"]["evaluate"]["splits"]:
            if not task.problems(split):
                yield (
                    f"callbacks.evaluate.splits holds {split!r}, and the task has no problems in "
                    "it with these settings; leave it out"
                )
        trained = ("train",) if config["data"].get("phases") else ()
        for split in (*trained, *config["callbacks"]["evaluate"]["final_splits"]):
            task.problems(split)[:1]
    except ValueError as error:
        yield str(error)


def _lengths(config: dict[str, Any]) -> Iterator[str]:
    """Completions that the sampler would cut off, or that the model has no positions for."""
    model = config["model"]
    longest = build(config["task"]).longest_completion() + 1  # and the end-of-text token
    if model.get("tokens") != "characters" or longest == 1:
        return
    for where, limit in _limits(config):
        yield from _length(config, where, limit, longest)


def _limits(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every different limit of a sampler, and where it stands: sampling first."""
    seen = set()
    for where, sampler in _samplers(config):
        limit = sampler.get("max_new_tokens")
        if isinstance(limit, int) and limit not in seen:
            seen.add(limit)
            yield where, limit


def _samplers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each sampler stands, and its settings."""
    yield "sampling", config["sampling"]
    for name, node in config["callbacks"].items():
        if node and isinstance(node.get("sampler"), dict):
            yield f"callbacks.{name}.sampler", node["sampler"]


def _length(config: dict[str, Any], where: str, limit: int, longest: int) -> Iterator[str]:
    positions = config["model"].get("max_positions")
    if limit < longest:
        settings = ", ".join(
            f"task.{key}={config['task'].get(key)}" for key in ("format", "max_digits")
        )
        yield (
            f"{where}.max_new_tokens={limit} and {settings} clash: the longest rationale has "
            f"{longest} characters, its end and the ood split included; set "
            f"{where}.max_new_tokens={longest} or more"
        )
    if positions is not None and limit + longest > positions:
        yield (
            f"model.max_positions={positions} and {where}.max_new_tokens={limit} clash: a prompt "
            f"and {limit} new tokens may not fit; set model.max_positions={limit + longest} or more"
        )


def _model(config: dict[str, Any]) -> Iterator[str]:
    hidden, heads = config["model"].get("hidden"), config["model"].get("heads")
    if hidden is not None and heads is not None and hidden % (2 * heads):
        yield (
            f"model.hidden={hidden} and model.heads={heads} clash: each head needs an even part of "
            f"the width; choose a multiple of {2 * heads}"
        )


def _names(config: dict[str, Any]) -> Iterator[str]:
    for name, node in (config["logger"] or {}).items():
        bad = set(str((node or {}).get("project", ""))) & set("/\\#?%:")
        if bad:
            yield (
                f"logger.{name}.project={node['project']!r} holds {''.join(sorted(bad))!r}, which "
                "W&B refuses in a project; choose another name= or logger.wandb.project="
            )


def _batch(config: dict[str, Any]) -> Iterator[str]:
    size, devices = config["data"].get("batch_size"), config["trainer"].get("devices")
    if isinstance(size, int) and isinstance(devices, int) and size % devices:
        yield (
            f"data.batch_size={size} and trainer.devices={devices} clash: a step's batch is shared "
            "out evenly; choose a batch size that the number of devices divides"
        )
    accumulate = config["trainer"].get("accumulate_grad_batches", 1)
    if accumulate != 1:
        yield (
            f"trainer.accumulate_grad_batches={accumulate} and data.batch_size clash: a step's "
            "loss is normalised over the whole of data.batch_size; lower data.batch_size instead"
        )


def _patience(config: dict[str, Any]) -> Iterator[str]:
    evaluate = config["callbacks"].get("evaluate") or {"splits": []}
    if config["patience"] is not None and "dev" not in evaluate["splits"]:
        yield (
            f"patience={config['patience']} and callbacks.evaluate.splits clash: stopping early "
            "goes by dev/accuracy, so the splits must hold dev"
        )


def _phases(config: dict[str, Any]) -> Iterator[str]:
    """Whether what is trained on is written by some phase of the variant."""
    targets = [node["_target_"] for node in config["callbacks"].values() if node]
    written = {WRITES[target] for target in targets if target in WRITES}
    foreign = any(not target.startswith("star_exp.") for target in targets)  # may write anything
    trained, variant = config["data"].get("phases"), config["choices"]["variant"]
    unknown = sorted(set(trained or ()) - written)
    if unknown and not foreign:
        yield (
            f"data.phases={trained} and variant={variant} clash: nothing writes {unknown}; the "
            f"variant's phases write {sorted(written)}"
        )


WRITES = {
    "star_exp.callbacks.generate.Generate": "generate",
    "star_exp.callbacks.generate.Rationalize": "rationalize",
    "star_exp.callbacks.generate.GoldAnswers": "answers",
}


def _devices(config: dict[str, Any]) -> Iterator[str]:
    strategy, devices = config["trainer"].get("strategy", "auto"), config["trainer"].get("devices")
    if isinstance(devices, int) and devices > 1 and strategy not in {"auto", "ddp"}:
        yield (
            f"trainer.devices={devices} and trainer.strategy={strategy!r} clash: only ddp is "
            "supported on several devices"
        )


def _select(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


CHECKS: tuple[Check, ...] = (
    *(_ranges, _patience, _program, _digits, _task, _lengths),
    *(_model, _names, _batch, _phases, _devices),
)
