"""The HTML page of a report: one file that opens from disk and loads nothing.

    page.write(comparison, Path("report.html"), problems=30)

page.html is the page, with its style and its script; here it gets its data, as one block of JSON.
What models wrote stays text on its whole way: control characters and marks of writing direction
are spelled out, the block has no `<` that could end it, and the script makes no markup of a text.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc

from star_exp import __version__
from star_exp.files import write_text
from star_exp.metrics.registry import metric
from star_exp.report import curves
from star_exp.report.runs import (
    AXES,
    Comparison,
    EqualCompute,
    Row,
    Run,
    Value,
    decoding,
    sampled_by,
)
from star_exp.report.tables import said_of
from star_exp.report.values import accuracies
from star_exp.show.text import printable
from star_exp.store import StoreError, read_table

log = logging.getLogger("star_exp")

TEMPLATE = Path(__file__).with_name("page.html")
PROBLEMS = 30
CUT = 2_000  # characters of a text that are shown
CUT_ANSWER = 100  # of an answer, which in a program's case is the program
ROOM = 4_000_000  # bytes of rationales in the page
PHASE = "dev"  # written by each iteration's model, greedy
COLUMNS = [
    *("problem", "question", "gold", "sample", "answer", "correct", "truncated", "failed"),
    "segments.list.element.text",  # without token ids and log-probabilities, which are most of it
]
UNITS = {"iteration": "", "generated_tokens": "tokens", "flops": "FLOP"}  # of runs.AXES
Key = tuple[str | None, str]  # fingerprint of the split and id: dev/7 may be several problems


@dataclass(frozen=True)
class History:
    """A problem as it was asked, and what the models of a run wrote for it.

    cells: (iteration, text, "right" | "wrong" | "failed", answer, truncated) of each iteration.
    """

    asked: Mapping[str, str]
    cells: list[tuple[int, str, str, str | None, bool]] = field(default_factory=list)


def write(comparison: Comparison, path: Path, problems: int = PROBLEMS) -> None:
    """Writes the page, with the rationales of that many problems."""
    write_text(path, page(data(comparison, problems)))


def page(values: Mapping[str, Any]) -> str:
    """page.html with these values for its script."""
    block = json.dumps(values, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is \u2028
    inert = block.replace("<", r"\u003c")  # no text ends the block, or opens a comment in it
    return TEMPLATE.read_text(encoding="utf-8").replace(">DATA<", f">{inert}<")


def data(comparison: Comparison, problems: int = PROBLEMS) -> dict[str, Any]:
    """What the script of page.html shows, in its words."""
    rows = comparison.rows
    place = {row.name: index for index, row in enumerate(rows)}
    styles = curves.styles(comparison)
    return {
        "title": printable(comparison.title),
        "facts": _facts(comparison),
        "missing": [printable(line) for line in comparison.missing],
        "warnings": [printable(line) for line in comparison.warnings],
        "notes": [printable(line) for line in comparison.notes],
        "columns": [
            _metric(column.metric, column.unit) | {"heading": column.heading}
            for column in comparison.columns
        ],
        "rows": [
            _row(row, index, comparison.baseline) | _style(styles[row.name])
            for index, row in enumerate(rows)
        ],
        "budgets": [_budget(equal, place) for equal in comparison.equal],
        "axes": [
            {"name": name, "title": title, "unit": UNITS[name]} for name, title in AXES.items()
        ],
        "curves": _curves(rows),
        "problems": _problems(rows, problems),
        "footer": f"Made by star-exp {__version__}.",
    }


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    runs = [run for row in comparison.rows for run in row.runs]
    counts = {
        row.values[comparison.metric].problems
        for row in comparison.rows
        if comparison.metric in row.values
    }
    newest = max((run.folder / "results.json").stat().st_mtime for run in runs)
    versions = {run.manifest.get("versions", {}).get("star-exp", "not known") for run in runs}
    drawn = dict.fromkeys(decoding(run, sampled_by(comparison.metric)) for run in runs)
    facts = {
        "compared": f"{len(comparison.rows)} rows, {len(runs)} finished runs",
        "by": comparison.metric,
        "problems": " or ".join(f"n = {n:,}" for n in sorted(n for n in counts if n is not None)),
        "seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "baseline": comparison.baseline,
        "decoding": "; or ".join(filter(None, drawn)),
        "newest run": datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "run with star-exp": ", ".join(sorted(versions)),
    }
    return [(name, printable(text)) for name, text in facts.items() if text]


def _row(row: Row, index: int, baseline: str) -> dict[str, Any]:
    test = row.test
    return {
        "index": index,
        "name": printable(row.name),
        "baseline": row.name == baseline,
        "seeds": row.seeds,
        "cells": {name: _value(value) for name, value in row.values.items()},
        "difference": test and _interval(test.difference, test.interval),
        "p": test and _number(test.p_holm),
        "verdict": row.verdict,
        "significant": test is not None and test.significant,
    }


def _style(style: Mapping[str, str]) -> dict[str, int | None]:
    """As in curves.png: the place of the colour, None of the baseline's, and that of the dash."""
    colour = style["color"]
    place = None if colour == curves.BASELINE else curves.COLOURS.index(colour)
    return {"colour": place, "dash": curves.DASHES.index(style["linestyle"])}


