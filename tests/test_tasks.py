"""The tasks from datasets: how a row is asked, hinted and answered, and which rows are where."""

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.base import Task
from star_exp.tasks.dataset import DatasetTask
from star_exp.tasks.sources import Row
from tests.made import ROWS, SPLITS, local, write


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@cache
def composed(*words: str) -> dict[str, Any]:
    return plain(compose(words))["task"]


def task_of(words: list[str]) -> DatasetTask:
    """Composed but for paths, which are another's in each test: that takes time."""
    named = [word.removeprefix("task.").partition("=") for word in words if "/" in word]
    others = [word for word in words if "/" not in word]
    return build({**composed(*others), **{name: path for name, _, path in named}})


def made(data: Path, name: str, *overrides: str) -> DatasetTask:
    return task_of([*local(name, data), *overrides])


def row(name: str, number: int) -> Problem:
    """The problem of a row, as if it stood alone."""
    task = task_of([f"task={name}", "task.path=no/where"])
    return task.problem(Row("here", number, ROWS[name](number)), "test")


def first(task: Task, split: str = "test") -> Problem:
    return min(task.problems(split), key=lambda problem: (len(problem.id), problem.id))


def asked(task: Task, split: str) -> set[str]:
    return {problem.question for problem in task.problems(split)}


