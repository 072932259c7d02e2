"""B-STaR's choice of temperature and threshold, and the selection that goes by it."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from star_exp.callbacks.balance import Balance
from star_exp.config.build import build
from star_exp.errors import UserError
from star_exp.filters import Correct, Distinct, Rewarded, TopUp
from star_exp.models.base import load
from star_exp.records import Rollout
from star_exp.rewards import Reward, Scale
from star_exp.run import run
from star_exp.sampling.base import Request
from star_exp.sampling.sampler import TextSampler
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from star_exp.tasks.base import Exemplar
from star_exp.tuning import tuned
from tests.rollouts import right, rollout, wrong

pytestmark = pytest.mark.usefixtures("without_curves")

Make = Callable[..., dict[str, Any]]
GRID = (0.7, 1.3)


# What was chosen takes the place of what was set


def test_what_was_chosen_stands_in_for_the_setting_of_the_same_name():
    chosen = {"temperature": 0.8, "threshold": -0.1}
    assert tuned(TextSampler(temperature=1.0), chosen) == TextSampler(temperature=0.8)
    assert tuned(Rewarded(), chosen) == Rewarded(threshold=-0.1)
    assert tuned(Correct(), chosen) == Correct()
    assert tuned(Rewarded(0.5), {}) == Rewarded(0.5)


def test_a_filter_that_is_no_dataclass_is_left_alone():
    assert tuned(len, {"threshold": 1.0}) is len


# Selection by reward


def test_kept_is_what_is_strictly_above_the_threshold():
    given = [
        right("a", scores={"process": 0.25}),  # 1.25
        right("b", scores={"process": -1.0}),  # 0
        wrong("c", scores={"process": 0.0}),  # 0
        wrong("d", scores={"process": 0.5}),  # 0.5
    ]
    assert [r.reward for r in given] == [1.25, 0.0, 0.0, 0.5]
    assert [r.problem for r in Rewarded(0.0)(given)] == ["a", "d"]
    assert [r.problem for r in Rewarded(-0.1)(given)] == ["a", "b", "c", "d"]
    assert [r.problem for r in Rewarded(0.5)(given)] == ["a"]


def test_a_sampler_without_a_temperature_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Cool:
        top_k: int = 1

    with pytest.raises(UserError, match="Cool has no field `temperature`"):
        Balance(Cool(), tmp_path)  # type: ignore[arg-type]


def test_without_a_reward_model_those_above_0_are_the_right_ones():
    given = [right("a"), wrong("b"), right("c")]
    assert Rewarded()(given) == Correct()(given)
    assert all(Rewarded(t)(given) == Correct()(given) for t in (0.0, 0.5, 0.9))


def test_what_could_not_be_judged_has_no_reward():
    failed = replace(wrong("a", scores={"process": 1.0}), failed="TimeoutError")
    assert Rewarded(-1.0)([failed]) == []


def above(rollouts: list[Rollout], threshold: float) -> dict[str, list[Rollout]]:
    """Of each problem the different ones above the threshold, the best-rewarded first."""
    found: dict[str, list[Rollout]] = {}
    for each in rollouts:
        mine = found.setdefault(each.problem, [])
        if each.reward > threshold and each.text not in [other.text for other in mine]:
            mine.append(each)
    return {name: sorted(mine, key=lambda r: -r.reward) for name, mine in found.items()}


def test_topping_up_takes_the_best_of_each_until_there_are_enough():
    """Against the released code's loop, in its own words: m = 1, 2, ... until the target."""
    rng = random.Random(0)
    drawn = [(f"p{rng.randrange(6)}", rng.choice("abcdefgh")) for _ in range(60)]
    kinds = {pair: (rng.random() < 0.5, rng.uniform(-1, 1)) for pair in sorted(set(drawn))}
    given = [
        rollout(
            name,
            text,
            question=name,
            correct=kinds[name, text][0],
            scores={"process": kinds[name, text][1]},
        )
        for name, text in drawn
    ]
    for threshold, per_problem in product((-1.0, 0.0, 0.7), (0.5, 1.0, 2.0, 3.5, 50.0)):
        best, taken = above(given, threshold), []
        for m in range(1, 65):
            taken = [r for mine in best.values() for r in mine[:m]]
            if len(taken) >= per_problem * len(best):
                break
        kept = TopUp(threshold=threshold, per_problem=per_problem)(given)
        assert {id(r) for r in kept} == {id(r) for r in taken}
        assert kept == [r for r in given if any(r is other for other in kept)]  # in their order


