"""The browser of rollouts: what it finds, what it prints, what its keys do."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_exp.errors import UserError
from star_exp.records import Rollout, Segment
from star_exp.show import main, open_store
from star_exp.show.browser import PAGE, Browser
from star_exp.show.index import Count, Index, Selection, counts, select, spans
from star_exp.show.text import block, one_line, printable, report
from star_exp.store import RolloutStore, StoreError


def rollout(iteration: int, phase: str, problem: str, correct: bool, **more) -> Rollout:
    number = int(problem.rpartition("/")[2])
    answer = str(2 * number) if correct else str(2 * number + 1)
    values = {
        "problem": problem,
        "question": f"{number}+{number}",
        "gold": str(2 * number),
        "groups": {"digits": "1"},
        "iteration": iteration,
        "phase": phase,
        "sample": 0,
        "hinted": phase == "rationalize",
        "prompt_tokens": 4,
        "segments": (
            Segment(f"of M_{iteration}\n#{answer}", (5, 6, 7), True, (-1.0, -0.5, -0.25)),
        ),
        "answer": answer,
        "correct": correct,
        "truncated": False,
        "seed": 17,
        "weights": "abc",
    }
    return Rollout(**{**values, **more})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Problems train/0..3 and dev/0, dev/1; iteration n has the first n of its problems right."""
    store = RolloutStore(tmp_path / "run" / "rollouts")
    for iteration in range(4):
        dev = [rollout(iteration, "dev", f"dev/{n}", n < iteration) for n in range(2)]
        store.write(iteration, "dev", 0, dev)
        if iteration:
            for shard in range(2):
                numbers = range(2 * shard, 2 * shard + 2)
                drawn = [
                    rollout(iteration, "generate", f"train/{n}", n < iteration) for n in numbers
                ]
                store.write(iteration, "generate", shard, drawn)
            store.write(
                iteration, "rationalize", 0, [rollout(iteration, "rationalize", "train/3", True)]
            )
    return tmp_path / "run"


@pytest.fixture
def index(run_dir: Path) -> Index:
    return Index(open_store(run_dir))


def places(table) -> list[tuple[int, str, str]]:
    return [(row["iteration"], row["phase"], row["problem"]) for row in table.to_pylist()]


def show(*arguments: object, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "star_exp", "show", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **more)


# What is found


def test_the_index_goes_through_the_phases_as_an_iteration_does(index: Index):
    assert len(index.table) == 4 * 2 + 3 * 5
    assert places(index.table)[:9] == [
        (0, "dev", "dev/0"),
        (0, "dev", "dev/1"),
        *((1, "generate", f"train/{n}") for n in range(4)),
        (1, "rationalize", "train/3"),
        (1, "dev", "dev/0"),
        (1, "dev", "dev/1"),
    ]


def test_a_phase_without_a_known_place_comes_last(run_dir: Path):
    store = open_store(run_dir)
    store.write(1, "distill", 0, [rollout(1, "distill", "train/0", True)])
    assert Index(store).phases == ["generate", "rationalize", "dev", "distill"]


@pytest.mark.parametrize(
    ("selection", "number"),
    [
        (Selection(), 23),
        (Selection(iterations=(0,)), 2),
        (Selection(iterations=(1, 3)), 14),
        (Selection(phase="generate"), 12),
        (Selection(phase="generate", correct=True), 1 + 2 + 3),
        (Selection(phase="generate", correct=False), 3 + 2 + 1),
        (Selection(problem="train/3"), 6),
        (Selection(text="TRAIN/3"), 6),
        (Selection(text="1+1"), 3 + 4),
        (Selection(iterations=(2,), phase="dev", correct=True, problem="dev/1", text="dev"), 1),
        (Selection(text="no such thing"), 0),
    ],
)
def test_filters_find_what_a_hand_count_finds(index: Index, selection: Selection, number: int):
    assert len(select(index.table, selection)) == number


def test_following_a_problem_lists_it_through_the_iterations(index: Index):
    assert places(select(index.table, Selection(problem="train/3"))) == [
        (iteration, phase, "train/3")
        for iteration in (1, 2, 3)
        for phase in ("generate", "rationalize")
    ]


def test_counts_give_the_right_ones_of_each_phase(index: Index):
    assert counts(index.table)[:4] == [
        Count(0, "dev", rollouts=2, right=0),
        Count(1, "generate", rollouts=4, right=1),
        Count(1, "rationalize", rollouts=1, right=1),
        Count(1, "dev", rollouts=2, right=1),
    ]


