"""Whether the metrics of a run are those that its rollouts give, and what else it stored."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from star_exp import summary, verifying
from star_exp.callbacks.report import (
    cost,
    evaluated,
    noted,
    prepared,
    sampled,
    totals,
    training_phases,
)
from star_exp.errors import UserError
from star_exp.verify.stored import Check, Stored

NOT_AGAIN = re.compile(r".*/(seconds|tokens_per_s)|train/final_loss")


def check(run: Stored) -> Check:
    """Each line of metrics.jsonl against its rollouts, and results.json against the lines."""
    found, before = Check("metrics"), dict[str, float]()
    number, not_again = 0, set[str]()
    for iteration, line in sorted(run.lines.items()):
        where = f"metrics.jsonl, iteration {iteration}"
        logged = {name: value for name, value in line.items() if name != "iteration"}
        try:
            found.faults += _noted_otherwise(run, iteration)
            before = again = _again(run, iteration, before)
        except (LookupError, ValueError, UserError) as error:  # a file or a rollout is missing
            found.faults.append(f"{where}: can't be computed again: {error}")
            before = logged
            continue
        only = {name for name in _only_logged(run, logged) if name not in again}
        checked = {name: value for name, value in logged.items() if name not in only}
        if not run.finished and iteration == max(run.lines):  # what it samples is logged later
            again = {name: value for name, value in again.items() if name in logged}
        found.faults += _compared(where, checked, again)
        number, not_again = number + len(checked), not_again | only
    found.faults += _in_results(run)
    found.said = f"{number} values of {len(run.lines)} iterations"
    names = {re.sub(r".*/(seconds|tokens_per_s)$", r"*/\1", name) for name in not_again}
    if names:
        found.left_out.append(f"logged only: {', '.join(sorted(names))}")
    return found


def _again(run: Any, iteration: int, before: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an iteration, as Report computes them, from what is stored alone."""
    data, module = run.datamodule, run.lightning_module
    values = sampled(data, iteration, training_phases(data, iteration))
    if iteration and module is not None:
        steps = data.steps(module, iteration, rank=0, world=1)
        values |= prepared(data, len(steps))
    values |= evaluated(run, iteration)
    told = noted(run, iteration)
    values |= {name: value for name, value in told.items() if not NOT_AGAIN.fullmatch(name)}
    if module is not None:
        values |= cost(before, values, module)
    verifier = run.root / "verifier" / f"iter_{iteration:03d}"
    if (verifier / "results.json").exists():
        values |= verifying.picked(verifier)
    return values


def _noted_otherwise(run: Stored, iteration: int) -> Iterator[str]:
    """What phases noted beside their samples, and would not now: their method `notes`."""
    for callback in run.callbacks:
        notes = getattr(callback, "notes", None)
        made = notes(run.datamodule, iteration) if notes and iteration else {}
        for name, values in made.items():
            stored = run.store.noted(iteration, name)
            if stored != values:
                yield f"rollouts/iter_{iteration:03d}/{name}.json is {stored}, expected {values}"


def _only_logged(run: Stored, names: Iterable[str]) -> set[str]:
    """Those that only the run knew; without a model also what is told of training sets."""
    without = ("train/", "cost/") if run.lightning_module is None else ()
    return {name for name in names if NOT_AGAIN.fullmatch(name) or name.startswith(without)}


def _compared(where: str, logged: Mapping[str, float], again: Mapping[str, float]) -> Iterator[str]:
    for name in [*logged, *(name for name in again if name not in logged)]:
        if name not in again:
            yield f"{where}: {name} is {logged[name]!r}, and nothing that is stored gives it"
        elif name not in logged:
            yield f"{where}: {name} is not there, what is stored gives {again[name]!r}"
        elif not math.isclose(logged[name], again[name], rel_tol=1e-9):
            yield f"{where}: {name} is {logged[name]!r}, what is stored gives {again[name]!r}"


def _in_results(run: Stored) -> Iterator[str]:
    """What results.json says otherwise than metrics.jsonl."""
    results, lines = run.results, run.lines
    ordered = [lines[iteration] for iteration in sorted(lines)]
    told = {line["iteration"]: line for line in results["iterations"]}
    # metrics.jsonl is written first, so that a kill may leave one line more there
    for iteration in sorted({*lines, *told} if run.finished else told):
        yield from _otherwise(
            f"results.json, iteration {iteration}", told.get(iteration), lines.get(iteration)
        )
    if run.finished and ordered:
        yield from _otherwise("results.json, final", results.get("final"), ordered[-1])
        yield from _otherwise("results.json, best", results.get("best"), summary.best(ordered))
        again = {**totals(ordered), "flops": ordered[-1].get("cost/flops")}
        theirs = {name: results.get("cost", {}).get(name) for name in again}
        yield from _otherwise("results.json, cost", theirs, again)


def _otherwise(
    where: str, mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None
) -> Iterator[str]:
    if mine is None or theirs is None:
        yield f"{where}: is in {'metrics.jsonl' if mine is None else 'results.json'} alone"
        return
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            yield f"{where}: {name} is {mine.get(name)!r}, metrics.jsonl has {theirs.get(name)!r}"
