"""pass@k, majority@k and intervals: by hand, over all subsets, against scipy, by simulation."""

from itertools import combinations, permutations
from random import Random

import numpy as np
import pytest

from star_exp.metrics import (
    bootstrap_interval,
    majority_at_k,
    paired_difference,
    pass_at_k,
    sizes,
    wilson_interval,
)

Samples = list[tuple[str | None, bool]]
R, W, V, N = ("8", True), ("9", False), ("7", False), (None, False)


def random_samples(rng: Random, most: int = 8) -> Samples:
    """Some right answers in two forms, some wrong ones, some that are none."""
    kinds: Samples = [R, ("8.0", True), W, V, N]
    return rng.choices(kinds, weights=[rng.random() for _ in kinds], k=rng.randint(1, most))


def winners(votes: Samples) -> Samples:
    """The samples whose answer has the most votes."""
    counts = {answer: [a for a, _ in votes].count(answer) for answer, _ in votes if answer}
    return [s for s in votes if s[0] and counts[s[0]] == max(counts.values())]


# pass@k


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 2) == 1 / 2  # 3 of 6 pairs hold the right one
    assert pass_at_k(16, 3, 4) == pytest.approx(1 - 715 / 1820)  # C(13, 4) / C(16, 4)
    assert pass_at_k(5, 2, 4) == 1  # only 3 are wrong


def test_pass_at_k_over_all_subsets():
    for samples in range(1, 9):
        for right in range(samples + 1):
            flags = [True] * right + [False] * (samples - right)
            for k in range(1, samples + 1):
                hits = [any(subset) for subset in combinations(flags, k)]
                assert pass_at_k(samples, right, k) == pytest.approx(sum(hits) / len(hits))


def test_pass_at_1_is_the_share_that_is_right_however_many_samples_there_are():
    for samples in (1, 2, 7, 64, 1000):
        for right in (0, 1, samples // 2, samples):
            assert pass_at_k(samples, right, 1) == right / samples


def test_the_mean_of_pass_at_k_does_not_depend_on_the_number_of_samples():
    """Over a binomial number of right ones it is 1 - (1 - p)^k, for any n: it is unbiased."""
    stats = pytest.importorskip("scipy.stats")
    for samples in (4, 9, 16):
        chances = stats.binom.pmf(range(samples + 1), samples, 0.3)
        mean = sum(p * pass_at_k(samples, c, 4) for c, p in enumerate(chances))
        assert mean == pytest.approx(1 - 0.7**4)


def test_pass_at_k_grows_with_k_and_with_right_samples():
    for right in range(17):
        values = [pass_at_k(16, right, k) for k in range(1, 17)]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)
    assert [pass_at_k(16, c, 4) for c in range(17)] == sorted(
        pass_at_k(16, c, 4) for c in range(17)
    )


def test_pass_at_k_of_very_many_samples_is_a_number():
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_a_k_that_cannot_be_drawn_is_refused(k):
    with pytest.raises(ValueError, match=rf"k={k} of 4 samples: expected 1 to 4"):
        pass_at_k(4, 2, k)
    with pytest.raises(ValueError, match=rf"k={k} of 4 samples: expected 1 to 4"):
        majority_at_k([R, W, W, N], k)


# majority@k


@pytest.mark.parametrize(
    ("samples", "k", "expected"),
    [
        ([R, R, W], 3, 1),
        ([R, W, W], 3, 0),
        ([R, W], 2, 1 / 2),  # a tie
        ([R, W, V], 3, 1 / 3),
        ([R, R, W, W, V], 5, 1 / 2),  # two of three tie
        ([R, N, N, N], 4, 1),  # no answer is no vote
        ([N, N], 2, 0),
        ([R, R, W], 2, 1 / 3 + 2 / 3 / 2),  # one pair of right ones, two ties
        ([R, R, R, W], 1, 3 / 4),
    ],
)
def test_a_majority_by_hand(samples, k, expected):
    assert majority_at_k(samples, k) == pytest.approx(expected)


def test_a_majority_over_all_subsets():
    rng = Random(0)
    for _ in range(150):
        samples = random_samples(rng)
        for k in range(1, len(samples) + 1):
            chances = []
            for subset in combinations(samples, k):
                tied = dict(winners(list(subset)))
                chances.append(sum(tied.values()) / len(tied) if tied else 0)
            assert majority_at_k(samples, k) == pytest.approx(sum(chances) / len(chances))


def test_a_tie_goes_to_the_answer_that_was_drawn_first():
    rng = Random(1)
    for _ in range(20):
        samples = random_samples(rng, most=6)
        for k in range(1, len(samples) + 1):
            firsts = [winners(list(order))[:1] for order in permutations(samples, k)]
            right = sum(right for first in firsts for _, right in first)
            assert majority_at_k(samples, k) == pytest.approx(right / len(firsts))


def test_majority_at_1_is_pass_at_1_even_where_judgements_of_an_answer_differ():
    rng = Random(2)
    for _ in range(200):
        samples = random_samples(rng, most=20)
        judged = [(answer, bool(answer) and rng.random() < 0.5) for answer, _ in samples]
        for these in (samples, judged):
            right = sum(right for _, right in these)
            assert majority_at_k(these, 1) == pass_at_k(len(these), right, 1)


