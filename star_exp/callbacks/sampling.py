"""How a phase's work is cut into shards, shared out over ranks, sampled, judged and stored.

A shard is a fixed slice of the phase's problems, and a sample depends on its own seed alone. So a
run which was interrupted, or has more processes, writes the same shards as one that was not. The
shards of a rank are sampled in one stream: no row waits for the last of a shard. Phases need of the
trainer only rank, world size, broadcast and barrier.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytorch_lightning as pl

from star_exp.callbacks.phase import announce
from star_exp.data.rollouts import RolloutDataModule
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout
from star_exp.sampling.base import Request, Sample, Sampler, fingerprint
from star_exp.seeds import derive
from star_exp.tasks.base import Task

Shards = Mapping[int, Sequence[Problem]]


@dataclass(frozen=True)
class Work:
    """What a phase samples: `samples` rollouts of each problem, with the answer shown or not."""

    phase: str
    iteration: int
    problems: Sequence[Problem]
    samples: int = 1
    hinted: bool = False
    problems_a_shard: int = 500


def sample_phase(
    trainer: pl.Trainer,
    module: LanguageModel,
    data: RolloutDataModule,
    work: Work,
    sampler: Sampler,
) -> None:
    """Samples with the module's weights what the store lacks of `work`; all ranks take part."""
    weights = fingerprint(module.model)
    policy = replace(module.policy, weights=weights)

    def make(shards: Shards) -> Iterator[tuple[int, list[Rollout]]]:
        asked, requests = [], []
        for shard, problems in shards.items():
            for problem in problems:
                prompt = policy.encode(data.task.prompt(problem, work.hinted))
                for sample in range(work.samples):
                    seed = derive(data.seed, work.iteration, work.phase, problem.id, sample)
                    asked.append((shard, problem, sample))
                    requests.append(Request(prompt, seed))
        drawn: dict[int, dict[int, Rollout]] = {shard: {} for shard in shards}
        for index, sample in sampler.stream(policy, requests, data.task.stop):
            shard, problem, number = asked[index]
            drawn[shard][index] = to_rollout(
                data.task, work, problem, number, requests[index], sample, weights
            )
            if len(drawn[shard]) == len(shards[shard]) * work.samples:
                whole = drawn.pop(shard)
                yield shard, [whole[index] for index in sorted(whole)]

    write_phase(
        trainer,
        data,
        phase=work.phase,
        iteration=work.iteration,
        problems=work.problems,
        weights=weights,
        make=make,
        problems_a_shard=work.problems_a_shard,
    )


def write_phase(
    trainer: pl.Trainer,
    data: RolloutDataModule,
    *,
    phase: str,
    iteration: int,
    problems: Sequence[Problem],
    weights: str,
    make: Callable[[Shards], Iterator[tuple[int, list[Rollout]]]],
    problems_a_shard: int = 500,
) -> None:
    """Writes the shards that are missing, each rank its share, and waits for the other ranks.

    make: gives the rollouts of each shard that it is asked for, in any order.
    """
    starts = range(0, len(problems), problems_a_shard)
    pending = (
        data.store.missing(iteration, phase, len(starts), weights) if trainer.is_global_zero else []
    )
    pending = trainer.strategy.broadcast(pending)
    done, right, judged, tokens = (len(starts) - len(pending)) * problems_a_shard, 0, 0, 0
    announce(trainer, phase, iteration, min(done, len(problems)), len(problems))
    shards = {
        shard: problems[starts[shard] : starts[shard] + problems_a_shard]
        for shard in pending[trainer.global_rank :: trainer.world_size]
    }
    begun = time.perf_counter()
    for shard, rollouts in make(shards):
        data.store.write(iteration, phase, shard, rollouts)
        now = time.perf_counter()
        data.clock.add(iteration, phase, now - begun, trainer.global_rank)
        begun = now
        done += len(shards[shard]) * trainer.world_size
        right += sum(rollout.correct for rollout in rollouts)
        judged += len(rollouts)
        tokens += sum(len(segment.logprobs) for r in rollouts for segment in r.segments)
        announce(
            trainer,
            phase,
            iteration,
            min(done, len(problems)),
            len(problems),
            right=right,
            judged=judged,
            tokens=tokens,
        )
    trainer.strategy.barrier(f"{phase} {iteration}")


def to_rollout(
    task: Task,
    work: Work,
    problem: Problem,
    index: int,
    request: Request,
    sample: Sample,
    weights: str,
) -> Rollout:
    """A sample as a rollout: its text, the answer read off, and whether that is right.

    A text that the length limit cut off is not right, whatever it says by then: it is not done.
    """
    answer = task.answer("".join(segment.text for segment in sample.segments))
    return Rollout(
        problem=problem.id,
        question=problem.question,
        gold=problem.answer,
        groups=problem.groups,
        iteration=work.iteration,
        phase=work.phase,
        sample=index,
        hinted=work.hinted,
        prompt_tokens=len(request.prompt),
        segments=sample.segments,
        answer=answer,
        correct=task.correct(problem, answer) and not sample.truncated,
        truncated=sample.truncated,
        seed=request.seed,
        weights=weights,
    )
