"""`star-exp check`: what it grades, and what it says of rows and answers that don't come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from star_exp.check import check, main
from star_exp.cli import main as cli
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError
from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.arithmetic import Arithmetic
from star_exp.tasks.base import Task
from star_exp.tasks.jsonl import JsonLines
from tests.made import ROWS, SPLITS, local, write


def printed(task: Task) -> tuple[list[str], list[list[str]], int]:
    """The lines, the cells of the table, and how many exceptions there are."""
    console = Console(width=200, record=True)
    exceptions = check(task, console)
    lines = console.export_text().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    return [line for line in lines if line[:1] not in "│┃┏┡└"], cells, len(exceptions)


@pytest.mark.parametrize("name", ROWS)
def test_gold_is_right_and_nothing_and_others_are_wrong(tmp_path, name):
    words = [*local(name, tmp_path, rows=20), "task.dev_share=0.2"]
    _, table, exceptions = printed(build(plain(compose(words))["task"]))
    assert exceptions == 0
    assert len(table) >= len(SPLITS[name])
    for row in table:
        assert [*row[2:4], row[5]] == ["100.0%", "0.0%", "0"], row
        assert row[4] in ("0.0%", "-"), row  # a split of two may have one answer
    assert "0.0%" in {row[4] for row in table}


def test_every_row_is_graded_whatever_the_sizes_and_the_exemplars_too(tmp_path):
    words = local("strategyqa", tmp_path)  # train and dev files
    settings = ["task.dev_size=7", "task.train_size=5", "task.test_share=0"]
    lines, table, _ = printed(build(plain(compose([*words, *settings]))["task"]))
    assert [row[:2] for row in table] == [["train", "60"], ["dev", "60"], ["exemplars", "6"]]
    assert "dev: task.dev_size=7 of 60; a run has the other 53 in no split" in lines
    assert "train: task.train_size=5 of 60; a run has the other 55 in no split" in lines
    assert any(line.startswith("test: ") and "task.test_share" in line for line in lines)


def test_rows_that_are_left_out_are_counted_and_each_is_told(tmp_path):
    words = local("asdiv", tmp_path)
    path = tmp_path / "asdiv" / "test.jsonl"
    path.write_text(path.read_text() + "{}\n")
    lines, table, exceptions = printed(
        build(plain(compose([*words, "task.on_bad_row=skip"]))["task"])
    )
    assert exceptions == 0
    assert [row[-1] for row in table] == ["13", "0"]
    assert "test: left out 1 bad, 12 not asked" in lines
    names = [line for line in lines if line.endswith("the answer is 'Bo', not one number")]
    assert len(names) == 12
    assert names[1].startswith("test.jsonl line 6: ")
    assert any(line.startswith("test.jsonl line 61: expected a field") for line in lines)


def test_every_exception_is_printed_and_the_command_fails(tmp_path, capsys):
    """A pattern that takes one digit takes the 1 of 10 to 19 for the answer."""
    rows = [{"question": f"Which is number {n}?", "answer": n} for n in range(40)]
    path = write(tmp_path / "mine.jsonl", rows)
    words = ["task=jsonl", f"task.path={path}", "task.dev_share=0", "task.test_share=0"]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, r"task.pattern='#### (\d)'"]) == 1
    said = capsys.readouterr().out
    wrong = [line for line in said.splitlines() if "was expected to be right" in line]
    assert len(wrong) == 30
    assert "train/10: ' #### 10', read as '1', was expected to be right" in wrong[0]


@pytest.mark.parametrize("name", ["compact", "scratchpad"])
def test_another_answer_to_a_sum_is_wrong(name):
    task = Arithmetic(format=name, train_size=50, dev_size=20, test_size=20)
    _, table, exceptions = printed(task)
    assert exceptions == 0
    assert [row[2:6] for row in table] == [["100.0%", "0.0%", "0.0%", "0"]] * 3


def test_what_a_published_split_asks_twice_stays_and_train_loses_what_it_asks(tmp_path):
    rows = [{"question": f"How many is {n}?", "answer": n} for n in range(5)]
    again = [{"question": f"how many is  {n}", "answer": n} for n in (1, 3)]
    write(tmp_path / "train.jsonl", [{"question": "Why?", "answer": "so"}, again[0]])
    write(tmp_path / "test.jsonl", rows + again)
    lines, table, _ = printed(JsonLines(path=str(tmp_path), dev_share=0.0))
    assert [[row[0], row[1], row[-1]] for row in table] == [["train", "1", "1"], ["test", "7", "0"]]
    assert "train: left out 1 repeated" in lines


def test_a_split_without_problems_has_no_shares(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": "so"}])
    _, table, _ = printed(JsonLines(path=str(path), dev_share=0.5))
    assert sorted(row[1:6] for row in table) == [
        ["0", "-", "-", "-", "0"],
        ["1", "100.0%", "0.0%", "-", "0"],
    ]


def test_a_split_whose_rows_are_another_tasks_is_not_taken_for_absent(tmp_path, capsys):
    _, path = local("svamp", tmp_path)
    assert cli(["check", "task=gsm8k", path]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "expected a field 'answer'" in said.err and "task.on_bad_row=skip" in said.err


def test_an_error_of_a_split_that_is_there_ends_the_check():
    task = Arithmetic(min_digits=1, max_digits=1, base=2, train_size=5, dev_size=5, test_size=5)
    with pytest.raises(ConfigError, match=r"raise task\.min_digits"):
        check(task, Console())


@pytest.mark.parametrize(
    "word",
    [
        "task.dev_share=2",
        "task.dev_size=-1",
        "task.max_failed=5",
        "task.pattern='('",
        "task.pattern='####'",
        "task.written=' #### '",
        "task.ask=hello",
        "task.ask='{question} {steps}'",
    ],
)
def test_a_value_that_the_task_refuses_is_told_in_a_line(tmp_path, capsys, word):
    assert cli(["check", *local("jsonl", tmp_path), word]) == 1
    head, said = capsys.readouterr().err.splitlines()
    assert head == "star-exp check: the config can't be used"
    assert said.startswith(word.partition("=")[0])


def test_what_is_wrong_with_the_row_of_a_file_is_told(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"question": "Why?"}])
    with pytest.raises(UserError, match="line 1: expected a field 'answer'"):
        check(JsonLines(path=str(path)), Console())


def test_one_answer_for_all_leaves_no_wrong_one_to_try(tmp_path):
    rows = [{"question": f"Is {n} a number?", "answer": "Yes"} for n in range(9)]
    path = write(tmp_path / "mine.jsonl", rows)
    _, table, exceptions = printed(JsonLines(path=str(path), dev_share=0.0))
    assert exceptions == 0
    assert [row[:5] for row in table] == [["train", "9", "100.0%", "0.0%", "-"]]


def test_exemplars_that_can_not_be_read_are_told_beneath_the_table(tmp_path, capsys):
    local("gsm8k", tmp_path)
    task = build(
        plain(compose(["task=gsm8k", f"task.path={tmp_path / 'gsm8k' / 'test.jsonl'}"]))["task"]
    )
    with pytest.raises(UserError, match="exemplars are rows of train"):
        check(task, Console())
    assert "100.0%" in capsys.readouterr().out


@dataclass(frozen=True, kw_only=True)
class Broken(JsonLines):
    """A task that takes everything for right."""

    def correct(self, problem: Problem, answer: str | None) -> bool:
        return True


def test_a_task_that_judges_nothing_wrong_is_found_out(tmp_path: Path):
    rows: Sequence[dict[str, object]] = [{"question": f"{n}?", "answer": n} for n in range(5)]
    path = write(tmp_path / "mine.jsonl", rows)
    lines, table, exceptions = printed(Broken(path=str(path), dev_share=0.0))
    assert table[0][2:5] == ["100.0%"] * 3
    assert exceptions == 10
    assert sum("was expected to be no answer" in line for line in lines) == 5