def test_a_majority_does_not_depend_on_the_order_nor_on_the_letters_of_answers():
    rng = Random(3)
    for _ in range(50):
        samples = random_samples(rng, most=16)
        other = [(answer and f"x{answer}", right) for answer, right in samples]
        rng.shuffle(other)
        for k in sizes(len(samples)):
            assert majority_at_k(samples, k) == majority_at_k(other, k)


def test_a_majority_is_never_above_pass_at_k():
    rng = Random(4)
    for _ in range(100):
        samples = random_samples(rng, most=24)
        right = sum(right for _, right in samples)
        for k in sizes(len(samples)):
            assert 0 <= majority_at_k(samples, k) <= pass_at_k(len(samples), right, k) + 1e-12


def test_a_majority_of_many_samples_agrees_with_drawing_them():
    rng = Random(5)
    samples = [R] * 24 + [W] * 20 + [V] * 14 + [(f"{n}", False) for n in range(100, 104)] + [N] * 2
    for k in (8, 32):
        hits = 0.0
        for _ in range(4000):
            tied = set(winners(rng.sample(samples, k)))
            hits += (R in tied) / len(tied)
        assert majority_at_k(samples, k) == pytest.approx(hits / 4000, abs=0.03)  # 4 sigma


def test_the_sizes_are_powers_of_two_and_all():
    assert sizes(1) == [1]
    assert sizes(2) == [1, 2]
    assert sizes(6) == [1, 2, 4, 6]
    assert sizes(64) == [1, 2, 4, 8, 16, 32, 64]


# Intervals


@pytest.mark.parametrize("trials", [1, 2, 10, 499, 2500])
def test_wilsons_interval_is_scipys(trials):
    stats = pytest.importorskip("scipy.stats")
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        theirs = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        low, high = wilson_interval(successes, trials)
        assert (low, high) == (
            pytest.approx(theirs.low, abs=1e-6),
            pytest.approx(theirs.high, abs=1e-6),
        )


def test_wilsons_interval_by_hand():
    """0 of 10, z = 2: centre (0 + 4/20) / (1 + 4/10) = 1/7, and half of it is as wide."""
    assert wilson_interval(0, 10, z=2) == (pytest.approx(0), pytest.approx(2 / 7))


def test_an_interval_stays_between_0_and_1_and_holds_the_share():
    for trials in range(1, 40):
        for successes in range(trials + 1):
            low, high = wilson_interval(successes, trials)
            assert 0 <= low <= high <= 1
            assert low - 1e-12 <= successes / trials <= high + 1e-12


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_interval([])


def test_a_bootstrap_by_hand():
    """Of 0 and 1 a resample has mean 0, 1/2 or 1, with chances 1/4, 1/2, 1/4."""
    assert bootstrap_interval([0, 1]) == (0, 1)
    assert bootstrap_interval([0, 1], level=0.4) == (0.5, 0.5)


def test_a_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval([0.25] * 40) == (0.25, 0.25)
    assert bootstrap_interval([0.7]) == (0.7, 0.7)


@pytest.mark.parametrize("problems", [12, 300])
def test_the_bootstrap_agrees_with_scipys(problems):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 0.8, size=problems)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    width = theirs.high - theirs.low
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(theirs.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.high, abs=0.03 * width)


def test_the_bootstrap_covers_the_truth_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # 60 problems, 8 samples of each
        values = rng.binomial(8, rng.beta(1, 2, size=60)) / 8
        low, high = bootstrap_interval(values, resamples=500)
        covered += low <= 1 / 3 <= high  # the mean of that beta
    assert 0.90 <= covered / 400 <= 0.98


def test_the_bootstrap_is_repeatable_and_does_not_depend_on_its_blocks():
    values = Random(0).choices([0.0, 0.5, 1.0], k=3000)  # in blocks of 333 resamples
    low, high = bootstrap_interval(values, resamples=1000)
    assert (low, high) == bootstrap_interval(iter(values), resamples=1000)
    at_once = np.random.default_rng(0).integers(3000, size=(1000, 3000))
    means = np.array(values)[at_once].mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_a_higher_level_is_wider_and_more_problems_are_narrower():
    values = Random(1).choices([0.0, 1.0], k=50)
    widths = [
        high - low
        for low, high in (
            bootstrap_interval(values * 4),
            bootstrap_interval(values),
            bootstrap_interval(values, level=0.99),
        )
    ]
    assert widths == sorted(widths)
    assert widths[0] == pytest.approx(widths[1] / 2, rel=0.1)


def test_a_paired_difference_is_surer_than_two_runs_apart():
    """The problems differ much, the runs by 0.1 on each: all of that is seen in a pair."""
    rng = Random(2)
    theirs = {f"test/{n}": rng.random() for n in range(200)}
    ours = {problem: value + 0.1 for problem, value in reversed(theirs.items())}
    difference, (low, high) = paired_difference(ours, theirs)
    assert difference == pytest.approx(0.1)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
    back, (lowest, highest) = paired_difference(theirs, ours)
    assert (back, lowest, highest) == (
        pytest.approx(-0.1),
        pytest.approx(-0.1),
        pytest.approx(-0.1),
    )


def test_a_paired_difference_by_hand():
    difference, (low, high) = paired_difference({"a": 1.0, "b": 0.5}, {"b": 0.5, "a": 0.0})
    assert (difference, low, high) == (0.5, 0, 1)


def test_runs_on_other_problems_are_not_paired():
    with pytest.raises(ValueError, match=r"2 problems are in one of the two only, such as a"):
        paired_difference({"a": 1.0, "c": 1.0}, {"b": 1.0, "c": 1.0})
