"""The table of the README: accuracy on the test split by variant and seed.

star-exp run -m variant=star,star_without_rationalization,direct seed=0,1,2
star-exp run -m variant=base iterations=0
python benchmarks/addition_table.py outputs/star-exp
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from star_exp.metrics import wilson_interval
from star_exp.store import RolloutStore

MODELS = (("after 1", 1), ("after 2", 2), ("after 4", 4), ("after 8", 8))


def main(root: Path) -> None:
    print(
        "| variant | seed | steps | test, 4 digits | test, all | dev "
        + " | dev ".join(name for name, _ in MODELS)
        + " | coverage, iterations 1, 2, 4 |"
    )
    print("|---|---|---|---|---|" + "---|" * (len(MODELS) + 1))
    found = defaultdict(list)
    for path in root.glob("*/seed*/results.json"):
        results = json.loads(path.read_text())
        if results["status"] == "finished":
            found[results["variant"]].append((results["seed"], path.parent, results))
    for variant in ("base", "direct", "star_without_rationalization", "star"):
        for seed, folder, results in sorted(found[variant], key=lambda run: run[0]):
            lines = results["iterations"]
            steps = sum(line.get("train/steps", 0) for line in lines)
            cells = [variant, seed, steps]
            rollouts = RolloutStore(folder / "rollouts").read(lines[-1]["iteration"], "test")
            for part in ([r for r in rollouts if r.groups["digits"] == "4"], rollouts):
                right = sum(r.correct for r in part)
                low, high = wilson_interval(right, len(part))
                cells.append(f"{right / len(part):.1%} ({low:.1%}-{high:.1%}, n={len(part)})")
            by_iteration = {line["iteration"]: line for line in lines}
            for _, iteration in MODELS:
                line = by_iteration.get(iteration)
                cells.append(f"{line['dev/accuracy']:.1%}" if line else "-")
            covered = [by_iteration.get(n, {}).get("train/coverage") for n in (1, 2, 4)]
            cells.append(", ".join("-" if c is None else f"{c:.1%}" for c in covered))
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
