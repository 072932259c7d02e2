"""Arithmetic against the paper's own sample, sums done by hand, and Python's integers."""

from collections import Counter
from itertools import product
from random import Random

import pytest

from star_exp.records import Problem
from star_exp.tasks.arithmetic import Arithmetic, numeral, solve

# The compact format's exact characters, worked by hand; all that a change of the format changes
# here. 624+259: 4+9 = 13, write 3 carry 1; 2+5+1 = 8, carry 0; 6+2 = 8, carry 0.
COMPACT_SUM = ("624", "259", "883")
COMPACT_PROMPT = "624+259="
COMPACT_HINTED = "883:624+259="
COMPACT_RATIONALE = "4931 2580 6280 #883"
COMPACT_DIRECT = "#883"
# 957+368: 7+8 = 15, write 5 carry 1; 5+6+1 = 12, write 2 carry 1; 9+3+1 = 13, write 3 carry 1.
COMPACT_CARRY = ("957", "368", "1325", "7851 5621 9331 #1325")
# 524-38 can't be asked (equally many digits); 524-138: 4-8 borrows, write 6; 2-3-1 borrows, write
# 8; 5-1-1 = 3.
COMPACT_DIFFERENCE = ("524", "138", "386", "4861 2381 5130 #386")
# 24*13: 24*3 = 72, write 2 carry 7; 24*1+7 = 31, write 1 carry 3.
COMPACT_PRODUCT = ("24", "13", "312", "24327 24113 #312")

# STaR, figure 3 (papers/star.md, 3.1), to the character.
PAPER_PROMPT = "Input:\n6 2 4 + 2 5 9\nTarget:"
PAPER_RATIONALE = """
<scratch>
6 2 4 + 2 5 9 , C: 0
2 + 5 , 3 C: 1
6 + 2 , 8 3 C: 0
, 8 8 3 C: 0
0 8 8 3
</scratch>
8 8 3"""
CARRY_RATIONALE = """
<scratch>
9 5 7 + 3 6 8 , C: 0
5 + 6 , 5 C: 1
9 + 3 , 2 5 C: 1
, 3 2 5 C: 1
1 3 2 5
</scratch>
1 3 2 5"""
ONE_DIGIT_RATIONALE = """
<scratch>
7 + 8 , C: 0
, 5 C: 1
1 5
</scratch>
1 5"""

FORMATS = ("compact", "scratchpad")
SETTINGS = [
    pytest.param(format_, operator, base, id=f"{format_} {operator} base {base}")
    for format_, operator, base in product(FORMATS, "+-*", (2, 10, 16))
]
APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def problem(left: str, right: str, answer: str, operator: str = "+") -> Problem:
    return Problem("train/0", f"{left}{operator}{right}", answer, {"digits": str(len(left))})


def task(format_: str, operators: str = "+", base: int = 10, **more) -> Arithmetic:
    # the one product of 1-digit binary numbers is in a single split, so base 2 starts higher
    return Arithmetic(format=format_, operators=operators, base=base, min_digits=4, **more)  # type: ignore[arg-type]


def operands(question: str, base: int) -> tuple[int, str, int]:
    mark = next(mark for mark in "+-*" if mark in question)
    left, right = question.split(mark)
    return int(left, base), mark, int(right, base)


def spaced(numeral_: str) -> str:
    return " ".join(numeral_)


# The formats, by hand


def test_the_papers_sample_is_matched_character_by_character():
    arithmetic = Arithmetic(format="scratchpad")
    asked = problem("624", "259", "883")
    document = arithmetic.prompt(asked) + arithmetic.rationale(asked)
    assert document == PAPER_PROMPT + PAPER_RATIONALE


def test_the_papers_hint_is_the_answer_after_target():
    hinted = Arithmetic(format="scratchpad").prompt(problem("624", "259", "883"), hint=True)
    assert hinted == PAPER_PROMPT + " 8 8 3"


