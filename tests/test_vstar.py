"""V-STaR and its baselines, whole runs of the smallest kind: where each starts, what it learns.

One run serves most tests. What a run trains on is noted by a callback, and compared with what the
stored rollouts say; what a verifier scores is computed again by plain calls of its model.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from star_exp import metrics, verifying
from star_exp.callbacks.phase import iteration_of
from star_exp.cli import main
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.data.verification import VerifierData
from star_exp.errors import UserError
from star_exp.models.base import load
from star_exp.records import Rollout
from star_exp.run import run
from star_exp.sampling.base import Policy, fingerprint
from star_exp.scores import Key, ScoreStore, key
from star_exp.store import RolloutStore
from tests.test_resume import untimed
from tests.test_run import final_weights, results, shards

pytestmark = pytest.mark.usefixtures("without_curves")

Make = Callable[..., dict[str, Any]]

PASSES = ("data/schedule=two_epochs",)  # as these variants have it, and debug=smoke has not
FEW = ("data.exemplars=10", "callbacks.generate.samples=4")
PICKED = ("callbacks.candidates.samples=4", "++callbacks.candidates.rollouts_a_shard=20")
JUDGED = ("verifier.iterations=2", "verifier.data.batch_size=8")
VSTAR = ("variant=vstar", "iterations=3", *PASSES, *FEW, *PICKED, *JUDGED)
LORA = ("+model.lora._target_=star_exp.models.lora.Lora", "+model.lora.rank=4")


class Seen(pl.Callback):
    """Notes what each iteration of a fit starts from and is trained on."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012  made by Hydra, so that it is held by the class

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if batch_index:
            return
        iteration, data = iteration_of(trainer), trainer.datamodule
        optimizer, judges = trainer.optimizers[0], isinstance(data, VerifierData)
        trained = data.compared if judges else data.kept(iteration)
        Seen.seen.append(
            {
                "verifier": judges,
                "iteration": iteration,
                "weights": fingerprint(module.model),
                "frozen": frozen(module.model),
                "adam": max((int(state["step"]) for state in optimizer.state.values()), default=0),
                "rate": optimizer.param_groups[0]["lr"],
                "first_rate": module.rate(0, trainer.num_training_batches) * module.learning_rate,
                "steps": trainer.num_training_batches,
                "trained": [key(rollout) for rollout in trained],
                "labelled": labelled(data) if judges else None,
            }
        )


def labelled(data: VerifierData) -> list[Rollout]:
    return [rollout for mine in data.labelled.values() for rollout in mine]


