"""The reward model of a run: made once for all that need it, and used by whatever asks for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_exp import rewarding, verifying
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import UserError
from star_exp.run import run
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


def test_one_that_gives_no_chances_is_refused(made, make, monkeypatch):
    picker = verifying.picker(made, lambda *_: None)
    monkeypatch.setattr(type(picker.verifier), "probable", False)
    with pytest.raises(UserError, match="gives no chance of being right"):
        rewarding.load(make("x", f"reward.from={made}"), run, lambda *_: None)


def test_a_folder_that_is_none_is_refused(make, tmp_path):
    with pytest.raises(UserError, match="it is no verifier's run"):
        rewarding.load(make("x", f"reward.from={tmp_path}"), run, lambda *_: None)


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
    [("bstar_temperature", 8, [0.0]), ("bstar_threshold", 1, 21)],
)
def test_ablations_choose_one_of_the_two(variant, temperatures, thresholds):
    balance = config(f"variant={variant}")["callbacks"]["balance"]
    assert len(balance["temperatures"]) == temperatures
    assert thresholds in (balance["thresholds"], len(balance["thresholds"]))


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
    ],
)
def test_what_could_choose_nothing_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        config(*words)
