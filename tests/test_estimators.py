"""pass@k, majority@k, best-of-k, intervals: by hand, over all subsets, from scipy, by drawing."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, combinations, groupby, pairwise, permutations, product
from random import Random

import numpy as np
import pytest

from star_exp.metrics import (
    bootstrap_interval,
    majority_at_k,
    paired_difference,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
    sizes,
    wilson_interval,
)
from star_exp.metrics.estimators import best_of_k, draw_majority_at_k, weighted_majority_at_k

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


# pass@k-s


@pytest.mark.parametrize(
    ("samples", "right", "k", "s", "expected"),
    [
        (4, [1, 1], 2, 2, 1 / 6),  # one of 6 pairs
        (4, [2, 1], 2, 2, 2 / 6),  # either of the two that are the same, with the third
        (4, [4], 4, 2, 0),  # right four times, but with one text
        (4, [3], 4, 4, 0),
        (4, [1, 1, 1, 1], 4, 4, 1),
        (5, [1, 1, 1, 1], 4, 4, 1 / 5),  # all but the wrong one
        (6, [3, 2], 5, 2, 1),  # one is left out, and each text is there still
        (3, [], 3, 1, 0),
        (3, [0, 2], 2, 1, 1),  # a text that wasn't sampled is none
    ],
)
def test_pass_at_k_s_by_hand(samples, right, k, s, expected):
    assert pass_at_k_s(samples, right, k, s) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_s_over_all_subsets():
    rng = Random(16)
    for _ in range(60):
        texts = rng.choices("abcdeXYZ", weights=[rng.random() for _ in range(8)], k=8)
        texts = texts[: rng.randint(1, 8)]  # small letters are right
        right = [texts.count(text) for text in sorted({*texts}) if text.islower()]
        for k in range(1, len(texts) + 1):
            different = [len({*filter(str.islower, of)}) for of in combinations(texts, k)]
            for s in range(1, k + 1):
                expected = sum(number >= s for number in different) / len(different)
                found = pass_at_k_s(len(texts), right, k, s)
                assert found == pytest.approx(expected, abs=1e-15)


def test_one_different_right_one_is_pass_at_k_to_the_last_bit():
    rng = Random(17)
    for _ in range(200):
        right = [rng.randint(1, 9) for _ in range(rng.randint(0, 9))]
        samples = sum(right) + rng.randint(1, 40)
        for k in sizes(samples):
            assert pass_at_k_s(samples, right, k, 1) == pass_at_k(samples, sum(right), k)


def found_and_drawn(samples: int, right: Sequence[int], k: int, s: int) -> float:
    """By a table over the texts, of how many different ones were found and how many were drawn."""
    ways = {(0, 0): 1}
    for count in right:
        after: dict[tuple[int, int], int] = {}
        for (found, drawn), number in ways.items():
            for more in range(min(count, k - drawn) + 1):
                key = found + (more > 0), drawn + more
                after[key] = after.get(key, 0) + number * math.comb(count, more)
        ways = after
    wrong = samples - sum(right)
    hits = sum(
        number * math.comb(wrong, k - drawn)
        for (found, drawn), number in ways.items()
        if found >= s
    )
    return float(Fraction(hits, math.comb(samples, k)))


def test_pass_at_k_s_of_many_samples_is_exact():
    rng = Random(18)
    for samples in (64, 128):
        for kinds in (1, 4, 12, 40):
            drawn = rng.choices(range(kinds + 3), k=samples)  # 3 texts are wrong
            right = [drawn.count(text) for text in range(kinds)]
            for k, s in ((4, 4), (16, 2), (32, 4), (samples, 4), (samples // 2, 8)):
                expected = found_and_drawn(samples, right, k, s)
                assert pass_at_k_s(samples, right, k, s) == pytest.approx(expected, rel=1e-15)


def test_pass_at_k_s_grows_with_k_and_falls_with_s():
    for right in ([1] * 9, [5, 2, 1, 1], [12]):
        by_s = [[pass_at_k_s(20, right, k, s) for k in range(4, 21)] for s in range(1, 5)]
        for values, fewer in pairwise(by_s):
            assert values == sorted(values)
            assert all(more >= less for more, less in zip(values, fewer, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, [1], 5, 1), "k=5 of 4 samples: expected 1 to 4"),
        ((4, [1], 3, 4), "s=4 of k=3 samples: expected 1 to 3"),
        ((4, [1], 3, 0), "s=0 of k=3 samples"),
        ((4, [3, 2], 3, 1), r"right=\[3, 2\] of 4 samples"),
        ((4, [3, -1], 3, 1), r"right=\[3, -1\] of 4 samples"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k_s(*arguments)


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


# majority@k by drawing, with and without weights


def weighted_over_all_subsets(samples: Samples, weights: list[int], k: int) -> float:
    """With whole numbers as weights: ties are ties."""
    chances = []
    for subset in combinations(range(len(samples)), k):
        votes: dict[str, int] = {}
        for place in subset:
            answer = samples[place][0]
            if answer is not None and weights[place]:
                votes[answer] = votes.get(answer, 0) + weights[place]
        right = dict(samples)
        tied = [right[answer] for answer in votes if votes[answer] == max(votes.values())]
        chances.append(sum(tied) / len(tied) if tied else 0)
    return sum(chances) / len(chances)


def weighted(
    samples: Sequence[tuple[str | None, bool]], weights: Sequence[float], k: int, seed: int = 0
) -> tuple[float, float]:
    answers, correct = [answer for answer, _ in samples], [right for _, right in samples]
    return weighted_majority_at_k(answers, weights, correct, k, seed=seed)


def test_drawing_a_majority_agrees_with_the_exact_one():
    rng = Random(6)
    many = [R] * 40 + [W] * 36 + [V] * 20 + [(f"{n}", False) for n in range(100, 124)] + [N] * 8
    for samples in (many, *(random_samples(rng, most=40) for _ in range(20))):
        for k in sizes(len(samples)):
            chance, error = draw_majority_at_k(samples, k, seed=rng.randrange(1000))
            assert chance == pytest.approx(majority_at_k(samples, k), abs=4 * error + 1e-3)


def test_a_weighted_majority_agrees_with_all_subsets():
    rng = Random(7)
    for _ in range(30):
        samples = random_samples(rng)
        weights = rng.choices([0, 1, 2, 3], k=len(samples))
        for k in range(1, len(samples) + 1):
            expected = weighted_over_all_subsets(samples, weights, k)
            chance, error = weighted(samples, weights, k, seed=rng.randrange(1000))
            assert chance == pytest.approx(expected, abs=4 * error + 1e-3)


def test_the_error_of_drawing_is_that_of_a_mean():
    """The scatter of 200 estimates is what each of them says, and it falls as 1/sqrt(draws)."""
    samples = [R] * 12 + [W] * 10 + [V] * 4
    exact = majority_at_k(samples, 8)
    for draws in (50, 800):
        both = [draw_majority_at_k(samples, 8, draws=draws, seed=seed) for seed in range(200)]
        misses, errors = np.array([chance - exact for chance, _ in both]), [e for _, e in both]
        assert np.sqrt((misses**2).mean()) == pytest.approx(np.mean(errors), rel=0.2)
        assert np.mean(errors) == pytest.approx(0.47 / math.sqrt(draws), rel=0.1)


def test_all_samples_are_one_subset_and_leave_no_error():
    assert draw_majority_at_k([R, R, W], 3) == (1, 0)
    assert draw_majority_at_k([R, W], 2) == (0.5, 0)  # a tie is shared, not drawn
    assert draw_majority_at_k([N, N], 2) == (0, 0)
    assert weighted([R, W, W], [3, 1, 1], 3) == (1, 0)
    assert weighted([R, W, W], [2, 1, 1], 3) == (0.5, 0)
    assert weighted([R, N, N], [1, 5, 5], 3) == (1, 0)  # no answer never wins
    assert weighted([R, W, W], [1, 0, 0], 3) == (1, 0)  # a weight of 0 is no vote
    assert weighted([R, R], [0, 0], 2) == (0, 0)


def test_weights_that_add_up_to_the_same_tie_in_any_order():
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    samples = [R, R, R, W, W, W]
    assert weighted(samples, [0.1, 0.2, 0.3, 0.3, 0.2, 0.1], 6) == (0.5, 0)


def test_only_the_ratios_of_weights_count():
    rng = Random(8)
    samples = random_samples(rng, most=30)
    weights = [rng.random() for _ in samples]
    for factor in (1e-200, 2.5, 1e200):
        scaled = [factor * weight for weight in weights]
        for k in sizes(len(samples)):
            assert weighted(samples, scaled, k) == pytest.approx(weighted(samples, weights, k))


def test_an_answer_judged_in_two_ways_is_right_by_its_share_with_weights_too():
    samples: Samples = [("8", True), ("8", True), ("8", False), ("9", False)]
    assert majority_at_k(samples, 4) == pytest.approx(2 / 3)
    assert weighted(samples, [1, 1, 1, 1], 4) == (pytest.approx(2 / 3), pytest.approx(0))
    assert weighted(samples, [1, 1, 1, 4], 4) == (0, 0)


def test_drawing_is_repeatable_and_does_not_depend_on_its_blocks():
    samples = ([R] * 3 + [W] * 2) * 400  # 2,000 samples: in blocks of 500 draws
    chance, error = draw_majority_at_k(samples, 5, draws=1200, seed=3)
    assert (chance, error) == draw_majority_at_k(samples, 5, draws=1200, seed=3)
    at_once = np.random.default_rng(3).random((1200, 2000)).argsort(axis=1)[:, :5]
    wins = (at_once % 5 < 3).sum(axis=1) >= 3
    assert (chance, error) == pytest.approx((wins.mean(), wins.std(ddof=1) / math.sqrt(1200)))
    assert chance != draw_majority_at_k(samples, 5, draws=1200, seed=4)[0]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match=r"weights\[1\] is .*: expected numbers in \[0, inf\)"):
        weighted([R, W], [1.0, weight], 1)


def test_lists_of_other_lengths_too_few_draws_and_a_wrong_k_are_refused():
    with pytest.raises(ValueError, match="2 answers, 1 weights, 2 judgements"):
        weighted_majority_at_k(["8", "9"], [1.0], [True, False], 1)
    with pytest.raises(ValueError, match="draws=1: expected 2 or more"):
        draw_majority_at_k([R, W], 1, draws=1)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k} of 2 samples: expected 1 to 2"):
            draw_majority_at_k([R, W], k)


# Best-of-k


def best_over_all_subsets(scores: list[float], flags: list[bool], k: int) -> Fraction:
    """Of every subset the share that is right of those with its highest score."""
    chances = []
    for subset in combinations(zip(scores, flags, strict=True), k):
        top = [right for score, right in subset if score == max(subset)[0]]
        chances.append(Fraction(sum(top), len(top)))
    return sum(chances, Fraction(0)) / len(chances)


def best_by_the_papers_sum(scores: list[float], flags: list[bool], k: int) -> Fraction:
    """V-STaR, eq. 3, in whole numbers; of ties each rank has the share of all of them."""
    ranked = sorted(zip(scores, flags, strict=True), reverse=True)
    alphas: list[Fraction] = []
    for _, tied in groupby(ranked, key=lambda pair: pair[0]):
        right = [flag for _, flag in tied]
        alphas += [Fraction(sum(right), len(right))] * len(right)
    many = len(alphas)
    terms = [math.comb(many - i - 1, k - 1) * alphas[i] for i in range(many - k + 1)]
    return sum(terms, Fraction(0)) / math.comb(many, k)


@pytest.mark.parametrize(
    ("scores", "flags", "k", "expected"),
    [
        ([3, 2, 1], [1, 0, 1], 2, 2 / 3),  # pairs: 3 2 right, 3 1 right, 2 1 wrong
        ([3, 2, 1], [0, 1, 1], 2, 1 / 3),
        ([3, 2, 1], [0, 0, 1], 1, 1 / 3),  # the last counts for k = 1: the sum runs to N - k
        ([3, 2, 1], [1, 0, 0], 3, 1),  # and for k = N the first does
        ([1, 1, 0], [1, 0, 1], 2, (1 / 2 + 1 + 0) / 3),  # the pair that ties is shared
        ([0, 0, 1, 1], [1, 1, 1, 0], 4, 1 / 2),
        ([-math.inf, -7.5], [1, 0], 2, 0),
        ([-math.inf, -math.inf], [1, 0], 2, 1 / 2),
    ],
)
def test_best_of_k_by_hand(scores, flags, k, expected):
    assert best_of_k(scores, flags, k) == pytest.approx(expected)


def test_best_of_k_over_all_subsets_for_every_pattern_of_ties():
    for many in range(1, 7):
        for steps in product([0, 1], repeat=many - 1):  # 0: ties with the one before
            scores = [float(score) for score in accumulate(steps, initial=0)]
            for flags in product([False, True], repeat=many):
                for k in range(1, many + 1):
                    exact = best_over_all_subsets(scores, list(flags), k)
                    assert best_of_k(scores, flags, k) == pytest.approx(float(exact), abs=1e-14)


def test_best_of_k_is_the_mean_over_orders_of_ties():
    """Each order is one ranking without ties, to which the paper's sum applies as it is."""
    scores, flags = [2.0, 2.0, 2.0, 1.0, 0.0, 0.0], [True, False, False, True, True, False]
    orders = [order for order in permutations(range(6)) if [scores[i] for i in order] == scores]
    assert len(orders) == 12
    for k in range(1, 7):
        each = [
            best_by_the_papers_sum([6, 5, 4, 3, 2, 1], [flags[i] for i in order], k)
            for order in orders
        ]
        assert best_of_k(scores, flags, k) == pytest.approx(float(sum(each) / len(each)))


