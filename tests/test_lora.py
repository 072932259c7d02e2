"""Adapters: what is trained, what is sampled with, what is kept, against PEFT and plain algebra."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from peft import PeftModel
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from star_exp.callbacks.reset import ResetToBase
from star_exp.checkpoints import WholeCheckpointIO
from star_exp.data.encode import pack, pad
from star_exp.errors import UserError
from star_exp.evaluate import evaluate
from star_exp.models.base import save
from star_exp.models.hf import HubModel
from star_exp.models.lora import Lora, merged
from star_exp.modules import packing
from star_exp.modules.finetune import FineTune
from star_exp.modules.loss import summed_loss
from star_exp.run import run
from star_exp.sampling.base import Policy, Request, fingerprint
from star_exp.sampling.sampler import TextSampler
from star_exp.store import RolloutStore
from tests.families import family
from tests.test_packing import examples_of

LORA = Lora(rank=4, alpha=8.0)
EXAMPLES = examples_of([9, 3, 17, 9, 12])
TOKENS = torch.arange(2, 40).view(2, 19)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """folders(family): a random model of that family as M_0."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            save(family(name), root / name)
        return root / name

    return folder


def source(folder: Path, **settings: Any) -> HubModel:
    return HubModel(name=str(folder), **settings)


def adapted(folder: Path, **settings: Any) -> Policy:
    """A model as after some training: no B is zero."""
    policy = source(folder, **{"lora": LORA, **settings}).load(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weights in trained(policy.model).values():
            torch.nn.init.normal_(weights, std=0.1)
    return Policy(policy.model.eval(), policy.tokenizer)


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: weights for name, weights in model.named_parameters() if weights.requires_grad}


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.float().log_softmax(-1)


# What is trained


def test_only_adapters_are_trained_and_the_model_is_that_of_the_base(folders):
    base, policy = source(folders("llama")), source(folders("llama"), lora=LORA)
    plain, model = base.load(folders("llama")).model, policy.load(folders("llama")).model
    assert type(model) is type(plain)
    # 2 layers; q and o 32 -> 32, k and v 32 -> 16, gate and up 32 -> 64, down 64 -> 32; rank 4
    expected = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert sum(weights.numel() for weights in trained(model).values()) == expected
    assert all(".lora_" in name for name in trained(model))
    assert torch.equal(logprobs(model), logprobs(plain))  # B = 0


def test_adapters_start_the_same_whatever_was_drawn_before_and_draw_nothing(folders):
    first = source(folders("llama"), lora=LORA).load(folders("llama")).model
    torch.manual_seed(5)
    before = torch.get_rng_state()
    second = source(folders("llama"), lora=LORA).load(folders("llama")).model
    other = source(folders("llama"), lora=replace(LORA, seed=1)).load(folders("llama")).model
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(first) == fingerprint(second) != fingerprint(other)


def test_of_rank_0_there_are_no_adapters(folders):
    model = source(folders("llama"), lora=replace(LORA, rank=0)).load(folders("llama")).model
    assert len(trained(model)) == len(list(model.parameters()))


@pytest.mark.parametrize(("targets", "layers"), [(["q_proj"], 2), (None, 4), ("all-linear", 14)])
def test_targets_name_the_layers_that_are_adapted(folders, targets, layers):
    lora = replace(LORA, targets=targets)
    model = source(folders("llama"), lora=lora).load(folders("llama")).model
    assert len(trained(model)) == 2 * layers


def test_targets_that_the_model_does_not_have_are_an_error_that_names_them(folders):
    lora = replace(LORA, targets=["qproj"])
    with pytest.raises(UserError, match=r"targets=\['qproj'\].*all-linear"):
        source(folders("llama"), lora=lora).load(folders("llama"))


def test_adapters_of_a_bfloat16_model_are_in_float32(folders):
    model = adapted(folders("llama"), dtype="bfloat16").model
    assert {weights.dtype for weights in trained(model).values()} == {torch.float32}
    assert model.dtype == torch.bfloat16
    loss = summed_loss(model, pad(EXAMPLES, token=0))
    loss.backward()
    assert all(weights.grad is not None for weights in trained(model).values())


def test_embeddings_can_be_frozen_and_with_them_what_they_are_tied_to(folders):
    model = source(folders("llama"), frozen=["embeddings"]).load(folders("llama")).model
    frozen = {name for name, weights in model.named_parameters() if not weights.requires_grad}
    assert frozen == {"model.embed_tokens.weight"}
    with pytest.raises(UserError, match=r"frozen=embedings: .*did you mean 'embeddings'"):
        source(folders("llama"), frozen=["embedings"]).load(folders("llama"))


