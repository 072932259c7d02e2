"""A whole run of the smallest kind: what each iteration starts from, and what is left on disk."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from star_exp import metrics
from star_exp.callbacks.phase import iteration_of
from star_exp.errors import ConfigMismatch, UserError
from star_exp.models.base import load
from star_exp.records import Segment
from star_exp.run import run
from star_exp.sampling.base import fingerprint
from star_exp.store import RolloutStore

ITERATIONS = 2


class Trace(pl.Callback):
    """Writes down what each iteration starts from; added to a run through its config."""

    seen: list[dict]

    def __init__(self):
        Trace.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if batch_index == 0:
            Trace.seen.append(
                {
                    "iteration": iteration_of(trainer),
                    "weights": fingerprint(module.model),
                    "moments": len(trainer.optimizers[0].state),
                    "steps": trainer.num_training_batches,
                    "training": module.model.training,
                    "rates": [],
                }
            )
        Trace.seen[-1]["rates"].append(trainer.optimizers[0].param_groups[0]["lr"])


TRACED = "+callbacks.trace._target_=tests.test_run.Trace"


@pytest.fixture(scope="module")
def finished(small_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "star"
    run(small_config(folder, TRACED), [])
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_every_iteration_starts_from_the_base_model_with_a_fresh_optimizer(finished, base_cache):
    bases = {fingerprint(load(path.parent).model) for path in base_cache.glob("*/base.json")}
    assert [seen["iteration"] for seen in Trace.seen] == [1, 2]
    assert len({seen["weights"] for seen in Trace.seen}) == 1
    assert Trace.seen[0]["weights"] in bases
    assert [seen["moments"] for seen in Trace.seen] == [0, 0]
    assert all(seen["training"] for seen in Trace.seen)


def test_steps_grow_by_a_fifth_and_the_learning_rate_starts_anew(finished):
    assert [seen["steps"] for seen in Trace.seen] == [10, 12]
    for seen in Trace.seen:
        warm = seen["rates"][:5]
        assert warm == sorted(warm) and warm[0] == pytest.approx(5e-4 / 20)
        assert len(seen["rates"]) == seen["steps"]


def test_the_run_directory_holds_what_the_readme_lists(finished):
    names = {path.name for path in finished.iterdir()}
    expected = {"config.yaml", "manifest.json", "checkpoints", "rollouts", "metrics.jsonl"}
    assert expected | {"results.json", "model", "run.log", "curves.png"} <= names
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }
    assert not list(finished.rglob("*.tmp"))


def test_results_hold_every_iteration_and_say_what_the_base_model_was_given(finished):
    held = results(finished)
    assert held["status"] == "finished" and held["schema"] == 1
    assert [line["iteration"] for line in held["iterations"]] == [0, 1, 2]
    assert held["base"]["seed_rationales_per_group"] == 60 and held["base"]["steps"] == 80
    assert held["final"] == held["iterations"][-1]
    best = max(held["iterations"][1:], key=lambda line: line["dev/accuracy"])
    assert held["best"]["dev/accuracy"] == best["dev/accuracy"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert lines == held["iterations"]


def test_every_metric_is_registered(finished):
    for line in results(finished)["iterations"]:
        for name in line:
            if name != "iteration":
                metrics.metric(name)


def test_metrics_are_those_of_the_stored_rollouts(finished):
    store, line = RolloutStore(finished / "rollouts"), results(finished)["iterations"][1]
    generated, hinted = store.read(1, "generate"), store.read(1, "rationalize")
    solved = {r.problem for r in generated if r.correct}
    assert line["generate/coverage"] == len(solved) / 60  # problems_per_iteration of debug=smoke
    assert {r.problem for r in hinted} == {r.problem for r in generated} - solved
    assert all(r.hinted for r in hinted) and not any(r.hinted for r in generated)
    rescued = {r.problem for r in hinted if r.correct}
    assert line["rationalize/coverage"] == len(rescued) / 60
    assert line["train/coverage"] == len(solved | rescued) / 60
    dev = store.read(1, "dev")
    assert line["dev/accuracy"] == sum(r.correct for r in dev) / len(dev)
    assert line["generate/tokens"] == sum(len(r.tokens) for r in generated)


def test_costs_are_counted_from_tokens_and_parameters(finished, base_cache):
    lines = results(finished)["iterations"]
    weights = load(finished / "model").model.num_parameters()  # embeddings are tied: all multiply
    assert lines[0]["cost/flops"] == 0 and lines[0]["cost/tokens"] == 0
    tokens, flops = 0.0, 0.0
    for line in lines[1:]:
        sampled = line["generate/tokens"] + line["rationalize/tokens"]
        read = line["generate/prompt_tokens"] + line["rationalize/prompt_tokens"]
        tokens += sampled + line["train/tokens"]
        flops += weights * (2 * (sampled + read) + 6 * line["train/tokens"])
        assert line["cost/tokens"] == tokens and line["cost/flops"] == flops


def test_each_rollout_names_the_model_that_wrote_it(finished):
    store = RolloutStore(finished / "rollouts")

    def writers(iteration, *phases):
        return {rollout.weights for rollout in store.read(iteration, *phases)}

    assert writers(0, "dev") == writers(1, "generate", "rationalize")  # M_0
    assert writers(1, "dev") == writers(2, "generate", "rationalize")  # M_1
    assert writers(2, "dev", "test", "ood") == {fingerprint(load(finished / "model").model)}
    assert len(writers(0, "dev") | writers(1, "dev") | writers(2, "dev")) == 3


def test_a_rationalized_rollout_is_trained_on_without_its_hint(small_config, finished):
    from star_exp.config.build import build

    task = build(small_config(finished)["task"])
    problem = task.problems("train")[0]
    assert problem.answer in task.prompt(problem, hint=True)
    assert task.prompt(problem) == f"{problem.question}="


def test_a_finished_run_says_so_and_does_nothing(small_config, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    value = run(small_config(finished, TRACED), [])
    assert value == results(finished)["final"]["dev/accuracy"]
    assert "finished before" in capsys.readouterr().out
    assert Trace.seen  # of the first run: no callback was made anew
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")} == before


def test_the_same_config_gives_the_same_bytes_and_another_seed_does_not(
    small_config, finished, tmp_path
):
    run(small_config(tmp_path / "again"), [])
    run(small_config(tmp_path / "other", "seed=1"), [])
    assert shards(tmp_path / "again") == shards(finished)
    assert shards(tmp_path / "other").keys() == shards(finished).keys()
    assert shards(tmp_path / "other") != shards(finished)
    assert final_weights(tmp_path / "again") == final_weights(finished)
    assert final_weights(tmp_path / "other") != final_weights(finished)


def test_another_config_in_the_same_directory_is_refused_and_the_keys_named(small_config, finished):
    with pytest.raises(ConfigMismatch, match=r"data.batch_size: 16 -> 8"):
        run(small_config(finished, TRACED, "data.batch_size=8"), [])
    assert results(finished)["status"] == "finished"


def test_raising_iterations_continues_a_finished_run(small_config, tmp_path):
    run(small_config(tmp_path / "a", "iterations=1"), [])
    first = shards(tmp_path / "a")
    run(small_config(tmp_path / "a", "iterations=2"), [])
    run(small_config(tmp_path / "b", "iterations=2"), [])
    after = shards(tmp_path / "a")
    assert first.items() <= after.items()
    assert {path: data for path, data in after.items() if path not in first or "2" in path}
    assert final_weights(tmp_path / "a") == final_weights(tmp_path / "b")
    lines = [line["iteration"] for line in results(tmp_path / "a")["iterations"]]
    assert lines == [0, 1, 2]


def test_the_base_variant_measures_and_trains_nothing(small_config, tmp_path):
    run(small_config(tmp_path, "variant=base", "iterations=0"), [])
    held = results(tmp_path)
    assert [line["iteration"] for line in held["iterations"]] == [0]
    assert held["cost"]["trained_tokens"] == 0
    assert "test/accuracy" in held["final"] and "train/steps" not in held["final"]


def test_the_direct_variant_trains_on_answers_alone_in_as_many_steps(
    small_config, finished, tmp_path
):
    run(small_config(tmp_path, "variant=direct"), [])
    mine, stars = results(tmp_path)["iterations"], results(finished)["iterations"]
    assert [line.get("train/steps") for line in mine] == [line.get("train/steps") for line in stars]
    rollouts = RolloutStore(tmp_path / "rollouts").read(1, "answers")
    assert all(r.text == f"#{r.gold}" and r.correct for r in rollouts)
    assert {r.weights for r in rollouts} == {"gold"}
    problems = {r.problem for r in rollouts}
    assert problems == {r.problem for r in RolloutStore(finished / "rollouts").read(1, "generate")}


def test_an_early_stopped_run_stays_stopped(small_config, tmp_path):
    words = ("iterations=6", "patience=1", "module.learning_rate=1e-12")
    run(small_config(tmp_path, *words), [])
    before = shards(tmp_path)
    assert max(int(path[5:8]) for path in before) < 6
    run(small_config(tmp_path, *words), [])
    assert shards(tmp_path) == before
    held = results(tmp_path)  # as if it had been killed in the final evaluation
    (tmp_path / "results.json").write_text(json.dumps({**held, "status": "running"}))
    run(small_config(tmp_path, *words), [])
    assert shards(tmp_path) == before and results(tmp_path)["status"] == "finished"


def test_a_moved_run_goes_on_with_its_best_model(small_config, tmp_path):
    words = ("module.learning_rate=1e-12", "iterations=1")  # nothing is better than iteration 1
    run(small_config(tmp_path / "here", *words), [])
    (tmp_path / "here").rename(tmp_path / "there")
    run(small_config(tmp_path / "there", *words, "iterations=2"), [])
    best = torch.load(tmp_path / "there" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


def test_a_finished_run_is_not_touched_by_the_same_command(small_config, tmp_path):
    run(small_config(tmp_path, "iterations=1"), ["first"])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.name != "run.log"}
    run(small_config(tmp_path, "iterations=1", "tags=[x]"), ["second"])
    assert {path: path.read_bytes() for path in before} == before


def test_the_first_interrupt_is_one_for_the_program_too(small_config, tmp_path, monkeypatch):
    from star_exp.modules.finetune import FineTune

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FineTune, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(small_config(tmp_path), [])
    assert results(tmp_path)["status"] == "running"
    run(small_config(tmp_path), [])
    assert results(tmp_path)["status"] == "finished"


def test_a_truncated_rollout_is_not_right_and_not_trained_on(small_config, finished):
    from star_exp.callbacks.sampling import Drawn, Work, judged
    from star_exp.config.build import build
    from star_exp.sampling.base import Request, Sample

    task = build(small_config(finished)["task"])
    policy, problem = load(finished / "model"), task.problems("train")[0]
    text = task.rationale(problem)
    segment = Segment(text, policy.encode(text))
    for truncated in (False, True):
        sample = Sample((segment,), truncated)
        work = Work(task, "generate", 1, 0, [problem])
        (made,) = judged(work, [Drawn(problem, 0, Request((1,), 0), sample)], "w")
        assert made.answer == problem.answer
        assert made.correct is not truncated


def test_the_manifest_names_the_data_and_a_change_of_them_is_refused(small_config, tmp_path):
    run(small_config(tmp_path, "iterations=1"), [])
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["data"]["train"].endswith(" of 200")
    manifest["data"]["dev"] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigMismatch, match="what it reads has changed"):
        run(small_config(tmp_path, "iterations=2"), [])


def test_without_rationalization_nothing_is_hinted(small_config, tmp_path):
    run(small_config(tmp_path, "variant=star_without_rationalization"), [])
    store = RolloutStore(tmp_path / "rollouts")
    assert not store.read(1, "rationalize")
    assert "rationalize/coverage" not in results(tmp_path)["iterations"][1]


def test_nothing_kept_is_an_error_that_says_what_to_do(small_config, tmp_path):
    with pytest.raises(UserError, match="nothing to train on"):
        run(small_config(tmp_path, "model.steps=1", "iterations=1"), [])
    assert results(tmp_path)["status"] == "failed"
    assert "nothing to train on" in results(tmp_path)["error"]


def test_patience_stops_when_dev_accuracy_stops_rising(small_config, tmp_path):
    # a learning rate of nothing: M_1 = M_0, which can't be better
    words = ("iterations=6", "patience=1", "module.learning_rate=1e-12")
    run(small_config(tmp_path, *words), [])
    assert results(tmp_path)["status"] == "finished"
    assert results(tmp_path)["iterations"][-1]["iteration"] < 6


def test_the_last_checkpoint_is_of_the_last_iteration_though_another_was_the_best(
    small_config, tmp_path
):
    run(small_config(tmp_path, "module.learning_rate=1e-12"), [])  # no iteration is better

    def iteration(name):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]

    assert (iteration("best"), iteration("last")) == (1, 2)


def test_two_processes_never_work_in_one_directory(small_config, tmp_path):
    from star_exp.rundir import RunDirectory

    with RunDirectory(tmp_path), pytest.raises(UserError, match="another process"):
        run(small_config(tmp_path), [])


def shards(folder: Path) -> dict[str, bytes]:
    root = folder / "rollouts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


def final_weights(folder: Path) -> str:
    return fingerprint(load(folder / "model").model)


def test_the_final_model_is_a_transformers_model(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    tokens = AutoTokenizer.from_pretrained(finished / "model")("3+2=", return_tensors="pt")
    assert model(**tokens).logits.shape == torch.Size([1, 4, 98])
