"""Accuracy and other metrics over iterations, tokens and FLOPs: as curves with bands, and at equal
budgets.

    history(run)                    {iteration: {problem: right}} on dev
    of_row(runs, histories, names)  {metric: Curve}
    equal_compute(rows, histories)  what each row reaches with what all have spent
    draw(comparison, path)          curves.png
"""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from star_exp.files import replace_file
from star_exp.report.runs import (
    AXES,
    AtBudget,
    Comparison,
    Curve,
    EqualCompute,
    Run,
    Value,
)
from star_exp.report.values import Grid, Values, accuracies, grid_of

ACCURACY = "dev/accuracy"
BUDGETS = ("generated_tokens", "flops")
SLACK = 0.02  # of a budget
RESAMPLES_OF_A_CURVE = 1_000  # for each of its points
OVER = (  # what is drawn beside accuracy, where it was measured: metric, title
    ("generate/coverage", "training problems solved without a hint"),
    ("train/coverage", "training problems solved, with hints too"),
    ("generate/distinct_4", "diversity: distinct 4-grams"),
    ("generate/distinct_equations", "diversity: distinct equations"),
    ("train/balance", "balance score"),
)
# Okabe and Ito's, told apart by the colour-blind too; black is for the baseline
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", ":", "-.")
BASELINE = "#000000"

Histories = Mapping[Path, Mapping[int, Values]]  # by run folder, by iteration


def history(run: Run) -> dict[int, Values]:
    """Greedy accuracy on each dev problem, for the iterations that measured it. StoreError."""
    found = {
        int(line["iteration"]): accuracies(run, int(line["iteration"]), "dev")
        for line in run.lines
        if ACCURACY in line
    }
    return {iteration: values for iteration, values in found.items() if values}


def sizes(line: Mapping[str, float], split: str) -> set[int]:
    """The k of pass@k that were measured of a split."""
    found = (re.fullmatch(rf"{split}/pass@(\d+)", name) for name in line)
    return {int(each[1]) for each in found if each}


