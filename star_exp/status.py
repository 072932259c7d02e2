"""`star-exp status DIR...`: which runs are done, running, interrupted or failed, and the time left.

star-exp status                    all runs below outputs/
star-exp status outputs/star-exp   those of a study
star-exp status --json DIR         a list of objects, for scripts

Whether a run is going on is told by its lock, where it stands by its progress.json (progress.py).
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from star_exp.errors import UserError
from star_exp.progress import FILE, held, read, runs, waiting

STYLES = {
    **{"finished": "green", "running": "cyan", "interrupted": "yellow"},
    **{"failed": "red", "unreadable": "red"},  # what it writes is damaged
}
WIDE = 200  # columns where there is no terminal: nothing is cut


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    run: its directory, from the one that was asked for. status: a key of STYLES.
    of: the iterations that were asked for. phase: of a verifier's fit with `verifier: ` before it.
    dev: the last dev/accuracy. seconds_left: of a run that is going on, where it can be known.
    moved: seconds since it last wrote how far it is. error: the first line of it.
    """

    run: str
    path: str
    status: str
    iteration: int | None
    of: int | None
    phase: str
    done: int | None
    total: int | None
    dev: float | None
    seconds_left: float | None
    moved: float
    error: str


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="star-exp status", description="which runs are done, running or failed"
    )
    parser.add_argument("folders", nargs="*", default=["outputs"], metavar="DIR")
    parser.add_argument("--json", action="store_true", help="a list of objects, for scripts")
    asked = parser.parse_args(arguments)
    found = [each for folder in asked.folders for each in statuses(Path(folder))]
    if asked.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        _print(found)
    return 0


def statuses(folder: Path) -> list[Status]:
    """Of every run in `folder` or below. UserError if it is no folder or holds no run."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a run directory, or one with runs below it"
        )
    found = [_status(root, _name(root, folder)) for root in runs(folder)]
    if not found:
        raise UserError(
            f"there is no run in {folder} or below it: no folder holds config.yaml and "
            "results.json; `star-exp run` puts its runs into outputs/"
        )
    return found


def _status(root: Path, name: str) -> Status:
    try:
        return status(root, name)
    except UserError as error:
        nothing = dict.fromkeys(("iteration", "of", "done", "total", "dev", "seconds_left"))
        return Status(
            run=name,
            path=str(root),
            status="unreadable",
            phase="",
            moved=_since(_last_written(root)),
            error=str(error),
            **nothing,
        )


def status(root: Path, name: str) -> Status:
    """Where the run in `root` stands; it is only looked at. UserError if that can't be read."""
    results, now = read(root / "results.json"), _progress(root)
    said = results.get("status", "running")
    if said == "running" or held(root):
        said = "running" if held(root) else "interrupted"
        results = read(root / "results.json") or results
        said = "finished" if results.get("status") == "finished" else said  # just now
    lines = results.get("iterations", [])
    measured = [line["dev/accuracy"] for line in lines if "dev/accuracy" in line]
    moved = _since(now.get("time", _last_written(root)))
    going_on = said != "finished"
    left = now.get("seconds_left") if said == "running" else None
    return Status(
        run=name,
        path=str(root),
        status=said,
        iteration=now.get("iteration", lines[-1]["iteration"] if lines else None),
        of=now.get("of", results.get("requested_iterations")),
        phase=now.get("phase", "") if going_on else "",
        done=now.get("done") if going_on else None,
        total=now.get("total") if going_on else None,
        dev=measured[-1] if measured else None,
        seconds_left=left - moved if left is not None and left > moved else None,
        moved=moved,
        error=str(results.get("error", "")).partition("\n")[0] if said == "failed" else "",
    )


def _progress(root: Path) -> dict[str, Any]:
    """What was last said of the run: by itself, or by its verifier's fit, which comes after."""
    latest = read(root / FILE)
    for path in sorted(root.glob(f"verifier/*/{FILE}")):
        of_verifier = read(path)
        if of_verifier.get("time", 0.0) >= latest.get("time", 0.0):
            latest = {**of_verifier, "phase": f"verifier: {of_verifier['phase']}"}
    return latest


def _since(then: float) -> float:
    """Seconds; never less than 0, as between two machines' clocks."""
    return max(0.0, time.time() - then)


def _last_written(root: Path) -> float:
    """When a run that says nothing of its progress last wrote its results, or else its config."""
    paths = [path for path in (root / "results.json", root / "config.yaml") if path.exists()]
    return paths[0].stat().st_mtime if paths else time.time()


def _name(root: Path, folder: Path) -> str:
    below = root.relative_to(folder)
    return str(below) if below.parts else "/".join(root.resolve().parts[-2:])


def _print(found: Sequence[Status]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("status", "iteration", "phase", "dev", "left", "moved"):
        right = heading in ("iteration", "dev", "left", "moved")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "phase")
    for each in found:
        table.add_row(*_cells(each))
    console.print(table)
    for each in found:
        if each.error:
            console.print(f"{each.run}: {each.error}", markup=False, soft_wrap=True)
        if each.status == "failed":
            console.print(f"  {each.path}/run.log", markup=False, highlight=False, soft_wrap=True)
    going_on = [Path(each.path) for each in found if each.status == "running"]
    console.print(summed_up(found, waiting(going_on)), markup=False, highlight=False)


def _cells(each: Status) -> tuple[str, ...]:
    style = STYLES[each.status]
    pieces = f" {each.done}/{each.total}" if each.total else ""
    return (
        each.run,
        f"[{style}]{each.status}[/]",
        "" if each.iteration is None else f"{each.iteration} of {each.of}",
        f"{each.phase}{pieces}" if each.phase else "",
        "" if each.dev is None else f"{each.dev:.1%}",
        "" if each.seconds_left is None else said(each.seconds_left),
        f"{said(each.moved)} ago",
    )


def summed_up(found: Sequence[Status], to_begin: int = 0) -> str:
    """`12 finished, 2 running, 1 failed; about 14 min left`: of the run that ends last.

    to_begin: jobs of the same multiruns that have not begun, of which no more is known.
    """
    counts = Counter(each.status for each in found)
    parts = ", ".join(f"{counts[name]} {name}" for name in STYLES if counts[name])
    left = max((each.seconds_left or 0.0 for each in found), default=0.0)
    again = "; the same command goes on with what broke off" if counts["interrupted"] else ""
    time_left = f"; about {said(left)} left" if left else ""
    more = f"{' for those' if left else ''}; {to_begin} more to begin" if to_begin else ""
    return parts + time_left + more + again


def said(seconds: float) -> str:
    """`40 s`, `14 min`, `3.5 h`, `2 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