PROMPTS = {
    "gsm8k": (
        "Q: Ann has 61 nuts and finds 1,000. How many has she?\nA:",
        "Q: Ann has 61 nuts and finds 1,000. How many has she? (1061)\nA:",
        " #### 1061",
    ),
    "commonsense_qa": (
        "Q: Where is thing 61?\nAnswer Choices:\n(a) shed 61\n(b) pond 61\n(c) barn 61\n"
        "(d) attic 61\n(e) cellar 61\nA:",
        "Q: Where is thing 61?\nAnswer Choices:\n(a) shed 61\n(b) pond 61 (CORRECT)\n(c) barn 61\n"
        "(d) attic 61\n(e) cellar 61\nA:",
        " (b).",
    ),
    "svamp": (
        "Q: Bo had 61 pens. How many?\nA:",
        "Q: Bo had 61 pens. How many? (61)\nA:",
        " #### 61",
    ),
    "multiarith": (
        "Q: What is 61 and 61?\nA:",
        "Q: What is 61 and 61? (122)\nA:",
        " #### 122",
    ),
    "asdiv": (
        "Q: Bo has 61 pens. How many?\nA:",
        "Q: Bo has 61 pens. How many? (61)\nA:",
        " #### 61",
    ),
    "aqua_rat": (
        "Q: What is 61?\nAnswer Choices:\n(a) 60\n(b) 61\n(c) 62\n(d) 63\n(e) 64\nA:",
        "Q: What is 61?\nAnswer Choices:\n(a) 60\n(b) 61 (CORRECT)\n(c) 62\n(d) 63\n(e) 64\nA:",
        " (b).",
    ),
    "strategyqa": ("Q: Is 61 even?\nA:", "Q: Is 61 even? (no)\nA:", " no."),
    "math": (
        "Problem:\nWhat is half of $61$?\nSolution:",
        "Problem:\nWhat is half of $61$? ($\\frac{61}{2}$)\nSolution:",
        " $\\boxed{\\frac{61}{2}}$.",
    ),
    "math500": (
        "Problem:\nWhat is half of $61$?\nSolution:",
        "Problem:\nWhat is half of $61$? ($\\frac{61}{2}$)\nSolution:",
        " $\\boxed{\\frac{61}{2}}$.",
    ),
    "jsonl": (
        "Q: Which plant is number 61?\nA:",
        "Q: Which plant is number 61? (Fern 61)\nA:",
        " #### Fern 61",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_asked_hinted_and_answered_in_the_papers_format(data, name):
    task, problem = made(data, name), row(name, 61)
    asked, hinted, direct = PROMPTS[name]
    assert task.prompt(problem) == asked
    assert task.prompt(problem, hint=True) == hinted
    assert task.direct(problem) == direct
    assert task.correct(problem, task.extract(direct))


@pytest.mark.parametrize("name", [name for name in ROWS if name != "jsonl"])
def test_exemplars_are_judged_right_and_begin_with_a_blank(data, name):
    task = made(data, name)
    shown = task.shown(row(name, 61))
    assert len(shown) >= 4
    for exemplar in shown:
        (judgement,) = task.judge([(exemplar.problem, exemplar.completion)])
        assert judgement.correct, exemplar
        assert exemplar.completion.startswith(" ")  # it stands right behind "A:"


def test_without_exemplars_none_can_be_shown(data):
    with pytest.raises(ValueError, match="exemplars_from"):
        made(data, "jsonl").shown(row("jsonl", 1))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_exemplar_is_in_no_split_however_it_is_written(tmp_path, split):
    words = local("jsonl", tmp_path, rows=20)
    number = SPLITS["jsonl"].index(split) * 20 + 3
    said = {"question": f"which plant  is NUMBER {number} ?", "answer": f"Fern {number}"}
    exemplars = write(tmp_path / "shown.jsonl", [said | {"rationale": "It grows."}])
    question = ROWS["jsonl"](number)["question"]
    assert question in asked(task_of(words), split)
    task = task_of([*words, f"task.exemplars_from={exemplars}"])
    assert question not in asked(task, split)
    assert len(task.problems(split)) == 19
    assert task.why_left_out(split) == {
        "exemplars": [f"{split}/3: the question is that of an exemplar"]
    }
    assert task.left_out(split) == 1


def test_rows_of_train_that_are_exemplars_are_not_trained_or_measured_on(data):
    task = made(data, "gsm8k", "task.dev_share=0.5")
    shown = {ROWS["gsm8k"](n)["question"] for n in (0, 2, 3, 5, 8, 9)}
    assert not shown & (asked(task, "train") | asked(task, "dev"))
    assert len(task.problems("train")) + len(task.problems("dev")) == 54


def test_a_question_of_train_that_is_measured_is_not_trained_on(tmp_path, caplog):
    words = local("commonsense_qa", tmp_path, rows=20)
    path = tmp_path / "commonsense_qa" / "train.jsonl"
    again = ROWS["commonsense_qa"](25)  # of the split that is measured, with other choices
    again |= {"id": "again", "question": "where is Thing  25"}
    again |= {"choices": {"label": list("ABCDE"), "text": list("vwxyz")}}
    path.write_text(path.read_text() + json.dumps(again) + "\n")
    task = task_of([*words, "task.dev_share=0.4"])
    with caplog.at_level(logging.INFO, "star_exp"):
        trained, dev = task.problems("train"), task.problems("dev")
    assert len(trained) + len(dev) == 20 - 7  # exemplars
    assert "again" not in {problem.id for problem in (*trained, *dev)}
    told = "train again: the question is that of test c25"
    assert task.why_left_out("train")["repeated"] == [told]
    assert f"left 1 of train out: {told}" in caplog.messages
    assert len(task.problems("test")) == 20


def test_one_question_is_not_both_in_train_and_in_the_dev_that_is_cut_off_it(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(60)]
    twice = [{"question": f"what is  {n} + 1", "answer": n + 1} for n in range(60)]
    path = write(tmp_path / "mine.jsonl", rows + twice)
    task = task_of(["task=jsonl", f"task.path={path}", "task.dev_share=0.4"])
    answers = [{p.answer for p in task.problems(split)} for split in ("train", "dev", "test")]
    assert all(answers) and sum(map(len, answers)) == len(set().union(*answers)) == 60


def test_signs_make_another_question(tmp_path):
    rows = [{"question": f"What is 3{sign}2?", "answer": n} for n, sign in enumerate("+-*/")]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", rows[:1])
    task = task_of(["task=jsonl", f"task.path={tmp_path}", "task.dev_share=0.0"])
    assert {problem.answer for problem in task.problems("train")} == {"1", "2", "3"}


def test_gsm8ks_exemplars_are_the_papers_rows_with_their_own_solutions(data):
    task = made(data, "gsm8k")
    rows = [ROWS["gsm8k"](n) for n in (0, 2, 3, 5, 8, 9)]
    assert [e.problem.question for e in task.shown(first(task))] == [r["question"] for r in rows]
    assert [e.completion for e in task.shown(first(task))] == [f" {r['answer']}" for r in rows]
    plainly = made(data, "gsm8k", "task.calculator=false").shown(first(task))
    assert plainly[0].completion == " She has 0+1,000 = 1,000 nuts.\n#### 1,000"


def test_exemplars_named_by_row_are_refused_where_the_data_have_another_order(data, tmp_path):
    overrides = local("commonsense_qa", tmp_path)
    path = tmp_path / "commonsense_qa" / "train.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    task = task_of(overrides)
    with pytest.raises(UserError, match="not in the order"):
        task.problems("train")


def test_an_exemplar_is_not_shown_to_its_own_question(data):
    task = made(data, "svamp")
    shown = task.shown(first(task))
    assert shown[0] in shown
    assert shown[0] not in task.shown(shown[0].problem)


def test_splits_are_disjoint_and_do_not_depend_on_sizes_or_on_bad_rows(tmp_path):
    overrides = local("gsm8k", tmp_path, rows=500)
    (tmp_path / "gsm8k" / "test.jsonl").unlink()
    cut = ["task.dev_share=0.2", "task.test_share=0.1", "task.dev_size=null"]
    task = task_of([*overrides, *cut])
    ids = {split: {p.id for p in task.problems(split)} for split in ("train", "dev", "test")}
    assert not ids["train"] & ids["dev"] | ids["train"] & ids["test"] | ids["dev"] & ids["test"]
    assert sum(map(len, ids.values())) == 500 - 6  # exemplars
    assert 60 < len(ids["dev"]) < 140  # a binomial of 494 and 0.2: 99 and 9
    assert 25 < len(ids["test"]) < 80
    few = task_of([*overrides, *cut[:2], "task.dev_size=10", "task.train_size=7"])
    assert {p.id for p in few.problems("dev")} < ids["dev"]
    assert len(few.problems("dev")) == 10
    assert len(few.problems("train")) == 7
    path = tmp_path / "gsm8k" / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[20] = '{"question": "no answer here"}'
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"train.jsonl line 21.*'answer'.*on_bad_row=skip"):
        task_of([*overrides, *cut]).problems("train")
    left = task_of([*overrides, *cut, "task.on_bad_row=skip"])
    assert {p.id for p in left.problems("dev")} == ids["dev"] - {"train/20"}


def test_a_split_that_is_not_there_is_told(data):
    task = made(data, "math500")
    with pytest.raises(ValueError, match="no split for 'train'"):
        task.problems("train")
    with pytest.raises(ValueError, match="no split 'validation'"):
        task.problems("validation")
    assert list(task.problems("ood")) == []


def test_asdiv_asks_for_numbers_only(data):
    task = made(data, "asdiv")
    assert len(task.problems("test")) == 48  # of the 60 rows 12 are answered by a name
    told = task.why_left_out("test")
    assert list(told) == ["not asked"] and len(told["not asked"]) == task.left_out("test") == 12
    assert told["not asked"][0] == "test.jsonl line 1: the answer is 'Bo', not one number"


def test_asdivs_bad_rows_are_left_out_if_that_is_asked_for(tmp_path):
    words = local("asdiv", tmp_path, rows=20)
    path = tmp_path / "asdiv" / "test.jsonl"
    path.write_text(path.read_text() + '{"body": "Bo has pens.", "question": "How many?"}\n')
    with pytest.raises(UserError, match="line 21: expected a field 'Answer' or 'answer'"):
        task_of(words).problems("test")
    task = task_of([*words, "task.on_bad_row=skip"])
    assert len(task.problems("test")) == 16
    assert {kind: len(lines) for kind, lines in task.why_left_out("test").items()} == {
        "bad": 1,
        "not asked": 4,
    }


def test_levels_of_mathematics_that_are_not_asked_are_left_out(data):
    task = made(data, "math500", "task.levels=[1,5]")
    assert {problem.groups["level"] for problem in task.problems("test")} == {"1", "5"}
    assert task.left_out("test") == 36


def test_what_a_local_folder_has_is_used_and_the_rest_is_cut_off_train(data, caplog):
    with caplog.at_level(logging.INFO, "star_exp"):
        task = made(data, "strategyqa")  # the authors' files: train and dev
        ids = {split: [p.id for p in task.problems(split)] for split in ("train", "dev", "test")}
    assert ids["dev"] == [f"q{n}" for n in range(60, 120)]
    assert sorted(ids["train"] + ids["test"]) == sorted(f"q{n}" for n in range(60))
    test = len(ids["test"])
    assert 0 < test < 20  # a tenth of 60
    assert f"has no test split: it is {test} of the 60 problems of train" in caplog.text


def test_a_local_file_is_no_second_split(data):
    task = made(data, "commonsense_qa", "task.dev_share=0.2")  # dev.jsonl is measured on as test
    assert not {p.id for p in task.problems("dev")} & {p.id for p in task.problems("test")}
    assert len(task.problems("test")) == 60


def test_a_test_file_alone_can_be_measured_without_the_rows_of_train_that_are_exemplars(tmp_path):
    local("gsm8k", tmp_path)
    path = tmp_path / "gsm8k" / "test.jsonl"
    task = task_of(["task=gsm8k", f"task.path={path}"])
    assert len(task.problems("test")) == 60
    with pytest.raises(UserError, match=r"exemplars are rows of train.*task.exemplars_from"):
        task.shown(row("gsm8k", 1))


ANSWERS = [
    ("gsm8k", " 3 bags. #### 1,234\n", "1234", "1234"),
    ("gsm8k", " #### 12\n#### 13", "12", "13"),  # the first line that has the mark
    ("gsm8k", " The answer is 12.", None, "12"),
    ("gsm8k", " #### twelve", None, None),
    ("commonsense_qa", " A pond is wet. Therefore, the answer is pond (b).", "b", "b"),
    ("commonsense_qa", " First (b)?\nNo: (c).\n", "c", "c"),
    ("commonsense_qa", " The answer is b", None, "b"),
    ("commonsense_qa", " (b) is wrong, (c) is right", None, "c"),
    ("commonsense_qa", "", None, None),
    ("commonsense_qa", " It is (a), (b), (c), (d) or (e).", None, "e"),
    ("commonsense_qa", " It is (d)/(e).", None, "e"),
    ("commonsense_qa", " The answer is not (e).", None, "e"),
    ("commonsense_qa", " It is wet (a) here. So the answer is salt or pepper (b).", "b", "b"),
    ("strategyqa", " It is. So the answer is no.", "no", "no"),
    ("strategyqa", " No, since it is odd.", None, "no"),
    ("strategyqa", " yes", "yes", "yes"),
    ("strategyqa", " No.\n", "no", "no"),
    ("strategyqa", " So the answer is: Yes", "yes", "yes"),
    ("strategyqa", " There is no.", None, "no"),
    ("strategyqa", " The answer is not yes.", None, "yes"),
    ("strategyqa", " The answer is no longer known, or yes.", None, "yes"),
    ("math", r" $\boxed{1}$ or $\boxed{\frac{1}{2}}$", "0.5", "0.5"),
    ("math", " The final answer is $x = 5$. Good.", None, "x=5"),
    ("math", r" $\boxed{ 1,080 }$", "1080", "1080"),
    ("math", r" $\boxed{\left( 3, \dfrac{\pi}{2} \right)}$", *[r"(3,\frac{\pi}{2})"] * 2),
    ("math", r" \boxed{1", None, None),
    ("jsonl", " ####  A Fern. ", "a fern", "a fern"),
    ("jsonl", " #### 1,000", "1000", "1000"),
    ("jsonl", " 12 ferns", None, "12"),
]


@pytest.mark.parametrize(("name", "text", "strict", "loose"), ANSWERS)
def test_answers_are_read_off_strictly_and_loosely(data, name, text, strict, loose):
    task = made(data, name)
    assert task.extract(text) == strict
    assert task.extract_loosely(text) == loose


def test_mathematics_is_compared_as_mathematics(data):
    task = made(data, "math")
    problem = replace(first(task), answer=r"\frac{1}{2}")
    said = [r"\boxed{0.5}", r"\boxed{2}", "", r"So the answer is 1/2."]
    found = task.judge([(problem, text) for text in said])
    assert [j.correct for j in found] == [True, False, False, False]
    assert [j.lenient for j in found] == [True, False, False, True]
    assert [j.failed for j in found] == [None] * 4


def test_a_box_that_makes_the_checker_hang_is_a_failure_and_a_loose_answer_is_wrong(
    data, monkeypatch
):
    monkeypatch.setattr("star_exp.tasks.math.WORKERS.timeout_s", 1.0)
    task, tower = made(data, "math"), "9^{9^{9^{9^9}}}"
    said = [rf"\boxed{{{tower}}}", f"So the answer is {tower}"]
    boxed, loose = task.judge([(first(task), text) for text in said])
    assert boxed.failed == "timed out after 1 s"
    assert not boxed.correct and not boxed.lenient
    assert loose.failed is None
    assert loose.answer is None and not loose.lenient


GOLD = [
    ("10 am", "10 am", True),
    ("10 am", "10 A.M", False),
    ("10 am", "10 pm", False),
    ("2 hours", "2 minutes", False),
    ("12 Angry Men", "12", False),
    ("12 Angry Men", "12 angry  men.", True),
    ("007", "7", False),
    ("007", "007", True),
    ("0.7", "7/10", True),
    (".05", "0.050", True),
    ("Paris", "PARIS", True),
    ("1000", "$1,000.00", True),
    ("50%", "50", True),
    ("-1/2", "-0.5", True),
    ("3", "3 dozen", False),
]


@pytest.mark.parametrize(("gold", "said", "right"), GOLD)
def test_answers_of_ones_own_are_numbers_only_where_they_are_bare(data, gold, said, right):
    task = made(data, "jsonl")
    problem = Problem("a", "What?", gold)
    (judgement,) = task.judge([(problem, f" #### {said}")])
    assert judgement.correct == right
    assert task.judge([(problem, task.direct(problem))])[0].correct


def test_answers_of_ones_own_are_shown_as_they_are_written(tmp_path):
    lines = [{"question": "When?", "answer": " 10 am "}, {"question": "What?", "answer": "Paris"}]
    path = write(tmp_path / "mine.jsonl", lines)
    shown = write(tmp_path / "shown.jsonl", [{**lines[1], "question": "Where?", "rationale": "So"}])
    words = ["task=jsonl", f"task.path={path}", "task.dev_share=0", "task.test_share=0"]
    task = task_of([*words, f"task.exemplars_from={shown}"])
    when, what = task.problems("train")
    assert task.prompt(when, hint=True) == "Q: When? (10 am)\nA:"
    assert task.direct(what) == " #### Paris"
    assert task.shown(what)[0].completion == " So\n#### Paris"


def test_choices_with_the_same_text_are_told_apart_by_letter(tmp_path):
    overrides = local("commonsense_qa", tmp_path)
    same = ROWS["commonsense_qa"](71) | {"id": "same"}
    same["choices"] = {"label": list("ABCDE"), "text": ["pond"] * 5}
    write(tmp_path / "commonsense_qa" / "dev.jsonl", [same])
    task = task_of(overrides)
    (problem,) = task.problems("test")
    assert problem.answer == "b"
    assert task.prompt(problem, hint=True).count("(CORRECT)") == 1
    assert "(b) pond (CORRECT)" in task.prompt(problem, hint=True)


BAD = [
    ("gsm8k", {"question": "Why?", "answer": "So it is 3."}, "no line ####"),
    ("gsm8k", {"question": "Why?", "answer": "#### three"}, "expected one number"),
    ("gsm8k", {"question": " ", "answer": "#### 3"}, "'question'"),
    ("commonsense_qa", ROWS["commonsense_qa"](70) | {"answerKey": "F"}, "'F', expected one of"),
    ("commonsense_qa", ROWS["commonsense_qa"](70) | {"choices": "ab"}, "choices can't be read"),
    ("strategyqa", {"question": "Is it?", "answer": "maybe"}, "expected true or false"),
    ("aqua_rat", {"question": "What?", "options": ["A)1"], "correct": "C"}, "there are 1 choices"),
    ("math", {"problem": "What?", "solution": "Nothing.", "level": "Level 1"}, "no .boxed"),
    ("jsonl", {"question": "What?", "answer": ["a"]}, "expected text or a number"),
]


@pytest.mark.parametrize(("name", "row", "said"), BAD)
def test_a_bad_row_is_told_with_file_and_line(tmp_path, name, row, said):
    overrides = local(name, tmp_path, rows=20)
    path = tmp_path / name / "train.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"train.jsonl line 21.*{said}"):
        task_of([*overrides, "task.on_bad_row=raise"]).problems("train")


def test_an_id_that_occurs_twice_is_a_bad_row(tmp_path):
    overrides = local("svamp", tmp_path, rows=20)
    path = tmp_path / "svamp" / "test.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match=r"line 21: .*chal-20"):
        task_of(overrides).problems("test")


SHOWN = [
    # the human solution is no answer: with it a hint would tell all
    ("gsm8k", {"question": "Why?", "answer": "By 2*3=6 nuts.\n#### 6", "rationale": "6"}, "6"),
    ("gsm8k", {"question": "Why?", "answer": "1,006.0", "rationale": "6"}, "1006"),
    ("svamp", ROWS["svamp"](7) | {"rationale": "7"}, "7"),
    ("multiarith", {"question": "Why?", "answer": 6, "rationale": "6"}, "6"),
    ("strategyqa", {"qid": "s", "question": "Is it?", "answer": False, "rationale": "6"}, "no"),
]


@pytest.mark.parametrize(("name", "line", "answer"), SHOWN)
def test_a_line_of_an_exemplar_file_is_a_row_of_the_dataset_or_a_question(
    tmp_path, name, line, answer
):
    path = write(tmp_path / "shown.jsonl", [line])
    task = made(tmp_path, name, f"task.exemplars_from={path}")
    (exemplar,) = task.shown(row(name, 61))
    assert exemplar.problem.answer == answer
    assert exemplar.completion.startswith((" 6", " 7"))
    assert f"({answer})\nA:" in task.prompt(exemplar.problem, hint=True)


REFUSED = [
    ("gsm8k", {"question": "Why?", "answer": "6 or 7", "rationale": "6"}, "'6 or 7', expected one"),
    ("gsm8k", {"question": "Why?", "answer": "6", "rationale": "So\n\n6."}, r"holds '\\n\\n'"),
    ("gsm8k", {"question": "Why?", "answer": "6", "rationale": "#### 7"}, "read as '7'.* is '6'"),
    ("gsm8k", {"question": "Why?", "answer": "6"}, "a field 'rationale'"),
    ("math", {"problem": "Why?", "answer": "6", "rationale": r"\boxed{7}"}, "read as '7'.* is '6'"),
    ("math", {"problem": "Why?", "answer": "6", "rationale": "6"}, "read as None.* is '6'"),
    ("jsonl", {"question": "Why?", "answer": "a", "rationale": "x\n\ny"}, r"holds '\\n\\n'"),
]


@pytest.mark.parametrize(("name", "line", "said"), REFUSED)
def test_an_exemplar_that_teaches_something_wrong_is_told_with_file_and_line(
    tmp_path, name, line, said
):
    good = {"rationale": r"\boxed{6}" if name == "math" else "6", "answer": "6"}
    lines = [good | {"question": "Who?", "problem": "Who?"}, line]
    path = write(tmp_path / "shown.jsonl", lines)
    task = made(tmp_path, name, f"task.exemplars_from={path}")
    with pytest.raises(UserError, match=f"(?s)shown.jsonl.*shown.jsonl line 2: .*{said}"):
        task.shown(row(name, 61))


def test_an_exemplar_may_end_with_a_stop_string(tmp_path):
    line = {"question": "Why?", "answer": "6", "rationale": "So", "id": "e"}
    path = write(tmp_path / "shown.jsonl", [line])
    words = [f"task.exemplars_from={path}", r'task.ends=["."]', "task.written=' #### {answer}.'"]
    (exemplar,) = made(tmp_path, "jsonl", *words).shown(row("jsonl", 1))
    assert exemplar.completion == " So #### 6."


def test_rows_of_train_that_teach_something_wrong_are_told_too(tmp_path):
    words = local("gsm8k", tmp_path)
    path = tmp_path / "gsm8k" / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({"question": "Why?", "answer": "So\n\nit is\n#### 6"})
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"train.jsonl line 3: the exemplar holds"):
        task_of(words).shown(row("gsm8k", 61))


