"""Where runs stand: told by their locks and by what they write, without touching them."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from star_exp.callbacks.generate import Generate
from star_exp.callbacks.panel import Track
from star_exp.cli import main
from star_exp.clock import Clock
from star_exp.errors import UserError
from star_exp.files import write_json
from star_exp.models.tiny import TinyModel
from star_exp.progress import FILE, Progress, elsewhere, held, read
from star_exp.run import run
from star_exp.rundir import RunDirectory
from star_exp.status import Status, said, status, statuses, summed_up
from tests.test_run import results

pytestmark = pytest.mark.usefixtures("without_curves")


def raised_in(iteration: int, error: BaseException, seen: list[Status] | None = None):
    """A patch of Generate: looks at the run in its own process, and raises at an iteration."""
    begin = Generate.on_iteration_start

    def on_iteration_start(self, trainer, module, current):
        if seen is not None:
            seen.append(status(Path(trainer.default_root_dir), "run"))
        if current == iteration:
            raise error
        begin(self, trainer, module, current)

    return on_iteration_start


@pytest.fixture(scope="module")
def study(small_config, tmp_path_factory):
    """Runs that are finished, failed in iteration 2, and interrupted in iteration 2; and what was
    seen of the second while it ran."""
    root, seen = tmp_path_factory.mktemp("status"), []
    run(small_config(root / "study/star/seed0", "iterations=1"), [])
    with pytest.MonkeyPatch.context() as patch:
        boom = raised_in(2, ValueError("boom\nand more"), seen)
        patch.setattr(Generate, "on_iteration_start", boom)
        with pytest.raises(ValueError, match="boom"):
            run(small_config(root / "study/star/seed1"), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generate, "on_iteration_start", raised_in(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(small_config(root / "study/direct/seed0"), [])
    return root, seen


def test_finished_failed_and_interrupted_runs_are_told_apart(study):
    root, _ = study
    found = {each.run: each for each in statuses(root)}
    assert {name: each.status for name, each in found.items()} == {
        "study/direct/seed0": "interrupted",
        "study/star/seed0": "finished",
        "study/star/seed1": "failed",
    }
    assert found["study/star/seed1"].error == "ValueError: boom"
    for name, of in (("star/seed0", 1), ("star/seed1", 2), ("direct/seed0", 2)):
        each = found[f"study/{name}"]
        assert (each.iteration, each.of) == (1, of)
        last = results(root / each.run)["iterations"][-1]
        assert each.dev == last["dev/accuracy"] and last["iteration"] == 1
        assert 0 <= each.moved < 600 and each.seconds_left is None
    assert not (root / "study/star/seed0" / FILE).exists()


def test_a_run_that_goes_on_says_its_iteration_and_phase(study):
    _, (first, second, third) = study  # before generate, before rationalize, before generate
    assert {each.status for each in (first, second, third)} == {"running"}
    assert [each.iteration for each in (first, second, third)] == [0, 1, 1]
    assert [each.phase for each in (first, second, third)] == ["ood", "generate", "dev"]
    assert first.of == third.of == 2 and third.done == third.total == 10
    assert (second.done, second.total) == (60, 60) and third.dev is not None


def test_a_look_changes_nothing_and_a_lock_makes_it_a_running_one(study):
    root, _ = study

    def files():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before = files()
    folder = root / "study/direct/seed0"
    with FileLock(folder / ".lock"):
        locked = files()
        assert status(folder, "").status == "running"
        assert files() == locked
    assert status(folder, "").status == "interrupted"
    assert set(files()) == set(before)


def test_a_failed_run_that_is_begun_again_is_failed_no_more(study, small_config):
    root, _ = study
    folder = root / "study/star/seed1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generate, "on_iteration_start", raised_in(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(small_config(folder), [])
    assert status(folder, "").status == "interrupted"
    run(small_config(folder), [])
    assert status(folder, "").status == "finished" and "error" not in results(folder)


def test_the_table_and_the_objects_say_the_same(study, capsys):
    root, _ = study
    assert main(["status", str(root)]) == 0
    shown = capsys.readouterr().out
    assert main(["status", "--json", str(root / "study/star"), str(root / "study/direct")]) == 0
    found = [Status(**each) for each in json.loads(capsys.readouterr().out)]
    assert [each.run for each in found] == ["seed0", "seed1", "seed0"]
    for each in found:
        assert each.status in shown and f"{each.dev:.1%}" in shown
    assert summed_up(found) in shown


def test_a_folder_that_is_none_or_holds_no_run_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path / "none")]) == 1
    assert "none is not a folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").touch()
    assert main(["status", str(tmp_path)]) == 1
    assert f"there is no run in {tmp_path}" in capsys.readouterr().err


def made(root: Path, of: int = 4) -> Path:
    """A run directory in which a run could be, with the clock of two iterations."""
    clock = Clock(root / "clock")
    for iteration, phase, seconds in (
        (1, "generate", 60.0),
        (1, "train", 40.0),
        (2, "generate", 30.0),
    ):
        clock.add(iteration, phase, seconds)
    (root / "config.yaml").touch()
    (root / ".lock").touch()
    Progress(root, of).at("train", 2, 3, 20)
    return root


def test_time_left_is_that_of_the_last_iteration_for_each_to_come(tmp_path):
    made(tmp_path)
    # iterations 2, 3 and 4 take 100 s each, and 30 s of the second have passed
    assert read(tmp_path / FILE)["seconds_left"] == pytest.approx(270, abs=1)
    assert status(tmp_path, "").seconds_left is None  # nobody works on it
    with FileLock(tmp_path / ".lock"):
        found = status(tmp_path, "")
    assert found.seconds_left == pytest.approx(270, abs=5)
    assert (found.iteration, found.of, found.phase) == (2, 4, "train")
    assert (found.done, found.total) == (3, 20)
    assert summed_up([found]).startswith("1 running; about 4 min left")


def test_a_phase_that_is_done_is_not_counted_twice(tmp_path):
    made(tmp_path)
    progress = Progress(tmp_path, 4)
    progress.at("generate", 2, 5, 5)  # its 30 s are in the clock, and it is named again
    assert progress.left == pytest.approx(300, abs=1)
    progress.at("generate", 1, 5, 5)
    assert progress.left is None  # no iteration was finished before


def test_progress_is_written_at_both_ends_of_a_phase_and_now_and_then(tmp_path, monkeypatch):
    made(tmp_path)
    progress = Progress(tmp_path, 4)
    progress.at("dev", 2, 1, 9)
    progress.at("dev", 2, 2, 9)
    assert read(tmp_path / FILE)["done"] == 1
    monkeypatch.setattr("star_exp.progress.EVERY_S", 0.0)
    progress.at("dev", 2, 3, 9)
    written = read(tmp_path / FILE)
    assert written["done"] == 3 and written["pid"] == os.getpid()


def trained(iterations: int) -> SimpleNamespace:
    """A trainer that has trained so many iterations."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=iterations))
    return SimpleNamespace(fit_loop=SimpleNamespace(epoch_progress=progress))


