"""Seconds and memory of `star-exp report` on runs that are made up.

    python benchmarks/report.py [--runs 100] [--iterations 20] [--rollouts 1000000]
                                [--candidates 0.4] [--keep DIR]

Makes run directories by the store: so many rollouts in all, of each iteration samples of training
problems, which the report never opens, and greedy ones of the dev problems; and of the last one
candidates, which cost the report most. Then the real command compares them, in a process of its
own, whose wall time and highest memory are printed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from star_exp import metrics
from star_exp.files import write_json
from star_exp.records import Rollout, Segment
from star_exp.store import RolloutStore

SEEDS = 5  # of each row
DEV, TEST, SAMPLES = 200, 1319, 4
TEXT = "so there are apples left each costs then we add 12 to 7 which gives 19 of them"


def main() -> None:
    parser = argparse.ArgumentParser(description="What `star-exp report` costs.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rollouts", type=int, default=1_000_000, help="in all runs together")
    parser.add_argument("--candidates", type=float, default=0.4, help="share of the rollouts")
    parser.add_argument("--keep", type=Path, help="make the runs here, or take those of last time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        asked = {name: value for name, value in vars(options).items() if name != "keep"}
        made = root / "made.json"
        if not made.exists():
            begun = time.perf_counter()
            count = sum(make(root, number, options) for number in range(options.runs))
            print(f"made {count} rollouts in {time.perf_counter() - begun:.0f} s")
            write_json(made, asked)
        elif (before := json.loads(made.read_text())) != asked:
            raise SystemExit(f"{root} holds runs of {before}; give these, or another --keep")
        measure(root)


def measure(root: Path) -> None:
    """Prints what the command takes, as the system counts it for a child that has ended."""
    command = [sys.executable, "-m", "star_exp", "report", str(root), "--out", str(root / "report")]
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"star-exp report failed: {child.returncode}")
    processor = used.ru_utime + used.ru_stime
    memory = used.ru_maxrss / 2**20  # Linux counts in KiB
    print(f"star-exp report: {seconds:.1f} s ({processor:.1f} s of CPU), {memory:.2f} GiB")


def make(root: Path, number: int, options: argparse.Namespace) -> int:
    """Writes run `number`, and says how many rollouts it has."""
    rng = random.Random(number)
    row, seed = divmod(number, SEEDS)
    folder = root / f"variant{row}-sums-tiny-{row:08x}" / f"seed{seed}"
    store = RolloutStore(folder / "rollouts")
    mine = options.rollouts // options.runs
    picked_from = int(mine * options.candidates) // DEV  # of each dev problem
    held_out = DEV * (options.iterations + 1 + picked_from) + TEST
    drawn = max(0, mine - held_out) // options.iterations
    lines, count = [], 0
    for iteration in range(options.iterations + 1):
        skill = rng.gauss(0.3 + row / 100, 0.03) + 0.5 * iteration / options.iterations
        line: dict[str, float] = {"iteration": iteration}
        phases = {"generate": (drawn // SAMPLES, SAMPLES)} if iteration else {}
        phases["dev"] = (DEV, 1)
        if iteration == options.iterations:
            phases["test"] = (TEST, 1)
        for phase, (problems, samples) in phases.items():
            rollouts = [*written(rng, phase, iteration, problems, samples, skill)]
            store.write(iteration, phase, 0, rollouts)
            right = sum(rollout.correct for rollout in rollouts) / max(1, len(rollouts))
            line[f"{phase}/accuracy"] = right
            line[f"{phase}/tokens"] = sum(metrics.sampled_tokens(each) for each in rollouts)
            line[f"{phase}/problems"] = problems
            count += len(rollouts)
        if iteration == options.iterations and picked_from > 1:
            rollouts = [*written(rng, "dev", iteration, DEV, picked_from, skill)]
            store.write(iteration, "dev-candidates", 0, rollouts)
            # names only: to compute them for all k takes longer than the report
            names = (f"pass@{picked_from}", f"pass@{picked_from}-4", f"majority@{picked_from}")
            line |= {f"dev/{name}": 0.5 for name in (*names, f"best_of_{picked_from}/likelihood")}
            count += len(rollouts)
        generated = line.get("generate/tokens", 0)
        before = lines[-1]["cost/flops"] if lines else 0.0
        line |= {"cost/flops": before + 1e6 * generated, "cost/seconds": 60.0 * iteration}
        line |= {"train/steps": 100, "train/tokens": 2 * generated}
        lines.append(line)
    describe(folder, f"variant{row}", seed, f"{row:08x}", lines)
    return count


def written(
    rng: random.Random, phase: str, iteration: int, problems: int, samples: int, skill: float
) -> Iterator[Rollout]:
    """Texts of some thirty tokens with their log-probabilities, right as often as `skill` says."""
    known = TEXT.split()
    for problem in range(problems):
        hard = rng.gauss(0, 0.2)
        for sample in range(samples):
            words = rng.choices(known, k=30)
            correct = rng.random() < skill + hard
            tokens = tuple(rng.randrange(50_000) for _ in words)
            logprobs = tuple(-rng.random() for _ in words)
            yield Rollout(
                problem=f"{phase}/{problem}",
                question=f"How many are {problem} and {sample}?",
                gold="8",
                groups={},
                iteration=iteration,
                phase=phase,
                sample=sample,
                hinted=False,
                prompt_tokens=40,
                segments=(Segment(" ".join(words), tokens, logprobs=logprobs),),
                answer="8" if correct else "9",
                correct=correct,
                truncated=False,
                seed=rng.getrandbits(62),
                weights="00000000deadbeef",
            )


def describe(folder: Path, variant: str, seed: int, cell: str, lines: list[dict]) -> None:
    """The files of a run beside its rollouts, as far as a report reads them."""
    iterations = len(lines) - 1
    sampler = {"temperature": 0.0, "max_new_tokens": 64}
    config = {
        "choices": {"variant": variant, "task": "sums", "model": "tiny"},
        "cell": cell,
        "seed": seed,
        "iterations": iterations,
        "callbacks": {"evaluate": {"sampler": sampler}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    said = [f"variant={variant}", f"seed={seed}"]
    write_json(folder / "manifest.json", {"overrides": said, "data": {"dev": "d", "test": "t"}})
    head = {"status": "finished", "requested_iterations": iterations}
    write_json(folder / "results.json", {**head, "iterations": lines, "final": lines[-1]})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


if __name__ == "__main__":
    main()
