"""The reward model of a run: made once for all that need it, and used by whatever asks for it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from star_exp import rewarding, verifying
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import UserError
from star_exp.run import run
from star_exp.sampling.base import Policy
from star_exp.store import RolloutStore
from tests.test_balance import lines

pytestmark = pytest.mark.usefixtures("without_curves")

Make = Callable[..., dict[str, Any]]
MADE = "reward.model.callbacks"
SMALL_REWARD = (
    "reward=process",
    f"{MADE}.responses.problems=30",
    f"{MADE}.responses.samples=4",
    f"{MADE}.complete.completions=3",
    f"{MADE}.candidates.samples=4",
)
SETTINGS = (
    "variant=online_rft",
    "iterations=2",
    "samples=4",
    "callbacks.candidates.samples=4",
    "callbacks.candidates.final_splits=[dev]",
    *SMALL_REWARD,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def make(small_config: Make, root: Path) -> Make:
    return lambda name, *more: small_config(
        root / name, *SETTINGS, f"cache_dir={root}/cache", *more
    )


@pytest.fixture(scope="module")
def folder(make: Make, root: Path) -> Path:
    run(make("first"), [])
    return root / "first"


@pytest.fixture(scope="module")
def made(folder: Path, root: Path) -> Path:
    (found,) = [path for path in (root / "cache").glob("reward-*/seed*") if path.is_dir()]
    return found


def states(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_samples_are_rewarded_by_a_model_that_is_made_first(folder, made):
    """By the chances that the fit's own verifier gives."""
    found = RolloutStore(folder / "rollouts").read(2, "generate")
    picker = verifying.picker(made, lambda *_: None)
    task = build(yaml.safe_load((folder / "config.yaml").read_text())["task"])
    chances = picker.scores(found, task)
    assert [r.scores["process"] for r in found] == pytest.approx([2 * c - 1 for c in chances])
    assert len(set(chances)) > 3


def test_another_seed_and_another_variant_have_the_same_one(folder, made, make, root):
    before = states(made)
    run(make("second", "seed=1"), [])
    run(make("third", "variant=iterative_rft", "data/schedule=interval"), [])
    assert states(made) == before
    assert len([path for path in (root / "cache").glob("reward-*/seed*") if path.is_dir()]) == 1


def test_it_learns_from_what_no_held_out_problem_is_in(made):
    store = RolloutStore(made / "rollouts")
    trained = [*store.read(1, "generate"), *store.read(1, "completions")]
    assert {r.problem.partition("/")[0] for r in trained} == {"train", "seed"}


def test_its_own_settings_name_it(folder, make, root):
    """Where it lies depends on task, model and what it is made from, and on nothing else."""
    names = {}
    for case, words in {
        "same": (),
        "seed": ("seed=5",),
        "scale": ("reward.scale=logit",),
        "sampling": ("sampling.temperature=0.7",),
        "variant": ("variant=star_dagger",),
        "completions": (f"{MADE}.complete.completions=2",),
        "task": ("task.seed=1",),
        "own seed": ("reward.seed=1",),
    }.items():
        asked: list[str] = []

        def note(config: dict[str, Any], asked: list[str] = asked) -> None:
            asked.append(config["run_dir"])
            raise InterruptedError  # far enough

        try:
            rewarding._made(make("x", *words), note)
        except InterruptedError:
            names[case] = str(Path(asked[0]).parent)
        else:
            names[case] = ""  # there already
    assert [case for case, name in names.items() if name] == ["completions", "task", "own seed"]
    assert len({name for name in names.values() if name}) == 3


def test_one_that_is_named_is_taken(made, make, root):
    run(make("named", f"reward.from={made}", f"{MADE}.complete.completions=7"), [])
    assert len([path for path in (root / "cache").glob("reward-*/seed*") if path.is_dir()]) == 1


def test_one_that_reads_other_tokens_is_refused(made, make, monkeypatch):
    """The tokens of another model would be scored without a word."""
    reads = verifying.Picker.check_reads

    def other(picker, policy, setting) -> None:
        copy = deepcopy(policy.tokenizer)
        copy.add_tokens(["<another>"])
        reads(picker, Policy(policy.model, copy), setting)

    monkeypatch.setattr(verifying.Picker, "check_reads", other)
    with pytest.raises(UserError, match=r"reward\.from=.* reads other tokens than the model"):
        run(make("other tokens", f"reward.from={made}"), [])