@pytest.mark.parametrize(("many", "k"), [(128, 1), (128, 64), (128, 128), (1000, 64), (1000, 999)])
@pytest.mark.parametrize("levels", [3, 40, 10**9])
def test_best_of_k_of_many_is_the_exact_fraction(many, k, levels):
    rng = Random(9)
    scores = [float(rng.randrange(levels)) for _ in range(many)]
    flags = [rng.random() < 0.3 for _ in scores]
    exact = float(best_by_the_papers_sum(scores, flags, k))
    assert best_of_k(scores, flags, k) == pytest.approx(exact, rel=1e-12, abs=1e-15)


def test_best_of_k_of_very_many_is_a_number():
    """Of 100,000 with one right, and that the best, it is k / N."""
    scores = np.arange(100_000.0)
    assert best_of_k(scores, scores == 99_999, 30_000) == pytest.approx(0.3, rel=1e-12)
    assert best_of_k(scores, scores < 99_999, 30_000) == pytest.approx(0.7, rel=1e-12)


def scored(rng: Random, most: int = 40) -> tuple[list[float], list[bool]]:
    many, levels = rng.randint(1, most), rng.choice([1, 3, 1000])
    scores = [rng.choice([-math.inf, *map(float, range(levels))]) for _ in range(many)]
    return scores, [rng.random() < 0.4 for _ in range(many)]


