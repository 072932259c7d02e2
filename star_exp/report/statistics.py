"""How sure a mean over seeds and problems is, and whether two of them differ.

values_S_P holds a value for each seed and problem, NaN where it could not be judged. Its mean is
that over seeds of the means over problems: the mean of what the runs themselves say.

    interval(resampled_means(ours_S_P))                                     95%, of one row
    interval(resampled_means(ours_S_P, seed=1) - resampled_means(theirs_S_P))    of a difference
    holm([sign_flip_p(problem_means(ours_S_P) - problem_means(theirs_S_P)), ...])
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from star_exp.metrics.estimators import wilson_interval

Interval = tuple[float, float]
RESAMPLES = 10_000
FLIPS = 10_000
BLOCK = 2_000_000  # numbers at a time: some ten megabytes


def grid(values: Sequence[Mapping[str, float]], problems: Sequence[str]) -> np.ndarray:
    """values_S_P of the values that each seed gives {problem: value}."""
    return np.array([[of.get(problem, np.nan) for problem in problems] for of in values])


def problem_means(values_S_P: np.ndarray) -> np.ndarray:
    """The mean of each problem over the seeds that judged it, (P,); NaN where none did."""
    judged = ~np.isnan(values_S_P)
    with np.errstate(invalid="ignore"):
        return np.nansum(values_S_P, axis=0) / judged.sum(axis=0)


def resampled_means(
    values_S_P: np.ndarray,
    *,
    crossed: bool = True,
    stretched: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Means of the hierarchical bootstrap, (resamples,): seeds are drawn with replacement, then
    problems (Davison and Hinkley 1997, section 3.8).

    crossed: all seeds were measured on the same problems. Then one draw of problems is used for
        all the seeds of a resample; drawing anew within each would average the problems' share of
        the uncertainty away. Else each drawn seed draws from its own problems.
    stretched: the seeds' part of each mean is multiplied as `stretch` says, since few seeds are too
        much alike.
    seed: of the draw of seeds. That of crossed problems is always the same, so that the difference
        of two rows measured on the same problems is one of problems drawn jointly.
    """
    rng = np.random.default_rng([seed, 1])
    drawn_R_S = rng.integers(len(values_S_P), size=(resamples, len(values_S_P)))
    if crossed:
        means_R_S = np.take_along_axis(_crossed(values_S_P, resamples), drawn_R_S, 1)
    else:
        means_R_S = np.empty(drawn_R_S.shape)
        for place, values in enumerate(values_S_P):
            here = drawn_R_S == place
            means_R_S[here] = _anew(values[~np.isnan(values)], int(here.sum()), rng)
    more = stretch(len(values_S_P)) - 1 if stretched else 0.0
    of_seeds = np.nanmean(values_S_P, axis=1)
    return means_R_S.mean(axis=1) + more * (of_seeds[drawn_R_S].mean(axis=1) - of_seeds.mean())


def stretch(seeds: int) -> float:
    """How much wider a bootstrap of so many seeds has to be: 9.2 of 2, 2.7 of 3, 1.2 of 10.

    Resamples of S seeds vary by (S - 1) / S of what the seeds do, and their quantiles are the
    normal distribution's, not Student's t with S - 1 degrees of freedom (Hesterberg 2015, section
    3.2). 1 of a single seed, which tells nothing of others.
    """
    if seeds == 1:
        return 1.0
    return float(np.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 0.975) / stdtrit(np.inf, 0.975))


def interval(means: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval. Resamples in which nothing was judged (NaN) are left out."""
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of_shares(values_S_P: np.ndarray, means: np.ndarray) -> Interval:
    """The interval of resampled means; Wilson's over problems where all are 0, or all are 1, for
    there a bootstrap has no width."""
    low, high = interval(means)
    if low == high and low in (0, 1):
        problems = int((~np.isnan(values_S_P)).any(axis=0).sum())
        return wilson_interval(low * problems, problems)
    return max(0.0, low), min(1.0, high)  # a stretched one may reach beyond


def sign_flip_p(differences: np.ndarray, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: pairs are problems, their labels are swapped.

    Exact where all swaps are no more than `flips`; else (1 + as extreme) / (1 + flips) of random
    ones (Phipson and Smyth 2010), which is never 0. NaN, a problem that one side could not judge,
    is no pair.
    """
    pairs = differences[~np.isnan(differences) & (differences != 0)]  # 0 has no sign to flip
    least = abs(pairs.sum()) * (1 - 1e-9)  # the sums of the same numbers differ in their rounding
    if 2**pairs.size <= flips:
        all_flips = np.arange(2**pairs.size)[:, None] >> np.arange(pairs.size) & 1
        return float((abs((1 - 2 * all_flips) @ pairs) >= least).mean())
    rng, extreme = np.random.default_rng(seed), 0
    for size in _blocks(flips, pairs.size):
        signs = rng.integers(2, size=(size, pairs.size), dtype=np.int8)
        extreme += int((abs((1 - 2 * signs) @ pairs) >= least).sum())
    return (1 + extreme) / (1 + flips)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p after Holm's step-down correction for all of them (Holm 1979), in the same order."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def _crossed(values_S_P: np.ndarray, resamples: int) -> np.ndarray:
    """The mean of each seed on the problems of each draw, (R, S)."""
    judged = ~np.isnan(values_S_P)
    counts_R_P, parts, start = _counts(values_S_P.shape[1], resamples), [], 0
    for size in _blocks(resamples, values_S_P.shape[1]):
        counts = counts_R_P[start : start + size].astype(float)
        with np.errstate(invalid="ignore"):
            parts.append(counts @ np.nan_to_num(values_S_P).T / (counts @ judged.T))
        start += size
    return np.concatenate(parts)


@lru_cache(maxsize=4)  # a report asks for the same draws for each row; 19 MB for 1,921 problems
def _counts(problems: int, resamples: int) -> np.ndarray:
    """How often each draw with replacement has each problem, (R, P)."""
    rng, parts = np.random.default_rng(0), []
    for size in _blocks(resamples, problems):
        drawn = rng.integers(problems, size=(size, problems)) + problems * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * problems)
        parts.append(counts.astype(np.uint16).reshape(size, problems))
    return np.concatenate(parts)


def _anew(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of resamples of one seed's values, (R,)."""
    parts = [
        values[rng.integers(values.size, size=(size, values.size))].mean(axis=1)
        for size in _blocks(resamples, values.size)
    ]
    return np.concatenate([*parts, np.empty(0)])


def _blocks(rows: int, width: int) -> Iterator[int]:
    """How many rows of this width to take at a time."""
    block = max(1, BLOCK // max(1, width))
    yield from (min(block, rows - start) for start in range(0, rows, block))
