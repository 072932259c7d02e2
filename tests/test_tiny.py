"""The base model made on the spot: real transformers objects, made once, the same each time."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from star_exp.models.base import load
from star_exp.models.tiny import CHARACTERS, TinyModel, character_tokenizer
from star_exp.sampling.base import fingerprint
from star_exp.tasks.arithmetic import Arithmetic

TASK = Arithmetic(max_digits=1, base=4)
SMALL = TinyModel(hidden=16, layers=1, heads=2, feedforward=32, seed_rationales=5, steps=3)


def quiet(done: int, of: int) -> None:
    pass


def test_every_character_is_one_token_and_comes_back(tmp_path):
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = CHARACTERS + "  two spaces, and\n\nlines "
    for each in (tokenizer, again):
        tokens = each.encode(text, add_special_tokens=False)
        assert len(tokens) == len(text)
        assert each.decode(tokens, clean_up_tokenization_spaces=False) == text
        assert (each.pad_token_id, each.eos_token_id) == (0, 1)


def test_a_character_that_it_does_not_know_is_an_error():
    with pytest.raises(Exception, match=r"(?i)unk"):
        character_tokenizer().encode("6 \u00d7 2", add_special_tokens=False)


def test_the_default_model_has_about_800_000_parameters():
    from transformers import LlamaForCausalLM

    size = LlamaForCausalLM(TinyModel()._config()).num_parameters()
    assert 700_000 < size < 900_000


def test_it_is_made_once_and_found_by_what_made_it(tmp_path):
    steps = []
    folder = SMALL.prepare(TASK, tmp_path, lambda done, of: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert SMALL.prepare(TASK, tmp_path, lambda done, of: steps.append("again")) == folder
    assert len(steps) == 3
    for other in (replace(SMALL, seed=1), replace(SMALL, steps=4), replace(SMALL, hidden=32)):
        assert other.prepare(TASK, tmp_path, quiet) != folder
    assert SMALL.prepare(replace(TASK, base=5), tmp_path, quiet) != folder


def test_it_is_the_same_to_the_bit_each_time_it_is_made(tmp_path):
    first = load(SMALL.prepare(TASK, tmp_path / "a", quiet))
    second = load(SMALL.prepare(TASK, tmp_path / "b", quiet))
    assert fingerprint(first.model) == fingerprint(second.model)


def test_it_round_trips_through_save_pretrained(tmp_path):
    made = load(SMALL.prepare(TASK, tmp_path, quiet))
    made.model.save_pretrained(tmp_path / "copy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    prompt = torch.tensor([made.encode("6+2=")])
    made.model.eval()
    assert torch.equal(made.model(prompt).logits, again(prompt).logits)
    assert again.generation_config.eos_token_id == made.tokenizer.eos_token_id


def test_an_interrupted_making_leaves_nothing_that_looks_finished(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from tests.test_tiny import SMALL, TASK\n"
        "SMALL.prepare(TASK, Path(sys.argv[1]), lambda d, n: d == 2 and os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert killed.returncode == -9
    assert not list((tmp_path / "a").glob("*/base.json"))
    again = load(SMALL.prepare(TASK, tmp_path / "a", quiet))
    whole = load(SMALL.prepare(TASK, tmp_path / "b", quiet))
    assert fingerprint(again.model) == fingerprint(whole.model)
