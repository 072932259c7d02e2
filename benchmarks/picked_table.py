r"""How often an answer is right that is picked from k candidates, by variant, over all seeds.

    star-exp run -m experiment=vstar_addition variant=vstar seed=0,1,2
    star-exp run -m experiment=vstar_addition variant=vstar_one_iter,verification samples=24 \
        seed=0,1,2
    star-exp run variant=vstar_verifier verifier=orm from=outputs/star-exp/vstar_one_iter-.../seed0
    python benchmarks/picked_table.py outputs/star-exp [--split test] [--k 1 4 16 64]

Means over problems and seeds with 95% bootstrap intervals over the pairs of both, and below it how
the ranking of dev moves with the verifier's iterations.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

from star_exp.callbacks.candidates import own_likelihood, phase_of
from star_exp.metrics import best_of, bootstrap_interval, majorities, passes
from star_exp.scores import ScoreStore, key
from star_exp.store import RolloutStore

Values = Mapping[str, float]  # by problem


def main() -> None:
    parser = argparse.ArgumentParser(description="How often a picked answer is right.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 16, 64])
    options = parser.parse_args()
    rows: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    seeds: dict[str, set[int]] = defaultdict(set)
    for variant, seed, generator, verifier in runs(options.root):
        seeds[variant].add(seed)
        for method, k, values in measured(generator, verifier, options.split, options.k):
            rows[variant, method][k] += values.values()
    print("| variant | picked by | " + " | ".join(f"k={k}" for k in options.k) + " | n |")
    print("|---" * (len(options.k) + 3) + "|")
    for (variant, method), by_k in rows.items():
        cells = [said(by_k[k]) for k in options.k]
        n = f"{len(by_k[options.k[0]])} ({len(seeds[variant])} seeds)"
        print(f"| {variant} | {method} | " + " | ".join(cells) + f" | {n} |")
    for variant, seed, _, verifier in runs(options.root):
        print(f"\n{variant}, seed {seed}: dev after each of the verifier's iterations")
        for line in map(json.loads, (verifier / "metrics.jsonl").read_text().splitlines()):
            shown = {
                name.removeprefix("dev/"): round(value, 3)
                for name, value in line.items()
                if name.startswith(("dev/auc", "dev/best_of_4/", "dev/best_of_64/"))
                and not name.endswith("/likelihood")
            }
            print(line["iteration"], shown)


def runs(root: Path) -> Iterator[tuple[str, int, Path, Path]]:
    """(variant, seed, the generator's folder, the verifier's) of every finished verifier."""
    for path in sorted(root.glob("**/scores")):
        results = json.loads((path.parent / "results.json").read_text())
        if results["status"] == "finished":
            alone = "verifier" not in path.parts
            config = (path.parent / "config.yaml").read_text()
            (told,) = [line for line in config.splitlines() if line.startswith("from:")]
            generator = Path(told.removeprefix("from:").strip()) if alone else path.parents[2]
            yield results["variant"], results["seed"], generator, path.parent


def measured(
    generator: Path, verifier: Path, split: str, ks: list[int]
) -> Iterator[tuple[str, int, Values]]:
    """(what picks, k, its share of right answers by problem)"""
    iteration = json.loads((generator / "results.json").read_text())["final"]["iteration"]
    last = json.loads((verifier / "results.json").read_text())["final"]["iteration"]
    rollouts = RolloutStore(generator / "rollouts").read(iteration, phase_of(split))
    rollouts = rollouts or RolloutStore(verifier / "rollouts").read(iteration, phase_of(split))
    given = ScoreStore(verifier / "scores").read(last, phase_of(split))
    scores = [given[key(rollout)] for rollout in rollouts]
    for k in ks:
        yield "majority", k, majorities(rollouts, k)
        yield "own likelihood", k, best_of(rollouts, own_likelihood(rollouts), k)
        yield "verifier", k, best_of(rollouts, scores, k)
        yield "any right (pass@k)", k, passes(rollouts, k)


def said(values: list[float]) -> str:
    low, high = bootstrap_interval(values)
    return f"{fmean(values):.1%} ({low:.1%}-{high:.1%})"


if __name__ == "__main__":
    main()
