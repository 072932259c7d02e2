"""A run's iterations as a table in the terminal and as curves in a picture."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_exp.files import replace_file
from star_exp.metrics.estimators import wilson_interval

FEW = 10  # groups that are shown one by one
COLUMNS = (  # heading, metric, format; narrow enough for 80 columns
    ("it", "iteration", "{:d}"),
    ("cover", "generate/coverage", "{:.1%}"),
    ("+hints", "rationalize/coverage", "{:.1%}"),
    ("steps", "train/steps", "{:d}"),
    ("loss", "train/final_loss", "{:.3f}"),
    ("dev", "dev/accuracy", "{:.1%}"),
)


def best(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first trained model with the highest dev/accuracy, that of best.ckpt; else the base."""
    measured = [line for line in lines if "dev/accuracy" in line]
    measured = [line for line in measured if line["iteration"] > 0] or measured
    if not measured:
        return {}
    line = max(measured, key=lambda line: line["dev/accuracy"])
    return {"iteration": line["iteration"], "dev/accuracy": line["dev/accuracy"]}


def groups(lines: Sequence[dict[str, Any]], metric: str) -> list[str]:
    """The groups that a metric is split by in these lines: ["digits=1", "digits=2", ...]."""
    prefix = f"{metric}/"
    names = {
        name.removeprefix(prefix) for line in lines for name in line if name.startswith(prefix)
    }
    return sorted(names, key=lambda name: (name.partition("=")[0], len(name), name))


def measured(base: dict[str, Any], line: dict[str, Any], phase: str) -> str:
    """`26.1% -> 98.5% (97.9%-98.9%, n=1921)`: greedy accuracy of the base and of the last model,
    with the last's 95% interval over problems (Wilson's); and its groups, if they are few."""
    metric, problems = f"{phase}/accuracy", int(line.get(f"{phase}/problems", 0))
    before = f"{base[metric]:.1%} -> " if metric in base and base is not line else ""
    interval = ""
    if problems:
        low, high = wilson_interval(line[metric] * problems, problems)
        interval = f" ({low:.1%}-{high:.1%}, n={problems})"
    whole, _, parts = said(line, metric, 1).partition(" (")
    return f"{before}{whole}{interval}" + (f"\n  {parts.removesuffix(')')}" if parts else "")


def said(line: dict[str, Any], metric: str, decimals: int) -> str:
    """A share and those of its groups, if they are few: `92.0% (digits=1 100%, digits=2 91%)`."""
    names = groups([line], metric)
    parts = [f"{name} {line[f'{metric}/{name}']:.{decimals}%}" for name in names]
    return f"{line[metric]:.1%}" + (f" ({', '.join(parts)})" if 0 < len(parts) <= FEW else "")


def table(lines: Sequence[dict[str, Any]]):
    """A rich table, an iteration a row; columns that no iteration has are left out.

    cover: training problems solved without a hint; +hints: those solved only with one.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    split, before = [], ""
    for group in groups(lines, "dev/accuracy"):
        name, _, value = group.partition("=")
        heading = f"={value}" if name == before else group  # digits=1 =2 =3
        split.append((heading, f"dev/accuracy/{group}", "{:.0%}"))
        before = name
    split = split if len(split) <= FEW else []
    columns = [column for column in (*COLUMNS, *split) if any(column[1] in line for line in lines)]
    made = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading, _, _ in columns:
        made.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        made.add_row(*(_cell(line.get(name), form) for _, name, form in columns))
    return made


def picked(line: dict[str, Any], split: str):
    """A rich table: how often an answer is right that is picked from k candidates, by whom."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = [re.fullmatch(rf"{split}/(.+?)[@_](\d+)(?:/(\w+))?", name) for name in line]
    sizes = sorted({int(each[2]) for each in found if each and each[1] == "pass"})
    verifiers = dict.fromkeys(each[3] for each in found if each and each[1] == "best_of")
    rows = [(f"best by {name}", f"{split}/best_of_{{}}/{name}") for name in verifiers]
    rows = [("majority", f"{split}/majority@{{}}"), *rows, ("any right", f"{split}/pass@{{}}")]
    shown = [k for k in sizes if k == sizes[-1] or k.bit_length() % 2]  # 1, 4, 16, 64 and all
    made = Table(box=SIMPLE_HEAD, title=f"{split}, picked from k", title_justify="left")
    for heading in ("", *(f"k={k}" for k in shown)):
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for heading, name in rows:
        made.add_row(heading, *(_cell(line.get(name.format(k)), "{:.1%}") for k in shown))
    return made


