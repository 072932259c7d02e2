"""The training set of an iteration: what its phases wrote, filtered, in a fixed order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from star_exp import metrics
from star_exp.clock import Clock
from star_exp.curriculum import Earlier
from star_exp.data.encode import Example, example, pack, pad, text_example, trained_tokens
from star_exp.data.general import GeneralText
from star_exp.data.iterations import IterationData
from star_exp.errors import UserError
from star_exp.modules import packing
from star_exp.modules.base import LanguageModel
from star_exp.prompts import Prompts
from star_exp.records import Problem, Rollout
from star_exp.rewards import Reward
from star_exp.sampling.base import Policy
from star_exp.schedule import batches, draw, passes
from star_exp.seeds import derive
from star_exp.store import RolloutStore
from star_exp.tasks.base import Task
from star_exp.tuning import tuned

Curriculum = Callable[[Sequence[Problem], int, Earlier], Sequence[Problem]]  # curriculum.py
Filter = Callable[[list[Rollout]], list[Rollout]]
Order = Callable[[Sequence[str], int, int], list[int]]  # (group of each, draws, seed) -> indices
Schedule = Callable[[int, int, int], int]  # (iteration, examples, batch size) -> optimizer steps
Collate = Callable[[Sequence[Example]], dict[str, Tensor]]


class RolloutDataModule(IterationData):
    """
    curriculum: which problems of the train split an iteration may draw, None: all.
    problems_per_iteration: drawn from those for each iteration, at most; None: all of them.
    redraw: whether each iteration draws anew; False: the same problems in all.
    batch_size: examples in an optimizer step over all ranks, so that it means the same on any.
    phases: whose rollouts are trained on, in this order; none: nothing is trained.
    history: of how many iterations, up to the one that is trained; None: of all so far.
    replay: share of the draws that are seed rationales of the task, `exemplars` of each group, with
        and without the answer shown; see conf/data/rollouts.yaml.
    general: windows of general text in the place of some draws of each step; None: no such text.
        Schedule and replay count the draws that are left.
    packing: the examples of a step in one row without padding, not a padded row for each; the loss
        is the same. For models that can't read such a row see modules/packing.py.
    bucket: batches hold examples of like length, formed within this many steps' draws; 1: as drawn.
    """

    def __init__(
        self,
        task: Task,
        store: RolloutStore,
        clock: Clock,
        seed: int,
        schedule: Schedule,
        filters: Sequence[Filter],
        order: Order,
        phases: Sequence[str],
        prompts: Prompts,
        batch_size: int,
        history: int | None = 1,
        packing: bool = True,
        bucket: int = 1,
        replay: float = 0.0,
        exemplars: int = 0,
        problems_per_iteration: int | None = None,
        redraw: bool = True,
        curriculum: Curriculum | None = None,
        general: GeneralText | None = None,
        reward: Reward | None = None,
    ):
        super().__init__(task, store, clock, seed, prompts, reward)
        self.schedule, self.filters, self.phases = schedule, tuple(filters), tuple(phases)
        self.order, self.batch_size, self.bucket = order, batch_size, bucket
        self.packing, self.history = packing, history
        self.replay, self.exemplars = replay, exemplars
        self.problems_per_iteration, self.curriculum = problems_per_iteration, curriculum
        self.redraw = redraw
        self.general, self.windows = general, general.windows(batch_size) if general else 0
        self._drawn: dict[int, Sequence[Problem]] = {}
        self.num_kept: dict[str, int] = {}  # rollouts after each filter, of the last iteration
        self.num_problems = 0  # that these are of
        self.balance: float | None = None  # of what was kept of this iteration's samples

    def problems(self, iteration: int) -> Sequence[Problem]:
        """The training problems of an iteration, the same whoever asks and whenever."""
        if iteration not in self._drawn:  # a curriculum may read many problems and rollouts
            self._drawn = {iteration: self._draw(iteration)}
        return self._drawn[iteration]

    def _draw(self, iteration: int) -> Sequence[Problem]:
        problems, most = self.task.problems("train"), self.problems_per_iteration
        if self.curriculum is not None:
            problems = self.curriculum(problems, iteration, self._generated)
        size = None if most is None else min(most, len(problems))
        return draw(problems, size, derive(self.seed, "problems", iteration if self.redraw else 1))

    def _generated(self, iteration: int) -> list[Rollout]:
        return self.store.read(iteration, "generate")

    @property
    def trains(self) -> bool:
        return bool(self.phases)

    def told(self) -> dict[str, float]:
        kept = {f"train/kept/{name}": float(count) for name, count in self.num_kept.items()}
        score = {} if self.balance is None else {"train/balance": self.balance}
        return {"train/problems": float(self.num_problems), **kept, **score}

    def steps(
        self, module: LanguageModel, iteration: int, rank: int, world: int
    ) -> Dataset[dict[str, Tensor]]:
        examples, steps = self.training_set(module.policy, iteration)
        collate = pack if self.packing else partial(pad, token=module.policy.pad_token)
        if self.packing:
            packing.enable(module.model)
        return Steps(examples, steps, rank, world, collate)

    def training_set(self, policy: Policy, iteration: int) -> tuple[list[Example], list[list[int]]]:
        """The examples of an iteration, and for each optimizer step which of them it takes."""
        seed = derive(self.seed, "order", iteration)
        examples, steps = self._rollout_steps(policy, iteration, seed)
        if self.general is not None:
            texts = self.general.draw(policy, self.windows * len(steps), derive(seed, "general"))
            drawn = iter(range(len(examples), len(examples) + len(texts)))
            steps = [[*step, *islice(drawn, self.windows)] for step in steps]
            examples += texts
        self.num_tokens = sum(len(examples[index].tokens) for step in steps for index in step)
        return examples, steps

    def _rollout_steps(
        self, policy: Policy, iteration: int, seed: int
    ) -> tuple[list[Example], list[list[int]]]:
        """The same without general text, which has its own places in a step."""
        rollouts = self.kept(iteration)
        examples = self.examples(policy, rollouts)
        size = self.batch_size - self.windows
        draws = self.schedule(iteration, len(examples), size) * size
        replayed = self.seed_examples(policy) if self.replay else []
        places = range(len(examples), len(examples) + len(replayed))
        again = passes(places, int(draws * self.replay), seed) if replayed else []
        groups = [str(sorted(rollout.groups.items())) for rollout in rollouts]
        order = self.order(groups, draws - len(again), seed) + again
        order = passes(order, draws, derive(seed, "mixed")) if again else order
        examples += replayed
        lengths = [len(example.tokens) for example in examples]
        self.num_examples = len(rollouts)
        return examples, batches(order, size, lengths, self.bucket, seed)

    def kept(self, iteration: int) -> list[Rollout]:
        """The rollouts of the iteration's phases that pass the filters. UserError if none does."""
        oldest = 1 if self.history is None else max(1, iteration - self.history + 1)
        rollouts = [
            rollout
            for past in range(oldest, iteration + 1)
            for rollout in self.store.read(past, *self.phases)
        ]
        kept: list[Rollout] = []
        self.num_kept = {}
        for name, kept in self.selected(rollouts, self.store.noted(iteration, "chosen")):
            self.num_kept[name] = len(kept)
        self.num_problems = len({rollout.problem for rollout in kept})
        self.balance = self._balance(iteration, rollouts, kept)
        if not kept:
            names = ", ".join(type(filter_).__name__ for filter_ in self.filters)
            raise UserError(
                f"iteration {iteration}: none of the {len(rollouts)} rollouts of "
                f"{' and '.join(self.phases)} passed the filters ({names}), so there is nothing to "
                "train on. Draw more problems (data.problems_per_iteration), take more samples "
                "(callbacks.generate.samples), or start from a stronger base model"
            )
        return kept

    def selected(
        self, rollouts: Sequence[Rollout], chosen: Mapping[str, Any]
    ) -> Iterator[tuple[str, list[Rollout]]]:
        """What each filter leaves, by its name, with the settings that were chosen; none that was
        cut off, whatever the filters."""
        kept = [rollout for rollout in rollouts if not rollout.truncated]
        yield "Ended", kept
        for filter_ in self.filters:
            kept = tuned(filter_, chosen)(kept)
            yield type(filter_).__name__, kept

    def wanted(self, iteration: int) -> int:
        """n* of B-STaR (section 3.1), ceil(N / M): how often the steps of an iteration draw each of
        its M problems, if all alike."""
        problems = len(self.problems(iteration))
        steps = self.schedule(iteration, problems, self.batch_size)
        return metrics.wanted(steps * self.batch_size, problems)

    def _balance(
        self, iteration: int, rollouts: Sequence[Rollout], kept: Sequence[Rollout]
    ) -> float | None:
        """B-STaR's balance score of what this iteration sampled, selected alone; None of none."""
        new = [r for r in rollouts if r.iteration == iteration and r.phase == "generate"]
        if not new:
            return None
        if len(new) < len(rollouts):  # else it is what was kept: some filters take minutes
            *_, (_, kept) = self.selected(new, self.store.noted(iteration, "chosen"))
        return metrics.balance(kept, len(self.problems(iteration)), self.wanted(iteration))

    def examples(self, policy: Policy, rollouts: Sequence[Rollout]) -> list[Example]:
        """Each rollout after the prompt of its problem, which is made here and shows no hint."""
        asked = {rollout.problem: rollout.asked for rollout in rollouts}
        prompts = {
            name: self.prompts.training(policy, self.task, problem)
            for name, problem in asked.items()
        }
        return [example(policy, prompts[rollout.problem], rollout) for rollout in rollouts]

    def seed_examples(self, policy: Policy) -> list[Example]:
        """The seed rationales that the base model was made from, with and without hint."""
        return [
            text_example(policy, prompt, completion)
            for prompt, completion in self.task.exemplar_texts(self.exemplars)
        ]


class Steps(Dataset[dict[str, Tensor]]):
    """Item i is this rank's part of optimizer step i.

    batch["share"]: trained tokens of the whole step over the number of ranks, what a sum of losses
    is divided by so that the mean of the ranks' gradients is that of the step's mean loss.
    """

    def __init__(
        self,
        examples: list[Example],
        batches: list[list[int]],
        rank: int,
        world: int,
        collate: Collate,
    ):
        self.examples, self.batches = examples, batches
        self.rank, self.world, self.collate = rank, world, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        whole = [self.examples[index] for index in self.batches[step]]
        batch = self.collate(whole[self.rank :: self.world])
        batch["share"] = torch.tensor(trained_tokens(whole) / self.world)
        return batch