def test_a_last_carry_becomes_a_digit_of_the_scratchpads_answer():
    arithmetic = Arithmetic(format="scratchpad")
    assert arithmetic.rationale(problem("957", "368", "1325")) == CARRY_RATIONALE


def test_a_one_digit_scratchpad_has_no_line_of_its_own_for_the_pair():
    arithmetic = Arithmetic(format="scratchpad")
    assert arithmetic.rationale(problem("7", "8", "15")) == ONE_DIGIT_RATIONALE


def test_the_papers_direct_baseline_has_no_scratchpad():
    assert Arithmetic(format="scratchpad").direct(problem("624", "259", "883")) == "\n8 8 3"


def test_the_compact_format_asks_for_the_sum():
    assert Arithmetic().prompt(problem(*COMPACT_SUM)) == COMPACT_PROMPT


def test_the_compact_hint_is_the_answer():
    assert Arithmetic().prompt(problem(*COMPACT_SUM), hint=True) == COMPACT_HINTED


def test_the_compact_rationale_writes_digit_and_carry_of_each_column():
    assert Arithmetic().rationale(problem(*COMPACT_SUM)) == COMPACT_RATIONALE


def test_the_compact_direct_answer_has_no_columns():
    assert Arithmetic().direct(problem(*COMPACT_SUM)) == COMPACT_DIRECT


@pytest.mark.parametrize(
    ("worked", "operator"),
    [(COMPACT_CARRY, "+"), (COMPACT_DIFFERENCE, "-"), (COMPACT_PRODUCT, "*")],
    ids=["a last carry", "borrows", "rows of a product"],
)
def test_the_compact_rationale_is_the_written_method(worked, operator):
    left, right, answer, rationale = worked
    asked = problem(left, right, answer, operator)
    assert Arithmetic(operators="+-*").rationale(asked) == rationale


# The steps and answers, by a second method


@pytest.mark.parametrize(("format_", "operator", "base"), SETTINGS)
def test_gold_answers_are_those_of_pythons_integers(format_, operator, base):
    for asked in task(format_, operator, base).problems("train")[:200]:
        left, mark, right = operands(asked.question, base)
        assert mark == operator
        assert int(asked.answer, base) == APPLY[mark](left, right), asked


@pytest.mark.parametrize(("format_", "operator", "base"), SETTINGS)
def test_the_gold_rationale_and_the_direct_answer_are_graded_right(format_, operator, base):
    arithmetic = task(format_, operator, base)
    for asked in arithmetic.problems("train")[:200]:
        for completion in (arithmetic.rationale(asked), arithmetic.direct(asked)):
            answer = arithmetic.extract(completion)
            assert answer == asked.answer
            assert arithmetic.correct(asked, answer)


@pytest.mark.parametrize("base", [2, 10, 16])
@pytest.mark.parametrize("operator", "+-*")
def test_after_k_steps_the_digits_and_the_carry_are_those_of_the_last_k_columns(operator, base):
    """Whole numbers, no columns: a op b of the last k digits, cut into k digits and a rest."""
    rng = Random(f"{operator} {base}")
    for _ in range(300):
        digits = rng.randint(1, 6)
        low, high = base ** (digits - 1), base**digits - 1
        left, right = sorted((rng.randint(low, high), rng.randint(low, high)), reverse=True)
        made = solve(numeral(left, base), operator, numeral(right, base), base)
        written = ""
        for place, step in enumerate(made.steps, start=1):
            written = step.written + written
            modulus = base**place
            if operator == "*":
                value = left * (right % modulus)
                carry = value // modulus
            else:
                value = APPLY[operator](left % modulus, right % modulus)
                carry = int(value < 0) if operator == "-" else value // modulus
            assert int(written, base) == value % modulus
            assert int(step.carry, base) == carry
            a, b = made.left[-place], made.right[-place]
            assert step.pair == ((made.left if operator == "*" else a), b)
        assert len(made.steps) == digits


