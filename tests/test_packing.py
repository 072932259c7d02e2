"""Packed rows: no padding, and to each example the same as if it had been read by itself.

What is expected comes from the models with their own attention, one example at a time.
"""

import logging
import random
from typing import Any

import pytest
import torch
from transformers import (
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from star_exp.data.encode import IGNORED, Example, pack, pad
from star_exp.models.tiny import TinyModel
from star_exp.modules import packing
from star_exp.modules.loss import summed_loss

VOCABULARY = 61
NEAR = 1e-7  # in float64, since models take some steps (norms, GPT-J's attention) in float32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
OLD: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
WINDOW: dict[str, Any] = {"sliding_window": 5, "head_dim": 4}  # shorter than most examples
LAYERS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]}
WITH_ROWS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=4),
    "mistral": MistralConfig(**GROUPED, **WINDOW),
    "gemma3": Gemma3TextConfig(**GROUPED, **WINDOW, **LAYERS),
    "gpt2": GPT2Config(**OLD, bos_token_id=None, eos_token_id=None),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}
WITHOUT_ROWS = {
    "gptj": GPTJConfig(**OLD, rotary_dim=4, bos_token_id=None, eos_token_id=None),
    "falcon": FalconConfig(**SIZES, alibi=False),  # calls torch's attention itself
    "mamba": MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4),
}


def model_of(config, dtype=torch.float64) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():  # large, so that what is wrong shows
            torch.nn.init.normal_(weights, std=0.3)
    return model.to(dtype).eval()


def examples_of(lengths, seed=0) -> list[Example]:
    """Random tokens, of which the last two thirds are trained on."""
    rng = random.Random(seed)
    return [
        Example(
            tuple(rng.randrange(1, VOCABULARY) for _ in range(length)),
            tuple(place >= length // 3 for place in range(length)),
        )
        for length in lengths
    ]


EXAMPLES = examples_of([9, 3, 17, 9, 2, 12, 17, 9])


def own_loss(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """-log p of the trained tokens, by one plain call."""
    logits = model(input_ids=torch.tensor([example.tokens])).logits[0]
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    trained = [place for place, trained in enumerate(example.trained) if trained and place]
    said = [-logprobs[place - 1, example.tokens[place]] for place in trained]
    return torch.stack(said).sum() if said else torch.zeros(())


def own_losses(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    return torch.stack([own_loss(model, example) for example in examples]).sum()


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, [*model.parameters()])
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("name", WITH_ROWS)
def test_each_loss_in_a_packed_row_is_that_of_the_example_by_itself(name):
    model = model_of(WITH_ROWS[name])
    ordered = sorted(EXAMPLES, key=lambda example: len(example.tokens))
    expected = [own_loss(model, example).item() for example in ordered]
    assert packing.enable(model)
    batch = pack(EXAMPLES)
    starts = [0, *batch["lengths"].cumsum(0).tolist()]
    for which, loss in enumerate(expected):
        labels = torch.full_like(batch["labels"], IGNORED)
        own = slice(starts[which], starts[which + 1])
        labels[0, own] = batch["labels"][0, own]
        found = summed_loss(model, {**batch, "labels": labels}).item()
        assert found == pytest.approx(loss, rel=NEAR)


@pytest.mark.parametrize("name", [*WITH_ROWS, "gptj", "falcon"])
def test_the_gradient_of_a_packed_row_is_the_sum_over_its_examples(name):
    model = model_of((WITH_ROWS | WITHOUT_ROWS)[name])
    expected = gradients(model, own_losses(model, EXAMPLES))
    packing.enable(model)
    found = gradients(model, summed_loss(model, pack(EXAMPLES)))
    assert (found - expected).norm() <= NEAR * expected.norm()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_packing_costs_no_precision(dtype, near):
    config = LlamaConfig(**GROUPED)
    exact = model_of(config).to(dtype).double()  # the same weights
    expected = gradients(exact, own_losses(exact, EXAMPLES))
    model = model_of(config).to(dtype)
    assert packing.enable(model)
    loss = summed_loss(model, pack(EXAMPLES))
    assert loss.dtype == torch.float32
    found = gradients(model, loss).double()
    assert (found - expected).norm() <= near * expected.norm()


@pytest.mark.parametrize("name", WITH_ROWS)
def test_no_example_of_a_row_sees_another(name):
    model = model_of(WITH_ROWS[name])
    assert packing.enable(model)
    batch = pack(EXAMPLES)
    lengths = batch["lengths"].tolist()
    with torch.no_grad():
        before = model(**packing.inputs(batch)).logits[0].split(lengths)
        for which in range(len(lengths)):
            changed = [*batch["input_ids"][0].split(lengths)]
            changed[which] = changed[which].flip(0) % (VOCABULARY - 1) + 1
            row = {**batch, "input_ids": torch.cat(changed)[None]}
            after = model(**packing.inputs(row)).logits[0].split(lengths)
            for other, (one, two) in enumerate(zip(before, after, strict=True)):
                assert torch.equal(one, two) == (other != which)


def test_a_row_holds_what_is_read_and_nothing_else():
    rng = random.Random(0)
    lengths = [min(900, max(20, int(rng.lognormvariate(5.2, 0.4)))) for _ in range(64)]
    examples = examples_of(lengths)
    packed, padded = pack(examples), pad(examples, 0)
    assert packed["input_ids"].shape == (1, sum(lengths) - len(lengths))  # the last is not read
    assert padded["input_ids"].shape == (64, max(lengths) - 1)
    labels = [batch["labels"][batch["labels"] != IGNORED].tolist() for batch in (packed, padded)]
    said = [
        token
        for each in examples
        for token, trained in zip(each.tokens, each.trained, strict=True)
        if trained
    ]
    assert sorted(labels[0]) == sorted(labels[1]) == sorted(said)
    last = packed["lengths"].cumsum(0) - 1
    ends = [each.tokens[-1] for each in sorted(examples, key=lambda each: len(each.tokens))]
    assert packed["labels"][0, last].tolist() == ends  # and not the beginning of the next


def test_an_example_of_one_token_has_nothing_to_read():
    batch = pack(examples_of([1, 3, 1, 4]))
    assert batch["lengths"].tolist() == [2, 3]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]


@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_a_model_that_cannot_read_rows_gets_batches_with_little_padding(name, caplog):
    model = model_of(WITHOUT_ROWS[name], torch.float32)
    rng = random.Random(0)
    examples = examples_of([rng.randint(2, 60) for _ in range(64)])
    with caplog.at_level(logging.INFO, "star_exp"), torch.no_grad():
        expected = own_losses(model, examples).item()
        before = model.config._attn_implementation
        assert not packing.enable(model)
        sizes = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()),
            with_kwargs=True,
        )
        found = summed_loss(model, pack(examples)).item()
    assert f"{type(model).__name__} can't read packed rows" in caplog.text
    assert model.config._attn_implementation == before
    assert found == pytest.approx(expected, rel=1e-5)
    read = sum(len(each.tokens) - 1 for each in examples)
    assert 1 < len(sizes) < 40
    assert read >= 0.95 * sum(sizes)


