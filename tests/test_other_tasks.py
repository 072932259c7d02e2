"""Other tasks beside a run: sampled, kept and reported like its own, and chosen in one word."""

from pathlib import Path

import pytest

from star_exp import metrics
from star_exp.callbacks.other_tasks import OtherTasks, limited
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import UserError
from star_exp.run import run
from star_exp.sampling.sampler import TextSampler
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from star_exp.tasks.svamp import SVAMP
from tests.test_run import final_weights, results

# differences of base 4, as the run has sums; and sums of the other base
WORDS = (
    *("ood=subtraction", "logger=none", "callbacks.other_tasks.size=10"),
    *(
        f"callbacks.other_tasks.tasks.subtraction.{key}"
        for key in ("base=4", "max_digits=2", "min_digits=2")
    ),
    "+callbacks.other_tasks.tasks.sums={_target_:star_exp.tasks.arithmetic.Arithmetic,max_digits:2}",
)


@pytest.fixture(scope="module")
def measured(small_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "run"
    run(small_config(folder, *WORDS), [])
    return folder


def test_every_model_is_measured_on_every_task(measured):
    store = RolloutStore(measured / "rollouts")
    for line in results(measured)["iterations"]:
        for name in ("subtraction", "sums"):
            rollouts = store.read(line["iteration"], f"ood-{name}")
            assert len(rollouts) == 10
            assert line[f"ood/{name}/accuracy"] == sum(r.correct for r in rollouts) / 10
            assert line[f"ood/{name}/tokens"] == sum(len(r.tokens) for r in rollouts)
            own = store.read(line["iteration"], "dev")
            assert {r.weights for r in rollouts} == {r.weights for r in own}


def test_its_metrics_are_registered(measured):
    names = {name for line in results(measured)["iterations"] for name in line} - {"iteration"}
    for name in names:
        metrics.metric(name)
    assert {"ood/sums/seconds", "ood/sums/tokens_per_s", "ood/sums/accuracy/digits=2"} <= names
    assert not any("ood-" in name for name in names)


def test_all_models_answer_the_same_problems_which_are_those_of_the_task(measured):
    store, task = (
        RolloutStore(measured / "rollouts"),
        Arithmetic(base=4, min_digits=2, max_digits=2, operators="-"),
    )
    asked = [[r.question for r in store.read(n, "ood-subtraction")] for n in range(3)]
    assert asked[0] == asked[1] == asked[2]
    assert set(asked[0]) <= {problem.question for problem in task.problems("test")}
    assert all("-" in question for question in asked[0])


def test_measuring_changes_nothing_of_what_is_trained(measured, small_config, tmp_path):
    run(small_config(tmp_path, "logger=none"), [])
    assert final_weights(tmp_path) == final_weights(measured)


def test_the_seconds_are_part_of_the_cost(measured):
    before = 0.0
    for line in results(measured)["iterations"]:
        names = [name for name in line if name.endswith("/seconds") and name != "cost/seconds"]
        spent = sum(line[name] for name in names)
        assert line["cost/seconds"] - before == pytest.approx(spent)
        assert {"ood/subtraction/seconds", "dev/seconds"} <= {*names}
        before = line["cost/seconds"]


@pytest.mark.parametrize("call", [4, 9])
def test_a_run_that_was_killed_goes_on(measured, small_config, tmp_path, monkeypatch, call):
    original, calls = RolloutStore.write, []

    def deadly(*arguments):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutStore, "write", deadly)
        with pytest.raises(KeyboardInterrupt):
            run(small_config(tmp_path, *WORDS), [])
    run(small_config(tmp_path, *WORDS), [])
    for mine, theirs in zip(
        results(tmp_path)["iterations"], results(measured)["iterations"], strict=True
    ):
        for name in (name for name in theirs if name.startswith("ood/")):
            if not name.endswith(("seconds", "tokens_per_s")):
                assert mine[name] == theirs[name]


def test_accuracy_for_the_cost_is_that_of_dev(measured):
    base, *lines = results(measured)["iterations"]
    assert "cost/accuracy_per_exaflop" not in base  # it has cost nothing
    for line in lines:
        exaflops = line["cost/flops"] / 10**18
        assert line["cost/accuracy_per_exaflop"] * exaflops == pytest.approx(line["dev/accuracy"])


def test_a_run_without_it_measures_nothing_else(small_config, tmp_path):
    run(small_config(tmp_path, "logger=none", "iterations=1"), [])
    names = {name for line in results(tmp_path)["iterations"] for name in line}
    assert not any(name.startswith(("ood/su", "general/", "faithful/")) for name in names)
    assert not (tmp_path / "perplexity.json").exists()


def test_the_length_limit_is_that_of_each_task_unless_one_is_set_apart():
    sums, short, long = Arithmetic(), SVAMP(max_new_tokens=96), SVAMP(max_new_tokens=256)
    for own, other, limit, expected in (
        (short, long, 96, 256),
        (long, short, 256, 96),
        (long, short, 8192, 8192),  # set for the run: a reasoner's
        (sums, short, 64, 96),  # 64 is what a task without a limit has
        (sums, short, 50, 50),
        (short, sums, 96, 96),
        (sums, sums, 64, 64),
    ):
        made = limited(TextSampler(max_new_tokens=limit, top_k=3), own, other)
        assert made == TextSampler(max_new_tokens=expected, top_k=3)


# The config


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+callbacks.other_tasks.tasks.subtraction.opertors=+", ["did you mean 'operators'"]),
        ("callbacks.other_tasks.tasks.subtraction.base=x", ["subtraction.base='x'", "int"]),
        ("callbacks.other_tasks.tasks=5", ["other_tasks.tasks=5", "Mapping"]),
        ("+callbacks.evaluate.sampler.top_p=2", ["other_tasks.sampler.top_p=2"]),
        ("+callbacks.other_tasks.splits=[dev]", ["did you mean 'split'"]),
    ],
)
def test_a_wrong_setting_of_another_task_is_told_like_others(word, said):
    with pytest.raises(ConfigError) as caught:
        validate(plain(compose(["ood=subtraction", word])))
    for part in said:
        assert part in str(caught.value)


def test_other_tasks_are_measured_before_the_report_is_written():
    callbacks = [*plain(compose(["ood=subtraction"]))["callbacks"]]
    assert callbacks.index("other_tasks") < callbacks.index("report")


def test_word_problems_are_three_tasks():
    node = plain(compose(["task=gsm8k", "ood=word_problems"]))["callbacks"]["other_tasks"]
    assert set(node["tasks"]) == {"svamp", "multiarith", "asdiv"}
    made = build(node)
    assert [type(task).__name__.lower() for task in made.tasks.values()] == [*node["tasks"]]


def test_names_that_make_no_folder_are_refused():
    with pytest.raises(UserError, match=r"tasks.a/b: .* choose another"):
        OtherTasks({"a/b": Arithmetic()}, TextSampler())
    with pytest.raises(UserError, match="size=0: expected at least 1"):
        OtherTasks({}, TextSampler(), size=0)