@pytest.mark.parametrize("base", [2, 10, 16])
def test_each_line_of_the_scratchpad_follows_from_the_numbers(base):
    """Line k shows the pair to come, the sum of the last k digits, and what it carries."""
    arithmetic = task("scratchpad", "+", base)
    for asked in arithmetic.problems("train")[:100]:
        left, _, right = operands(asked.question, base)
        a, b = asked.question.split("+")
        lines = arithmetic.rationale(asked).splitlines()
        carry, digits = 0, 0
        expected = ["", "<scratch>", f"{spaced(a)} + {spaced(b)} , C: 0"]
        for place in range(1, len(a) + 1):
            carry, digits = divmod(left % base**place + right % base**place, base**place)
            shown = spaced(numeral(digits, base).rjust(place, "0"))
            pair = f"{a[-place - 1]} + {b[-place - 1]} " if place < len(a) else ""
            expected.append(f"{pair}, {shown} C: {carry}")
        expected.append(spaced(f"{carry}{numeral(digits, base).rjust(len(a), '0')}"))
        expected += ["</scratch>", spaced(numeral(left + right, base))]
        assert lines == expected


def test_numerals_are_those_of_pythons_formats():
    for value in range(2000):
        assert numeral(value, 10) == str(value)
        assert numeral(value, 2) == f"{value:b}"
        assert numeral(value, 16) == f"{value:x}"


@pytest.mark.parametrize(("format_", "operator", "base"), SETTINGS)
def test_the_longest_completion_is_no_shorter_than_any_rationale(format_, operator, base):
    arithmetic = task(format_, operator, base)
    problems = [*arithmetic.problems("train")[:300], *arithmetic.problems("ood")]
    assert max(len(arithmetic.rationale(asked)) for asked in problems) <= (
        arithmetic.longest_completion()
    )


# Grading


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "completion", ["", "\n", "   ", "#", "# \n", "\n<scratch>\n", "</scratch>", "</scratch>\n"]
)
def test_a_completion_without_an_answer_is_graded_wrong(format_, completion):
    arithmetic = task(format_)
    asked = arithmetic.problem("train", 0)
    assert not arithmetic.correct(asked, arithmetic.extract(completion))


@pytest.mark.parametrize("format_", FORMATS)
def test_an_empty_completion_answers_nothing(format_):
    assert task(format_).extract("") is None


def test_an_unfinished_scratchpad_answers_nothing():
    unfinished = PAPER_RATIONALE.partition("</scratch>")[0]
    assert Arithmetic(format="scratchpad").extract(unfinished) is None


def test_compact_columns_without_an_answer_answer_nothing():
    assert Arithmetic().extract(COMPACT_RATIONALE.partition("#")[0]) is None


@pytest.mark.parametrize("format_", FORMATS)
def test_the_rationale_of_another_sum_is_graded_wrong(format_):
    arithmetic = task(format_)
    pool = arithmetic.problems("train")
    for asked, other in zip(pool[:200], pool[200:400], strict=True):
        if asked.answer != other.answer:
            answer = arithmetic.extract(arithmetic.rationale(other))
            assert not arithmetic.correct(asked, answer)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_answer_with_one_digit_changed_is_graded_wrong(format_):
    arithmetic = task(format_)
    for asked in arithmetic.problems("train")[:200]:
        changed = str((int(asked.answer[-1]) + 1) % 10)
        gold = arithmetic.rationale(asked)
        assert gold[-1] == asked.answer[-1]
        assert not arithmetic.correct(asked, arithmetic.extract(gold[:-1] + changed))


@pytest.mark.parametrize("format_", FORMATS)
def test_an_answer_with_a_digit_too_many_or_too_few_is_graded_wrong(format_):
    arithmetic = task(format_)
    for asked in arithmetic.problems("train")[:200]:
        gold = arithmetic.rationale(asked)
        assert not arithmetic.correct(asked, arithmetic.extract(gold + "0"))
        assert not arithmetic.correct(asked, arithmetic.extract(gold[:-1]))


