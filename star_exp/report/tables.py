"""A comparison as text: Markdown, LaTeX, CSV, and a table on the terminal.

write(comparison, out)        report.md, report.tex, report.csv, runs.csv
show(comparison, console)     the table, what is missing, warnings
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from star_exp.files import write_text
from star_exp.report.curves import SLACK
from star_exp.report.runs import AXES, Column, Comparison, EqualCompute, Row, Value

TIMES = ((3600, "h"), (60, "min"))
SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
COSTS_IN_LATEX = ("cost/generated_tokens", "cost/flops")
IN_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", '"': "''"},
}
ABSENT = "-"
WIDE = 110  # columns of a terminal where names of rows need not be broken
BOLD = (
    "Bold: a difference by this test, of rows with several seeds. -: nothing to say; see verdict."
)


def write(comparison: Comparison, out: Path) -> None:
    write_text(out / "report.md", markdown(comparison))
    write_text(out / "report.tex", latex(comparison))
    write_text(out / "report.csv", _csv(_lines_of_rows(comparison)))
    write_text(out / "runs.csv", _csv(_lines_of_runs(comparison)))


def show(comparison: Comparison, console: Console) -> None:
    """The metric and its test on a terminal; what else was measured is in the files."""
    made = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    made.title, made.title_justify = Text(comparison.title), "left"
    whole = {"variant": 15, "verdict": 14}  # columns that are never narrower
    for heading in _headings(comparison)[:6]:
        folded = heading.replace(" (", "\n(").replace(" in ", "\nin ")
        made.add_column(folded, overflow="fold", min_width=whole.get(heading))
    for row in comparison.rows:  # intervals below their means: 80 columns are enough
        name, seeds, mean, difference, p, verdict = _cells(comparison, row)[:6]
        mean, difference = (
            cell.replace(" (", "\n").removesuffix(")") for cell in (mean, difference)
        )
        name = name if console.width >= WIDE else _narrowed(name, whole["variant"])
        cells = (name, seeds.replace(" ", ""), mean, difference, p, verdict)
        made.add_row(*map(Text, cells))
    console.print(made)
    for note in comparison.notes:
        console.print(Text(note))
    for heading, sentences in _troubles(comparison):
        console.print(Text(f"\n{heading}", style="bold yellow"))
        for sentence in sentences:
            console.print(Text(f"- {sentence}"), soft_wrap=True)


def _narrowed(name: str, width: int) -> str:
    """A row's name on lines of so many characters, where that is possible, broken behind `_`."""
    lines = [""]
    for piece in re.split(r"(?<=[_ ])", name):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def markdown(comparison: Comparison) -> str:
    lines = [f"# {comparison.title}", ""]
    lines += _table(_headings(comparison), [_cells(comparison, row) for row in comparison.rows])
    lines += ["", *(f"- {note}" for note in comparison.notes)]
    for heading, sentences in _troubles(comparison):
        lines += ["", f"## {heading}", "", *(f"- {sentence}" for sentence in sentences)]
    for equal in comparison.equal:
        lines += ["", f"## {title_of(equal)}", "", *_equal(equal), "", said_of(equal)]
    lines += ["", "![curves](curves.png)", ""]
    return "\n".join(lines)


def latex(comparison: Comparison) -> str:
    """A booktabs table of the metric, its test and what was spent; bold is a difference."""
    shown = [column for column in comparison.columns if column.metric in COSTS_IN_LATEX]
    headings = [*_headings(comparison)[:6], *(column.heading for column in shown)]
    caption = [f"{comparison.title}.", *comparison.notes, BOLD]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_escaped(' '.join(caption))}}}",
        "\\label{tab:report}",
        f"\\begin{{tabular}}{{llrrrl{'r' * len(shown)}}}",
        "\\toprule",
        " & ".join(map(_escaped, headings)) + r" \\",
        "\\midrule",
    ]
    alone = {row.name for row in comparison.rows if len(row.runs) == 1}
    for row in comparison.rows:
        cells = [_escaped(cell) for cell in _cells(comparison, row)[:6]]
        cells[2], cells[3] = cells[2].replace("-", "--"), cells[3].replace("-", "$-$")
        if row.test and row.test.significant and not alone & {row.name, comparison.baseline}:
            cells[3] = f"\\textbf{{{cells[3]}}}"
        cells += [_escaped(_cell(row.values.get(column.metric), column)) for column in shown]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def said(value: float, unit: str) -> str:
    """84.0%, 1.46M, 2.01e13, 10.4 min: a value in few characters."""
    if unit == "share":
        return f"{_percent(value):.1f}%"
    if unit == "FLOP" and value:
        return f"{value:.2e}".replace("e+", "e").replace("e0", "e")
    if unit == "s":
        length, name = next((each for each in TIMES if value >= 2 * each[0]), (1, "s"))
        return f"{_digits(value / length, 3):g} {name}"
    if abs(_digits(value, 4)) >= 10_000:
        value = _digits(value, 3)  # first, for 999,960 is a million
        scale, letter = next(each for each in SCALES if abs(value) >= each[0])
        return f"{_digits(value / scale, 3):g}{letter}"
    return f"{_digits(value, 4):g}"


