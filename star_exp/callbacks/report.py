"""What a run says of itself: metrics.jsonl, results.json, loggers, and at the end its curves.

All numbers of an iteration are computed from the store, by the functions below, which `star-exp
verify` calls again; plus what only the run knows (loss, wall time). An iteration's line is
replaced, never appended twice: it may be computed again after a kill that came before the
checkpoint.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from star_exp import metrics, summary
from star_exp.callbacks.evaluate import Evaluate
from star_exp.callbacks.phase import Phase, data_of, trained_iterations
from star_exp.data.iterations import IterationData
from star_exp.data.rollouts import RolloutDataModule
from star_exp.files import write_json, write_text
from star_exp.leakage import leaked_share
from star_exp.loggers import RolloutWandbLogger
from star_exp.metrics import WRITTEN
from star_exp.modules.base import LanguageModel
from star_exp.records import Rollout

log = logging.getLogger("star_exp")

TRAINING_PHASES = ("generate", "rationalize", "answers")
TABLE = (
    *("iteration", "phase", "problem", "question", "gold", "answer", "correct"),
    *("hinted", "truncated", "logprob", "text"),
)
UNNAMED = (
    "answers",
    "solutions",
    "balance",
    "perplexity",
    "faithful",
)  # their seconds are part of the total alone, or told by themselves
LONGEST_TEXT = 2000  # characters of a rationale in a table
Values = dict[str, float]


class Report(Phase):
    """
    head: the keys of results.json that are known beforehand (variant, seed, hashes, ...).
    table_rows: rollouts in the table of each iteration.
    """

    def __init__(self, folder: Path, head: dict[str, Any], table_rows: int = 100):
        self.folder, self.head, self.table_rows = folder, head, table_rows
        self.begun = self.train_seconds = 0.0

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self._iteration(trainer, module, 0, {}, again=False)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.train_seconds = time.perf_counter() - self.begun

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        data, iteration = data_of(trainer), trained_iterations(trainer)
        data.clock.add(iteration, "train", self.train_seconds, trainer.global_rank)
        trained = prepared(data, int(trainer.num_training_batches))
        trained["train/final_loss"] = module.final_loss()
        self._iteration(trainer, module, iteration, trained, again=True)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """Adds what was measured of the last model only, and writes table and curves."""
        if not trainer.is_global_zero:
            return
        lines, clock = read_lines(self.folder), data_of(trainer).clock
        values = {**evaluated(trainer, iteration), **noted(trainer, iteration)}
        values |= self._timed(clock.seconds(iteration), values)
        new = {name: value for name, value in values.items() if name not in lines[iteration]}
        before = lines.get(iteration - 1, {}).get("cost/seconds", 0.0)
        costs = {name: lines[iteration][name] for name in ("cost/tokens", "cost/flops")}
        costs["cost/seconds"] = before + sum(clock.seconds(iteration).values())
        if new:  # with all that it may be drawn over: after a kill it is a row of its own
            self._log(trainer, iteration, {**new, **costs})
        lines[iteration] |= {**new, **costs}
        self._write(lines, module, clock)
        final = {f"final/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            if isinstance(logger, RolloutWandbLogger):
                logger.experiment.summary.update(final)
        summary.draw_curves([*lines.values()], self.folder / "curves.png", self.head)

    def _iteration(
        self,
        trainer: pl.Trainer,
        module: LanguageModel,
        iteration: int,
        trained: Values,
        again: bool,
    ) -> None:
        """Computes and writes the line of an iteration; logs it if it is new, or if `again`."""
        if not trainer.is_global_zero:
            return
        lines, data = read_lines(self.folder), data_of(trainer)
        if iteration in lines and not again:
            return
        rollouts, before = training_phases(data, iteration), lines.get(iteration - 1, {})
        values = {**sampled(data, iteration, rollouts), **trained}
        values |= {**evaluated(trainer, iteration), **noted(trainer, iteration)}
        seconds = data.clock.seconds(iteration)
        values |= self._timed(seconds, values)
        values |= cost(before, values, module)
        values["cost/seconds"] = before.get("cost/seconds", 0) + sum(seconds.values())
        lines[iteration] = {"iteration": iteration, **values}
        # logged before it is written: what a kill cuts off is said twice by W&B, and not left out
        self._log(trainer, iteration, values)
        everything = [*rollouts["generate"], *rollouts["rationalize"], *rollouts["answers"]]
        self._log_rollouts(trainer, iteration, [*everything, *data.store.read(iteration, "dev")])
        self._log_pictures(trainer, iteration)
        self._write(lines, module, data.clock)

    @staticmethod
    def _timed(seconds: dict[str, float], values: Values) -> Values:
        timed: Values = {}
        for phase, passed in seconds.items():
            name = phase.replace("-", "/", 1)  # ood-svamp has ood/svamp/accuracy
            if not phase.startswith(UNNAMED):
                timed[f"{name}/seconds"] = passed
            if f"{name}/tokens" in values and phase != "train" and passed:
                timed[f"{name}/tokens_per_s"] = values[f"{name}/tokens"] / passed
        return timed

    def _write(self, lines: dict[int, dict], module: LanguageModel, clock) -> None:
        ordered = [lines[iteration] for iteration in sorted(lines)]
        write_text(
            self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in ordered)
        )
        seconds: dict[str, float] = {}
        for iteration in lines:
            for phase, passed in clock.seconds(iteration).items():
                kind = phase.partition("-")[0]  # balance-0.8
                kind = kind if kind in (*WRITTEN, "train") else "evaluate"
                seconds[kind] = round(seconds.get(kind, 0.0) + passed, 2)
        seconds["total"] = round(sum(seconds.values()), 2)
        cost = {**totals(ordered), "flops": ordered[-1]["cost/flops"], "seconds": seconds}
        write_json(
            self.folder / "results.json",
            {
                **self.head,
                "status": "running",
                "iterations": ordered,
                "best": summary.best(ordered),
                "final": ordered[-1],
                "cost": cost,
            },
        )

    @staticmethod
    def _log(trainer: pl.Trainer, iteration: int, values: Values) -> None:
        shown = ", ".join(f"{name} {value:.6g}" for name, value in sorted(values.items()))
        log.info("iteration %d: %s", iteration, shown)
        for logger in trainer.loggers:
            logger.log_metrics({**values, "iteration": iteration}, step=trainer.global_step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            listener = getattr(callback, "on_metrics", None)
            if listener is not None:
                listener(trainer, iteration, values)

    def _log_rollouts(self, trainer: pl.Trainer, iteration: int, rollouts: list[Rollout]) -> None:
        every = max(1, len(rollouts) // max(1, self.table_rows))
        rows = [_table_row(rollout) for rollout in rollouts[::every][: self.table_rows]]
        store = data_of(trainer).store
        files = store.shards(iteration, *TRAINING_PHASES)
        counts = {
            "iteration": iteration,
            "weights": rollouts[0].weights if rollouts else "",
            "rollouts": len(rollouts),
            "correct": sum(rollout.correct for rollout in rollouts),
        }
        for logger in trainer.loggers:
            if isinstance(logger, RolloutWandbLogger):
                logger.log_rollout_table(TABLE, rows, iteration, trainer.global_step)
                logger.log_rollout_files(iteration, files, counts)

    @staticmethod
    def _log_pictures(trainer: pl.Trainer, iteration: int) -> None:
        """What other callbacks draw: a file `picture`, where there is one by now."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            picture: Path | None = getattr(callback, "picture", None)
            if picture is None or not picture.exists():
                continue
            for logger in trainer.loggers:
                if isinstance(logger, RolloutWandbLogger):
                    logger.log_picture(picture, iteration, trainer.global_step)


