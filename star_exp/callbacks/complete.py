"""The phases that make a process reward model's data: solutions, and how they may go on."""

import logging
from collections import Counter
from statistics import fmean

import pytorch_lightning as pl

from star_exp.callbacks.phase import Phase
from star_exp.callbacks.sampling import Start, Work, sample_phase
from star_exp.data.process import COMPLETIONS, process_data_of
from star_exp.data.steps import right_steps
from star_exp.data.verification import verifier_data_of
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.records import Rollout
from star_exp.sampling.base import Policy, Sampler
from star_exp.schedule import draw
from star_exp.seeds import derive

log = logging.getLogger("star_exp")


class Responses(Phase):
    """`samples` of each training problem by the generator's last model, where its run drew none
    (B-STaR, section A.1: 15 a query, by the model after its first epoch of SFT).

    problems: at most so many, those that a run with this seed samples first; None: all.
    """

    def __init__(
        self,
        sampler: Sampler,
        samples: int = 15,
        problems: int | None = None,
        problems_a_shard: int = 200,
    ):
        for name, value in (
            ("samples", samples),
            ("problems", 1 if problems is None else problems),
        ):
            if value < 1:
                raise UserError(f"verifier.callbacks.responses.{name}={value}: expected 1 or more")
        self.sampler, self.samples, self.problems = sampler, samples, problems
        self.problems_a_shard = problems_a_shard

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        data = verifier_data_of(trainer)
        if data.sampled:
            return
        pool = data.task.problems("train")
        size = None if self.problems is None else min(self.problems, len(pool))
        work = Work(
            task=data.task,
            phase="generate",
            iteration=data.iteration,
            trained=data.iteration,
            problems=draw(pool, size, derive(data.seed, "problems", 1)),
            samples=self.samples,
            problems_a_shard=self.problems_a_shard,
        )
        sample_phase(trainer, data.writer(module.policy), data, work, self.sampler)


class Complete(Phase):
    """`completions` of what each solution says up to a step, by the generator's last model: 8 in
    Math-Shepherd and B-STaR. What several solutions begin with is completed once.

    The sampler's max_new_tokens is of what is new in a completion.
    """

    def __init__(self, sampler: Sampler, completions: int = 8, prefixes_a_shard: int = 1000):
        for name, value in (("completions", completions), ("prefixes_a_shard", prefixes_a_shard)):
            if value < 1:
                raise UserError(f"verifier.callbacks.complete.{name}={value}: expected 1 or more")
        self.sampler, self.completions = sampler, completions
        self.prefixes_a_shard = prefixes_a_shard

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        data = process_data_of(trainer)
        work = Work(
            task=data.task,
            phase=COMPLETIONS,
            iteration=data.iteration,
            trained=data.iteration,
            problems=(),
            samples=self.completions,
            problems_a_shard=self.prefixes_a_shard,
        )
        starts = self._starts(trainer, module.policy)
        sample_phase(trainer, data.writer(module.policy), data, work, self.sampler, starts)

    def _starts(self, trainer: pl.Trainer, policy: Policy) -> list[Start]:
        """Each distinct beginning of a problem's solutions, in the order of the training set."""
        unfinished = process_data_of(trainer).unfinished(policy)
        distinct = {(problem.id, begun): problem for problem, begun in unfinished}
        earlier, starts = Counter[str](), []
        for (name, begun), problem in distinct.items():
            starts.append(Start(problem, begun, earlier[name] * self.completions))
            earlier[name] += 1
        if trainer.is_global_zero:
            log.info(
                "completions: %d beginnings of solutions, %d of them distinct, %d completions each",
                *(len(unfinished), len(starts), self.completions),
            )
        return starts

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """How good the labels are that it gives, and their tokens, beside what the last gives."""
        if iteration != trainer.max_epochs:
            return {}
        data, module = process_data_of(trainer), trainer.lightning_module
        assert isinstance(module, LanguageModel)
        policy = module.policy
        labels, hits = [], []
        for rollout in data.compared:
            found = data.labelled_steps(policy, rollout)
            labels += found.values()
            truth = right_steps(policy, data.task, rollout)
            if truth is not None:
                hits += [(found[end] > 0.5) == truth[end] for end in found if end in truth]
        values = {"steps/labelled": float(len(labels)), "steps/right": fmean(labels)}
        if hits:
            values["steps/label_accuracy"] = fmean(hits)
        values["completions/tokens"] = float(sum(map(_sampled, data.completions)))
        return values

    def noted(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The wall time of that."""
        if iteration != trainer.max_epochs:
            return {}
        data = process_data_of(trainer)
        seconds = data.clock.seconds(data.iteration)  # stored as of the generator's last iteration
        return {"completions/seconds": seconds.get(COMPLETIONS, 0.0)}


def _sampled(rollout: Rollout) -> int:
    return sum(len(segment.logprobs) for segment in rollout.segments)
