"""What the framework costs: a run against a bare loop that makes the same model calls.

    python benchmarks/overhead.py [--repeats 3] [OVERRIDES]

Both do the same iteration of STaR with the tiny model: the same problems sampled, the same number
of training steps, the same evaluation. The run has Lightning, W&B offline, metrics, the store and
checkpoints; the bare loop has the sampler, the loss, an optimizer and one write of its rollouts.
They alternate; medians are printed.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from star_exp.callbacks.sampling import Drawn, Work, judged
from star_exp.clock import Clock
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.data.encode import pack, trained_tokens
from star_exp.models.base import load
from star_exp.modules import packing
from star_exp.modules.loss import summed_loss
from star_exp.run import quiet_libraries, run
from star_exp.sampling.base import Request
from star_exp.seeds import derive
from star_exp.store import RolloutStore


def bare_loop(config: dict, base: Path, folder: Path) -> None:
    """One iteration: generate, rationalize, fine-tune from the base, evaluate before and after."""
    policy, task = load(base), build(config["task"])
    handed = {"task": task, "store": RolloutStore(folder), "clock": Clock(folder), "seed": 0}
    data = build(config["data"], **handed)
    samplers = {
        name: build(config["callbacks"][name]["sampler"]) for name in ("generate", "evaluate")
    }

    def sample(phase, problems, hinted=False):
        requests = [
            Request(
                data.prompts.sampling(policy, task, problem, trained=0, hint=hinted),
                derive(0, 1, phase, problem.id, 0),
            )
            for problem in problems
        ]
        sampler = samplers["generate" if phase in {"generate", "rationalize"} else "evaluate"]
        samples = sampler.sample(policy, requests, task.stop)
        work = Work(task, phase, 1, 0, problems, hinted=hinted)
        drawn = [
            Drawn(problem, 0, request, sample_)
            for problem, request, sample_ in zip(problems, requests, samples, strict=True)
        ]
        return judged(work, drawn, "")

    splits = [
        *config["callbacks"]["evaluate"]["splits"],
        *config["callbacks"]["evaluate"]["final_splits"],
    ]
    for split in splits:
        sample(split, task.problems(split))
    problems = data.problems(1)
    generated = sample("generate", problems)
    failed = [p for p, r in zip(problems, generated, strict=True) if not r.correct]
    data.store.write(1, "generate", 0, [*generated, *sample("rationalize", failed, hinted=True)])
    examples, steps = data.training_set(policy, 1)
    packing.enable(policy.model)
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config["module"]["learning_rate"], fused=True
    )
    for step in steps:
        chosen = [examples[index] for index in step]
        loss = summed_loss(policy.model, pack(chosen)) / trained_tokens(chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for split in splits:
        sample(split, task.problems(split))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    quiet_libraries()
    seconds: dict[str, list[float]] = {"run": [], "bare loop": []}
    with tempfile.TemporaryDirectory() as scratch:
        words = [f"cache_dir={scratch}/cache", "iterations=1", *options.overrides]
        for repeat in range(-1, options.repeats):  # the first warms up, and makes the base model
            folder = Path(scratch) / "run"
            config = plain(compose([*words, f"run_dir={folder}"]))
            base = build(config["model"]).prepare(
                build(config["task"]), Path(config["cache_dir"]), lambda done, of: None
            )
            for name, work in (
                ("run", lambda: run(config, [])),  # noqa: B023
                ("bare loop", lambda: bare_loop(config, base, Path(scratch) / "bare")),  # noqa: B023
            ):
                begun = time.perf_counter()
                work()
                if repeat >= 0:
                    seconds[name].append(time.perf_counter() - begun)
            shutil.rmtree(folder)
    run_s, bare_s = (statistics.median(seconds[name]) for name in ("run", "bare loop"))
    for name, values in seconds.items():
        print(f"{name:10} " + " ".join(f"{value:6.2f}" for value in values) + " s")
    print(f"medians: run {run_s:.2f} s, bare loop {bare_s:.2f} s; ", end="")
    print(f"the framework's share of the run: {1 - bare_s / run_s:.1%}")


if __name__ == "__main__":
    main()
