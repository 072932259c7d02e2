"""The report's HTML page: what it holds, what can't come out of it, what a browser makes of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from star_exp.report import curves, page, runs
from star_exp.report.runs import (
    AtBudget,
    Column,
    Comparison,
    Curve,
    EqualCompute,
    Row,
    Run,
    Value,
)
from star_exp.store import RolloutStore
from tests.rollouts import right, wrong

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><!--<script>\x00\x1b[2J\u2028\u202e"
)
JUDGED = {False: wrong, True: right}


class Tags(HTMLParser):
    """The tags of a page, as a browser's parser meets them."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def a_run(
    folder: Path, seed: int, judged: Mapping[str, Sequence[bool]], split: str = "f1", **more: Any
) -> Run:
    """A run whose iteration n judged a problem as `judged[problem][n]` says."""
    store = RolloutStore(folder / "rollouts")
    iterations = range(len(next(iter(judged.values()))))
    for n in iterations:
        store.write(
            n, "dev", 0, [JUDGED[judged[id_][n]](id_, phase="dev", **more) for id_ in judged]
        )
    (folder / "results.json").write_text("{}")
    return Run(
        folder=folder,
        variant=folder.parent.name,
        seed=seed,
        cell="cafe",
        status="finished",
        error="",
        requested=2,
        config={},
        manifest={"data": {"dev": split}, "versions": {"star-exp": "0.5.0"}},
        lines=tuple({"iteration": n} for n in iterations),
    )


def a_row(name: str, *seeds: Run, mean: float = 0.5, test: runs.Test | None = None) -> Row:
    value = Value(mean, (mean - 0.1, mean + 0.1), {run.seed: mean for run in seeds}, problems=400)
    x = {"iteration": (0, 1), "generated_tokens": (0, 1000), "flops": (0, 2e9)}
    curve = Curve(x, (0.25, mean), (0.2, mean - 0.1), (0.3, mean + 0.1), "95% interval")
    return Row(
        name=name,
        variant=name,
        cell="cafe",
        runs=seeds,
        values={"test/accuracy": value, "cost/tokens": Value(1e6 * mean, None, {})},
        test=test,
        verdict="higher" if test else "baseline",
        curves={"dev/accuracy": curve},
    )


