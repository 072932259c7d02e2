"""Numbers counted by hand, by brute force, and by sacrebleu's own functions."""

from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import combinations, product
from random import Random
from statistics import fmean

import pytest

from star_exp.metrics import (
    METRICS,
    accuracy,
    balance,
    balance_score,
    bootstrap_interval,
    by_group,
    coverage,
    distinct_equations,
    distinct_n,
    distinct_share,
    diversity,
    intervals,
    majorities,
    metric,
    passes,
    per_problem,
    sampled,
    sampled_tokens,
    self_bleu,
    several_passes,
    training,
    wanted,
    wilson_interval,
)
from star_exp.records import Rollout
from tests.rollouts import right, rollout, segment, wrong

ONE, TWO = {"digits": "1"}, {"digits": "2"}
# three problems, two samples each: 3 of 6 right, 2 of 3 solved
ROLLOUTS = [
    right("train/0", "49 #13", groups=ONE, sample=0),
    right("train/0", "49 #13", groups=ONE, sample=1),
    wrong("train/1", "4 #9", groups=TWO, sample=0, answer=None),
    right("train/1", "4 #8", groups=TWO, sample=1, truncated=True),
    wrong("train/2", "7 #9", groups=TWO, sample=0),
    wrong("train/2", "7 #7", groups=TWO, sample=1),
]
# as run.py's report asks for them
ASKED = [
    ("generate", "coverage"),
    ("rationalize", "accuracy"),
    ("dev", "accuracy"),
    ("test", "accuracy"),
    ("ood", "accuracy"),
    ("ood/svamp", "accuracy"),
]


def test_accuracy_is_the_share_of_right_rollouts():
    assert accuracy(ROLLOUTS) == 3 / 6


def test_coverage_is_the_share_of_problems_with_a_right_rollout():
    assert coverage(ROLLOUTS) == 2 / 3


def test_coverage_is_accuracy_with_one_sample_a_problem():
    for pattern in product([right, wrong], repeat=4):
        rollouts = [make(f"train/{place}") for place, make in enumerate(pattern)]
        assert coverage(rollouts) == accuracy(rollouts)


def test_coverage_does_not_depend_on_the_order():
    rng = Random(0)
    for _ in range(20):
        assert coverage(rng.sample(ROLLOUTS, len(ROLLOUTS))) == 2 / 3


def test_groups_part_the_rollouts():
    parts = by_group(ROLLOUTS)
    assert parts == {"digits=1": ROLLOUTS[:2], "digits=2": ROLLOUTS[2:]}


def test_a_rollout_is_in_a_group_of_each_kind():
    both = right("train/0", groups={"operator": "+", "digits": "1"})
    assert by_group([both]) == {"digits=1": [both], "operator=+": [both]}


def test_rollouts_without_groups_are_in_none():
    assert by_group([right("train/0", groups={})]) == {}


def test_forced_tokens_are_not_sampled_tokens():
    made = right("t", segments=[segment("ab"), segment("cde", sampled=False), segment("f")])
    assert sampled_tokens(made) == 3


# Diversity


def test_distinct_share_counts_texts():
    assert distinct_share([(1, 2), (1, 2), (2, 1), (3,)]) == 3 / 4
    assert distinct_share([(1,)] * 5) == 1 / 5


def test_distinct_n_grams_by_hand():
    texts = [(1, 2, 1, 2), (1, 2)]  # 1-grams: 6, of which 2 distinct; 2-grams 12 21 12, 12
    assert distinct_n(texts, 1) == 2 / 6
    assert distinct_n(texts, 2) == 2 / 4


def test_distinct_n_grams_by_brute_force():
    rng = Random(0)
    for n in (1, 2, 3, 4):
        texts = [tuple(rng.choices(range(3), k=rng.randint(0, 9))) for _ in range(8)]
        grams = [text[i : i + n] for text in texts for i in range(len(text)) if i + n <= len(text)]
        assert distinct_n(texts, n) == pytest.approx(len(set(grams)) / len(grams))


def test_texts_shorter_than_n_have_no_n_grams():
    assert distinct_n([(1, 2), ()], 4) == 0


