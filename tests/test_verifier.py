"""Verifiers: the log-probability of each example, DPO, outcome rewards, and their scores.

What is expected comes from plain calls of the models, one example at a time, from closed forms in
numpy, and from TRL (tests/reference/dpo_trl.py).
"""

import json
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from star_exp.data.encode import Example, pack, pad
from star_exp.errors import UserError
from star_exp.models.base import save
from star_exp.models.hf import HubModel
from star_exp.models.lora import Lora
from star_exp.modules import packing
from star_exp.modules.base import LanguageModel
from star_exp.modules.loss import logprob_of_each, num_examples, owned, sum_of_each
from star_exp.modules.verifier import OutcomeReward, Preference, Verifier, logprobs, score
from star_exp.sampling.base import fingerprint
from tests.families import family
from tests.test_packing import WITH_ROWS, WITHOUT_ROWS, examples_of, gradients, model_of, own_loss

V = TypeVar("V", bound=Verifier)
EXAMPLES = examples_of([9, 3, 17, 9, 12, 6])  # three pairs
PADDED = partial(pad, token=13)  # which is no index of an example
ROWS = pytest.mark.parametrize("rows", [pack, PADDED], ids=["packed", "padded"])
KINDS = pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8.0)], ids=["all", "lora"])
LOADER = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
DTYPES = pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("bfloat16", 0.05)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """G_SFT: a random Llama."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save(family("llama"), folder)
    return folder


def made(kind: type[V], folder: Path, lora=None, dtype: Any = "float32", **settings: Any) -> V:
    """A verifier that starts from the model of the folder."""
    source = HubModel(name=str(folder), lora=lora, dtype=dtype)
    settings = {"learning_rate": 1e-2, "rate": lambda step, steps: 1.0, **settings}
    return kind(partial(source.load, folder), **settings)


def step(module: Verifier, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """What a training step gives, and what it logs, without a trainer."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore
    module._learning_rate = lambda: 0.5  # type: ignore
    module.on_train_epoch_start()
    loss = module.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    return loss, logged


def own_logprobs(model: PreTrainedModel, examples=EXAMPLES) -> Tensor:
    return -torch.stack([own_loss(model, example) for example in examples])


def pairs(reference: Tensor, rows=pack, examples=EXAMPLES) -> dict[str, Tensor]:
    share = torch.tensor(len(examples) / 2)
    return {**owned(rows, examples), "reference": reference, "share": share}


def judged(right: list[float], rows=pack, examples=EXAMPLES) -> dict[str, Tensor]:
    tokens = sum(sum(example.trained[1:]) for example in examples)
    batch = {"right": torch.tensor(right), "tokens": torch.tensor(float(tokens))}
    return {**owned(rows, examples), **batch}


def trained(module: LanguageModel) -> dict[str, torch.nn.Parameter]:
    return {name: w for name, w in module.named_parameters() if w.requires_grad}


def fit(module: Verifier, batches: list[dict[str, Tensor]], **settings: Any) -> pl.Trainer:
    """One pass over the batches with a real trainer."""
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


def auc(scores: list[float], right: list[bool]) -> float:
    """The share of pairs in which the right one has more; half for a tie."""
    good = [s for s, r in zip(scores, right, strict=True) if r]
    bad = [s for s, r in zip(scores, right, strict=True) if not r]
    return sum((g > b) + (g == b) / 2 for g in good for b in bad) / (len(good) * len(bad))


# Whose a token is, and the log-probability of each example


@ROWS
def test_each_token_of_a_batch_knows_whose_it_is(rows):
    batch = owned(rows, EXAMPLES)
    assert batch.keys() == rows(EXAMPLES).keys() | {"owner"}
    assert batch["owner"].shape == batch["labels"].shape
    found = [[] for _ in EXAMPLES]
    read = batch["owner"] < len(EXAMPLES)  # the padding of these rows is no index
    for owner, token in zip(batch["owner"][read], batch["input_ids"][read], strict=True):
        found[owner].append(token.item())
    assert found == [[*example.tokens[:-1]] for example in EXAMPLES]
    assert num_examples(batch) == len(EXAMPLES)


def test_an_example_without_a_trained_token_is_refused():
    prompt = Example((3, 4, 5), (False,) * 3)
    with pytest.raises(ValueError, match="example 1 of 2 has no trained token"):
        owned(pack, [EXAMPLES[0], prompt])