def test_a_row_of_the_index_leads_to_its_whole_rollout(index: Index):
    whole = None
    for row in index.table.to_pylist():
        whole = index.rollout(row["shard"], row["row"])
        assert (whole.iteration, whole.phase, whole.problem) == (
            row["iteration"],
            row["phase"],
            row["problem"],
        )
    assert whole == rollout(3, "dev", "dev/1", True)


# What is printed


def test_a_block_says_all_of_a_rollout():
    text = block(
        rollout(2, "rationalize", "train/4", True, truncated=True, sample=3, scores={"value": 0.5})
    )
    assert text.splitlines() == [
        "iteration 2  rationalize  train/4  sample 3  right  truncated  hinted",
        "  question   4+4",
        "  gold       8",
        "  answer     8",
        "  rationale  of M_2",
        "             #8",
        "  logprob    -1.75 nats, 3 tokens sampled after a prompt of 4",
        "  seed       17, weights abc",
        "  groups     digits=1",
        "  scores     value=0.5",
    ]


def test_a_missing_answer_and_unknown_log_probabilities_are_said():
    bare = rollout(1, "dev", "dev/0", False, answer=None, segments=(Segment("?", (1,)),))
    assert "  answer     none was found\n" in block(bare)
    assert "  logprob    not known, 1 tokens sampled" in block(bare)


def test_control_characters_of_a_model_are_spelled_out():
    assert printable("\x1b[31mred\r\n\ttab é 答") == "\\x1b[31mred\\r\n\ttab é 答"


def test_a_text_for_the_table_is_cut_at_an_ellipsis():
    assert one_line("a\nb  c", 5) == "a b c"
    assert one_line("abcdef", 5) == "abcd…"
    assert one_line(" " * 99 + "x", 5) == "…"


def test_numbers_in_a_row_are_said_as_a_span():
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_a_pipe_gets_counts_and_blocks_without_ansi_codes(run_dir: Path):
    shown = show(run_dir, "--limit", 2)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["iteration", "phase", "rollouts", "right"]
    assert lines[1].split() == ["0", "dev", "2", "0.0%"]
    assert lines[2].split() == ["1", "generate", "4", "25.0%"]
    assert sum(line.startswith("iteration 0  dev") for line in lines) == 2
    assert lines[-1] == "2 of 23 rollouts shown; --limit 0 shows all"


def test_the_same_command_prints_the_same(run_dir: Path):
    assert show(run_dir, "--limit", 0).stdout == show(run_dir, "--limit", 0).stdout


def test_without_a_limit_nothing_is_left_out_or_cut(run_dir: Path, capsys):
    long = rollout(
        4, "dev", "dev/0", False, question="q" * 5000, segments=(Segment("r" * 9999, ()),)
    )
    open_store(run_dir).write(4, "dev", 0, [long])
    assert main([str(run_dir), "--limit", "0"]) == 0
    text = capsys.readouterr().out
    assert text.count("\niteration ") == 24
    assert "q" * 5000 in text and "r" * 9999 in text
    assert "--limit" not in text


def test_shares_are_of_all_rollouts_where_only_right_ones_are_shown(run_dir: Path, capsys):
    main([str(run_dir), "--phase", "generate", "--iteration", "2,3", "--correct"])
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["2", "generate", "4", "50.0%"],
        ["3", "generate", "4", "75.0%"],
    ]
    assert text.count("sample 0  right\n") == 2 + 3 and "wrong" not in text


def test_a_followed_problem_is_shown_whole_whatever_the_default_limit(tmp_path: Path, capsys):
    store = RolloutStore(tmp_path / "rollouts")
    for iteration in range(30):
        store.write(iteration, "dev", 0, [rollout(iteration, "dev", "dev/0", True)])
    main([str(tmp_path), "--problem", "dev/0"])
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.startswith("iteration ")][1:]
    assert headings == [f"iteration {n}  dev  dev/0  sample 0  right" for n in range(30)]


