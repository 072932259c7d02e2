"""What one sees while a run works: a live panel on a terminal, a line now and then elsewhere."""

import time
from typing import Any

import pytorch_lightning as pl
from rich import progress as bars
from rich.console import Console, Group
from rich.live import Live

from star_exp import summary
from star_exp.callbacks.phase import Phase, data_of, iteration_of
from star_exp.callbacks.report import Report, read_lines
from star_exp.modules.base import LanguageModel
from star_exp.progress import Progress


class Track(Phase):
    """Keeps the run's Progress, which others can see as well; comes before what shows it."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.progress.at("train", iteration_of(trainer), 0, int(trainer.num_training_batches))

    def on_progress(
        self, trainer: pl.Trainer, phase: str, iteration: int, done: int, total: int, **_: int
    ) -> None:
        """Every finished shard; of a fit on another's rollouts `iteration` is that one's."""
        self.progress.at(phase, min(iteration, iteration_of(trainer)), done, total)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: LanguageModel, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        steps = int(trainer.num_training_batches)
        self.progress.at("train", iteration_of(trainer), batch_index + 1, steps)


class Panel(Phase):
    """
    every_s: seconds between lines where there is no terminal.
    """

    progress: Progress  # that Track keeps

    def __init__(self, console: Console, every_s: float = 10.0):
        self.console, self.every_s = console, every_s
        self.live: Live | None = None
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=30),
            bars.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
        )
        self.bar_id = self.bar.add_task("starting", total=1)
        self.rate = ""
        self.lines: dict[int, dict[str, Any]] = {}
        self.last_line = time.monotonic()

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Track):
                self.progress = callback.progress
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
        rate = f"{tokens / self.progress.seconds():,.0f} tokens/s" if tokens else ""
        share = f"  right so far {right / judged:.1%}" if tokens else ""
        self._show(f"{rate}{share}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: LanguageModel, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        steps = int(trainer.num_training_batches)
        tokens = data_of(trainer).num_tokens * (batch_index + 1) / max(1, steps)
        self._show(f"{tokens / self.progress.seconds():,.0f} tokens/s")

    def on_metrics(self, trainer: pl.Trainer, iteration: int, values: dict[str, float]) -> None:
        """The metrics of an iteration, as they are logged."""
        self.lines[iteration] = {"iteration": iteration, **self.lines.get(iteration, {}), **values}
        if self.live is None and "dev/accuracy" in values:
            covered = values.get("train/coverage")
            coverage = f", coverage {covered:.1%}" if covered is not None else ""
            self.console.print(
                f"iteration {iteration}: dev accuracy {summary.said(values, 'dev/accuracy', 0)}"
                f"{coverage}{self._left()}",
                highlight=False,
                soft_wrap=True,
            )

    def _show(self, rate: str) -> None:
        now = self.progress
        if self.live is not None:
            text = f"iteration {now.iteration} of {now.of}: {now.phase}"
            self.bar.update(self.bar_id, description=text, completed=now.done, total=now.total)
            self.rate = rate + self._left()
            self.live.update(self._view())
        elif time.monotonic() - self.last_line >= self.every_s:
            self.last_line = time.monotonic()
            line = f"  iteration {now.iteration}: {now.phase} {now.done}/{now.total}  {rate}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        left = self.progress.left
        return f"  about {left / 60:.1f} min left" if left else ""

    def _view(self) -> Group:
        ordered = [self.lines[iteration] for iteration in sorted(self.lines)]
        return Group(*([summary.table(ordered)] if ordered else []), self.bar, self.rate)