@ROWS
@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "gptj", "mamba"])
def test_the_logprob_of_each_is_that_of_the_example_by_itself(name, rows, enabled):
    model = model_of((WITH_ROWS | WITHOUT_ROWS)[name])
    if enabled:
        assert packing.enable(model) == (name in WITH_ROWS)
    found = logprob_of_each(model, owned(rows, EXAMPLES), len(EXAMPLES))
    assert found.shape == (len(EXAMPLES),)
    expected = own_logprobs(model).to(found.dtype)  # Mamba's logits are float32 in any case
    torch.testing.assert_close(found, expected)


@ROWS
@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_the_gradient_of_any_weighting_is_that_of_the_examples_by_themselves(name, rows):
    model = model_of((WITH_ROWS | WITHOUT_ROWS)[name])
    weights = torch.linspace(-1, 2, len(EXAMPLES), dtype=torch.float64)
    expected = gradients(model, own_logprobs(model) @ weights)
    packing.enable(model)
    found = gradients(model, logprob_of_each(model, owned(rows, EXAMPLES), len(EXAMPLES)) @ weights)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_bfloat16_model_is_summed_up_in_float32():
    model = model_of(WITH_ROWS["llama"], torch.bfloat16)
    found = logprob_of_each(model, owned(PADDED, EXAMPLES), len(EXAMPLES))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, own_logprobs(model), rtol=0.02, atol=0.2)


def test_sums_are_those_of_numpy():
    values, owner = torch.arange(200).sin(), torch.arange(200) * 7919 % 97 % 7
    expected = np.bincount(owner.numpy(), weights=values.double().numpy(), minlength=9)
    np.testing.assert_allclose(sum_of_each(values, owner, 9), expected, atol=1e-5)


# DPO


@ROWS
@KINDS
def test_the_loss_of_pairs_is_the_closed_form(folder, rows, lora):
    module = made(Preference, folder, lora, beta=0.3)
    own = own_logprobs(module.model)
    shift = np.array([2.0, -1.0, 0.5, -3.0, 1.0, 0.0])  # log V - log G_SFT
    reference = own.detach() - torch.tensor(shift, dtype=torch.float32)
    margins = 0.3 * (shift[:3] - shift[3:])  # 1.5, -0.6, 0.15
    loss, logged = step(module, pairs(reference, rows))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-4)
    assert logged == {
        "train/loss": loss.item(),
        "train/pair_accuracy": pytest.approx(2 / 3),
        "train/margin": pytest.approx(margins.mean(), rel=1e-3),
        "train/lr": 0.5,
    }
    # d loss / d log V = -+ beta sigmoid(-margin) / P (Rafailov et al. 2023, section 4)
    pull = torch.tensor(0.3 / (1 + np.exp(margins)) / 3, dtype=torch.float32)
    weights = [*trained(module).values()]
    expected = torch.autograd.grad(own @ torch.cat([-pull, pull]), weights)
    for found, by_hand in zip(torch.autograd.grad(loss, weights), expected, strict=True):
        torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4)


TRL = json.loads((Path(__file__).parent / "reference" / "dpo_trl.json").read_text())


@ROWS
@pytest.mark.parametrize("expected", TRL["expected"], ids=lambda each: f"beta={each['beta']}")
def test_loss_margins_and_gradient_agree_with_trl(folder, rows, expected):
    models = {}
    for name in ("policy", "reference"):
        models[name] = LlamaForCausalLM(LlamaConfig(**TRL["config"]))
        state = {key: torch.tensor(weights) for key, weights in TRL[name].items()}
        models[name].load_state_dict(state)
    both = zip(TRL["tokens"], TRL["trained"], strict=True)
    examples = [Example(tuple(tokens), tuple(map(bool, mask))) for tokens, mask in both]
    module = made(Preference, folder, beta=expected["beta"])
    module.model = models["policy"]
    assert packing.enable(module.model)
    reference = torch.tensor(logprobs(models["reference"], examples, tokens_a_batch=12))
    loss, logged = step(module, pairs(reference, rows, examples))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert logged["train/pair_accuracy"] == pytest.approx(expected["rewards/accuracies"])
    assert logged["train/margin"] == pytest.approx(expected["rewards/margins"], rel=1e-5)
    right, wrong = np.split(np.array(score(module, examples, tokens_a_batch=100)), 2)
    assert right.mean() == pytest.approx(expected["logps/chosen"], rel=1e-5)
    assert wrong.mean() == pytest.approx(expected["logps/rejected"], rel=1e-5)
    loss.backward()
    for name, weights in module.model.named_parameters():
        torch.testing.assert_close(
            weights.grad, torch.tensor(expected["gradient"][name]), rtol=1e-4, atol=1e-6
        )


