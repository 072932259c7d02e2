"""Which problems an iteration may draw from, by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from star_exp.curriculum import AllProblems, ByGroup, ByPassRate
from star_exp.errors import UserError
from star_exp.records import Problem, Rollout
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import right, wrong


def problem(name: str, **groups: str) -> Problem:
    return Problem(name, f"question of {name}", "8", groups)


def names(problems: Sequence[Problem]) -> str:
    return "".join(problem.id for problem in problems)


def nothing(iteration: int) -> list[Rollout]:
    return []


def sampled(**judged: str) -> list[Rollout]:
    """sampled(a="++-?"): samples of problem a, two right, one wrong, one that wasn't judged."""
    made = [
        (right if mark == "+" else wrong)(name, sample=number)
        for name, marks in judged.items()
        for number, mark in enumerate(marks)
    ]
    marked = zip(made, "".join(judged.values()), strict=True)
    return [replace(each, failed="hung") if mark == "?" else each for each, mark in marked]


# All


def test_all_problems_are_all_of_them_as_they_are():
    pool = Arithmetic().problems("train")
    assert AllProblems()(pool, 3, nothing) is pool


# By group

SUMS = [problem(name, digits=digits) for name, digits in zip("abcdef", "132154", strict=True)]


@pytest.mark.parametrize(
    ("iteration", "expected"), [(1, "acd"), (2, "abcd"), (3, "abcdf"), (4, "abcdef"), (9, "abcdef")]
)
def test_longer_sums_come_one_digit_an_iteration(iteration, expected):
    assert names(ByGroup("digits", first=2, added=1)(SUMS, iteration, nothing)) == expected


def test_groups_are_compared_as_numbers():
    sums = [problem("a", digits="9"), problem("b", digits="10")]
    assert names(ByGroup("digits", first=9)(sums, 1, nothing)) == "a"


def test_groups_may_be_added_two_at_once_or_never():
    assert names(ByGroup("digits", first=1, added=2)(SUMS, 2, nothing)) == "abcd"
    assert names(ByGroup("digits", first=1, added=0)(SUMS, 9, nothing)) == "ad"


def test_a_pool_of_sums_gives_those_of_its_shortest_lengths():
    """Lengths 1 to 5 take turns in the pool, so the first two are places 0 and 1 of every five."""
    pool = Arithmetic(train_size=23).problems("train")
    expected = [f"train/{index}" for index in range(23) if index % 5 < 2]
    assert [problem.id for problem in ByGroup()(pool, 1, nothing)] == expected


def test_a_group_that_no_problem_is_in_is_named_with_a_near_miss():
    with pytest.raises(UserError, match=r"group='digit': problem a .* did you mean 'digits'"):
        ByGroup("digit")(SUMS, 1, nothing)


def test_a_group_that_is_no_number_is_refused():
    with pytest.raises(UserError, match=r"problem a has the value 'algebra' in it; .* integer"):
        ByGroup("subject")([problem("a", subject="algebra")], 1, nothing)


def test_no_problem_in_the_first_groups_is_an_error_that_says_where_they_begin():
    with pytest.raises(UserError, match=r"no training problem has digits <= 0; the least .* is 1"):
        ByGroup("digits", first=0)(SUMS, 1, nothing)


# By pass rate

ABC = [problem("a"), problem("b"), problem("c")]


def test_in_the_first_iteration_nothing_is_left_out():
    assert names(ByPassRate(0.4, 0.6)(ABC, 1, nothing)) == "abc"


def test_what_is_always_or_never_solved_is_left_out():
    runs = {1: sampled(a="++", b="--", c="+-")}
    assert names(ByPassRate(0.1, 0.9)(ABC, 2, runs.__getitem__)) == "c"
    assert names(ByPassRate(0.0, 0.9)(ABC, 2, runs.__getitem__)) == "bc"
    assert names(ByPassRate(0.1, 1.0)(ABC, 2, runs.__getitem__)) == "ac"
    assert names(ByPassRate()(ABC, 2, runs.__getitem__)) == "abc"


def test_the_bounds_of_the_pass_rate_are_within():
    runs = {1: sampled(a="+---", b="++--", c="+++-")}
    assert names(ByPassRate(0.25, 0.5)(ABC, 2, runs.__getitem__)) == "ab"


def test_what_was_never_sampled_stays():
    assert names(ByPassRate(0.1, 0.9)(ABC, 2, {1: sampled(a="++", b="--")}.__getitem__)) == "c"


def test_what_could_not_be_judged_is_no_failure():
    runs = {1: sampled(a="+?", b="-?", c="+-"), 2: sampled(a="-?", b="??")}
    assert names(ByPassRate(0.1, 0.9)(ABC, 2, runs.__getitem__)) == "c"
    assert names(ByPassRate(0.0, 0.0)(ABC, 3, runs.__getitem__)) == "ab"  # of b the one before


def test_the_last_pass_rate_counts_and_not_the_mean_or_the_first():
    runs = {1: sampled(a="--", b="+-", c="++"), 2: sampled(a="+-", b="++")}
    assert names(ByPassRate(0.1, 0.9)(ABC, 3, runs.__getitem__)) == "a"


def test_what_was_left_out_is_drawn_again_once_its_rate_is_forgotten():
    runs = {1: sampled(a="++", b="+-", c="+-"), 2: sampled(b="++", c="+-"), 3: sampled(c="+-")}
    for iteration, expected in [(2, "bc"), (3, "ac"), (4, "abc")]:
        chosen = ByPassRate(0.1, 0.9, remembered=1)(ABC, iteration, runs.__getitem__)
        assert names(chosen) == expected
    assert names(ByPassRate(0.1, 0.9)(ABC, 4, runs.__getitem__)) == "c"


def test_nothing_is_read_that_is_not_needed():
    """Iteration 3 sampled every problem: the earlier ones, which aren't there, are not asked."""
    assert names(ByPassRate(0.1)(ABC, 4, {3: sampled(a="+", b="+", c="-")}.__getitem__)) == "ab"


def test_rollouts_of_other_problems_are_no_matter():
    assert names(ByPassRate(0.1)(ABC[:1], 2, {1: sampled(a="+", z="-")}.__getitem__)) == "a"


def test_leaving_out_everything_is_an_error_that_says_why():
    with pytest.raises(UserError, match=r"none of the 3 .*\(1 less, 2 more\).*generate.samples"):
        ByPassRate(0.1, 0.9)(ABC, 2, {1: sampled(a="+", b="-", c="+")}.__getitem__)


@pytest.mark.parametrize(
    "settings",
    [
        {"low": -0.1},
        {"high": 1.1},
        {"low": 0.6, "high": 0.5},
        {"low": 10, "high": 90},
        {"remembered": 0},
    ],
    ids=str,
)
def test_pass_rates_that_are_no_range_of_shares_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        ByPassRate(**settings)


def test_a_resumed_run_chooses_from_the_store_what_it_chose_before(tmp_path):
    def choose() -> Sequence[Problem]:
        store = RolloutStore(tmp_path)
        return ByPassRate(0.1, 0.9)(ABC, 2, lambda iteration: store.read(iteration, "generate"))

    store = RolloutStore(tmp_path)
    store.write(1, "generate", 0, sampled(a="+-", b="++"))
    store.write(1, "generate", 1, sampled(c="--"))
    store.write(1, "rationalize", 0, sampled(c="+-"))  # hinted: no measure of how hard it is
    assert names(choose()) == names(choose()) == "a"
