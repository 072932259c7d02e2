"""The commands as a user types them, in processes of their own."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from star_exp import metrics
from star_exp.cli import main
from star_exp.config.compose import compose
from star_exp.run import run
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.conftest import SMALL
from tests.made import ROWS, write
from tests.test_run import results

REPOSITORY = Path(__file__).parents[1]


def star_exp(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "star_exp", *words], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--cfg", "job"], ["--version"]], ids=" ".join
)
def test_nothing_heavy_is_imported_to_answer_a_question(words):
    script = (
        "import sys; from star_exp.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'pytorch_lightning', 'transformers', 'wandb'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_is_refused_with_a_near_one(capsys):
    assert main(["rnu"]) == 2
    assert "did you mean 'run'" in capsys.readouterr().out


def test_a_multirun_runs_every_combination_and_a_failing_job_stops_no_other(base_cache, tmp_path):
    words = [*SMALL, f"cache_dir={base_cache}", "iterations=1", "seed=0,1"]
    # the schedule asks for no step that could be taken from nothing kept
    done = star_exp("run", "-m", *words, "data.bucket=20,0", cwd=tmp_path)
    assert done.returncode == 1
    assert "data.bucket=0: expected at least 1" in done.stderr
    found = sorted(tmp_path.glob("outputs/debug/*/seed*/results.json"))
    assert [path.parent.name for path in found] == ["seed0", "seed1"]
    assert all(results(path.parent)["status"] == "finished" for path in found)


def test_plain_lines_are_printed_where_there_is_no_terminal(base_cache, tmp_path):
    words = [*SMALL, f"cache_dir={base_cache}", "iterations=1", "callbacks.panel.every_s=0.0"]
    done = star_exp("run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    for expected in ("base model: ", "seed rationales", "iteration 0: dev accuracy", "finished"):
        assert expected in done.stdout
    for phase in ("generate", "rationalize", "train", "dev", "test"):
        assert f": {phase} " in done.stdout


def test_eval_measures_the_last_model_again_with_the_same_result(small_config, tmp_path, capsys):
    run(small_config(tmp_path), [])
    capsys.readouterr()
    assert main(["eval", str(tmp_path), "--splits", "dev,test,ood"]) == 0
    written = next((tmp_path / "eval").glob("*/results.json"))
    again, final = json.loads(written.read_text()), results(tmp_path)["final"]
    assert again["iteration"] == 2
    for name in ("dev/accuracy", "test/accuracy", "ood/accuracy", "test/tokens"):
        assert again["metrics"][name] == final[name]
    for name in ("dev/accuracy", "test/lenient_accuracy", "ood/accuracy/digits=3"):
        low, high = again["intervals"][name]
        assert low - 1e-9 <= again["metrics"][name] <= high + 1e-9
    assert not [name for name in again["metrics"] if "@" in name]
    assert again["decoding"] == {"accuracy": again["decoding"]["accuracy"], "samples": None}
    assert "95% interval" in capsys.readouterr().out


def test_eval_on_other_problems_with_another_model_and_decoding(small_config, tmp_path):
    run(small_config(tmp_path, "iterations=1"), [])
    words = ["task.max_digits=1", "task.ood_digits=2", "sampling=hot", "--samples", "3"]
    assert main(["eval", str(tmp_path), *words, "--model", "base", "--splits", "ood"]) == 0
    written = json.loads(next((tmp_path / "eval").glob("*/results.json")).read_text())
    assert written["iteration"] == 0 and written["decoding"]["samples"]["temperature"] == 1.0
    assert written["decoding"]["accuracy"]["temperature"] == 0.0
    assert written["n"]["ood"]["samples"] == 3
    assert {name for name in written["metrics"] if "digits=" in name} == {
        "ood/accuracy/digits=2",
        "ood/accuracy/digits=3",
    }


def test_eval_of_several_samples_gives_pass_and_majority_with_intervals(
    small_config, tmp_path, capsys
):
    run(small_config(tmp_path, "variant=base", "iterations=0"), [])
    words = ["sampling.samples=3", "task.ood_digits=0"]
    assert main(["eval", str(tmp_path), *words]) == 0
    shown = capsys.readouterr().out
    assert "3 samples of each problem are drawn with sampling.temperature=0.7" in shown
    assert "test: greedy accuracy, @k of 3 samples" in shown and "a bootstrap's" in shown
    assert "ood: left out, the task has no problems in this split" in shown
    path = next((tmp_path / "eval").glob("*/results.json"))
    written = json.loads(path.read_text())
    values = written["metrics"]
    assert written["samples"] == 3 and "samples" not in written["decoding"]["samples"]
    store = RolloutStore(path.parent / "rollouts")
    greedy, several = store.read(0, "test"), store.read(0, "test-candidates")
    assert len(several) == 3 * len(greedy)
    assert values["test/accuracy"] == results(tmp_path)["final"]["test/accuracy"]
    assert values["test/pass@1"] == pytest.approx(metrics.accuracy(several))
    assert set(written["n"]) == {"test"} and written["n"]["test"]["samples"] == 3
    for name in (f"test/{what}@{k}" for what in ("pass", "majority") for k in (1, 2, 3)):
        low, high = written["intervals"][name]
        assert low - 1e-9 <= values[name] <= high + 1e-9
        assert name.removeprefix("test/") in shown
    assert values["test/pass@1"] <= values["test/pass@2"] <= values["test/pass@3"]
    said = ["--samples", "3", "sampling.temperature=0.7"]  # the same in other words
    again = [*said, *words]
    assert main(["eval", str(tmp_path), *again]) == 0
    assert list((tmp_path / "eval").glob("*/results.json")) == [path]
    assert json.loads(path.read_text()) == written


def test_eval_gives_no_bootstrap_of_few_problems_or_of_problems_that_are_alike(
    base_run, tmp_path, capsys
):
    settings = ["sampling.samples=2", "sampling.max_new_tokens=8"]  # too short for an answer
    for number in (9, 12):
        path = write(tmp_path / "test.jsonl", [ROWS["multiarith"](n) for n in range(number)])
        written = evaluated(base_run, "task=multiarith", f"task.path={path}", *settings)
        low, high = written["intervals"]["test/accuracy"]
        assert low < high  # Wilson's
        assert written["metrics"]["test/pass@2"] == 0
        assert written["intervals"]["test/pass@2"] is None
        shown = capsys.readouterr().out
        assert re.search(rf"pass@2 +│ +0\.0% │ +- │ +{number} │", shown)
        assert "- where that says nothing, for fewer than 10 problems or where all are" in shown


def test_eval_does_not_ask_another_task_for_the_splits_of_the_run(
    small_config, tmp_path, monkeypatch
):
    """As `task=svamp`, which has a test split only."""
    run(small_config(tmp_path, "variant=base", "iterations=0"), [])
    problems = Arithmetic.problems

    def test_only(self, split):
        if split in {"dev", "ood"}:
            raise ValueError(f"no split {split!r}")
        return problems(self, split)

    monkeypatch.setattr(Arithmetic, "problems", test_only)
    assert main(["eval", str(tmp_path)]) == 0
    written = json.loads(next((tmp_path / "eval").glob("*/results.json")).read_text())
    assert list(written["n"]) == ["test"]
    assert main(["eval", str(tmp_path), "--splits", "test,ood"]) == 1


def test_eval_takes_over_single_settings_of_sampling_and_measures_on_one_device(
    small_config, tmp_path
):
    run(small_config(tmp_path, "variant=base"), [])  # base: two iterations asked for, none trained
    config = (tmp_path / "config.yaml").read_text().replace("devices: 1", "devices: 2")
    (tmp_path / "config.yaml").write_text(config)  # as if it had been trained by two processes
    words = ["sampling.max_new_tokens=50", "task.test_size=1200", "--splits", "test"]
    assert main(["eval", str(tmp_path), *words]) == 0
    written = json.loads(next((tmp_path / "eval").glob("*/results.json")).read_text())
    assert written["decoding"]["accuracy"]["max_new_tokens"] == 50 and written["iteration"] == 0
    assert written["n"]["test"]["problems"] > 20  # there are few sums of two digits in base 4


def test_eval_refuses_what_it_cannot_do_in_a_word(small_config, tmp_path, capsys):
    assert main(["eval", str(tmp_path / "nothing")]) == 1
    assert "is not a run directory" in capsys.readouterr().err
    run(small_config(tmp_path / "run", "variant=base", "iterations=0"), [])
    for words, said in (
        (["seed=3"], "seed can't be changed for an evaluation"),
        (["task.max_digit=3"], "did you mean 'max_digits'"),
        (["--model", "best"], "the run has no best model yet"),
        (["--splits", "dve"], "--splits dve: arithmetic has no split"),
        (["--samples", "0"], "--samples 0: expected at least 1"),
        (["sampling.samples=many"], "sampling.samples=many: expected at least 1"),
        (["sampling.samples=4", "--samples", "2"], "sampling.samples=4 and --samples 2 clash"),
        (["sampling.samples=4", "sampling.temperature=0"], "would all be the same; leave it out"),
        (["sampling=hot"], "sampling.temperature=1.0 is of several samples, and there is one"),
        (["sampling.sample=4"], "sampling.sample: there is no such key"),
        (["task.ood_digits=0", "--splits", "test,ood"], "--splits ood: the task has no problems"),
        (["task=svamp", "task.dev_share=2"], "the config can't be used\ntask.dev_share=2"),
    ):
        assert main(["eval", str(tmp_path / "run"), *words]) == 1
        assert said in capsys.readouterr().err


LONE = ("asdiv", "math500", "multiarith", "aqua_rat", "gsm8k")


@pytest.fixture
def base_run(small_config, tmp_path) -> Path:
    run(small_config(tmp_path / "run", "variant=base", "iterations=0"), [])
    return tmp_path / "run"


def evaluated(folder: Path, *words: str) -> dict:
    """What `star-exp eval` of the run in this folder writes."""
    assert main(["eval", str(folder), *words]) == 0
    paths = (folder / "eval").glob("*/results.json")
    return json.loads(max(paths, key=lambda path: path.stat().st_mtime_ns).read_text())


@pytest.mark.parametrize("name", LONE)
def test_eval_of_a_task_with_a_lone_test_file(base_run, tmp_path, name):
    write(tmp_path / "test.jsonl", [ROWS[name](n) for n in range(1, 4)])
    words = [f"task={name}", f"task.path={tmp_path}", "sampling.max_new_tokens=8"]
    assert evaluated(base_run, *words)["n"] == {"test": {"problems": 3, "samples": 1}}


def test_eval_of_other_data_or_other_splits_stands_in_a_folder_of_its_own(base_run, tmp_path):
    path, found = tmp_path / "test.jsonl", []
    for numbers in (range(1, 4), range(1, 5), range(2, 5), range(1, 4)):
        write(path, [ROWS["multiarith"](n) for n in numbers])
        evaluated(base_run, "task=multiarith", f"task.path={path}", "sampling.max_new_tokens=8")
        found.append({*(base_run / "eval").glob("*/results.json")})
    assert [len(each) for each in found] == [1, 2, 3, 3]  # the last is the first again
    for splits in ("test", "test,ood", "ood"):
        assert [*evaluated(base_run, "--splits", splits)["n"]] == splits.split(",")
    assert len([*(base_run / "eval").glob("*/results.json")]) == 6


def test_eval_takes_the_length_limit_of_the_task_unless_one_is_set(base_run, tmp_path):
    path = write(tmp_path / "test.jsonl", [ROWS["svamp"](1)])
    words = ["task=svamp", f"task.path={path}"]
    for more, expected in (
        ([], 256),  # svamp's: the run had none but that of its task
        (["task.max_new_tokens=30"], 30),
        (["sampling.max_new_tokens=40"], 40),
        (["sampling=hot", "sampling.samples=2"], 256),
    ):
        decoding = evaluated(base_run, *words, *more)["decoding"]
        assert {each["max_new_tokens"] for each in decoding.values() if each} == {expected}


@pytest.mark.slow
def test_the_configs_are_composed_from_an_installed_wheel(tmp_path):
    """Builds the wheel, unpacks it elsewhere, composes there, with a folder of the user's own."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "w"]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    wheel = next((tmp_path / "w").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        assert "star_exp/conf/variant/star.yaml" in archive.namelist()
    mine = tmp_path / "mine" / "variant"
    mine.mkdir(parents=True)
    (mine / "my_star.yaml").write_text("# @package _global_\ndefaults: [star]\niterations: 3\n")
    words = ["variant=my_star", f"hydra.searchpath=[file://{mine.parent}]", "--cfg", "job"]
    done = star_exp("run", *words, cwd=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "iterations: 3" in done.stdout and "Rationalize" in done.stdout
    where = "import star_exp.config.compose as c; print(c.conf_dir())"
    said = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path / "site", capture_output=True, text=True
    )
    assert said.stdout.strip() == str(tmp_path / "site" / "star_exp" / "conf")


def test_every_config_composes_and_every_object_is_built(base_cache):
    from star_exp.config.build import build

    for variant in ("star", "star_without_rationalization", "direct", "base"):
        config = compose([f"variant={variant}", "logger=[csv,tensorboard,wandb]"])
        for node in config["callbacks"].values():
            if node and "Report" not in node["_target_"] and "Panel" not in node["_target_"]:
                build(node)
        for node in config["logger"].values():
            build(node)
