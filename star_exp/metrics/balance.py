"""Balance of exploration and exploitation in what is selected to train on (B-STaR, section 3.1).

    bs = min(n' / n*, 1) * n' / n,    n* = ceil(N / M)

n rollouts of a problem are selected, n' of them right and different, and n* are wanted; N rollouts
are wanted of M problems in all (arXiv:2412.17256, eq. 3).
"""

from collections.abc import Sequence
from typing import Literal

from star_exp.metrics.rollouts import judged, right_texts
from star_exp.records import Rollout
from star_exp.store import by_problem


def wanted(samples: int, problems: int) -> int:
    """n*, how many different right ones of a problem are wanted: 67,500 of 11,500 are 6 of each."""
    if samples < 1 or problems < 1:
        raise ValueError(f"{samples} samples of {problems} problems: expected at least 1 of 1")
    return -(-samples // problems)


def balance_score(selected: int, right: int, wanted: int) -> float:
    """bs of a problem, in [0, 1]; 0 where nothing was selected. right: different right ones."""
    if not 0 <= right <= selected or wanted < 1:
        raise ValueError(
            f"{right} right of {selected} selected, {wanted} wanted: expected right ones among the "
            "selected, and at least 1 wanted"
        )
    return min(right / wanted, 1.0) * right / selected if selected else 0.0


def balance_scores(selected: Sequence[Rollout], wanted: int) -> dict[str, float]:
    """bs of each problem of which something was selected; what could not be checked was not."""
    parts = by_problem(judged(selected))
    return {
        problem: balance_score(len(part), len(right_texts(part)), wanted)
        for problem, part in parts.items()
    }


def balance(
    selected: Sequence[Rollout],
    problems: int,
    wanted: int,
    empty: Literal["zero", "left_out"] = "zero",
) -> float:
    """Mean bs over the problems, of the rollouts that were selected, in [0, 1].

    problems: how many were asked. Those of which nothing was selected count 0, of which the paper
    says nothing; empty="left_out": they don't count, as in its released code, and the mean over
    none is 0. One whose check failed counts as not selected.
    """
    scores = [*balance_scores(selected, wanted).values()]
    if not len(scores) <= problems or problems < 1:
        raise ValueError(
            f"{len(scores)} problems among the selected, of {problems} that were asked"
        )
    return sum(scores) / (problems if empty == "zero" else max(1, len(scores)))
