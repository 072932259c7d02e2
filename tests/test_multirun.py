"""Several runs by one command: what fails stops no other, and the same command goes on."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
import yaml
from filelock import FileLock

from star_exp.cli import main
from star_exp.config.launch import RANKS, Job, Prefixed, _jobs, alone, own_ranks, summed_up
from star_exp.errors import UserError
from star_exp.progress import FILE, held, read
from star_exp.run import run
from tests.conftest import SMALL
from tests.test_resume import untimed
from tests.test_run import final_weights, results, shards
from tests.test_wandb import records as records_of_wandb

pytestmark = pytest.mark.usefixtures("without_curves")


def records(folder: Path) -> list[dict]:
    """What the jobs of the last launch left."""
    last = max((folder / "outputs" / "multirun").iterdir(), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in sorted(last.glob("job_*.json"))]


def statuses(folder: Path) -> list[str]:
    return [record["status"] for record in records(folder)]


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def found(folder: Path) -> dict[str, Path]:
    """Run directories by their variant and seed: star-seed0."""
    paths = folder.glob("outputs/debug/*/seed*")
    return {f"{path.parent.name.split('-')[0]}-{path.name}": path for path in paths}


def test_a_multirun_tells_what_became_of_each_job_and_repeats_nothing(
    base_cache, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, f"cache_dir={base_cache}", "iterations=1", "data.bucket=0,20"]
    words += ["hydra.sweeper.max_batch_size=1"]  # the second job is of a later batch
    assert main(["run", "-m", *words]) == 1
    said = capsys.readouterr()
    assert statuses(tmp_path) == ["failed", "finished"]
    assert "2 jobs: 1 failed, 1 finished" in said.err
    failed = records(tmp_path)[0]
    assert [each["of"] for each in records(tmp_path)] == [2, 2]
    assert " ".join(failed["overrides"]) in said.err
    (log,) = failed["logs"]  # no run.log: the run did not begin
    assert f"  log: {log}\n" in said.err
    assert "data.bucket=0: expected at least 1" in failed["error"]
    assert "ConfigError" in Path(log).read_text()
    assert "\n1 star s0 | iteration 1: dev accuracy" in said.out

    (path,) = found(tmp_path).values()
    before = written(path)
    assert main(["run", "-m", *words[:-2], "data.bucket=20"]) == 0
    assert statuses(tmp_path) == ["finished before"]
    assert "1 job: 1 finished before" in capsys.readouterr().out
    assert written(path) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-m variant=base,star seed=0,1,2 name=x", 6),
        ("-m seed=range(0,5) task.operators='+-'", 5),
        ("-m variant=star data.filters=[a,b]", 1),
        ("-m task=glob(a*)", None),  # Hydra looks them up
        ("-m seed=interval(0,1)", None),
        ("-m seed={", None),  # Hydra's to refuse
    ],
)
def test_how_many_jobs_a_command_makes_is_known_before_they_begin(words, expected):
    assert _jobs(words.split()) == expected


@pytest.mark.slow
def test_each_job_has_a_run_of_wandb_of_its_own_and_ends_it(base_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    words = [*SMALL, f"cache_dir={base_cache}", "iterations=0", "logger=wandb", "seed=0,1"]
    assert main(["run", "-m", *words]) == 0
    own = {path: read(path / "manifest.json")["run_id"] for path in found(tmp_path).values()}
    assert len({*own.values()}) == 2 and wandb.run is None
    for path, run_id in own.items():
        told = records_of_wandb(path)
        assert {one["run"]["run_id"] for one in told if one["type"] == "run"} == {run_id}
        assert [one["exit"].get("exit_code", 0) for one in told if one["type"] == "exit"] == [0]


def test_a_refused_job_points_at_no_log_of_the_process_that_works_there(
    small_config, base_cache, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs/debug" / _cell(small_config) / "seed0"
    root.mkdir(parents=True)
    (root / "run.log").write_text("all is well\n")
    with FileLock(root / ".lock"):
        assert main(["run", "-m", *SMALL, f"cache_dir={base_cache}", "seed=0"]) == 1
    (record,) = records(tmp_path)
    assert "another process is working" in record["error"]
    assert [Path(log).name for log in record["logs"]] == ["job_000.log"]
    assert str(root / "run.log") not in capsys.readouterr().err


def test_the_other_ranks_of_a_job_are_given_that_job_alone():
    command = ["star-exp", "run", "-m", "seed=0,1", "~patience", "--config-dir", "conf"]
    mine = alone(command, ["hydra/launcher=basic", "seed=1", "~patience"])
    assert mine == [
        *("star-exp", "run", "--config-dir", "conf"),
        *("hydra/launcher=basic", "seed=1", "~patience", "hydra.mode=RUN"),
    ]


def test_what_lightning_notes_of_the_ranks_of_a_job_ends_with_it(monkeypatch):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "mine")
    with pytest.raises(ValueError, match="boom"), own_ranks():
        for name in RANKS:  # as Lightning does, which then starts none for another job
            monkeypatch.setenv(name, "0")
        raise ValueError("boom")
    assert {name: os.environ[name] for name in RANKS if name in os.environ} == {
        "MASTER_ADDR": "mine"
    }


def test_the_ranks_of_somebody_else_stay(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with own_ranks():
        pass
    assert (os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == ("0", "2")


def test_a_wrong_word_is_refused_before_any_job_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "seed=0,1", "variant=star,stra"]) == 1
    assert "variant=stra: there is no such choice; did you mean 'star'?" in capsys.readouterr().err
    assert not list(tmp_path.rglob("job_*"))


def test_a_job_survives_its_way_to_another_process(tmp_path):
    job = Job(("star-exp", "run", "-m"), tmp_path, 1)
    assert pickle.loads(pickle.dumps(job)) == job


def test_each_line_says_whose_it_is_and_comes_in_one_piece():
    pieces = []
    stream = io.StringIO()
    stream.write = pieces.append  # type: ignore[method-assign]
    prefixed = Prefixed(stream, "3 star s1 | ")
    for text in ("one\ntwo", " words", "\n", "\nlast"):
        prefixed.write(text)
    assert "".join(pieces) == "3 star s1 | one\n3 star s1 | two words\n3 star s1 | \n"
    prefixed.end()  # of the job
    prefixed.end()
    assert "".join(pieces[4:]) == "3 star s1 | last\n"
    assert all(piece.endswith("\n") for piece in pieces if piece)
    assert not prefixed.isatty()


def test_a_job_whose_process_died_is_named_and_one_that_lives_as_well(tmp_path, capsys):
    alive = {"overrides": ["seed=1"], "status": "running", "run_dir": str(tmp_path)}
    dead = {"overrides": ["seed=2"], "status": "running", "run_dir": str(tmp_path / "none")}
    with FileLock(tmp_path / ".lock"):
        assert summed_up([alive, dead], "TerminatedWorkerError: a worker was killed") == 1
    said = capsys.readouterr().err
    assert f"seed=1\n  still works in {tmp_path}" in said
    assert "seed=2\n  its process ended without a word" in said
    assert "2 jobs: 2 broken off" in said and "TerminatedWorkerError" in said
    assert "the same command goes on" in said
    assert "jobs that had not begun are not counted here" in said


def test_a_search_without_a_result_says_why(capsys):
    gave_up = "ValueError: No trials are completed yet."
    done = {"overrides": ["seed=0"], "status": "finished", "dev/acuracy": None}
    assert summed_up([done], gave_up) == 1
    said = capsys.readouterr().err
    assert "no trial gave a value; dev/acuracy is no metric of these runs" in said
    failed = {"overrides": ["seed=0"], "status": "failed", "error": "boom"}
    assert summed_up([failed], gave_up) == 1
    assert "no trial gave a value, since all failed" in capsys.readouterr().err


def test_jobs_are_in_the_order_of_their_numbers(tmp_path):
    for number in (1000, 2, 101):
        (tmp_path / f"job_{number:03d}.json").write_text(json.dumps({"number": number}))
    told = Job((), tmp_path, 1).records()
    assert [record["number"] for record in told] == [2, 101, 1000]


def test_a_second_process_is_refused_by_the_name_of_the_directory(small_config, tmp_path):
    script = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); "
        "lock.acquire(); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"locked\n"
        assert held(tmp_path)
        with pytest.raises(UserError, match=f"another process is working in {tmp_path}"):
            run(small_config(tmp_path), [])
        other.kill()
    assert not held(tmp_path)  # no lock outlives its process
    assert not (tmp_path / "config.yaml").exists()


def star_exp(folder: Path, *words: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "star_exp", "run", *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for(folder: Path, variant: str, iteration: int) -> int:
    """The process of a run that has come to an iteration, as soon as it has."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in folder.glob(f"outputs/debug/{variant}-*/seed0/{FILE}"):
            now = read(path)
            if now.get("iteration", 0) >= iteration:
                return now["pid"]
        time.sleep(0.01)
    raise AssertionError(f"{variant} did not come to iteration {iteration}")


