"""Which rollouts are trained on, by hand and by slower ways to the same."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from random import Random

import pytest

from star_exp.equations import equations
from star_exp.errors import UserError
from star_exp.filters import (
    Agreement,
    AtMost,
    Correct,
    Difficulty,
    Distinct,
    DistinctEquations,
    Diverse,
    EquationsHold,
    edit_distance,
)
from star_exp.records import Rollout
from tests.rollouts import right, wrong

A, B = "train/0", "train/1"
FILTERS = [
    Correct(),
    Distinct(),
    AtMost(2),
    Agreement(),
    Difficulty(0.2, 0.8),
    EquationsHold(),
    DistinctEquations(),
    DistinctEquations("farthest"),
    Diverse(2),
]


def samples(problem: str, marks: str, **more) -> list[Rollout]:
    """samples(A, "++-?"): samples of a problem, two right, one wrong, one that wasn't judged."""
    made = [
        (right if mark == "+" else wrong)(problem, sample=number, **more)
        for number, mark in enumerate(marks)
    ]
    marked = zip(made, marks, strict=True)
    return [replace(each, failed="hung") if mark == "?" else each for each, mark in marked]


def texts(problem: str, *written: str) -> list[Rollout]:
    return [right(problem, text, sample=number) for number, text in enumerate(written)]


def said(rollouts: list[Rollout]) -> list[str]:
    return [rollout.text for rollout in rollouts]


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


@pytest.mark.parametrize("filter_", [AtMost, Diverse])
@pytest.mark.parametrize("number", [0, -1])
def test_at_most_none_is_refused(filter_, number):
    with pytest.raises(ValueError, match=rf"per_problem={number}\): expected at least 1"):
        filter_(number)


# Agreement and difficulty


def test_agreement_keeps_the_problems_most_of_whose_samples_are_right():
    first, second = samples(A, "++-+"), samples(B, "+---")
    assert Agreement()([*first, *second]) == first


def test_agreement_leaves_the_wrong_ones_to_correct():
    rollouts = samples(A, "++-")
    assert Correct()(Agreement()(rollouts)) == rollouts[:2]


def test_half_of_the_samples_are_not_more_than_half():
    assert Agreement(0.5)(samples(A, "+-+-")) == []
    assert Agreement(0.4)(samples(A, "+-+-")) == samples(A, "+-+-")


@pytest.mark.parametrize("number", range(1, 30))
def test_exactly_the_share_is_not_more_than_it(number):
    """29 of 100 are not more than 0.29, though 0.29 * 100 is 28.999999999999996."""
    rollouts = samples(A, "+" * number + "-" * (100 - number))
    assert Agreement(number / 100)(rollouts) == []


def test_hinted_samples_do_not_agree_with_unhinted_ones():
    unhinted, hinted = samples(A, "+---"), samples(A, "++++", phase="rationalize")
    assert Agreement()([*unhinted, *hinted]) == hinted


def test_a_sample_that_was_dropped_before_counts_as_not_right():
    """Two right of four, whether or not the wrong ones are there to be counted."""
    rollouts = [*samples(A, "+--+"), *samples(B, "-+++")]
    kept = [rollout for rollout in rollouts if rollout.problem == B and rollout.correct]
    assert Correct()(Agreement()(rollouts)) == Agreement()(Correct()(rollouts)) == kept


def test_agreement_of_one_sample_is_void_and_says_which_setting_to_raise():
    with pytest.raises(UserError, match=r"1 sample.* in generate .*callbacks\.generate\.samples"):
        Agreement()([*samples(A, "+"), *samples(B, "-")])


def test_agreement_names_the_phase_that_draws_too_few():
    rollouts = [*samples(A, "+++"), *samples(B, "+", phase="rationalize")]
    with pytest.raises(UserError, match=r"callbacks\.rationalize\.samples"):
        Agreement()(rollouts)


def test_agreement_of_fewer_samples_than_asked_for_is_void_too():
    with pytest.raises(UserError, match="needs 4 or more"):
        Agreement(least=4)(samples(A, "+++"))


def test_what_could_not_be_judged_is_no_vote_against_a_problem():
    """One right and one wrong of four say half; with the third failed and the fourth right, 2/3."""
    rollouts = [*samples(A, "+-?+"), *samples(B, "+???"), *samples("train/2", "----")]
    assert Agreement()(rollouts) == rollouts[:4]  # of B a single one is known
    assert Difficulty(least=0.6, most=0.7)(rollouts) == rollouts[:4]
    assert Difficulty(least=1.0)(rollouts) == rollouts[4:8]