def test_best_of_1_is_the_mean_and_best_of_all_the_share_of_the_top_that_is_right():
    rng = Random(10)
    for _ in range(200):
        scores, flags = scored(rng)
        top = [right for score, right in zip(scores, flags, strict=True) if score == max(scores)]
        assert best_of_k(scores, flags, 1) == pytest.approx(sum(flags) / len(flags))
        assert best_of_k(scores, flags, len(scores)) == sum(top) / len(top)


def test_equal_scores_are_as_good_as_none_for_any_k():
    for score in (0.0, -31.25, -math.inf):
        for k in range(1, 13):
            assert best_of_k([score] * 12, [True] * 5 + [False] * 7, k) == pytest.approx(5 / 12)


def test_perfect_scores_reach_pass_at_k_and_grow_with_k():
    for right in range(17):
        flags = [True] * right + [False] * (16 - right)
        for scores in (flags, range(16, 0, -1)):
            values = [best_of_k([*scores], flags, k) for k in range(1, 17)]
            assert values == pytest.approx([pass_at_k(16, right, k) for k in range(1, 17)])
            assert all(more >= less - 1e-12 for less, more in pairwise(values))


def test_best_of_k_lies_between_the_worst_ranking_and_pass_at_k():
    rng = Random(11)
    for _ in range(200):
        scores, flags = scored(rng)
        many, wrong = len(flags), len(flags) - sum(flags)
        for k in sizes(many):
            least = 1 - pass_at_k(many, wrong, k)  # all right ones last
            most = pass_at_k(many, sum(flags), k)
            value = best_of_k(scores, flags, k)
            assert 0 <= value <= 1
            assert least - 1e-12 <= value <= most + 1e-12