@pytest.mark.slow
def test_joblib_goes_on_after_a_failure_and_a_kill_to_what_an_unbroken_run_gives(
    small_config, base_cache, tmp_path
):
    words = [*SMALL, f"cache_dir={base_cache}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    words += ["variant=star,star_without_rationalization", "seed=0,1"]
    damaged = tmp_path / "outputs/debug" / _cell(small_config) / "seed1/checkpoints/last.ckpt"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no checkpoint")

    first = star_exp(tmp_path, "-m", *words)
    os.kill(wait_for(tmp_path, "star", 2), signal.SIGKILL)
    said = first.communicate()[1]
    assert first.returncode == 1
    assert "broken off" in said and "the launcher gave up" in said, said
    assert results(found(tmp_path)["star-seed0"])["status"] == "running"

    second = star_exp(tmp_path, "-m", *words)
    said = second.communicate()[1]
    assert second.returncode == 1 and "last.ckpt can't be read" in said, said
    assert statuses(tmp_path) == ["finished", "failed", "finished", "finished"]
    assert f"  log: {damaged.parents[1] / 'run.log'}" in said
    assert "CheckpointError" in (damaged.parents[1] / "run.log").read_text()

    damaged.unlink()
    runs = found(tmp_path)
    before = {name: written(runs[name]) for name in runs if name != "star-seed1"}
    third = star_exp(tmp_path, "-m", *words)
    said = third.communicate()
    assert third.returncode == 0, said
    assert statuses(tmp_path) == ["finished before", "finished", *["finished before"] * 2]
    assert {name: written(runs[name]) for name in before} == before
    assert "1 star s1 | iteration 2: dev accuracy" in said[0]

    run(small_config(tmp_path / "unbroken"), [])
    mine = found(tmp_path)["star-seed0"]
    assert shards(mine) == shards(tmp_path / "unbroken")
    assert final_weights(mine) == final_weights(tmp_path / "unbroken")
    theirs = results(tmp_path / "unbroken")["iterations"]
    assert untimed(results(mine)["iterations"]) == untimed(theirs)


def _cell(small_config) -> str:
    config = small_config(Path("unused"))
    return "{variant}-{task}-{model}-".format_map(config["choices"]) + config["cell"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_other_launchers_tell_the_same(launcher, base_cache, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    words = [*SMALL, f"cache_dir={base_cache}", f"hydra/launcher={launcher}", "iterations=1"]
    done = star_exp(tmp_path, "-m", *words, "seed=0,1", "data.bucket=20,0")
    said = done.communicate()[1]
    assert done.returncode == 1
    assert statuses(tmp_path) == ["finished", "failed", "finished", "failed"], said
    assert "4 jobs: 2 finished, 2 failed" in said
    assert sorted(found(tmp_path)) == ["star-seed0", "star-seed1"]


@pytest.mark.slow
def test_each_job_has_its_own_ranks_also_behind_one_that_is_refused(
    small_config, base_cache, tmp_path
):
    words = [*SMALL, f"cache_dir={base_cache}", "iterations=1", "trainer=ddp_cpu", "seed=0,1,2"]
    refused = tmp_path / "outputs/debug" / _cell(small_config) / "seed0"
    with FileLock(refused / ".lock"):
        done = star_exp(tmp_path, "-m", *words)
        said = done.communicate()
    assert done.returncode == 1, said
    assert statuses(tmp_path) == ["failed", "finished", "finished"], said
    assert said[1].count("3 jobs: 1 failed, 2 finished") == 1
    assert len(list(tmp_path.glob("outputs/multirun/*"))) == 1
    assert [path.name for path in refused.iterdir()] == [".lock"]
    for seed in (1, 2):  # each rank has timed its share
        clock = refused.parent / f"seed{seed}" / "clock"
        assert sorted(path.name for path in clock.iterdir()) == ["0.jsonl", "1.jsonl"]


@pytest.mark.slow
def test_a_search_goes_on_after_a_failed_trial_and_draws_the_same_trials_again(
    base_cache, tmp_path
):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hparams_search=addition_optuna", *SMALL, f"cache_dir={base_cache}", "iterations=1"]
    words += [
        "hydra.sweeper.n_trials=3",
        "data.bucket=choice(20,0)",
        "hydra.sweeper.sampler.seed=7",
    ]
    first = star_exp(tmp_path, *words)
    said = first.communicate()[1]
    told = records(tmp_path)
    assert [record["status"] for record in told] == ["finished", "finished", "failed"], said
    assert first.returncode == 1
    best = yaml.safe_load(next(tmp_path.glob("outputs/multirun/*/optimization_*")).read_text())
    reached = [
        results(Path(record["run_dir"]))["final"]["dev/accuracy"]
        for record in told
        if record["status"] == "finished"
    ]
    assert best["best_value"] == max(reached)
    assert {record["of"] for record in told} == {None}  # drawn one after another

    star_exp(tmp_path, *words).communicate()
    again = records(tmp_path)
    assert [record["overrides"] for record in again] == [record["overrides"] for record in told]
    assert {record["status"] for record in again} == {"finished before", "failed"}


@pytest.mark.slow
def test_a_search_in_which_every_trial_fails_says_why(base_cache, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hparams_search=addition_optuna", *SMALL, f"cache_dir={base_cache}"]
    done = star_exp(tmp_path, *words, "hydra.sweeper.n_trials=2", "data.bucket=0")
    said = done.communicate()[1]
    assert done.returncode == 1
    assert "2 jobs: 2 failed" in said and said.count("data.bucket=0: expected at least 1") == 2
