"""The phases that make training examples: Generate and Rationalize, which sample; GoldAnswers and
Solutions, which were written by no model."""

from abc import abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl

from star_exp.callbacks.phase import Phase, data_of
from star_exp.callbacks.sampling import Work, sample_phase, write_phase
from star_exp.data.rollouts import RolloutDataModule
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout, Segment
from star_exp.sampling.base import Sampler
from star_exp.schedule import draw
from star_exp.seeds import derive
from star_exp.tasks.base import Exemplar, Judgement
from star_exp.tuning import tuned


class Generate(Phase):
    """`samples` rationales for each problem of the iteration (STaR, Algorithm 1, line 3).

    problems_a_shard: written as one file; a crash costs those that aren't complete.
    first: the iteration that it begins with: 2, where the first one makes the model that writes.
    """

    phase = "generate"
    hinted = False

    def __init__(
        self, sampler: Sampler, samples: int = 1, problems_a_shard: int = 500, first: int = 1
    ):
        if samples < 1 or problems_a_shard < 1:
            raise ValueError(
                f"callbacks.{self.phase}: samples={samples} and "
                f"problems_a_shard={problems_a_shard} must be at least 1"
            )
        self.sampler, self.samples, self.first = sampler, samples, first
        self.problems_a_shard = problems_a_shard

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        if iteration < self.first:
            return
        data = data_of(trainer)
        work = Work(
            task=data.task,
            phase=self.phase,
            iteration=iteration,
            trained=iteration - 1,
            problems=self.todo(data, iteration),
            samples=self.samples,
            hinted=self.hinted,
            rewarded=True,
            problems_a_shard=self.problems_a_shard,
        )
        sampler = tuned(self.sampler, data.store.noted(iteration, "chosen"))
        sample_phase(trainer, module.policy, data, work, sampler)

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
        solved = data.store.solved(iteration, "generate")
        return [problem for problem in data.problems(iteration) if problem.id not in solved]


class Written(Phase):
    """Completions that no model sampled, as records of a phase; `author` stands for the weights."""

    phase: str
    author: str

    @abstractmethod
    def completions(self, data: RolloutDataModule, iteration: int) -> list[Exemplar]:
        """What there is to write at an iteration."""

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        data = data_of(trainer)
        written = self.completions(data, iteration)
        texts = {each.problem.id: data.prompts.said(each.completion) for each in written}

        def records(problems: Sequence[Problem]) -> list[Rollout]:
            pairs = [(problem, texts[problem.id]) for problem in problems]
            judgements = data.task.judge(pairs)
            return [
                self._record(module, iteration, problem, text, judgement)
                for (problem, text), judgement in zip(pairs, judgements, strict=True)
            ]

        write_phase(
            trainer,
            data,
            phase=self.phase,
            iteration=iteration,
            problems=[each.problem for each in written],
            weights=self.author,
            make=lambda shards: ((shard, records(problems)) for shard, problems in shards.items()),
        )

    def _record(
        self,
        module: LanguageModel,
        iteration: int,
        problem: Problem,
        text: str,
        judgement: Judgement,
    ) -> Rollout:
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
            weights=self.author,
            lenient=judgement.lenient,
            failed=judgement.failed,
        )


class GoldAnswers(Written):
    """The right answer of each problem, without a rationale, as an example (direct baseline)."""

    phase, author = "answers", "gold"

    def completions(self, data: RolloutDataModule, iteration: int) -> list[Exemplar]:
        problems = data.problems(iteration)
        return [Exemplar(problem, data.task.direct(problem)) for problem in problems]


class Solutions(Written):
    """D_SFT of V-STaR (section 2): the solutions that come with the problems.

    Of the problems of train that have one; of a task that has none, as those made on the spot, the
    seed rationales (data.exemplars of each group), which the base model may have seen. All of
    train, not only the problems that an iteration draws.

    most: at most so many, drawn at random; None: all.
    every: whether every iteration has them; False: the first.
    """

    phase, author = "solutions", "human"

    def __init__(self, most: int | None = None, every: bool = False):
        if most is not None and most < 1:
            raise UserError(f"callbacks.solutions.most={most}: expected 1 or more, or null")
        self.most, self.every = most, every

    def completions(self, data: RolloutDataModule, iteration: int) -> list[Exemplar]:
        if iteration != 1 and not self.every:
            return []
        task = data.task
        found = task.solved() or task.exemplars(data.exemplars)
        if not found:
            raise UserError(
                f"callbacks.solutions: {type(task).__name__} has no solutions to begin with, and "
                "no seed rationales; give it exemplars (task.exemplars_from=FILE), or take a "
                "variant that needs none: star, rest_em"
            )
        size = None if self.most is None else min(self.most, len(found))
        return [*draw(found, size, derive(data.seed, "solutions"))]
