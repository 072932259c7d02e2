"""The divergence from the base model: its value, its gradient, and what it does to training.

What is expected comes from torch.distributions, one example at a time.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.distributions import Categorical, kl_divergence
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from star_exp.data.encode import pack, pad, trained_tokens
from star_exp.errors import UserError
from star_exp.metrics import metric
from star_exp.models.base import save
from star_exp.models.hf import HubModel
from star_exp.models.lora import Lora
from star_exp.modules import packing
from star_exp.modules.finetune import FineTune
from star_exp.modules.loss import summed_loss
from star_exp.sampling.base import fingerprint
from tests.families import family
from tests.test_packing import examples_of

EXAMPLES = examples_of([9, 3, 17, 9, 12])
ROWS = pytest.mark.parametrize("rows", [pack, partial(pad, token=0)], ids=["packed", "padded"])
KINDS = pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8.0)], ids=["all", "lora"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """M_0: a random Llama."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save(family("llama"), folder)
    return folder


def module_of(folder: Path, kl: float, **settings: Any) -> FineTune:
    source = HubModel(name=str(folder), **settings)
    return FineTune(
        partial(source.load, folder),
        learning_rate=1e-2,
        rate=lambda step, steps: 1.0,
        kl_to_base=kl,
    )


def moved(module: FineTune) -> FineTune:
    """The module as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for weights in module.parameters():
            if weights.requires_grad:
                weights.data += 0.05 * torch.randn_like(weights)
    return module


def step(module: FineTune, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """What a training step gives, and what it logs, without a trainer."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore
    module._learning_rate = lambda: 0.0  # type: ignore
    module.on_train_epoch_start()
    share = torch.tensor(float(trained_tokens(EXAMPLES)))
    return module.training_step({**batch, "share": share}, 0), logged


def expected_kl(model: PreTrainedModel, base: PreTrainedModel) -> float:
    """The mean over trained tokens of KL(p_base || p_model), by torch.distributions."""
    found = []
    for example in EXAMPLES:
        tokens = torch.tensor([example.tokens])
        with torch.no_grad():
            now, before = (Categorical(logits=m(tokens).logits[0].double()) for m in (model, base))
        each = kl_divergence(before, now)[:-1]
        found.append(each[torch.tensor(example.trained[1:])])
    return float(torch.cat(found).mean())


def gradient(module: FineTune, loss: torch.Tensor) -> torch.Tensor:
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)])


# Its value


@ROWS
@KINDS
@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
def test_the_divergence_is_that_of_torch_over_the_trained_tokens(folder, rows, lora, enabled):
    module = moved(module_of(folder, 0.5, lora=lora))
    if enabled:
        assert packing.enable(module.model)
    total, logged = step(module, rows(EXAMPLES))
    assert logged["train/kl"] == pytest.approx(
        expected_kl(module.model, family("llama").model), rel=1e-4
    )
    assert logged["train/kl"] > 0.01
    assert total.item() == pytest.approx(logged["train/loss"] + 0.5 * logged["train/kl"], rel=1e-6)


def test_a_model_that_cannot_read_rows_has_the_same_divergence(tmp_path):
    save(family("gptj"), tmp_path / "base")
    module = moved(module_of(tmp_path / "base", 1.0))
    assert not packing.enable(module.model)
    _, logged = step(module, pack(EXAMPLES))
    expected = expected_kl(module.model, family("gptj").model)
    assert logged["train/kl"] == pytest.approx(expected, rel=1e-4)


@KINDS
def test_nothing_is_dropped_of_what_the_base_says(tmp_path, lora):
    """GPT-2 drops a tenth in training."""
    save(family("gpt2"), tmp_path / "base")
    module = moved(module_of(tmp_path / "base", 1.0, lora=lora))
    tokens = torch.arange(2, 40).view(2, 19)
    with torch.no_grad(), module._frozen_base() as frozen:
        assert torch.equal(frozen(tokens).logits, family("gpt2").model(tokens).logits)
    assert module.model.training
    with torch.no_grad():
        assert not torch.equal(module.model(tokens).logits, module.model(tokens).logits)


@ROWS
@KINDS
def test_at_the_base_the_divergence_and_its_gradient_are_zero(folder, rows, lora):
    module = module_of(folder, 1e4, lora=lora)
    total, logged = step(module, rows(EXAMPLES))
    assert logged["train/kl"] == 0
    plain, _ = step(module_of(folder, 0.0, lora=lora), rows(EXAMPLES))
    assert torch.equal(total, plain)
    both = gradient(module, total) / 1e4  # of the divergence, but for a ten-thousandth
    assert (
        both.norm()
        <= 1e-5 + 2e-4 * gradient(module, summed_loss(module.model, rows(EXAMPLES))).norm()
    )


