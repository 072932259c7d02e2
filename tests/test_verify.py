"""Verifying a run: one that was left as it is holds, and one thing that was changed is named."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from star_exp import rewarding
from star_exp.cli import main
from star_exp.config.compose import compose, plain
from star_exp.errors import UserError
from star_exp.records import Rollout
from star_exp.run import run
from star_exp.store import RolloutStore, read_shard
from star_exp.tasks.arithmetic import Arithmetic
from star_exp.verify import Check, runs, verify
from tests.conftest import SMALL
from tests.test_balance import REWARDED, Judged, solved
from tests.test_perplexity import TEXT
from tests.test_vstar import VSTAR

pytestmark = pytest.mark.usefixtures("without_curves")

SUBTRACTION = (
    "ood=subtraction",
    "callbacks.other_tasks.size=10",
    *(
        f"callbacks.other_tasks.tasks.subtraction.{key}"
        for key in ("base=4", "max_digits=2", "min_digits=2")
    ),
)

STEPS = ("verifier=process", "verifier.callbacks.complete.completions=2", "verifier.iterations=2")


@pytest.fixture(scope="module")
def finished(small_config, tmp_path_factory) -> Path:
    """Two iterations of STaR with all that is measured beside it, and two files for each phase."""
    folder = tmp_path_factory.mktemp("runs") / "star"
    general = tmp_path_factory.mktemp("general") / "general.txt"
    general.write_text(TEXT)
    words = (
        *("diagnostics=[perplexity,faithful]", "callbacks.faithful.size=8", *SUBTRACTION),
        *(f"callbacks.perplexity.path={general}", "callbacks.perplexity.context=60"),
        *(
            "callbacks.generate.samples=2",
            "callbacks.rationalize.samples=2",
            "sampling=hot",
            "callbacks.generate.problems_a_shard=40",
            "task.dev_size=30",
        ),
    )
    run(small_config(folder, *words), [])
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def faults(root: Path, **options: bool) -> dict[str, list[str]]:
    """What does not hold, by check."""
    return {check.name: check.faults for check in verify(root, **options) if check.faults}


def named(root: Path, name: str) -> Check:
    return next(check for check in verify(root) if check.name == name)


def test_a_finished_run_holds_and_stays_as_it_is(finished, capsys):
    def contents() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in finished.rglob("*") if path.is_file())
        return {path: (os.stat(path).st_mtime_ns, path.read_bytes()) for path in files}

    before = contents()
    assert main(["verify", str(finished)]) == 0
    assert contents() == before
    shown = capsys.readouterr().out
    assert "✗" not in shown and shown.count("✓") == 7


def test_what_was_checked_is_told_and_what_was_not(finished):
    """By a second count: all rollouts, and all metrics but those of wall time and loss."""
    store = RolloutStore(finished / "rollouts")
    number = sum(
        len(store.read(iteration, phase))
        for iteration in range(3)
        for phase in store.phases(iteration)
    )
    assert named(finished, "answers").said == f"{number} rollouts judged again"
    values = [
        name
        for line in (finished / "metrics.jsonl").read_text().splitlines()
        for name in json.loads(line)
    ]
    unknown = ("/seconds", "/tokens_per_s", "final_loss")
    checked = [name for name in values if name != "iteration" and not name.endswith(unknown)]
    metrics = named(finished, "metrics")
    assert metrics.said == f"{len(checked)} values of 3 iterations"
    assert metrics.left_out == ["logged only: */seconds, */tokens_per_s, train/final_loss"]
    assert {
        "general/perplexity",
        "train/tokens",
        "cost/flops",
        "faithful/mistake",
        "ood/subtraction/accuracy",
    } <= {*checked}


def test_changed_metrics_are_named(copy):
    names = ("dev/accuracy", "train/tokens", "train/kept/Correct", "cost/flops")
    names = (*names, "general/perplexity")
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    logged = {name: lines[2][name] for name in names}
    lines[2] |= {name: value * 1.001 for name, value in logged.items()}
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = faults(copy)
    assert list(found) == ["metrics"]
    for name, value in logged.items():
        line = f"{name} is {value * 1.001!r}, what is stored gives {value!r}"
        assert f"metrics.jsonl, iteration 2: {line}" in found["metrics"]
        line = f"{name} is {value!r}, metrics.jsonl has {value * 1.001!r}"
        assert f"results.json, iteration 2: {line}" in found["metrics"]


def test_a_metric_that_nothing_gives_and_one_that_is_left_out_are_named(copy):
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    lines[1]["dev/pass@7"] = lines[1].pop("dev/truncated")
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    nothing, missing, *_ = faults(copy)["metrics"]
    assert nothing.endswith("dev/pass@7 is 0.0, and nothing that is stored gives it")
    assert missing.endswith("dev/truncated is not there, what is stored gives 0.0")


def test_other_results_than_metrics_are_named(copy):
    results = json.loads((copy / "results.json").read_text())
    results["iterations"][1]["dev/accuracy"] = 0.99
    results["best"]["dev/accuracy"] = 0.99
    results["cost"]["generated_tokens"] += 1
    (copy / "results.json").write_text(json.dumps(results))
    found = faults(copy)["metrics"]
    assert [line.partition(":")[0] for line in found] == [
        "results.json, iteration 1",
        "results.json, best",
        "results.json, cost",
    ]


def change(root: Path, phase: str, place: int, to: Callable[[Rollout], Rollout]) -> str:
    """Writes the first shard of the first iteration with another rollout; its name in faults."""
    store = RolloutStore(root / "rollouts")
    rollouts = store.read(1, phase)
    first = len(rollouts) if phase == "dev" else 80  # of 40 problems, two of each
    rollouts = rollouts[:first]
    rollouts[place] = to(rollouts[place])
    store.write(1, phase, 0, rollouts)
    mine = rollouts[place]
    return f"rollouts/iter_001/{phase}/00000.parquet: {mine.problem}, sample {mine.sample}"


def test_a_right_flag_that_the_text_does_not_give_is_named(copy):
    wrong = RolloutStore(copy / "rollouts").read(1, "dev")
    place = next(place for place, each in enumerate(wrong) if not each.correct)
    where = change(copy, "dev", place, lambda each: replace(each, correct=True))
    found = faults(copy)
    assert {*found} == {"answers", "metrics"}
    assert found["answers"] == [f"{where} has correct True, its text gives False"]
    assert any("iteration 1: dev/accuracy is" in line for line in found["metrics"])
    assert {*faults(copy, grading=False)} == {"metrics"}


def test_an_answer_that_is_not_in_the_text_is_named(copy):
    where = change(copy, "generate", 3, lambda each: replace(each, answer="77"))
    (line,) = faults(copy)["answers"]
    assert line.startswith(f"{where} has answer '77', its text gives ")


def test_another_seed_is_named(copy):
    where = change(copy, "dev", 2, lambda each: replace(each, seed=5))
    (line,) = faults(copy)["seeds"]
    seed = RolloutStore(copy / "rollouts").read(1, "dev")[2].seed
    assert seed == 5 and line.startswith(f"{where} has the seed 5, expected ")


def test_another_gold_answer_is_named_although_its_judgement_fits(copy):
    right = RolloutStore(copy / "rollouts").read(1, "dev")
    place = next(place for place, each in enumerate(right) if not each.correct and each.answer)
    where = change(copy, "dev", place, lambda r: replace(r, gold=r.answer or "", correct=True))
    (line,) = faults(copy)["files"]
    assert line.startswith(f"{where} has the gold answer ")


def test_a_file_that_is_gone_is_named(copy):
    number = len(RolloutStore(copy / "rollouts").read(0, "dev"))
    (copy / "rollouts" / "iter_002" / "generate" / "00000.parquet").unlink()
    (copy / "rollouts" / "iter_000" / "dev" / "00000.parquet").unlink()
    found = faults(copy)
    assert found["files"] == [
        "rollouts/iter_002/generate/00000.parquet is missing; there is a later one",
        f"rollouts/iter_000/dev holds 0 problems, metrics.jsonl told of {number}",
        "rollouts/iter_002/generate holds 20 problems, metrics.jsonl told of 60",
    ]
    assert any("dev/accuracy" in line and "nothing that" in line for line in found["metrics"])


def test_a_damaged_file_is_named(copy):
    path = copy / "rollouts" / "iter_001" / "dev" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    found = faults(copy)
    assert found["files"][0].startswith(f"{path} can't be read")
    (line,) = found["metrics"]  # and no other iteration's totals are held for wrong
    assert line.startswith("metrics.jsonl, iteration 1: can't be computed again")


def test_rollouts_that_stand_elsewhere_or_twice_are_named(copy):
    store = RolloutStore(copy / "rollouts")
    first, *others = store.read(1, "dev")
    store.write(1, "dev", 0, [first, first, *others])
    shutil.copytree(store.folder(2, "dev"), store.folder(2, "critique"))
    elsewhere = faults(copy)["files"]
    assert elsewhere[0].endswith(f"{first.problem}, sample 0 stands there twice")
    assert elsewhere[1].endswith("says that it is of iteration 2, dev")


def test_rollouts_of_other_weights_are_named(copy):
    """Of whole phases, and of one file of two."""
    store = RolloutStore(copy / "rollouts")
    phases = [(0, "dev"), (2, "generate"), (2, "rationalize"), (2, "dev")]
    for iteration, phase in phases:
        found = read_shard(store.path(iteration, phase, 0))
        changed = [replace(each, weights=f"{phase}{iteration}") for each in found]
        store.write(iteration, phase, 0, changed)
    lines = faults(copy)["weights"]
    assert [line.partition(" ")[0].rstrip(":") for line in lines] == [
        "rollouts/iter_002/generate",
        "rollouts/iter_000/dev",
        "rollouts/iter_002/rationalize",
        "rollouts/iter_002/dev",
    ]
    assert "several models wrote it: " in lines[0] and "generate2" in lines[0]
    assert "names dev0, and not " in lines[1] and lines[1].endswith("which is of M_0 too")
    assert lines[3].endswith("as model/, which is of M_2 too")


def test_a_model_that_did_not_write_the_last_rollouts_is_named(copy, small_config):
    from safetensors.torch import load_file, save_file

    path = copy / "model" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    found = faults(copy)["weights"]
    assert found and all("model/" in line and "M_2" in line for line in found)


def test_a_model_that_is_gone_is_named_and_training_sets_are_left_out(copy):
    shutil.rmtree(copy / "model")
    assert faults(copy)["weights"] == ["model/ is missing"]
    (left_out,) = named(copy, "metrics").left_out
    assert "train/tokens" in left_out and "train/coverage" not in left_out


def test_an_edited_config_is_named(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["module"]["learning_rate"] *= 2
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    (line,) = faults(copy)["config"]
    assert f"says cell={config['cell']}" in line


def test_an_edited_setting_is_named_where_its_command_is_known(base_cache, tmp_path):
    """Of a run with interpolations of what is not hashed, its stored config has another hash."""
    words = [*SMALL, "iterations=0", "task.seed=${seed}", "seed=3"]
    words += [f"run_dir={tmp_path / 'run'}", f"cache_dir={base_cache}"]
    run(plain(compose(words)), words)
    assert faults(tmp_path / "run") == {}
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    (line,) = faults(tmp_path / "run")["config"]
    assert line.endswith("was -> is: model.learning_rate: 0.01 -> 0.02")


def test_another_hash_in_results_or_in_the_folders_name_is_named(copy):
    config, results = OmegaConf.load(copy / "config.yaml"), copy / "results.json"
    results.write_text(results.read_text().replace(config.cell, "0000abcd"))
    moved = copy.parent / "star-arithmetic-tiny-0000abcd" / "seed7"
    shutil.copytree(copy, moved)
    told = faults(moved)["config"]
    assert [line.partition(":")[0] for line in told[:2]] == ["results.json", "results.json"]
    assert told[2].startswith("the folder is named star-arithmetic-tiny-0000abcd/seed7")


def test_another_task_seed_is_named(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["task"]["seed"] += 1
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    found = faults(copy)
    assert {"config", "data", "files"} <= {*found}
    assert {line.partition(":")[0] for line in found["data"]} >= {"train", "dev"}


def test_at_most_five_faults_of_a_kind_are_shown(copy, capsys):
    store = RolloutStore(copy / "rollouts")
    rollouts = store.read(1, "dev")
    store.write(1, "dev", 0, [replace(each, seed=1) for each in rollouts])
    assert main(["verify", str(copy), "--no-grading"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("has the seed 1,") == 5 and f"      and {len(rollouts) - 5} more\n" in shown
    assert "  - answers\n    - not judged again: --no-grading\n" in shown


def test_a_run_that_was_interrupted_is_checked_as_far_as_it_is(finished, tmp_path, small_config):
    """Killed behind the first iteration, in the middle of the second's samples."""
    root = shutil.copytree(finished, tmp_path / "half")
    shutil.rmtree(root / "model")
    for name in ("dev", "rationalize", "ood-subtraction"):
        shutil.rmtree(root / "rollouts" / "iter_002" / name)
    (root / "rollouts" / "iter_002" / "generate" / "00001.parquet").unlink()
    lines = (root / "metrics.jsonl").read_text().splitlines(keepends=True)
    (root / "metrics.jsonl").write_text("".join(lines[:2]))
    results = json.loads((root / "results.json").read_text())
    results |= {"status": "running", "iterations": results["iterations"][:2]}
    (root / "results.json").write_text(json.dumps(results))
    assert faults(root) == {}
    assert named(root, "weights").left_out == ["there is no model/ yet"]