@pytest.mark.parametrize("format_", FORMATS)
def test_garbage_never_raises_and_is_graded_wrong(format_):
    arithmetic, rng = task(format_), Random(0)
    pieces = ["#", " ", "\n", "<scratch>", "</scratch>", "C:", "é", "\u2028", "x", "-", "\x00", "="]
    asked = arithmetic.problem("train", 0)
    for _ in range(2000):
        garbage = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        assert not arithmetic.correct(asked, arithmetic.extract(garbage))


def test_no_answer_is_never_correct():
    for index in range(50):
        arithmetic = task("compact")
        assert not arithmetic.correct(arithmetic.problem("train", index), None)


def test_no_answer_is_not_the_answer_none():
    asked = Problem("train/0", "1+1", "None")
    assert not Arithmetic().correct(asked, None)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_answer_followed_by_the_end_of_the_document_is_read(format_):
    arithmetic = task(format_)
    for asked in arithmetic.problems("train")[:20]:
        completion = arithmetic.rationale(asked) + arithmetic.stop[0]
        assert arithmetic.extract(completion) == asked.answer


# Splits


def test_a_problem_is_the_same_in_any_order_and_any_pool_size():
    forward = list(Arithmetic(train_size=300).problems("train"))
    backward = Arithmetic(train_size=1000).problems("train")
    again = {index: backward[index] for index in reversed(range(300))}
    assert forward == [again[index] for index in range(300)]


def test_more_dev_problems_begin_with_the_fewer():
    few = Arithmetic(min_digits=3, dev_size=50).problems("dev")
    many = Arithmetic(min_digits=3, dev_size=120).problems("dev")
    assert list(many[: len(few)]) == list(few)


def test_two_tasks_with_the_same_settings_hold_the_same_problems():
    for split in ("dev", "test", "ood"):
        assert list(Arithmetic(seed=3).problems(split)) == list(Arithmetic(seed=3).problems(split))


def test_problems_do_not_depend_on_the_format():
    for split in ("dev", "ood"):
        compact, scratchpad = (Arithmetic(format=format_).problems(split) for format_ in FORMATS)
        assert list(compact) == list(scratchpad)


def sums(problems) -> set[tuple[str, ...]]:
    """Each sum with its commuted twin as one."""
    return {tuple(sorted(asked.question.split("+"))) for asked in problems}


def test_no_dev_or_test_sum_nor_its_twin_is_anywhere_in_train():
    arithmetic = Arithmetic()
    pool = arithmetic.problems("train")
    assert len(pool) == arithmetic.train_size >= 10_000
    train = sums(pool)
    for split in ("dev", "test", "ood"):
        assert not train & sums(arithmetic.problems(split)), split


def test_seed_rationales_hold_no_dev_or_test_sum():
    arithmetic = Arithmetic()
    shown = sums(exemplar.problem for exemplar in arithmetic.exemplars(100))
    for split in ("dev", "test", "ood"):
        assert not shown & sums(arithmetic.problems(split)), split


def test_dev_and_test_share_no_sum():
    arithmetic = Arithmetic()
    assert not sums(arithmetic.problems("dev")) & sums(arithmetic.problems("test"))


def test_splits_share_no_sum_whatever_the_seeds_and_sizes():
    """All 8100 sums of two digits and all of one: enough to find every leak there could be."""
    train = set()
    for seed in range(3):
        settings = Arithmetic(max_digits=2, train_size=4000, seed=seed)
        train |= sums(settings.problems("train"))
    for seed in range(3, 6):
        for split in ("dev", "test"):
            held_out = Arithmetic(max_digits=2, dev_size=900, test_size=900, seed=seed)
            assert not train & sums(held_out.problems(split))


def test_other_seeds_give_other_problems():
    for split in ("train", "dev", "ood"):
        first, second = (Arithmetic(seed=seed).problems(split)[:200] for seed in (0, 1))
        assert sums(first) != sums(second)