def _budget(equal: EqualCompute, place: Mapping[str, int]) -> dict[str, Any]:
    """cells: by index of the row, as the script looks them up."""
    return _metric(equal.metric, "share") | {
        "axis": AXES[equal.axis],
        "axis_unit": UNITS[equal.axis],
        "told": said_of(equal),
        "budget": _number(equal.budget),
        "cells": {
            place[at.row]: _value(at.value) | {"iterations": [*at.iterations.values()]}
            for at in equal.rows
        },
    }


def _curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row.curves))
    return [
        _metric(name)
        | {
            "series": [
                {
                    "row": index,
                    "band": curve.band,
                    "x": {axis: _numbers(curve.x[axis]) for axis in AXES},
                    "mean": _numbers(curve.mean),
                    "low": _numbers(curve.low),
                    "high": _numbers(curve.high),
                }
                for index, row in enumerate(rows)
                if (curve := row.curves.get(name)) is not None
            ]
        }
        for name in names
    ]


def _metric(name: str, unit: str | None = None) -> dict[str, str]:
    try:
        known = metric(name)
    except KeyError:  # counted by the report itself
        return {"name": name, "unit": unit or "", "meaning": ""}
    return {"name": name, "unit": unit or known.unit, "meaning": known.meaning}


def _value(value: Value) -> dict[str, float | None]:
    return _interval(value.mean, value.interval)


