"""A browser of what a run's models wrote, on a terminal; plain text in a pipe.

star-exp show RUN_DIR                                  browse; f, [, ], p, / filter, enter follows
star-exp show RUN_DIR --iteration 1,3-5 --wrong        begin with these rollouts
star-exp show RUN_DIR --problem train/17 | less        one problem through all iterations
star-exp show RUN_DIR --phase dev --limit 0 > dev.txt  all of a phase as text
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from star_exp.errors import UserError
from star_exp.show.index import Index, Selection
from star_exp.show.text import LIMIT, report
from star_exp.store import RolloutStore


def main(arguments: Sequence[str]) -> int:
    """Shows the rollouts of a run. Raises UserError for a directory or filter that has none."""
    options = _parser().parse_args(arguments)
    index = Index(open_store(options.run_dir))
    selection = Selection(
        iterations=index.find_iterations(range_ for part in options.iteration for range_ in part),
        phase=index.find_phase(options.phase),
        correct=options.correct,
        problem=index.find_problem(options.problem),
    )
    if sys.stdin.isatty() and sys.stdout.isatty() and not options.text:
        from star_exp.show.browser import Browser

        failure = Browser(index, selection, title=str(options.run_dir)).run()
        if failure is not None:
            raise failure
        return 0
    limit = options.limit
    if limit is None:
        limit = 0 if selection.problem is not None else LIMIT
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a locale has no letter for is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    for part in report(index, selection, limit):
        print(part)
    sys.stdout.flush()  # here, where a reader that went away is still caught
    return 0


def open_store(run_dir: Path) -> RolloutStore:
    """The rollouts of a run directory. Raises UserError, naming one that is near, if it is none."""
    root = run_dir / "rollouts"
    if root.is_dir():
        return RolloutStore(root)
    found = f"{run_dir} is not a run directory" if run_dir.is_dir() else f"there is no {run_dir}"
    below = [path for depth in ("*", "*/*", "*/*/*") for path in run_dir.glob(f"{depth}/rollouts")]
    near = [run_dir.parent] if run_dir.name == "rollouts" else sorted(path.parent for path in below)
    raise UserError(
        f"{found}: expected the directory of a run, such as outputs/.../seed0, that holds rollouts/"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="star-exp show",
        description="Browse the rollouts of a run; plain text where there is no terminal.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="outputs/.../seed0")
    parser.add_argument(
        "--iteration",
        metavar="N",
        type=_ranges,
        action="append",
        default=[],
        help="only these: 3, or 0,2-4; can be given again",
    )
    parser.add_argument("--phase", metavar="NAME", help="only this one: generate, dev, ...")
    right_or_wrong = parser.add_mutually_exclusive_group()
    right_or_wrong.add_argument(
        "--correct", action="store_true", default=None, help="only right ones"
    )
    right_or_wrong.add_argument(
        "--wrong", dest="correct", action="store_false", default=None, help="only wrong ones"
    )
    parser.add_argument(
        "--problem", metavar="ID", help="only this one, followed through the iterations"
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_count,
        help=f"plain text: at most N rollouts, 0 for all (default {LIMIT}; with --problem all)",
    )
    parser.add_argument("--text", action="store_true", help="plain text on a terminal too")
    return parser


def _ranges(text: str) -> list[range]:
    """ "0,2-4" -> [range(0, 1), range(2, 5)]."""
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            ranges.append(range(low, (int(last) if dash else low) + 1))
        except ValueError:
            ranges.append(range(0))
        if not ranges[-1]:
            raise argparse.ArgumentTypeError(f"{part!r} is not a number N or a range N-M")
    return ranges


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rollouts, 0 for all")
    return int(text)
