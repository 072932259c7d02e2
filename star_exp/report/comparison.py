"""How runs become a comparison: which make a row, what each row is worth, and how sure that is.

comparison = compare([Path("outputs/star-exp")], baseline="star")
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from star_exp.errors import UserError, did_you_mean
from star_exp.metrics import metric as registered
from star_exp.report import curves
from star_exp.report.differing import warnings
from star_exp.report.runs import (
    Column,
    Comparison,
    EqualCompute,
    Row,
    Run,
    Test,
    Value,
    collect,
    decoding,
    missing,
    named,
    sampled_by,
    split_of,
)
from star_exp.report.statistics import FLIPS, RESAMPLES, holm, interval, problem_means, sign_flip_p
from star_exp.report.tables import title_of
from star_exp.report.values import Grid, Values, grid_of, paired, values_of
from star_exp.store import StoreError

ALPHA = 0.05
FEW_SEEDS = 5  # below which their part of an interval is mostly not knowing
COSTS = (  # of a whole run: metric, heading, unit
    ("cost/steps", "steps", "steps"),
    ("cost/generated_tokens", "tokens generated", "tokens"),
    ("cost/trained_tokens", "tokens trained on", "tokens"),
    ("cost/flops", "FLOPs", "FLOP"),
    ("cost/seconds", "time", "s"),
)
SUMMED = {"cost/steps": "train/steps", "cost/trained_tokens": "train/tokens"}
NO_DIFFERENCE = "no significant difference"


def compare(
    folders: Sequence[Path],
    *,
    metric: str | None = None,
    baseline: str | None = None,
    variants: Sequence[str] = (),
    title: str | None = None,
) -> Comparison:
    """The finished runs below these folders, row by row.

    metric: what rows are tested by; else test/accuracy, or dev/accuracy where no test was measured.
    baseline: a row or a variant; else star, or else the first row. variants: only these.
    UserError if there are no finished runs, or no such metric, baseline or variant.
    """
    runs, absent = collect(folders)
    cells = _chosen(named(runs), variants, baseline)
    absent += missing(cells)
    finished = {name: [run for run in of if run.status == "finished"] for name, of in cells.items()}
    finished = {name: of for name, of in finished.items() if of}
    if not finished:
        raise UserError("\n  ".join(["no run is finished:", *absent]))
    metric = _metric(metric, finished)
    columns = _columns(metric, finished)
    baseline = _baseline(baseline, finished)
    rows, measured, histories = {}, {}, {}
    for name, of in finished.items():
        for run in of:
            try:
                measured[run.folder] = values_of(run, [column.metric for column in columns])
                histories[run.folder] = curves.history(run)
                rows.setdefault(name, []).append(run)
            except StoreError as error:
                absent.append(f"{name}, seed {run.seed}: left out; {error}")
    if baseline not in rows:
        raise UserError("\n  ".join([f"nothing of the baseline {baseline} can be read:", *absent]))
    grids = _grids(rows, measured)
    tests, fewer = _tests(grids, metric, baseline)
    shown = curves.shown(rows)
    made = [
        Row(
            name=name,
            variant=of[0].variant,
            cell=of[0].cell,
            runs=tuple(of),
            values=_values(of, columns, grids[name]),
            test=tests.get(name),
            verdict=_verdict(name, baseline, metric, grids, tests),
            curves=curves.of_row(of, histories, shown),
        )
        for name, of in rows.items()
    ]
    equal = curves.equal_compute(rows, histories)
    absent += [sentence for each in equal for sentence in _not_within(each, rows)]
    return Comparison(
        title=title or _title(rows),
        metric=metric,
        baseline=baseline,
        columns=tuple(columns),
        rows=tuple(sorted(made, key=lambda row: _place(row, metric))),
        equal=equal,
        notes=tuple(_notes(metric, baseline, rows, made, grids)),
        missing=tuple(absent),
        warnings=(*fewer, *warnings(rows)),
    )


def _grids(
    rows: Mapping[str, Sequence[Run]], measured: Mapping[Path, Mapping[str, Values]]
) -> dict[str, dict[str, Grid]]:
    """Of each row, of each metric that all of its runs have by problem."""
    return {
        name: {
            metric: grid_of(runs, metric, [measured[run.folder][metric] for run in runs])
            for metric in set.intersection(*({*measured[run.folder]} for run in runs))
        }
        for name, runs in rows.items()
    }


def _tests(
    grids: Mapping[str, Mapping[str, Grid]], metric: str, baseline: str
) -> tuple[dict[str, Test], list[str]]:
    """Each row against the baseline, where both were measured on the same problems; and sentences
    on those rows where only some are."""
    theirs = grids[baseline].get(metric)
    pairs = {
        name: pair
        for name, of in grids.items()
        if name != baseline and theirs and metric in of and (pair := paired(of[metric], theirs))
    }
    fewer = [
        f"{name}: its difference from the baseline is of the {len(ours.problems)} problems that "
        f"both have answers judged of, not of all {len(grids[name][metric].problems)}"
        for name, (ours, _) in pairs.items()
        if len({grids[name][metric].problems, ours.problems, grids[baseline][metric].problems}) > 1
    ]
    ps = [
        sign_flip_p(problem_means(ours.values_S_P) - problem_means(base.values_S_P))
        for ours, base in pairs.values()
    ]
    tests = {}
    for (name, (ours, base)), p, corrected in zip(pairs.items(), ps, holm(ps), strict=True):
        low, high = interval(np.clip(ours.means - base.means, -1, 1))  # of shares
        tests[name] = Test(
            difference=ours.mean - base.mean,
            interval=(low, high),
            p=p,
            p_holm=corrected,
            significant=corrected < ALPHA and not low <= 0 <= high,
        )
    return tests, fewer


def _values(
    runs: Sequence[Run], columns: Iterable[Column], grids: Mapping[str, Grid]
) -> dict[str, Value]:
    """What a row has of the columns; nothing of what not all of its runs have measured."""
    values = {}
    for column in columns:
        by_seed = {
            run.seed: said for run in runs if (said := _said(run, column.metric)) is not None
        }
        if len(by_seed) < len(runs):
            continue
        of = grids.get(column.metric)
        values[column.metric] = Value(
            mean=fmean(by_seed.values()),
            interval=of.interval() if of else None,
            by_seed=by_seed,
            problems=of.judged if of else None,
        )
    return values


def _said(run: Run, metric: str) -> float | None:
    """What a run says of its last iteration, or its sum of what is spent."""
    if metric in SUMMED:
        return sum(line.get(SUMMED[metric], 0) for line in run.lines)
    if metric == "cost/generated_tokens":
        return run.spent("generated_tokens")[-1]
    return run.final.get(metric)


def _verdict(
    name: str,
    baseline: str,
    metric: str,
    grids: Mapping[str, Mapping[str, Grid]],
    tests: Mapping[str, Test],
) -> str:
    if name == baseline:
        return "baseline"
    if name in tests:
        if not tests[name].significant:
            return NO_DIFFERENCE
        alone = any(len(grids[row][metric].values_S_P) == 1 for row in (name, baseline))
        direction = "higher" if tests[name].difference > 0 else "lower"
        return f"{direction} (one seed)" if alone else direction
    both = metric in grids[name] and metric in grids[baseline]
    return "not comparable: other problems" if both else "not measured by problem"


def _chosen(
    cells: Mapping[str, list[Run]], variants: Sequence[str], baseline: str | None
) -> dict[str, list[Run]]:
    """The rows of these names, or of these variants, and the baseline's; all if none is given."""
    chosen = {name for wanted in (*variants, baseline or "") for name in _called(wanted, cells)}
    for wanted in variants:
        if not _called(wanted, cells):
            known = {*cells, *(runs[0].variant for runs in cells.values())}
            raise UserError(f"--variants: there is no {wanted!r}; {did_you_mean(wanted, known)}")
    return {name: runs for name, runs in cells.items() if not variants or name in chosen}


