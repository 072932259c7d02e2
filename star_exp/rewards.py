"""Rewards of what a generator samples, beside whether it is right: by a model that is trained once
and stays as it is (B-STaR, arXiv:2412.17256, sections 2.3 and A.1).

    r = 1[right answer] + r_prm,   r_prm in [-1, 1]

A reward model is a verifier whose scores are chances of being right: verifier=process, the lowest
of its judgements of a solution's steps, or verifier=orm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from star_exp.records import Rollout


def _probability(chance: float) -> float:
    """From [0, 1] to [-1, 1], as the paper says that rewards lie."""
    return 2 * chance - 1


def _of_probability(reward: float) -> float:
    return (reward + 1) / 2


def _logit(chance: float) -> float:
    """A fifth of the logit, beyond [-1, 1] too: the released code (determine_hyper.py)."""
    inside = min(max(chance, 2.0**-53), 1 - 2.0**-53)
    return (math.log(inside) - math.log1p(-inside)) / 5


def _of_logit(reward: float) -> float:
    return 1 / (1 + math.exp(-5 * reward))


SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {  # there and back
    "probability": (_probability, _of_probability),
    "logit": (_logit, _of_logit),
}
Scale = Literal["probability", "logit"]


@dataclass(frozen=True)
class Reward:
    """
    name: of the reward in `Rollout.scores`. chances: of each rollout, of being right, in [0, 1].
    """

    name: str
    chances: Callable[[Sequence[Rollout]], list[float]]
    scale: Scale = "probability"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts, each with its reward."""
        scaled = map(SCALES[self.scale][0], self.chances(rollouts))
        return [
            replace(rollout, scores={**rollout.scores, self.name: score})
            for rollout, score in zip(rollouts, scaled, strict=True)
        ]

    def given(self, rollout: Rollout) -> float:
        """The chance of being right that a rollout was given."""
        return SCALES[self.scale][1](rollout.scores[self.name])
