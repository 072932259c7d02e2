"""Steps, orders and rates against the paper's tables, by hand, and seeds across processes."""

import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise, product

import pytest

from star_exp.errors import UserError
from star_exp.schedule import (
    AddedSteps,
    Balanced,
    ConstantRate,
    Epochs,
    GrowingSteps,
    LinearDecay,
    Shuffled,
    batches,
    draw,
    passes,
)
from star_exp.seeds import derive


def steps(schedule, iterations, examples: int = 1000, batch_size: int = 8) -> list[int]:
    return [schedule(iteration, examples, batch_size) for iteration in iterations]


# Steps


def test_steps_grow_by_a_fifth_as_in_the_paper():
    assert steps(GrowingSteps(40, 1.2), range(1, 7)) == [40, 48, 57, 69, 82, 99]


def test_the_papers_step_cap_of_7912_is_iteration_30():
    assert GrowingSteps(40, 1.2)(30, examples=1000, batch_size=8) == 7912


def test_growing_steps_are_the_exact_powers_truncated():
    exact = [int(40 * Fraction(12, 10) ** (n - 1)) for n in range(1, 31)]
    assert steps(GrowingSteps(40, 1.2), range(1, 31)) == exact


def test_steps_with_rationalization_grow_by_twenty_as_in_the_paper():
    assert steps(AddedSteps(300, 20), range(1, 5)) == [300, 320, 340, 360]


@pytest.mark.parametrize(
    ("epochs", "examples", "batch_size", "expected"),
    [(1.0, 64, 8, 8), (1.0, 65, 8, 9), (2.0, 65, 8, 17), (0.5, 64, 8, 4), (1.0, 3, 8, 1)],
)
def test_epochs_are_passes_over_the_examples(epochs, examples, batch_size, expected):
    assert Epochs(epochs)(5, examples, batch_size) == expected


def test_epochs_are_at_least_one_step():
    assert Epochs(0.001)(1, examples=10, batch_size=64) == 1


# Orders


def shuffled(examples: int, draws: int, seed: int) -> list[int]:
    return Shuffled()(["digits=1"] * examples, draws, seed)


def test_each_pass_holds_every_example_once():
    order = shuffled(10, 35, seed=3)
    assert len(order) == 35
    for start in (0, 10, 20):
        assert sorted(order[start : start + 10]) == list(range(10))
    assert len(set(order[30:])) == 5


def test_passes_are_shuffled_each_in_its_own_way():
    order = shuffled(50, 100, seed=0)
    assert list(range(50)) != order[:50] != order[50:]


@pytest.mark.parametrize("examples", [1, 7, 100])
def test_a_longer_order_begins_with_the_shorter(examples):
    longest = shuffled(examples, 500, seed=1)
    for draws in (0, 1, 6, 7, 8, 99, 100, 101, 499):
        assert shuffled(examples, draws, seed=1) == longest[:draws]


def test_another_seed_is_another_order():
    assert shuffled(50, 50, seed=0) != shuffled(50, 50, seed=1)


def test_every_example_comes_first_equally_often():
    """Uniform over 5 examples: 1000 +- 28 of 5000 seeds each."""
    firsts = Counter(shuffled(5, 1, seed)[0] for seed in range(5000))
    assert all(abs(firsts[example] - 1000) < 4 * 28.3 for example in range(5))


def test_passes_draw_from_anything_and_leave_it_as_it_is():
    letters = ["a", "b", "c"]
    assert sorted(passes(letters, 6, seed=0)) == ["a", "a", "b", "b", "c", "c"]
    assert letters == ["a", "b", "c"]


def test_a_balanced_order_draws_every_group_equally_often():
    groups = ["easy"] * 90 + ["hard"] * 10
    order = Balanced()(groups, 200, seed=0)
    counts = Counter(order)
    assert sum(counts[index] for index in range(90)) == 100
    assert [counts[index] for index in range(90, 100)] == [10] * 10


def test_a_balanced_order_is_balanced_at_any_point():
    groups = [str(index % 3) if index < 30 else "0" for index in range(100)]
    order = Balanced()(groups, 301, seed=0)
    assert len(order) == 301
    for end in range(302):
        drawn = Counter(groups[index] for index in order[:end])
        assert max(drawn.values(), default=0) - min(drawn[group] for group in "012") <= 1


def test_a_balanced_order_of_one_group_holds_each_example_once_a_pass():
    order = Balanced()(["digits=1"] * 10, 20, seed=0)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))


def test_another_seed_is_another_balanced_order():
    groups = ["a"] * 20 + ["b"] * 20
    assert Balanced()(groups, 40, seed=0) != Balanced()(groups, 40, seed=1)


def test_a_longer_balanced_order_begins_with_the_shorter():
    groups = ["a"] * 5 + ["b"] * 9 + ["c"]
    longest = Balanced()(groups, 300, seed=1)
    for draws in (0, 1, 2, 3, 50, 151, 299):
        assert Balanced()(groups, draws, seed=1) == longest[:draws]


# Batches


LENGTHS = [(37 * index) % 50 for index in range(100)]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_batches_hold_every_draw_once(window):
    order = shuffled(100, 250, seed=0)
    cut = batches(order, 8, LENGTHS, window, seed=0)
    assert Counter(index for batch in cut for index in batch) == Counter(order)
    assert sorted(map(len, cut)) == [2] + [8] * 31