def test_self_bleu_of_identical_texts_is_one():
    assert self_bleu([(1, 2, 3, 4, 5)] * 6) == pytest.approx(1.0)


def test_self_bleu_of_texts_that_share_nothing_is_near_zero():
    texts = [tuple(range(start, start + 10)) for start in range(0, 100, 10)]
    value = self_bleu(texts)
    assert value is not None
    assert value < 0.01


def test_self_bleu_by_hand():
    """4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours, both ways: (1/5) ** (1/4)."""
    assert self_bleu([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6)]) == pytest.approx(0.2**0.25)


def test_self_bleu_is_sacrebleus_sentence_bleu_against_all_others():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = Random(1)
    texts = [tuple(rng.choices(range(10), k=rng.randint(5, 20))) for _ in range(12)]
    lines = [" ".join(f"{token}" for token in text) for text in texts]
    scores = [
        sacrebleu.sentence_bleu(
            line, [other for j, other in enumerate(lines) if j != i], tokenize="none"
        ).score
        for i, line in enumerate(lines)
    ]
    assert self_bleu(texts) == pytest.approx(sum(scores) / len(scores) / 100)


def test_self_bleu_is_of_whole_tokens_and_not_of_digits():
    """11 and 1 1 are other tokens, though the same characters."""
    assert self_bleu([(11, 11, 11, 11), (1, 1, 1, 1)]) == pytest.approx(0, abs=0.01)


def test_self_bleu_needs_two_texts():
    assert self_bleu([]) is None
    assert self_bleu([(1, 2, 3)]) is None


def test_self_bleu_of_empty_texts_is_a_number():
    value = self_bleu([(), (), (1, 2, 3)])
    assert value is not None
    assert 0 <= value <= 1


def test_self_bleu_of_many_texts_is_the_same_each_time_and_in_range():
    rng = Random(2)
    texts = [tuple(rng.choices(range(50), k=12)) for _ in range(500)]
    value = self_bleu(texts)
    assert value == self_bleu(list(texts))
    assert value is not None
    assert 0 <= value <= 1


def test_distinct_equations_of_a_problem_by_hand():
    """a: 1+1=2 three times and 2+1=3, b: each of two once; wrong texts and none don't count."""
    rollouts = [
        right("a", "1+1=2:2+1\n2+1=3\n#3"),
        right("a", "1+1=2:2+1\n1+1=2\n#3", sample=1),
        wrong("a", "5+5=11", sample=2),
        right("a", "6+6=12", truncated=True, sample=3),
        replace(right("a", "7+7=14", sample=4), failed="OSError"),
        right("b", "so <<1+1=2>>2 and <<2*3=6>>6"),
        right("b", "#3", sample=1),
        right("c", "it is 8"),
        wrong("d", "1+1=3"),
    ]
    assert distinct_equations(rollouts) == {"a": 2 / 4, "b": 1.0}


def test_the_same_equation_of_two_problems_is_two():
    """Per problem and not pooled: pooled it would be 1 of 2."""
    rollouts = [right("a", "1+1=2"), right("b", "1+1=2")]
    assert distinct_equations(rollouts) == {"a": 1.0, "b": 1.0}


def test_distinct_equations_are_logged_where_there_are_several_samples_with_equations():
    several = [right("a", "1+1=2"), right("a", "1+1=2", sample=1)]
    assert sampled("generate", several, "coverage")["generate/distinct_equations"] == 1 / 2
    for rollouts in (
        several[:1],  # of one sample it would be 1
        [right("a", "#8"), right("a", "so it is 8", sample=1)],
        [wrong("a", "1+1=2"), wrong("a", "1+1=2", sample=1)],
        [right("a", "1+1=2", truncated=True), wrong("a", sample=1)],
    ):
        assert "generate/distinct_equations" not in sampled("generate", rollouts, "coverage")


# Balance score


def by_the_papers_formula(selected: list[Rollout], problems: int, wanted: int) -> float:
    """B-STaR, eq. 3, problem by problem."""
    texts, right_ones = defaultdict(list), defaultdict(set)
    for each in selected:
        texts[each.problem].append(each.text)
        right_ones[each.problem] |= {each.text} if each.correct else set()
    scores = []
    for problem, of in texts.items():
        n, unique = len(of), len(right_ones[problem])
        scores.append((unique / wanted if unique < wanted else 1) * (unique / n))
    return sum(scores) / problems


