"""What several samples of a problem say of it, and how sure a mean over problems is.

pass_at_k(16, 3, k=4)                               0.607: one of 4 samples is right
pass_at_k_s(16, [2, 1], k=4, s=2)                   0.093: 2 are, with different texts
majority_at_k([("8", True), ("9", False)], k=2)     0.5: a tie, either may win
best_of_k([2, 1, 0], [True, False, True], k=2)      0.667: of one pair the wrong one is top
reward_at_k_s([2, 1, 0], [True, False, True], 2, 2) 0.333: of one pair both are right
bootstrap_interval([1.0, 0.25, 0.0, 0.75])          (0.125, 0.875)
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import fmean

import numpy as np


def sizes(samples: int) -> list[int]:
    """The k that are measured of so many samples: 1, 2, 4, ... and all of them."""
    return sorted({*(2**power for power in range(samples.bit_length())), samples})


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one or more of `k` samples drawn without replacement is right, in [0, 1].

    Unbiased (Chen et al. 2021, arXiv:2107.03374, eq. 1). ValueError if not 1 <= k <= samples.
    """
    subsets = _subsets(samples, k)
    return (subsets - math.comb(samples - right, k)) / subsets


def pass_at_k_s(samples: int, right: Sequence[int], k: int, s: int) -> float:
    """Chance that `k` samples drawn without replacement hold `s` different right ones or more.

    B-STaR's Pass@K-S (arXiv:2412.17256, section 2.2), there of exactly K samples; here its exact
    mean over all subsets, so that s=1 is pass_at_k. right: how often each different right text was
    sampled. ValueError if not 1 <= s <= k <= samples.

    How many subsets hold fewer than s follows, by inclusion and exclusion, from how many hold no
    right ones but those of a set of m < s texts. 128 samples take 0.5 ms at most.
    """
    subsets = _subsets(samples, k, s)
    wrong, different = samples - sum(right), len(right)
    if wrong < 0 or min(right, default=0) < 0:
        raise ValueError(f"right={list(right)} of {samples} samples: expected counts of these")
    if different < s:
        return 0.0
    fewer = 0
    for (texts, taken), sets in _sets(right, s - 1).items():
        times = (-1) ** (s - 1 - texts) * math.comb(different - 1 - texts, s - 1 - texts)
        fewer += times * sets * math.comb(wrong + taken, k)
    return (subsets - fewer) / subsets


def majority_at_k(samples: Sequence[tuple[str | None, bool]], k: int) -> float:
    """Chance that the commonest answer among `k` samples drawn without replacement is right.

    Self-consistency (Wang et al. 2022, arXiv:2203.11171), its exact mean over all subsets.
    samples: (answer, whether it is right) of each. None doesn't vote; without votes nothing wins.
    Of answers with as many votes the one drawn first wins: each has the same chance. An answer
    that was judged in two ways is right by the share of its judgements. So majority@1 is pass@1.
    128 samples take 0.06 s at most, 1,000 with k > 100 some seconds: then draw_majority_at_k.
    ValueError if not 1 <= k <= len(samples).
    """
    subsets = _subsets(len(samples), k)
    votes = Counter(answer for answer, _ in samples if answer is not None)
    right = Counter(answer for answer, judged in samples if judged and answer is not None)
    won = Fraction(0)
    for answer in right:
        others = tuple(sorted(votes[other] for other in votes if other != answer))
        ways = _ways_to_win(votes[answer], others, len(samples) - votes.total(), k)
        won += ways * Fraction(right[answer], votes[answer])
    return float(won / subsets)


