"""How many optimizer steps an iteration takes, in which order examples come, how the LR moves."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from star_exp.errors import UserError
from star_exp.seeds import derive

T = TypeVar("T")


@dataclass(frozen=True)
class GrowingSteps:
    """int(first * growth**(n-1)) steps in iteration n: 40, 48, 57, 69, 82, 99 for (40, 1.2).

    STaR, section 4.1: 40 steps, 20% more at each iteration; truncated as in the released code.
    """

    first: int = 40
    growth: float = 1.2

    def __call__(self, iteration: int, examples: int, batch_size: int) -> int:
        return int(self.first * self.growth ** (iteration - 1))


@dataclass(frozen=True)
class AddedSteps:
    """first + added * (n-1) steps in iteration n. STaR, section 4.3 (arithmetic): 300, then +20."""

    first: int = 300
    added: int = 20

    def __call__(self, iteration: int, examples: int, batch_size: int) -> int:
        return self.first + self.added * (iteration - 1)


@dataclass(frozen=True)
class Epochs:
    """As many steps as `epochs` passes over the examples take, at least one."""

    epochs: float = 1.0

    def __call__(self, iteration: int, examples: int, batch_size: int) -> int:
        return max(1, math.ceil(self.epochs * examples / batch_size))


def passes(examples: Sequence[T], draws: int, seed: int) -> list[T]:
    """`draws` of the examples: shuffled passes over all of them, the last pass cut short."""
    rng, drawn = random.Random(seed), []
    while len(drawn) < draws:
        drawn += rng.sample(examples, len(examples))
    return drawn[:draws]


@dataclass(frozen=True)
class Shuffled:
    """Every example equally often."""

    def __call__(self, groups: Sequence[str], draws: int, seed: int) -> list[int]:
        """Indices of `draws` examples; groups[i] is the group of example i."""
        return passes(range(len(groups)), draws, seed)


@dataclass(frozen=True)
class Balanced:
    """Every group of the task equally often, as the paper's training pool holds equally many
    problems of each length: what passes the filters is mostly easy, and the hard is forgotten.

    A departure from STaR, which trains on what was kept as it comes (Shuffled).
    """

    def __call__(self, groups: Sequence[str], draws: int, seed: int) -> list[int]:
        members: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        share = math.ceil(draws / len(members))
        drawn = [passes(members[group], share, derive(seed, group)) for group in sorted(members)]
        return [index for turn in zip(*drawn, strict=True) for index in turn][:draws]


def batches(
    order: Sequence[int], batch_size: int, lengths: Sequence[int], window: int, seed: int
) -> list[list[int]]:
    """The order cut into batches; of every `window` of them, by length, to need less padding.

    Each window holds the same examples as without; its batches come in a shuffled order.
    """
    rng, cut = random.Random(seed), []
    for start in range(0, len(order), window * batch_size):
        part = list(order[start : start + window * batch_size])
        if window > 1:
            rng.shuffle(part)
            part.sort(key=lambda index: lengths[index])
        pieces = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        cut += rng.sample(pieces, len(pieces)) if window > 1 else pieces
    return cut


def draw(population: Sequence[T], size: int | None, seed: int) -> Sequence[T]:
    """`size` of the population without replacement, in a random order; all of it if None."""
    return population if size is None else random.Random(seed).sample(population, size)


@dataclass(frozen=True)
class ConstantRate:
    """Linear warm-up to `level`, then constant (STaR, section 4.1: 100 steps of warm-up)."""

    warmup: int = 100
    level: float = 1.0

    def __call__(self, step: int, steps: int) -> float:
        return self.level * min(1.0, (step + 1) / max(1, self.warmup))


@dataclass(frozen=True)
class LinearDecay:
    """Linear warm-up to `level`, then linearly down to 0 at the last step of the iteration.

    A departure from STaR, whose rate stays constant: a tiny model gains much from the decay.

    iterations: down to 0 after so many, of as many steps each, where no reset comes between them.
    """

    warmup: int = 10
    level: float = 1.0
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"rate.iterations={self.iterations}: expected 1 or more")

    def __call__(self, step: int, steps: int) -> float:
        warm = (step + 1) / max(1, self.warmup)
        left = (self.iterations * steps - step) / max(1, self.iterations * steps - self.warmup)
        return self.level * max(0.0, min(1.0, warm, left))
