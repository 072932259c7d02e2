"""Intervals and tests of a comparison, against scipy, closed forms, enumeration and simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from star_exp.report.statistics import (
    grid,
    holm,
    interval,
    interval_of_shares,
    problem_means,
    resampled_means,
    sign_flip_p,
    stretch,
)


def measured(
    seeds: int, problems: int, *, seed_sd: float, problem_sd: float, noise: float, draw: int
) -> np.ndarray:
    """values_S_P = effect of the seed + of the problem + noise."""
    rng = np.random.default_rng(draw)
    of_seeds, of_problems = rng.normal(size=(seeds, 1)), rng.normal(size=(1, problems))
    rest = rng.normal(size=(seeds, problems))
    return seed_sd * of_seeds + problem_sd * of_problems + noise * rest


def test_a_grid_has_a_row_for_each_seed_and_nan_where_nothing_was_judged():
    values_S_P = grid([{"a": 1.0, "b": 0.0}, {"b": 1.0}], ["a", "b"])
    np.testing.assert_array_equal(values_S_P, [[1, 0], [np.nan, 1]])
    np.testing.assert_array_equal(problem_means(values_S_P), [1, 0.5])


def test_with_one_seed_it_is_the_bootstrap_over_problems():
    values = np.random.default_rng(0).random(80) ** 3
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = interval(resampled_means(values[None]))
    expected = theirs.confidence_interval
    assert ours == pytest.approx((expected.low, expected.high), abs=0.004)
    anew = interval(resampled_means(values[None], crossed=False))
    assert anew == pytest.approx((expected.low, expected.high), abs=0.004)


def test_the_spread_of_crossed_resamples_is_the_closed_form():
    values_S_P = measured(4, 30, seed_sd=0.5, problem_sd=2.0, noise=1.0, draw=0)
    seeds, problems = values_S_P.shape

    def second_moment(drawn: int) -> np.ndarray:
        """E[w w'] of the shares w that a draw with replacement gives each of `drawn`."""
        return (1 - 1 / drawn + np.eye(drawn)) / drawn**2

    squares = np.einsum(
        "st,pq,sp,tq", second_moment(seeds), second_moment(problems), values_S_P, values_S_P
    )
    expected = squares - values_S_P.mean() ** 2
    means = resampled_means(values_S_P, stretched=False, resamples=40_000)
    assert means.mean() == pytest.approx(values_S_P.mean(), abs=0.01)
    assert means.var() == pytest.approx(expected, rel=0.03)


def test_the_spread_of_nested_resamples_is_the_closed_form():
    values_S_P = measured(4, 30, seed_sd=1.0, problem_sd=0.0, noise=2.0, draw=1)
    between = values_S_P.mean(axis=1).var() / 4
    within = (values_S_P.var(axis=1) / 30).mean() / 4
    means = resampled_means(values_S_P, crossed=False, stretched=False, resamples=40_000)
    assert means.var() == pytest.approx(between + within, rel=0.03)


def test_hard_and_easy_problems_make_crossed_intervals_wider_than_nested_ones():
    values_S_P = measured(5, 40, seed_sd=0.0, problem_sd=1.0, noise=0.0, draw=2)
    low, high = interval(resampled_means(values_S_P))
    low_nested, high_nested = interval(resampled_means(values_S_P, crossed=False))
    assert high - low == pytest.approx(5**0.5 * (high_nested - low_nested), rel=0.05)


def test_what_was_not_judged_is_left_out():
    values_S_P = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, 1.0]])
    means = resampled_means(values_S_P, stretched=False)
    # every resample, one by one; those that leave a seed nothing are none
    every = [
        np.mean([np.nanmean(values_S_P[seed, list(drawn)]) for seed in chosen])
        for chosen in product(range(2), repeat=2)
        for drawn in product(range(3), repeat=3)
        if all(not np.isnan(values_S_P[seed, list(drawn)]).all() for seed in chosen)
    ]
    assert np.nanmean(means) == pytest.approx(np.mean(every), abs=0.01)
    assert interval(means) == (0.0, 1.0)
    values_S_P = np.array([[1.0, np.nan], [np.nan, 0.0]])
    nested = resampled_means(values_S_P, crossed=False, stretched=False)
    assert {*nested} == {0.0, 0.5, 1.0}