def _called(wanted: str, rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """The row of this name, or else those of this variant."""
    if wanted in rows:
        return [wanted]
    return [name for name, runs in rows.items() if runs[0].variant == wanted]


def _metric(wanted: str | None, rows: Mapping[str, Sequence[Run]]) -> str:
    measured = {name for runs in rows.values() for run in runs for name in run.final}
    measured.discard("iteration")
    usual = [name for name in ("test/accuracy", "dev/accuracy") if name in measured]
    if wanted is None and usual:
        return usual[0]
    if wanted not in measured:
        found = f"there is no {wanted!r}" if wanted else "no test or dev accuracy was measured"
        known = [name for name in measured if split_of(name)]
        raise UserError(f"--metric: {found}; {did_you_mean(wanted or '', known)}")
    return wanted


def _baseline(wanted: str | None, rows: Mapping[str, Sequence[Run]]) -> str:
    """The row of this name, or the first of this variant that has the most seeds."""
    of = _called(wanted or "star", rows)
    if wanted is not None and not of:
        known = {*rows, *(runs[0].variant for runs in rows.values())}
        raise UserError(
            f"--baseline: there is no finished {wanted!r}; {did_you_mean(wanted, known)}"
        )
    return max(of or [*rows][:1], key=lambda name: len(rows[name]))


def _columns(metric: str, rows: Mapping[str, Sequence[Run]]) -> list[Column]:
    """The metric, dev accuracy, what candidates say of the most samples that all have, costs."""
    finals = [run.final for runs in rows.values() for run in runs]
    split = split_of(metric) or "dev"
    split = split if any(f"{split}/pass@1" in final for final in finals) else "dev"
    ks = [curves.sizes(final, split) for final in finals]
    common = set.intersection(*found) if (found := [each for each in ks if each]) else set()
    names = [metric, "dev/accuracy"]
    if common:
        k = max(common)
        of = re.compile(rf"{split}/((pass|majority)@{k}|pass@{k}-\d+|best_of_{k}/[^/]+)")
        names += [name for final in finals for name in final if of.fullmatch(name)]
    measured = {name for final in finals for name in final}
    names = [name for name in dict.fromkeys(names) if name in measured]
    made = [Column(name, name.replace("/", " ", 1), registered(name).unit) for name in names]
    return made + [Column(*cost) for cost in COSTS if cost[0] not in names]


def _place(row: Row, metric: str) -> tuple[bool, float]:
    """The best first, and what wasn't measured last."""
    sign = 1 if registered(metric).better == "down" else -1
    value = row.values.get(metric)
    return value is None, sign * value.mean if value else 0.0


def _title(rows: Mapping[str, Sequence[Run]]) -> str:
    runs = [run for of in rows.values() for run in of]
    of = [
        ", ".join(dict.fromkeys(str(run.config["choices"][choice]) for run in runs))
        for choice in ("task", "model")
    ]
    return f"{len(rows)} variants on {of[0]} with {of[1]}"


def _not_within(equal: EqualCompute, rows: Mapping[str, Sequence[Run]]) -> list[str]:
    found = {each.row for each in equal.rows}
    return [
        f'{name}: left out of "{title_of(equal)}", since some run of it has no {equal.metric} '
        "within that budget"
        for name in rows
        if name not in found
    ]


def _notes(
    metric: str,
    baseline: str,
    rows: Mapping[str, Sequence[Run]],
    made: Sequence[Row],
    grids: Mapping[str, Mapping[str, Grid]],
) -> Iterator[str]:
    """How many, how sampled, how sure: what a reader must know to believe a number."""
    runs = [run for of in rows.values() for run in of]
    counts = sorted({of[metric].judged for of in grids.values() if metric in of})
    n = f"n = {' or '.join(map(str, counts))} problems, " if counts else ""
    fewest, most = min(map(len, rows.values())), max(map(len, rows.values()))
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    yield f"{metric} of the last iteration: {n}mean over seeds ({each} a row, of {seeds})."
    others: dict[str, set[int]] = {}
    for of in grids.values():
        for name in sorted(of.keys() - {metric}):
            others.setdefault(split_of(name) or "", set()).add(of[name].judged)
    told = [f"{split} n = {' or '.join(map(str, sorted(n)))}" for split, n in others.items()]
    if told:
        yield f"Other columns: {', '.join(told)}; curves and equal compute are of dev."
    sampled = {
        "evaluate": "Accuracy is of one sample of each problem",
        **({"other_tasks": "That of other tasks"} if sampled_by(metric) == "other_tasks" else {}),
        "candidates": "pass@k, and what is picked from several",
    }
    for callback, what in sampled.items():
        said = [said for said in dict.fromkeys(decoding(run, callback) for run in runs) if said]
        if said:
            yield f"{what}: {'; or '.join(said)}."
    yield (
        f"Intervals are of 95%: hierarchical bootstrap, {RESAMPLES:,} resamples of seeds, then of "
        "problems, the part of the seeds stretched to Student's t; Wilson's where all or none "
        "are right. A value without one is a mean over seeds: it has no value by problem, and "
        "can't be tested."
    )
    tested = [row for row in made if row.test]
    if tested:
        yield (
            f"Differences are from the baseline, {baseline}. p: paired permutation test over "
            f"problems ({FLIPS:,} random swaps, or all), after Holm's correction for {len(tested)} "
            "rows; it takes the trained models as they are. A difference is called one only where "
            f"p < {ALPHA:g} and its bootstrap interval, over seeds too, leaves out 0."
        )
    if fewest == 1:
        alone = "Some rows have one seed" if most > 1 else "There is one seed of each row"
        yield f"{alone}: its interval is over problems alone, and says nothing of other seeds."
    if 1 < most < FEW_SEEDS:
        yield f"{most} seeds tell little of how much seeds differ: hence intervals are wide."
