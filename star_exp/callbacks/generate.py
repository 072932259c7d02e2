"""The phases that make training examples: Generate, Rationalize, and the baseline's GoldAnswers."""

from collections.abc import Sequence

import pytorch_lightning as pl

from star_exp.callbacks.phase import Phase, data_of
from star_exp.callbacks.sampling import Work, sample_phase, write_phase
from star_exp.data.rollouts import RolloutDataModule
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout, Segment
from star_exp.sampling.base import Sampler
from star_exp.store import by_problem


class Generate(Phase):
    """`samples` rationales for each problem of the iteration (STaR, Algorithm 1, line 3).

    problems_a_shard: written as one file; a crash costs those that aren't complete.
    """

    phase = "generate"
    hinted = False

    def __init__(self, sampler: Sampler, samples: int = 1, problems_a_shard: int = 500):
        if samples < 1 or problems_a_shard < 1:
            raise ValueError(
                f"callbacks.{self.phase}: samples={samples} and "
                f"problems_a_shard={problems_a_shard} must be at least 1"
            )
        self.sampler, self.samples, self.problems_a_shard = sampler, samples, problems_a_shard

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        data = data_of(trainer)
        work = Work(
            task=data.task,
            phase=self.phase,
            iteration=iteration,
            trained=iteration - 1,
            problems=self.todo(data, iteration),
            samples=self.samples,
            hinted=self.hinted,
            problems_a_shard=self.problems_a_shard,
        )
        sample_phase(trainer, module, data, work, self.sampler)

    def todo(self, data: RolloutDataModule, iteration: int) -> Sequence[Problem]:
        return data.problems(iteration)


class Rationalize(Generate):
    """A rationale for what `generate` failed on, with the answer shown (lines 4 and 6).

    The text of Algorithm 1 hints every problem and keeps the failed ones; hinting only those, as
    section 3.2 and the released code do, gives the same set.
    """

    phase = "rationalize"
    hinted = True

    def todo(self, data: RolloutDataModule, iteration: int) -> Sequence[Problem]:
        generated = by_problem(data.store.read(iteration, "generate"))
        solved = {name for name, rollouts in generated.items() if any(r.correct for r in rollouts)}
        return [problem for problem in data.problems(iteration) if problem.id not in solved]


class GoldAnswers(Phase):
    """The right answer of each problem, without a rationale, as an example (direct baseline).

    Nothing is sampled: the records say so by their phase, and by weights "gold".
    """

    phase = "answers"

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        data = data_of(trainer)

        def answer(problem: Problem) -> Rollout:
            text = data.task.direct(problem)
            (judgement,) = data.task.judge([(problem, text)])
            return Rollout(
                problem=problem.id,
                question=problem.question,
                gold=problem.answer,
                groups=problem.groups,
                iteration=iteration,
                phase=self.phase,
                sample=0,
                hinted=False,
                prompt_tokens=0,
                segments=(Segment(text, module.policy.encode_on(text)),),
                answer=judgement.answer,
                correct=judgement.correct,
                truncated=False,
                seed=0,
                weights="gold",
                lenient=judgement.lenient,
                failed=judgement.failed,
            )

        write_phase(
            trainer,
            data,
            phase=self.phase,
            iteration=iteration,
            problems=data.problems(iteration),
            weights="gold",
            make=lambda shards: (
                (shard, [answer(problem) for problem in problems])
                for shard, problems in shards.items()
            ),
        )