def test_solutions_that_no_model_sampled_need_no_agreement():
    solved, drawn = samples(A, "+", phase="solutions"), samples(B, "+--")
    assert Agreement()([*solved, *drawn]) == solved


@pytest.mark.parametrize("settings", [{"share": 1.0}, {"share": 50}, {"share": -1}, {"least": 1}])
def test_agreement_that_could_keep_nothing_or_everything_is_refused(settings):
    with pytest.raises(ValueError, match="expected a share"):
        Agreement(**settings)


def test_difficulty_keeps_the_problems_with_a_pass_rate_in_the_range():
    easy, middling, hard = samples(A, "++++"), samples(B, "+-+-"), samples("train/2", "+---")
    rollouts = [*easy, *middling, *hard]
    assert Difficulty(0.5, 0.75)(rollouts) == middling
    assert Difficulty(0.25, 0.5)(rollouts) == [*middling, *hard]
    assert Difficulty(most=0.9)(rollouts) == [*middling, *hard]


def test_a_rationalized_rollout_is_as_difficult_as_its_problem_without_the_hint():
    rollouts = [*samples(A, "--"), *samples(B, "++"), *samples(A, "+", phase="rationalize")]
    assert Difficulty(most=0.5)(rollouts) == [rollouts[0], rollouts[1], rollouts[4]]


def test_a_range_of_difficulty_that_is_none_is_refused():
    with pytest.raises(ValueError, match="expected 0 <= least <= most <= 1"):
        Difficulty(0.6, 0.5)


# Equations that hold


@pytest.mark.parametrize(
    "annotation",
    [
        "48/2=24",
        " 48 / 2 = 24 ",
        "2*(3+4)-1=13",
        ".05*100=5",
        "10/3=3.3333",
        "1,000-50=950",
        "50%*80=40",
        "80/50%=160",
        "-3+5=2",
        "+3+3=6",
        "2--3=5",
        "12=3*4",
        "2+3=5=10/2",
        "0.1+0.2=0.3",
        "100000000000000000001*3=300000000000000000003",
    ],
)
def test_an_equation_that_is_true_holds(annotation):
    rollouts = texts(A, f"so <<{annotation}>> it is")
    assert EquationsHold()(rollouts) == rollouts


@pytest.mark.parametrize(
    "annotation",
    [
        *("48/2=25", "10/3=3.33", "2+3=5=6", "2+2=4.002"),
        *("48/2", "", "=", "24=", "=24", "x=24", "2x=4", "2(3)=6", "(1+2=3", "1,5+1=16"),
        *("1/0=0", "5/(2-2)=5", "7//2=3", "2**3=8", "7%2=1", "9**9**9**9=1", "..=.."),
        "__import__('os')=0",
        "1" * 500 + "=" + "1" * 500,
        "+".join("1" * 200) + "=200",
        "(" * 150 + "1" + ")" * 150 + "=1",
    ],
)
def test_an_equation_that_is_false_or_none_does_not_hold(annotation):
    assert EquationsHold()(texts(A, f"so <<{annotation}>> it is")) == []


def test_one_false_equation_is_enough_to_drop_a_rationale():
    assert EquationsHold()(texts(A, "<<1+1=2>> and <<1+2=4>>")) == []


def test_a_rationale_without_annotations_passes():
    rollouts = texts(A, "no equation", "a plain 2+2=5", "an open <<2+2=5")
    assert EquationsHold()(rollouts) == rollouts


def test_the_tolerance_is_a_setting():
    rollouts = texts(A, "<<10/3=3.33>>")
    assert EquationsHold(0.01)(rollouts) == rollouts


def test_expressions_have_the_value_that_python_gives_them():
    rng = Random(0)

    def expression(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(["3", "12", "0.5", ".25", "7.", "100"])
        left, right = expression(depth - 1), expression(depth - 1)
        return rng.choice(["{}+{}", "{}-{}", "{}*{}", "{}/{}", "({}+{})", "({}-{})"]).format(
            left, right
        )

    for _ in range(300):
        written = expression(3)
        try:
            value = eval(written)
        except ZeroDivisionError:
            continue
        near, off = (f"{value + more:.12f}" for more in (0, 0.01))
        rollouts = texts(A, f"<<{written}={near}>>", f"<<{written}={off}>>")
        assert EquationsHold()(rollouts) == rollouts[:1]


# Distinct equations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17+25=42:4+8+42\n4+8=12:42+12\n42+12=54\n#54", ["17+25=42", "4+8=12", "42+12=54"]),
        ("1+1=2\n1+1=2", ["1+1=2", "1+1=2"]),
        ("3 x $4 = <<3*4=12>>12, so << 12 - 2 = 10 >>", ["3*4=12", "12-2=10"]),
        ("They pay 3 x $4 = $12. Of 20 there are 20 - 12 = 8 left.", ["3*4=12", "20-12=8"]),
        ("2 + 5 , 3 C: 1", []),
        ("49 #13", []),
        ("x = 8 and 8 = x", []),
        ("", []),
    ],
)
def test_the_equations_of_a_text(text, expected):
    assert equations(text) == expected