WRONG = [
    ("task.dev_share=1.5", "dev_share"),
    ("task.test_share=0.95", "leave nothing to train on"),
    ("task.train_size=0", "train_size"),
    (r"task.pattern='####'", "no group"),
    ("task.pattern='('", "no regular expression"),
    ("task.ask=Q:", "expected {question}"),
    ("task.written='so {answer}'", "doesn't find the answer"),
    ("task.ask='{question} {steps}'", r"\{steps\} would stand there as it is"),
]


@pytest.mark.parametrize(("override", "said"), WRONG)
def test_settings_that_can_not_work_are_refused(data, override, said):
    with pytest.raises(ValueError, match=said):
        made(data, "jsonl", override)


def test_braces_that_are_no_name_stand_as_they_are(data):
    words = [r"task.ask='{question} End with \text{yes} or {1}.'", "task.written='#### {answer}'"]
    assert r"\text{yes} or {1}." in made(data, "jsonl", *words).prompt(first(made(data, "jsonl")))


def test_a_group_is_one_value(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"question": "a", "answer": 1, "puzzle": {"n": 1}}])
    words = ["task=jsonl", f"task.path={path}", "task.groups=[puzzle]"]
    with pytest.raises(UserError, match=r"line 1: 'puzzle' is \{'n': 1\}, .* task\.groups"):
        task_of(words).problems("train")
    words[-1] = "task.groups=[puzzle.n]"
    (asked,) = task_of([*words, "task.dev_share=0", "task.test_share=0"]).problems("train")
    assert asked.groups == {"puzzle.n": "1"}


