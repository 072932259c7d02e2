"""AUC against all pairs and scipy, the calibration error on bins counted by hand."""

import math
from random import Random

import numpy as np
import pytest

from star_exp.metrics.calibration import auc, auc_within, ece, equal_mass, equal_width


def scored(rng: Random, most: int = 30) -> tuple[list[float], list[bool]]:
    many, levels = rng.randint(2, most), rng.choice([1, 4, 1000])
    scores = [rng.choice([-math.inf, *map(float, range(levels))]) for _ in range(many)]
    return scores, [rng.random() < 0.4 for _ in range(many)]


def over_all_pairs(scores: list[float], correct: list[bool]) -> float:
    right = [score for score, flag in zip(scores, correct, strict=True) if flag]
    wrong = [score for score, flag in zip(scores, correct, strict=True) if not flag]
    won = [(ours > theirs) + (ours == theirs) / 2 for ours in right for theirs in wrong]
    return sum(won) / len(won) if won else math.nan


# AUC


@pytest.mark.parametrize(
    ("scores", "correct", "expected"),
    [
        ([3, 2, 1], [1, 1, 0], 1),
        ([3, 2, 1], [0, 1, 1], 0),
        ([3, 2, 1], [1, 0, 1], 1 / 2),
        ([2, 2, 2, 2], [1, 0, 0, 0], 1 / 2),  # all tied
        ([2, 1, 1], [1, 1, 0], 3 / 4),  # one pair in order, one tied
        ([-5.0, -math.inf], [1, 0], 1),
        ([-math.inf, -math.inf], [1, 0], 1 / 2),
    ],
)
def test_auc_by_hand(scores, correct, expected):
    assert auc(scores, correct) == expected


def test_auc_is_the_share_of_pairs_in_order():
    rng = Random(0)
    for _ in range(300):
        scores, correct = scored(rng)
        expected = over_all_pairs(scores, correct)
        assert auc(scores, correct) == pytest.approx(expected, nan_ok=True)


def test_auc_is_scipys_mann_whitney():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for levels in (2, 20, 10**6):
        scores, correct = rng.integers(levels, size=2000), rng.random(2000) < 0.3
        theirs = stats.mannwhitneyu(scores[correct], scores[~correct]).statistic
        pairs = correct.sum() * (~correct).sum()
        assert auc(scores, correct) == pytest.approx(theirs / pairs)


def test_auc_of_scores_turned_around_is_what_is_missing():
    rng = Random(1)
    for _ in range(100):
        scores, correct = scored(rng)
        back = auc([-score for score in scores], correct)
        assert auc(scores, correct) + back == pytest.approx(1, nan_ok=True) or math.isnan(back)


@pytest.mark.parametrize("correct", [[True, True], [False, False]])
def test_auc_of_one_kind_alone_is_nan(correct):
    assert math.isnan(auc([1.0, 2.0], correct))
    assert math.isnan(auc([], []))


def test_auc_refuses_what_is_not_a_number_and_lists_that_do_not_match():
    with pytest.raises(ValueError, match=r"scores\[0\] is NaN, 1 of 2 are"):
        auc([math.nan, 1.0], [True, False])
    with pytest.raises(ValueError, match=r"scores of shape \(2,\), correct of shape \(3,\)"):
        auc([1.0, 2.0], [True, False, True])


def test_auc_within_is_the_mean_of_problems_that_have_both():
    problems = [
        ([2.0, 1.0], [True, False]),  # 1
        ([1.0, 1.0, 2.0], [True, False, False]),  # 1/4
        ([5.0, 6.0], [True, True]),  # says nothing
        ([5.0], [False]),
    ]
    assert auc_within(problems) == pytest.approx((1 + 1 / 4) / 2)
    assert auc_within(iter(problems[:1])) == 1


def test_auc_within_is_nan_where_no_problem_has_both():
    assert math.isnan(auc_within([([5.0, 6.0], [True, True]), ([5.0], [False])]))
    assert math.isnan(auc_within([]))


def test_a_score_that_only_knows_easy_problems_has_no_auc_within_them():
    easy = ([9.0] * 4, [True, True, True, False])
    hard = ([1.0] * 4, [True, False, False, False])
    assert auc(easy[0] + hard[0], easy[1] + hard[1]) == pytest.approx(0.75)
    assert auc_within([easy, hard]) == 0.5


# Calibration error


