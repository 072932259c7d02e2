"""Perplexity against transformers' own loss and token by token; kept through kills and ranks."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from star_exp.callbacks.perplexity import Perplexity, cut, nats, perplexity
from star_exp.errors import UserError
from star_exp.run import run
from star_exp.store import RolloutStore
from tests.conftest import SMALL, random_policy
from tests.test_run import final_weights, results

TEXT = "The quick brown fox jumps over the lazy dog; 12 + 30 = 42, said the fox.\n" * 5


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("general") / "general.txt"
    path.write_text(TEXT)
    return path


def words(path: Path, *more: str) -> list[str]:
    settings = {"path": path, "tokens": 250, "context": 60}
    return [
        "diagnostics=perplexity",
        "logger=none",
        *(f"callbacks.perplexity.{name}={value}" for name, value in settings.items()),
        *more,
    ]


# What is computed


def test_a_window_is_what_transformers_makes_of_it(policy):
    (window,) = cut(policy, [TEXT], tokens=50, context=100)
    tokens = torch.tensor([window.tokens])
    loss = policy.model(input_ids=tokens, labels=tokens).loss.item()
    assert perplexity([nats(policy, window)], [window]) == pytest.approx(math.exp(loss), rel=1e-6)


def test_it_is_what_each_token_in_turn_gives(policy):
    windows = cut(policy, [TEXT], tokens=50, context=20)
    total, count = 0.0, 0
    with torch.no_grad():
        for window in windows:
            for place in range(1, len(window.tokens)):
                logits = policy.model(torch.tensor([window.tokens[:place]])).logits[0, -1]
                total -= torch.log_softmax(logits, -1)[window.tokens[place]].item()
                count += 1
    assert count == 19 + 19 + 9
    mine = perplexity([nats(policy, window) for window in windows], windows)
    assert mine == pytest.approx(math.exp(total / count), rel=1e-12)  # the policy has float64


def test_a_model_of_less_precision_has_its_loss_taken_in_float32():
    policy = random_policy("bfloat16")
    (window,) = cut(policy, [TEXT], tokens=50, context=50)
    with torch.no_grad():
        logits = policy.model(torch.tensor([window.tokens])).logits[0, :-1].float()
    said = torch.log_softmax(logits, -1).gather(1, torch.tensor(window.tokens[1:])[:, None])
    assert nats(policy, window) == pytest.approx(-said.sum().item(), rel=1e-6)


def test_windows_part_the_text_without_overlap(policy):
    windows = cut(policy, ["ab\n", "", "cde"], tokens=100, context=4)
    assert [policy.decode(window.tokens) for window in windows] == ["ab\n\n", "cde\n"]
    assert [policy.decode(w.tokens) for w in cut(policy, ["abcdefgh"], 6, 4)] == ["abcd", "ef"]
    assert [len(w.tokens) for w in cut(policy, ["abcdefgh"], 5, 4)] == [4]  # one: none to predict
    assert windows[0].trained == (False, True, True, True)


def test_the_text_is_read_no_further_than_needed(policy):
    def texts():
        yield "abcdefgh"
        raise AssertionError("read on")

    assert len(cut(policy, texts(), tokens=8, context=8)) == 1


def test_every_window_begins_as_texts_do_for_the_model(policy, monkeypatch):
    monkeypatch.setattr(type(policy), "begin", property(lambda _: (7,)))
    windows = cut(policy, ["abcdefgh"], tokens=8, context=4)
    assert all(window.tokens[0] == 7 and not window.trained[0] for window in windows)
    assert [policy.decode(window.tokens[1:]) for window in windows] == ["abc", "def", "gh"]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_and_weights_can_still_be_trained(policy, training):
    (window,) = cut(policy, [TEXT], tokens=20, context=20)
    policy.model.train(training)
    try:
        nats(policy, window)
        assert policy.model.training is training
        policy.model(torch.tensor([window.tokens])).logits.sum().backward()  # no inference tensors
    finally:
        policy.model.eval()
        policy.model.zero_grad()


# What is said where it can't be computed


def test_settings_that_make_no_sense_are_named(policy, tmp_path):
    with pytest.raises(UserError, match=r"perplexity.context=1: expected at least 2"):
        Perplexity(path=__file__, context=1)
    with pytest.raises(
        UserError, match=r"callbacks\.perplexity\.path=.*nowhere.txt does not exist"
    ):
        Perplexity(path=str(tmp_path / "nowhere.txt"), context=8).windows(policy)
    with pytest.raises(UserError, match=r"set callbacks\.perplexity\.path=FILE_OR_FOLDER"):
        Perplexity(context=8).windows(policy)


def test_a_context_longer_than_the_model_has_positions_for_is_refused(policy, general):
    with pytest.raises(UserError, match=r"context=512: the model has 256 positions"):
        Perplexity(path=str(general)).windows(policy)


def test_a_text_that_the_tokenizer_has_no_tokens_for_is_named(policy, tmp_path):
    (tmp_path / "a.txt").write_text("fine\nna\u00efve\n")
    with pytest.raises(UserError, match=r"no tokens for 'na\u00efve.*perplexity.path=FILE"):
        Perplexity(path=str(tmp_path / "a.txt"), context=8).windows(policy)


def test_an_empty_text_is_named(policy, tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"callbacks\.perplexity\.path=.*a\.txt has no rows"):
        Perplexity(path=str(tmp_path / "a.txt"), context=8).windows(policy)


@pytest.mark.parametrize("line", ['{"txt": "a"}', '{"text": 5}', "no JSON"])
def test_a_row_without_text_is_named_with_its_place(policy, tmp_path, line):
    (tmp_path / "test.jsonl").write_text(f'{{"text": "ab"}}\n{line}\n')
    with pytest.raises(UserError, match=r"test.jsonl line 2"):
        Perplexity(path=str(tmp_path / "test.jsonl"), context=8).windows(policy)


# Where the text comes from


def test_text_is_the_same_from_rows_files_and_the_hub(policy, tmp_path, monkeypatch):
    import datasets

    lines = ["", "one two", "", "three"]
    rows = [{"text": f"{line}\n" if line else ""} for line in lines]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def load_dataset(*names, **more):
        asked.append((*names, more["split"]))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = Perplexity(hub="Salesforce/wikitext", config="wikitext-2-raw-v1", context=8)
    made = [
        hub.windows(policy),
        Perplexity(path=str(tmp_path / "a.txt"), context=8).windows(policy),
        Perplexity(path=str(tmp_path / "test.jsonl"), context=8).windows(policy),
    ]
    assert made[0] == made[1] == made[2]
    assert "".join(policy.decode(window.tokens) for window in made[0]) == "\none two\n\nthree\n"
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test")]


# In a run


@pytest.fixture(scope="module")
def measured(small_config, general, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("perplexity") / "run"
    run(small_config(folder, *words(general)), [])
    return folder


def values(folder: Path) -> list[tuple[float, float]]:
    names = ("general/perplexity", "general/perplexity_change")
    return [tuple(line[name] for name in names) for line in results(folder)["iterations"]]


def test_a_run_measures_every_model_and_compares_it_with_the_base_model(measured):
    from star_exp.models.base import load

    base, first, last = values(measured)
    assert base[1] == 0
    assert first[1] == pytest.approx(first[0] / base[0] - 1)
    assert len({base[0], first[0], last[0]}) == 3
    policy = load(measured / "model")
    windows = cut(policy, [TEXT], tokens=250, context=60)
    assert len(windows) == 5
    mine = perplexity([nats(policy, window) for window in windows], windows)
    assert last[0] == pytest.approx(mine, rel=1e-6)


def test_what_is_wrong_with_the_text_is_said_before_anything_is_sampled(small_config, tmp_path):
    (tmp_path / "japanese.txt").write_text(
        "\u5343\u91cc\u306e\u9053\u3082\u4e00\u6b69\u304b\u3089", "utf-8"
    )
    with pytest.raises(UserError, match=r"callbacks\.perplexity"):
        run(small_config(tmp_path / "run", *words(tmp_path / "japanese.txt")), [])
    assert RolloutStore(tmp_path / "run" / "rollouts").iterations() == []


def test_measuring_changes_nothing_of_what_is_trained(measured, small_config, tmp_path):
    run(small_config(tmp_path, "logger=none"), [])
    assert final_weights(tmp_path) == final_weights(measured)


@pytest.mark.parametrize("call", [1, 2])
def test_values_survive_a_kill_wherever_it_is(
    measured, small_config, general, tmp_path, monkeypatch, call
):
    """Killed when the values of a model are known, and the model's checkpoint is not written."""
    from star_exp.callbacks.report import Report

    original, calls = Report._iteration, []

    def deadly(*arguments, **more):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Report, "_iteration", deadly)
        with pytest.raises(KeyboardInterrupt):
            run(small_config(tmp_path, *words(general)), [])
    run(small_config(tmp_path, *words(general)), [])
    assert values(tmp_path) == values(measured)


@pytest.mark.slow
def test_two_processes_find_the_same_value_to_the_bit(measured, base_cache, general, tmp_path):
    more = ("variant=base", "iterations=0", "trainer=ddp_cpu")
    settings = [*SMALL, f"run_dir={tmp_path}", f"cache_dir={base_cache}", *words(general, *more)]
    done = subprocess.run(
        [sys.executable, "-m", "star_exp", "run", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert values(tmp_path) == values(measured)[:1]
    shared = [path for path in (tmp_path / "clock").iterdir() if "perplexity" in path.read_text()]
    assert len(shared) == 2  # both did their part
