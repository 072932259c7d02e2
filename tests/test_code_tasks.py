"""MBPP and HumanEval: how programs are asked for, read off, checked, and kept apart."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from star_exp.check import check
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.errors import UserError
from star_exp.prompts import Prompts
from star_exp.tasks.code import Code

Row = dict[str, Any]


def mbpp(n: int) -> Row:
    return {
        "task_id": n,
        "text": f"Write a function to add {n} to a number.",
        "code": f"def add_{n}(x):\r\n\treturn x + {n}\r\n",
        "test_list": [f"assert add_{n}({x}) == {x + n}" for x in (1, 5, -2)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def humaneval(n: int) -> Row:
    """Multiples of three have a helper, and no assertion that could be shown."""
    helper = f"def more(x):\n    return x + {n}\n\n\n" if n % 3 == 0 else ""
    asserts = [
        "for x in range(3):\n        assert candidate(x) == more(x)"
        if helper
        else f"assert candidate(2) == {2 + n}, 'no'\n    assert candidate(-1) == {n - 1}"
    ]
    return {
        "task_id": f"HumanEval/{n}",
        "entry_point": f"plus_{n}",
        "prompt": f"{helper}def plus_{n}(x: int) -> int:\n    import math\n"
        f'    """Add {n}.\n    >>> plus_{n}(0)\n    {n}\n    """\n',
        "canonical_solution": f"    return math.floor(x) + {n}\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    " + asserts[0] + "\n",
    }


def write(folder: Path, **splits: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def made(name: str, path: Path, *overrides: str) -> Code:
    words = [f"task={name}", f"task.path={path}", *overrides]
    task = build(plain(compose(words))["task"])
    assert isinstance(task, Code)
    return task


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mbpp")
    splits = {"prompt": range(1, 11), "test": range(11, 15), "dev": range(20, 23)}
    rows = {split: [mbpp(n) for n in numbers] for split, numbers in splits.items()}
    return write(folder, train=[mbpp(n) for n in range(30, 36)], **rows)


@pytest.fixture(scope="module")
def mbpp_task(data: Path) -> Code:
    return made("mbpp", data)


@pytest.fixture(scope="module")
def humaneval_task(data: Path, tmp_path_factory) -> Code:
    folder = write(tmp_path_factory.mktemp("humaneval"), test=[humaneval(n) for n in range(5)])
    return made("humaneval", folder, f"task.exemplars_path={data}")


ASKED = """\
### Task Start ###
# These are the assertions for your function:
assert add_11(1) == 12

\""" Write a function to add 11 to a number. \"""
"""


def test_a_task_is_asked_with_one_assertion_and_hinted_with_all(mbpp_task):
    problem = mbpp_task.problems("test")[0]
    assert mbpp_task.prompt(problem) == ASKED
    hinted = mbpp_task.prompt(problem, hint=True)
    assert hinted == ASKED.replace(
        "== 12\n", "== 12\nassert add_11(5) == 16\nassert add_11(-2) == 9\n"
    )
    assert "return" not in hinted


def test_a_few_shot_prompt_has_the_papers_form_with_rows_1_to_3_of_the_prompt_split(mbpp_task):
    policy: Any = SimpleNamespace(begin=(), encode=lambda text: tuple(map(ord, text)))
    problem = mbpp_task.problems("test")[0]
    tokens = Prompts("always").sampling(policy, mbpp_task, problem, trained=0)
    text = "".join(map(chr, tokens))
    shown = "".join(
        "### Task Start ###\n# These are the assertions for your function:\n"
        f"assert add_{n}(1) == {n + 1}\n\n"
        f'""" Write a function to add {n} to a number. """\n'
        f"def add_{n}(x):\n\treturn x + {n}\n### Task End ###\n\n"
        for n in (2, 3, 4)
    )
    header = "# Write Python function to complete the task and pass the assertion tests.\n\n"
    assert text == header + shown + ASKED
    assert mbpp_task.stop == ("\n### Task End ###",)


