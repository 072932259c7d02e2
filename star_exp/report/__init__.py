"""`star-exp report DIR...`: compares variants, and says how sure it is.

    star-exp report outputs/star-exp
    star-exp report outputs/star-exp --baseline rest_em --metric test/pass@16
    star-exp report outputs/star-exp more/runs --variants star,rft --out paper/

Writes report.md, report.tex, report.csv, runs.csv, curves.png and report.html, and prints the
table. Numbers come from finished runs: results.json, and the value of each problem from rollouts.
"""

import argparse
import re
from pathlib import Path

from star_exp.report import curves, tables
from star_exp.report.comparison import compare
from star_exp.report.runs import Comparison

__all__ = ["Comparison", "compare", "main"]


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    comparison = compare(
        options.folders,
        metric=options.metric,
        baseline=options.baseline,
        variants=options.variants,
        title=options.title,
    )
    from rich.console import Console

    from star_exp.report import page

    out = options.out or options.folders[0] / "report"
    out.mkdir(parents=True, exist_ok=True)
    tables.write(comparison, out)
    curves.draw(comparison, out / "curves.png")
    page.write(comparison, out / "report.html", problems=options.problems)
    console = Console()
    tables.show(comparison, console)
    print(f"\nwrote {out}/report.html, .md, .tex, .csv, runs.csv and curves.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "star-exp report", description="Compare runs: tables, curves, a page for the browser."
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="runs are below it")
    parser.add_argument("--metric", help="what rows are tested by (test/accuracy)")
    parser.add_argument("--baseline", help="the row or variant to test against (star)")
    parser.add_argument("--variants", type=_names, default=(), help="only these: star,rft")
    parser.add_argument("--out", type=Path, help="folder to write to (DIR/report)")
    parser.add_argument(
        "--problems", type=_count, default=30, help="whose rationales are in the page"
    )
    parser.add_argument("--title", help="of tables, curves and page")
    return parser


def _names(text: str) -> list[str]:
    """Parted by commas without a blank behind them: a row may be `rft, samples=16`."""
    return [name.strip() for name in re.split(r",(?! )", text) if name.strip()]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of problems, 0 for none")
    return int(text)