@pytest.mark.parametrize(
    ("selected", "right_ones", "wanted", "expected"),
    [
        (6, 6, 6, 1.0),
        (3, 3, 6, 1 / 2),
        (6, 3, 6, 1 / 2 * 1 / 2),
        (12, 12, 6, 1.0),  # more than are wanted count no more
        (12, 9, 6, 9 / 12),
        (4, 0, 6, 0.0),
        (0, 0, 6, 0.0),
    ],
)
def test_the_balance_score_of_a_problem_by_hand(selected, right_ones, wanted, expected):
    assert balance_score(selected, right_ones, wanted) == pytest.approx(expected)


def test_the_balance_score_counts_a_right_text_once():
    """Three right ones, two of them the same: n' = 2, n = 4, as all that were selected count."""
    selected = [right("a", "1 #8"), right("a", "1 #8"), right("a", "2 #8"), wrong("a")]
    assert balance(selected, 1, wanted=2) == 1.0 * 2 / 4
    assert balance(selected, 1, wanted=4) == 2 / 4 * 2 / 4


def test_the_same_text_for_another_problem_is_another():
    assert balance([right("a", "#8"), right("b", "#8")], 2, wanted=1) == 1.0


def test_the_balance_score_is_capped_for_each_problem():
    """One problem has more than enough and one too few: pooled, they would be enough."""
    many = [right("a", f"{n} #8") for n in range(7)]
    assert balance([*many, right("b")], 2, wanted=4) == (1 + 1 / 4) / 2


def test_the_balance_score_is_a_mean_over_problems_and_not_of_what_is_pooled():
    """1 of 1 and 1 of 4: 5/8 each problem alike, and pooled 2 of 5."""
    selected = [right("a"), right("b"), *(wrong("b", f"{n}") for n in range(3))]
    assert balance(selected, 2, wanted=1) == (1 + 1 / 4) / 2


def test_n_is_what_was_selected_and_not_what_was_sampled():
    """To drop a wrong one raises it, though as many were sampled."""
    sampled_ones = [right("a"), *(wrong("a", f"{n}") for n in range(3))]
    assert balance(sampled_ones, 1, wanted=1) == 1 / 4
    assert balance(sampled_ones[:2], 1, wanted=1) == 1 / 2
    assert balance(sampled_ones[:1], 1, wanted=1) == 1.0


def test_problems_of_which_nothing_was_selected_count_0_or_are_left_out():
    assert balance([right("a")], 4, wanted=1) == 1 / 4
    assert balance([right("a")], 4, wanted=1, empty="left_out") == 1.0
    assert balance([], 4, wanted=1) == balance([], 4, wanted=1, empty="left_out") == 0.0


def test_what_was_cut_off_is_not_right_and_what_failed_was_not_selected():
    selected = [right("a"), right("a", "1 #8", truncated=True), failed("a")]
    assert balance(selected, 1, wanted=1) == 1 / 2
    assert balance([failed("b")], 1, wanted=1) == 0.0


def test_the_balance_score_is_that_of_the_papers_formula():
    rng = Random(4)
    for _ in range(50):
        selected = [
            rng.choice([right, wrong])(f"train/{rng.randrange(9)}", f"{rng.randrange(5)} #8")
            for _ in range(rng.randrange(40))
        ]
        for enough in (1, 3, 6):
            expected = by_the_papers_formula(selected, 10, enough)
            assert balance(selected, 10, enough) == pytest.approx(expected)
            assert balance(selected[::-1], 10, enough) == pytest.approx(expected)


def test_what_is_wanted_of_a_problem_is_rounded_up():
    assert wanted(67_500, 11_500) == wanted(13_500, 2_627) == 6  # MATH and APPS
    assert wanted(12, 4) == 3 and wanted(13, 4) == 4 and wanted(1, 100) == 1


def test_counts_that_cannot_be_of_a_balance_score_are_refused():
    with pytest.raises(ValueError, match="3 right of 2 selected"):
        balance_score(2, 3, 1)
    with pytest.raises(ValueError, match="0 wanted"):
        balance_score(2, 1, 0)
    with pytest.raises(ValueError, match="2 problems among the selected, of 1 that"):
        balance([right("a"), right("b")], 1, wanted=1)
    with pytest.raises(ValueError, match="0 samples of 5 problems"):
        wanted(0, 5)