def test_a_verifiers_fit_is_a_part_of_its_run_and_in_an_iteration_of_its_own(tmp_path):
    made(tmp_path)
    of_verifier = made(tmp_path / "verifier" / "iter_008", of=3)
    track = Track(Progress(of_verifier, 3))
    # completions are stored as of the generator's last iteration, its eighth
    track.on_progress(trained(0), "complete", 8, 7, 8, right=3)  # type: ignore[arg-type]
    (found,) = statuses(tmp_path)
    assert (found.phase, found.done) == ("verifier: complete", 7)
    assert (found.iteration, found.of) == (1, 3)
    for iteration in (2, 3):  # of what the last model does, and of what the next is trained on
        track.on_progress(trained(2), "dev", iteration, 8, 8)  # type: ignore[arg-type]
        assert status(of_verifier, "").iteration == iteration


def test_a_resumed_run_says_from_its_begin_where_it_is_also_without_a_panel(
    small_config, tmp_path, monkeypatch
):
    words = ("callbacks.panel=null", "iterations=1")
    run(small_config(tmp_path, *words), [])
    write_json(tmp_path / FILE, {"iteration": 7, "phase": "old", "time": 1.0, "host": "a"})
    seen = []
    prepare = TinyModel.prepare

    def looked(self, *arguments):
        seen.append(status(tmp_path, ""))
        return prepare(self, *arguments)

    monkeypatch.setattr(TinyModel, "prepare", looked)
    boom = raised_in(2, KeyboardInterrupt(), seen)
    monkeypatch.setattr(Generate, "on_iteration_start", boom)
    with pytest.raises(KeyboardInterrupt):
        run(small_config(tmp_path, "callbacks.panel=null"), [])
    assert [(each.status, each.iteration, each.of) for each in seen] == [("running", 1, 2)] * 2
    assert seen[0].phase == "base model" and seen[0].moved < 60


