"""Two processes do what one does: the same rollouts, shared out, and they resume."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star_exp.store import RolloutStore
from tests.conftest import SMALL
from tests.test_run import results

# in float64 nothing is near enough to a tie for the order of a sum to decide a token
WORDS = (*SMALL, "model.dtype=float64", "logger=none", "callbacks.generate.problems_a_shard=10")


def command(folder: Path, cache: Path, *words: str) -> list[str]:
    settings = [*WORDS, f"run_dir={folder}", f"cache_dir={cache}", *words]
    return [sys.executable, "-m", "star_exp", "run", *settings]


def start(folder: Path, cache: Path, *words: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, cache, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def texts(folder: Path) -> dict[tuple, tuple]:
    """What was sampled for what, without log-probabilities, which differ in their last bits."""
    store = RolloutStore(folder / "rollouts")
    return {
        (r.iteration, r.phase, r.problem, r.sample): (r.seed, r.tokens, r.answer, r.correct)
        for iteration in store.iterations()
        for r in store.read(iteration, *store.phases(iteration))
    }


@pytest.fixture(scope="module")
def one(base_cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    finish(start(folder, base_cache))
    return folder


@pytest.mark.slow
def test_two_processes_sample_and_train_as_one_does(one, base_cache, tmp_path):
    output = finish(start(tmp_path / "run", base_cache, "trainer=ddp_cpu"))
    assert texts(tmp_path / "run") == texts(one)
    ranks = {path.name for path in (tmp_path / "run" / "clock").iterdir()}
    assert ranks == {"0.jsonl", "1.jsonl"}  # both did their share
    mine, theirs = results(tmp_path / "run")["iterations"], results(one)["iterations"]
    assert [line["iteration"] for line in mine] == [line["iteration"] for line in theirs]
    for a, b in zip(mine, theirs, strict=True):
        for name in ("dev/accuracy", "train/coverage", "train/steps", "train/tokens"):
            assert a.get(name) == b.get(name)
    assert mine[1]["train/final_loss"] == pytest.approx(theirs[1]["train/final_loss"], rel=0.5)
    assert output.count("iteration 1: dev accuracy") == 1  # one of them speaks


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on(one, base_cache, tmp_path):
    folder = tmp_path / "run"
    running = start(folder, base_cache, "trainer=ddp_cpu", start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(folder.glob("rollouts/iter_002/generate/*.parquet")):
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()[0]
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert json.loads((folder / "results.json").read_text())["status"] == "running"
    finish(start(folder, base_cache, "trainer=ddp_cpu"))
    assert texts(folder) == texts(one)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(one, base_cache, tmp_path):
    finish(start(tmp_path / "run", base_cache, "trainer=ddp_cpu", "iterations=1"))
    finish(start(tmp_path / "run", base_cache, "iterations=2"))
    # and the evaluation of M_1, which was the last model for a while
    assert texts(one).items() <= texts(tmp_path / "run").items()


PART = "reward.model.callbacks"
REWARDED = (
    *("variant=online_rft", "iterations=2", "samples=3", "reward=process"),
    *("callbacks.candidates.samples=4", "callbacks.candidates.final_splits=[dev]"),
    *(f"{PART}.responses.problems=20", f"{PART}.responses.samples=3"),
    *(f"{PART}.complete.completions=2", f"{PART}.candidates.samples=4"),
)


@pytest.mark.slow
def test_two_processes_make_a_reward_model_and_choose(base_cache, tmp_path):
    """The model, its generator and the run are three fits of the same two processes."""
    words = (*REWARDED, "balance=temperature_and_threshold", "callbacks.balance.problems=12")
    words += ("callbacks.balance.temperatures=[0.7,1.3]", "callbacks.balance.problems_a_shard=4")
    two, one = tmp_path / "two", tmp_path / "one"
    finish(start(two, tmp_path / "cache", *words, "trainer=ddp_cpu"))
    (made,) = (tmp_path / "cache").glob("reward-*/seed0/verifier.safetensors")
    assert results(two)["status"] == "finished"
    chosen = RolloutStore(two / "rollouts").noted(2, "chosen")
    assert {*chosen} == {"temperature", "threshold"}
    finish(start(one, base_cache, *words, f"reward.from={made.parent}"))  # alone, by that model
    assert texts(two) == texts(one)
    assert RolloutStore(one / "rollouts").noted(2, "chosen") == chosen


@pytest.mark.slow
def test_two_runs_at_once_make_one_reward_model(tmp_path):
    """One makes it, the other waits and says so; both are judged by it."""
    cache, folders = tmp_path / "cache", [tmp_path / "a", tmp_path / "b"]
    begun = [start(each, cache, *REWARDED, f"seed={n}") for n, each in enumerate(folders)]
    said = [finish(process) for process in begun]
    assert sum("which another run is making" in output for output in said) == 1
    (made,) = cache.glob("reward-*/seed0/verifier.safetensors")
    (judge,) = {
        json.loads((each / "manifest.json").read_text())["data"]["reward model"] for each in folders
    }
    digest = hashlib.blake2b(made.read_bytes(), digest_size=8).hexdigest()
    assert judge == digest