def test_exemplars_that_are_not_there_are_told_by_their_setting(data, tmp_path):
    with pytest.raises(UserError, match=r"^task\.exemplars_from=mat: .* mean 'math'"):
        made(data, "svamp", "task.exemplars_from=mat").problems("train")
    with pytest.raises(UserError, match=r"^task\.exemplars_from=no/where\.jsonl: "):
        made(data, "svamp", "task.exemplars_from=no/where.jsonl").problems("train")
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match=r"^task\.exemplars_from=.*empty\.jsonl has no rows"):
        made(data, "svamp", f"task.exemplars_from={empty}").problems("train")


def test_the_same_question_with_other_choices_is_measured_too(tmp_path):
    words = local("commonsense_qa", tmp_path, rows=20)
    path = tmp_path / "commonsense_qa" / "dev.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    other = {"label": list("ABCDE"), "text": list("vwxyz")}
    more = [rows[0] | {"id": "other", "choices": other}, rows[1] | {"id": "twice"}]
    write(path, rows + more)
    task = task_of(words)
    assert len(task.problems("test")) == 22  # published ones stay as they are, repeats included
    assert task.why_left_out("test") == {}


def test_what_dev_has_twice_is_told_also_where_it_is_cut_off_train(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(40)]
    path = write(tmp_path / "mine.jsonl", rows + rows)
    task = task_of(["task=jsonl", f"task.path={path}", "task.dev_share=0.4", "task.test_share=0"])
    dev = task.problems("dev")
    assert 0 < len(dev) < 40 and task.left_out("dev") == len(dev)
    assert len(task.problems("train")) == 80 - 2 * len(dev)
