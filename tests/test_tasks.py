"""The tasks from datasets: how a row is asked, hinted and answered, and which rows are where."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from star_exp.check import check
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.base import Task
from tests.made import ROWS, local


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


def made(data: Path, name: str, *overrides: str) -> Task:
    return build(plain(compose([*local(name, data), *overrides]))["task"])


def first(task: Task, split: str = "test") -> Problem:
    return min(task.problems(split), key=lambda problem: (len(problem.id), problem.id))


PROMPTS = {
    "gsm8k": (
        "Q: Ann has 120 nuts and finds 1,000. How many has she?\nA:",
        "Q: Ann has 120 nuts and finds 1,000. How many has she? (1120)\nA:",
        " #### 1120",
    ),
    "commonsense_qa": (
        "Q: Where is thing 60?\nAnswer Choices:\n(a) shed 60\n(b) pond 60\n(c) barn 60\n"
        "(d) attic 60\n(e) cellar 60\nA:",
        "Q: Where is thing 60?\nAnswer Choices:\n(a) shed 60 (CORRECT)\n(b) pond 60\n(c) barn 60\n"
        "(d) attic 60\n(e) cellar 60\nA:",
        " (a).",
    ),
    "svamp": (
        "Q: Bo had 120 pens. How many?\nA:",
        "Q: Bo had 120 pens. How many? (120)\nA:",
        " #### 120",
    ),
    "multiarith": (
        "Q: What is 120 and 120?\nA:",
        "Q: What is 120 and 120? (240)\nA:",
        " #### 240",
    ),
    "asdiv": (
        "Q: Bo has 61 pens. How many?\nA:",
        "Q: Bo has 61 pens. How many? (61)\nA:",
        " #### 61",
    ),
    "aqua_rat": (
        "Q: What is 120?\nAnswer Choices:\n(a) 120\n(b) 121\n(c) 122\n(d) 123\n(e) 124\nA:",
        "Q: What is 120?\nAnswer Choices:\n(a) 120 (CORRECT)\n(b) 121\n(c) 122\n(d) 123\n"
        "(e) 124\nA:",
        " (a).",
    ),
    "strategyqa": ("Q: Is 120 even?\nA:", "Q: Is 120 even? (yes)\nA:", " yes."),
    "math": (
        "Problem:\nWhat is half of $120$?\nSolution:",
        "Problem:\nWhat is half of $120$? ($\\frac{120}{2}$)\nSolution:",
        " $\\boxed{\\frac{120}{2}}$.",
    ),
    "math500": (
        "Problem:\nWhat is half of $120$?\nSolution:",
        "Problem:\nWhat is half of $120$? ($\\frac{120}{2}$)\nSolution:",
        " $\\boxed{\\frac{120}{2}}$.",
    ),
    "jsonl": (
        "Q: Which plant is number 120?\nA:",
        "Q: Which plant is number 120? (fern 120)\nA:",
        " #### fern 120",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_asked_hinted_and_answered_in_the_papers_format(data, name):
    task = made(data, name)
    problem = first(task)
    asked, hinted, direct = PROMPTS[name]
    assert task.prompt(problem) == asked
    assert task.prompt(problem, hint=True) == hinted
    assert task.direct(problem) == direct
    assert task.extract(direct) == problem.answer


@pytest.mark.parametrize("name", ROWS)
def test_gold_is_right_and_nothing_and_others_are_wrong(data, name, capsys):
    from rich.console import Console

    assert check(made(data, name), Console()) == []
    assert "100.0%" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("math500", "asdiv")])
def test_exemplars_are_judged_right_and_none_is_trained_or_measured_on(data, name):
    task = made(data, name)
    if name == "jsonl":
        with pytest.raises(ValueError, match="exemplars_from"):
            task.shown(first(task))
        return
    shown = task.shown(first(task))
    assert len(shown) >= 4
    for exemplar in shown:
        (judgement,) = task.judge([(exemplar.problem, exemplar.completion)])
        assert judgement.correct, exemplar
        assert exemplar.completion.startswith(" ")  # it stands right behind "A:"
    everywhere = {p.question for split in ("train", "dev", "test") for p in task.problems(split)}
    assert not everywhere & {exemplar.problem.question for exemplar in shown}


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
    task = build(plain(compose(overrides))["task"])
    with pytest.raises(UserError, match="not in the order"):
        task.problems("train")


def test_an_exemplar_is_not_shown_to_its_own_question(data):
    task = made(data, "svamp")
    shown = task.shown(first(task))
    assert shown[0] not in task.shown(shown[0].problem)


def test_splits_are_disjoint_and_do_not_depend_on_sizes_or_on_bad_rows(tmp_path):
    overrides = local("gsm8k", tmp_path, rows=500)
    (tmp_path / "gsm8k" / "dev.jsonl").unlink()
    (tmp_path / "gsm8k" / "test.jsonl").unlink()
    cut = ["task.dev_share=0.2", "task.test_share=0.1", "task.dev_size=null"]
    task = build(plain(compose([*overrides, *cut]))["task"])
    ids = {split: {p.id for p in task.problems(split)} for split in ("train", "dev", "test")}
    assert not ids["train"] & ids["dev"] | ids["train"] & ids["test"] | ids["dev"] & ids["test"]
    assert sum(map(len, ids.values())) == 500 - 6  # exemplars
    assert 60 < len(ids["dev"]) < 140  # a binomial of 494 and 0.2: 99 and 9
    assert 25 < len(ids["test"]) < 80
    few = build(
        plain(compose([*overrides, *cut[:2], "task.dev_size=10", "task.train_size=7"]))["task"]
    )
    assert {p.id for p in few.problems("dev")} < ids["dev"]
    assert len(few.problems("dev")) == 10
    assert len(few.problems("train")) == 7
    path = tmp_path / "gsm8k" / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[20] = '{"question": "no answer here"}'
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"train.jsonl line 21.*'answer'.*on_bad_row=skip"):
        build(plain(compose([*overrides, *cut]))["task"]).problems("train")
    left = build(plain(compose([*overrides, *cut, "task.on_bad_row=skip"]))["task"])
    assert {p.id for p in left.problems("dev")} == ids["dev"] - {"train/20"}


def test_a_split_that_is_not_there_is_told(data):
    task = made(data, "math500")
    (data / "math500" / "train.jsonl").unlink()
    with pytest.raises(ValueError, match="no split for 'train'"):
        task.problems("train")
    with pytest.raises(ValueError, match="no split 'validation'"):
        task.problems("validation")
    assert list(task.problems("ood")) == []


def test_asdiv_asks_for_numbers_only(data):
    task = made(data, "asdiv")
    assert len(task.problems("test")) == 48  # of the 60 rows 12 are answered by a name


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
    ("strategyqa", " It is. So the answer is no.", "no", "no"),
    ("strategyqa", " No, since it is odd.", None, "no"),
    ("strategyqa", " yes", "yes", "yes"),
    ("math", r" $\boxed{1}$ or $\boxed{\frac{1}{2}}$", r"\frac{1}{2}", r"\frac{1}{2}"),
    ("math", " The final answer is $x=5$. Good.", None, "$x=5$"),
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


def test_mathematics_is_compared_as_mathematics_and_what_hangs_is_a_failure(data):
    task = made(data, "math")
    problem = replace(first(task), answer=r"\frac{1}{2}")
    said = [r"\boxed{0.5}", r"\boxed{2}", "", r"So the answer is 1/2.", r"\boxed{9^{9^{9^{9^9}}}}"]
    found = task.judge([(problem, text) for text in said])
    assert [j.correct for j in found] == [True, False, False, False, False]
    assert [j.lenient for j in found] == [True, False, False, True, False]
    assert [j.failed is None for j in found[:4]] == [True] * 4


def test_choices_with_the_same_text_are_told_apart_by_letter(tmp_path):
    overrides = local("commonsense_qa", tmp_path)
    path = tmp_path / "commonsense_qa" / "test.jsonl"
    row = ROWS["commonsense_qa"](1) | {"id": "same"}
    row["choices"] = {"label": list("ABCDE"), "text": ["pond"] * 5}
    path.write_text(json.dumps(row) + "\n")
    task = build(plain(compose([*overrides, "task.splits.test=test"]))["task"])
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
    path = tmp_path / name / "test.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    task = build(
        plain(compose([*overrides, "task.on_bad_row=raise", "task.splits.test=test"]))["task"]
    )
    with pytest.raises(UserError, match=f"test.jsonl line 21.*{said}"):
        task.problems("test")


def test_an_id_that_occurs_twice_is_a_bad_row(tmp_path):
    overrides = local("svamp", tmp_path, rows=20)
    path = tmp_path / "svamp" / "test.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match=r"line 21: .*chal-40"):
        build(plain(compose(overrides))["task"]).problems("test")


WRONG = [
    ("task.dev_share=1.5", "dev_share"),
    ("task.test_share=0.95", "leave nothing to train on"),
    ("task.train_size=0", "train_size"),
    (r"task.pattern='####'", "no group"),
    ("task.pattern='('", "no regular expression"),
    ("task.ask=Q:", "expected {question}"),
    ("task.written='so {answer}'", "doesn't find the answer"),
]


@pytest.mark.parametrize(("override", "said"), WRONG)
def test_settings_that_can_not_work_are_refused(data, override, said):
    with pytest.raises(ValueError, match=said):
        made(data, "jsonl", override)


# reasoning-gym


def gym(**settings) -> Task:
    node = plain(compose(["task=reasoning_gym"]))["task"]
    return build(node | {"train_size": 40, "dev_size": 10, "test_size": 10} | settings)


def test_any_task_of_reasoning_gym_is_asked_and_scored_by_its_own_scorer():
    from reasoning_gym.factory import DATASETS

    for name in ("chain_sum", "spell_backward", "countdown", "sudoku"):
        assert name in DATASETS
        task = gym(name=name)
        problems = task.problems("test")
        gold = task.judge([(problem, task.direct(problem)) for problem in problems])
        assert all(judgement.correct for judgement in gold), (name, gold)
        wrong = task.judge([(problem, " #### no") for problem in problems])
        assert not any(judgement.correct for judgement in wrong), name


def test_reasoning_gyms_scorer_takes_other_right_answers_too():
    task = gym(name="countdown")
    problem = task.problems("test")[0]
    swapped = f" #### ({problem.answer})"
    (judgement,) = task.judge([(problem, swapped)])
    assert judgement.correct  # another text than the gold answer


def test_a_split_of_reasoning_gym_holds_no_question_of_another():
    task = gym(name="chain_sum", settings={"max_terms": 2, "max_digits": 1})
    asked = {s: [p.question for p in task.problems(s)] for s in ("train", "dev", "test")}
    assert not set(asked["train"]) & set(asked["dev"] + asked["test"])
    assert len(set(asked["test"])) == len(asked["test"])


def test_levels_of_the_curriculum_set_the_difficulty():
    task = gym(name="chain_sum", levels={"num_terms": 3, "num_digits": 0}, groups=["num_terms"])
    terms = {int(problem.groups["num_terms"]) for problem in task.problems("train")}
    assert max(terms) == 5  # levels are [2, 3, 4, 5, ...]
    assert all(len(word) <= 1 for p in task.problems("train") for word in _operands(p.question))


def _operands(question: str) -> list[str]:
    return [word for word in question.rpartition(":")[2].split() if word.isdigit()]


def test_rationales_written_for_reasoning_gym_reach_the_answer():
    assert gym(name="chain_sum").exemplars(20)[0].completion.startswith(" ")
    for name in ("chain_sum", "spell_backward"):
        task = gym(name=name)
        shown = task.exemplars(20)
        assert all(j.correct for j in task.judge([(e.problem, e.completion) for e in shown]))
    (exemplar, *_) = gym(name="spell_backward").exemplars(1)
    steps = exemplar.completion.split("####")[0].strip().split(", ")
    assert steps[-1] == exemplar.problem.answer
    assert [len(step) for step in steps] == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "chain_summ"}, "chain_sum"),
        ({"settings": {"max_term": 3}}, "max_terms"),
        ({"levels": {"terms": 1}}, "num_terms"),
        ({"levels": {"num_terms": 99}}, "expected 0 to"),
    ],
)
def test_wrong_settings_of_reasoning_gym_are_told(settings, said):
    with pytest.raises(UserError, match=said):
        gym(**settings).problems("train")