def shown(rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """The metrics that are drawn: those that some run has at two iterations or more."""
    runs = [run for of in rows.values() for run in of]
    ks = [found for run in runs for line in run.lines[1:] if (found := sizes(line, "dev"))]
    common = set.intersection(*ks) if ks else set()
    names = [ACCURACY, *([f"dev/pass@{max(common)}"] if common else []), *dict(OVER)]
    return [name for name in names if any(_often(run, name) > 1 for run in runs)]


def _often(run: Run, metric: str) -> int:
    return sum(metric in line for line in run.lines)


def of_row(runs: Sequence[Run], histories: Histories, metrics: Sequence[str]) -> dict[str, Curve]:
    """The curves of a row, at the iterations that all its seeds have reached and measured."""
    made = {}
    for metric in metrics:
        of = [
            {int(line["iteration"]): line[metric] for line in run.lines if metric in line}
            for run in runs
        ]
        common = sorted(set.intersection(*({*each} for each in of)))
        if not common:
            continue
        values = [[each[iteration] for each in of] for iteration in common]
        bands = [(min(each), max(each)) for each in values]
        sampled = metric == ACCURACY and all(
            iteration in histories[run.folder] for run in runs for iteration in common
        )
        if sampled:
            grids = [_grid(runs, histories, [n] * len(runs)) for n in common]
            bands = [of.interval(RESAMPLES_OF_A_CURVE) for of in grids[:-1]]
            bands.append(grids[-1].interval())  # as in the table
        made[metric] = Curve(
            x={axis: _over(runs, axis, common) for axis in AXES},
            mean=tuple(map(fmean, values)),
            low=tuple(low for low, _ in bands),
            high=tuple(high for _, high in bands),
            band="95% interval" if sampled else "range of seeds",
        )
    return made


def equal_compute(
    rows: Mapping[str, Sequence[Run]], histories: Histories
) -> tuple[EqualCompute, ...]:
    """Dev accuracy where each run was at the largest budget that all rows have used up.

    A run is at the last iteration that it had finished within the budget, or SLACK of it more, for
    runs of the same settings don't write quite as many tokens. Nothing is interpolated.
    Rows that spend nothing, such as the base model, are where they always are.
    """
    made = []
    for axis in BUDGETS:
        spent = {run.folder: run.spent(axis) for runs in rows.values() for run in runs}
        ends = [of[-1] for of in spent.values() if of[-1] > 0]
        if not ends:
            continue
        budget, found = min(ends), []
        for name, runs in rows.items():
            reached = [_reached(run, spent[run.folder], budget) for run in runs]
            if None not in reached:
                found.append(
                    _at_budget(name, runs, [n for n in reached if n is not None], histories)
                )
        found.sort(key=lambda each: -each.value.mean)
        made.append(EqualCompute(axis, budget, ACCURACY, tuple(found)))
    return tuple(made)


def _reached(run: Run, spent: Sequence[float], budget: float) -> int | None:
    """The last iteration within the budget whose model was measured on dev."""
    within = [
        int(line["iteration"])
        for line, cost in zip(run.lines, spent, strict=True)
        if cost <= budget * (1 + SLACK) and ACCURACY in line
    ]
    return max(within, default=None)


def _at_budget(
    name: str, runs: Sequence[Run], reached: Sequence[int], histories: Histories
) -> AtBudget:
    by_seed = {
        run.seed: next(line[ACCURACY] for line in run.lines if line["iteration"] == iteration)
        for run, iteration in zip(runs, reached, strict=True)
    }
    of = [histories[run.folder].get(n, {}) for run, n in zip(runs, reached, strict=True)]
    value = Value(
        mean=fmean(by_seed.values()),
        interval=_grid(runs, histories, reached).interval() if all(of) else None,
        by_seed=by_seed,
        problems=min(map(len, of)) or None,
    )
    return AtBudget(name, value, dict(zip(by_seed, reached, strict=True)))


def _grid(runs: Sequence[Run], histories: Histories, iterations: Sequence[int]) -> Grid:
    """Dev accuracy by problem, each run at its own iteration."""
    of = [histories[run.folder][n] for run, n in zip(runs, iterations, strict=True)]
    return grid_of(runs, ACCURACY, of)


def _over(runs: Sequence[Run], axis: str, iterations: Sequence[int]) -> tuple[float, ...]:
    """What the seeds had spent by the end of each iteration, their mean."""
    spent = [
        dict(zip((int(line["iteration"]) for line in run.lines), run.spent(axis), strict=True))
        for run in runs
    ]
    return tuple(fmean(of[iteration] for of in spent) for iteration in iterations)


def draw(comparison: Comparison, path: Path) -> None:
    """Accuracy over iterations, tokens and FLOPs above, the other metrics below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    titles = {ACCURACY: "accuracy on dev (greedy)"}
    for metric in sorted({name for row in comparison.rows for name in row.curves}):
        if "@" in metric:
            titles[metric] = f"{metric.replace('/', ' ')} of candidates"
    titles |= dict(OVER)
    below = [name for name in titles if any(name in row.curves for row in comparison.rows)]
    places = [(ACCURACY, axis) for axis in AXES if ACCURACY in below]
    places += [(name, "iteration") for name in below if name != ACCURACY]
    height, looks = max(1, -(-len(places) // 3)), styles(comparison)
    with pyplot.rc_context({"text.parse_math": False}):  # a $ in a name is no mathematics
        figure, panels = pyplot.subplots(
            height, 3, figsize=(13, 3.6 * height + 0.6), layout="constrained", squeeze=False
        )
        for axes, (metric, axis) in zip(panels.flat, places, strict=False):
            _panel(axes, comparison, metric, axis, looks)
            axes.set_title(titles[metric], fontsize=10)
        for axes in panels[0, 1:] if ACCURACY in below else ():
            axes.sharey(panels[0, 0])
        for axes in [*panels.flat][len(places) :]:
            axes.set_axis_off()
        lines = [Line2D([], [], marker="o", markersize=3, **style) for style in looks.values()]
        figure.legend(
            lines,
            [*looks],
            loc="outside lower center",
            ncols=3 if max(map(len, looks)) > 30 else 5,
            fontsize=8,
        )
        figure.suptitle(
            f"{comparison.title}\nlines: means over seeds; bands: of accuracy 95% intervals "
            "(bootstrap over seeds and problems), else from the lowest to the highest seed",
            fontsize=10,
        )
        with replace_file(path) as file:
            figure.savefig(file, format="png", dpi=110)
        pyplot.close(figure)


def _panel(
    axes, comparison: Comparison, metric: str, axis: str, looks: Mapping[str, Mapping[str, Any]]
) -> None:
    from matplotlib.ticker import EngFormatter

    faint = min(0.12, 0.7 / len(comparison.rows))
    for row in comparison.rows:
        if curve := row.curves.get(metric):
            x, style = curve.x[axis], looks[row.name]
            axes.plot(x, curve.mean, marker="o", markersize=3, **style)
            axes.fill_between(x, curve.low, curve.high, color=style["color"], alpha=faint, lw=0)
    axes.set_xlabel(AXES[axis])
    axes.grid(alpha=0.3)
    if axis == "iteration":
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M, 20T


def styles(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """A colour and a dash for each row that no other has, up to 28; the baseline is black."""
    pairs, found = cycle((colour, dash) for dash in DASHES for colour in COLOURS), {}
    for name in sorted(row.name for row in comparison.rows):  # not by rank, which changes
        colour, dash = (BASELINE, "-") if name == comparison.baseline else next(pairs)
        found[name] = {"color": colour, "linestyle": dash}
    return {row.name: found[row.name] for row in comparison.rows}