def test_best_of_k_depends_on_the_order_of_scores_alone():
    rng = Random(12)
    for _ in range(50):
        scores, flags = scored(rng)
        places = rng.sample(range(len(flags)), len(flags))
        shuffled, moved = [scores[i] for i in places], [flags[i] for i in places]
        likelihoods = [math.exp(score / 1000) for score in shuffled]
        for k in sizes(len(flags)):
            value = best_of_k(scores, flags, k)
            assert best_of_k(shuffled, moved, k) == value
            assert best_of_k(likelihoods, moved, k) == value


def test_best_of_k_of_right_and_of_wrong_ones_is_1_together():
    rng = Random(13)
    for _ in range(50):
        scores, flags = scored(rng)
        wrong = [not right for right in flags]
        for k in sizes(len(flags)):
            both = best_of_k(scores, flags, k) + best_of_k(scores, wrong, k)
            assert both == pytest.approx(1)


def test_best_of_k_is_never_above_1_not_even_by_rounding():
    rng = Random(15)
    for _ in range(300):
        scores, _ = scored(rng, most=60)
        for k in sizes(len(scores)):
            value = best_of_k(scores, [True] * len(scores), k)
            assert value <= 1
            assert value == pytest.approx(1, abs=1e-14)


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(
        ValueError, match=r"scores\[1\] is NaN, 2 of 3 are: expected numbers or -inf"
    ):
        best_of_k([1.0, math.nan, math.nan], [True, True, False], 2)