def a_comparison(*rows: Row, title: str = "three") -> Comparison:
    return Comparison(
        title=title,
        metric="test/accuracy",
        baseline=rows[0].name,
        columns=(
            Column("test/accuracy", "test accuracy", "share"),
            Column("cost/tokens", "tokens", "tokens"),
        ),
        rows=rows,
        equal=(
            EqualCompute(
                "flops",
                2e9,
                "dev/accuracy",
                (AtBudget(rows[0].name, Value(0.4, (0.3, 0.5), {}, 120), {0: 5, 1: 6, 2: 5}),),
            ),
        ),
        notes=("Greedy.",),
        missing=("vstar: seed 1",),
        warnings=("bstar: other settings",),
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Three rows; of them star was right for problem 0 only, the others for 0 and 1."""
    few = {"dev/0": [True, True], "dev/1": [False, False], "dev/2": [False, False]}
    more = {"dev/0": [True, True], "dev/1": [False, True], "dev/2": [False, False]}
    found = runs.Test(0.2, (0.1, 0.3), 0.001, 0.002, significant=True)
    return a_comparison(
        a_row("star", a_run(tmp_path / "star/seed0", 0, few), mean=0.5),
        a_row("bstar", a_run(tmp_path / "bstar/seed0", 0, more), mean=0.7, test=found),
        a_row("vstar", a_run(tmp_path / "vstar/seed0", 0, more), mean=0.6, test=found),
    )


def read_back(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def ids(values: dict[str, Any]) -> list[str]:
    return [problem["id"] for problem in values["problems"]["list"]]


def test_the_page_loads_nothing(comparison: Comparison, tmp_path: Path) -> None:
    page.write(comparison, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert set(re.findall(r"\w+://[^\s\"']+", text)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, which nothing loads
    assert not re.search(r"\bsrc=|\bhref=|url\(|@import|fetch\(|XMLHttp|innerHTML", text)
    assert "default-src 'none'" in text
    assert len(text) < 100_000


def test_the_data_block_holds_the_comparison(comparison: Comparison, tmp_path: Path) -> None:
    page.write(comparison, tmp_path / "report.html")
    values = read_back((tmp_path / "report.html").read_text())
    assert values["title"] == "three"
    assert (values["missing"], values["warnings"], values["notes"]) == (
        ["vstar: seed 1"],
        ["bstar: other settings"],
        ["Greedy."],
    )
    facts = dict(values["facts"])
    assert (facts["problems"], facts["seeds"], facts["baseline"]) == ("n = 400", "0", "star")
    star, bstar, _ = values["rows"]
    assert star["baseline"]
    assert star["difference"] is None
    assert bstar["cells"]["test/accuracy"] == {"mean": 0.7, "low": 0.6, "high": 0.8}
    assert bstar["cells"]["cost/tokens"] == {"mean": 7e5, "low": None, "high": None}
    assert bstar["difference"] == {"mean": 0.2, "low": 0.1, "high": 0.3}
    assert (bstar["p"], bstar["significant"]) == (0.002, True)
    (budget,) = values["budgets"]
    assert budget["cells"] == {"0": {"mean": 0.4, "low": 0.3, "high": 0.5, "iterations": [5, 6, 5]}}
    assert "dev/accuracy (n = 120 problems) at the largest budget that every run" in budget["told"]
    for words in ("(or 2% more): nothing is interpolated", "spend nothing", "is not counted"):
        assert words in budget["told"]
    (curve,) = values["curves"]
    assert curve["unit"] == "share"
    assert curve["series"][1]["x"]["flops"] == [0, 2e9]
    assert curve["series"][1]["mean"] == [0.25, 0.7]


def test_a_row_has_the_colour_that_it_has_in_the_picture(comparison: Comparison) -> None:
    """By name and not by rank, which changes; page.html has the same colours in the same order."""
    star, bstar, vstar = page.data(comparison)["rows"]
    assert (star["colour"], star["dash"]) == (None, 0)
    assert [(row["colour"], row["dash"]) for row in (bstar, vstar)] == [(0, 0), (1, 0)]
    turned = page.data(replace(comparison, rows=comparison.rows[::-1]))["rows"]
    assert [row["colour"] for row in turned] == [1, 0, None]
    drawn = curves.styles(comparison)
    assert [drawn[name]["color"] for name in ("star", "bstar")] == ["#000000", curves.COLOURS[0]]
    light, *_ = page.TEMPLATE.read_text().split("@media")
    assert re.findall(r"--c\d: (#\w+)", light) == [colour.lower() for colour in curves.COLOURS]


def test_a_number_that_json_does_not_have_is_left_empty(tmp_path: Path) -> None:
    row = a_row("star", a_run(tmp_path / "star/seed0", 0, {"dev/0": [True]}), mean=float("nan"))
    (shown,) = read_back(page.page(page.data(a_comparison(row))))["rows"]
    assert shown["cells"]["test/accuracy"]["mean"] is None


def test_what_was_written_is_told_by_iteration(comparison: Comparison) -> None:
    values = page.data(comparison)["problems"]
    problem = next(problem for problem in values["list"] if problem["id"] == "dev/1")
    assert problem["question"] == "2+6"
    bstar = problem["rollouts"][0][1]
    assert [(cell[0], values["texts"][cell[1]], *cell[2:]) for cell in bstar] == [
        (0, "#9", "wrong", "9", False),
        (1, "#8", "right", "8", False),
    ]
    assert sorted(values["texts"]) == ["#8", "#9"]  # each once


def test_what_rows_disagree_on_comes_first_then_what_changed(tmp_path: Path) -> None:
    one = {"dev/0": [True, True], "dev/1": [False, True], "dev/2": [False, False]}
    two = {"dev/0": [True, True], "dev/1": [False, True], "dev/2": [False, True]}
    rows = [
        a_row("one", a_run(tmp_path / "one/seed0", 0, one)),
        a_row("two", a_run(tmp_path / "two/seed0", 0, two)),
    ]
    assert ids(page.data(a_comparison(*rows))) == ["dev/2", "dev/1", "dev/0"]
    assert ids(page.data(a_comparison(*rows), problems=2)) == ["dev/2", "dev/1"]
    nothing = page.data(a_comparison(*rows), problems=0)["problems"]
    assert (nothing["list"], nothing["texts"]) == ([], [])


def test_problems_of_other_splits_are_others_though_they_have_the_same_id(tmp_path: Path) -> None:
    here = a_run(tmp_path / "star/seed0", 0, {"dev/0": [True]}, split="f1")
    there = a_run(tmp_path / "star/seed1", 1, {"dev/0": [False]}, split="f2", question="7+1")
    problems = page.data(a_comparison(a_row("star", here, there)))["problems"]["list"]
    assert {(problem["question"], *problem["rollouts"]) for problem in problems} == {
        ("2+6", 0),
        ("7+1", 1),
    }


def test_the_page_stays_small_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [a_run(tmp_path / f"star/seed{n}", n, {"dev/0": [True]}) for n in range(3)]
    for run in seeds:
        run.store.write(0, "dev", 0, [right("dev/0", f"text of seed {run.seed}", phase="dev")])
    monkeypatch.setattr(page, "ROOM", 120)  # a history of a text: 49 bytes
    problems = page.data(a_comparison(a_row("star", *seeds)))["problems"]
    assert problems["seeds"] == [0, 1]
    assert problems["texts"] == ["text of seed 0", "text of seed 1"]
    assert "small: 1" in problems["note"]


def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "star/seed0", 0, {"dev/0": [True]}, text="y" * 5000)
    (text,) = page.data(a_comparison(a_row("star", run)))["problems"]["texts"]
    assert text == "y" * 2000 + " \u2026 (3,000 more characters)"


def test_a_damaged_shard_leaves_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = a_run(tmp_path / "star/seed0", 0, {"dev/0": [True, True, True]})
    comparison = a_comparison(a_row("star", run))
    run.store.path(1, "dev", 0).write_bytes(b"PAR1, and then nothing")
    (problem,) = page.data(comparison)["problems"]["list"]
    assert [cell[0] for cell in problem["rollouts"][0][0]] == [0, 2]
    assert "iter_001/dev/00000.parquet can't be read" in caplog.text


def test_what_could_not_be_judged_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    run = a_run(tmp_path / "star/seed0", 0, {"dev/0": [False, False]})
    lost = replace(wrong("dev/0", phase="dev", answer=None), failed="TimeoutError")
    run.store.write(0, "dev", 0, [lost])
    (problem,) = page.data(a_comparison(a_row("star", run)))["problems"]["list"]
    assert [cell[2:4] for cell in problem["rollouts"][0][0]] == [["failed", None], ["wrong", "9"]]


def hostile(tmp_path: Path) -> Comparison:
    run = a_run(
        tmp_path / "star/seed0",
        0,
        {f"dev/{HOSTILE}": [True, False]},
        text=HOSTILE + "\n" + "very long " * 1000,
        answer=HOSTILE,
        question=HOSTILE,
    )
    return a_comparison(a_row(f"star {HOSTILE}", run), title=HOSTILE)


def test_hostile_texts_stay_in_the_data(tmp_path: Path) -> None:
    text = page.page(page.data(hostile(tmp_path)))
    assert Tags(text).found == Tags(page.TEMPLATE.read_text()).found
    assert not re.search("[^\n -~]", text.partition('id="data">')[2].partition("</script>")[0])
    (written,) = read_back(text)["problems"]["texts"]
    assert written.startswith("</script><img src=x")
    assert r"<!--<script>\x00\x1b[2J\u2028\u202e" in written  # spelled out


def in_browser(text: str, tmp_path: Path, script: str) -> Any:
    """What `script`, run when the page stands, returns. Fails if the page complains."""
    run = f"""<script>addEventListener("load", () => setTimeout(() => {{
        const seen = (() => {{ {script} }})();
        document.body.dataset.seen = encodeURIComponent(JSON.stringify(seen));
    }}))</script></body>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", run))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    home = f"--user-data-dir={tmp_path / 'browser'}"
    file = (tmp_path / "page.html").as_uri()
    done = subprocess.run(
        [str(CHROMIUM), *words, home, "--virtual-time-budget=2000", "--dump-dom", file],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ":CONSOLE" not in done.stderr, done.stderr
    found = re.search('data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-2000:]
    return json.loads(unquote(found[1]))


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@needs_browser
def test_a_browser_shows_sorts_filters_and_hides(comparison: Comparison, tmp_path: Path) -> None:
    seen = in_browser(
        page.page(page.data(comparison)),
        tmp_path,
        """
        const all = (selector) => [...document.querySelectorAll(selector)];
        const texts = (selector) => all(selector).map((node) => node.textContent);
        const names = () => texts("#comparison tbody bdi");
        const sort = (name) => {
          const button = all("#comparison thead button").find((node) => node.textContent === name);
          button.click();
          return [button.parentNode.ariaSort, ...names()];
        };
        const filter = document.querySelector("#problems select");
        const only = (name) => {
          filter.value = [...filter.options].find((option) => option.text === name).value;
          filter.dispatchEvent(new Event("change"));
          return texts(".list .id");
        };
        const lines = () => all(".plot [role=img] path").length;
        const seen = {
          boxes: texts(".box li"),
          before: names(),
          byMean: sort("test accuracy"),
          again: sort("test accuracy"),
          byName: sort("variant"),
          text: document.querySelector("#comparison").innerText,
          filters: Object.fromEntries(
            [...filter.options].map(({ text }) => [text, only(text)])),
          lines: lines(),
        };
        only("rows disagree");
        seen.columns = texts(".cells thead bdi");
        seen.marked = texts(".cells mark");
        document.querySelector(".plot .legend button").click();
        const hidden = all(".plot [aria-pressed=false]").length;
        return { ...seen, fewerLines: lines(), hidden };
        """,
    )
    assert seen["boxes"] == ["vstar: seed 1", "bstar: other settings"]
    assert seen["before"] == ["star", "bstar", "vstar"]
    assert seen["byMean"] == ["descending", "bstar", "vstar", "star"]
    assert seen["again"] == ["ascending", "star", "vstar", "bstar"]
    assert seen["byName"] == ["ascending", "bstar", "star", "vstar"]
    for shown in ("70.0%", "60.0% to 80.0%", "+20.0", "+10.0 to +30.0", "0.002", "higher", "700k"):
        assert shown in seen["text"].replace("K", "k")
    assert seen["filters"] == {
        "all": ["dev/1", "dev/0", "dev/2"],
        "rows disagree": ["dev/1"],
        "became right": ["dev/1"],
        "became wrong": [],
        "all wrong": ["dev/2"],
    }
    assert seen["columns"] == ["star", "bstar", "vstar"]
    assert seen["marked"] == ["#8", "#8"]
    assert (seen["lines"], seen["fewerLines"], seen["hidden"]) == (6, 4, 1)  # line and band


@needs_browser
def test_the_crosshair_reads_off_what_each_row_had_reached(
    comparison: Comparison, tmp_path: Path
) -> None:
    seen = in_browser(
        page.page(page.data(comparison)),
        tmp_path,
        """
        const [_, axis] = document.querySelectorAll("#curves select");
        const read = () => [document.querySelector(".at"),
          ...document.querySelectorAll(".plot .legend button")].map(
            (node) => node.innerText.replace(/\\s+/g, " "));
        const plot = () => document.querySelector(".plot svg[role=img]");
        const seen = [read()];
        const clientX = plot().getBoundingClientRect().left + 100;
        plot().dispatchEvent(new PointerEvent("pointermove", { clientX }));
        seen.push(read());
        axis.value = 1;
        axis.dispatchEvent(new Event("change"));
        plot().dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
        return [...seen, read()];
        """,
    )
    end, pointed, start = seen
    assert end == [
        "At iteration 1 (the end):",
        "bstar 70.0% 60.0% to 80.0%",
        "vstar 60.0% 50.0% to 70.0%",
        "star 50.0% 40.0% to 60.0%",
    ]
    assert pointed[:2] == ["At iteration 0:", "star 25.0% 20.0% to 30.0%"]
    assert start[0] == "At generated tokens 0:"
    assert {line.partition(" ")[2] for line in start[1:]} == {"25.0% 20.0% to 30.0%, iteration 0"}


@needs_browser
def test_a_browser_runs_nothing_that_a_model_wrote(tmp_path: Path) -> None:
    seen = in_browser(
        page.page(page.data(hostile(tmp_path))),
        tmp_path,
        """
        const { title, images, scripts } = document;
        const text = document.querySelector(".cells pre").textContent;
        return { title, images: images.length, scripts: scripts.length, text };
        """,
    )
    assert seen["title"].startswith("</script><img")
    assert (seen["images"], seen["scripts"]) == (0, 3)  # data, the page's, and this test's
    assert r"\u202e" in seen["text"]