@ROWS
def test_the_gradient_is_that_of_torch(folder, rows):
    """By a second way: the gradient of the cross-entropy with M_0's probabilities as targets."""
    module, plain = (moved(module_of(folder, kl, dtype="float64")) for kl in (1.0, 0.0))
    found = gradient(module, step(module, rows(EXAMPLES))[0])
    found -= gradient(plain, step(plain, rows(EXAMPLES))[0])
    base, sums = family("llama", torch.float64).model, []
    for example in EXAMPLES:
        tokens, trained = torch.tensor([example.tokens]), torch.tensor(example.trained[1:])
        targets = base(tokens).logits[0, :-1].softmax(-1).detach()[trained]
        now = module.model(tokens).logits[0, :-1][trained]
        sums.append(torch.nn.functional.cross_entropy(now, targets, reduction="sum"))
    expected = gradient(module, torch.stack(sums).sum() / trained_tokens(EXAMPLES))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


# The model beside it


def test_the_copy_of_the_base_is_loaded_once_and_is_no_part_of_the_module(folder, monkeypatch):
    module, loads = module_of(folder, 1.0), []
    load = module.base
    module.base = lambda: loads.append(1) or load()
    names, count = {*module.state_dict()}, len([*module.parameters()])
    for _ in range(3):
        step(module, pack(EXAMPLES))[0].backward()
    assert len(loads) == 1
    assert {*module.state_dict()} == names and len([*module.parameters()]) == count
    copy = module._copy
    assert not copy.training
    assert all(weights.grad is None and not weights.requires_grad for weights in copy.parameters())
    assert fingerprint(copy) == fingerprint(family("llama").model)
    assert module.model.training


def test_adapters_take_no_copy_and_are_trained_on(folder):
    module = moved(module_of(folder, 1.0, lora=Lora(rank=4)))
    module.base = lambda: pytest.fail("a second copy was loaded")
    trained = {name for name, weights in module.named_parameters() if weights.requires_grad}
    before = fingerprint(module.model)
    step(module, pack(EXAMPLES))[0].backward()
    assert {n for n, weights in module.named_parameters() if weights.requires_grad} == trained
    assert {n for n, weights in module.named_parameters() if weights.grad is not None} == trained
    assert fingerprint(module.model) == before and module.model.training


def test_gradient_checkpointing_changes_no_gradient(folder):
    found = []
    for checkpointing in (False, True):
        settings = {"lora": Lora(rank=4), "gradient_checkpointing": checkpointing}
        module = moved(module_of(folder, 1.0, **settings))
        found.append(gradient(module, step(module, pack(EXAMPLES))[0]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


# Training


class _Same(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**pack(EXAMPLES), "share": torch.tensor(float(trained_tokens(EXAMPLES)))}


def fit(module: FineTune) -> FineTune:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(_Same(), batch_size=None))
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@KINDS
def test_a_large_weight_keeps_the_model_at_the_base(folder, lora):
    base = family("llama").model
    free, kept = (fit(module_of(folder, kl, lora=lora)) for kl in (0.0, 1e3))
    went, stayed = (expected_kl(module.model, base) for module in (free, kept))
    assert went > 0.1
    assert stayed < 0.1 * went


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_weight_of_zero_changes_no_bit_of_training(folder):
    """Against a training step that knows of no divergence."""

    class Plain(FineTune):
        def training_step(self, batch, batch_index):
            return summed_loss(self.model, batch) / batch["share"]

    module = module_of(folder, 0.0)
    plain = Plain(module.base, learning_rate=1e-2, rate=module.rate)
    assert fingerprint(fit(module).model) == fingerprint(fit(plain).model)
    assert "_copy" not in vars(module)


def test_only_what_is_trained_gets_an_optimizer(folder):
    for settings in ({"lora": Lora(rank=4)}, {"frozen": ["embeddings"]}):
        module = module_of(folder, 1.0, **settings)
        module._trainer = SimpleNamespace(num_training_batches=8)  # type: ignore[assignment]
        (optimizer,), _ = module.configure_optimizers()
        given = [weights for group in optimizer.param_groups for weights in group["params"]]
        trained = [weights for weights in module.model.parameters() if weights.requires_grad]
        assert {*map(id, given)} == {*map(id, trained)} and len(given) == len(trained)
        assert len(trained) < len([*module.model.parameters()])


def test_it_is_a_registered_metric_and_a_weight_below_zero_is_refused(folder):
    assert metric("train/kl").axis == "trainer/global_step"
    with pytest.raises(UserError, match=r"module\.kl_to_base=-1.*at least 0"):
        module_of(folder, -1)