def test_scores_and_flags_that_do_not_match_and_a_wrong_k_are_refused():
    with pytest.raises(ValueError, match=r"scores of shape \(2,\), correct of shape \(1,\)"):
        best_of_k([1.0, 2.0], [True], 1)
    with pytest.raises(ValueError, match=r"scores of shape \(1, 2\)"):
        best_of_k(np.ones((1, 2)), np.ones((1, 2)), 1)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k} of 2 samples: expected 1 to 2"):
            best_of_k([1.0, 2.0], [True, False], k)
    with pytest.raises(ValueError, match="k=1 of 0 samples"):
        best_of_k([], [], 1)


def test_best_of_k_of_problems_has_a_bootstrap_interval_that_holds_its_mean():
    rng = Random(14)
    problems = [scored(rng) for _ in range(60)]
    values = [best_of_k(scores, flags, 1) for scores, flags in problems]
    low, high = bootstrap_interval(values)
    assert 0 <= low < np.mean(values) < high <= 1
    raised = {f"test/{n}": best_of_k(*problem, 1) for n, problem in enumerate(problems)}
    assert paired_difference(raised, raised) == (0, (0, 0))


# reward@k-s


def top_over_all_subsets(scores: list[float], flags: list[bool], k: int, s: int) -> Fraction:
    """Of each subset the share of the sets of s best ones, by all orders of ties, all right."""
    each = []
    for subset in combinations(range(len(scores)), k):
        last = sorted((scores[i] for i in subset), reverse=True)[s - 1]
        sure = [flags[i] for i in subset if scores[i] > last]
        tied = [flags[i] for i in subset if scores[i] == last]
        sets = [all(rest) for rest in combinations(tied, s - len(sure))]
        each.append(Fraction(all(sure) * sum(sets), len(sets)))
    return sum(each, Fraction(0)) / len(each)


