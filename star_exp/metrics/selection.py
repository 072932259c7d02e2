"""How well one of several candidates is picked: by a verifier's score, or by weighted votes.

A candidate whose check failed is neither right nor wrong, and left out, as in metrics/rollouts.py.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from star_exp.equations import equations
from star_exp.metrics.calibration import auc, auc_within, ece
from star_exp.metrics.estimators import (
    best_of_k,
    reward_at_k_s,
    sizes,
    weighted_majority_at_k,
)
from star_exp.metrics.rollouts import SEVERAL, Written, judged, of_several, vote
from star_exp.records import Rollout
from star_exp.seeds import derive
from star_exp.store import by_problem

DRAWS = 200  # subsets of a problem's candidates, for what has no closed form


def candidates(
    split: str, rollouts: Sequence[Rollout], written: Written = equations
) -> dict[str, float]:
    """What several samples of each problem say, as `of_several`; {} if none was judged.

    Not `accuracy`, which is that of one greedy sample.
    """
    found = of_several(rollouts, written) if judged(rollouts) else {}
    return {f"{split}/{name}": fmean(of.values()) for name, of in found.items()}


def selected(
    split: str,
    rollouts: Sequence[Rollout],
    verifier: str,
    scores: Sequence[float],
    probable: bool = False,
) -> dict[str, float]:
    """What a verifier's scores of the rollouts are good for; {} if none was judged.

    probable: the scores are chances of being right, in [0, 1]: votes have their weight, and ece is
        measured. Else they are taken for log-likelihoods, and votes weigh exp(score).
    """
    parts = [(part, [r.correct for r in mine]) for mine, part, _ in _drawn(rollouts, scores, 1)]
    if not parts:
        return {}
    known = [score for part, _ in parts for score in part]
    right = [flag for _, flags in parts for flag in flags]
    values = {f"auc/{verifier}": auc(known, right), f"auc_within/{verifier}": auc_within(parts)}
    if probable:
        values[f"ece/{verifier}"] = ece(known, right)
    for k in _sizes(rollouts):
        values[f"best_of_{k}/{verifier}"] = fmean(best_of(rollouts, scores, k).values())
        if best := several_best_of(rollouts, scores, k, SEVERAL):
            values[f"reward@{k}-{SEVERAL}/{verifier}"] = fmean(best.values())
        votes = _weighted_majorities(rollouts, scores, k, probable)
        values[f"weighted_majority@{k}/{verifier}"] = fmean(votes)
    return {f"{split}/{name}": value for name, value in values.items() if not math.isnan(value)}


def best_of(rollouts: Sequence[Rollout], scores: Sequence[float], k: int) -> Mapping[str, float]:
    """Of each problem: the chance that the best-scored of k of its candidates is right.

    A text that was cut off is no candidate for an answer: it comes last. Where fewer than `k` could
    be judged, of all that could. ValueError if a problem has fewer than `k` candidates.
    """
    return {
        mine[0].problem: best_of_k(_finished(mine, part), [r.correct for r in mine], size)
        for mine, part, size in _drawn(rollouts, scores, k)
    }


def several_best_of(
    rollouts: Sequence[Rollout], scores: Sequence[float], k: int, s: int
) -> Mapping[str, float]:
    """Of each problem: the chance that the `s` best-scored of k of its candidates are all right.

    The rest is as in `best_of`; a problem of which fewer than `s` could be judged is left out.
    """
    return {
        mine[0].problem: reward_at_k_s(_finished(mine, part), [r.correct for r in mine], size, s)
        for mine, part, size in _drawn(rollouts, scores, k)
        if size >= s
    }


def _weighted_majorities(
    rollouts: Sequence[Rollout], scores: Sequence[float], k: int, probable: bool
) -> list[float]:
    found = []
    for mine, part, size in _drawn(rollouts, scores, k):
        answers, right = [vote(rollout) for rollout in mine], [r.correct for r in mine]
        weights = part if probable else _likelihoods(part, answers)
        seed = derive("votes", mine[0].problem)
        chance, _ = weighted_majority_at_k(answers, weights, right, size, draws=DRAWS, seed=seed)
        found.append(chance)
    return found


def _likelihoods(scores: Sequence[float], answers: Sequence[str | None]) -> list[float]:
    """exp(score) over the highest of those that vote; equal weights where none is finite."""
    said = [score for score, answer in zip(scores, answers, strict=True) if answer is not None]
    highest = max(said, default=-math.inf)
    if highest == -math.inf:
        return [1.0] * len(scores)
    return [math.exp(min(0.0, score - highest)) for score in scores]


def _finished(rollouts: Sequence[Rollout], scores: Sequence[float]) -> list[float]:
    pairs = zip(rollouts, scores, strict=True)
    return [-math.inf if rollout.truncated else score for rollout, score in pairs]


def _drawn(
    rollouts: Sequence[Rollout], scores: Sequence[float], k: int
) -> Iterator[tuple[list[Rollout], list[float], int]]:
    """Of each problem its judged rollouts, their scores, and how many of these are drawn."""
    problems: dict[str, list[tuple[Rollout, float]]] = {}
    for rollout, score in zip(rollouts, scores, strict=True):
        problems.setdefault(rollout.problem, []).append((rollout, score))
    for problem, pairs in problems.items():
        if not 1 <= k <= len(pairs):
            raise ValueError(f"{problem}: k={k} of {len(pairs)}: expected 1 to {len(pairs)}")
        known = [(rollout, score) for rollout, score in pairs if rollout.failed is None]
        if known:
            mine, part = zip(*known, strict=True)
            yield [*mine], [*part], min(k, len(known))


def _sizes(rollouts: Sequence[Rollout]) -> list[int]:
    """The k that are measured: up to the fewest candidates that a problem has; none of one."""
    if not judged(rollouts):
        return []
    fewest = min(len(mine) for mine in by_problem(rollouts).values())
    return sizes(fewest) if fewest > 1 else []