def test_topping_up_cuts_nothing_off_behind_the_target():
    given = [right(f"p{n}", text, question=f"q{n}") for n in range(3) for text in "ab"]
    assert len(TopUp(per_problem=1.0)(given)) == 3
    assert len(TopUp(per_problem=1.01)(given)) == 6


@pytest.mark.parametrize("wrong_one", [{"per_problem": 0.0}, {"most": 0}])
def test_topping_up_refuses_what_takes_nothing(wrong_one):
    with pytest.raises(ValueError, match="expected more than 0"):
        TopUp(**wrong_one)


# The choice, in a run


SETTINGS = (
    "variant=online_rft",
    "balance=temperature",
    "iterations=3",
    "samples=4",
    "callbacks.candidates.samples=4",
    "callbacks.candidates.final_splits=[dev]",
    "callbacks.candidates.splits=[dev]",
    f"callbacks.balance.temperatures={list(GRID)}",
    "callbacks.balance.problems=20",
    "callbacks.balance.problems_a_shard=8",
)


@pytest.fixture(scope="module")
def config(small_config: Make, tmp_path_factory) -> dict[str, Any]:
    return small_config(tmp_path_factory.mktemp("runs") / "balanced", *SETTINGS)


@pytest.fixture(scope="module")
def folder(config) -> Path:
    run(config, [])
    return Path(config["run_dir"])


@pytest.fixture(scope="module")
def store(folder) -> RolloutStore:
    return RolloutStore(folder / "rollouts")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_hand(
    rollouts: list[Rollout], problems: int, wanted: int, threshold: float, left_out: bool = False
) -> float:
    """Eq. 3, written down anew; of what is asked twice each text is selected once.

    left_out: problems of which nothing is selected, as in the released code."""
    above = [r for r in rollouts if not r.truncated and r.reward > threshold]
    first = {(r.question, r.text): r for r in reversed(above)}
    total = 0.0
    for name in {r.problem for r in rollouts}:
        selected = [r for r in first.values() if r.problem == name]
        problems -= left_out and not selected
        good = sum(r.correct for r in selected)
        total += min(good / wanted, 1) * good / len(selected) if selected else 0.0
    return total / problems


def test_each_iteration_takes_the_temperature_with_the_highest_score(store, config):
    for iteration in (2, 3):
        grid = store.noted(iteration, "balance")
        steps = build(config["data"]["schedule"])(iteration, 60, 16)
        assert grid["wanted"] == math.ceil(steps * 16 / 60)  # n* = ceil(N / M)
        expected = [
            by_hand(store.read(iteration, f"balance-{t:g}"), 20, grid["wanted"], 0.0) for t in GRID
        ]
        assert [row[0] for row in grid["scores"]] == pytest.approx(expected)
        best = max(range(2), key=lambda place: expected[place])
        assert store.noted(iteration, "chosen") == {"temperature": GRID[best]}  # and nothing else
        assert grid["thresholds"] == [None]
        assert grid["score"] == max(expected) > 0


def test_what_trains_nothing_but_solutions_needs_no_choice(store):
    assert store.noted(1, "balance") == store.noted(1, "chosen") == {}
    assert not [phase for phase in store.phases(1) if phase.startswith("balance")]


def test_the_same_problems_are_sampled_at_each_temperature_and_iteration(store):
    asked = {
        frozenset(r.problem for r in store.read(iteration, f"balance-{t:g}"))
        for iteration in (2, 3)
        for t in GRID
    }
    assert len(asked) == 1
    (names,) = asked
    assert len(names) == 20
    assert names < {r.problem for r in store.read(2, "generate")}  # of those that are trained on


def test_generate_samples_at_what_was_chosen(store, folder, config):
    """The last iteration's, drawn anew by its model at either temperature."""
    chosen = store.noted(3, "chosen")["temperature"]
    drawn = [r for r in store.read(3, "generate") if not r.truncated]
    before = store.read(2, "dev-candidates")  # by the same model, at the config's temperature
    assert {r.weights for r in drawn} == {r.weights for r in before}
    policy = checkpointed(folder, config)
    task = build(config["task"])
    prompts = build(config["data"]["prompts"])
    for temperature in GRID:
        sampler = TextSampler(temperature=temperature, max_new_tokens=64)
        requests = [
            Request(prompts.sampling(policy, task, r.asked, trained=2, hint=False), r.seed)
            for r in drawn
        ]
        texts = [sample.tokens for sample in sampler.sample(policy, requests, task.stop)]
        same = fmean(text == r.tokens for text, r in zip(texts, drawn, strict=True))
        assert (same == 1.0) == (temperature == chosen)