def draw_majority_at_k(
    samples: Sequence[tuple[str | None, bool]], k: int, *, draws: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """majority_at_k from random subsets, and its standard error; see weighted_majority_at_k."""
    answers, correct = [answer for answer, _ in samples], [right for _, right in samples]
    return weighted_majority_at_k(answers, [1] * len(samples), correct, k, draws=draws, seed=seed)


def weighted_majority_at_k(
    answers: Sequence[str | None],
    weights: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    k: int,
    *,
    draws: int = 1_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Chance that the answer with the most weight among `k` samples is right; its standard error.

    The mean over `draws` random subsets without replacement. The error is that of the drawing
    alone; it is 0 where all draws agree, where wilson_interval(chance * draws, draws) is safer.
    Give each problem a seed of its own: then their errors are independent.
    weights: in [0, inf), and only their ratios count. Log-likelihoods: exp(score - highest score).
    A weight of 0 is no vote. The rest is as in majority_at_k: None, ties, an answer judged in two
    ways. ValueError if not 1 <= k <= len(answers).
    """
    _subsets(len(answers), k)
    if not len(answers) == len(weights) == len(correct):
        raise ValueError(
            f"{len(answers)} answers, {len(weights)} weights, {len(correct)} judgements: expected "
            "one of each for every sample"
        )
    if draws < 2:
        raise ValueError(f"draws={draws}: expected 2 or more, a standard error needs two")
    of = np.asarray(weights, dtype=float)
    if (odd := ~((of >= 0) & (of < math.inf))).any():
        place = odd.argmax()
        raise ValueError(f"weights[{place}] is {of[place]}: expected numbers in [0, inf)")
    columns = {answer: column for column, answer in enumerate(dict.fromkeys(answers))}
    column = np.array([columns[answer] for answer in answers])
    share = np.bincount(column, weights=correct) / np.bincount(column)
    of = np.where([answer is None for answer in answers], 0.0, of)
    rng, block = np.random.default_rng(seed), max(1, 1_000_000 // len(answers))
    won = [
        _won(rng.random((min(block, draws - start), len(answers))), of, column, share, k)
        for start in range(0, draws, block)
    ]
    chances = np.concatenate(won)
    return float(chances.mean()), float(chances.std(ddof=1) / math.sqrt(draws))


def best_of_k(
    scores: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, k: int
) -> float:
    """Chance that the highest score among `k` candidates drawn without replacement is a right one.

    V-STaR (arXiv:2402.06457, eq. 3), there for distinct scores; here exact over orders of ties:
    the highest score drawn is one shared by candidates a+1 to b, best first, if none of the first
    a is drawn and one of the first b is: missed[a] - missed[b]. As a draw doesn't tell them apart,
    each of these is then the winner with the same chance, so their share that is right counts.
    -inf is a score as any other. ValueError if one is NaN or not 1 <= k <= len(scores).
    """
    of, right = (counts[::-1] for counts in by_score(scores, correct))
    missed = _missed(int(of.sum()), k)
    top = missed[of.cumsum() - of] - missed[of.cumsum()]
    return min(1.0, float((top * right / of).sum()))  # rounded, it may be 1 + 2e-16


def reward_at_k_s(
    scores: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, k: int, s: int
) -> float:
    """Chance that the `s` highest scores among `k` drawn without replacement are all right ones'.

    B-STaR's Reward@K-S (arXiv:2412.17256, section 2.2), its exact mean over all subsets and over
    orders of ties, so that s=1 is best_of_k. Say i of the s are above the score of the last of
    them, and j of those drawn share it: then s - i of these j are taken, each set alike. 128 scores
    take 0.6 ms. ValueError if a score is NaN or not 1 <= s <= k <= len(scores).
    """
    counts, rights = (of[::-1].tolist() for of in by_score(scores, correct))  # best first
    subsets = _subsets(sum(counts), k, s)
    won, above, below = Fraction(0), 0, sum(counts)  # above: right ones
    for count, right in zip(counts, rights, strict=True):
        below -= count
        for taken in range(1, min(right, s) + 1):  # s - i
            drawn = math.comb(above, s - taken)
            left = k - (s - taken)
            ways = sum(
                math.comb(count, tied) * math.comb(below, left - tied)
                for tied in range(taken, min(count, left) + 1)
            )
            won += Fraction(drawn * ways * math.comb(right, taken), math.comb(count, taken))
        above += right
    return float(won / subsets)


def by_score(
    scores: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many candidates have each score, lowest first; and how many of these are right.

    ValueError if a score is NaN or there isn't one flag for each score.
    """
    of, right = np.asarray(scores, dtype=float), np.asarray(correct, dtype=bool)
    if of.ndim != 1 or of.shape != right.shape:
        raise ValueError(
            f"scores of shape {of.shape}, correct of shape {right.shape}: expected two lists of "
            "the same length, of one problem"
        )
    if (odd := np.isnan(of)).any():
        raise ValueError(
            f"scores[{odd.argmax()}] is NaN, {odd.sum()} of {of.size} are: expected numbers or "
            "-inf; score it again, or give -inf to what is to come last"
        )
    _, group, counts = np.unique(of, return_inverse=True, return_counts=True)
    return counts, np.bincount(group[right], minlength=counts.size)


def _subsets(samples: int, k: int, s: int = 1) -> int:
    if not 1 <= k <= samples:
        raise ValueError(f"k={k} of {samples} samples: expected 1 to {samples}")
    if not 1 <= s <= k:
        raise ValueError(f"s={s} of k={k} samples: expected 1 to {k}")
    return math.comb(samples, k)


def _sets(right: Iterable[int], most: int) -> Counter[tuple[int, int]]:
    """How many sets of up to `most` right texts there are, by (texts, samples of these)."""
    sets = Counter({(0, 0): 1})
    for count, alike in Counter(right).items():  # so many texts were sampled so often
        for (texts, taken), number in [*sets.items()]:
            for more in range(1, min(alike, most - texts) + 1):
                sets[texts + more, taken + more * count] += number * math.comb(alike, more)
    return sets


@lru_cache(maxsize=100)
def _missed(samples: int, k: int) -> np.ndarray:
    """Chance that none of the first j = 0, ..., n samples is among `k`: C(n - j, k) / C(n, k).

    The difference of two log-binomials, for binomials overflow: C(n - 1, k) / C(n, k) = 1 - k / n.
    """
    _subsets(samples, k)
    logs = np.cumsum(np.log1p(-k / np.arange(samples, k, -1)))
    return np.concatenate([[1.0], np.exp(logs), np.zeros(k)])


def _won(
    order: np.ndarray, weights: np.ndarray, column: np.ndarray, share: np.ndarray, k: int
) -> np.ndarray:
    """Share of right ones among the answers that win each draw, (draws,); 0 where nothing does.

    order: random numbers (draws, samples), the `k` lowest are drawn; column: each sample's answer.
    """
    drawn = order.argpartition(k - 1, axis=1)[:, :k]
    cells = column[drawn] + share.size * np.arange(len(drawn))[:, None]
    votes = np.bincount(cells.ravel(), weights[drawn].ravel(), minlength=len(drawn) * share.size)
    votes = votes.reshape(len(drawn), share.size)
    top = votes.max(axis=1, keepdims=True)
    tied = (votes > 0) & (votes >= top * (1 - 1e-9))  # 0.1 + 0.2 and 0.3 differ, and yet tie
    return tied @ share / np.maximum(tied.sum(axis=1), 1)


@lru_cache(maxsize=100_000)  # many problems have the same counts
def _ways_to_win(votes: int, others: tuple[int, ...], silent: int, k: int) -> Fraction:
    """Of the subsets of `k` samples, how many an answer wins; a tie of t answers counts 1/t.

    votes, others: how many samples give this answer, and each other one; silent: give none.
    """
    won = Fraction(0)
    for top in range(1, min(votes, k) + 1):  # it wins with so many
        rivals = [count for count in others if count >= top]
        free = silent + sum(others) - sum(rivals)  # samples that can't get in the way
        ways = {(1, top): math.comb(votes, top)}  # by (answers with `top` votes, samples taken)
        for rival in rivals:
            ways = _with_rival(ways, rival, top, k)
        for (tied, taken), number in ways.items():
            won += Fraction(number * math.comb(free, k - taken), tied)
    return won


def _with_rival(
    ways: Mapping[tuple[int, int], int], rival: int, top: int, k: int
) -> Counter[tuple[int, int]]:
    """The ways after 0 to `top` of a rival's samples are taken too."""
    after: Counter[tuple[int, int]] = Counter()
    for (tied, taken), number in ways.items():
        for more in range(min(top, k - taken) + 1):
            after[tied + (more == top), taken + more] += number * math.comb(rival, more)
    return after


def wilson_interval(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a share (Wilson 1927). Raises ValueError without trials."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half /= 1 + z * z / trials
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Iterable[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, one a problem (Efron 1979); 0.1 s for 1,319.

    The same values in the same order give the same interval. ValueError if there are none.
    """
    of = np.fromiter(values, dtype=float)
    if not of.size:
        raise ValueError("an interval needs the value of at least one problem")
    rng, block = np.random.default_rng(seed), max(1, 1_000_000 // of.size)  # numbers at a time
    means = [
        of[rng.integers(of.size, size=(min(block, resamples - start), of.size))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> tuple[float, tuple[float, float]]:
    """Mean of ours - theirs over problems, and its 95% bootstrap interval.

    Both are {problem: value}, in any order; ValueError if not of the same problems.
    """
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"{len(odd)} problems are in one of the two only, such as {odd[0]}: expected two "
            "measurements of the same problems"
        )
    differences = [ours[problem] - theirs[problem] for problem in sorted(ours)]
    interval = bootstrap_interval(differences)
    return fmean(differences), interval