def test_a_run_goes_on_with_the_reward_model_that_it_began_with(made, make, root):
    """Else one half of its samples would be judged by another."""
    mine = root / "copied"
    shutil.copytree(made.parent, mine)
    asked = make("begun", f"reward.from={mine / made.name}", "iterations=1")
    run(asked, [])
    weights = mine / made.name / "verifier.safetensors"
    parts = load_file(weights)
    save_file({name: part + 1e-3 for name, part in parts.items()}, weights)
    with pytest.raises(UserError, match=r"reward model: .* then, .* now"):
        run({**asked, "iterations": 2}, [])


def test_one_that_gives_no_chances_is_refused(made, make, monkeypatch):
    picker = verifying.picker(made, lambda *_: None)
    monkeypatch.setattr(type(picker.verifier), "probable", False)
    with pytest.raises(UserError, match="gives no chance of being right"):
        rewarding.load(make("x", f"reward.from={made}"), run, lambda *_: None)


def test_a_folder_that_is_none_is_refused(make, made, tmp_path):
    asked = make("x", f"reward.from={made}")
    asked["reward"]["from"] = str(tmp_path)  # gone since its config was checked
    with pytest.raises(UserError, match="it is no verifier's run"):
        rewarding.load(asked, run, lambda *_: None)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_is_made_goes_on(
    folder, made, small_config, root, base_cache
):
    """Killed in its completions; the second call gives the rollouts of the run that was not."""
    words = [*SETTINGS, f"cache_dir={root}/killed"]
    config = small_config(root / "again", *words)
    path = root / "again.yaml"
    path.write_text(yaml.safe_dump(config))
    code = f"""
import os, signal, yaml
from star_exp.run import run
from star_exp.store import RolloutStore
write, count = RolloutStore.write, [0]
def killing(self, iteration, phase, shard, rollouts):
    if phase == "completions":
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, iteration, phase, shard, rollouts)
RolloutStore.write = killing
run(yaml.safe_load(open({str(path)!r})), [])
"""
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    run(config, [])
    ours, theirs = (RolloutStore(path / "rollouts") for path in (root / "again", folder))
    assert ours.read(2, "generate") == theirs.read(2, "generate")
    assert lines(root / "again")[-1]["train/examples"] == lines(folder)[-1]["train/examples"]


# Configs


def config(*words: str) -> dict[str, Any]:
    found = plain(compose(words))
    validate(found)
    return found


def test_bstar_is_a_list_of_phases():
    found = config("variant=bstar")
    named = [name for name, node in found["callbacks"].items() if node]
    assert named.index("balance") < named.index("generate")
    assert "reset" not in named  # weights, optimizer and schedule all go on
    assert [node["_target_"].rpartition(".")[2] for node in found["data"]["filters"]] == [
        "Rewarded",
        "Distinct",
    ]
    balance = found["callbacks"]["balance"]
    assert balance["temperatures"] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]  # appendix B.2
    assert balance["thresholds"] == [round(n / 10 - 1, 1) for n in range(21)]
    assert balance["first"] == 2


@pytest.mark.parametrize(
    ("variant", "temperatures", "thresholds"),
    [("bstar_temperature", 8, 0), ("bstar_threshold", 0, 21), ("bstar", 8, 21)],
)
def test_ablations_choose_one_of_the_two(variant, temperatures, thresholds):
    """The other stays: at a temperature of 1, at a threshold of 0."""
    found = config(f"variant={variant}")
    balance = found["callbacks"]["balance"]
    assert len(balance["temperatures"] or []) == temperatures
    assert len(balance["thresholds"] or []) == thresholds
    assert balance["sampler"]["temperature"] == found["sampling"]["temperature"] == 1.0
    assert found["data"]["filters"][0]["threshold"] == 0.0
    assert balance["problems"] == 600  # sections 3.2 and 3.3


def test_a_choice_is_made_with_what_samples():
    found = config("variant=rest_em", "balance=temperature", "callbacks.generate.samples=64")
    balance, generate = found["callbacks"]["balance"], found["callbacks"]["generate"]
    assert balance["samples"] == generate["samples"] == 64
    assert balance["sampler"] == generate["sampler"]
    assert balance["sampler"]["top_k"] == 40


