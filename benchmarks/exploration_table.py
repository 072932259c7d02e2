r"""Exploration and exploitation over iterations, by variant, over all seeds: B-STaR and its kin.

    star-exp run -m experiment=bstar_addition variant=bstar,bstar_temperature,bstar_threshold \
        seed=0,1,2
    star-exp run -m experiment=bstar_addition variant=online_rft reward=none,process seed=0,1,2
    star-exp run -m experiment=bstar_addition variant=iterative_rft,rest_em,star seed=0,1,2
    python benchmarks/exploration_table.py outputs/star-exp [--png curves.png]

Of the last model: test and dev with 95% bootstrap intervals over the pairs of problem and seed. Of
all models: means over seeds. What B-STaR chose stands below. Sums are written in columns without an
equals sign: a column, 4931 or 9431, counts as an equation.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from star_exp.callbacks.candidates import phase_of
from star_exp.metrics import (
    accuracy,
    bootstrap_interval,
    distinct_equations,
    passes,
    several_passes,
)
from star_exp.records import Rollout
from star_exp.store import RolloutStore, by_problem

Line = dict[str, Any]
CURVES = (  # metric of metrics.jsonl, what it is called
    ("dev/accuracy", "greedy accuracy"),
    ("dev/pass@1", "pass@1"),
    ("dev/pass@32", "pass@32"),
    ("dev/pass@32-4", "pass@32-4"),
    ("dev/distinct_columns", "distinct columns"),
    ("train/balance", "balance score"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Exploration and exploitation by variant.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--png", type=Path, help="draw the curves into this file")
    options = parser.parse_args()
    found: dict[str, list[tuple[int, Path, list[Line]]]] = defaultdict(list)
    for name, seed, folder, lines in runs(options.root):
        found[name].append((seed, folder, lines))
    print_last(found, options.k)
    for metric, called in CURVES:
        print_curves(found, metric, called)
    print_chosen(found)
    if options.png:
        draw(found, options.png)


def runs(root: Path) -> Iterator[tuple[str, int, Path, list[Line]]]:
    """(name, seed, folder, a line an iteration) of each finished run; models that a run made for
    itself lie deeper, and are none."""
    for path in sorted(root.glob("*/seed*/results.json")):
        results = json.loads(path.read_text())
        if results["status"] == "finished":
            config: Any = OmegaConf.load(path.parent / "config.yaml")
            extra = (
                " + reward" if config.get("reward") and "bstar" not in results["variant"] else ""
            )
            lines = [*map(json.loads, (path.parent / "metrics.jsonl").read_text().splitlines())]
            for line in lines:
                drawn = RolloutStore(path.parent / "rollouts").read(
                    line["iteration"], phase_of("dev")
                )
                line["dev/distinct_columns"] = fmean(distinct_equations(drawn, columns).values())
            yield results["variant"] + extra, results["seed"], path.parent, lines


def columns(rationale: str) -> list[str]:
    """What a rationale of the compact format says before its answer."""
    return rationale.partition("#")[0].split()


def print_last(found: dict[str, list[tuple[int, Path, list[Line]]]], k: int) -> None:
    measures: dict[str, tuple[str, Callable[[Sequence[Rollout]], Any]]] = {
        "test, greedy": ("test", greedy),
        "dev, greedy": ("dev", greedy),
        "dev pass@1": (phase_of("dev"), lambda drawn: passes(drawn, 1)),
        f"dev pass@{k}": (phase_of("dev"), lambda drawn: passes(drawn, k)),
        f"dev pass@{k}-4": (phase_of("dev"), lambda drawn: several_passes(drawn, k, 4)),
        "dev distinct columns": (phase_of("dev"), lambda drawn: distinct_equations(drawn, columns)),
    }
    print("| variant | " + " | ".join(measures) + " | n of test, dev | seeds | tokens |")
    print("|---" * (len(measures) + 4) + "|")
    for name, of_seeds in found.items():
        cells, sizes = [], {}
        for phase, measure in measures.values():
            values = [
                value
                for _, folder, lines in of_seeds
                for value in measure(
                    RolloutStore(folder / "rollouts").read(lines[-1]["iteration"], phase)
                ).values()
            ]
            low, high = bootstrap_interval(values)
            cells.append(f"{fmean(values):.1%} ({low:.1%}-{high:.1%})")
            sizes[phase] = len(values)
        seeds = ", ".join(str(seed) for seed, _, _ in of_seeds)
        tokens = fmean(lines[-1]["cost/tokens"] for _, _, lines in of_seeds)
        n = f"{sizes['test']}, {sizes['dev']}"
        print(f"| {name} | " + " | ".join(cells) + f" | {n} | {seeds} | {tokens / 1e6:.1f} M |")


def greedy(rollouts: Sequence[Rollout]) -> dict[str, float]:
    return {name: accuracy(mine) for name, mine in by_problem(rollouts).items()}


def print_curves(
    found: dict[str, list[tuple[int, Path, list[Line]]]], metric: str, called: str
) -> None:
    print(f"\n{called} ({metric}), mean over seeds (lowest-highest), by iteration")
    for name, of_seeds in found.items():
        values = by_iteration([lines for _, _, lines in of_seeds], metric)
        if values:
            said = "  ".join(
                f"{iteration}: {fmean(of):.3f} ({min(of):.3f}-{max(of):.3f})"
                for iteration, of in values.items()
            )
            print(f"{name:28} {said}")


def by_iteration(of_seeds: Sequence[Sequence[Line]], metric: str) -> dict[int, list[float]]:
    values: dict[int, list[float]] = defaultdict(list)
    for lines in of_seeds:
        for line in lines:
            if metric in line:
                values[line["iteration"]].append(line[metric])
    return dict(sorted(values.items()))


def print_chosen(found: dict[str, list[tuple[int, Path, list[Line]]]]) -> None:
    print("\nchosen: temperature, threshold (balance score)")
    for name, of_seeds in found.items():
        for seed, _, lines in of_seeds:
            said = [
                f"{line['balance/temperature']:g}, {line.get('balance/threshold', 0):g} "
                f"({line['balance/score']:.3f})"
                for line in lines
                if "balance/temperature" in line
            ]
            if said:
                print(f"{name:20} seed {seed}: " + "; ".join(said))


def draw(found: dict[str, list[tuple[int, Path, list[Line]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for axes, (metric, called) in zip(places.flat, CURVES, strict=True):
        for place, (name, of_seeds) in enumerate(found.items()):
            values = by_iteration([lines for _, _, lines in of_seeds], metric)
            means = [fmean(of) for of in values.values()]
            style = {"color": f"C{place}", "label": name}
            axes.plot([*values], means, marker="o", markersize=3, **style)
            axes.fill_between(
                [*values],
                [min(of) for of in values.values()],
                [max(of) for of in values.values()],
                color=f"C{place}",
                alpha=0.1,
            )
        axes.set(title=called, xlabel="iteration")
        axes.grid(alpha=0.3)
    places.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