# Several samples, and intervals


def test_pass_and_majority_of_each_problem_by_hand():
    """2 of 2 right; 1 of 2, which was cut off and doesn't vote; 0 of 2."""
    assert passes(ROLLOUTS, 1) == {"train/0": 1, "train/1": 1 / 2, "train/2": 0}
    assert passes(ROLLOUTS, 2) == {"train/0": 1, "train/1": 1, "train/2": 0}
    cut = replace(ROLLOUTS[3], correct=False)  # as it is judged: a text cut off is not right
    rollouts = [*ROLLOUTS[:3], cut, *ROLLOUTS[4:]]
    assert majorities(rollouts, 2) == {"train/0": 1, "train/1": 0, "train/2": 0}


def test_a_problem_with_too_few_samples_is_an_error_and_not_left_out():
    for of in (passes, majorities):
        with pytest.raises(ValueError, match="k=3 of 2 samples"):
            of([right("train/3", sample=sample) for sample in range(4)] + ROLLOUTS, 3)


def failed(problem: str, **more) -> Rollout:
    return replace(wrong(problem, answer=None, **more), failed="TimeoutError: 2 s")


def test_what_could_not_be_judged_is_neither_right_nor_wrong():
    """One right and one failed, then one wrong and three failed: 1 of 2 judged, of 2 problems."""
    rollouts = [right("dev/0", groups=ONE), failed("dev/0", groups=ONE, sample=1)]
    rollouts += [wrong("dev/1", groups=TWO), failed("dev/1", groups=TWO, sample=1)]
    unknown = [failed("dev/2", groups={"digits": "3"}, sample=n) for n in range(2)]
    for all_of_them in (rollouts, [*rollouts, *unknown]):
        assert accuracy(all_of_them) == coverage(all_of_them) == 1 / 2
        assert passes(all_of_them, 1) == passes(all_of_them, 2) == {"dev/0": 1, "dev/1": 0}
        assert majorities(all_of_them, 2) == {"dev/0": 1, "dev/1": 0}
        values = sampled("dev", all_of_them, "accuracy")
        assert values["dev/accuracy"] == values["dev/pass@2"] == 1 / 2
        assert intervals("dev", all_of_them)["dev/pass@2"] == bootstrap_interval([1, 0])
        assert "dev/accuracy/digits=3" not in values
        assert [*per_problem(all_of_them)["accuracy"]] == ["dev/0", "dev/1"]
        assert not several_passes(all_of_them, 2, 2)  # of none are two judged
    alone = sampled("dev", unknown, "accuracy")
    assert alone["dev/check_failed"] == 1 and "dev/accuracy" not in alone
    assert accuracy(unknown) == coverage(unknown) == 0 and intervals("dev", unknown) == {}
    trained = training([*rollouts, *unknown], [], 3)
    assert trained == {
        "train/coverage": 1 / 2,
        "train/coverage/digits=1": 1.0,
        "train/coverage/digits=2": 0.0,
    }


@pytest.mark.parametrize(
    ("gold", "right_ones", "wrong_ones", "expected"),
    [
        ("1/2", ["1/2", "0.50", ".5"], ["2", "2"], 1),
        ("def f(): pass", ["def f(): 1", "def f(): 2", "def f(): 3"], ["def f(): 4"] * 2, 0),
        ("883", ["883"], ["7.0", "7"], 0),  # two ways to write a wrong number
        ("Paris", ["paris"], ["New  York", "new york"], 0),
    ],
)
def test_an_answer_has_the_votes_of_all_ways_to_write_it(gold, right_ones, wrong_ones, expected):
    made = [right("dev/0", answer=answer) for answer in right_ones]
    made += [wrong("dev/0", answer=answer) for answer in wrong_ones]
    rollouts = [replace(each, gold=gold, sample=n) for n, each in enumerate(made)]
    assert majorities(rollouts, len(rollouts)) == {"dev/0": expected}