def frozen(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    held = model.named_parameters()
    return {name: weights.clone() for name, weights in held if not weights.requires_grad}


SEEN = "callbacks.seen._target_=tests.test_vstar.Seen"


def noted(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs it; what was seen of the generator, and of the verifier."""
    Seen.seen = []
    run(config, [])
    return Seen.seen


@pytest.fixture(scope="module")
def finished(small_config: Make, tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs") / "vstar"
    return folder, noted(small_config(folder, *VSTAR, f"+{SEEN}", f"+verifier.{SEEN}"))


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return finished[0]


@pytest.fixture(scope="module")
def generators(finished) -> list[dict[str, Any]]:
    return [seen for seen in finished[1] if not seen["verifier"]]


@pytest.fixture(scope="module")
def verifiers(finished) -> list[dict[str, Any]]:
    return [seen for seen in finished[1] if seen["verifier"]]


@pytest.fixture(scope="module")
def base(folder, base_cache) -> Callable[[], Policy]:
    """M_0 of the run, as it lies in the cache."""
    return lambda: base_of(folder, base_cache)


def base_of(folder: Path, cache: Path) -> Policy:
    (name,) = writers(folder, 0, "dev")
    policies = [load(path.parent) for path in cache.glob("*/base.json")]
    (found,) = [policy for policy in policies if fingerprint(policy.model) == name]
    return Policy(found.model.eval(), found.tokenizer)


def with_weights(policy: Policy, path: Path) -> Policy:
    """The model with all the weights of a file, by PyTorch alone."""
    held = {name.removeprefix("model."): part for name, part in load_file(path).items()}
    lost = policy.model.load_state_dict(held, strict=False)
    assert not lost.unexpected_keys
    assert {*lost.missing_keys} <= {"lm_head.weight"}  # tied
    return policy


def writers(folder: Path, iteration: int, *phases: str) -> set[str]:
    return {rollout.weights for rollout in rollouts(folder, iteration, *phases)}


def rollouts(folder: Path, iteration: int, *phases: str) -> list[Rollout]:
    found = RolloutStore(folder / "rollouts").read(iteration, *phases)
    assert found
    return found


def scores(folder: Path, iteration: int, name: str) -> dict[Key, float]:
    found = ScoreStore(folder / "scores").read(iteration, name)
    assert found
    return found


def said(found: Sequence[Rollout]) -> set[tuple[str, str]]:
    """What is trained on: a question and a text."""
    return {(rollout.question, rollout.text) for rollout in found}


def right(found: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in found if rollout.correct and not rollout.truncated]


def trained_on(folder: Path, seen: dict[str, Any]) -> list[Rollout]:
    """The rollouts of a note, each once."""
    assert len({*seen["trained"]}) == len(seen["trained"])
    store = RolloutStore(folder / "rollouts")
    known = {
        key(rollout): rollout
        for iteration in store.iterations()
        for rollout in store.read(iteration, "solutions", "generate")
    }
    return [known[name] for name in seen["trained"]]


def tokens_of(policy: Policy, rollout: Rollout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and completion, with its end unless it was cut off."""
    end, written = policy.tokenizer.convert_tokens_to_ids("<end>"), rollout.tokens
    assert isinstance(end, int)
    ended = rollout.truncated or written[-1:] == (end,)
    return policy.encode(f"{rollout.question}="), written if ended else (*written, end)


@torch.no_grad()
def likelihood(policy: Policy, rollout: Rollout) -> float:
    """log p(y|x), by one plain call of the model."""
    prompt, written = tokens_of(policy, rollout)
    logits = policy.model(torch.tensor([[*prompt, *written]])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(written) - 1)
    return sum(logits[place, token].item() for place, token in zip(places, written, strict=True))


def likelihoods(policy: Policy, found: Sequence[Rollout]) -> dict[Key, Any]:
    """As they are given in float32."""
    return {key(each): pytest.approx(likelihood(policy, each), abs=1e-3) for each in found}


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Of all files when they were written, and what they hold; but for locks."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# The generator


def test_the_first_iteration_writes_solutions_and_samples_nothing(folder):
    assert RolloutStore(folder / "rollouts").phases(1) == ["dev", "solutions"]
    found = rollouts(folder, 1, "solutions")
    assert Counter(each.groups["digits"] for each in found) == {"1": 10, "2": 10}
    assert all(each.correct and each.weights == "human" for each in found)


def test_each_generator_starts_from_the_base_with_a_fresh_optimizer(folder, generators, base):
    assert [seen["iteration"] for seen in generators] == [1, 2, 3]
    assert {seen["weights"] for seen in generators} == {fingerprint(base().model)}
    assert [seen["adam"] for seen in generators] == [0, 0, 0]
    assert len({*writers(folder, 1, "dev"), *writers(folder, 2, "dev")}) == 2


def test_the_kept_weights_are_those_after_the_solutions(folder, base):
    sft = fingerprint(with_weights(base(), folder / "sft.safetensors").model)
    assert writers(folder, 1, "dev") == {sft} == writers(folder, 2, "generate")
    assert writers(folder, 3, "generate") == writers(folder, 2, "dev") != {sft}
    assert final_weights(folder) not in {sft, *writers(folder, 2, "dev")}


def test_each_generator_learns_the_solutions_and_all_that_was_right_in_any_round(
    folder, generators
):
    expected = rollouts(folder, 1, "solutions")
    sizes = []
    for seen in generators:
        if seen["iteration"] > 1:
            expected += right(rollouts(folder, seen["iteration"], "generate"))
        assert said(trained_on(folder, seen)) == said(expected)
        assert len(seen["trained"]) == len(said(expected))
        assert seen["steps"] == -(-2 * len(said(expected)) // 16)  # two passes, 16 a step
        sizes.append(len(seen["trained"]))
    assert sizes == sorted({*sizes})  # also the last round's samples are new, and trained on


def test_every_round_samples_each_problem_so_often(folder):
    for iteration in (2, 3):
        found = Counter(each.problem for each in rollouts(folder, iteration, "generate"))
        assert len(found) == 60 and {*found.values()} == {4}


def test_the_last_generator_draws_candidates(folder):
    for split in ("dev", "test"):
        found = rollouts(folder, 3, f"{split}-candidates")
        assert {each.weights for each in found} == {final_weights(folder)}
        assert {*Counter(each.problem for each in found).values()} == {4}
        assert {each.problem for each in found} == {r.problem for r in rollouts(folder, 3, split)}
        for iteration in (0, 1, 2):
            assert f"{split}-candidates" not in RolloutStore(folder / "rollouts").phases(iteration)


# The verifier


def verifier_of(folder: Path) -> Path:
    return folder / "verifier" / "iter_003"


def test_the_verifier_starts_from_g_sft_and_not_from_the_latest_generator(folder, verifiers, base):
    sft = with_weights(base(), folder / "sft.safetensors")
    assert [seen["iteration"] for seen in verifiers] == [1, 2]
    assert verifiers[0]["weights"] == fingerprint(sft.model) != final_weights(folder)
    assert verifiers[1]["adam"] == verifiers[0]["steps"] > 0  # one fit, of two passes
    candidates = rollouts(folder, 3, "dev-candidates")
    assert scores(verifier_of(folder), 0, "dev-candidates") == likelihoods(sft, candidates)


def test_the_verifier_is_warmed_up_from_its_first_step(verifiers):
    assert verifiers[0]["rate"] == pytest.approx(verifiers[0]["first_rate"])


def test_the_reference_is_g_sft(folder, verifiers, base):
    sft = with_weights(base(), folder / "sft.safetensors")
    compared = trained_on(folder, verifiers[0])
    assert scores(verifier_of(folder), 0, "reference") == likelihoods(sft, compared)


def test_the_verifier_learns_from_solutions_and_from_all_rounds_right_and_wrong(folder, verifiers):
    """Here no sample is of a problem that has a solution: these are in D_VER, and in no pair."""
    assert verifiers[0]["trained"] == verifiers[1]["trained"]
    found = verifiers[0]["labelled"]
    everything = [
        *rollouts(folder, 1, "solutions"),
        *rollouts(folder, 2, "generate"),
        *rollouts(folder, 3, "generate"),
    ]
    texts = [(each.problem, each.text) for each in found]
    assert {*texts} == {(each.problem, each.text) for each in everything}
    assert len(texts) == len({*texts})
    compared = trained_on(folder, verifiers[0])
    for correct in (True, False):
        both = {each.iteration for each in compared if each.correct is correct}
        assert both == {2, 3}  # of two generators
    pairs = Counter(each.problem for each in compared if each.correct)
    assert {*pairs} == {each.problem for each in compared if not each.correct}


def test_candidates_are_scored_by_their_likelihood_under_the_verifier(folder, base):
    verifier = with_weights(base(), verifier_of(folder) / "verifier.safetensors")
    sft = with_weights(base(), folder / "sft.safetensors")
    for split in ("dev", "test"):
        candidates = rollouts(folder, 3, f"{split}-candidates")
        given = scores(verifier_of(folder), 2, f"{split}-candidates")
        assert given == likelihoods(verifier, candidates)
        assert given != likelihoods(sft, candidates)
    assert any(each.truncated for each in candidates) or all(each.tokens for each in candidates)


def test_results_are_those_of_the_scores_by_all_subsets(folder):
    final = results(folder)["final"]
    for split in ("dev", "test"):
        candidates = rollouts(folder, 3, f"{split}-candidates")
        given = scores(verifier_of(folder), 2, f"{split}-candidates")
        own = {key(each): each.logprob for each in candidates}
        for name, score in (("dpo", given), ("likelihood", own)):
            for k in (1, 2, 4):
                expected = best_by_subsets(candidates, score, k)
                assert final[f"{split}/best_of_{k}/{name}"] == pytest.approx(expected)
        share = fmean(each.correct for each in candidates)
        assert final[f"{split}/pass@1"] == final[f"{split}/majority@1"] == pytest.approx(share)
        assert final[f"{split}/best_of_4/dpo"] <= final[f"{split}/pass@4"]
        assert {f"{split}/auc/dpo", f"{split}/auc_within/dpo", f"{split}/accuracy"} <= {*final}
        assert f"{split}/ece/dpo" not in final  # likelihoods are no probabilities of being right


def best_by_subsets(found: Sequence[Rollout], score: dict[Key, float], k: int) -> float:
    problems: dict[str, list[Rollout]] = {}
    for each in found:
        problems.setdefault(each.problem, []).append(each)
    picks = [
        max(subset, key=lambda each: (not each.truncated, score[key(each)])).correct
        for mine in problems.values()
        for subset in combinations(mine, k)
    ]
    return fmean(picks)


def test_the_generators_own_likelihood_is_that_of_its_model(folder):
    policy = load(folder / "model")
    found = rollouts(folder, 3, "dev-candidates")
    policy.model.eval()
    assert {key(each): each.logprob for each in found} == likelihoods(policy, found)


def test_a_verifiers_folder_is_that_of_a_run(folder):
    names = {path.name for path in verifier_of(folder).iterdir()}
    assert {"verifier.safetensors", "scores", "results.json", "metrics.jsonl", "run.log"} <= names
    assert "model" not in names and "rollouts" not in names  # candidates are the generator's
    held = results(verifier_of(folder))
    assert held["status"] == "finished"
    lines = held["iterations"]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert all("dev/auc/dpo" in line for line in lines)
    assert ["test/auc/dpo" in line for line in lines] == [False, False, True]
    assert all("train/pair_accuracy" not in line or line["iteration"] for line in lines)
    for name in {name for line in lines for name in line} - {"iteration"}:
        assert metrics.metric(name)
    assert results(folder)["status"] == "finished"
    assert results(folder)["final"] == results(folder)["iterations"][-1]
    metric_lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in metric_lines] == results(folder)["iterations"]


# Again, later, and after a kill


def test_a_finished_run_says_so_and_touches_nothing(small_config, folder, capsys):
    before = contents(folder)
    words = (*VSTAR, f"+{SEEN}", f"+verifier.{SEEN}")
    assert noted(small_config(folder, *words)) == []
    assert "finished before" in capsys.readouterr().out
    assert contents(folder) == before


def test_more_iterations_later_give_the_new_generator_a_verifier_of_its_own(
    small_config, folder, tmp_path
):
    shutil.copytree(folder, more := tmp_path / "more")
    before, lines = contents(more), results(more)["iterations"]
    words = (*VSTAR, f"+{SEEN}", f"+verifier.{SEEN}", "iterations=4")
    seen = noted(small_config(more, *words))
    assert [(each["verifier"], each["iteration"]) for each in seen] == [
        (False, 4),
        (True, 1),
        (True, 2),
    ]
    after = contents(more)
    kept = ("sft.safetensors", "verifier/iter_003/", "rollouts/")
    for name, held in before.items():
        assert after[name] == held or not name.startswith(kept), name
    sft = (more / "sft.safetensors").read_bytes()
    assert sft == (folder / "sft.safetensors").read_bytes()
    assert seen[1]["weights"] == next(iter(writers(more, 1, "dev")))
    assert {name[0] for name in seen[1]["trained"]} == {2, 3, 4}
    given = scores(more / "verifier" / "iter_004", 2, "test-candidates")
    assert {iteration for iteration, *_ in given} == {4}
    assert results(more)["iterations"][:4] == lines
    assert "dev/best_of_4/dpo" in results(more)["final"]


PLACES = {
    "candidates": ("star_exp.store:RolloutStore.write", 3),
    "training": ("star_exp.modules.verifier:Preference.training_step", -1),
    "scores": ("star_exp.scores:ScoreStore.write", 4),
    "last_scores": ("star_exp.scores:ScoreStore.write", 5),
    "results_of_the_verifier": ("star_exp.rundir:RunDirectory.add", 1),
}


@pytest.fixture(scope="module")
def killed(folder, verifiers, small_config, tmp_path_factory) -> Path:
    """The run again, of which the iterations are done and candidates are still to be drawn."""
    root, scenarios = tmp_path_factory.mktemp("killed"), {}
    for name, (place, call) in PLACES.items():
        before_candidates(folder, root / name)
        config = small_config(root / name, *VSTAR)
        config["callbacks"].pop("seen", None)
        scenarios[name] = (config, place, call if call >= 0 else verifiers[0]["steps"] + 1)
    path = root / "scenarios.json"
    path.write_text(json.dumps(scenarios))
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (root / "outcomes.json").write_text(json.dumps({each["name"]: each for each in outcomes}))
    return root


def before_candidates(folder: Path, target: Path) -> None:
    """A copy of a run as it was when its last iteration was trained."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("verifier", "*-candidates"))
    shutil.rmtree(target / "model")
    held = results(target)
    picked = re.compile(
        r"(dev|test)(/|-)(pass@|majority@|distinct_eq|best_of_|reward@|weighted|auc|candidates)"
    )
    for line in (held["final"], *held["iterations"]):
        for name in [name for name in line if picked.match(name)]:
            del line[name]
    text = "".join(json.dumps(line) + "\n" for line in held["iterations"])
    (target / "metrics.jsonl").write_text(text)
    (target / "results.json").write_text(json.dumps({**held, "status": "running"}))
    config = target / "config.yaml"  # without the callback that notes, which is not for this
    config.write_text(
        re.sub(r"\n +seen:\n +_target_: tests.test_vstar.Seen", "", config.read_text())
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_a_killed_run_ends_with_the_same_verifier_and_the_same_scores(killed, folder, name):
    outcome = json.loads((killed / "outcomes.json").read_text())[name]
    log = (killed / f"{name}.log").read_text()
    assert outcome["killed"] == -signal.SIGKILL, log
    assert outcome["finished"] == 0, log
    mine, theirs = killed / name, folder
    weights = "verifier/iter_003/verifier.safetensors"
    assert (mine / weights).read_bytes() == (theirs / weights).read_bytes()
    assert shards(mine) == shards(theirs)
    given = Path("verifier/iter_003/scores")
    names = sorted(str(path.relative_to(theirs)) for path in (theirs / given).rglob("*.parquet"))
    assert names == sorted(str(path.relative_to(mine)) for path in (mine / given).rglob("*.*"))
    assert all((mine / each).read_bytes() == (theirs / each).read_bytes() for each in names)
    for part in (".", "verifier/iter_003"):
        held = results(mine / part)
        assert held["status"] == "finished"
        assert untimed(held["iterations"]) == untimed(results(theirs / part)["iterations"])


# A verifier alone, on a run that was made before

ALONE = ("logger=none", "verifier.callbacks.candidates.samples=4", *JUDGED)


def verify(run_dir: Path, generator: Path, cache: Path, *words: str) -> int:
    """`star-exp run variant=vstar_verifier from=...`"""
    alone = ("variant=vstar_verifier", f"from={generator}", f"run_dir={run_dir}")
    return main(["run", *alone, f"cache_dir={cache}", *ALONE, *words])


@pytest.fixture(scope="module")
def star(small_config, tmp_path_factory) -> Path:
    """A run that knows nothing of solutions and candidates."""
    folder = tmp_path_factory.mktemp("runs") / "star"
    hot = ("iterations=1", "data.exemplars=10", "sampling=hot", "callbacks.generate.samples=4")
    run(small_config(folder, *hot), [])
    return folder


@pytest.fixture(scope="module")
def alone(star, base_cache, tmp_path_factory) -> Path:
    """The verifier of that run, which must stay as it is."""
    folder, before = tmp_path_factory.mktemp("runs") / "alone", contents(star)
    assert verify(folder, star, base_cache) == 0
    assert contents(star) == before
    return folder


def test_a_verifier_alone_makes_what_it_needs_in_its_own_folder(alone, star, folder, base_cache):
    assert not (star / "sft.safetensors").exists()
    policy = with_weights(base_of(star, base_cache), alone / "sft" / "sft.safetensors")
    for split in ("dev", "test"):
        found = rollouts(alone, 1, f"{split}-candidates")
        assert {each.weights for each in found} == {final_weights(star)}
        assert {*Counter(each.problem for each in found).values()} == {4}
    assert scores(alone, 0, "dev-candidates") == likelihoods(
        policy, rollouts(alone, 1, "dev-candidates")
    )
    verifier = with_weights(policy, alone / "verifier.safetensors")
    found = rollouts(alone, 1, "test-candidates")
    assert scores(alone, 2, "test-candidates") == likelihoods(verifier, found)
    examples = results(alone)["iterations"][1]["train/examples"]
    judged = rollouts(star, 1, "generate")
    assert examples == sum(min(8, good * bad) for good, bad in distinct(judged))
    final = results(alone)["final"]
    assert results(alone)["status"] == "finished"
    assert {"dev/best_of_4/dpo", "test/best_of_4/likelihood", "test/pass@4"} <= {*final}
    # the same solutions, passes and seed, so the same G_SFT as a run that keeps it
    sft = (folder / "sft.safetensors").read_bytes()
    assert (alone / "sft" / "sft.safetensors").read_bytes() == sft


def distinct(found: Sequence[Rollout]) -> list[tuple[int, int]]:
    """Of each problem, how many right and wrong texts it has."""
    texts: dict[str, dict[str, bool]] = {}
    for each in found:
        texts.setdefault(each.problem, {})[each.text] = each.correct
    return [(sum(of.values()), len(of) - sum(of.values())) for of in texts.values()]


def test_the_same_command_again_finds_a_verifier_finished(alone, star, base_cache, capsys):
    before = contents(alone)
    assert verify(alone, star, base_cache) == 0
    assert "finished before" in capsys.readouterr().out
    assert contents(alone) == before


def test_a_verifier_of_a_run_that_has_all_it_needs_is_the_one_of_that_run(
    folder, base_cache, tmp_path
):
    before = contents(folder)
    assert verify(tmp_path / "alone", folder, base_cache) == 0
    assert contents(folder) == before
    mine, theirs = tmp_path / "alone", verifier_of(folder)
    weights = "verifier.safetensors"
    assert (mine / weights).read_bytes() == (theirs / weights).read_bytes()
    assert not (mine / "sft").exists() and not (mine / "rollouts").exists()
    for name in ("dev-candidates", "test-candidates"):
        assert scores(mine, 2, name) == scores(theirs, 2, name)


def test_the_implicit_reward_is_a_setting_and_not_what_is_ranked_by_else(
    folder, base, base_cache, tmp_path
):
    mine = tmp_path / "alone"
    assert verify(mine, folder, base_cache, "verifier.module.score=implicit_reward") == 0
    verifier = with_weights(base(), mine / "verifier.safetensors")
    sft = with_weights(base(), folder / "sft.safetensors")
    candidates = rollouts(folder, 3, "dev-candidates")
    expected = {
        key(each): pytest.approx(
            0.1 * (likelihood(verifier, each) - likelihood(sft, each)), abs=1e-3
        )
        for each in candidates
    }
    given, ranked = (
        scores(mine, 2, "dev-candidates"),
        scores(verifier_of(folder), 2, "dev-candidates"),
    )
    assert given == expected
    assert sorted(given, key=given.__getitem__) != sorted(ranked, key=ranked.__getitem__)
    assert {*scores(mine, 0, "dev-candidates").values()} == {0.0}  # V is still G_SFT


def test_a_run_that_is_not_finished_is_refused(star, base_cache, tmp_path, capsys):
    shutil.copytree(star, unfinished := tmp_path / "unfinished")
    held = results(unfinished)
    for status in ("running", "failed"):
        (unfinished / "results.json").write_text(json.dumps({**held, "status": status}))
        assert verify(tmp_path / "alone", unfinished, base_cache) == 1
        said = capsys.readouterr().err
        assert re.search(rf"from=.*unfinished: that run is {status}; finish it first", said)
    (unfinished / "results.json").unlink()
    assert verify(tmp_path / "alone", unfinished, base_cache) == 1
    assert "there is no results.json" in capsys.readouterr().err
    assert not (tmp_path / "alone" / "results.json").exists()


def test_a_folder_that_is_no_run_is_refused(base_cache, tmp_path, capsys):
    assert verify(tmp_path / "alone", tmp_path / "nothing", base_cache) == 1
    assert re.search(r"from=.*nothing is not a run directory", capsys.readouterr().err)


@pytest.mark.parametrize(
    "word",
    [
        *("task=gsm8k", "task.base=5", "model.hidden=32", "sampling=hot"),
        *("module.learning_rate=1", "data.prompts.few_shot=never", "samples=3", "iterations=7"),
    ],
)
def test_what_is_the_generators_can_not_be_set(star, base_cache, tmp_path, word, capsys):
    assert verify(tmp_path / "alone", star, base_cache, word) == 1
    said = capsys.readouterr().err
    assert re.search(rf"{re.escape(word.split('=')[0])} and from=.* clash", said)


def test_from_without_a_verifier_is_refused(star, tmp_path, capsys):
    assert main(["run", f"from={star}", f"run_dir={tmp_path / 'x'}", "logger=none"]) == 1
    assert "add variant=vstar_verifier, or verifier=dpo" in capsys.readouterr().err


# Adapters


@pytest.fixture(scope="module")
def lora(small_config, tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    words = (*VSTAR, "iterations=2", "verifier.iterations=1", "module.learning_rate=1e-2")
    quick = "callbacks.evaluate.final_splits=[]"
    return folder, noted(
        small_config(folder, *words, *LORA, quick, f"+{SEEN}", f"+verifier.{SEEN}")
    )


def test_with_adapters_generator_and_verifier_have_the_weights_of_the_base(lora, base):
    folder, seen = lora
    plain_model = dict(base().model.named_parameters())
    assert [(each["verifier"], each["iteration"]) for each in seen] == [
        (False, 1),
        (False, 2),
        (True, 1),
    ]
    for each in seen:
        held = {name.replace(".base_layer", ""): part for name, part in each["frozen"].items()}
        assert held.keys() == plain_model.keys()
        assert all(torch.equal(held[name], part) for name, part in plain_model.items())
    assert seen[0]["weights"] == seen[1]["weights"] != seen[2]["weights"]
    checkpoint = folder / "verifier" / "iter_002" / "checkpoints" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state and all(".lora_" in name for name in state)


def test_with_adapters_the_kept_files_hold_adapters_alone(lora):
    folder, seen = lora
    paths = (folder / "sft.safetensors", folder / "verifier" / "iter_002" / "verifier.safetensors")
    sft, verifier = map(load_file, paths)
    assert sft.keys() == verifier.keys() and all(".lora_" in name for name in sft)
    assert any(not torch.equal(sft[name], verifier[name]) for name in sft)
    assert seen[2]["weights"] == next(iter(writers(folder, 1, "dev")))  # that of G_SFT


def test_with_adapters_a_score_is_the_likelihood_under_the_merged_verifier(lora, base):
    folder, _ = lora
    policy, path = base(), folder / "verifier" / "iter_002" / "verifier.safetensors"
    held, state = load_file(path), policy.model.state_dict()
    for name, low in held.items():
        if ".lora_A" in name:
            high = held[name.replace(".lora_A", ".lora_B")]
            place = name.removeprefix("model.").partition(".lora_A")[0]
            state[f"{place}.weight"] += 32 / 4 * high @ low  # alpha over rank
    found = rollouts(folder, 2, "dev-candidates")
    given = scores(folder / "verifier" / "iter_002", 1, "dev-candidates")
    assert given == likelihoods(policy, found)


# A verifier that picks from other samples: star-exp eval


def evaluated(folder: Path, *words: str) -> tuple[Path, dict[str, Any]]:
    """What `star-exp eval` of four samples writes: where, and the results."""
    assert main(["eval", str(folder), "sampling.samples=4", *words]) == 0
    (path,) = (folder / "eval").glob("*/results.json")
    return path.parent, json.loads(path.read_text())


def picked_by(root: Path, found: Sequence[Rollout]) -> dict[Key, float]:
    """What the verifier of a run gives to some rollouts of the same task."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(root / "config.yaml"))
    picker = verifying.picker(root, lambda done, of: None)
    return dict(zip(map(key, found), picker.scores(found, build(settings["task"])), strict=True))


def scored_by(root: Path, score: str, to: Path) -> Path:
    """A copy of a verifier's run, of which the scores are others."""
    shutil.copytree(root, to)
    settings: Any = OmegaConf.to_container(OmegaConf.load(to / "config.yaml"))
    settings["module"]["score"] = score
    OmegaConf.save(settings, to / "config.yaml")
    return to


@pytest.mark.parametrize("whose", ["its own", "of another run", "adapters"])
def test_a_picker_gives_candidates_the_scores_that_the_run_wrote(whose, request):
    """Also of a verifier by itself, below which its G_SFT lies, and of adapters on the base."""
    if whose == "its own":
        generator = request.getfixturevalue("folder")
        root, last = verifier_of(generator), (3, 2)
    elif whose == "of another run":
        generator = root = request.getfixturevalue("alone")
        last = (1, 2)
    else:
        generator = request.getfixturevalue("lora")[0]
        root, last = generator / "verifier" / "iter_002", (2, 1)
    iteration, passes = last
    found = rollouts(generator, iteration, "test-candidates")
    given = scores(root, passes, "test-candidates")
    assert picked_by(root, found) == given
    assert len({*given.values()}) > len(given) / 2


@pytest.mark.parametrize("whose", ["its own", "of another run"])
def test_a_picker_by_implicit_reward_reads_the_reference_where_it_lies(
    whose, folder, alone, base, star, base_cache, tmp_path
):
    mine = whose == "its own"
    if mine:
        shutil.copy(folder / "sft.safetensors", tmp_path)
        root = scored_by(verifier_of(folder), "implicit_reward", tmp_path / "verifier" / "iter_003")
        kept, found = tmp_path / "sft.safetensors", rollouts(folder, 3, "dev-candidates")
    else:
        root = scored_by(alone, "implicit_reward", tmp_path / "alone")
        kept, found = root / "sft" / "sft.safetensors", rollouts(alone, 1, "dev-candidates")
    m_0 = base if mine else lambda: base_of(star, base_cache)
    verifier = with_weights(m_0(), root / "verifier.safetensors")
    sft = with_weights(m_0(), kept)
    expected = {
        key(each): 0.1 * (likelihood(verifier, each) - likelihood(sft, each)) for each in found
    }
    assert picked_by(root, found) == pytest.approx(expected, abs=1e-3)
    kept.unlink()
    with pytest.raises(UserError, match=r"its scores need G_SFT, and there is neither .*sft"):
        picked_by(root, found)


def test_eval_draws_and_picks_what_the_run_did_at_its_end(folder, tmp_path):
    """The same seeds and weights: the same samples, and of those the same numbers."""
    shutil.copytree(folder, mine := tmp_path / "run")
    words = ("sampling=hot", "--splits", "dev,test")
    where, written = evaluated(mine, *words)
    final = results(folder)["final"]
    for split in ("dev", "test"):
        phase = f"{split}-candidates"
        again, before = rollouts(where, 3, phase), rollouts(folder, 3, phase)
        assert [(key(r), r.tokens) for r in again] == [(key(r), r.tokens) for r in before]
        names = {name for name in final if name.startswith(f"{split}/") and name.endswith("/dpo")}
        assert {f"{split}/best_of_4/dpo", f"{split}/weighted_majority@2/dpo"} <= names
        assert {name: written["metrics"][name] for name in names} == {
            name: pytest.approx(final[name]) for name in names
        }


def test_eval_picks_from_samples_of_another_task(folder, base, tmp_path, capsys):
    shutil.copytree(folder, mine := tmp_path / "run")
    where, written = evaluated(mine, "task.base=5", "--splits", "test")
    found = rollouts(where, 3, "test-candidates")
    assert {each.question for each in found} != {
        each.question for each in rollouts(folder, 3, "test")
    }
    verifier = with_weights(base(), verifier_of(folder) / "verifier.safetensors")
    given = {key(each): likelihood(verifier, each) for each in found}
    assert 0 < fmean(each.correct for each in found) < 1
    table = capsys.readouterr().out
    for k in (1, 2, 4):
        expected = best_by_subsets(found, given, k)
        assert written["metrics"][f"test/best_of_{k}/dpo"] == pytest.approx(expected)
        assert re.search(rf"best_of_{k}/dpo\W+{expected:.1%}", table)
        interval = written["intervals"][f"test/best_of_{k}/dpo"]
        assert interval is None or interval[0] <= expected <= interval[1]


def test_eval_picks_by_the_verifier_that_is_named(star, alone, base_cache, tmp_path):
    """The run has none of its own."""
    shutil.copytree(star, mine := tmp_path / "run")
    where, written = evaluated(mine, "--splits", "dev", "--verifier", str(alone))
    found = rollouts(where, 1, "dev-candidates")
    verifier = with_weights(base_of(star, base_cache), alone / "verifier.safetensors")
    given = {key(each): likelihood(verifier, each) for each in found}
    for k in (2, 4):
        expected = best_by_subsets(found, given, k)
        assert written["metrics"][f"dev/best_of_{k}/dpo"] == pytest.approx(expected)
    shutil.rmtree(mine / "eval")
    _, without = evaluated(mine, "--splits", "dev")
    assert not any("best_of" in name for name in (*without["metrics"], *without["intervals"]))
    shared = written["metrics"].keys() & without["metrics"].keys()
    assert "dev/pass@4" in shared
    assert all(written["metrics"][name] == without["metrics"][name] for name in shared)


def test_eval_refuses_a_verifier_that_can_not_pick(folder, star, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(
        verifier_of(folder), unfinished, ignore=shutil.ignore_patterns("verifier.safetensors")
    )
    shutil.copytree(star, other := tmp_path / "other")
    tokenizer = other / "model" / "tokenizer.json"
    known = json.loads(tokenizer.read_text())
    vocabulary = known["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    tokenizer.write_text(json.dumps(known))
    four, verifier = "sampling.samples=4", str(verifier_of(folder))
    for run_dir, words, said in (
        (folder, [four, "--verifier", str(tmp_path / "no")], "no holds no config.yaml: it is no"),
        (folder, [four, "--verifier", str(star)], "star holds no verifier.safetensors: it is no"),
        (folder, [four, "--verifier", str(unfinished)], "or not finished; give the folder of one"),
        (folder, ["--verifier", verifier], "there is one of each problem; add sampling.samples=16"),
        (verifier_of(folder), [four], "iter_003 is the run of a verifier, which writes nothing"),
        (other, [four, "--verifier", verifier], "reads other tokens than the model writes"),
    ):
        assert main(["eval", str(run_dir), *words]) == 1
        assert said in capsys.readouterr().err
        assert not (run_dir / "eval").exists()


# Baselines


def config_of(*words: str) -> dict[str, Any]:
    return plain(compose([*words, "logger=none"]))


def differing(mine: Any, theirs: Any, where: str = "") -> set[str]:
    """The dotted keys that differ, but for names."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return {where} if mine != theirs else set()
    found = set()
    for name in mine.keys() | theirs.keys():
        found |= differing(mine.get(name), theirs.get(name), f"{where}.{name}".lstrip("."))
    return found - {"cell", "run_dir", "choices.variant"}


@pytest.mark.parametrize(
    ("variant", "other", "keys"),
    [
        ("self_consistency", "star_dagger", set()),
        ("star_dagger", "vstar", {"verifier"}),
        ("vstar_one_iter", "vstar", {"iterations", "callbacks.generate.samples"}),
        ("verification", "vstar_one_iter", {"data.phases"}),
        ("rft", "star_dagger", {"iterations", "callbacks.generate.samples", "data.filters"}),
        ("iterative_rft", "star_dagger", {"callbacks.reset._target_", "data.history"}),
    ],
)
def test_a_baseline_differs_from_its_neighbour_in_what_its_name_says(variant, other, keys):
    assert differing(config_of(f"variant={variant}"), config_of(f"variant={other}")) == keys


def test_an_outcome_reward_model_has_the_generator_and_solutions_of_vstar_one_iter():
    mine, theirs = config_of("variant=orm"), config_of("variant=vstar_one_iter")
    assert all(key.startswith("verifier") for key in differing(mine, theirs))
    orm, dpo = mine["verifier"], theirs["verifier"]
    assert orm["module"]["_target_"].endswith(".OutcomeReward") and orm["iterations"] == 2
    assert orm["data"]["groups"]["_target_"].endswith(".Singles")
    assert orm["callbacks"]["score"]["name"] == "orm" and "reference" not in orm["callbacks"]
    assert differing(orm["data"], dpo["data"]) == {
        "groups._target_",
        "groups.most",
        "batch_size",
    }


def test_by_default_a_verifier_ranks_by_likelihood_and_pairs_are_capped():
    config = config_of("variant=vstar")["verifier"]
    assert config["module"]["score"] == "likelihood"
    assert config["data"]["groups"] == {"_target_": "star_exp.data.verification.Pairs", "most": 8}
    assert config["callbacks"]["score"]["splits"] == ["dev"]  # test is for the last one


def test_every_arm_has_as_many_samples():
    """k = 16 in each of three rounds, or 48 at once (V-STaR, section 4.1)."""
    for variant in ("vstar", "star_dagger", "vstar_one_iter", "rft", "verification", "orm"):
        config = config_of(f"variant={variant}")
        generate = config["callbacks"]["generate"]
        rounds = config["iterations"] - generate["first"] + 1
        assert rounds * generate["samples"] == 48, variant
        assert config["callbacks"]["candidates"]["samples"] == 128
        assert config["data"]["schedule"]["epochs"] == 2.0  # more, and a verifier learns from less


def test_rest_em_keeps_ten_of_a_problem_and_draws_at_the_papers_temperature():
    config = config_of("variant=rest_em")
    assert config["callbacks"]["generate"]["samples"] == 32
    sampler = config["callbacks"]["generate"]["sampler"]
    assert (sampler["temperature"], sampler["top_k"]) == (0.7, 40)
    assert config["data"]["filters"][-1] == {
        "_target_": "star_exp.filters.AtMost",
        "per_problem": 10,
    }


@pytest.fixture(scope="module")
def baselines(small_config, tmp_path_factory) -> Callable[..., tuple[Path, list[dict[str, Any]]]]:
    """baselines(variant, *words): its run of two iterations, made once, and what was seen of it."""
    root, made = tmp_path_factory.mktemp("baselines"), {}

    def of(variant: str, *words: str) -> tuple[Path, list[dict[str, Any]]]:
        if variant not in made:
            quick = ("iterations=2", "callbacks.evaluate.final_splits=[]", "data.exemplars=10")
            config = small_config(
                root / variant, f"variant={variant}", *PASSES, *quick, *words, f"+{SEEN}"
            )
            made[variant] = root / variant, noted(config)
        return made[variant]

    return of


AT_MOST_3 = ("callbacks.generate.samples=8", "data.filters.2.per_problem=3")
FEWER = ("callbacks.generate.samples=4", "callbacks.candidates.samples=2")


def test_sft_learns_the_solutions_alone(baselines):
    folder, seen = baselines("sft", "iterations=1")
    (each,) = seen
    assert said(trained_on(folder, each)) == said(rollouts(folder, 1, "solutions"))
    assert writers(folder, 1, "dev") == {final_weights(folder)}
    assert (folder / "sft.safetensors").exists()
    assert not (folder / "verifier").exists()


@pytest.mark.slow
def test_rest_em_trains_the_base_on_the_latest_samples_alone(baselines):
    folder, seen = baselines("rest_em", *AT_MOST_3)
    m_0 = writers(folder, 0, "dev")
    assert {each["weights"] for each in seen} == m_0
    assert [each["adam"] for each in seen] == [0, 0]
    assert writers(folder, 1, "generate") == m_0
    assert RolloutStore(folder / "rollouts").phases(1) == ["dev", "generate"]
    assert writers(folder, 2, "generate") == writers(folder, 1, "dev") != m_0
    for each in seen:
        mine = right(rollouts(folder, each["iteration"], "generate"))
        first = {(r.question, r.text): r for r in reversed(mine)}  # a question may be asked twice
        expected = Counter(r.problem for r in first.values())
        kept = trained_on(folder, each)
        assert {*map(key, kept)} <= {*map(key, mine)}
        found = Counter(r.problem for r in kept)
        assert found == {problem: min(3, count) for problem, count in expected.items()}
        assert max(expected.values()) > 3


def test_rest_em_shows_no_seed_rationales_again():
    assert config_of("variant=rest_em")["data"]["replay"] == 0


@pytest.mark.slow
def test_iterative_rft_goes_on_from_the_last_weights_with_a_fresh_optimizer(baselines):
    folder, (first, second) = baselines("iterative_rft", *FEWER)
    assert {first["weights"]} == writers(folder, 0, "dev")
    assert {second["weights"]} == writers(folder, 1, "dev") == writers(folder, 2, "generate")
    assert [first["adam"], second["adam"]] == [0, 0]
    assert second["rate"] == first["rate"]  # warmed up again
    assert said(trained_on(folder, first)) == said(rollouts(folder, 1, "solutions"))
    assert said(trained_on(folder, second)) == said(right(rollouts(folder, 2, "generate")))


@pytest.mark.slow
def test_online_rft_goes_on_with_the_optimizer_and_its_rate(baselines):
    folder, (first, second) = baselines("online_rft", *FEWER)
    assert {first["weights"]} == writers(folder, 0, "dev")
    assert {second["weights"]} == writers(folder, 1, "dev") == writers(folder, 2, "generate")
    assert first["adam"] == 0 and second["adam"] == first["steps"] > 0
    assert second["rate"] == pytest.approx(5e-4 * (first["steps"] + 1) / 20)  # of the warm-up
    assert said(trained_on(folder, second)) == said(right(rollouts(folder, 2, "generate")))


@pytest.mark.slow
def test_online_rft_is_warmed_up_from_its_first_step(baselines):
    _, (first, _) = baselines("online_rft", *FEWER)
    assert first["rate"] == pytest.approx(first["first_rate"])


@pytest.mark.slow
def test_rft_trains_the_base_on_solutions_and_one_round(baselines):
    folder, (first, second) = baselines("rft", *FEWER)
    assert {first["weights"], second["weights"]} == writers(folder, 0, "dev")
    mine = [*rollouts(folder, 1, "solutions"), *right(rollouts(folder, 2, "generate"))]
    assert {equations(r) for r in trained_on(folder, second)} == {equations(r) for r in mine}
    assert len(second["trained"]) == len({equations(r) for r in mine})
    targets = [node["_target_"] for node in config_of("variant=rft")["data"]["filters"]]
    assert [target.rpartition(".")[2] for target in targets] == [
        "Correct",
        "EquationsHold",
        "DistinctEquations",
    ]


def equations(rollout: Rollout) -> tuple[str, str]:
    """Compact sums hold no equation: then the text tells."""
    return rollout.question, rollout.text


@pytest.mark.slow
def test_verification_trains_its_generator_on_solutions_alone(baselines):
    folder, seen = baselines("verification", *FEWER, *JUDGED, f"+verifier.{SEEN}")
    generators = [each for each in seen if not each["verifier"]]
    assert len(generators) == 2
    for each in generators:
        assert said(trained_on(folder, each)) == said(rollouts(folder, 1, "solutions"))
        assert {each["weights"]} == writers(folder, 0, "dev")
    judged = next(each for each in seen if each["verifier"])["labelled"]
    samples = [each for each in judged if each.phase == "generate"]
    assert {each.weights for each in samples} == writers(folder, 1, "dev")  # G_SFT
    assert {each.phase for each in judged} == {"solutions", "generate"}


@pytest.mark.slow
def test_an_outcome_reward_model_scores_by_its_head_at_the_last_token(baselines, base_cache):
    folder, seen = baselines("orm", *FEWER, *JUDGED, f"+verifier.{SEEN}")
    verifier = folder / "verifier" / "iter_002"
    held = load_file(verifier / "verifier.safetensors")
    weight, bias = held["head.weight"], held["head.bias"]
    policy = base_of(folder, base_cache)
    policy.model.load_state_dict(
        {name.removeprefix("model."): part for name, part in held.items() if "head." not in name},
        strict=False,
    )
    judged = {}
    for each in rollouts(folder, 2, "dev-candidates"):
        prompt, written = tokens_of(policy, each)
        tokens = torch.tensor([[*prompt, *written][:-1]])
        with torch.no_grad():
            states = policy.model(tokens, output_hidden_states=True).hidden_states[-1]
        chance = torch.sigmoid(states[0, -1] @ weight[0] + bias[0]).item()
        judged[key(each)] = pytest.approx(chance, abs=1e-4)
    assert scores(verifier, 2, "dev-candidates") == judged
    assert picked_by(verifier, rollouts(folder, 2, "dev-candidates")) == judged
    assert {*scores(verifier, 0, "dev-candidates").values()} == {0.5}
    final = results(folder)["final"]
    assert {"dev/ece/orm", "dev/best_of_2/orm"} <= {*final}
    first = next(each for each in seen if each["verifier"])
    assert {first["weights"]} == writers(folder, 1, "dev")
    assert not (verifier / "scores" / "iter_000" / "reference").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["self_consistency", "star_dagger", "vstar_one_iter"])
def test_a_variant_runs(baselines, variant):
    judged = JUDGED if variant == "vstar_one_iter" else ()
    folder, _ = baselines(variant, *FEWER, *judged)
    held = results(folder)
    assert held["status"] == "finished"
    assert {"dev/majority@2", "dev/pass@2", "dev/best_of_2/likelihood"} <= {*held["final"]}
    assert ("dev/best_of_2/dpo" in held["final"]) is (variant == "vstar_one_iter")