def test_rationales_with_the_same_annotations_are_one():
    rollouts = texts(A, "Ann has <<3*4=12>>12.", "They are << 3 * 4 = 12 >>12.", "<<4*3=12>>12")
    assert DistinctEquations()(rollouts) == [rollouts[0], rollouts[2]]


def test_the_order_of_equations_tells_rationales_apart():
    rollouts = texts(A, "<<1+1=2>> <<2+2=4>>", "<<2+2=4>> <<1+1=2>>", "<<1+1=2>>, <<2+2=4>>")
    assert DistinctEquations()(rollouts) == rollouts[:2]


def test_plain_equations_count_where_there_are_no_annotations():
    rollouts = texts(
        A,
        "Ann pays 3 x $4 = $12.",
        "So 3*4=12 dollars.",
        "So 12/3=4, and that is it.",
        "It's 12 \u00f7 3 = 4",
        "It's 12 \u2212 3 = 9",
    )
    assert DistinctEquations()(rollouts) == [rollouts[0], rollouts[2], rollouts[4]]


def test_annotations_go_before_what_is_written_around_them():
    rollouts = texts(A, "3*4 = <<3*4=12>>12", "that makes 12 = <<3*4=12>>12")
    assert DistinctEquations()(rollouts) == rollouts[:1]


def test_rationales_without_equations_are_told_apart_by_their_texts():
    rollouts = texts(A, "#8", "it is 8", "#8", "x = 8")
    assert said(DistinctEquations()(rollouts)) == ["#8", "it is 8", "x = 8"]


def test_equations_of_another_question_are_others():
    rollouts = [right(A, "<<2+6=8>>"), right(B, "<<2+6=8>>", question="how many are 2 and 6?")]
    assert DistinctEquations()(rollouts) == rollouts


def test_the_farthest_takes_the_place_of_the_first_by_hand():
    """From <<2*1=2>>b, alone of another kind, <<1+1=2>>b differs in 2 characters, the 3rd in 6."""
    rollouts = texts(A, "<<1+1=2>>b", "<<2*1=2>>b", "<<1+1=2>>very", "<<1+1=2>>c")
    assert said(DistinctEquations("farthest")(rollouts)) == ["<<2*1=2>>b", "<<1+1=2>>very"]


def test_of_one_kind_alone_the_first_stays_the_farthest():
    rollouts = texts(A, "<<1+1=2>>", "and so it is <<1+1=2>>")
    assert DistinctEquations("farthest")(rollouts) == rollouts[:1]


def released(written: list[str]) -> list[str]:
    """The rationales that RFT keeps, in the words of its released code, with the table distance."""
    keys: list[list[str]] = []
    kept: list[str] = []
    for new in written:
        key = [part.split(">>")[0].replace(" ", "") for part in new.split("<<")[1:]]
        if key not in keys:
            keys.append(key)
            kept.append(new)
            continue
        old = kept[keys.index(key)]
        others = [text for text in kept if text != old]
        if sum(table_distance(new, x) for x in others) > sum(
            table_distance(old, x) for x in others
        ):
            kept[keys.index(key)] = new
    return kept


