"""How good each model is at tasks that it is not trained on: `ood/svamp/accuracy`."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytorch_lightning as pl

from star_exp import metrics
from star_exp.callbacks.phase import Phase, data_of, trained_iterations
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.sampling.base import Sampler
from star_exp.sampling.sampler import TextSampler
from star_exp.schedule import draw
from star_exp.seeds import derive
from star_exp.tasks.base import Task


class OtherTasks(Phase):
    """Measures the base model and that of every iteration; the samples are kept in the store.

    tasks: by the name that they have in metrics, and behind `ood-` as phases.
    sampler: of all of them; its length limit, where it is that of the run's own task, gives way to
        each task's.
    split: which of a task's problems; size: at most so many of them, the same for all models.
    """

    def __init__(
        self, tasks: Mapping[str, Task], sampler: Sampler, split: str = "test", size: int = 500
    ):
        for name in tasks:
            if not re.fullmatch(r"[\w-]+", name):
                raise UserError(
                    f"callbacks.other_tasks.tasks.{name}: the name of a metric and of a folder has "
                    "letters, digits, _ and - only; choose another"
                )
        if size < 1:
            raise UserError(f"callbacks.other_tasks.size={size}: expected at least 1")
        self.tasks, self.sampler, self.split, self.size = tasks, sampler, split, size

    @property
    def phases(self) -> dict[str, Task]:
        """Each phase, and the task whose problems it samples."""
        return {_phase(name): task for name, task in self.tasks.items()}

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.measure(trainer, module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.measure(trainer, module, trained_iterations(trainer))

    def measure(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        data = data_of(trainer)
        for name, task in self.tasks.items():
            problems = task.problems(self.split)
            size = min(self.size, len(problems))
            work = Work(
                task=task,
                phase=_phase(name),
                iteration=iteration,
                trained=iteration,
                problems=draw(problems, size, derive(data.seed, "other tasks", name)),
            )
            sample_phase(trainer, module.policy, data, work, limited(self.sampler, data.task, task))

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The metrics of an iteration, for the report."""
        store, values = data_of(trainer).store, {}
        for name, task in self.tasks.items():
            rollouts = store.read(iteration, _phase(name))
            values |= metrics.sampled(f"ood/{name}", rollouts, "accuracy", task.equations)
        return values


def limited(sampler: Sampler, own: Task, other: Task) -> Sampler:
    """The sampler, with the limit of the `other` task if it has that of its `own`."""
    if not isinstance(sampler, TextSampler):
        return sampler
    limit = limit_of(own, other, sampler.max_new_tokens)
    return replace(sampler, max_new_tokens=limit)


def limit_of(own: object, other: object, limit: int) -> int:
    """max_new_tokens for another task, where that of the own task is `limit`.

    One that was set apart from the own task stays; and so it does where the other has none.
    """
    usual = getattr(own, "max_new_tokens", TextSampler.max_new_tokens)
    return getattr(other, "max_new_tokens", limit) if limit == usual else limit


def _phase(name: str) -> str:
    return f"ood-{name}"