# Gradient checkpointing


@pytest.mark.parametrize("rows", [pack, partial(pad, token=0)], ids=["packed", "padded"])
@pytest.mark.parametrize(
    "settings", [{}, {"frozen": ["embeddings"]}, {"lora": LORA}], ids=["all", "frozen", "lora"]
)
def test_gradients_are_those_without_gradient_checkpointing(folders, rows, settings):
    found = []
    for checkpointing in (False, True):
        model = adapted(
            folders("llama"), **{"lora": None, **settings}, gradient_checkpointing=checkpointing
        ).model.train()
        assert packing.enable(model)
        assert model.is_activation_checkpointing is checkpointing
        summed_loss(model, rows(EXAMPLES)).backward()
        found.append({name: weights.grad for name, weights in trained(model).items()})
    kept, again = found
    assert kept.keys() == again.keys() and any(g.abs().max() > 0 for g in kept.values())
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6)


# Merged weights


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "gemma3"])
def test_merged_weights_give_the_log_probabilities_of_the_adapters(folders, name):
    lora = replace(LORA, targets="all-linear")
    model = adapted(folders(name), lora=lora).model
    apart = logprobs(model)
    assert (apart - logprobs(family(name).model)).abs().max() > 0.1  # the adapters do something
    with merged(model):
        together = logprobs(model)
    assert not torch.equal(together, apart)  # it was computed in another way
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_after_merging_every_weight_is_the_same_tensor_with_the_same_bits(folders):
    model = adapted(folders("llama"), lora=replace(LORA, targets=["q_proj", "lm_head"])).model
    before = {name: (weights, weights.clone()) for name, weights in model.named_parameters()}
    named = fingerprint(model)
    with pytest.raises(KeyboardInterrupt), merged(model):
        assert fingerprint(model) != named
        raise KeyboardInterrupt
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, (weights, bits) in before.items():
        assert after[name] is weights and torch.equal(weights, bits)
    assert fingerprint(model) == named


def test_the_fingerprint_names_the_adapters_too(folders):
    model = adapted(folders("llama")).model
    before = fingerprint(model)
    next(iter(trained(model).values())).data[0, 0] += 1e-3
    assert fingerprint(model) != before


def test_a_model_without_adapters_stays_as_it_is_while_merged():
    model = family("llama").model
    before = fingerprint(model)
    with merged(model):
        assert fingerprint(model) == before


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_both_engines_write_with_merged_weights_what_the_adapters_say(folders, name):
    policy = adapted(folders(name))
    requests = [Request(policy.encode(text), 0) for text in ("1+2=", "12+34=", "9+9=")]
    texts = {}
    with merged(policy.model):
        for engine in ("paged", "reference"):
            sampler = TextSampler(temperature=0.0, max_new_tokens=12, engine=engine)
            texts[engine] = [sample.tokens for sample in sampler.sample(policy, requests, [])]
    assert texts["paged"] == texts["reference"]
    for request, written in zip(requests, texts["paged"], strict=True):  # unmerged, one by one
        tokens = [*request.prompt]
        for token in written:
            with torch.no_grad():
                assert policy.model(torch.tensor([tokens])).logits[0, -1].argmax() == token
            tokens.append(token)


# What is kept


# peft 0.21 asks transformers' old name for it; may go when it no longer does
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_final_model_needs_no_peft_and_the_adapter_no_other_base(folders, tmp_path):
    policy = adapted(folders("llama"))
    save(policy, tmp_path / "model")
    policy.model.save_pretrained(tmp_path / "adapter")
    expected = logprobs(policy.model)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert not any("lora" in name for name in whole.state_dict())
    torch.testing.assert_close(logprobs(whole), expected, rtol=1e-5, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(folders("llama"))
    apart = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logprobs(apart), expected)


def test_a_model_without_adapters_is_saved_as_transformers_saves_it(folders, tmp_path):
    policy = source(folders("llama")).load(folders("llama"))
    save(policy, tmp_path / "ours")
    policy.model.save_pretrained(tmp_path / "theirs")
    for path in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / path.name).read_bytes() == path.read_bytes()