def test_a_model_that_leaks_between_examples_is_found_out(caplog):
    """Attention that takes the mask of a packed row, and reads the whole row nevertheless."""
    model = model_of(LlamaConfig(**GROUPED))
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}),
            with_kwargs=True,
        )
    with caplog.at_level(logging.INFO, "star_exp"):
        assert not packing.enable(model)
    assert "are not those of the examples by themselves" in caplog.text


def test_ordinary_batches_get_the_same_bits_as_before():
    model = model_of(MistralConfig(**GROUPED, **WINDOW), torch.float32)
    tokens = torch.tensor([[0, 0, 5, 6, 7, 8, 9, 10], [3, 4, 5, 6, 7, 8, 9, 11]])
    calls = (
        {"input_ids": tokens},
        {"input_ids": tokens, "attention_mask": (tokens != 0).long()},  # as a sampler pads
    )
    own, saved = [model(**call).logits for call in calls], model.config.to_json_string()
    assert packing.enable(model)
    summed_loss(model, pack(EXAMPLES)).backward()
    assert all(torch.equal(model(**c).logits, o) for c, o in zip(calls, own, strict=True))
    assert model.config.to_json_string() == saved


def test_gradient_checkpointing_computes_rows_anew_as_they_were():
    model = model_of(LlamaConfig(**GROUPED))
    expected = gradients(model, own_losses(model, EXAMPLES))
    assert packing.enable(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    found = gradients(model, summed_loss(model, pack(EXAMPLES)))
    assert (found - expected).norm() <= NEAR * expected.norm()


def test_dropout_of_attention_is_that_of_the_model():
    model = model_of(LlamaConfig(**GROUPED, attention_dropout=1.0)).train()  # drops everything
    expected = own_losses(model, EXAMPLES).item()
    assert packing.enable(model)
    assert model.training
    assert summed_loss(model, pack(EXAMPLES)).item() == pytest.approx(expected, rel=NEAR)
    assert summed_loss(model.eval(), pack(EXAMPLES)).item() != pytest.approx(expected, rel=1e-3)


def test_the_model_made_on_the_spot_reads_rows():
    assert packing.enable(AutoModelForCausalLM.from_config(TinyModel()._config()))
