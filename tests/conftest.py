"""What several tests share: a small policy, and a run that takes seconds."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The models here are too small for threads, and the suite runs two processes.
os.environ["OMP_NUM_THREADS"] = "1"

# A run in which every phase has something to do: two digits of base 4, a model that knows some.
SMALL = (
    "debug=smoke",
    "task.base=4",
    "model.steps=80",
    "model.learning_rate=1e-2",
    "model.seed_rationales=60",
)


@pytest.fixture(scope="session")
def base_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models made on the spot, once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_config(base_cache: Path) -> Callable[..., dict[str, Any]]:
    """small_config(run_dir, *overrides): the composed and validated config of a small run."""
    from star_exp.config.compose import compose, plain
    from star_exp.config.validate import validate

    def make(run_dir: Path, *overrides: str) -> dict[str, Any]:
        words = [*SMALL, f"run_dir={run_dir}", f"cache_dir={base_cache}", *overrides]
        config = plain(compose(words))
        validate(config)
        return config

    return make


@pytest.fixture(scope="module")
def without_curves() -> Iterator[None]:
    """For whole runs: their curves take longer than all else."""
    from star_exp import summary

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def policy():
    """A random Llama of two layers over characters, in float64: no ties, no near-ties."""
    return random_policy()


def random_policy(dtype: str = "float64", seed: int = 0):
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from star_exp.models.tiny import character_tokenizer
    from star_exp.sampling.base import Policy

    tokenizer = character_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,  # wide, so that texts differ
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    return Policy(model.eval(), tokenizer)