def toy(number: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Solutions of one prompt each, right and wrong: the right ones hold a 7."""
    rng = random.Random(seed)

    def one(right: bool) -> Example:
        solution = [rng.randrange(10, 60) for _ in range(rng.randint(4, 9))]
        solution[rng.randrange(len(solution))] = 7 if right else 8
        tokens = (5, *solution, 1)
        return Example(tokens, (False,) + (True,) * (len(tokens) - 1))

    return [one(True) for _ in range(number)], [one(False) for _ in range(number)]


@LOADER
@KINDS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_separates_pairs_and_leaves_the_base_as_it_was(folder, lora, dtype):
    right, wrong = toy(16, seed=0)
    examples = [*right, *wrong]
    module = made(Preference, folder, lora, dtype, score="implicit_reward")
    packing.enable(module.model)
    frozen = {name: w.clone() for name, w in module.named_parameters() if not w.requires_grad}
    reference = logprobs(module.model, examples, tokens_a_batch=10_000)

    def accuracy() -> float:
        rewards = score(module, examples, 10_000, reference)
        return float(np.mean(np.greater(rewards[:16], rewards[16:])))

    assert score(module, examples, 10_000, reference) == [0.0] * 32  # V is G_SFT
    trainer = fit(module, [pairs(torch.tensor(reference), pack, examples)] * 25)
    assert module.losses[0].item() == pytest.approx(np.log(2), abs=1e-6)
    assert accuracy() == 1.0
    assert module.final_loss() < 0.2
    assert trainer.logged_metrics["train/pair_accuracy"] == 1
    assert trainer.logged_metrics["train/margin"] > 1
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], weights) for name, weights in frozen.items())
    assert bool(frozen) == (lora is not None)
    if lora:  # without its adapters the model is G_SFT to the bit
        module.model.disable_adapters()
        assert logprobs(module.model, examples, tokens_a_batch=10_000) == reference


def test_solutions_are_ranked_by_likelihood_and_not_by_how_much_it_rose(folder):
    """V-STaR, section 3.1. The two ways disagree where the reference does."""
    examples = [EXAMPLES[1], EXAMPLES[2]]  # 2 tokens and 12
    own = own_logprobs(family("llama").model, examples)
    assert own[0] > own[1]  # the shorter one is likelier
    reference = [own[0].item() - 1, own[1].item() - 5]  # the longer one rose more
    found = {
        name: score(made(Preference, folder, score=name, beta=0.5), examples, 100, reference)
        for name in ("likelihood", "implicit_reward", "mean_logprob")
    }
    assert found["likelihood"] == pytest.approx(own.tolist(), rel=1e-5)
    assert found["implicit_reward"] == pytest.approx([0.5, 2.5], abs=1e-4)
    assert found["mean_logprob"] == pytest.approx([own[0].item() / 2, own[1].item() / 12], rel=1e-5)
    assert made(Preference, folder).score == "likelihood"


def test_implicit_rewards_without_a_reference_are_an_error(folder):
    with pytest.raises(ValueError, match='the batch has no "reference"'):
        score(made(Preference, folder, score="implicit_reward"), EXAMPLES, 100)


# Outcome rewards

RIGHT = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def with_head(module: OutcomeReward) -> OutcomeReward:
    """The module with a head as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(module.head.weight, std=0.3)
        torch.nn.init.normal_(module.head.bias)
    return module


def plain_judgements(module: OutcomeReward, example: Example) -> Tensor:
    """Logits at the places before each trained token, by the hidden states transformers gives."""
    output = module.model(torch.tensor([example.tokens]), output_hidden_states=True)
    states = output.hidden_states[-1][0, :-1].float()  # behind the last norm
    found = states @ module.head.weight[0] + module.head.bias
    return found[torch.tensor(example.trained[1:])]


@ROWS
@KINDS
@DTYPES
def test_the_loss_judges_every_token_and_models_the_right_ones(folder, rows, lora, dtype, near):
    module = with_head(made(OutcomeReward, folder, lora, dtype, lm_weight=0.25))
    packing.enable(module.model)
    judgements = [plain_judgements(module, example) for example in EXAMPLES]
    tokens = sum(map(len, judgements))
    judgement = sum(
        np.logaddexp(0, (1 - 2 * r) * j.detach().double().numpy()).sum()
        for r, j in zip(RIGHT, judgements, strict=True)
    )
    language = -(own_logprobs(module.model) @ torch.tensor(RIGHT)).item() / tokens
    hits = sum(((j > 0) == (r > 0)).sum() for r, j in zip(RIGHT, judgements, strict=True))
    loss, logged = step(module, judged(RIGHT, rows))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(judgement / tokens + 0.25 * language, rel=near)
    assert logged["train/loss"] == loss.item()
    assert logged["train/lm_loss"] == pytest.approx(language, rel=near)
    assert logged["train/judgement_accuracy"] == pytest.approx(int(hits) / tokens, abs=near)
    loss.backward()
    assert all(weights.grad is not None for weights in trained(module).values())
    assert module.head.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["gpt2", "gptj", "falcon", "gemma2", "mamba"])