def test_one_sample_is_neither_pass_nor_majority():
    for rollouts in (ROLLOUTS[::2], [*ROLLOUTS, right("train/3")]):  # also where one has but one
        assert not [name for name in sampled("dev", rollouts, "accuracy") if "@" in name]


def test_several_samples_are_measured_for_powers_of_two_and_all():
    rollouts = [right("dev/0", f"{n} #8", sample=n) for n in range(6)]
    rollouts += [wrong("dev/1", sample=n) for n in range(7)]
    values = sampled("dev", rollouts, "accuracy")
    names = [f"{what}@{k}" for what in ("pass", "majority") for k in (1, 2, 4, 6)]
    assert {name: value for name, value in values.items() if "@" in name} == {
        f"dev/{name}": 1 / 2 for name in [*names, "pass@4-4", "pass@6-4"]
    }


def test_right_ones_with_the_same_text_are_one():
    """4 of 5 are right. Of 3 texts there are never 4; of 4 texts in one of the 5 subsets of 4."""
    for last, expected in (("3 #8", 0.0), ("4 #8", 1 / 5)):
        texts = ["1 #8", "2 #8", "3 #8", last]
        rollouts = [right("dev/0", text, sample=n) for n, text in enumerate(texts)]
        rollouts.append(wrong("dev/0", sample=4))
        values = sampled("dev", rollouts, "accuracy")
        assert values["dev/pass@4-4"] == pytest.approx(expected)
        assert values["dev/pass@4"] == 1.0
        assert intervals("dev", rollouts)["dev/pass@4-4"] == (expected, expected)