def table_distance(a: str, b: str) -> int:
    """Wagner and Fischer 1974, the whole table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return table[-1][-1]


def test_the_farthest_are_those_of_the_released_code():
    rng = Random(0)
    changed = 0
    for _ in range(60):
        written = [
            f"<<{rng.choice(['1+1=2', '2*1=2', '4/2=2'])}>>" + "".join(rng.choices("ab", k=k))
            for k in rng.choices(range(6), k=8)
        ]
        rollouts = texts(A, *written)
        farthest = said(DistinctEquations("farthest")(rollouts))
        assert sorted(farthest) == sorted(released(written))
        changed += farthest != said(DistinctEquations("first")(rollouts))
    assert changed > 30


def test_the_edit_distance_is_that_of_the_table():
    rng = Random(0)
    for _ in range(300):
        a, b = ("".join(rng.choices("abc\u00e9", k=rng.randint(0, 12))) for _ in range(2))
        assert edit_distance(a, b) == table_distance(a, b)
    a, b = ("".join(rng.choices("ab ", k=150)) for _ in range(2))  # more than a machine word
    assert edit_distance(a, b) == table_distance(a, b)


def test_the_edit_distance_of_the_textbook():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("intention", "execution") == 5


# Diverse


def test_diverse_keeps_the_first_and_the_farthest_from_it():
    rollouts = texts(A, "abcdef", "abcdeg", "uvwxyz", "abcxyz")
    assert said(Diverse(2)(rollouts)) == ["abcdef", "uvwxyz"]


def test_diverse_keeps_what_is_far_from_all_that_were_chosen():
    """By hand, of abcdef and uvwxyz: abcdeg shares 3 of 5 grams with one, abcxyz 1 of 7."""
    rollouts = texts(A, "abcdef", "abcdeg", "uvwxyz", "abcxyz")
    assert said(Diverse(3)(rollouts)) == ["abcdef", "uvwxyz", "abcxyz"]


def test_of_two_equally_far_the_earlier_is_chosen():
    rollouts = texts(A, "aaaa", "bbbb", "cccc")
    assert said(Diverse(2)(rollouts)) == ["aaaa", "bbbb"]


def test_diverse_chooses_for_each_problem_and_keeps_the_order():
    first, second = texts(A, "abcd", "abce", "wxyz"), texts(B, "abcd", "wxyz", "wxya")
    rollouts = [rollout for pair in zip(first, second, strict=True) for rollout in pair]
    assert Diverse(2)(rollouts) == [first[0], second[0], second[1], first[2]]


def test_diverse_keeps_all_where_there_are_few():
    rollouts = texts(A, "abcd", "abcd", "abce")
    assert Diverse(3)(rollouts) == Diverse(9)(rollouts) == rollouts


def test_texts_of_one_or_two_tokens_have_a_distance_too():
    assert said(Diverse(2)(texts(A, "#8", "#8", "#9", ""))) == ["#8", "#9"]


def by_definition(written: list[str], number: int) -> list[int]:
    """The first, then each time the one whose least distance to those before is greatest."""

    def distance(a: str, b: str) -> Fraction:
        one, two = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (a, b))
        return 1 - Fraction(len(one & two), len(one | two))

    chosen = [0]
    while len(chosen) < number:
        rest = [place for place in range(len(written)) if place not in chosen]
        scores = {
            place: min(distance(written[place], written[other]) for other in chosen)
            for place in rest
        }
        chosen.append(next(place for place in rest if scores[place] == max(scores.values())))
    return sorted(chosen)


def test_diverse_is_the_greedy_choice_by_its_definition():
    rng = Random(0)
    for _ in range(100):
        written = ["".join(rng.choices("abc", k=rng.randint(3, 8))) for _ in range(7)]
        rollouts, number = texts(A, *written), rng.randint(1, 7)
        assert Diverse(number)(rollouts) == [rollouts[i] for i in by_definition(written, number)]


def test_a_diverse_pair_is_at_least_half_as_far_apart_as_any_pair():
    """Farthest-point choice is within a factor 2 of the best (Gonzalez 1985)."""
    rng = Random(1)

    def apart(a: str, b: str) -> float:
        one, two = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (a, b))
        return 1 - len(one & two) / len(one | two)

    for _ in range(100):
        written = ["".join(rng.choices("ab", k=6)) for _ in range(6)]
        chosen = apart(*said(Diverse(2)(texts(A, *written))))
        assert chosen >= max(apart(a, b) for a, b in combinations(written, 2)) / 2


# All of them


def test_the_order_of_filters_matters_as_it_reads():
    rollouts = [wrong(A, sample=0), right(A, sample=1)]
    assert AtMost(1)(Correct()(rollouts)) == rollouts[1:]
    assert Correct()(AtMost(1)(rollouts)) == []


@pytest.mark.parametrize("filter_", FILTERS, ids=repr)
def test_nothing_passes_from_nothing(filter_):
    assert filter_([]) == []


@pytest.mark.parametrize("filter_", FILTERS, ids=repr)
def test_filtering_twice_is_filtering_once_and_takes_nothing_from_the_input(filter_):
    rng, kept = Random(0), 0
    for _ in range(50):
        made = [
            rng.choice([right, right, wrong])(
                problem,
                rng.choice(["#8", "2 #8", "<<2+6=8>>8", "2+6 is <<2+6=8>>8", "<<6+2=9>>8"]),
                sample=sample,
                truncated=rng.random() < 0.1,
            )
            for sample in range(rng.randint(2, 6))
            for problem in (A, B)
        ]
        before = list(made)
        once = filter_(made)
        assert filter_(list(once)) == once
        assert made == before
        remaining = iter(made)
        assert all(any(one is other for other in remaining) for one in once)  # in order
        kept += len(once)
    assert kept > 0