def test_any_model_can_be_given_a_head(tmp_path, name):
    save(family(name), tmp_path / name)
    module = with_head(made(OutcomeReward, tmp_path / name))
    packing.enable(module.model)
    expected = [plain_judgements(module.eval(), each)[-1].sigmoid().item() for each in EXAMPLES]
    assert score(module, EXAMPLES, 1000) == pytest.approx(expected, rel=1e-4)


def test_at_the_start_everything_is_a_half(folder):
    module = made(OutcomeReward, folder)
    assert score(module, EXAMPLES, 1000) == [0.5] * 6
    loss, logged = step(module, judged(RIGHT))
    assert loss.item() - logged["train/lm_loss"] == pytest.approx(np.log(2), rel=1e-4)


def test_the_score_is_the_judgement_at_the_last_token(folder):
    module = with_head(made(OutcomeReward, folder))
    expected = [plain_judgements(module, each)[-1].sigmoid().item() for each in EXAMPLES]
    assert score(module, EXAMPLES, 1000) == pytest.approx(expected, rel=1e-5)
    module.head.bias.data += 25  # and where all is surely right, the order stays
    sure = score(module, EXAMPLES, 1000)
    assert len({*sure}) == 6 and max(sure) < 1
    assert np.argsort(sure).tolist() == np.argsort(expected).tolist()


def test_of_weight_0_the_language_model_has_no_part_in_the_loss(folder):
    """Nor then have the output embeddings, which in this model are not the input's."""
    module = with_head(made(OutcomeReward, folder, lm_weight=0.0))
    step(module, judged(RIGHT))[0].backward()
    moved = {
        name
        for name, weights in module.model.named_parameters()
        if weights.grad is not None and weights.grad.any()
    }
    assert "lm_head.weight" not in moved and "model.embed_tokens.weight" in moved


@LOADER
def test_what_makes_a_solution_right_is_learned(folder):
    module = made(OutcomeReward, folder, learning_rate=3e-3)
    packing.enable(module.model)
    batches = []
    for seed in range(60):
        right, wrong = toy(16, seed)
        batches.append(judged([1.0] * 16 + [0.0] * 16, pack, [*right, *wrong]))
    fit(module, batches)
    right, wrong = toy(100, seed=1000)
    scores = score(module, [*right, *wrong], tokens_a_batch=500)
    assert auc(scores, [True] * 100 + [False] * 100) > 0.9


@LOADER
@KINDS
def test_the_head_is_trained_and_kept_and_frozen_weights_are_neither(folder, lora, tmp_path):
    module = made(OutcomeReward, folder, lora)
    frozen = {name: w.clone() for name, w in module.named_parameters() if not w.requires_grad}
    names = {*trained(module)}
    assert {"head.weight", "head.bias"} < names
    fit(module, [judged(RIGHT)] * 3).save_checkpoint(tmp_path / "it.ckpt")
    assert module.head.weight.abs().max() > 0
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], weights) for name, weights in frozen.items())
    held = torch.load(tmp_path / "it.ckpt", weights_only=True)["state_dict"]
    assert {*held} - {"model.lm_head.weight"} == names - {"model.lm_head.weight"}
    again = made(OutcomeReward, folder, lora)
    again.load_state_dict(held)
    assert score(again, EXAMPLES, 100) == score(module, EXAMPLES, 100)


# Scores