def draw_curves(lines: Sequence[dict[str, Any]], path: Path, head: dict[str, Any]) -> None:
    """Accuracy by group, coverage and balance, and diversity over iterations, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    shades = pyplot.get_cmap("viridis")
    split = groups(lines, "dev/accuracy")
    for place, group in enumerate(split):
        shade = shades(place / max(1, len(split)))
        _curve(left, lines, f"dev/accuracy/{group}", group, color=shade)
    _curve(left, lines, "dev/accuracy", "all", color="black", linewidth=2.5)
    left.set_title("accuracy on dev (greedy)")
    _curve(middle, lines, "generate/coverage", "without a hint")
    _curve(middle, lines, "train/coverage", "with rationalization")
    found = [re.fullmatch(r"generate/pass@(\d+)-(\d+)", name) for line in lines for name in line]
    if several := max(filter(None, found), key=lambda each: int(each[1]), default=None):
        label = f"{several[2]} different right ones of {several[1]}"
        _curve(middle, lines, several[0], label)
    _curve(middle, lines, "train/balance", "balance score", linestyle="dashed")
    middle.set_title("coverage: training problems solved")
    for name in ("distinct_share", "distinct_4", "self_bleu", "distinct_equations"):
        _curve(right, lines, f"generate/{name}", name)
    right.set_title("diversity of the rationales")
    for axes in (left, middle, right):
        axes.set(ylim=(-0.02, 1.02), xlabel="iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.suptitle("{variant} on {task}, {model}, seed {seed}".format_map(head))
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def draw_balance(grids: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """The balance scores that each iteration chose from, as heat maps: temperature by threshold.

    grids: of each iteration what callbacks/balance.py notes. A cross is on what was chosen.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(grids))
    rows = -(-len(grids) // columns)
    size = (1 + 3.2 * columns, 0.8 + 2.8 * rows)
    figure, places = pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    lowest = min(min(map(min, grid["scores"])) for grid in grids.values())
    highest = max(grid["score"] for grid in grids.values())
    drawn: Any = None
    for axes, (iteration, grid) in zip(places.flat, grids.items(), strict=False):
        drawn = axes.imshow(
            grid["scores"], origin="lower", aspect="auto", vmin=lowest, vmax=highest
        )
        hot, strict = (grid[f"{name}s"].index(grid[name]) for name in ("temperature", "threshold"))
        axes.plot(strict, hot, marker="x", color="red", markersize=9, markeredgewidth=2)
        axes.set_title(f"iteration {iteration}: {grid['score']:.3f}", fontsize=10)
        for axis, values in ((axes.xaxis, grid["thresholds"]), (axes.yaxis, grid["temperatures"])):
            every = -(-len(values) // 6)
            shown = range(0, len(values), every)
            named = ["its own" if value is None else f"{value:g}" for value in values]
            axis.set_ticks(shown, [named[place] for place in shown])
    for axes in [*places.flat][len(grids) :]:
        axes.set_axis_off()
    figure.supxlabel("reward threshold")
    figure.supylabel("sampling temperature")
    figure.colorbar(drawn, ax=places, label="balance score")
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def _curve(axes, lines: Sequence[dict[str, Any]], name: str, label: str, **style: Any) -> None:
    points = [(line["iteration"], line[name]) for line in lines if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, **style)


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return form.format(int(value) if form == "{:d}" else value)
