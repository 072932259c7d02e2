"""What a verifier is trained on: right and wrong solutions of a generator's run, D_VER of V-STaR.

The solutions that came with the problems count as right ones (section 2), so that a problem which
no sample solved gives pairs too. A sample that was cut off is a wrong one, and has no end.

An iteration of such a fit is one pass over the training set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from star_exp.callbacks.keep import MADE
from star_exp.clock import Clock
from star_exp.data.encode import Example, example, pack, trained_tokens
from star_exp.data.iterations import IterationData
from star_exp.errors import UserError
from star_exp.models.base import load
from star_exp.modules import packing
from star_exp.modules.base import LanguageModel
from star_exp.modules.loss import owned
from star_exp.prompts import Prompts
from star_exp.records import Rollout
from star_exp.sampling.base import Policy
from star_exp.schedule import draw, passes
from star_exp.scores import Key, ScoreStore, key
from star_exp.seeds import derive
from star_exp.store import RolloutStore, by_problem
from star_exp.tasks.base import Task

Group = tuple[Rollout, ...]  # what is learned from together
Groups = Callable[[Sequence[Rollout], int], list[Group]]  # (solutions of a problem, seed) -> groups
REFERENCE = "reference"  # log G_SFT(y|x), in the scores of iteration 0


@dataclass(frozen=True)
class Pairs:
    """Pairs of a right and a wrong solution of one problem, for DPO (V-STaR, section 3).

    The pool is all right times all wrong ones of a problem.

    most: at most so many of the pool, drawn at random; None: all. The paper doesn't say how many;
        without a bound those problems count most that are solved half of the time.
    """

    most: int | None = 8

    def __post_init__(self) -> None:
        _check(self.most)

    def __call__(self, rollouts: Sequence[Rollout], seed: int) -> list[Group]:
        right = [rollout for rollout in rollouts if rollout.correct]
        wrong = [rollout for rollout in rollouts if not rollout.correct]
        pool = range(len(right) * len(wrong))
        size = None if self.most is None else min(self.most, len(pool))
        places = draw(pool, size, seed)
        return [(right[place // len(wrong)], wrong[place % len(wrong)]) for place in places]


@dataclass(frozen=True)
class Singles:
    """Solutions by themselves, for an outcome reward model (Cobbe et al. 2021).

    most: at most so many of a problem, half of them right where there are as many, drawn at random;
        None: all.
    """

    most: int | None = 16

    def __post_init__(self) -> None:
        _check(self.most)

    def __call__(self, rollouts: Sequence[Rollout], seed: int) -> list[Group]:
        mixed = draw(rollouts, len(rollouts), seed)
        right = [rollout for rollout in mixed if rollout.correct]
        wrong = [rollout for rollout in mixed if not rollout.correct]
        most = self.most or len(rollouts)
        right = right[: max(most // 2, most - len(wrong))]
        return [(rollout,) for rollout in [*right, *wrong[: most - len(right)]]]


def _check(most: int | None) -> None:
    if most is not None and most < 1:
        raise UserError(f"verifier.data.groups.most={most}: expected 1 or more, or null for all")


@dataclass(frozen=True)
class Solution:
    """right: 1.0 or 0.0. reference: its log-probability under the reference model, if known.

    steps: of each trained token the label of the step that it stands behind, in [0, 1], -1 where it
        stands behind none; None where no steps are judged.
    """

    example: Example
    right: float
    reference: float | None
    steps: tuple[float, ...] | None = None


class VerifierData(IterationData):
    """
    generator: the folder of the run whose solutions are judged; iteration: of its last model, which
        drew the candidates. store: this fit's own.
    scores: what this fit's verifiers give.
    groups: what is learned from together: Pairs, Singles.
    phases: whose rollouts are D_VER; rounds: of the first so many iterations with samples, None:
        of all. Solutions stand in iteration 1.
    batch_size: groups of an optimizer step over all ranks.
    """

    def __init__(
        self,
        task: Task,
        store: RolloutStore,
        clock: Clock,
        seed: int,
        generator: Path,
        scores: ScoreStore,
        prompts: Prompts,
        groups: Groups,
        batch_size: int,
        iteration: int,
        phases: Sequence[str] = ("solutions", "generate"),
        rounds: int | None = None,
    ):
        super().__init__(task, store, clock, seed, prompts)
        self.made = RolloutStore(store.root.parent / MADE / "rollouts")
        self.generator, self.solutions = generator, RolloutStore(generator / "rollouts")
        self.scores, self.groups, self.iteration = scores, groups, iteration
        self.phases, self.rounds, self.batch_size = tuple(phases), rounds, batch_size
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._candidates: dict[str, list[Rollout]] = {}

    @cached_property
    def labelled(self) -> dict[str, list[Rollout]]:
        """D_VER by problem, each text of a problem once. UserError where there is none.

        Solutions are the generator's, or, where it knew of none, those that made G_SFT; samples
        too, or, where it drew none, those that this fit had drawn (callbacks/complete.py).
        """
        store, rounds = self.solutions, 0
        found = self.made.read(1, *self.phases) + self.store.read(self.iteration, *self.phases)
        for iteration in self._earlier():
            drawn = store.read(iteration, *self.phases)
            sampled = any(rollout.phase != "solutions" for rollout in drawn)
            rounds += sampled
            if self.rounds is None or rounds <= self.rounds or not sampled:
                found += drawn
        # a solution that is judged wrong is one whose answer wasn't read: no wrong one
        found = [r for r in found if r.failed is None and (r.correct or r.phase != "solutions")]
        if not found:
            raise UserError(
                f"{store.root} holds no rollouts of {' or '.join(self.phases)} to train a verifier "
                "on; give the folder of a run that sampled (from=RUN_DIR), or name its phases in "
                "data.phases"
            )
        distinct = {(rollout.problem, rollout.text): rollout for rollout in reversed(found)}
        return by_problem(reversed(distinct.values()))

    @property
    def sampled(self) -> bool:
        """Whether the generator's run drew samples of training problems."""
        phases = [phase for phase in self.phases if phase != "solutions"]
        return any(self.solutions.shards(iteration, *phases) for iteration in self._earlier())

    def _earlier(self) -> list[int]:
        """The generator's iterations up to that of this fit; it may have gone on since."""
        return [each for each in self.solutions.iterations() if each <= self.iteration]

    def problems(self, iteration: int) -> Sequence[str]:
        """Of the report: the problems that there are solutions of."""
        return [*self.labelled]

    def example(self, policy: Policy, rollout: Rollout) -> Example:
        """A solution behind its question, as the verifier reads it: no hint, and no exemplars but
        those of training texts."""
        return example(policy, self.prompt(policy, rollout), rollout)

    def prompt(self, policy: Policy, rollout: Rollout) -> tuple[int, ...]:
        """What stands before a solution in what the verifier reads."""
        if rollout.problem not in self._prompts:
            prompt = self.prompts.training(policy, self.task, rollout.asked)
            self._prompts[rollout.problem] = prompt
        return self._prompts[rollout.problem]

    def candidates(self, split: str) -> list[Rollout]:
        """What is picked from: the generator's, of its run or drawn by this one; read once."""
        if not self._candidates.get(split):
            found = self.store.read(self.iteration, f"{split}-candidates")
            found += [] if found else self.solutions.read(self.iteration, f"{split}-candidates")
            self._candidates[split] = found
        return self._candidates[split]

    def writer(self, like: Policy) -> Policy:
        """The generator's last model, of the type and on the device of another."""
        dtype = str(like.model.dtype).removeprefix("torch.")
        policy = load(self.generator / "model", dtype)
        policy.model.to(like.model.device)  # type: ignore[arg-type]
        return policy

    @cached_property
    def drawn(self) -> list[Group]:
        """The training set. UserError where no problem gives any."""
        found = [
            group
            for problem, rollouts in self.labelled.items()
            for group in self.groups(rollouts, derive(self.seed, "verifier", problem))
        ]
        if not found:
            raise UserError(
                f"{self.generator}: no problem has a right and a wrong solution, so there is "
                "nothing to train a verifier on; take more samples of each problem "
                "(callbacks.generate.samples)"
            )
        return found

    @property
    def compared(self) -> list[Rollout]:
        """Every solution that is trained on, once: what a reference model has to score."""
        return [*{key(rollout): rollout for group in self.drawn for rollout in group}.values()]

    def steps(
        self, module: LanguageModel, iteration: int, rank: int, world: int
    ) -> Dataset[dict[str, Tensor]]:
        packing.enable(module.model)
        solutions = self.learned(module)
        groups = [
            tuple(solutions[key(rollout)] for rollout in group)
            for group in self.drawn
            if all(key(rollout) in solutions for rollout in group)
        ]
        self.num_examples = len(groups)
        self.num_tokens = sum(len(each.example.tokens) for group in groups for each in group)
        seed = derive(self.seed, "verifier", iteration)
        shuffled, size = passes(groups, len(groups), seed), self.batch_size
        steps = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        return VerifierSteps([step for step in steps if len(step) >= world], rank, world)

    def learned(self, module: LanguageModel) -> dict[Key, Solution]:
        """Of what is trained on, what is learned from each; groups need all of theirs."""
        reference = self.scores.read(0, REFERENCE)
        return {
            key(rollout): Solution(
                self.example(module.policy, rollout),
                float(rollout.correct),
                reference.get(key(rollout)),
            )
            for rollout in self.compared
        }