@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
@pytest.mark.parametrize("kind", [Preference, OutcomeReward])
def test_a_score_does_not_depend_on_what_is_scored_with_it(folder, kind, enabled):
    module = made(kind, folder)
    if isinstance(module, OutcomeReward):
        with_head(module)
    if enabled:
        assert packing.enable(module.model)
    examples = examples_of([9, 3, 40, 9, 12, 6, 2, 30, 17, 9, 25])
    together = score(module, examples, tokens_a_batch=10_000)
    for tokens in (1, 30):
        assert score(module, examples, tokens) == pytest.approx(together, abs=1e-4)
    backwards = score(module, examples[::-1], tokens_a_batch=30)
    assert backwards[::-1] == pytest.approx(together, abs=1e-4)
    padded = module.scores(owned(PADDED, examples)).tolist()
    assert padded == pytest.approx(together, abs=1e-4)
    assert len({round(value, 3) for value in together}) == len(examples)


@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
def test_no_more_tokens_are_read_at_once_than_allowed(folder, enabled):
    module, sizes = made(Preference, folder), []
    if enabled:
        packing.enable(module.model)
    module.model.register_forward_pre_hook(
        lambda model, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    examples = examples_of([9, 3, 40, 9, 12, 6, 2, 30, 17, 9, 25])
    score(module, examples, tokens_a_batch=41)
    assert max(sizes) <= 41
    assert len(sizes) < len(examples)
    if enabled:
        assert sum(sizes) == sum(len(example.tokens) - 1 for example in examples)


def test_scoring_leaves_mode_and_gradients_alone(tmp_path):
    """GPT-2 drops a tenth in training."""
    save(family("gpt2"), tmp_path / "gpt2")
    module = made(Preference, tmp_path / "gpt2").train()
    found = module.scores(owned(pack, EXAMPLES))
    assert module.model.training and not found.requires_grad
    assert torch.equal(found, module.scores(owned(pack, EXAMPLES)))
    assert logprobs(module.model, EXAMPLES, 1000) == pytest.approx(found.tolist(), rel=1e-5)
    assert module.model.training


def test_nothing_to_score_gives_no_scores(folder):
    assert score(made(Preference, folder), [], tokens_a_batch=100) == []


# Steps


@pytest.mark.parametrize("kind", [Preference, OutcomeReward])
def test_ranks_share_a_step(folder, kind):
    """DDP takes the mean of the ranks' gradients, and Lightning that of what is logged."""
    reference = own_logprobs(family("llama").model).detach() + torch.arange(6) ** 2
    module = made(kind, folder)
    whole = {**pairs(reference), **judged(RIGHT)}
    sizes = {name: whole[name] / 2 for name in ("share", "tokens")}
    expected, logged = step(module, whole)
    parts = []
    for mine in ([0, 2, 3, 5], [1, 4]):  # two pairs and one
        batch = owned(pack, [EXAMPLES[index] for index in mine])
        batch |= {"reference": reference[mine], "right": torch.tensor(RIGHT)[mine]}
        parts.append(step(module, {**batch, **sizes}))
    assert sum(loss.item() for loss, _ in parts) / 2 == pytest.approx(expected.item(), rel=1e-5)
    for name, value in logged.items():
        assert sum(said[name] for _, said in parts) / 2 == pytest.approx(value, rel=1e-4)


def test_only_what_is_trained_gets_an_optimizer(folder):
    for kind in (Preference, OutcomeReward):
        for lora in (None, Lora(rank=4)):
            module = made(kind, folder, lora)
            module._trainer = SimpleNamespace(num_training_batches=8)  # type: ignore[assignment]
            (optimizer,), _ = module.configure_optimizers()
            given = [weights for group in optimizer.param_groups for weights in group["params"]]
            assert {*map(id, given)} == {*map(id, trained(module).values())}


def test_the_base_of_a_verifier_is_loaded_anew_to_the_bit(folder):
    module = made(Preference, folder)
    assert fingerprint(module.base().model) == fingerprint(family("llama").model)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Preference, {"beta": 0.0}, r"verifier\.module\.beta=0\.0: expected more than 0"),
        (Preference, {"score": "likelyhood"}, r"score=likelyhood: did you mean 'likelihood'"),
        (
            OutcomeReward,
            {"lm_weight": -1.0},
            r"verifier\.module\.lm_weight=-1\.0: expected at least 0",
        ),
    ],
)
def test_settings_out_of_range_are_refused(folder, kind, settings, message):
    with pytest.raises(UserError, match=message):
        made(kind, folder, **settings)