def test_several_right_ones_are_the_mean_over_all_subsets_of_each_problem():
    rng = Random(5)
    rollouts = [
        rng.choice([right, right, wrong])(f"dev/{n % 3}", f"{rng.randrange(4)} #8", sample=n // 3)
        for n in range(18)
    ]
    parts = [[each for each in rollouts if each.problem == f"dev/{n}"] for n in range(3)]
    for k, s in ((2, 2), (4, 3), (6, 4)):
        expected = [
            fmean(len({r.text for r in of if r.correct}) >= s for of in combinations(part, k))
            for part in parts
        ]
        assert [*several_passes(rollouts, k, s).values()] == pytest.approx(expected)


def test_what_was_cut_off_is_not_one_of_several_right_ones():
    rollouts = [right("dev/0", f"{n} #8", sample=n, truncated=n == 0) for n in range(4)]
    assert several_passes(rollouts, 4, 4) == {"dev/0": 0.0}
    assert several_passes(rollouts, 4, 3) == {"dev/0": 1.0}


def test_a_problem_with_too_few_judged_for_several_right_ones_is_left_out():
    rollouts = [right("a", f"{n} #8", sample=n) for n in range(4)]
    rollouts += [*(right("b", f"{n} #8", sample=n) for n in range(3)), failed("b", sample=3)]
    assert several_passes(rollouts, 4, 4) == {"a": 1.0}
    assert sampled("dev", rollouts, "accuracy")["dev/pass@4-4"] == 1.0
    assert "dev/pass@4-4" not in sampled("dev", rollouts[4:], "accuracy")


def test_pass_at_1_majority_at_1_and_accuracy_are_one_number_and_coverage_is_pass_at_n():
    rng = Random(3)
    for _ in range(20):
        rollouts = [
            rng.choice([right, wrong])(f"dev/{problem}", sample=sample)
            for problem in range(5)
            for sample in range(4)
        ]
        values = sampled("dev", rollouts, "coverage")
        assert values["dev/pass@1"] == values["dev/majority@1"]
        assert values["dev/pass@1"] == pytest.approx(values["dev/accuracy"])
        assert values["dev/pass@4"] == pytest.approx(values["dev/coverage"])
        assert values["dev/pass@1"] <= values["dev/pass@2"] <= values["dev/pass@4"]


def test_each_problem_counts_the_same_whatever_its_number_of_samples():
    rollouts = [right("dev/0", sample=n) for n in range(6)]
    rollouts += [wrong("dev/1", sample=n) for n in range(2)]
    assert sampled("dev", rollouts, "accuracy")["dev/pass@1"] == 1 / 2
    assert accuracy(rollouts) == 6 / 8


def test_values_of_each_problem_have_the_logged_ones_as_mean():
    values, means = per_problem(ROLLOUTS), sampled("dev", ROLLOUTS, "accuracy")
    assert list(values) == [
        *("accuracy", "lenient_accuracy", "pass@1", "pass@2", "majority@1", "majority@2")
    ]
    for name, of in values.items():
        assert list(of) == ["train/0", "train/1", "train/2"]
        assert sum(of.values()) / 3 == pytest.approx(means[f"dev/{name}"])


def test_the_interval_of_single_samples_is_wilsons_by_group_too():
    rollouts = [right(f"test/{n}", groups=ONE) for n in range(8)]
    rollouts += [wrong(f"test/{n}", groups=TWO) for n in range(8, 20)]
    assert intervals("test", rollouts) == {
        "test/accuracy": wilson_interval(8, 20),
        "test/lenient_accuracy": wilson_interval(0, 20),
        "test/accuracy/digits=1": wilson_interval(8, 8),
        "test/accuracy/digits=2": wilson_interval(0, 12),
    }


def test_the_interval_of_several_samples_is_the_bootstraps():
    found = intervals("dev", ROLLOUTS)
    assert found["dev/accuracy"] == bootstrap_interval([1, 1 / 2, 0])
    assert found["dev/pass@2"] == bootstrap_interval([1, 1, 0])
    assert found["dev/accuracy/digits=2"] == bootstrap_interval([1 / 2, 0])
    means = sampled("dev", ROLLOUTS, "accuracy")
    assert set(found) <= set(means)
    assert all(low - 1e-9 <= means[name] <= high + 1e-9 for name, (low, high) in found.items())


def test_no_rollouts_have_no_intervals():
    assert intervals("dev", []) == {}


# What is logged


def test_what_a_phase_logs_by_hand():
    failed = [replace(rollout, failed="TimeoutError: 2 s") for rollout in ROLLOUTS[4:]]
    rollouts = [replace(ROLLOUTS[0], lenient=True), *ROLLOUTS[1:4], *failed]
    values = sampled("generate", rollouts, "coverage") | diversity("generate", rollouts)
    expected = {
        "generate/problems": 3,
        "generate/accuracy": 3 / 4,  # of those that were judged
        "generate/coverage": 2 / 2,
        "generate/coverage/digits=1": 1.0,
        "generate/coverage/digits=2": 1.0,
        "generate/truncated": 1 / 6,
        "generate/unanswered": 1 / 6,
        "generate/lenient_accuracy": 1 / 4,
        "generate/check_failed": 2 / 6,
        "generate/length": (6 + 6 + 4 * 4) / 6,
        "generate/pass@1": 3 / 4,
        "generate/pass@2": 2 / 2,
        "generate/majority@1": 1 / 2,  # what was cut off doesn't vote
        "generate/majority@2": 1 / 2,
        "generate/tokens": 6 + 6 + 4 * 4,
        "generate/prompt_tokens": 6 * 4,
        "generate/distinct_share": 5 / 6,
        # "49 #" "9 #1" " #13" twice, and "4 #9" "4 #8" "7 #9" "7 #7": 7 of 10
        "generate/distinct_4": 7 / 10,
    }
    assert {name: values.pop(name) for name in expected} == pytest.approx(expected)
    assert list(values) == ["generate/self_bleu"]


def test_the_length_counts_forced_tokens_and_the_tokens_do_not():
    made = right("t", segments=[segment("ab"), segment("cde", sampled=False), segment("f")])
    values = sampled("dev", [made, made], "accuracy")
    assert (values["dev/length"], values["dev/tokens"]) == (6, 6)


def test_an_evaluation_logs_its_accuracy_by_group():
    values = sampled("dev", ROLLOUTS, "accuracy")
    assert values["dev/accuracy/digits=1"] == 1.0
    assert values["dev/accuracy/digits=2"] == 1 / 4
    assert "dev/coverage" not in values


def test_a_phase_that_did_not_run_logs_nothing():
    for phase, split in ASKED:
        assert sampled(phase, [], split) == {}


def test_a_single_rollout_has_no_self_bleu():
    values = sampled("dev", ROLLOUTS[:1], "accuracy")
    assert "dev/self_bleu" not in values
    assert values["dev/accuracy"] == 1.0


def test_coverage_of_training_is_that_of_both_ways_together():
    hinted = [
        right("train/2", groups=TWO, phase="rationalize"),
        wrong("train/1", groups=TWO, phase="rationalize"),
    ]
    assert training(ROLLOUTS, hinted, problems=3) == pytest.approx(
        {
            "train/coverage": 1.0,
            "train/coverage/digits=1": 1.0,
            "train/coverage/digits=2": 1.0,
            "rationalize/coverage": 1 / 3,
        }
    )


def test_without_rationalization_its_coverage_is_absent_and_not_zero():
    values = training(ROLLOUTS, [], problems=3)
    assert "rationalize/coverage" not in values
    assert values["train/coverage"] == 2 / 3


def test_everything_that_is_logged_is_registered():
    of_both = {"digits": "1", "operator": "+"}
    more = [
        rollout(f"train/{problem}", f"{sample}+1={sample + 1}", groups=of_both, sample=sample)
        for problem in range(3)
        for sample in (2, 3)
    ]
    both = [*more, *ROLLOUTS]
    names = {name for phase, split in ASKED for name in sampled(phase, both, split)}
    names |= set(training(both, both, problems=4))
    assert {"dev/pass@4-4", "generate/distinct_equations", "ood/svamp/pass@4-4"} <= names
    assert {"dev/pass@2", "ood/svamp/majority@2", "ood/svamp/accuracy/operator=+"} <= names
    for name in names:
        assert fnmatchcase(name, metric(name).name)
        assert metric(name).name.count("/") == name.count("/")


# The registry


def test_no_name_is_registered_twice():
    names = [candidate.name for candidate in METRICS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("registered", METRICS, ids=lambda registered: registered.name)
def test_a_metric_says_what_it_is(registered):
    assert registered.better in {"up", "down", ""}
    assert registered.unit
    assert len(registered.meaning) > 10
    assert registered.axis in {"iteration", "trainer/global_step"}
    assert metric(registered.name) == registered


def test_a_group_is_found_by_its_pattern():
    assert metric("dev/accuracy/digits=4").name == "dev/accuracy/*"
    assert metric("train/coverage/operator=+").name == "train/coverage/*"


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("dev/pass@4", "dev/pass@*"),
        ("dev/pass@16-4", "dev/pass@*-*"),
        ("ood/svamp/pass@128-4", "ood/*/pass@*-*"),
        ("dev/reward@32-4/dpo", "dev/reward@*-*/*"),
        ("dev/reward@32-4/likelihood", "dev/reward@*-*/*"),
        ("test/distinct_equations", "test/distinct_equations"),
        ("balance/score", "balance/score"),
        ("balance/score/temperature=0.8", "balance/score/*"),
        ("generate/majority@16", "generate/majority@*"),
        ("ood/svamp/accuracy", "ood/*/accuracy"),
        ("ood/svamp/pass@2", "ood/*/pass@*"),
        ("ood/svamp/accuracy/steps=2", "ood/*/accuracy/*"),
        ("ood/accuracy/digits=6", "ood/accuracy/*"),
        ("faithful/early_answering/quarter=1", "faithful/early_answering/*"),
        ("general/perplexity_change", "general/perplexity_change"),
    ],
)
def test_a_name_is_found_by_its_pattern(name, registered):
    assert metric(name).name == registered


def test_the_metric_itself_is_not_taken_for_a_group():
    assert metric("dev/accuracy").name == "dev/accuracy"


@pytest.mark.parametrize(
    "name",
    ["dev/acuracy", "accuracy", "", "dev/loss/digits=4", "dev/", "dev/pass@", "ood/a/b/accuracy"],
)
def test_an_unknown_name_is_refused_with_the_place_to_register_it(name):
    with pytest.raises(KeyError, match=r"METRICS; register it there"):
        metric(name)


def test_the_page_of_metrics_is_up_to_date():
    from pathlib import Path

    from star_exp.metrics import markdown

    page = Path(__file__).parents[1] / "docs" / "metrics.md"
    assert page.read_text() == markdown(), "python -m star_exp.metrics > docs/metrics.md"