def test_filters_that_nothing_passes_say_so(run_dir: Path, capsys):
    main([str(run_dir), "--iteration", "0", "--phase", "generate"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "no rollouts: iteration 0, generate, right and wrong; the run has those counted above"
    )


def test_texts_are_read_only_when_they_are_asked_for(run_dir: Path):
    index = Index(open_store(run_dir))
    parts = report(index, Selection(), limit=0)
    head = [next(parts) for _ in range(1 + len(counts(index.table)))]
    assert head[0].startswith("iteration  phase") and index._read.cache_info().misses == 0
    assert next(parts).startswith("\niteration 0  dev")
    assert index._read.cache_info().misses == 1


def test_a_reader_that_goes_away_is_no_error(run_dir: Path):
    store = open_store(run_dir)
    store.write(5, "dev", 0, [rollout(5, "dev", f"dev/{n}", True) for n in range(2000)])
    command = f"{sys.executable} -m star_exp show {run_dir} --limit 0 | head -n 3"
    shown = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert len(shown.stdout.splitlines()) == 3


def test_a_locale_without_the_letters_gets_them_spelled_out(run_dir: Path):
    open_store(run_dir).write(5, "dev", 0, [rollout(5, "dev", "dev/0", True, question="é")])
    shown = show(run_dir, "--iteration", 5, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "question   \\xe9" in shown.stdout and shown.returncode == 0


def test_show_does_not_import_torch_or_textual():
    code = "import sys, star_exp.show; print({'torch', 'textual', 'hydra'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


# Errors


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--phase", "genrate"], ["'genrate'", "generate, rationalize, dev", "mean 'generate'?"]),
        (["--iteration", "9"], ["no iteration 9", "it has 0-3", "did you mean 3?"]),
        (["--iteration", "0,7-9"], ["no iteration 7-9", "it has 0-3"]),
        (["--problem", "trian/3"], ["'trian/3'", "the 6 of this run", "mean 'train/3'?"]),
        (["--problem", "3"], ["no problem '3'", "expected one of: train/3"]),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(run_dir: Path, arguments, parts):
    with pytest.raises(UserError) as error:
        main([str(run_dir), *arguments])
    for part in parts:
        assert part in str(error.value)


def test_a_directory_that_is_no_run_says_what_was_expected(run_dir: Path, tmp_path: Path):
    for wrong, found in [
        (tmp_path, "is not a run directory"),
        (run_dir / "rollouts", "is not a run directory"),
    ]:
        with pytest.raises(UserError, match=f"{found}.*rollouts/; did you mean {run_dir}"):
            open_store(wrong)
    with pytest.raises(UserError, match=r"there is no .*expected the directory of a run"):
        open_store(tmp_path / "nowhere")


def test_a_run_without_rollouts_yet_says_so(tmp_path: Path):
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(UserError, match="holds no rollouts yet"):
        main([str(tmp_path)])


def test_errors_leave_the_command_line_with_one(run_dir: Path):
    shown = show(run_dir, "--phase", "genrate")
    assert shown.returncode == 1
    assert shown.stderr.startswith("star-exp show: there is no phase 'genrate'")


@pytest.mark.parametrize("iteration", ["x", "4-2", "1,,2", "-3"])
def test_an_iteration_that_is_no_number_is_refused(run_dir: Path, iteration: str, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(run_dir), f"--iteration={iteration}"])
    assert left.value.code == 2
    assert "is not a number N or a range N-M" in capsys.readouterr().err


def test_a_damaged_shard_is_the_error_of_the_store(run_dir: Path):
    path = open_store(run_dir).path(2, "generate", 1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"iter_002.*Delete this file"):
        main([str(run_dir)])


# The browser


def browse(index: Index, script, selection: Selection | None = None, size=(160, 40)) -> Browser:
    """Runs the browser without a terminal; `script(app, pilot)` presses its keys."""
    app = Browser(index, selection or Selection(), title="run")

    async def drive() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(drive())
    return app


def listed(app: Browser) -> list[tuple[str, ...]]:
    """iteration, phase, problem and mark of each row of the table."""
    rows = [app.table.get_row_at(row) for row in range(app.table.row_count)]
    return [tuple(str(row[column]) for column in (0, 1, 2, 3)) for row in rows]


def detail_of(app: Browser) -> str:
    return str(app.query_one("#text").render())


def test_the_browser_lists_all_and_shows_the_first_whole(index: Index):
    async def script(app, pilot):
        assert len(listed(app)) == 23
        assert listed(app)[0] == ("0", "dev", "dev/0", "✗")
        assert "rationale\nof M_0\n#1\n" in detail_of(app)
        await pilot.press("down", "down", "down")
        assert "question  1+1" in detail_of(app)
        for part in ("gold  2", "answer  3", "-1.75 nats", "seed  17, weights abc"):
            assert part in detail_of(app)

    browse(index, script)


def test_keys_step_through_right_and_wrong_iterations_and_phases(index: Index):
    async def script(app, pilot):
        await pilot.press("f")
        assert {mark for *_, mark in listed(app)} == {"✓"}
        await pilot.press("f")
        assert {mark for *_, mark in listed(app)} == {"✗"}
        await pilot.press("f", "right_square_bracket")
        assert {row[0] for row in listed(app)} == {"0"}
        await pilot.press("i", "i")
        assert {row[0] for row in listed(app)} == {"2"}
        await pilot.press("left_square_bracket", "p")
        assert {row[:2] for row in listed(app)} == {("1", "generate")}
        await pilot.press("p", "p", "p", "left_square_bracket", "left_square_bracket")
        assert len(listed(app)) == 23

    browse(index, script)


def test_enter_follows_the_problem_and_escape_comes_back_to_the_row(index: Index):
    async def script(app, pilot):
        await pilot.press("p", *["down"] * 3)
        assert listed(app)[app.table.cursor_row] == ("1", "generate", "train/3", "✗")
        await pilot.press("enter")
        assert [row[:2] for row in listed(app)] == [
            (iteration, phase) for iteration in "123" for phase in ("generate", "rationalize")
        ]
        await pilot.press("escape")
        assert app.selection == Selection(phase="generate")
        assert listed(app)[app.table.cursor_row][2] == "train/3"
        await pilot.press("escape")
        assert len(listed(app)) == 23

    browse(index, script)


def test_a_search_filters_by_a_piece_of_the_question(index: Index):
    async def script(app, pilot):
        await pilot.press("slash", *"2+2", "enter")
        assert {row[2] for row in listed(app)} == {"train/2"}
        await pilot.press(
            "slash", "x", "escape"
        )  # left: nothing changes, and the table has the keys
        await pilot.press("f")
        assert len(listed(app)) == 1  # 2 < iteration only in the third
        await pilot.press("slash", *"no", "enter")
        assert listed(app) == [] and "no rollouts" in detail_of(app)
        await pilot.press("enter", "down", "escape")
        assert len(listed(app)) == 23

    browse(index, script)


def test_the_browser_begins_with_the_filters_of_the_command_line(index: Index):
    async def script(app, pilot):
        assert len(listed(app)) == 6
        await pilot.press("escape")
        assert len(listed(app)) == 23

    browse(index, script, Selection(problem="train/3"))


def test_brackets_in_texts_are_no_markup(run_dir: Path):
    store = open_store(run_dir)
    text = "[red]5[/red] [/] [4]"
    store.write(
        4,
        "dev",
        0,
        [rollout(4, "dev", "dev/0", True, question=text, segments=(Segment(text, ()),))],
    )

    async def script(app, pilot):
        assert str(app.table.get_row_at(0)[8]) == text
        assert f"rationale\n{text}" in detail_of(app)

    browse(Index(store), script, Selection(iterations=(4,)))


@pytest.mark.slow
def test_fifty_thousand_rollouts_are_shown_a_page_at_a_time(tmp_path: Path):
    store = RolloutStore(tmp_path / "rollouts")
    for shard in range(5):
        numbers = range(10_000 * shard, 10_000 * (shard + 1))
        drawn = [rollout(1, "generate", f"train/{n}", n % 4 == 0) for n in numbers]
        store.write(1, "generate", shard, drawn)

    async def script(app, pilot):
        assert app.table.row_count == PAGE
        assert app.table.border_subtitle == "rows 1-1,000 of 50,000 rollouts"
        await pilot.press("f", "greater_than_sign")
        assert app.table.border_subtitle == "rows 1,001-2,000 of 12,500 rollouts"
        numbers = [int(row[2].removeprefix("train/")) for row in listed(app)]
        assert numbers == list(
            range(4000, 8000, 4)
        )  # in order, the next thousand of the right ones
        await pilot.press("less_than_sign", "less_than_sign", "slash", *"/49996", "enter")
        assert [row[2] for row in listed(app)] == ["train/49996"]
        assert "question  49996+49996" in detail_of(app)

    browse(Index(store), script)


def test_a_shard_damaged_while_browsing_ends_the_browser_with_its_error(index: Index):
    path = index.paths[0]
    path.write_bytes(b"not parquet")

    async def script(app, pilot):
        await pilot.pause()

    assert isinstance(browse(index, script).return_value, StoreError)


def test_q_leaves(index: Index):
    async def script(app, pilot):
        await pilot.press("q")

    app = browse(index, script)
    assert app.return_code == 0 and app.return_value is None