def _interval(middle: float, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"mean": _number(middle), "low": _number(low), "high": _number(high)}


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float | None) -> float | None:
    """To 7 digits, which the page has room for; None where JSON has no such number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _problems(rows: Sequence[Row], number: int) -> dict[str, Any]:
    """rollouts: by seed and by index of the row, [iteration, text, judged, answer, truncated] of
    each iteration; text: an index into `texts`, which holds each once."""
    picked, of = _pick(rows, number)
    texts: dict[str, int] = {}
    shown: dict[Key, dict[str, Any]] = {}
    room, left_out = ROOM, 0
    for key, seed, row, history in _histories(rows, picked):
        new = {text for _, text, *_ in history.cells} - texts.keys()
        room -= len(json.dumps([[*new], [(at, *judged) for at, _, *judged in history.cells]]))
        if room < 0:
            left_out += 1
            continue
        problem = shown.setdefault(key, {**history.asked, "rollouts": defaultdict(dict)})
        problem["rollouts"][seed][row] = [
            [iteration, texts.setdefault(text, len(texts)), *judged]
            for iteration, text, *judged in history.cells
        ]
    found = [shown[key] for key in picked if key in shown]
    return {
        "list": found,
        "texts": list(texts),
        "seeds": sorted({seed for problem in found for seed in problem["rollouts"]}),
        "note": _note(len(found), of, left_out),
    }


def _note(shown: int, of: int, left_out: int) -> str:
    if not of:
        return f"No rollouts of the phase {PHASE} were found."
    if not shown:
        return f"None of {of:,} {PHASE} problems was asked for (--problems)."
    note = (
        f"{shown:,} of {of:,} judged {PHASE} problems: those that the rows disagree on most after "
        "their last iteration, then those that changed most since the first. One sample of each "
        f"iteration; 0 is the base model. Texts are cut at {CUT:,} characters."
    )
    if left_out:
        note += f" Left out to keep the page small: {left_out:,} histories (a problem of a run)."
    return note


def _pick(rows: Sequence[Row], number: int) -> tuple[list[Key], int]:
    """The problems to show, most telling first, and how many there are.

    By how far the rows' shares of right answers are from each other in the last iteration, then by
    how far the last is from the first.
    """
    firsts: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    lasts: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for index, run in _runs(rows):
        for found, iteration in ((firsts, int(run.lines[0]["iteration"])), (lasts, run.last)):
            for problem, share in accuracies(run, iteration, PHASE).items():
                found[run.data.get(PHASE), problem][index].append(share)

    def telling(key: Key) -> tuple[float, float]:
        first, last = ([fmean(of) for of in found[key].values()] for found in (firsts, lasts))
        change = fmean(last) - fmean(first) if first else 0.0
        variance = fmean(share**2 for share in last) - fmean(last) ** 2
        return round(variance, 9), abs(change)

    return sorted(lasts, key=telling, reverse=True)[:number], len(lasts)


def _histories(
    rows: Sequence[Row], picked: Sequence[Key]
) -> Iterator[tuple[Key, int, int, History]]:
    """(problem, seed, row, history), one seed after another and in each the most telling problem
    first: what comes last may be left out."""
    by_seed: dict[int, list[tuple[int, Run]]] = defaultdict(list)
    for index, run in _runs(rows):
        by_seed[run.seed].append((index, run))
    for seed in sorted(by_seed):
        read = [(index, _read(run, picked)) for index, run in by_seed[seed]]
        yield from (
            (key, seed, index, found[key])
            for key in picked
            for index, found in read
            if key in found
        )


def _read(run: Run, picked: Sequence[Key]) -> dict[Key, History]:
    """Only the picked problems become Python objects, and only the first sample of each."""
    split = run.data.get(PHASE)
    ids = [problem for of, problem in picked if of == split]
    if not ids:
        return {}
    wanted = pc.field("problem").isin(ids) & (pc.field("sample") == 0)
    found: dict[Key, History] = {}
    for line in run.lines:
        iteration = int(line["iteration"])
        for path in run.store.shards(iteration, PHASE):
            try:
                table = read_table(path, COLUMNS)
            except StoreError as error:
                log.warning("left out of the page: %s", error)
                continue
            for rollout in table.filter(wanted).to_pylist():
                history = found.setdefault((split, rollout["problem"]), History(_asked(rollout)))
                history.cells.append((iteration, *_written(rollout)))
    return found


def _asked(rollout: Mapping[str, Any]) -> dict[str, str]:
    names = {"id": "problem", "question": "question", "gold": "gold"}
    return {name: _shown(rollout[column]) for name, column in names.items()}


def _written(rollout: Mapping[str, Any]) -> tuple[str, str, str | None, bool]:
    text = "".join(segment["text"] for segment in rollout["segments"])
    judged = "failed" if rollout["failed"] else "right" if rollout["correct"] else "wrong"
    answer = None if rollout["answer"] is None else _shown(rollout["answer"], CUT_ANSWER)
    return _shown(text), judged, answer, rollout["truncated"]


def _runs(rows: Sequence[Row]) -> Iterator[tuple[int, Run]]:
    return ((index, run) for index, row in enumerate(rows) for run in row.runs)


def _shown(text: str, cut: int = CUT) -> str:
    """Safe to look at, and cut; how much is missing is said."""
    more = f" \N{HORIZONTAL ELLIPSIS} ({len(text) - cut:,} more characters)"
    return printable(text[:cut]) + (more if len(text) > cut else "")
