"""Balance: how hot to sample, and how strictly to select, anew at each iteration (B-STaR).

Zeng et al. 2024, arXiv:2412.17256, sections 3.1 and 3.3. A fixed part of the training problems is
sampled at each temperature of a grid; of all pairs of a temperature and a threshold the one with
the highest mean balance score is taken for the iteration.

    rollouts/iter_003/balance-0.8/     what was sampled at temperature 0.8
                     /balance.json     the grid of scores
                     /chosen.json      {"temperature": 0.8, "threshold": -0.1}: see tuning.py;
                                       without what has no grid
    balance.png                        the grids as heat maps
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from star_exp import metrics, summary
from star_exp.callbacks.phase import Phase, data_of
from star_exp.callbacks.sampling import Work, sample_phase
from star_exp.data.rollouts import RolloutDataModule
from star_exp.errors import UserError
from star_exp.metrics import sampled_tokens
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout
from star_exp.sampling.sampler import TextSampler
from star_exp.schedule import draw
from star_exp.seeds import derive

GRID, CHOSEN = "balance", "chosen"  # as the store notes them
MEASURED = ("temperature", "threshold", "score", "wanted", "tokens", "prompt_tokens")


class Balance(Phase):
    """Chooses temperature and threshold of an iteration; stands before the phases that sample, and
    behind the one that writes down solutions.

    What is selected of the samples is what the run's filters leave at a threshold: a pair is judged
    by what training would get. Of pairs with the same score it takes the lowest temperature,
    and then the highest threshold.

    problems: how many, the same in all iterations: 600 of 11,500 in the paper.
    samples: of each at each temperature, as many as `generate` draws.
    temperatures, thresholds: the grid; None: the sampler's own, the filters' own stay. Where right
        or wrong is all the reward there is, thresholds have nothing to choose.
    wanted: n*, how many right samples of a problem are enough; None: ceil(N / M), the paper's, of
        the samples that an iteration's steps take and the problems that it draws. (The released
        code has 8 written in it, where the paper's rule gives 6.)
    empty: problems of which nothing is selected count 0, or are left out, as in the released code.
    first: the iteration that it begins with.
    """

    def __init__(
        self,
        sampler: TextSampler,
        folder: Path,
        temperatures: Sequence[float] | None = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
        thresholds: Sequence[float] | None = None,
        samples: int = 64,
        problems: int = 600,
        wanted: int | None = None,
        empty: Literal["zero", "left_out"] = "zero",
        first: int = 1,
        problems_a_shard: int = 200,
    ):
        if "temperature" not in {field.name for field in fields(sampler)}:
            raise UserError(
                f"callbacks.balance.sampler: {type(sampler).__name__} has no field `temperature` "
                "to choose; give it one, or take balance=none"
            )
        grids = {"temperature": temperatures, "threshold": thresholds}
        self.chooses = {name for name, grid in grids.items() if grid is not None}
        self.sampler, self.samples, self.picture = sampler, samples, folder / "balance.png"
        own = [sampler.temperature]
        self.temperatures = sorted(own if temperatures is None else temperatures)
        self.thresholds = [None] if thresholds is None else sorted(thresholds)
        self.size, self.wanted = problems, wanted
        self.empty: Literal["zero", "left_out"] = empty
        self.first, self.problems_a_shard = first, problems_a_shard

    def on_iteration_start(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int
    ) -> None:
        if iteration < self.first:
            return
        data, problems = data_of(trainer), self.problems(data_of(trainer))
        for temperature in self.temperatures:
            work = Work(
                task=data.task,
                phase=phase_of(temperature),
                iteration=iteration,
                trained=iteration - 1,
                problems=problems,
                samples=self.samples,
                rewarded=True,
                problems_a_shard=self.problems_a_shard,
            )
            sampler = replace(self.sampler, temperature=temperature)
            sample_phase(trainer, module.policy, data, work, sampler)
        if trainer.is_global_zero:
            self._choose(data, iteration)
        trainer.strategy.barrier(f"balance {iteration}")

    def problems(self, data: RolloutDataModule) -> Sequence[Problem]:
        """The fixed part of what is trained on, of the first iteration's problems."""
        pool = data.problems(1)
        return draw(pool, min(self.size, len(pool)), derive(data.seed, "balance"))

    def _choose(self, data: RolloutDataModule, iteration: int) -> None:
        for name, values in self.notes(data, iteration).items():
            data.store.note(iteration, name, values)
        noted = {each: data.store.noted(each, GRID) for each in range(1, iteration + 1)}
        summary.draw_balance({each: grid for each, grid in noted.items() if grid}, self.picture)

    def notes(self, data: RolloutDataModule, iteration: int) -> dict[str, dict[str, Any]]:
        """What the store keeps of an iteration: the grid of scores, and what is chosen by it; {}
        where it does not choose."""
        if iteration < self.first:
            return {}
        problems = self.problems(data)
        wanted, scores, tokens, read = self.wanted or data.wanted(iteration), [], 0, 0
        for rollouts in self._sampled(data, iteration, {problem.id for problem in problems}):
            tokens += sum(map(sampled_tokens, rollouts))
            read += sum(rollout.prompt_tokens for rollout in rollouts)
            scores.append(
                [
                    self._score(data, rollouts, threshold, len(problems), wanted)
                    for threshold in self.thresholds
                ]
            )
        pairs = product(range(len(self.temperatures)), range(len(self.thresholds)))
        hot, strict = max(pairs, key=lambda pair: (scores[pair[0]][pair[1]], -pair[0], pair[1]))
        best = {"temperature": self.temperatures[hot], "threshold": self.thresholds[strict]}
        chosen = {name: value for name, value in best.items() if name in self.chooses}
        grid = {
            **best,
            "score": scores[hot][strict],
            "wanted": wanted,
            "problems": len(problems),
            "tokens": tokens,
            "prompt_tokens": read,
            "temperatures": self.temperatures,
            "thresholds": self.thresholds,
            "scores": scores,  # of each temperature those of all thresholds
        }
        return {GRID: grid, CHOSEN: chosen}

    def _sampled(
        self, data: RolloutDataModule, iteration: int, names: set[str]
    ) -> Iterator[list[Rollout]]:
        """At each temperature: its samples, and, where the run's training set has them at this
        iteration, the solutions that came with these problems."""
        given = [phase for phase in data.phases if phase == "solutions"]
        solutions = [r for r in data.store.read(iteration, *given) if r.problem in names]
        for temperature in self.temperatures:
            yield data.store.read(iteration, phase_of(temperature)) + solutions

    def _score(
        self,
        data: RolloutDataModule,
        rollouts: Sequence[Rollout],
        threshold: float | None,
        problems: int,
        wanted: int,
    ) -> float:
        chosen = {} if threshold is None else {"threshold": threshold}
        *_, (_, selected) = data.selected(rollouts, chosen)
        return metrics.balance(selected, problems, wanted, self.empty)

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """What was chosen for an iteration, its score, and the best of each temperature."""
        data = data_of(trainer)
        grid = data.store.noted(iteration, GRID)
        if not grid:
            return {}
        values = {name: float(grid[name]) for name in MEASURED if grid[name] is not None}
        for temperature, row in zip(grid["temperatures"], grid["scores"], strict=True):
            values[f"score/temperature={temperature:g}"] = max(row)
        return {f"balance/{name}": value for name, value in values.items()}

    def noted(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The wall time of choosing."""
        seconds = data_of(trainer).clock.seconds(iteration)
        mine = [passed for name, passed in seconds.items() if name.startswith("balance-")]
        return {"balance/seconds": sum(mine)} if mine else {}


def phase_of(temperature: float) -> str:
    return f"balance-{temperature:g}"