def test_where_all_are_right_the_interval_is_wilsons():
    for value in (0.0, 1.0):
        values_S_P = np.array([[value] * 50, [np.nan] + [value] * 49])
        expected = stats.binomtest(int(value * 50), 50).proportion_ci(method="wilson")
        ours = interval_of_shares(values_S_P, resampled_means(values_S_P))
        assert ours == pytest.approx((expected.low, expected.high), abs=1e-6)
    half = np.full((1, 50), 0.5)
    assert interval_of_shares(half, resampled_means(half)) == (0.5, 0.5)


def test_rows_on_the_same_problems_share_their_draws_of_problems():
    ours = np.random.default_rng(3).random((1, 50))
    difference = resampled_means(ours + 0.25, seed=1) - resampled_means(ours, seed=2)
    assert interval(difference) == pytest.approx((0.25, 0.25))


def test_seeds_of_two_rows_are_drawn_apart():
    values_S_P = np.array([[0.0] * 9, [1.0] * 9])
    ours, theirs = (resampled_means(values_S_P, stretched=False, seed=seed) for seed in (1, 2))
    difference = ours - theirs
    assert difference.var() == pytest.approx(2 * 0.125, rel=0.05)


def test_the_permutation_test_is_the_enumeration_where_pairs_are_few():
    differences = np.array([0.5, 1.0, -0.25, 0.75, 0.0, np.nan])
    sums = [abs(np.dot(signs, differences[:4])) for signs in product((1, -1), repeat=4)]
    expected = np.mean(np.array(sums) >= 2.0)
    assert expected == 4 / 16  # 2, 2.5 and their negatives
    assert sign_flip_p(differences) == expected
    assert sign_flip_p(-differences) == expected
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_the_permutation_test_is_scipys():
    rng = np.random.default_rng(4)
    few, many = rng.normal(0.5, 1, 12), rng.normal(0.15, 1, 150)
    for differences, exact in ((few, True), (many, False)):
        theirs = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=20_000,  # of the few there are no more than 2 ** 12,
            rng=np.random.default_rng(5),
        )
        wanted = pytest.approx(theirs.pvalue, abs=1e-12 if exact else 0.01)
        assert sign_flip_p(differences) == wanted


def test_random_swaps_never_give_a_p_of_zero():
    assert sign_flip_p(np.ones(60), flips=999) == 1 / 1000


def test_a_test_without_an_effect_is_significant_as_often_as_it_says():
    rng = np.random.default_rng(6)
    ps = [sign_flip_p(rng.normal(size=40), flips=999, seed=n) for n in range(400)]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, and 0.04 * 1 is no less than the one before
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_seeds_part_is_students_t():
    """Two seeds, and nothing else that varies: their interval is Student's, 12.7 standard errors,
    which the quantiles of 1.96 come near to: 9.2 of them."""
    values_S_P = np.repeat([[0.0], [2.0]], 50, axis=1)
    plain = interval(resampled_means(values_S_P, stretched=False))
    low, high = interval(resampled_means(values_S_P))
    assert plain == (0.0, 2.0)
    student = stats.t.ppf(0.975, df=1)
    assert high - low == pytest.approx(2 * 2**0.5 * student / 1.96, rel=0.001)
    assert [round(stretch(seeds), 2) for seeds in (1, 3, 10, 1000)] == [1.0, 2.69, 1.22, 1.0]


@pytest.mark.parametrize(
    "seeds,noise,without", [(2, 0.01, 0.52), (3, 0.01, 0.74), (3, 1.0, 0.85), (8, 1.0, 0.92)]
)
def test_an_interval_holds_the_truth_about_as_often_as_it_says(seeds, noise, without):
    """Seeds and 60 problems drawn anew each time; without: how often if it weren't stretched."""
    held = {True: 0, False: 0}
    problem_sd = noise if noise == 1.0 else 0.0
    for draw in range(600):
        values_S_P = measured(seeds, 60, seed_sd=0.5, problem_sd=problem_sd, noise=noise, draw=draw)
        for stretched in held:
            means = resampled_means(values_S_P, stretched=stretched, resamples=1_000)
            low, high = interval(means)
            held[stretched] += low <= 0 <= high
    assert held[True] / 600 == pytest.approx(0.95, abs=0.03)
    assert held[False] / 600 == pytest.approx(without, abs=0.04)