def training_phases(data: IterationData, iteration: int) -> dict[str, list[Rollout]]:
    """What was written to train on at an iteration, by phase."""
    return {phase: data.store.read(iteration, phase) for phase in TRAINING_PHASES}


def sampled(
    data: RolloutDataModule, iteration: int, rollouts: Mapping[str, Sequence[Rollout]]
) -> Values:
    """The metrics of what was sampled to train on. rollouts: those of `training_phases`."""
    values: Values = {}
    for phase, split in (("generate", "coverage"), ("rationalize", "accuracy")):
        values |= metrics.sampled(phase, rollouts[phase], split, data.task.equations)
        values |= metrics.diversity(phase, rollouts[phase])
    if rollouts["generate"]:
        drawn = len(data.problems(iteration))
        values |= metrics.training(rollouts["generate"], rollouts["rationalize"], drawn)
    if rollouts["rationalize"]:
        values["rationalize/leaked"] = leaked_share(rollouts["rationalize"])
    return values


def prepared(data: IterationData, steps: int) -> Values:
    """What there is to tell of the training set that was made last, which takes so many steps."""
    return {
        "train/examples": data.num_examples,
        "train/steps": steps,
        "train/tokens": data.num_tokens,
        **data.told(),
    }


def evaluated(trainer: pl.Trainer, iteration: int) -> Values:
    """What stored rollouts say of an iteration: every split, and what other callbacks measured.

    These have a method `measured(trainer, iteration)` that gives the metrics by name. It reads of
    the trainer its datamodule, module and number of epochs, and what lies on the disk.
    """
    data, values = data_of(trainer), {}
    for evaluate in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(evaluate, Evaluate):
            for split in (*evaluate.splits, *evaluate.final_splits):
                rollouts = data.store.read(iteration, split)
                values |= metrics.sampled(split, rollouts, "accuracy", data.task.equations)
    return values | _told(trainer, iteration, "measured")