def test_no_time_left_is_said_where_more_has_passed(tmp_path):
    made(tmp_path)
    told = read(tmp_path / FILE)
    write_json(tmp_path / FILE, {**told, "seconds_left": 50.0, "time": time.time() - 60})
    with FileLock(tmp_path / ".lock"):
        assert status(tmp_path, "").seconds_left is None
        write_json(tmp_path / FILE, {**told, "seconds_left": 50.0, "time": time.time() - 20})
        assert status(tmp_path, "").seconds_left == pytest.approx(30, abs=5)


def test_a_damaged_file_is_named_and_hides_no_other_run(tmp_path, capsys):
    made(tmp_path / "good")
    damaged = made(tmp_path / "bad") / "results.json"
    damaged.write_text('{"status": "fini')
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"bad: {damaged} can't be read" in shown and "run.log" not in shown
    assert "1 interrupted, 1 unreadable" in shown


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    made(tmp_path)

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not held(tmp_path) and status(tmp_path, "").status == "interrupted"


def test_who_goes_on_with_what_another_machine_just_worked_on_is_warned(tmp_path, capsys):
    made(tmp_path)
    assert elsewhere(tmp_path) is None  # this machine: its lock tells
    told = read(tmp_path / FILE)
    write_json(tmp_path / FILE, {**told, "host": "node7"})
    with RunDirectory(tmp_path):
        said = capsys.readouterr().err
    assert f"{tmp_path}: node7 worked in it less than a minute ago" in said
    write_json(tmp_path / FILE, {**told, "host": "node7", "time": time.time() - 61})
    assert elsewhere(tmp_path) is None


def test_an_exit_at_a_time_limit_is_an_interruption(study, small_config):
    root, _ = study
    folder = root / "study/star/seed2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generate, "on_iteration_start", raised_in(1, SystemExit(-1)))  # submitit's
        with pytest.raises(SystemExit):
            run(small_config(folder, "iterations=1"), [])
    assert status(folder, "").status == "interrupted"
    assert "error" not in read(folder / "results.json")


def test_damaged_results_are_refused_by_their_name_and_written_anew(study, small_config):
    root, _ = study
    folder = root / "study/star/seed0"
    path = folder / "results.json"
    before = path.read_text()
    path.write_text(before[:100])
    with pytest.raises(UserError, match=r"results\.json can't be read .* Delete it"):
        run(small_config(folder, "iterations=1"), [])
    path.unlink()
    run(small_config(folder, "iterations=1"), [])
    assert path.read_text() == before


def test_jobs_that_have_not_begun_are_counted_where_a_run_of_their_multirun_works(
    study, tmp_path, monkeypatch, capsys
):
    root, _ = study
    monkeypatch.chdir(tmp_path)
    direct = (root / "study/direct/seed0").absolute()
    over = {"status": "finished", "run_dir": str(root / "study/star/seed0"), "of": 7}
    write_json(tmp_path / "outputs/multirun/a/job_000.json", over)
    working = over | {"status": "running", "run_dir": str(direct)}
    write_json(tmp_path / "outputs/multirun/a/job_001.json", working)
    write_json(tmp_path / "outputs/multirun/b/job_000.json", over)  # over: none of its runs works
    write_json(tmp_path / "outputs/multirun/c/job_000.json", {"status": "running"})  # no run yet
    (tmp_path / "outputs/multirun/a/job_002.json").write_text("{")  # damaged
    main(["status", str(root)])
    assert "to begin" not in capsys.readouterr().out  # nobody works on it
    with FileLock(direct / ".lock"):
        main(["status", str(root)])
        said = capsys.readouterr().out.splitlines()[-1]  # no time left is known
        assert "1 running" in said and "; 5 more to begin" in said and "those" not in said
        newer = working | {"of": 9}  # the same command again, after that launch was killed
        write_json(tmp_path / "outputs/multirun/d/job_000.json", newer)
        monkeypatch.chdir(root)
        (root / "multirun").symlink_to(tmp_path / "outputs/multirun")  # beside the study
        main(["status", "study"])
        assert "8 more to begin" in capsys.readouterr().out
        main(["status", str(root / "study/star")])
        assert "to begin" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (89, "89 s"), (840, "14 min"), (5400, "1.5 h"), (259_200, "3 days")],
)
def test_time_is_said_shortly(seconds, expected):
    assert said(seconds) == expected


def test_nothing_heavy_is_imported(study):
    script = (
        "import sys; from star_exp.cli import main; main(['status', sys.argv[1]]); "
        "heavy = {'torch', 'pytorch_lightning', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", script, str(study[0])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
