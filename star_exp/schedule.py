"""How many optimizer steps an iteration takes, in which order examples come, how the LR moves."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

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


def training_order(examples: int, draws: int, seed: int) -> list[int]:
    """Indices of `draws` examples: shuffled passes over all of them, the last pass cut short."""
    rng, order = random.Random(seed), []
    while len(order) < draws:
        order += rng.sample(range(examples), examples)
    return order[:draws]


def draw(population: Sequence[T], size: int | None, seed: int) -> Sequence[T]:
    """`size` of the population without replacement, in a random order; all of it if None."""
    return population if size is None else random.Random(seed).sample(population, size)


@dataclass(frozen=True)
class ConstantRate:
    """Linear warm-up, then constant (STaR, section 4.1: 100 steps of warm-up)."""

    warmup: int = 100

    def __call__(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup))


@dataclass(frozen=True)
class LinearDecay:
    """Linear warm-up, then linearly down to 0 at the last step of the iteration.

    A departure from STaR, whose rate stays constant: a tiny model gains much from the decay.
    """

    warmup: int = 10

    def __call__(self, step: int, steps: int) -> float:
        warm = (step + 1) / max(1, self.warmup)
        left = (steps - step) / max(1, steps - self.warmup)
        return max(0.0, min(1.0, warm, left))