def test_a_run_that_was_continued_and_interrupted_holds(small_config, tmp_path):
    """Two iterations finished; of four, the third done: model/ is still M_2."""
    root = tmp_path / "run"
    run(small_config(root, "iterations=2"), [])
    model = shutil.copytree(root / "model", tmp_path / "model")
    run(small_config(root, "iterations=3"), [])
    shutil.rmtree(root / "model")
    shutil.copytree(model, root / "model")
    assert any("model/" in line for line in faults(root)["weights"])
    results = json.loads((root / "results.json").read_text())
    (root / "results.json").write_text(json.dumps({**results, "status": "failed"}))
    assert faults(root) == {}
    assert named(root, "weights").left_out == [
        "model/ may be of another iteration than the last one here"
    ]


def test_results_that_metrics_of_a_broken_run_do_not_have_are_named(copy):
    """metrics.jsonl is written first: it may have a line more, and never one less."""
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps({**results, "status": "failed"}))
    (copy / "metrics.jsonl").write_text("")
    assert faults(copy)["metrics"] == [
        f"results.json, iteration {number}: is in results.json alone" for number in range(3)
    ]


def test_a_measurement_of_a_part_of_its_problems_or_of_others_is_named(copy):
    """Of 30 dev problems 29, and one of another split with them; as many as were logged."""
    store = RolloutStore(copy / "rollouts")
    gone, *others = store.read(2, "dev")
    stray = replace(store.read(2, "generate")[0], phase="dev", seed=0)
    store.write(2, "dev", 0, [*others, stray])
    told, lacking = faults(copy)["files"]
    assert told.endswith(f"{stray.problem}, sample 0 is none of the problems that dev asks")
    lacks = f"lacks 1 of the task's problems, such as {gone.problem}"
    assert lacking == f"rollouts/iter_002/dev {lacks}"


