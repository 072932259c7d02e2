"""Which rollouts are trained on, by hand."""

from random import Random

import pytest

from star_exp.filters import AtMost, Correct, Distinct
from tests.rollouts import right, wrong

A, B = "train/0", "train/1"
FILTERS = [Correct(), Distinct(), AtMost(2)]


def test_correct_keeps_the_right_ones_in_their_order():
    rollouts = [wrong(A), right(B), wrong(B), right(A), right(A, sample=1)]
    assert Correct()(rollouts) == [rollouts[1], rollouts[3], rollouts[4]]


def test_correct_drops_what_was_cut_off_though_its_answer_is_right():
    assert Correct()([right(A, truncated=True)]) == []


def test_correct_drops_what_has_no_answer():
    assert Correct()([wrong(A, answer=None)]) == []


def test_distinct_keeps_the_first_of_the_same_text_for_a_question():
    rollouts = [right(A, "#8"), right(A, "2 #8"), right(A, "#8", sample=2)]
    assert Distinct()(rollouts) == rollouts[:2]


def test_distinct_keeps_the_same_text_for_another_question():
    rollouts = [right(A, "#8", question="2+6"), right(B, "#8", question="3+5")]
    assert Distinct()(rollouts) == rollouts


def test_distinct_takes_a_question_that_was_drawn_twice_for_one():
    rollouts = [right(A, "#8", question="2+6"), right(B, "#8", question="2+6")]
    assert Distinct()(rollouts) == rollouts[:1]


def test_distinct_is_about_the_text_and_not_about_how_it_was_judged():
    rollouts = [wrong(A, "#8"), right(A, "#8")]
    assert Distinct()(rollouts) == rollouts[:1]


def test_at_most_keeps_the_first_few_of_each_problem():
    rollouts = [right(A, sample=0), right(B, sample=0), right(A, sample=1), right(A, sample=2)]
    assert AtMost(2)(rollouts) == rollouts[:3]


def test_at_most_none_keeps_none():
    assert AtMost(0)([right(A)]) == []


def test_the_order_of_filters_matters_as_it_reads():
    rollouts = [wrong(A, sample=0), right(A, sample=1)]
    assert AtMost(1)(Correct()(rollouts)) == rollouts[1:]
    assert Correct()(AtMost(1)(rollouts)) == []


@pytest.mark.parametrize("filter_", FILTERS, ids=repr)
def test_nothing_passes_from_nothing(filter_):
    assert filter_([]) == []


@pytest.mark.parametrize("filter_", FILTERS, ids=repr)
def test_filtering_twice_is_filtering_once_and_takes_nothing_from_the_input(filter_):
    rng = Random(0)
    for _ in range(50):
        made = [
            rng.choice([right, wrong])(
                rng.choice([A, B]), rng.choice(["#8", "2 #8"]), truncated=rng.random() < 0.3
            )
            for _ in range(rng.randint(0, 12))
        ]
        before = list(made)
        once = filter_(made)
        assert filter_(list(once)) == once
        assert made == before
        remaining = iter(made)
        assert all(any(one is other for other in remaining) for one in once)  # in order
