"""What one sees while a run works: a live panel on a terminal, a line now and then elsewhere."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from star_exp import summary
from star_exp.callbacks.phase import Phase, data_of, iteration_of
from star_exp.callbacks.report import Report, read_lines
from star_exp.modules.base import LanguageModel


class Panel(Phase):
    """
    every_s: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, every_s: float = 10.0):
        self.console, self.every_s = console, every_s
        self.live: Live | None = None
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
        )
        self.bar_id = self.bar.add_task("starting", total=1)
        self.rate = ""
        self.lines: dict[int, dict[str, Any]] = {}
        self.phase = ("", 0)
        self.phase_begun = self.last_line = self.iteration_begun = time.monotonic()
        self.iteration_seconds: list[float] = []

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            self.live = Live(
                self._view(), console=self.console, refresh_per_second=4, transient=True
            )
            self.live.start()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.close()

    def on_exception(self, *_: Any) -> None:
        self.close()

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Takes over what a run that is resumed has reported before."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Report):
                self.lines = dict(read_lines(callback.folder))

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._enter("train", iteration_of(trainer))

    def close(self) -> None:
        """Gives the terminal back; safe to call again."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def on_progress(
        self,
        trainer: pl.Trainer,
        phase: str,
        iteration: int,
        done: int,
        total: int,
        right: int = 0,
        judged: int = 0,
        tokens: int = 0,
    ) -> None:
        """Every finished shard of a phase, with what was right and sampled since it began."""
        if not trainer.is_global_zero:
            return
        self._enter(phase, iteration)
        seconds = max(1e-6, time.monotonic() - self.phase_begun)
        rate = f"{tokens / seconds:,.0f} tokens/s" if tokens else ""
        share = f"  right so far {right / judged:.1%}" if tokens else ""
        self._show(trainer, f"{rate}{share}", done, total)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: LanguageModel, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._enter("train", iteration_of(trainer))
        steps = trainer.num_training_batches
        done = batch_index + 1
        seconds = max(1e-6, time.monotonic() - self.phase_begun)
        per_step = data_of(trainer).num_tokens / max(1, int(steps))
        self._show(trainer, f"{done * per_step / seconds:,.0f} tokens/s", done, int(steps))

    def on_metrics(self, trainer: pl.Trainer, iteration: int, values: dict[str, float]) -> None:
        """The metrics of an iteration, as they are logged."""
        if iteration not in self.lines:
            self.iteration_seconds.append(time.monotonic() - self.iteration_begun)
            self.iteration_begun = time.monotonic()
        self.lines[iteration] = {"iteration": iteration, **self.lines.get(iteration, {}), **values}
        if self.live is None and "dev/accuracy" in values:
            covered = values.get("train/coverage")
            coverage = f", coverage {covered:.1%}" if covered is not None else ""
            self.console.print(
                f"iteration {iteration}: dev accuracy {summary.said(values, 'dev/accuracy', 0)}"
                f"{coverage}{self._left(trainer)}",
                highlight=False,
                soft_wrap=True,
            )

    def _enter(self, phase: str, iteration: int) -> None:
        if (phase, iteration) != self.phase:
            self.phase = (phase, iteration)
            self.phase_begun = time.monotonic()

    def _show(self, trainer: pl.Trainer, rate: str, done: int, total: int) -> None:
        phase, iteration = self.phase
        if self.live is not None:
            text = f"iteration {iteration} of {trainer.max_epochs}: {phase}"
            self.bar.update(self.bar_id, description=text, completed=done, total=total)
            self.rate = rate + self._left(trainer)
            self.live.update(self._view())
        elif time.monotonic() - self.last_line >= self.every_s:
            self.last_line = time.monotonic()
            line = f"  iteration {iteration}: {phase} {done}/{total}  {rate}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _left(self, trainer: pl.Trainer) -> str:
        """Time left, if the iterations to come take as long as the last one did."""
        if len(self.iteration_seconds) < 2:
            return ""
        remaining = (trainer.max_epochs or 0) - max(self.lines, default=0)
        passed = time.monotonic() - self.iteration_begun
        left = max(0.0, remaining * self.iteration_seconds[-1] - passed)
        return f"  about {left / 60:.1f} min left" if remaining > 0 else ""

    def _view(self) -> Group:
        ordered = [self.lines[iteration] for iteration in sorted(self.lines)]
        return Group(*([summary.table(ordered)] if ordered else []), self.bar, self.rate)