def test_a_token_is_multiplied_with_the_weights_of_the_base_alone(folders):
    plain, with_adapters = (
        module_of(source(folders("llama"), lora=lora), folders("llama")) for lora in (None, LORA)
    )
    # 97 tokens x 32; a layer: q, o 32 x 32, k, v 32 x 16, gate, up, down 32 x 64, two norms; a norm
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert plain.num_weights == with_adapters.num_weights == 97 * 32 + 2 * layer + 32
    assert plain.passes_a_trained_token == 3  # forward, and backward twice as much
    assert with_adapters.passes_a_trained_token == 2  # no gradients of the weights


# Training with Lightning


def module_of(model: HubModel, folder: Path) -> FineTune:
    return FineTune(
        base=partial(model.load, folder), learning_rate=1e-2, rate=lambda step, steps: 1.0
    )


class _Constant(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        part = EXAMPLES[index : index + 2]
        return {**pack(part), "share": torch.tensor(20.0)}


def fit(module: FineTune, epochs: int, checkpoint: Path | None = None, *callbacks) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
        plugins=[WholeCheckpointIO()],
    )
    loader = DataLoader(_Constant(), batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


PARTS = [{"lora": LORA}, {"frozen": ["embeddings", "model.layers.0"]}, {}]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("settings", PARTS, ids=["lora", "frozen", "all"])
def test_a_checkpoint_holds_what_is_trained_and_resuming_from_it_is_exact(
    folders, tmp_path, settings
):
    folder = folders("llama")
    model = source(folder, **settings)
    half, whole, resumed = (module_of(model, folder) for _ in range(3))
    fit(half, 1).save_checkpoint(tmp_path / "half.ckpt")
    fit(whole, 2)
    held = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    names = {name.removeprefix("model.") for name in held} - {"lm_head.weight"}  # tied
    assert names == trained(half.model).keys() - {"lm_head.weight"}
    fit(resumed, 2, tmp_path / "half.ckpt")
    assert fingerprint(resumed.model) == fingerprint(whole.model) != fingerprint(half.model)


def test_a_checkpoint_that_lacks_what_is_trained_is_refused(folders):
    module = module_of(source(folders("llama"), lora=LORA), folders("llama"))
    held = {f"model.{name}": weights for name, weights in trained(module.model).items()}
    missing = next(iter(held))
    with pytest.raises(RuntimeError, match=missing):
        module.load_state_dict({name: held[name] for name in held if name != missing})


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("settings", PARTS, ids=["lora", "frozen", "all"])
def test_an_iteration_starts_from_the_base_again(folders, settings):
    folder, starts = folders("llama"), []

    class Note(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            starts.extend([fingerprint(module.model)] if batch_index == 0 else [])

    module = module_of(source(folder, **settings), folder)
    base = fingerprint(module.model)
    fit(module, 2, None, ResetToBase(), Note())
    assert starts == [base, base] and fingerprint(module.model) != base


def test_a_phase_samples_with_merged_weights(folders, monkeypatch):
    from star_exp.callbacks import sampling

    module, seen = module_of(source(folders("llama"), lora=LORA), folders("llama")), []
    layer: Any = module.model.get_submodule("model.layers.0.mlp.up_proj")
    monkeypatch.setattr(sampling, "write_phase", lambda *_, **__: seen.append(layer.merged))
    work = SimpleNamespace(phase="", iteration=1, problems=[], problems_a_shard=1, rewarded=False)
    sampling.sample_phase(None, module.policy, None, work, None)  # type: ignore[arg-type]
    assert seen == [True] and not layer.merged


# A whole run


def test_a_run_leaves_a_merged_model_its_adapter_and_small_checkpoints(small_config, tmp_path):
    words = [f"+model.lora.{key}" for key in ("_target_=star_exp.models.lora.Lora", "rank=4")]
    run(small_config(tmp_path, *words, "module.learning_rate=1e-2", "iterations=1"), [])
    held = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert held and all(".lora_" in name for name in held)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    sampled = texts(tmp_path, iteration=1)
    for which in ("last", "best", "base"):  # merged; M_0 with the checkpoint's adapters; M_0
        evaluate(tmp_path, overrides=[], which=which, splits=["test"], samples=1, console=Console())
    for path in tmp_path.glob("eval/*/results.json"):
        which, iteration = itemgetter("model", "iteration")(json.loads(path.read_text()))
        assert iteration == (0 if which == "base" else 1)
        assert (texts(path.parent, iteration) == sampled) is (which != "base")


def texts(folder: Path, iteration: int) -> dict[str, str]:
    rollouts = RolloutStore(folder / "rollouts").read(iteration, "test")
    assert rollouts
    return {rollout.problem: rollout.text for rollout in rollouts}