@pytest.mark.parametrize("split", ["dev", "test", "ood"])
def test_no_held_out_problem_is_asked_twice(split):
    problems = Arithmetic(max_digits=3).problems(split)
    assert len({asked.question for asked in problems}) == len(problems) > 0


@pytest.mark.parametrize("split", ["train", "dev", "test", "ood"])
def test_no_two_problems_have_one_id(split):
    problems = Arithmetic().problems(split)[:3000]
    assert len({asked.id for asked in problems}) == len(problems)


def test_train_holds_equally_many_problems_of_each_length():
    arithmetic = Arithmetic()
    lengths = arithmetic.max_digits - arithmetic.min_digits + 1
    counts = Counter(asked.groups["digits"] for asked in arithmetic.problems("train")[:2000])
    assert set(counts.values()) == {2000 // lengths}
    assert set(counts) == {
        str(digits) for digits in range(arithmetic.min_digits, arithmetic.max_digits + 1)
    }


def test_train_holds_equally_many_problems_of_each_length_and_operator():
    pool = Arithmetic(max_digits=4, operators="+-*").problems("train")[: 12 * 20]
    counts = Counter((asked.groups["digits"], asked.groups["operator"]) for asked in pool)
    assert len(counts) == 12
    assert set(counts.values()) == {20}


def test_operands_are_spread_over_all_numbers_of_their_length():
    """Mean of a number of 5 digits, uniform: 54,999.5 +- 260 (one deviation, 2 * 5000 numbers)."""
    pool = Arithmetic(min_digits=5).problems("train")[:5000]
    numbers = [number for asked in pool for number in map(int, asked.question.split("+"))]
    assert abs(sum(numbers) / len(numbers) - 54_999.5) < 4 * 260
    assert {str(number)[0] for number in numbers} == set("123456789")


def test_every_number_of_a_length_is_an_operand():
    """Base 6: 36 to 215, 180 numbers and 55 draws of each, so that none is missing by chance."""
    pool = Arithmetic(base=6, min_digits=3, max_digits=3).problems("train")[:5000]
    numbers = {int(number, 6) for asked in pool for number in asked.question.split("+")}
    assert numbers == set(range(36, 216))


def test_every_sum_of_one_digit_is_in_one_split_or_another():
    arithmetic = Arithmetic(max_digits=1, train_size=2000, dev_size=500, test_size=500)
    asked = {
        one.question for split in ("train", "dev", "test") for one in arithmetic.problems(split)
    }
    assert asked == {f"{a}+{b}" for a in range(1, 10) for b in range(1, 10)}


def test_ood_holds_only_operands_longer_than_any_in_training():
    arithmetic = Arithmetic(max_digits=3, ood_digits=2)
    lengths = {
        len(part) for asked in arithmetic.problems("ood") for part in asked.question.split("+")
    }
    assert lengths == {4, 5}


def test_without_ood_digits_there_is_no_ood_split():
    assert list(Arithmetic(ood_digits=0).problems("ood")) == []


@pytest.mark.parametrize("split", ["train", "dev", "test", "ood"])
@pytest.mark.parametrize("base", [3, 10, 16])
def test_operands_are_equally_long_and_begin_with_no_zero(split, base):
    for asked in Arithmetic(operators="+-*", base=base, min_digits=2).problems(split)[:500]:
        mark = next(mark for mark in "+-*" if mark in asked.question)
        left, right = asked.question.split(mark)
        assert len(left) == len(right) == int(asked.groups["digits"])
        assert "0" not in (left[0], right[0])
        assert asked.answer[0] != "0" or asked.answer == "0"


@pytest.mark.parametrize("split", ["train", "dev", "test", "ood"])
def test_no_difference_is_negative(split):
    for asked in Arithmetic(operators="-").problems(split)[:500]:
        left, _, right = operands(asked.question, 10)
        assert left >= right
        assert int(asked.answer) >= 0


def test_exemplars_are_equally_many_for_each_length_and_graded_right():
    arithmetic = Arithmetic()
    exemplars = arithmetic.exemplars(7)
    counts = Counter(exemplar.problem.groups["digits"] for exemplar in exemplars)
    assert set(counts.values()) == {7}
    for exemplar in exemplars:
        assert arithmetic.extract(exemplar.completion) == exemplar.problem.answer


# The pool as a sequence


def test_the_pool_is_a_sequence():
    pool = Arithmetic(train_size=10).problems("train")
    listed = list(pool)
    assert len(pool) == len(listed) == 10
    assert list(pool[2:5]) == listed[2:5]
    assert list(pool[::-3]) == listed[::-3]
    assert list(pool[8:20]) == listed[8:]
    assert [pool[index] for index in range(-10, 0)] == listed
    assert listed[3] in pool


@pytest.mark.parametrize("index", [10, -11, 10**9])
def test_the_pool_ends_where_it_ends(index):
    pool = Arithmetic(train_size=10).problems("train")
    with pytest.raises(IndexError, match=str(index)):
        pool[index]


# Settings that make no sense


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_digits": 0}, "min_digits"),
        ({"min_digits": 5, "max_digits": 3}, r"min_digits=5.*max_digits=3"),
        ({"operators": ""}, "operators"),
        ({"operators": "+/"}, "operators"),
        ({"operators": "++"}, "operators"),
        ({"base": 1}, "base=1"),
        ({"base": 37}, "base=37"),
        ({"format": "scratchpd"}, "format"),
        ({"train_size": 0}, "train_size=0"),
        ({"dev_size": 0}, "dev_size=0"),
        ({"test_size": -1}, "test_size=-1"),
        ({"ood_digits": -1}, "ood_digits"),
        ({"ood_size": -1}, "ood_size"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        Arithmetic(**settings)


def test_a_split_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="train, dev, test and ood"):
        Arithmetic().problems("valid")


def test_a_length_with_too_few_problems_for_a_split_is_refused_with_what_to_do():
    """In base 2 there is one sum of one digit, 1+1, which can be in one split only."""
    with pytest.raises(ValueError, match=r"base 2.*raise task\.min_digits"):
        for split in ("train", "dev", "test"):
            list(Arithmetic(base=2, max_digits=1, train_size=10).problems(split))


# Columns in either order


def test_digits_of_a_column_stand_in_either_order_in_seed_rationales():
    """1,200 rationales of one sum: all 2**3 ways, and each in an eighth of them."""
    task, way = Arithmetic(swapped=True), "{} {} {} #883"
    expected = {
        way.format(*columns)
        for columns in product(("4931", "9431"), ("2580", "5280"), ("6280", "2680"))
    }
    seen = Counter(task.rationale(Problem(f"train/{n}", "624+259", "883")) for n in range(1200))
    assert seen.keys() == expected
    assert all(abs(count - 150) < 5 * 12 for count in seen.values())  # 12: a deviation


def test_every_order_is_right_and_no_other_column():
    swapped, asked = Arithmetic(swapped=True), Problem("train/0", "624+259", "883")
    assert swapped.right_steps(asked, "9431 2580 2680 #883") == [True] * 4
    assert swapped.right_steps(asked, "9431 5270 2680 #883") == [True, False, False, False]
    assert Arithmetic().right_steps(asked, "9431 2580 6280 #883") == [False] * 4


def test_columns_are_swapped_in_the_scratchpad_too():
    task = Arithmetic(format="scratchpad", swapped=True)
    texts = {task.rationale(Problem(f"train/{n}", "624+259", "883")) for n in range(50)}
    assert any("\n5 + 2 , 3 C: 1\n" in text for text in texts)
    assert all(text.startswith("\n<scratch>\n6 2 4 + 2 5 9 , C: 0\n") for text in texts)
    for text in texts:
        assert all(task.right_steps(Problem("train/0", "624+259", "883"), text))


def test_differences_have_an_order():
    with pytest.raises(ValueError, match=r"task\.swapped=true and task\.operators='-' clash"):
        Arithmetic(swapped=True, operators="-")