def test_fewer_problems_of_another_task_are_named(copy):
    """And metrics that were made to fit."""
    store = RolloutStore(copy / "rollouts")
    store.write(2, "ood-subtraction", 0, store.read(2, "ood-subtraction")[1:])
    for name in ("metrics.jsonl", "results.json"):
        text = (copy / name).read_text()
        text = text.replace('"ood/subtraction/problems": 10', '"ood/subtraction/problems": 9')
        (copy / name).write_text(text)
    (line,) = (each for each in faults(copy)["files"] if "iter_002" in each)
    assert "ood-subtraction lacks 1 of the task's problems, such as " in line


def test_other_groups_than_the_tasks_are_named(copy):
    where = change(copy, "dev", 1, lambda each: replace(each, groups={"digits": "9"}))
    (line,) = faults(copy)["files"]
    assert line.startswith(f"{where} has the groups {{'digits': '9'}}, the task ")


def test_a_text_that_its_tokens_do_not_give_is_named(copy):
    def longer(rollout: Rollout) -> Rollout:
        *before, last = rollout.segments
        return replace(rollout, segments=(*before, replace(last, text=last.text + "0")))

    where = change(copy, "dev", 1, longer)
    (line,) = faults(copy)["files"]
    assert line.startswith(f"{where} has ") and ", its tokens give " in line