def test_the_function_of_humaneval_stands_below_its_docstring(humaneval_task):
    with_helper, plainly = humaneval_task.problems("test")[:2]
    assert humaneval_task.prompt(plainly) == (
        "### Task Start ###\n# These are the assertions for your function:\n"
        "assert plus_1(2) == 3\n\n"
        '""" Add 1.\n>>> plus_1(0)\n1 """\n'
        "def plus_1(x: int) -> int:\n    import math\n"
    )
    assert humaneval_task.prompt(with_helper) == (
        '### Task Start ###\n\n""" Add 0.\n>>> plus_0(0)\n0 """\n'
        "def more(x):\n    return x + 0\n\n\ndef plus_0(x: int) -> int:\n    import math\n"
    )
    assert "plus_1(-1) == 0" in humaneval_task.prompt(plainly, hint=True)
    shown = humaneval_task.shown(plainly)
    assert [exemplar.problem.id for exemplar in shown] == [f"exemplar/{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_references_pass_and_nothing_and_others_do_not(name, request):
    task = request.getfixturevalue(f"{name}_task")
    assert check(task, Console(quiet=True)) == []
    shown = task.shown(task.problems("test")[0])
    assert all(j.correct for j in task.judge([(e.problem, e.completion) for e in shown]))


def test_the_human_programs_of_train_are_there_and_pass(mbpp_task):
    solved = mbpp_task.solved()
    assert [each.problem for each in solved] == list(mbpp_task.problems("train"))
    assert solved[0].completion == "def add_30(x):\n\treturn x + 30"  # plain line ends
    assert all(j.correct for j in mbpp_task.judge([(e.problem, e.completion) for e in solved]))


def test_a_program_ends_at_the_mark_and_may_stand_in_a_block_for_a_lenient_reader(mbpp_task):
    problem = mbpp_task.problems("test")[0]
    right = "def add_11(x): return x + 11"
    said = {
        f"\r\n{right}\r\n### Task End ###\n\nassert False": (right, True, True),
        f"Here you are:\n```python\n{right}\n```\nGood?": (None, False, True),
        f"{right.replace('11', '12')}": (right.replace("11", "12"), False, False),
        "  \n### Task End ###": (None, False, False),
        "def add_11(x): return x + 11 if x > 0 else 0": (None, False, False),  # third assertion
    }
    found = mbpp_task.judge([(problem, text) for text in said])
    for judgement, (answer, correct, lenient) in zip(found, said.values(), strict=True):
        assert (judgement.correct, judgement.lenient) == (correct, lenient)
        assert judgement.failed is None
        assert answer is None or judgement.answer == answer
    assert mbpp_task.extract("  \n### Task End ###") is None


def test_why_a_program_did_not_pass_is_told(mbpp_task):
    problem = mbpp_task.problems("test")[0]
    programs = ["def add_11(x): return x + 12", "def add_11(x): return y", "x ="]
    outcomes = mbpp_task.checked([(problem, each) for each in programs])
    reasons = [outcome.value.reason if outcome.value else None for outcome in outcomes]
    assert reasons[0] == "assertion: assert add_11(1) == 12"
    assert str(reasons[1]).startswith("exception: NameError")
    assert str(reasons[2]).startswith("exception: SyntaxError")
    assert not mbpp_task.correct(problem, programs[0])
    assert mbpp_task.correct(problem, problem.answer)
    assert not mbpp_task.correct(problem, None)


SPECIAL = [
    mbpp(50)
    | {  # a builtin of the program's, and one of ours
        "code": "def sum(a, b):\n    return a + b",
        "test_list": ["assert sum(1, 2) == max(3, 0)"],
    },
    mbpp(51)
    | {  # a module that only the program imports, and that the tests use
        "code": "import sys\ndef size(x):\n    return sys.getsizeof(x)",
        "test_list": ["assert size((1, 2)) == sys.getsizeof((1, 2))"],
    },
    mbpp(52)
    | {  # a class of the program's in what is set up
        "code": "class Node:\n    def __init__(self, n):\n        self.n, self.next = n, None\n"
        "def total(node):\n    return node.n + total(node.next) if node else 0",
        "test_setup_code": "root = Node(3)\r\nroot.next = Node(4)\r\nroot.next.next = Node(5)",
        "test_list": ["assert total(root) == 12", "assert (total(root.next)) == 9"],
    },
    mbpp(53)
    | {  # a type, a function's argument with a default, several lines
        "code": "def keep(xs, kind=int):\n    return [x for x in xs if type(x) is kind]",
        "test_list": ["assert keep([1, '2'], str) == ['2']", "assert keep(\n  (1, '2')) == [1]"],
    },
]


@pytest.fixture
def special(tmp_path) -> Code:
    path = write(tmp_path / "special", test=SPECIAL, train=[mbpp(1)], prompt=[mbpp(2)] * 4)
    return made("mbpp", path)


def test_tests_take_from_the_program_what_it_defines_and_nothing_else(special):
    problems = special.problems("test")
    assert all(j.correct for j in special.judge([(p, p.answer) for p in problems]))
    names = [special.tests(problem).names for problem in problems]
    assert names == [("sum",), ("size",), ("Node", "total"), ("keep",)]
    forged = [
        "max = lambda *_: 9\ndef sum(a, b): return 9",
        "import sys\nsys.getsizeof = lambda x: 1\ndef size(x): return 1",
    ]
    written = list(zip(problems, forged, strict=False))
    assert not any(j.correct for j in special.judge(written))


def test_a_judge_that_can_not_start_a_sandbox_has_no_opinion(mbpp_task):
    greedy = replace(mbpp_task, memory_mib=2**60)
    problem = greedy.problems("test")[0]
    (judgement,) = greedy.judge([(problem, problem.answer)])
    assert not judgement.correct
    assert str(judgement.failed).startswith("SandboxError")
    with pytest.raises(ValueError, match="SandboxError"):
        greedy.correct(problem, problem.answer)


def test_texts_that_are_measured_on_are_not_trained_on(tmp_path):
    repeated = mbpp(40) | {"text": "write a  function to add 11 to a number."}
    rows = {"train": [repeated, mbpp(41)], "test": [mbpp(11)], "dev": [mbpp(42)]}
    task = made("mbpp", write(tmp_path / "twice", prompt=[mbpp(1)] * 4, **rows))
    assert [problem.id for problem in task.problems("train")] == ["train/41"]


def test_a_problem_out_of_a_store_is_judged_by_a_task_that_has_read_nothing_yet(data, mbpp_task):
    problem = mbpp_task.problems("test")[0]
    (judgement,) = made("mbpp", data).judge([(problem, problem.answer)])
    assert judgement.correct
    with pytest.raises(UserError, match="no problem 'test/999'"):
        mbpp_task.judge([(replace(problem, id="test/999"), "x")])


BAD = [
    ({"test_list": []}, "'test_list' is .., expected a list"),
    ({"test_list": ["assert f(1 == 2"]}, "'test_list' is not Python"),
    ({"code": "print 'x'"}, "'code' is not Python"),
    ({"code": ""}, "'code'"),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_a_bad_row_is_told_with_file_and_line(tmp_path, fields, said):
    path = write(tmp_path / "bad", test=[mbpp(1), mbpp(2) | fields])
    with pytest.raises(UserError, match=f"test.jsonl line 2: {said}"):
        made("mbpp", path).problems("test")


def test_a_prompt_without_its_function_is_a_bad_row(tmp_path):
    path = write(tmp_path / "bad", test=[humaneval(1) | {"entry_point": "minus"}])
    with pytest.raises(UserError, match="no function 'minus' with a docstring"):
        made("humaneval", path).problems("test")


WRONG = [
    ("task.timeout_s=0", "timeout_s"),
    ("task.timeout_s=60", "up to 25"),
    ("task.memory_mib=10", "at least 64"),
]


@pytest.mark.parametrize(("override", "said"), WRONG)
def test_settings_that_can_not_work_are_refused(data, override, said):
    with pytest.raises(ValueError, match=said):
        made("mbpp", data, override)


def test_humaneval_out_of_local_files_needs_those_of_mbpp_for_exemplars_alone(tmp_path):
    task = made("humaneval", write(tmp_path / "alone", test=[humaneval(1), humaneval(2)]))
    problem = task.problems("test")[0]
    assert task.correct(problem, problem.answer)
    with pytest.raises(ValueError, match=r"task\.exemplars_path=FOLDER"):
        task.shown(problem)


def test_exemplars_that_are_not_there_are_told(data):
    with pytest.raises(UserError, match=r"names row 10, .* has 10 rows"):
        made("mbpp", data, "task.exemplars_from=[1,10]").problems("train")
