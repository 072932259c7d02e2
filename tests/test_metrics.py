"""Numbers counted by hand, by brute force, and by scipy's and sacrebleu's own functions."""

from itertools import product
from random import Random

import pytest

from star_exp.metrics import (
    METRICS,
    accuracy,
    by_group,
    coverage,
    distinct_n,
    distinct_share,
    diversity,
    metric,
    sampled,
    sampled_tokens,
    self_bleu,
    training,
    wilson_interval,
)
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


def test_an_interval_without_trials_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)


# What is logged


def test_what_a_phase_logs_by_hand():
    values = sampled("generate", ROLLOUTS, "coverage") | diversity("generate", ROLLOUTS)
    expected = {
        "generate/accuracy": 3 / 6,
        "generate/coverage": 2 / 3,
        "generate/coverage/digits=1": 1.0,
        "generate/coverage/digits=2": 1 / 2,
        "generate/truncated": 1 / 6,
        "generate/unanswered": 1 / 6,
        "generate/tokens": 6 + 6 + 4 * 4,
        "generate/prompt_tokens": 6 * 4,
        "generate/distinct_share": 5 / 6,
        # "49 #" "9 #1" " #13" twice, and "4 #9" "4 #8" "7 #9" "7 #7": 7 of 10
        "generate/distinct_4": 7 / 10,
    }
    assert {name: values.pop(name) for name in expected} == pytest.approx(expected)
    assert list(values) == ["generate/self_bleu"]


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
    both = [rollout(groups={"digits": "1", "operator": "+"}), *ROLLOUTS]
    names = {name for phase, split in ASKED for name in sampled(phase, both, split)}
    names |= set(training(both, both, problems=4))
    for name in names:
        assert metric(name).name.split("/")[:2] == name.split("/")[:2]


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


def test_the_metric_itself_is_not_taken_for_a_group():
    assert metric("dev/accuracy").name == "dev/accuracy"


@pytest.mark.parametrize("name", ["dev/acuracy", "accuracy", "", "dev/loss/digits=4", "dev/"])
def test_an_unknown_name_is_refused_with_the_place_to_register_it(name):
    with pytest.raises(KeyError, match=r"METRICS; register it there"):
        metric(name)


def test_the_page_of_metrics_is_up_to_date():
    from pathlib import Path

    from star_exp.metrics import markdown

    page = Path(__file__).parents[1] / "docs" / "metrics.md"
    assert page.read_text() == markdown(), "python -m star_exp.metrics > docs/metrics.md"
