"""What a run says of itself: metrics.jsonl, results.json, loggers, and at the end its curves.

All numbers of an iteration are computed from the store, plus what only the fine-tuning knows
(steps, loss, tokens). An iteration's line is replaced, never appended twice: it may be computed
again after a kill that came before the checkpoint.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from star_exp import metrics, summary
from star_exp.callbacks.evaluate import Evaluate
from star_exp.callbacks.phase import Phase, data_of, trained_iterations
from star_exp.files import write_json, write_text
from star_exp.leakage import leaked_share
from star_exp.loggers import RolloutWandbLogger
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
WRITTEN = ("generate", "rationalize", "balance")  # for training: what they write is its cost
LONGEST_TEXT = 2000  # characters of a rationale in a table


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
        trained = {
            "train/examples": data.num_examples,
            "train/steps": trainer.num_training_batches,
            "train/tokens": data.num_tokens,
            "train/final_loss": module.final_loss(),
            **data.told(),
        }
        self._iteration(trainer, module, iteration, trained, again=True)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """Adds what was measured of the last model only, and writes table and curves."""
        if not trainer.is_global_zero:
            return
        lines, clock = read_lines(self.folder), data_of(trainer).clock
        values = self._evaluated(trainer, iteration)
        values |= self._timed(clock.seconds(iteration), values)
        new = {name: value for name, value in values.items() if name not in lines[iteration]}
        before = lines.get(iteration - 1, {}).get("cost/seconds", 0.0)
        new["cost/seconds"] = before + sum(clock.seconds(iteration).values())
        if len(new) > 1:
            self._log(trainer, iteration, new)
        lines[iteration] |= new
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
        trained: dict[str, float],
        again: bool,
    ) -> None:
        """Computes and writes the line of an iteration; logs it if it is new, or if `again`."""
        if not trainer.is_global_zero:
            return
        lines, data = read_lines(self.folder), data_of(trainer)
        if iteration in lines and not again:
            return
        rollouts = {phase: data.store.read(iteration, phase) for phase in TRAINING_PHASES}
        drawn = len(data.problems(iteration)) if iteration else 0
        values: dict[str, float] = {}
        for phase in ("generate", "rationalize"):
            split = "coverage" if phase == "generate" else "accuracy"
            values |= metrics.sampled(phase, rollouts[phase], split, data.task.equations)
            values |= metrics.diversity(phase, rollouts[phase])
        if rollouts["generate"]:
            values |= metrics.training(rollouts["generate"], rollouts["rationalize"], drawn)
        if rollouts["rationalize"]:
            values["rationalize/leaked"] = leaked_share(rollouts["rationalize"])
        values |= trained
        values |= self._evaluated(trainer, iteration)
        seconds = data.clock.seconds(iteration)
        values |= self._timed(seconds, values)
        values |= self._cost(lines.get(iteration - 1, {}), values, module, sum(seconds.values()))
        if values["cost/flops"] and "dev/accuracy" in values:
            spent = values["cost/flops"] / 1e18
            values["cost/accuracy_per_exaflop"] = values["dev/accuracy"] / spent
        lines[iteration] = {"iteration": iteration, **values}
        # logged before it is written: what a kill cuts off is said twice by W&B, and not left out
        self._log(trainer, iteration, values)
        everything = [*rollouts["generate"], *rollouts["rationalize"], *rollouts["answers"]]
        self._log_rollouts(trainer, iteration, [*everything, *data.store.read(iteration, "dev")])
        self._log_pictures(trainer, iteration)
        self._write(lines, module, data.clock)

    def _evaluated(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """What was measured at this iteration: every split, and what other callbacks tell.

        These have a method `measured(trainer, iteration)` that gives the metrics by name.
        """
        data, values = data_of(trainer), {}
        for evaluate in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(evaluate, Evaluate):
                for split in (*evaluate.splits, *evaluate.final_splits):
                    rollouts = data.store.read(iteration, split)
                    values |= metrics.sampled(split, rollouts, "accuracy", data.task.equations)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            measured = getattr(callback, "measured", None)
            if measured is not None:
                values |= measured(trainer, iteration)
        return values

    @staticmethod
    def _timed(seconds: dict[str, float], values: dict[str, float]) -> dict[str, float]:
        timed: dict[str, float] = {}
        for phase, passed in seconds.items():
            name = phase.replace("-", "/", 1)  # ood-svamp has ood/svamp/accuracy
            if not phase.startswith(UNNAMED):
                timed[f"{name}/seconds"] = passed
            if f"{name}/tokens" in values and phase != "train" and passed:
                timed[f"{name}/tokens_per_s"] = values[f"{name}/tokens"] / passed
        return timed

    @staticmethod
    def _cost(
        before: dict[str, float],
        values: dict[str, float],
        module: LanguageModel,
        seconds: float,
    ) -> dict[str, float]:
        """Totals since the start; 2N FLOPs for a token in a pass (Kaplan et al. 2020, 2.1)."""
        written = sum(values.get(f"{phase}/tokens", 0) for phase in WRITTEN)
        read = sum(values.get(f"{phase}/prompt_tokens", 0) for phase in WRITTEN)
        trained = values.get("train/tokens", 0)
        passed = written + read + module.passes_a_trained_token * trained
        flops = 2 * module.num_weights * passed
        spent = {"cost/tokens": written + trained, "cost/flops": flops, "cost/seconds": seconds}
        return {name: before.get(name, 0) + value for name, value in spent.items()}

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
        total = {
            name: sum(line.get(f"{phase}/tokens", 0) for line in ordered for phase in phases)
            for name, phases in (
                ("generated_tokens", WRITTEN),
                ("trained_tokens", ("train",)),
            )
        }
        cost = {**total, "flops": ordered[-1]["cost/flops"], "seconds": seconds}
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
    def _log(trainer: pl.Trainer, iteration: int, values: dict[str, float]) -> None:
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


def read_lines(folder: Path) -> dict[int, dict[str, float]]:
    """metrics.jsonl by iteration; {} where there is none yet."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["iteration"]: line for line in lines}


def _table_row(rollout: Rollout) -> list[Any]:
    """Typed and printable: mixed types and control characters corrupt a W&B table."""
    values = {name: getattr(rollout, name) for name in TABLE}
    values["answer"] = rollout.answer or ""
    values["text"] = _printable(rollout.text)[:LONGEST_TEXT]
    values["question"] = _printable(rollout.question)[:LONGEST_TEXT]
    return [values[name] for name in TABLE]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
