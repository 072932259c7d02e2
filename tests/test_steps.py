"""Where steps end, and which are right: by hand, with the first wrong step known."""

import pytest

from star_exp.records import Problem
from star_exp.tasks.arithmetic import Arithmetic
from star_exp.tasks.base import Task, step_texts
from star_exp.tasks.gsm8k import GSM8K

SUM = Problem("train/0", "624+259", "883", {"digits": "3"})
COMPACT = "4931 2580 6280 #883"
SCRATCHPAD = """
<scratch>
6 2 4 + 2 5 9 , C: 0
2 + 5 , 3 C: 1
6 + 2 , 8 3 C: 0
, 8 8 3 C: 0
0 8 8 3
</scratch>
8 8 3"""
WORDS = "In April 48 clips.\nIn May 48/2 = <<48/2=24>>24.\n\n48+24 = 72.\n#### 72"


def cut(task: Task, completion: str) -> list[str]:
    """The steps, which must make up the completion."""
    ends = task.steps(completion)
    pieces = [completion[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert "".join(pieces) == (completion if completion.strip() else "")
    assert all(piece.strip() for piece in pieces)
    return pieces


@pytest.fixture(scope="module")
def word_problems() -> Task:
    return GSM8K()


@pytest.fixture(params=["compact", "scratchpad"])
def arithmetic(request) -> Arithmetic:
    return Arithmetic(format=request.param)


# Where they end


@pytest.mark.parametrize(
    ("completion", "steps"),
    [
        (
            WORDS,
            [
                "In April 48 clips.\n",
                "In May 48/2 = <<48/2=24>>24.\n\n",
                "48+24 = 72.\n",
                "#### 72",
            ],
        ),
        ("one line", ["one line"]),
        ("\n\n one\n  \ntwo \n \n", ["\n\n one\n  \n", "two \n \n"]),
        ("one\u2028 line", ["one\u2028 line"]),
        ("one\r\ntwo\r\n", ["one\r\n", "two\r\n"]),
        ("", []),
        (" \n\t\n", []),
    ],
    ids=["gsm8k", "one", "blank lines", "another separator", "carriage return", "empty", "blank"],
)
def test_a_step_is_a_line_with_the_blank_lines_behind_it(word_problems, completion, steps):
    assert cut(word_problems, completion) == steps


def test_nobody_knows_the_right_steps_of_a_word_problem(word_problems):
    assert word_problems.right_steps(Problem("train/0", "How many?", "72"), WORDS) is None


@pytest.mark.parametrize(
    ("completion", "steps"),
    [
        (COMPACT, ["4931 ", "2580 ", "6280 ", "#883"]),
        (COMPACT + "\n\n", ["4931 ", "2580 ", "6280 ", "#883\n\n"]),
        ("4931 25", ["4931 ", "25"]),
        ("49  xx31 #", ["49  ", "xx31 ", "#"]),
        (" 4931", [" 4931"]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_a_compact_step_is_a_column_with_its_space(completion, steps):
    assert cut(Arithmetic(), completion) == steps


def test_a_step_of_the_scratchpad_is_a_line():
    steps = cut(Arithmetic(format="scratchpad"), SCRATCHPAD + "\n\n")
    assert steps[:3] == ["\n<scratch>\n", "6 2 4 + 2 5 9 , C: 0\n", "2 + 5 , 3 C: 1\n"]
    assert steps[-2:] == ["</scratch>\n", "8 8 3\n\n"]
    assert len(steps) == 8


def test_the_compact_reference_has_a_step_for_each_digit_and_one_for_the_answer():
    task = Arithmetic()
    for problem in task.problems("train")[:50]:
        assert len(task.steps(task.rationale(problem))) == int(problem.groups["digits"]) + 1


def test_texts_of_steps_have_no_blanks_around_them():
    assert step_texts("\n one\n\ntwo ", [7, 11]) == ["one", "two"]


# Which are right


def test_all_steps_of_the_reference_are_right(arithmetic):
    for problem in arithmetic.problems("train")[:50]:
        rationale = arithmetic.rationale(problem)
        assert arithmetic.right_steps(problem, rationale) == [True] * len(
            arithmetic.steps(rationale)
        )


@pytest.mark.parametrize("stop", ["\n\n", "\n", " ", ""])
def test_what_ends_a_completion_makes_no_step_and_no_error(arithmetic, stop):
    rationale = arithmetic.rationale(SUM)
    ended = arithmetic.right_steps(SUM, rationale + stop)
    assert ended == arithmetic.right_steps(SUM, rationale)
    assert all(ended)


@pytest.mark.parametrize(
    ("written", "first_wrong", "steps"),
    [
        ("4930 2580 6280 #883", 0, 4),  # 4+9 = 13 carries 1
        ("4931 2570 6280 #873", 1, 4),  # the carry was forgotten
        ("4931 2580 6281 #883", 2, 4),  # 6+2 carries nothing, though the answer is right
        ("4931 2580 6280 #838", 3, 4),
        ("4931 2580 #883", 2, 3),  # a column was left out, though the answer is right
        ("4931 2580 2580 6280 #883", 2, 5),  # a column was written twice
        ("#883", 0, 1),
        ("4931 2580 6280#883", 2, 3),
        ("9431 2580 6280 #883", 0, 4),  # 259+624
        (COMPACT + " #883", 4, 5),  # longer than the reference
        (COMPACT + "\n\n#883 1", 4, 6),
        (COMPACT.removesuffix(" #883"), 3, 3),  # shorter, and right as far as it goes
        ("4931 2580 62", 2, 3),
        ("", 0, 0),
    ],
)
def test_compact_steps_are_right_before_the_first_wrong_one(written, first_wrong, steps):
    right = Arithmetic().right_steps(SUM, written)
    assert right == [True] * first_wrong + [False] * (steps - first_wrong)


@pytest.mark.parametrize(
    ("old", "new", "first_wrong", "steps"),
    [
        ("2 5 9 , C", "2 6 9 , C", 1, 8),  # a copied digit
        (", 3 C: 1", ", 4 C: 1", 2, 8),
        (", 8 3 C", ", 7 3 C", 3, 8),  # the carry was forgotten
        ("0 8 8 3", "8 8 3", 5, 8),
        ("</scratch>\n8 8 3", "</scratch>\n8 8 4", 7, 8),
        ("\n</scratch>\n8 8 3", "", 6, 6),
        (SCRATCHPAD, "\n8 8 3", 0, 1),
        ("</scratch>\n8 8 3", "</scratch>\n8 8 3\n8 8 3", 8, 9),
    ],
)
def test_lines_of_the_scratchpad_are_right_before_the_first_wrong_one(old, new, first_wrong, steps):
    assert SCRATCHPAD.count(old) == 1
    right = Arithmetic(format="scratchpad").right_steps(SUM, SCRATCHPAD.replace(old, new))
    assert right == [True] * first_wrong + [False] * (steps - first_wrong)


def test_the_method_and_not_the_format_knows_about_borrows_and_products():
    """524-138 borrows twice; 24*13: 24*3 = 72, 24*1+7 = 31."""
    task = Arithmetic(operators="-*")
    assert task.right_steps(Problem("x", "524-138", "386"), "4861 2391") == [True, False]
    assert task.right_steps(Problem("x", "24*13", "312"), "24327 24013") == [True, False]
