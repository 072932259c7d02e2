r"""Exploration and exploitation over iterations, by variant, over all seeds: B-STaR and its kin.

    star-exp run -m experiment=bstar_addition variant=bstar,bstar_temperature,bstar_threshold \
        callbacks.balance.problems=100 seed=0,1,2
    star-exp run -m experiment=bstar_addition variant=online_rft reward=none,process seed=0,1,2
    star-exp run -m experiment=bstar_addition variant=iterative_rft seed=0,1,2
    star-exp run -m experiment=bstar_addition variant=rest_em,star data.schedule.added=40 \
        sampling.temperature=1.0 sampling.top_k=0 seed=0,1,2
    python benchmarks/exploration_table.py outputs/star-exp [--png curves.png]

Of the last model: means over seeds and problems with 95% bootstrap intervals over problems, each
with the mean of its seeds. Of all models: means over seeds, and the lowest and highest. What B-STaR
chose stands below. The balance score is that of what was trained on, with the same n* for all, so
that schedules which grow can be compared.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from star_exp import metrics
from star_exp.callbacks.candidates import phase_of
from star_exp.config.build import build
from star_exp.metrics import accuracy, bootstrap_interval, passes, several_passes
from star_exp.records import Rollout
from star_exp.store import RolloutStore, by_problem
from star_exp.tuning import tuned

Line = dict[str, Any]
PerProblem = dict[str, float]
CURVES = (  # metric of metrics.jsonl, what it is called
    ("dev/accuracy", "greedy accuracy"),
    ("dev/pass@1", "pass@1"),
    ("dev/pass@{k}", "pass@{k}"),
    ("dev/pass@{k}-4", "pass@{k}-4"),
    ("dev/distinct_equations", "distinct equations"),
    ("balance", "balance score"),
)


@dataclass
class Run:
    """A finished run: a line an iteration, as in metrics.jsonl."""

    name: str
    seed: int
    config: dict[str, Any]
    store: RolloutStore
    lines: list[Line]

    def balances(self, iteration: int, wanted: int) -> PerProblem:
        """The balance score of each problem that an iteration sampled, as training selected."""
        drawn = self.store.read(iteration, "generate")
        chosen = self.store.noted(iteration, "chosen")
        kept = [rollout for rollout in drawn if not rollout.truncated]
        for node in self.config["data"]["filters"]:
            kept = tuned(build(node), chosen)(kept)
        return dict.fromkeys(by_problem(drawn), 0.0) | metrics.balance_scores(kept, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description="Exploration and exploitation by variant.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--wanted", type=int, default=7, help="n* of the balance score")
    parser.add_argument("--png", type=Path, help="draw the curves into this file")
    options = parser.parse_args()
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs(options.root):
        found[run.name].append(run)
    for run in (run for several in found.values() for run in several):
        for line in run.lines:
            if of := run.balances(line["iteration"], options.wanted):
                line["balance"] = fmean(of.values())
    curves = [(metric.format(k=options.k), called.format(k=options.k)) for metric, called in CURVES]
    print_last(found, options.k, options.wanted)
    for metric, called in curves:
        print_curves(found, metric, called)
    print_chosen(found)
    if options.png:
        draw(found, curves, options.png)


def runs(root: Path) -> Iterator[Run]:
    """Those that are finished; models that a run made for itself lie deeper, and are none."""
    read = [
        (path.parent, json.loads(path.read_text())) for path in root.glob("*/seed*/results.json")
    ]
    finished = [(folder, results) for folder, results in read if results["status"] == "finished"]
    named = {}
    for folder, results in finished:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        with_model = config.get("reward") and "bstar" not in results["variant"]
        name = results["variant"] + (" + reward" if with_model else "")
        named[folder] = name, results["config_hash_no_seed"], config
    cells: dict[str, set[str]] = defaultdict(set)
    for name, cell, _ in named.values():
        cells[name].add(cell)
    for folder, results in sorted(finished, key=lambda each: (*named[each[0]][:2], each[0])):
        name, cell, config = named[folder]
        yield Run(
            name if len(cells[name]) == 1 else f"{name} ({cell})",  # other settings, another row
            results["seed"],
            config,
            RolloutStore(folder / "rollouts"),
            [*map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())],
        )


def print_last(found: dict[str, list[Run]], k: int, wanted: int) -> None:
    def of_rollouts(phase: str, measure: Callable[[Sequence[Rollout]], PerProblem]):
        return lambda run, last: measure(run.store.read(last, phase))

    def distinct(run: Run, last: int) -> PerProblem:
        read = build(run.config["task"]).equations
        return metrics.distinct_equations(run.store.read(last, drawn), read)

    drawn = phase_of("dev")
    measures: dict[str, Callable[[Run, int], PerProblem]] = {
        "test, greedy": of_rollouts("test", greedy),
        "dev, greedy": of_rollouts("dev", greedy),
        "dev pass@1": of_rollouts(drawn, lambda found: passes(found, 1)),
        f"dev pass@{k}": of_rollouts(drawn, lambda found: passes(found, k)),
        f"dev pass@{k}-4": of_rollouts(drawn, lambda found: several_passes(found, k, 4)),
        "dev distinct equations": distinct,
        "balance score": lambda run, last: run.balances(last, wanted),
    }
    print("| variant | " + " | ".join(measures) + " | seeds | tokens |")
    print("|---" * (len(measures) + 3) + "|")
    for name, several in found.items():
        cells = []
        for measure in measures.values():
            values: dict[str, list[float]] = defaultdict(list)
            for run in several:
                for problem, value in measure(run, run.lines[-1]["iteration"]).items():
                    values[problem].append(value)
            means = [fmean(of) for of in values.values()]
            low, high = bootstrap_interval(means)
            cells.append(f"{fmean(means):.1%} ({low:.1%}-{high:.1%}, n={len(means)})")
        seeds = ", ".join(str(run.seed) for run in several)
        tokens = fmean(run.lines[-1]["cost/tokens"] for run in several)
        print(f"| {name} | " + " | ".join(cells) + f" | {seeds} | {tokens / 1e6:.1f} M |")


def greedy(rollouts: Sequence[Rollout]) -> PerProblem:
    return {name: accuracy(mine) for name, mine in by_problem(rollouts).items()}


def print_curves(found: dict[str, list[Run]], metric: str, called: str) -> None:
    print(f"\n{called} ({metric}), mean over seeds (lowest-highest), by iteration")
    for name, several in found.items():
        if values := by_iteration(several, metric):
            said = "  ".join(
                f"{iteration}: {fmean(of):.3f} ({min(of):.3f}-{max(of):.3f})"
                for iteration, of in values.items()
            )
            print(f"{name:28} {said}")


def by_iteration(several: Sequence[Run], metric: str) -> dict[int, list[float]]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in several:
        for line in run.lines:
            if metric in line:
                values[line["iteration"]].append(line[metric])
    return dict(sorted(values.items()))


def print_chosen(found: dict[str, list[Run]]) -> None:
    print("\nchosen: temperature, threshold (balance score)")
    for name, several in found.items():
        for run in several:
            said = [
                f"{line['balance/temperature']:g}, {line.get('balance/threshold', 0):g} "
                f"({line['balance/score']:.3f})"
                for line in run.lines
                if "balance/temperature" in line
            ]
            if said:
                print(f"{name:20} seed {run.seed}: " + "; ".join(said))


def draw(found: dict[str, list[Run]], curves: Sequence[tuple[str, str]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for axes, (metric, called) in zip(places.flat, curves, strict=True):
        for place, (name, several) in enumerate(found.items()):
            values = by_iteration(several, metric)
            means = [fmean(of) for of in values.values()]
            style = {"color": f"C{place}", "label": name}
            axes.plot([*values], means, marker="o", markersize=3, **style)
            lowest, highest = ([edge(of) for of in values.values()] for edge in (min, max))
            axes.fill_between([*values], lowest, highest, color=f"C{place}", alpha=0.1)
        axes.set(title=called, xlabel="iteration")
        axes.grid(alpha=0.3)
    places.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