def checkpointed(folder: Path, config: dict[str, Any]):
    """M_2: the run again, of two iterations."""
    again = folder.with_name("two")
    run({**config, "run_dir": str(again), "iterations": 2}, [])
    return load(again / "model", "float32")


def test_the_metrics_tell_what_was_chosen_at_what_cost(store, folder):
    for line in lines(folder)[2:]:
        grid = store.noted(line["iteration"], "balance")
        assert line["balance/temperature"] == grid["temperature"]
        assert line["balance/score"] == grid["score"]
        assert line["balance/score/temperature=1.3"] == grid["scores"][1][0]
        assert "balance/threshold" not in line  # it stays as it is
        drawn = [r for t in GRID for r in store.read(line["iteration"], f"balance-{t:g}")]
        tokens = sum(len(r.tokens) for r in drawn)
        assert line["balance/tokens"] == tokens > 0
        assert line["balance/seconds"] > 0
        before = lines(folder)[line["iteration"] - 1]
        spent = tokens + line["generate/tokens"] + line["train/tokens"]
        assert line["cost/tokens"] == before["cost/tokens"] + spent


def test_candidates_of_every_model_give_curves(folder):
    assert all("dev/pass@4" in line and "dev/pass@4-4" in line for line in lines(folder))


def test_the_picture_shows_a_heat_map_an_iteration(folder):
    picture = (folder / "balance.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 5_000


def test_every_variant_has_a_balance_score_of_what_it_trains_on(folder, store, config):
    """n' / n* of the right and different ones, as training selects them."""
    for line in lines(folder)[2:]:
        drawn = store.read(line["iteration"], "generate")
        wanted = store.noted(line["iteration"], "balance")["wanted"]
        assert line["train/balance"] == pytest.approx(by_hand(drawn, 60, wanted, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["balance-1.3", "balance", "chosen", "generate"])
def test_a_run_that_is_killed_around_its_choice_goes_on(place, config, store, folder, tmp_path):
    """In the samples of one temperature, before and behind the notes of iteration 3, and in what is
    sampled then: the second call leaves what the run did that was not killed."""
    again = {**config, "run_dir": str(tmp_path / "again")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(again))
    code = f"""
import os, signal, yaml
from star_exp.run import run
from star_exp.store import RolloutStore
def killing(function):
    def call(self, iteration, name, *rest):
        if (iteration, name) == (3, {place!r}):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(self, iteration, name, *rest)
    return call
RolloutStore.write, RolloutStore.note = killing(RolloutStore.write), killing(RolloutStore.note)
run(yaml.safe_load(open({str(path)!r})), [])
"""
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    run(again, [])
    resumed = RolloutStore(tmp_path / "again" / "rollouts")
    for iteration in (2, 3):
        for phase in (*(f"balance-{t:g}" for t in GRID), "generate", "dev-candidates"):
            assert resumed.read(iteration, phase) == store.read(iteration, phase)
        for noted in ("balance", "chosen"):
            assert resumed.noted(iteration, noted) == store.noted(iteration, noted)
    assert lines(tmp_path / "again")[3]["train/examples"] == lines(folder)[3]["train/examples"]


# With rewards


class Judged:
    """In the place of a reward model: a chance that depends on the text alone."""

    name = "process"

    root, probable = "nowhere", True

    def __init__(self):
        self.verifier = self

    def to(self, device) -> None:
        """Nothing to move."""

    def check_reads(self, policy, setting) -> None:
        """It reads texts."""

    def fingerprint(self) -> str:
        return "judged"

    def scores(self, rollouts, task) -> list[float]:
        return [random.Random(r.text).random() for r in rollouts]


REWARDED = (
    "variant=online_rft",
    "balance=temperature_and_threshold",
    "iterations=2",
    "samples=6",
    "callbacks.candidates.samples=4",
    "callbacks.candidates.final_splits=[dev]",
    f"callbacks.balance.temperatures={list(GRID)}",
    "callbacks.balance.thresholds=[-0.9,-0.3,0.3,0.9]",
    "callbacks.balance.problems=20",
    "callbacks.balance.empty=left_out",
    "+callbacks.solutions.every=true",
    "reward=process",
)


def solved(task: Arithmetic) -> list[Exemplar]:
    """A human's solution of each problem that these runs train on, wrong answers being easy."""
    return [Exemplar(each, task.rationale(each)) for each in task.problems("train")]


@pytest.fixture(scope="module")
def rewarded(small_config: Make, tmp_path_factory) -> Path:
    from star_exp import rewarding

    folder = tmp_path_factory.mktemp("runs") / "rewarded"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewarding, "load", lambda *_: Judged())
        patch.setattr(Arithmetic, "solved", solved)
        run(small_config(folder, *REWARDED), [])
    return folder


def test_what_is_sampled_for_training_is_rewarded_and_what_is_measured_greedily_is_not(rewarded):
    store = RolloutStore(rewarded / "rollouts")
    for phase in ("generate", "balance-0.7", "dev-candidates"):
        found = store.read(2, phase)
        assert found
        for each in found:
            chance = random.Random(each.text).random()
            assert each.scores["process"] == pytest.approx(2 * chance - 1)  # in [-1, 1]
    assert all(r.scores == {} for r in store.read(2, "dev") + store.read(2, "solutions"))


def test_the_pair_with_the_highest_score_is_taken_and_trained_with(rewarded):
    store = RolloutStore(rewarded / "rollouts")
    grid = store.noted(2, "balance")
    thresholds = [-0.9, -0.3, 0.3, 0.9]
    given = store.read(2, "solutions")
    for row, temperature in zip(grid["scores"], GRID, strict=True):
        drawn = store.read(2, f"balance-{temperature:g}")
        names = {r.problem for r in drawn}
        drawn += [r for r in given if r.problem in names]  # one candidate more, of reward 1
        assert len(drawn) == 20 * 7
        hand = [by_hand(drawn, 20, grid["wanted"], t, left_out=True) for t in thresholds]
        assert row == pytest.approx(hand)
    assert grid["score"] == max(max(row) for row in grid["scores"])
    hot = GRID.index(grid["temperature"])
    assert grid["scores"][hot][thresholds.index(grid["threshold"])] == grid["score"]
    kept = [r for r in given + store.read(2, "generate") if not r.truncated]
    kept = Distinct()([r for r in kept if r.reward > grid["threshold"]])
    last = lines(rewarded)[-1]
    assert last["train/examples"] == len(kept)
    assert last["balance/threshold"] == grid["threshold"]


def test_picking_by_reward_alone_is_measured(rewarded):
    """reward@K-S: the best S of K by what the reward model gave, which knows no answers."""
    last = lines(rewarded)[-1]
    found = RolloutStore(rewarded / "rollouts").read(2, "dev-candidates")
    picked, all_right, votes = [], [], []
    for name in {r.problem for r in found}:
        mine = [r for r in found if r.problem == name]
        best = max(r.scores["process"] for r in mine)
        picked.append(fmean(r.correct for r in mine if r.scores["process"] == best))  # ties
        all_right.append(all(r.correct for r in mine))
        weights: dict[str, float] = {}
        for r in mine:  # each votes with the chance that it was given, in [0, 1]
            chance = (r.scores["process"] + 1) / 2
            if not r.truncated and r.answer is not None:
                weights[r.answer] = weights.get(r.answer, 0.0) + chance
        most = max(weights, key=lambda answer: weights[answer])
        votes.append(any(r.correct and r.answer == most for r in mine))
    assert last["dev/best_of_4/reward"] == pytest.approx(fmean(picked))
    assert last["dev/reward@4-4/reward"] == pytest.approx(fmean(all_right))
    assert last["dev/weighted_majority@4/reward"] == pytest.approx(fmean(votes))
    assert "dev/ece/reward" in last


def test_without_a_reward_model_nothing_is_said_of_rewards(folder):
    """Reward@K-S by right or wrong alone would be pass@K-S under another name."""
    assert not [name for line in lines(folder) for name in line if name.endswith("/reward")]


def test_chances_come_back_from_either_scale():
    """A fifth of the logit in the released code: log(0.9 / 0.1) / 5."""
    scales: dict[Scale, float] = {"probability": 0.8, "logit": math.log(9) / 5}
    for scale, of_nine_tenths in scales.items():
        reward = Reward("process", lambda rollouts: [0.9, 0.25], scale)
        given = reward([right("a"), wrong("b")])
        assert given[0].scores["process"] == pytest.approx(of_nine_tenths)
        assert [reward.given(each) for each in given] == pytest.approx([0.9, 0.25])
        assert given[0].reward == pytest.approx(1 + of_nine_tenths)


def test_a_reward_that_is_no_chance_is_refused(small_config, monkeypatch, tmp_path):
    from star_exp import rewarding, verifying

    judged = Judged()
    judged.probable = False
    monkeypatch.setattr(verifying, "picker", lambda *_: judged)
    (tmp_path / "verifier.safetensors").touch()
    config = small_config(tmp_path / "run", *REWARDED, f"reward.from={tmp_path}")
    with pytest.raises(UserError, match="verifier=process or verifier=orm"):
        rewarding.load(config, run, lambda *_: None)