def test_what_is_taken_as_it_stands_is_told(copy):
    said = "taken as they stand: truncated, prompt_tokens, log-probabilities, scores"
    assert named(copy, "files").left_out == [said]
    shutil.rmtree(copy / "model")
    assert named(copy, "files").left_out == [f"{said}, tokens"]


def test_texts_that_the_checker_fails_on_now_are_counted(copy, monkeypatch):
    judge = Arithmetic.judge

    def failing(task, asked):
        first, *others = judge(task, asked)
        return [replace(first, failed="timeout"), *others]

    before = int(named(copy, "answers").said.split()[0])
    files = len(list((copy / "rollouts").rglob("*.parquet")))
    monkeypatch.setattr(Arithmetic, "judge", failing)
    answers = named(copy, "answers")
    assert answers.said == f"{before - files} rollouts judged again"
    assert answers.left_out == [f"{files} rollouts that the checker failed on, then or now"]


def test_what_star_exp_does_not_write_is_named_and_the_other_runs_go_on(copy, finished, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    shutil.copy(
        RolloutStore(copy / "rollouts").path(1, "dev", 0), copy / "rollouts/iter_001/dev/x.parquet"
    )
    assert main(["verify", str(copy), str(finished)]) == 1
    shown = capsys.readouterr().out
    assert f"{copy} was changed after the run (ValueError: " in shown
    assert shown.endswith("1 of 2 runs hold\n")
    del manifest["config_hash"], manifest["overrides"]
    (copy / "rollouts/iter_001/dev/x.parquet").unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    (line,) = faults(copy)["run"]
    assert line == f"{copy} was changed after the run (KeyError: 'overrides')"


def test_a_config_that_is_named_as_reward_models_are_is_checked_all_the_same(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["module"]["learning_rate"] *= 2
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "name": "reward"}))
    (line,) = faults(copy)["config"]
    assert f"says cell={config['cell']}" in line