def noted(trainer: pl.Trainer, iteration: int) -> Values:
    """What callbacks tell of an iteration that its rollouts don't: their method `noted`."""
    return _told(trainer, iteration, "noted")


def cost(before: Mapping[str, float], values: Mapping[str, float], module: LanguageModel) -> Values:
    """Totals since the start; 2N FLOPs for a token in a pass (Kaplan et al. 2020, 2.1).

    before: the metrics of the iteration before; values: those of this one.
    """
    written = sum(values.get(f"{phase}/tokens", 0) for phase in WRITTEN)
    read = sum(values.get(f"{phase}/prompt_tokens", 0) for phase in WRITTEN)
    trained = values.get("train/tokens", 0)
    passed = written + read + module.passes_a_trained_token * trained
    flops = 2 * module.num_weights * passed
    spent = {"cost/tokens": written + trained, "cost/flops": flops}
    total = {name: before.get(name, 0) + value for name, value in spent.items()}
    if total["cost/flops"] and "dev/accuracy" in values:
        exaflops = total["cost/flops"] / 1e18
        total["cost/accuracy_per_exaflop"] = values["dev/accuracy"] / exaflops
    return total


def totals(lines: Sequence[Mapping[str, float]]) -> Values:
    """Tokens of all iterations, for results.json."""
    return {
        name: sum(line.get(f"{phase}/tokens", 0) for line in lines for phase in phases)
        for name, phases in (("generated_tokens", WRITTEN), ("trained_tokens", ("train",)))
    }


def read_lines(folder: Path) -> dict[int, Values]:
    """metrics.jsonl by iteration; {} where there is none yet."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["iteration"]: line for line in lines}


def _told(trainer: pl.Trainer, iteration: int, method: str) -> Values:
    values: Values = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        tell = getattr(callback, method, None)
        if tell is not None:
            values |= tell(trainer, iteration)
    return values


def _table_row(rollout: Rollout) -> list[Any]:
    """Typed and printable: mixed types and control characters corrupt a W&B table."""
    values = {name: getattr(rollout, name) for name in TABLE}
    values["answer"] = rollout.answer or ""
    values["text"] = _printable(rollout.text)[:LONGEST_TEXT]
    values["question"] = _printable(rollout.question)[:LONGEST_TEXT]
    return [values[name] for name in TABLE]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