def _percent(share: float) -> Decimal:
    """With one digit, half a digit up, as the page's toFixed has it; -0.0002 is 0.0."""
    return Decimal(100 * _digits(share, 7)).quantize(Decimal("0.1"), ROUND_HALF_UP) + 0


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}") + 0.0


def title_of(equal: EqualCompute) -> str:
    """`At equal compute: 1.19M generated tokens`."""
    unit = "FLOP" if equal.axis == "flops" else "tokens"
    return f"At equal compute: {said(equal.budget, unit)} {AXES[equal.axis]}"


def said_of(equal: EqualCompute) -> str:
    """How the rows were brought to the same budget."""
    counts = {each.value.problems for each in equal.rows} - {None}
    n = f" (n = {' or '.join(map(str, sorted(counts, key=str)))} problems)" if counts else ""
    return (
        f"{equal.metric}{n} at the largest budget that every run has used up, each at its last "
        f"iteration that was done within it (or {SLACK:.0%} more): nothing is interpolated. Rows "
        "that spend nothing stay as they are. Measuring is not counted."
    )


def _headings(comparison: Comparison) -> list[str]:
    first, *others = comparison.columns
    told = f"{first.heading} (95% interval)"
    unit = " in points" if first.unit == "share" else ""
    test = [f"difference{unit}", "p (Holm)", "verdict"]
    return ["variant", "seeds", told, *test, *(column.heading for column in others)]


def _cells(comparison: Comparison, row: Row) -> list[str]:
    first = comparison.columns[0]
    test = [ABSENT, ABSENT]
    if row.test:
        difference = _difference(row.test.difference, row.test.interval, first.unit)
        test = [difference, f"{row.test.p_holm:.2g}"]
    measured = [_cell(row.values.get(column.metric), column) for column in comparison.columns]
    seeds = ", ".join(map(str, row.seeds))
    return [row.name, seeds, measured[0], *test, row.verdict, *measured[1:]]


def _cell(value: Value | None, column: Column) -> str:
    """`82.2% (78.3%-86.0%)`."""
    if value is None:
        return ABSENT
    if value.interval is None:
        return said(value.mean, column.unit)
    low, high = (said(end, column.unit) for end in value.interval)
    return f"{said(value.mean, column.unit)} ({low}-{high})"


def _difference(value: float, ends: tuple[float, float], unit: str) -> str:
    """`-4.9 (-8.8 to -0.9)`: of shares in points, hundredths."""
    if unit != "share":
        return f"{value:+.3g} ({ends[0]:+.3g} to {ends[1]:+.3g})"
    middle, low, high = (f"{_percent(each):+.1f}" for each in (value, *ends))
    return f"{middle} ({low} to {high})"


def _equal(equal: EqualCompute) -> list[str]:
    column = Column(equal.metric, equal.metric, "share")
    cells = [
        [each.row, _cell(each.value, column), ", ".join(map(str, each.iterations.values()))]
        for each in equal.rows
    ]
    return _table(["variant", f"{equal.metric} (95% interval)", "iteration of each seed"], cells)


def _troubles(comparison: Comparison) -> list[tuple[str, Sequence[str]]]:
    troubles = [("Missing", comparison.missing), ("Warnings", comparison.warnings)]
    return [(heading, sentences) for heading, sentences in troubles if sentences]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _escaped(text: str) -> str:
    return "".join(IN_LATEX.get(character, character) for character in text)


def _lines_of_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A line for each row and metric; the test beside the metric that was tested."""
    for row in comparison.rows:
        for column in comparison.columns:
            value = row.values.get(column.metric)
            if value is None:
                continue
            low, high = value.interval or (None, None)
            line = {"row": row.name, "variant": row.variant, "cell": row.cell}
            line |= {"metric": column.metric, "unit": column.unit, "mean": value.mean}
            line |= {"low": low, "high": high, "problems": value.problems}
            line |= {"seeds": " ".join(map(str, row.seeds))}
            yield line | (_tested(row) if column.metric == comparison.metric else {})


def _tested(row: Row) -> dict[str, Any]:
    if row.test is None:
        return {"verdict": row.verdict}
    low, high = row.test.interval
    return {
        "difference": row.test.difference,
        "difference_low": low,
        "difference_high": high,
        "p": row.test.p,
        "p_holm": row.test.p_holm,
        "verdict": row.verdict,
    }


def _lines_of_runs(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for row in comparison.rows:
        for run in row.runs:
            yield {
                **{"row": row.name, "variant": row.variant, "cell": row.cell, "seed": run.seed},
                **{"iteration": run.last},
                **{metric: value.by_seed[run.seed] for metric, value in row.values.items()},
                "folder": str(run.folder),
            }


def _csv(lines: Iterable[dict[str, Any]]) -> str:
    lines = [*lines]
    file = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(file, [*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