def test_files_that_can_not_be_read_are_named_and_the_other_runs_go_on(copy, finished, capsys):
    (copy / "results.json").write_text("{")
    assert main(["verify", str(copy), str(finished)]) == 1
    shown = capsys.readouterr().out
    assert f"{copy / 'results.json'} can't be read" in shown
    assert shown.endswith("1 of 2 runs hold\n")
    shutil.copy(finished / "results.json", copy)
    (copy / "metrics.jsonl").write_text('{"iteration": 0, ')
    assert "metrics.jsonl can't be read" in faults(copy)["run"][0]
    (copy / "metrics.jsonl").write_text('{"iteration": 0, "dev/accuracy": null}\n')
    assert "iteration 0: dev/accuracy is None, no number" in faults(copy)["run"][0]


def test_runs_below_a_folder_are_found_and_a_folder_without_is_refused(finished, tmp_path):
    assert runs(finished.parent) == [finished]
    with pytest.raises(UserError, match="there is no run in it"):
        runs(tmp_path)


# Other variants


@pytest.mark.slow
def test_a_run_with_rewards_and_a_balance_holds_and_its_choice_is_computed_again(
    small_config, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewarding, "load", lambda *_: Judged())
        patch.setattr(Arithmetic, "solved", solved)
        words = [word for word in REWARDED if not word.startswith("samples=")]
        words += ["callbacks.generate.samples=6", "callbacks.balance.samples=6"]
        run(small_config(tmp_path, *words), [])
        assert faults(tmp_path) == {}
        assert named(tmp_path, "data").left_out == [
            "reward model: there is no nowhere/verifier.safetensors here"
        ]
        path = tmp_path / "rollouts" / "iter_002" / "chosen.json"
        path.write_text(path.read_text().replace("}", ', "more": 1}'))
        (line,) = faults(tmp_path)["metrics"]
    assert line.startswith("rollouts/iter_002/chosen.json is ")


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), STEPS], ids=["dpo", "process"])
def test_a_generator_and_its_verifier_hold(words, small_config, tmp_path, capsys):
    run(small_config(tmp_path, *VSTAR, *words), [])
    assert main(["verify", str(tmp_path)]) == 0, capsys.readouterr().out
    fit = tmp_path / "verifier" / "iter_003"
    assert runs(tmp_path) == [tmp_path, fit]
    said = next(check.said for check in verify(fit) if check.name == "metrics")
    assert int(said.split()[0]) > 50
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["verifier"]["module"]["learning_rate"] *= 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (line,) = faults(fit)["config"]
    assert "verifier" not in line.partition("in ")[2] and "module.learning_rate" in line


@pytest.mark.slow
def test_a_verifier_holds_whose_generator_has_gone_on_since(small_config, tmp_path):
    run(small_config(tmp_path, *VSTAR, "iterations=2"), [])
    run(small_config(tmp_path, *VSTAR, "iterations=3"), [])
    fits = [tmp_path / "verifier" / name for name in ("iter_002", "iter_003")]
    assert runs(tmp_path) == [tmp_path, *fits]
    assert [faults(root) for root in runs(tmp_path)] == [{}, {}, {}]
    assert [named(root, "weights").left_out for root in fits] == [
        ["model/ may be of another iteration than the last one here"],
        [],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["direct", "rft", "rest_em", "iterative_rft", "base"])
def test_other_variants_hold(variant, small_config, tmp_path):
    words = (f"variant={variant}", "iterations=0") if variant == "base" else (f"variant={variant}",)
    run(small_config(tmp_path, *words, "data.exemplars=10"), [])
    assert faults(tmp_path) == {}