@pytest.mark.parametrize(
    ("scores", "flags", "k", "s", "expected"),
    [
        ([3, 2, 1], [1, 0, 1], 2, 2, 1 / 3),  # of three pairs the one without the wrong
        ([3, 2, 1], [1, 0, 1], 3, 2, 0),  # the second-best is wrong
        ([3, 2, 1], [1, 1, 0], 3, 2, 1),
        ([3, 2, 1], [1, 1, 0], 2, 2, 1 / 3),
        ([1, 1, 1], [1, 1, 0], 3, 2, 1 / 3),  # all tie: one pair of three is right
        ([2, 1, 1], [1, 1, 0], 3, 2, 1 / 2),  # the second is one of two
        ([2, 1, 1], [0, 1, 1], 3, 2, 0),
        ([1, 1, 1, 1], [1, 1, 1, 1], 4, 4, 1),
        ([-math.inf, 0.5], [1, 1], 2, 2, 1),
    ],
)
def test_reward_at_k_s_by_hand(scores, flags, k, s, expected):
    assert reward_at_k_s(scores, flags, k, s) == pytest.approx(expected)


def test_reward_at_k_s_over_all_subsets_for_every_pattern_of_ties():
    for many in range(1, 6):
        for steps in product([0, 1], repeat=many - 1):  # 0: ties with the one before
            scores = [float(score) for score in accumulate(steps, initial=0)]
            for flags in product([False, True], repeat=many):
                for k in range(1, many + 1):
                    for s in range(1, k + 1):
                        exact = float(top_over_all_subsets(scores, [*flags], k, s))
                        assert reward_at_k_s(scores, flags, k, s) == exact


def test_reward_at_k_1_is_best_of_k():
    rng = Random(19)
    for _ in range(100):
        scores, flags = scored(rng)
        for k in sizes(len(scores)):
            one = reward_at_k_s(scores, flags, k, 1)
            assert one == pytest.approx(best_of_k(scores, flags, k), abs=1e-12)


def test_all_that_are_drawn_are_right_whatever_their_scores():
    """With s = k no score counts: C(right, k) / C(samples, k)."""
    rng = Random(20)
    for _ in range(50):
        scores, flags = scored(rng)
        for k in sizes(len(scores)):
            expected = math.comb(sum(flags), k) / math.comb(len(flags), k)
            assert reward_at_k_s(scores, flags, k, k) == pytest.approx(expected)


def test_perfect_scores_have_s_right_ones_on_top_wherever_so_many_are_drawn():
    """Then it is pass@k-s of right ones that all differ."""
    for right in range(13):
        flags = [True] * right + [False] * (12 - right)
        for k in range(1, 13):
            for s in range(1, k + 1):
                expected = pass_at_k_s(12, [1] * right, k, s)
                for scores in (flags, range(12, 0, -1)):
                    assert reward_at_k_s([*scores], flags, k, s) == pytest.approx(expected)


def test_reward_at_k_s_of_many_agrees_with_drawing():
    rng = Random(21)
    scores = [float(rng.randrange(20)) for _ in range(128)]
    flags = [rng.random() < 0.4 + score / 40 for score in scores]
    hits = 0
    for _ in range(20_000):
        order = sorted(rng.sample(range(128), 32), key=lambda i: (scores[i], rng.random()))
        hits += all(flags[i] for i in order[-4:])
    chance = reward_at_k_s(scores, flags, 32, 4)
    assert abs(hits / 20_000 - chance) < 4 * math.sqrt(0.25 / 20_000)


def test_an_s_that_is_no_part_of_k_and_a_score_that_is_no_number_are_refused():
    for k, s, message in ((2, 3, "s=3 of k=2"), (2, 0, "s=0 of k=2"), (4, 1, "k=4 of 3 samples")):
        with pytest.raises(ValueError, match=message):
            reward_at_k_s([1.0, 2.0, 3.0], [True, False, True], k, s)
    with pytest.raises(ValueError, match=r"scores\[1\] is NaN"):
        reward_at_k_s([1.0, math.nan], [True, False], 2, 1)


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
