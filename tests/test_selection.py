"""What is picked from several candidates, against all subsets and all orders of ties."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from random import Random
from statistics import fmean

import pytest

from star_exp import metrics
from star_exp.metrics.selection import best_of, several_best_of
from star_exp.records import Rollout
from tests.rollouts import right, rollout, wrong

SIZES = (1, 2, 4, 6)  # of six candidates


def drawn(seed: int, problems: int = 3, samples: int = 6, cut: float = 0.2) -> list[Rollout]:
    """Candidates in a mixed order: right, wrong with one of three answers or none, cut off.

    The right ones are of eight texts.
    """
    rng, found = Random(seed), []
    for problem in range(problems):
        for sample in range(samples):
            of = {"problem": f"dev/{problem}", "sample": sample}
            if rng.random() < cut:
                found.append(wrong(answer=rng.choice(["8", None]), truncated=True, **of))
            elif rng.random() < 0.4:
                found.append(right(text=f"{rng.randrange(8)} #8", **of))
            else:
                found.append(wrong(answer=rng.choice(["7", "9", "10", None]), **of))
    rng.shuffle(found)
    return found


def scored(rollouts: Sequence[Rollout], seed: int, kinds: Sequence[float]) -> list[float]:
    """Scores with many ties: of so many kinds."""
    rng = Random(seed)
    return [rng.choice(kinds) for _ in rollouts]


LOGS = (-0.5, -1.0, -2.5, -30.0, -1000.0)
CHANCES = (0.0, 0.25, 0.5, 1.0)


# By brute force


def pairs(rollouts: Sequence[Rollout], scores: Sequence[float]):
    """[(rollout, score), ...] of each problem."""
    found = defaultdict(list)
    for each, score in zip(rollouts, scores, strict=True):
        found[each.problem].append((each, score))
    return found


def picked(subset: Sequence[tuple[Rollout, float]]) -> float:
    """The share that is right of those with the highest score, of whole texts if there are any."""
    candidates = [(r, s) for r, s in subset if not r.truncated]
    if not candidates:
        return 0.0
    top = max(score for _, score in candidates)
    return fmean(r.correct for r, score in candidates if score == top)


def voted(subset: Sequence[tuple[Rollout, float]]) -> float:
    """The chance that the answer with the most weight is right; a tie is broken by a fair coin."""
    weights, judged = defaultdict(float), {}
    for each, weight in subset:
        if each.answer is not None and not each.truncated and weight > 0:
            weights[each.answer] += weight
            judged[each.answer] = each.correct
    if not weights:
        return 0.0
    top = max(weights.values())
    return fmean(judged[a] for a, w in weights.items() if math.isclose(w, top, rel_tol=1e-9))


def over_subsets(rollouts, scores, k, function) -> dict[str, float]:
    return {
        problem: fmean(function(subset) for subset in combinations(mine, k))
        for problem, mine in pairs(rollouts, scores).items()
    }


@pytest.mark.parametrize("kinds", [LOGS, CHANCES, (0.5,), (-math.inf, -1.0)])
@pytest.mark.parametrize("seed", range(6))
def test_best_of_k_is_the_mean_over_all_subsets_and_orders_of_ties(seed, kinds):
    rollouts = drawn(seed)
    scores = scored(rollouts, seed, kinds)
    for k in range(1, 7):
        # a whole text with -inf may tie with one that was cut off: neither is a pick to rely on
        expected = over_subsets(rollouts, scores, k, picked if -math.inf not in kinds else lowest)
        assert best_of(rollouts, scores, k) == pytest.approx(expected)


def lowest(subset: Sequence[tuple[Rollout, float]]) -> float:
    """As `picked`, where what was cut off has the lowest score that there is."""
    by = [(-math.inf if r.truncated else s, r.correct) for r, s in subset]
    top = max(score for score, _ in by)
    return fmean(right for score, right in by if score == top)


def test_best_of_1_is_the_share_that_is_right_and_of_all_it_is_the_top_one():
    rollouts = [right("a"), wrong("a", sample=1), wrong("a", sample=2), right("b"), wrong("b")]
    scores = [-1.0, -0.5, -2.0, -3.0, -4.0]
    assert best_of(rollouts, scores, 1) == pytest.approx({"a": 1 / 3, "b": 1 / 2})
    assert best_of(rollouts, scores, 2) == pytest.approx({"a": 1 / 3, "b": 1.0})


def test_a_text_that_was_cut_off_comes_last_whatever_its_score():
    cut = [wrong("a", truncated=True, sample=number) for number in range(3)]
    assert best_of([*cut, right("a")], [0.0, -0.1, -0.2, -99.0], 4) == {"a": 1.0}
    assert best_of([*cut, right("a")], [0.0, -0.1, -0.2, -99.0], 2) == pytest.approx({"a": 1 / 2})
    values = metrics.selected("dev", [*cut, right("a")], "dpo", [0.0, -0.1, -0.2, -99.0])
    assert values["dev/best_of_4/dpo"] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_pass_and_majority_at_k_are_the_means_over_all_subsets(seed):
    rollouts = drawn(seed)
    values = metrics.candidates("dev", rollouts)
    names = {f"{name}@{k}" for name in ("pass", "majority") for k in SIZES}
    assert {*values} == {f"dev/{name}" for name in names | {"pass@4-4", "pass@6-4"}}
    ones = [1.0] * len(rollouts)
    for k in SIZES:
        passed = over_subsets(rollouts, ones, k, lambda of: any(r.correct for r, _ in of))
        assert values[f"dev/pass@{k}"] == pytest.approx(fmean(passed.values()))
        most = over_subsets(rollouts, ones, k, voted)
        assert values[f"dev/majority@{k}"] == pytest.approx(fmean(most.values()))


@pytest.mark.parametrize("seed", range(4))
def test_pass_at_k_s_is_the_mean_over_all_subsets(seed):
    rollouts = drawn(seed, problems=6, samples=7, cut=0.05)
    ones = [1.0] * len(rollouts)
    values = metrics.candidates("dev", rollouts)
    for k in (4, 7):
        many = over_subsets(rollouts, ones, k, lambda of: different(of) >= 4)
        assert values[f"dev/pass@{k}-4"] == pytest.approx(fmean(many.values()))


def different(subset: Sequence[tuple[Rollout, float]]) -> int:
    return len({each.text for each, _ in subset if each.correct})


def all_right(s: int):
    """The share of all orders of ties in which the s best-scored of a subset are right."""

    def share(subset: Sequence[tuple[Rollout, float]]) -> float:
        scored_ones = [(-math.inf if r.truncated else score, r.correct) for r, score in subset]
        orders = [
            order
            for order in permutations(scored_ones)
            if all(one[0] >= other[0] for one, other in pairwise(order))
        ]
        return fmean(all(flag for _, flag in order[:s]) for order in orders)

    return share


@pytest.mark.parametrize("kinds", [LOGS, CHANCES, (0.5,)])
@pytest.mark.parametrize("seed", range(2))
def test_reward_at_k_s_is_the_mean_over_all_subsets_and_orders_of_ties(seed, kinds):
    rollouts = drawn(seed, samples=5)
    scores = scored(rollouts, seed, kinds)
    for k, s in ((2, 2), (4, 2), (4, 4), (5, 3)):
        expected = over_subsets(rollouts, scores, k, all_right(s))
        assert several_best_of(rollouts, scores, k, s) == pytest.approx(expected)
    values = metrics.selected("dev", rollouts, "prm", scores)
    assert {name for name in values if "reward" in name} == {
        "dev/reward@4-4/prm",
        "dev/reward@5-4/prm",
    }
    for k in (4, 5):
        expected = fmean(over_subsets(rollouts, scores, k, all_right(4)).values())
        assert values[f"dev/reward@{k}-4/prm"] == pytest.approx(expected)


def test_reward_at_k_s_asks_for_right_ones_and_not_for_different_ones():
    rollouts = [right("a", sample=n) for n in range(4)]
    values = metrics.selected("dev", rollouts, "prm", [0.1, 0.2, 0.3, 0.4])
    assert values["dev/reward@4-4/prm"] == 1.0
    assert metrics.candidates("dev", rollouts)["dev/pass@4-4"] == 0.0


def test_without_a_verifier_there_is_no_reward_at_k_s():
    """With the answer alone as reward it would be pass@k-s."""
    rollouts = drawn(0)
    for values in (
        metrics.candidates("dev", rollouts),
        metrics.sampled("dev", rollouts, "accuracy"),
        metrics.per_problem(rollouts),
    ):
        assert not [name for name in values if "reward" in name]


def test_pass_at_1_is_the_share_of_samples_that_are_right():
    rollouts = drawn(3)
    share = fmean(each.correct for each in rollouts)
    assert metrics.candidates("dev", rollouts)["dev/pass@1"] == pytest.approx(share)
    scores = scored(rollouts, 0, LOGS)
    assert metrics.selected("dev", rollouts, "x", scores)["dev/best_of_1/x"] == pytest.approx(share)


@pytest.mark.parametrize("kinds", [CHANCES, LOGS])
@pytest.mark.parametrize("seed", range(4))
def test_votes_are_weighted_by_probabilities_or_by_likelihoods(seed, kinds):
    """Of all six candidates there is one subset, so that nothing is left to chance."""
    rollouts = drawn(seed)
    scores = scored(rollouts, seed, kinds)
    weights = scores if kinds is CHANCES else [math.exp(score) for score in scores]
    weights = [max(weight, 1e-300) if kinds is LOGS else weight for weight in weights]
    expected = fmean(over_subsets(rollouts, weights, 6, voted).values())
    values = metrics.selected("dev", rollouts, "x", scores, probable=kinds is CHANCES)
    assert values["dev/weighted_majority@6/x"] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_weighted_votes_of_fewer_are_near_the_mean_over_all_subsets(k):
    rollouts = drawn(5, problems=40)
    scores = scored(rollouts, 5, CHANCES)
    expected = fmean(over_subsets(rollouts, scores, k, voted).values())
    values = metrics.selected("dev", rollouts, "x", scores, probable=True)
    found = values[f"dev/weighted_majority@{k}/x"]
    assert abs(found - expected) < 5 * 0.5 / math.sqrt(200 * 40)  # 200 subsets a problem


def test_right_answers_vote_for_the_same_however_they_are_written():
    """8 and 8.0 are right: together they are as many as the two 9s, and one of these is cut off."""
    rollouts = [
        right("a", answer="8"),
        right("a", answer="8.0", sample=1),
        wrong("a", answer="9", sample=2),
        wrong("a", answer="9.00", sample=3),
        wrong("a", answer="9", sample=4, truncated=True),
    ]
    assert metrics.candidates("dev", rollouts)["dev/majority@5"] == 0.5
    values = metrics.selected("dev", rollouts, "x", [0.3, 0.3, 0.25, 0.25, 1.0], probable=True)
    assert values["dev/weighted_majority@5/x"] == 1.0
    assert metrics.candidates("dev", rollouts[:3])["dev/majority@3"] == 1.0


def test_equal_weights_make_a_weighted_vote_a_plain_one():
    rollouts = drawn(1)
    plain = metrics.candidates("dev", rollouts)["dev/majority@6"]
    for score in (0.5, -700.0, -2000.0, -math.inf):
        values = metrics.selected("dev", rollouts, "x", [score] * len(rollouts))
        assert values["dev/weighted_majority@6/x"] == pytest.approx(plain)


# auc and ece


def test_auc_is_over_all_and_within_problems():
    """b is hard and scored low: over all, a's wrong one beats b's right one; within, none is."""
    rollouts = [right("a"), wrong("a"), right("b"), wrong("b"), right("c"), right("c")]
    scores = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    values = metrics.selected("dev", rollouts, "dpo", scores)
    assert values["dev/auc_within/dpo"] == 1.0
    assert values["dev/auc/dpo"] == 3 / 8  # pairs in order: two of a's right one, one of b's
    assert "dev/ece/dpo" not in values


def test_ece_is_measured_of_probabilities_alone():
    rollouts = [right("a"), wrong("a")]
    values = metrics.selected("dev", rollouts, "orm", [0.9, 0.2], probable=True)
    assert values["dev/ece/orm"] == pytest.approx((0.1 + 0.2) / 2)
    assert "dev/ece/x" not in metrics.selected("dev", rollouts, "x", [0.9, 0.2])  # by chance in it


# What there may be none of


def every(values: dict[str, float]) -> bool:
    return all(0 <= value <= 1 + 1e-12 for value in values.values())


@pytest.mark.parametrize("scores", [LOGS, CHANCES, (-math.inf,), (0.0,)])
@pytest.mark.parametrize("of", ["right", "wrong", "cut", "unanswered", "mixed"])
def test_nothing_is_ever_nan(of, scores):
    make = {
        "right": lambda number: right("a", sample=number),
        "wrong": lambda number: wrong("a", sample=number),
        "cut": lambda number: wrong("a", truncated=True, sample=number),
        "unanswered": lambda number: wrong("a", answer=None, sample=number),
    }
    rollouts = drawn(0) if of == "mixed" else [make[of](number) for number in range(3)]
    values = metrics.selected("dev", rollouts, "x", scored(rollouts, 0, scores))
    assert every(values) and every(metrics.candidates("dev", rollouts))
    assert ("dev/auc/x" in values) is (of == "mixed")
    for name in values:
        assert metrics.metric(name)


def test_a_score_that_is_nan_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        metrics.selected("dev", [right("a"), wrong("a")], "x", [math.nan, 0.5])


def test_of_nothing_there_are_no_metrics():
    assert metrics.candidates("dev", []) == {} == metrics.selected("dev", [], "x", [])


def test_of_one_candidate_nothing_is_picked():
    one = [right("a"), wrong("b")]
    assert metrics.candidates("dev", one) == {}
    assert not any("best_of" in name for name in metrics.selected("dev", one, "x", [0.5, 0.1]))


def test_k_goes_up_to_the_fewest_candidates_that_a_problem_has():
    rollouts = [
        *(right("a", sample=n) for n in range(5)),
        *(wrong("b", sample=n) for n in range(3)),
    ]
    values = metrics.candidates("dev", rollouts)
    assert {name.partition("@")[2] for name in values} == {"1", "2", "3"}  # and no 3-4
    picked = metrics.selected("dev", rollouts, "x", [0.5] * 8)
    assert {name for name in picked if "best_of" in name} == {
        f"dev/best_of_{k}/x" for k in (1, 2, 3)
    }


def test_what_could_not_be_checked_is_neither_right_nor_wrong():
    """As in pass@k and majority@k: of a problem with three candidates, one of them unchecked."""
    failed = replace(wrong("a", sample=2), failed="TimeoutError")
    rollouts = [right("a"), wrong("a", sample=1), failed]
    scores = [0.6, 0.2, 0.9]
    values = metrics.selected("dev", rollouts, "x", scores, probable=True)
    known = metrics.selected("dev", rollouts[:2], "x", scores[:2], probable=True)
    for name in ("auc/x", "auc_within/x", "ece/x", "best_of_1/x", "best_of_2/x"):
        assert values[f"dev/{name}"] == known[f"dev/{name}"]
    assert values["dev/best_of_3/x"] == known["dev/best_of_2/x"] == 1.0
    assert metrics.candidates("dev", rollouts)["dev/pass@1"] == values["dev/best_of_1/x"] == 0.5


def test_a_problem_of_which_too_few_could_be_checked_is_left_out_of_reward_at_k_s():
    rollouts = [right("a", sample=n) for n in range(4)]
    unknown = replace(wrong("b", sample=3), failed="TimeoutError")
    rollouts += [*(right("b", sample=n) for n in range(3)), unknown]
    scores = [0.5] * 8
    assert several_best_of(rollouts, scores, 4, 4) == {"a": 1.0}
    assert metrics.selected("dev", rollouts, "x", scores)["dev/reward@4-4/x"] == 1.0
    alone = metrics.selected("dev", rollouts[4:], "x", scores[4:])
    assert "dev/best_of_4/x" in alone and "dev/reward@4-4/x" not in alone


def test_where_nothing_could_be_checked_there_are_no_metrics():
    failed = [replace(rollout("a", sample=n, correct=False), failed="OSError") for n in range(2)]
    assert metrics.candidates("dev", failed) == {}
    assert metrics.selected("dev", failed, "x", [0.5, 0.1]) == {}


def test_problems_that_could_not_be_checked_are_left_out_of_the_mean():
    failed = [replace(wrong("b", sample=n), failed="OSError") for n in range(2)]
    rollouts, scores = [right("a"), right("a", sample=1), *failed], [0.5, 0.4, 0.9, 0.8]
    assert metrics.candidates("dev", rollouts)["dev/pass@2"] == 1.0
    values = metrics.selected("dev", rollouts, "x", scores)
    assert values["dev/best_of_2/x"] == values["dev/weighted_majority@2/x"] == 1.0


def test_the_order_of_rollouts_changes_nothing():
    rollouts = drawn(2)
    scores = scored(rollouts, 2, CHANCES)
    shuffled = [*zip(rollouts, scores, strict=True)]
    shuffled.sort(key=lambda pair: (pair[0].problem, pair[0].sample))
    again = metrics.selected("dev", [r for r, _ in shuffled], "x", [s for _, s in shuffled])
    for name, value in metrics.selected("dev", rollouts, "x", scores).items():
        near = 0.2 if "weighted" in name else 1e-12  # of random subsets
        assert again[name] == pytest.approx(value, abs=near)


def test_the_same_rollout_twice_has_each_of_its_scores():
    """Records are equal by value: two candidates may be one object."""
    one = wrong("a")
    values = metrics.selected("dev", [right("a"), one, one], "x", [0.5, 0.9, 0.1])
    assert values["dev/auc/x"] == values["dev/auc_within/x"] == 0.5
    assert values["dev/best_of_3/x"] == 0.0


def test_more_than_there_are_can_not_be_picked_from():
    with pytest.raises(ValueError, match=r"a: k=3 of 2: expected 1 to 2"):
        best_of([right("a"), wrong("a")], [0.5, 0.4], 3)