def verifier_data_of(trainer: pl.Trainer) -> VerifierData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VerifierData), "this callback belongs to a verifier's fit"
    return data


@dataclass(frozen=True)
class VerifierSteps(Dataset[dict[str, Tensor]]):
    """Item i is this rank's part of step i: of P groups the first members, then the second.

    right (examples,): 1.0 or 0.0. reference (examples,): see Solution, where all is known.
    steps (examples, most trained tokens): see Solution, where all is known; filled up with -1.
    share, tokens, judged: groups, trained tokens, and labels of steps, of the whole step over the
    number of ranks.
    """

    groups: Sequence[Sequence[tuple[Solution, ...]]]
    rank: int
    world: int

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        whole = self.groups[step]
        members = zip(*whole[self.rank :: self.world], strict=True)
        mine = [each for same in members for each in same]
        batch = owned(pack, [each.example for each in mine])
        batch["right"] = torch.tensor([each.right for each in mine])
        known = [each.reference for each in mine if each.reference is not None]
        if len(known) == len(mine):
            batch["reference"] = torch.tensor(known)
        labels = [torch.tensor(each.steps) for each in mine if each.steps is not None]
        if len(labels) == len(mine):
            batch["steps"] = pad_sequence(labels, batch_first=True, padding_value=-1.0)
            judged = sum(
                label >= 0 for group in whole for each in group for label in each.steps or ()
            )
            batch["judged"] = torch.tensor(judged / self.world)
        tokens = trained_tokens([each.example for group in whole for each in group])
        batch["share"] = torch.tensor(len(whole) / self.world)
        batch["tokens"] = torch.tensor(tokens / self.world)
        return batch