def test_batches_without_a_window_are_the_order_cut_up():
    order = shuffled(100, 20, seed=0)
    assert batches(order, 8, LENGTHS, 1, seed=0) == [order[:8], order[8:16], order[16:]]


def test_each_window_of_batches_holds_its_own_draws():
    order = shuffled(100, 96, seed=0)
    cut = batches(order, 8, LENGTHS, 3, seed=0)
    for start in range(0, 12, 3):
        inside = [index for batch in cut[start : start + 3] for index in batch]
        assert sorted(inside) == sorted(order[8 * start : 8 * (start + 3)])


def test_batches_in_a_window_are_of_like_length():
    """The lengths that the batches of a window span do not overlap: by hand, sorted and cut."""
    order = shuffled(100, 80, seed=0)
    spans = sorted(
        (min(LENGTHS[index] for index in batch), max(LENGTHS[index] for index in batch))
        for batch in batches(order, 8, LENGTHS, 10, seed=0)
    )
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))


def test_batches_are_not_trained_on_from_short_to_long():
    order = shuffled(100, 80, seed=0)
    shortest = [min(LENGTHS[i] for i in batch) for batch in batches(order, 8, LENGTHS, 10, seed=0)]
    assert shortest != sorted(shortest)


# Draws


def test_a_draw_is_without_replacement():
    drawn = draw(range(100), 60, seed=0)
    assert len(drawn) == len(set(drawn)) == 60
    assert set(drawn) <= set(range(100))


def test_a_draw_of_all_is_the_population():
    assert list(draw(range(10), None, seed=0)) == list(range(10))


def test_a_draw_of_as_many_as_there_are_holds_each_once():
    assert sorted(draw(range(10), 10, seed=5)) == list(range(10))


def test_a_draw_follows_its_seed():
    assert list(draw(range(100), 5, seed=1)) == list(draw(range(100), 5, seed=1))
    assert list(draw(range(100), 5, seed=1)) != list(draw(range(100), 5, seed=2))


# Rates: step counts from 0, `steps` is how many the iteration has


def test_a_constant_rate_warms_up_linearly_and_stays():
    rate = ConstantRate(warmup=4)
    assert [rate(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_the_papers_warmup_is_longer_than_its_first_iteration():
    """papers/star.md, 5.6: the rate tops out at 4e-7 of 1e-6, since 40 steps < 100 of warm-up."""
    assert ConstantRate(100)(39, 40) == pytest.approx(0.4)


def test_a_rate_without_warmup_is_constant():
    assert [ConstantRate(0)(step, 5) for step in range(5)] == [1, 1, 1, 1, 1]


def test_a_decaying_rate_by_hand():
    rate = LinearDecay(warmup=2)
    assert [rate(step, 6) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]


def test_a_decaying_rate_without_warmup_by_hand():
    assert [LinearDecay(0)(step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]


def test_a_rate_that_decays_over_several_iterations_by_hand():
    """Two of three steps each, without a reset between them: steps are counted on."""
    rate = LinearDecay(warmup=1, level=10.0, iterations=2)
    assert [rate(step, 3) for step in range(6)] == [10, 10, 8, 6, 4, 2]


def test_a_rate_over_no_iteration_is_refused():
    with pytest.raises(UserError, match=r"rate\.iterations=0"):
        LinearDecay(iterations=0)


def test_a_warmup_longer_than_the_iteration_only_warms_up():
    assert [LinearDecay(10)(step, 5) for step in range(5)] == [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("kind", [ConstantRate, LinearDecay])
def test_a_rate_is_positive_while_training_and_never_more_than_one(kind):
    for warmup, length in product((0, 1, 5, 20), (1, 2, 5, 40)):
        rates = [kind(warmup)(step, length) for step in range(length)]
        assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("kind", [ConstantRate, LinearDecay])
def test_a_rate_is_never_negative_after_the_last_step(kind):
    """Lightning asks once more after the last step of an iteration."""
    assert all(kind(3)(step, 10) >= 0 for step in range(30))


def test_a_decaying_rate_rises_and_then_falls():
    rates = [LinearDecay(5)(step, 50) for step in range(50)]
    assert all(a < b for a, b in pairwise(rates[:5]))
    assert all(a >= b for a, b in pairwise(rates[4:]))


# Seeds


def test_seeds_are_the_same_in_every_process():
    script = "from star_exp.seeds import derive; print(derive(0, 'generate', 'train/7', 3))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert printed == {f"{derive(0, 'generate', 'train/7', 3)}\n"}


def test_seeds_are_in_their_documented_range_and_use_all_of_it():
    seeds = [derive("range", index) for index in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 0.99 * 2**63
    assert min(seeds) < 0.01 * 2**63


def test_near_names_have_distinct_seeds():
    names = [
        *product((0, 1, -1, 10, 11, "0", "1", "a", ""), repeat=2),
        *product((0, 1, "", "a"), repeat=3),
        (0,),
        (1,),
        ("0",),
        ("01",),
        ("0, 1",),
        ("a', 'b",),
        ("a", "b"),
        (),
    ]
    assert len({derive(*name) for name in names}) == len(set(names))


def test_the_order_of_names_matters():
    assert derive(0, 1) != derive(1, 0)