def test_the_rules_of_the_released_code_are_one_choice():
    """train_bstar.sh, determine_hyper.py: 15 temperatures, 201 thresholds, n* = 8."""
    found = config("variant=bstar", "balance=released")
    balance = found["callbacks"]["balance"]
    assert balance["temperatures"] == [round(0.5 + 0.05 * n, 2) for n in range(15)]
    assert balance["thresholds"] == [round(-1 + 0.01 * n, 2) for n in range(201)]
    assert balance["wanted"] == 8 and balance["empty"] == "left_out"
    judge = {"_target_": "star_exp.filters.TopUp", "threshold": 0.0, "per_problem": 5.87}
    assert found["data"]["filters"][0] == judge
    assert found["reward"]["scale"] == "logit" and found["callbacks"]["solutions"]["every"]


@pytest.mark.parametrize(
    "words",
    [
        ("variant=rest_em",),
        ("variant=rft",),
        ("variant=star",),
        ("experiment=star_strategyqa", "+chance_hits=keep"),
        ("experiment=star_paper_arithmetic",),
    ],
)
def test_any_training_set_goes_by_rewards_instead(words):
    """Its judge is another one, and all else of it stays."""
    if "strategyqa" in words[0]:  # its questions are on the hub
        before, after = (plain(compose([*words, *more])) for more in ((), ("reward=process",)))
    else:
        before, after = config(*words), config(*words, "reward=process")
    right, rewarded = {"_target_": "star_exp.filters.Correct"}, dict(after["judge"])
    assert rewarded == {"_target_": "star_exp.filters.Rewarded", "threshold": 0.0}
    filters = [rewarded if each == right else each for each in before["data"]["filters"]]
    assert after["data"]["filters"] == filters != before["data"]["filters"]


def test_any_variant_may_have_either():
    found = config("variant=star_dagger", "balance=temperature", "reward=process")
    assert found["callbacks"]["balance"]["first"] == 2
    assert found["data"]["filters"][0]["_target_"] == "star_exp.filters.Rewarded"
    star = config("variant=star", "balance=temperature", "samples=4", "sampling=hot")
    assert star["callbacks"]["balance"]["first"] == 1
    assert star["callbacks"]["balance"]["samples"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("variant=online_rft", "balance=threshold"), "none of star_exp.filters.Correct"),
        (("variant=bstar", "reward=none"), "has a threshold; add reward=process"),
        (("variant=base", "balance=temperature", "iterations=0"), "nothing samples at what it"),
        (
            ("variant=online_rft", "balance=temperature", "callbacks.balance.temperatures=[0,1]"),
            "expected numbers above 0",
        ),
        (
            (
                "variant=online_rft",
                "balance=threshold",
                "data.filters=[{_target_: star_exp.filters.Rewarded}]",
            ),
            "reward=none clash",
        ),
        (("variant=bstar", "callbacks.balance.empty=none"), "expected one of: left_out, zero"),
        (
            ("variant=bstar", "callbacks.balance.thresholds=[]"),
            r"thresholds=\[\]: expected numbers",
        ),
        (
            ("variant=bstar_threshold", "callbacks.balance.thresholds=null"),
            "both null: there is nothing to choose",
        ),
    ],
)
def test_what_could_choose_nothing_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        config(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("variant=base", "reward=process", "iterations=0"), "nothing is sampled"),
        (
            (
                "variant=rft",
                "reward=process",
                "data.filters=[{_target_: star_exp.filters.Correct}]",
            ),
            r"goes by the reward; put \$\{judge\}",
        ),
        (
            (
                "variant=online_rft",
                "data.filters=[{_target_: star_exp.filters.Rewarded, threshold: -0.1}]",
            ),
            "threshold=-0.1 and reward=none clash.*all would be trained on",
        ),
        (
            (
                "variant=online_rft",
                "data.filters=[{_target_: star_exp.filters.TopUp, threshold: 1.0}]",
            ),
            "threshold=1.0 and reward=none clash.*none would be trained on",
        ),
        (("variant=bstar", "reward.scale=logits"), "did you mean 'logit'"),
        (("variant=bstar", "reward.seed=-1"), "reward.seed=-1: expected an integer, at least 0"),
        (("variant=bstar", "reward.seed=x"), "reward.seed='x'"),
        (("variant=bstar", "+reward.nonsense=1"), "reward.nonsense: there is no such key"),
        (("variant=bstar", "reward.model=null"), "there is no reward model to make or to read"),
        (("variant=bstar", "reward.model.iterations=0"), "expected at least 1"),
        (("variant=bstar", "reward.from=nowhere"), "there is no verifier.safetensors; give the"),
    ],
)
def test_rewards_that_can_not_be_had_or_select_nothing_are_refused(words, said):
    """Before anything is made: a reward model takes hours."""
    with pytest.raises(ConfigError, match=said):
        config(*words)
