"""Settings that are each right and clash together. Each check names both, and a way out."""

from collections.abc import Iterator
from typing import Any


def clashes(config: dict[str, Any]) -> Iterator[str]:
    """A sentence for each clash in a composed, resolved and type-checked config."""
    for check in (_digits, _lengths, _batch, _patience, _training, _devices):
        yield from check(config)


def _digits(config: dict[str, Any]) -> Iterator[str]:
    low, high = config["task"].get("min_digits"), config["task"].get("max_digits")
    if low is not None and high is not None and low > high:
        yield (
            f"task.min_digits={low} and task.max_digits={high} clash: the shortest problems are "
            f"longer than the longest; raise max_digits to {low} or lower min_digits"
        )


def _lengths(config: dict[str, Any]) -> Iterator[str]:
    """Completions that the sampler would cut off, or that the model has no positions for."""
    task, sampling, model = (config[group] for group in ("task", "sampling", "model"))
    if model.get("tokens") != "characters" or "format" not in task:
        return
    from hydra.utils import instantiate  # a task imports no torch

    longest = instantiate(task).longest_completion() + 1  # and the end-of-text token
    limit, positions = sampling.get("max_new_tokens"), model.get("max_positions")
    if limit is not None and limit < longest:
        yield (
            f"sampling.max_new_tokens={limit} and task.format={task['format']} with "
            f"task.max_digits={task.get('max_digits')} clash: the longest rationale has {longest} "
            f"characters, end included; set sampling.max_new_tokens={longest} or more"
        )
    if limit is not None and positions is not None and limit + longest > positions:
        yield (
            f"model.max_positions={positions} and sampling.max_new_tokens={limit} clash: a prompt "
            f"and {limit} new tokens may not fit; set model.max_positions={limit + longest} or more"
        )


def _batch(config: dict[str, Any]) -> Iterator[str]:
    size, devices = config["data"].get("batch_size"), config["trainer"].get("devices")
    if isinstance(size, int) and isinstance(devices, int) and devices > 0 and size % devices:
        yield (
            f"data.batch_size={size} and trainer.devices={devices} clash: a step's batch is shared "
            "out evenly; choose a batch size that the number of devices divides"
        )
    pool, drawn = config["task"].get("train_size"), config["data"].get("problems_per_iteration")
    if pool is not None and drawn is not None and drawn > pool:
        yield (
            f"data.problems_per_iteration={drawn} and task.train_size={pool} clash: no more "
            "problems can be drawn than there are; raise task.train_size"
        )


def _patience(config: dict[str, Any]) -> Iterator[str]:
    evaluate = config["callbacks"].get("evaluate")
    if config["patience"] is not None and (not evaluate or "dev" not in evaluate["splits"]):
        yield (
            f"patience={config['patience']} and callbacks.evaluate clash: stopping early goes by "
            "dev/accuracy, so callbacks.evaluate.splits must hold dev"
        )


def _training(config: dict[str, Any]) -> Iterator[str]:
    phases = [
        name
        for name, callback in config["callbacks"].items()
        if callback and "callbacks.generate." in callback["_target_"]
    ]
    if config["iterations"] > 0 and not phases:
        yield (
            f"iterations={config['iterations']} and variant={config['choices']['variant']} clash: "
            "the variant has no phase that makes training examples; set iterations=0"
        )
    accumulate = config["trainer"].get("accumulate_grad_batches", 1)
    if accumulate != 1:
        yield (
            f"trainer.accumulate_grad_batches={accumulate} and data.batch_size clash: a step's "
            "loss is normalised over the whole of data.batch_size; lower data.batch_size instead"
        )


def _devices(config: dict[str, Any]) -> Iterator[str]:
    strategy, devices = config["trainer"].get("strategy", "auto"), config["trainer"].get("devices")
    if isinstance(devices, int) and devices > 1 and strategy not in {"auto", "ddp"}:
        yield (
            f"trainer.devices={devices} and trainer.strategy={strategy!r} clash: only ddp is "
            "supported on several devices"
        )