def test_ece_on_bins_counted_by_hand():
    probabilities = [0.05, 0.10, 0.62, 0.66, 0.70, 0.95]
    correct = [False, False, True, False, True, True]
    # (0, 0.1]: 0 of 2 at 0.075; (0.6, 0.7]: 2 of 3 at 0.66; (0.9, 1]: 1 of 1 at 0.95
    by_hand = (2 * 0.075 + 3 * (2 / 3 - 0.66) + 1 * 0.05) / 6
    assert ece(probabilities, correct) == pytest.approx(by_hand)
    # one bin: 3 of 6 at 3.08 / 6
    assert ece(probabilities, correct, bins=1) == pytest.approx(0.08 / 6)
    # two bins of three: 1 of 3 where 0.77 are expected, and 2 of 3 where 2.31 are
    assert ece(probabilities, correct, 2, equal_mass) == pytest.approx((0.23 + 0.31) / 6)
    # two of the same width: 0 of 2 where 0.15 are expected, and 3 of 4 where 2.93 are
    assert ece(probabilities, correct, 2, equal_width) == pytest.approx((0.15 + 0.07) / 6)


def test_an_edge_belongs_to_the_bin_below():
    """What is right at 0.3 and what is wrong at 0.25 even out, in one bin; not so with 0.35."""
    for edge in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        assert ece([edge, edge - 0.05], [True, False]) == pytest.approx(abs(1.05 - 2 * edge) / 2)
        apart = ((1 - edge) + (edge + 0.05)) / 2
        assert ece([edge, edge + 0.05], [True, False]) == pytest.approx(apart)
    assert ece([0.0, 1.0], [False, True]) == 0  # both ends are in a bin


def test_ece_of_sure_scores_is_0_or_1():
    correct = [True, False, True]
    for edges in (equal_width, equal_mass):
        assert ece([1.0, 0.0, 1.0], correct, 10, edges) == 0
        assert ece([0.0, 1.0, 0.0], correct, 10, edges) == 1
        assert ece([2 / 3] * 3, correct, 10, edges) == pytest.approx(0)


def test_bins_of_equal_mass_hold_as_many():
    rng = np.random.default_rng(0)
    for many, bins in ((100, 10), (103, 10), (30, 7), (9, 9)):
        probabilities = rng.random(many) ** 3
        ends = equal_mass(probabilities, bins)
        held = np.bincount(np.searchsorted(ends, probabilities), minlength=bins)
        assert held.sum() == many
        assert set(held) <= {many // bins, -(-many // bins)}


def test_equal_probabilities_stay_in_one_bin_so_the_order_does_not_count():
    rng = Random(2)
    probabilities = [rng.choice([0.2, 0.3, 0.9]) for _ in range(40)]
    correct = [rng.random() < 0.5 for _ in probabilities]
    groups = {
        p: [c for q, c in zip(probabilities, correct, strict=True) if p == q] for p in probabilities
    }
    by_hand = sum(abs(sum(flags) - p * len(flags)) for p, flags in groups.items()) / 40
    for _ in range(10):
        places = rng.sample(range(40), 40)
        shuffled = [probabilities[i] for i in places], [correct[i] for i in places]
        for edges in (equal_width, equal_mass):
            assert ece(*shuffled, 10, edges) == pytest.approx(by_hand)


def test_more_bins_than_rollouts_are_one_for_each_probability():
    assert ece([0.2, 0.7], [False, True], 50, equal_mass) == pytest.approx((0.2 + 0.3) / 2)


def test_calibrated_probabilities_have_a_small_error_and_others_theirs():
    rng = np.random.default_rng(0)
    probabilities = rng.random(200_000)
    correct = rng.random(200_000) < probabilities
    for edges in (equal_width, equal_mass):
        assert ece(probabilities, correct, 10, edges) < 0.01
        # p/2 is too low by p/2, which is 1/4 in the mean
        half = ece(probabilities / 2, correct, 10, edges)
        assert half == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.parametrize("value", [-12.5, 1.01, math.nan, -math.inf])
def test_scores_that_are_no_probabilities_are_refused(value):
    with pytest.raises(ValueError, match=r"probabilities\[1\] is .*: expected values in \[0, 1\]"):
        ece([0.5, value], [True, False])


def test_nothing_no_bins_and_lists_that_do_not_match_are_refused():
    for probabilities, correct, bins in (([], [], 10), ([0.5], [True], 0), ([0.5], [], 10)):
        with pytest.raises(ValueError, match="expected two lists of the same length, not empty"):
            ece(probabilities, correct, bins)
