"""How well scores tell right rollouts from wrong ones, and whether they mean what they say.

auc([0.9, 0.4, 0.4], [True, True, False])           0.75: one pair in order, one tied
ece([0.9, 0.9, 0.1], [True, False, False])          0.3: at 0.9 half are right, at 0.1 none
"""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import numpy as np

from star_exp.metrics.estimators import by_score


def auc(scores: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> float:
    """Chance that a right one scores higher than a wrong one, in [0, 1]; a tie counts half.

    Mann & Whitney 1947. NaN unless there are both. ValueError if a score is NaN.
    """
    of, right = by_score(scores, correct)
    wrong = of - right
    pairs = right.sum() * wrong.sum()
    lower = wrong.cumsum() - wrong
    return float((right * (lower + wrong / 2)).sum() / pairs) if pairs else math.nan


def auc_within(
    problems: Iterable[tuple[Sequence[float] | np.ndarray, Sequence[bool] | np.ndarray]],
) -> float:
    """Mean AUC of the problems, each (scores, correct), that have right and wrong ones; else NaN.

    What best-of-k needs: over all rollouts at once, a score that only knows easy problems from
    hard ones has a high AUC too.
    """
    each = [auc(scores, correct) for scores, correct in problems]
    known = [value for value in each if not math.isnan(value)]
    return fmean(known) if known else math.nan


def equal_width(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Where one of `bins` bins ends and the next begins, (bins - 1,): 1/bins, 2/bins, ..."""
    return np.arange(1, bins) / bins


def equal_mass(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """The ends of bins that hold as many each, or nearly; equal probabilities stay together."""
    upto = -(-np.arange(1, bins) * probabilities.size // bins)  # how many, rounded up
    return np.sort(probabilities)[upto - 1]


def ece(
    probabilities: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    bins: int = 10,
    edges: Callable[[np.ndarray, int], np.ndarray] = equal_width,
) -> float:
    """Expected calibration error: |share that is right - mean probability| of bins, in [0, 1].

    Its mean, a bin counting by what it holds (Guo et al. 2017, arXiv:1706.04599, eq. 3). An edge
    belongs to the bin below. edges: `equal_width` or `equal_mass`.
    ValueError if there are none or one is outside [0, 1]: other scores, such as log-likelihoods,
    must be made probabilities first, by a fit (Platt's) on other problems than these.
    """
    of, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=bool)
    if of.ndim != 1 or of.shape != right.shape or not of.size or bins < 1:
        raise ValueError(
            f"probabilities of shape {of.shape}, correct of shape {right.shape}, bins={bins}: "
            "expected two lists of the same length, not empty, and a bin or more"
        )
    if (odd := ~((of >= 0) & (of <= 1))).any():
        place = odd.argmax()
        raise ValueError(
            f"probabilities[{place}] is {of[place]}: expected values in [0, 1]; make probabilities "
            "of the scores first, by a fit on other problems"
        )
    gaps = np.bincount(np.searchsorted(edges(of, bins), of), weights=right - of)
    return float(np.abs(gaps).sum() / of.size)
