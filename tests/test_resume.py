"""A run that is killed, wherever it is, and started again, ends like one that was not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from star_exp.errors import CheckpointError
from star_exp.run import run
from star_exp.store import RolloutStore, StoreError
from tests.test_run import final_weights, results, shards

SAVE = "pytorch_lightning.callbacks:ModelCheckpoint._save_checkpoint"
# where the run is killed: a function, and at which of its calls
PLACES = {
    "unbroken": (None, 0),
    "base_training": ("star_exp.models.tiny:summed_loss", 40),
    "base_saving": ("star_exp.files:shutil.rmtree", 2),
    "first_evaluation": ("star_exp.store:RolloutStore.write", 1),
    "generation": ("star_exp.store:RolloutStore.write", 5),
    "generation_after_the_file": ("star_exp.clock:Clock.add", 5),
    "rationalization": ("star_exp.store:RolloutStore.write", 7),
    "fine_tuning": ("star_exp.modules.finetune:FineTune.training_step", 17),
    "evaluation": ("star_exp.callbacks.evaluate:Evaluate.on_train_epoch_end", 2),
    "metrics_writing": ("star_exp.callbacks.report:write_text", 2),
    "checkpoint_of_the_best": (SAVE, 1),
    "checkpoint_of_the_last": (SAVE, 2),
    "checkpoint_half_written": ("star_exp.checkpoints:torch.save", 2),
    "base_folder_half_written": ("star_exp.models.tiny:json.dumps", 2),
    "final_evaluation": ("star_exp.callbacks.evaluate:Evaluate.on_run_end", 1),
    "model_saving": ("star_exp.modules.base:save", 1),
    "results_writing": ("star_exp.rundir:RunDirectory.finish", 1),
}
SLOW = {  # each takes six seconds; these are next to one that is tested always
    *("base_saving", "base_folder_half_written", "first_evaluation", "generation_after_the_file"),
    *("metrics_writing", "checkpoint_of_the_best", "final_evaluation", "results_writing"),
}
QUICK = PLACES.keys() - SLOW - {"unbroken"}
NAMES = [*sorted(QUICK), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SLOW))]
TIMED = ("seconds", "tokens_per_s")


@pytest.fixture(scope="module")
def runs(small_config, tmp_path_factory) -> Callable[[str], Path]:
    """The folder that holds the run of a name, killed and finished, and the unbroken one."""
    made: dict[bool, Path] = {}

    def folder(name: str) -> Path:
        slow = name in SLOW
        if slow not in made:
            names = ["unbroken", *(SLOW if slow else QUICK)]
            made[slow] = scenarios(names, small_config, tmp_path_factory.mktemp("killed"))
        return made[slow]

    return folder


def scenarios(names: Sequence[str], small_config, root: Path) -> Path:
    """Each in root/<name>, with a log beside it."""
    asked = {}
    for name in names:
        words = ["logger=none", "callbacks.generate.problems_a_shard=25"]
        words += [f"cache_dir={root}/cache_{name}"] if name.startswith("base_") else []
        asked[name] = (small_config(root / name, *words), *PLACES[name])
    path = root / "scenarios.json"
    path.write_text(json.dumps(asked))
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (root / "outcomes.json").write_text(json.dumps({o["name"]: o for o in outcomes}))
    return root


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(runs, name):
    runs = runs(name)
    outcome = json.loads((runs / "outcomes.json").read_text())[name]
    log = (runs / f"{name}.log").read_text()
    assert outcome["killed"] == -signal.SIGKILL, log
    assert outcome["finished"] == 0, log
    assert shards(runs / name) == shards(runs / "unbroken")
    assert final_weights(runs / name) == final_weights(runs / "unbroken")
    mine, theirs = results(runs / name), results(runs / "unbroken")
    assert mine["status"] == "finished"
    assert untimed(mine["iterations"]) == untimed(theirs["iterations"])
    lines = [json.loads(x) for x in (runs / name / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert untimed(lines) == untimed(theirs["iterations"])
    assert not list((runs / name).rglob("*.stale"))


def untimed(lines: list[dict]) -> list[dict]:
    """Metrics but for those that are wall time."""
    return [
        {name: value for name, value in line.items() if not name.endswith(TIMED)} for line in lines
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_metric_is_lost_but_for_wall_time(runs, name):
    unbroken, again = (
        [set(line) for line in results(runs(name) / run)["iterations"]]
        for run in ("unbroken", name)
    )
    for mine, theirs in zip(again, unbroken, strict=True):
        assert {n for n in theirs - mine if not n.endswith(TIMED)} == set()


def test_a_damaged_checkpoint_is_named_and_without_it_the_iterations_are_trained_again(
    small_config, tmp_path
):
    words = ("logger=none", "iterations=1")
    run(small_config(tmp_path, *words), [])
    before, weights = shards(tmp_path), final_weights(tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last.ckpt can't be read .* Delete it and"):
        run(small_config(tmp_path, "logger=none", "iterations=2"), [])
    last.unlink()
    run(small_config(tmp_path, "logger=none", "iterations=2"), [])
    after = shards(tmp_path)
    assert all(after[path] == data for path, data in before.items())
    assert results(tmp_path)["status"] == "finished"
    assert weights != final_weights(tmp_path)


def test_a_truncated_shard_is_named_and_only_it_is_sampled_again(small_config, tmp_path):
    words = ("logger=none", "callbacks.generate.problems_a_shard=25")
    run(small_config(tmp_path, *words, "iterations=1"), [])
    before = shards(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").unlink()  # as if it had stopped in the first iteration
    shard = tmp_path / "rollouts" / "iter_001" / "generate" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:200])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet") if path != shard}
    with pytest.raises(StoreError, match=r"00001.parquet can't be read .* Delete this file and"):
        run(small_config(tmp_path, *words, "iterations=2"), [])
    shard.unlink()
    run(small_config(tmp_path, *words, "iterations=2"), [])
    after = shards(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_full_disk_is_reported_and_what_was_whole_stays(small_config, tmp_path, monkeypatch):
    import errno

    from star_exp import files

    words = ("logger=none", "iterations=2")
    replace, calls = os.replace, []

    def full(source, target):
        if str(target).endswith(".parquet"):
            calls.append(target)
            if len(calls) > 6:
                raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(OSError, match=r"The disk is full\. Free some space and give the same"):
            run(small_config(tmp_path / "a", *words), [])
    whole = shards(tmp_path / "a")
    assert len(whole) == 6
    assert not list(tmp_path.rglob("*.tmp"))
    run(small_config(tmp_path / "a", *words), [])
    run(small_config(tmp_path / "b", *words), [])
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert whole.items() <= shards(tmp_path / "a").items()


def test_what_is_asked_to_end_does_so_within_a_phase_and_keeps_what_is_written(
    small_config, tmp_path, monkeypatch
):
    """A SIGTERM, as of Slurm or `kill`; training steps alone would be far away."""
    words = ("logger=none", "iterations=1", "callbacks.generate.problems_a_shard=5")
    write, calls = RolloutStore.write, []

    def terminated(self, iteration, phase, *rest):
        write(self, iteration, phase, *rest)
        if phase == "generate":
            calls.append(phase)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(RolloutStore, "write", terminated)
        with pytest.raises(SystemExit):
            run(small_config(tmp_path, *words), [])
    assert calls == ["generate"]
    assert signal.getsignal(signal.SIGTERM) is before
    whole = shards(tmp_path)
    assert len([path for path in whole if "generate" in str(path)]) == 1
    assert results(tmp_path)["status"] == "running"
    run(small_config(tmp_path, *words), [])
    assert results(tmp_path)["status"] == "finished"
    assert whole.items() <= shards(tmp_path).items()


def test_a_read_only_directory_is_reported(small_config, tmp_path, monkeypatch):
    import errno

    def read_only(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match=r"read-only. Mount it writable, or choose another run_dir="):
        run(small_config(tmp_path / "run", "logger=none"), [])
