"""How a phase's work is cut into shards, shared out over ranks, sampled, judged and stored.

A shard is a fixed slice of the phase's problems, and a sample depends on its own seed alone. So a
run which was interrupted, or has more processes, writes the same shards as one that was not. The
shards of a rank are sampled in one stream: no row waits for the last of a shard. Phases need of the
trainer only rank, world size, broadcast and barrier.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytorch_lightning as pl

from star_exp.callbacks.phase import announce
from star_exp.data.iterations import IterationData
from star_exp.data.steps import reaching, text_lengths
from star_exp.errors import UserError
from star_exp.models.lora import merged
from star_exp.records import Problem, Rollout, Segment
from star_exp.sampling.base import Policy, Request, Sample, Sampler, fingerprint
from star_exp.seeds import derive
from star_exp.tasks.base import Task

FEW = 5  # failed checks say nothing of a rate; a shard may be of a dozen texts
T = TypeVar("T")
Shards = Mapping[int, Sequence[T]]


@dataclass(frozen=True)
class Work:
    """What a phase samples: `samples` rollouts of each problem, with the answer shown or not.

    trained: iterations that the model has behind it: M_trained writes for `iteration`.
    rewarded: whether the run's reward model scores what is written.
    """

    task: Task
    phase: str
    iteration: int
    trained: int
    problems: Sequence[Problem]
    samples: int = 1
    hinted: bool = False
    rewarded: bool = False
    problems_a_shard: int = 500


@dataclass(frozen=True)
class Start:
    """What samples go on from: a problem, and the tokens that the completion begins with.

    first: the number of its first sample, where a problem has several starts.
    """

    problem: Problem
    begun: tuple[int, ...] = ()
    first: int = 0


def sample_phase(
    trainer: pl.Trainer,
    policy: Policy,
    data: IterationData,
    work: Work,
    sampler: Sampler,
    starts: Sequence[Start] | None = None,
) -> None:
    """Samples with the policy's weights what the store lacks of `work`; all ranks take part.

    Adapters are merged meanwhile, so that every engine finds plain linear layers.

    starts: `work.samples` of each of these, in the place of `work.problems`; what a completion
        begins with is its first segment then, which was not sampled.
    """
    weights = fingerprint(policy.model)
    policy = replace(policy, weights=weights)
    reward = data.reward if work.rewarded else None

    def make(shards: Shards[Start]) -> Iterator[tuple[int, list[Rollout]]]:
        asked, requests = [], []
        for shard, mine in shards.items():
            for start in mine:
                problem = start.problem
                prompt = data.prompts.sampling(
                    policy, work.task, problem, trained=work.trained, hint=work.hinted
                )
                for number in range(start.first, start.first + work.samples):
                    seed = derive(data.seed, work.iteration, work.phase, problem.id, number)
                    asked.append((shard, start, number, Request(prompt, seed)))
                    requests.append(Request(prompt + start.begun, seed))
        drawn: dict[int, dict[int, Drawn]] = {shard: {} for shard in shards}
        stop = data.prompts.stop(work.task)
        for index, sample in sampler.stream(policy, requests, stop):
            shard, start, number, request = asked[index]
            sample = _with_beginning(policy, start.begun, sample, stop)
            drawn[shard][index] = Drawn(start.problem, number, request, sample)
            if len(drawn[shard]) == len(shards[shard]) * work.samples:
                whole = drawn.pop(shard)
                rollouts = judged(work, [whole[index] for index in sorted(whole)], weights)
                yield shard, reward(rollouts) if reward else rollouts

    with merged(policy.model):
        write_phase(
            trainer,
            data,
            phase=work.phase,
            iteration=work.iteration,
            problems=[Start(each) for each in work.problems] if starts is None else starts,
            weights=weights,
            make=make,
            problems_a_shard=work.problems_a_shard,
        )


def write_phase(
    trainer: pl.Trainer,
    data: IterationData,
    *,
    phase: str,
    iteration: int,
    problems: Sequence[T],
    weights: str,
    make: Callable[[Shards[T]], Iterator[tuple[int, list[Rollout]]]],
    problems_a_shard: int = 500,
) -> None:
    """Writes the shards that are missing, each rank its share, and waits for the other ranks.

    problems: or whatever else there are rollouts of.
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


def _with_beginning(
    policy: Policy, begun: Sequence[int], sample: Sample, stop: Sequence[str]
) -> Sample:
    """A sample with what it went on from as its first segment; it ends behind a stop string that
    began there, which its sampler could not know of."""
    if not begun:
        return sample
    before, (said,) = policy.decode(begun), sample.segments
    text = before + said.text
    places = [(string, text.find(string, max(0, len(before) - len(string) + 1))) for string in stop]
    ends = [place + len(string) for string, place in places if 0 <= place < len(before)]
    if ends:
        kept = reaching(text_lengths(policy, said.tokens), min(ends) - len(before))
        said = replace(
            said,
            text=text[len(before) : min(ends)],
            tokens=said.tokens[:kept],
            logprobs=said.logprobs[:kept],
        )
    forced = Segment(before, tuple(begun), sampled=False)
    return Sample((forced, said), sample.truncated and not ends)


@dataclass(frozen=True)
class Drawn:
    """A sample of a problem, the `number`-th, not judged yet."""

    problem: Problem
    number: int
    request: Request
    sample: Sample

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.sample.segments)


def judged(work: Work, drawn: Sequence[Drawn], weights: str) -> list[Rollout]:
    """Samples as rollouts: their texts, the answers read off, and whether those are right.

    A text that the length limit cut off is not right, whatever it says by then: it is not done.
    UserError where the checker fails on more of them than the task allows, and not on a few.
    """
    judgements = work.task.judge([(each.problem, each.text) for each in drawn])
    failures = [judgement.failed for judgement in judgements if judgement.failed is not None]
    if len(failures) > max(FEW, work.task.max_failed * len(drawn)):
        raise UserError(
            f"{work.phase} of iteration {work.iteration}: the check of the answer failed for "
            f"{len(failures)} of {len(drawn)} rollouts, and at most {work.task.max_failed:.1%} may "
            f"(task.max_failed). The first failed with: {failures[0]}"
        )
    return [
        Rollout(
            problem=each.problem.id,
            question=each.problem.question,
            gold=each.problem.answer,
            groups=each.problem.groups,
            iteration=work.iteration,
            phase=work.phase,
            sample=each.number,
            hinted=work.hinted,
            prompt_tokens=len(each.request.prompt),
            segments=each.sample.segments,
            answer=judgement.answer,
            correct=judgement.correct and not each.sample.truncated,
            truncated=each.sample.truncated,
            seed=each.request.seed,
            weights=weights,
            lenient=judgement.lenient,
            failed=judgement.failed,
        )
        for each, judgement in zip(drawn, judgements, strict=True)
    ]
