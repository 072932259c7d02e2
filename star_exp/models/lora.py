"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W + alpha/rank * B A, where B and A are
trained and W is not. They are PEFT's, put into the model, whose class stays what it is.

Sampling uses merged weights, so that every engine finds plain linear layers.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.errors import UserError

NAME = "default"  # PEFT's for the only adapter of a model


@dataclass(frozen=True)
class Lora:
    """
    rank: 0: no adapters. alpha: W changes by alpha/rank * B A. dropout: of A's inputs, in training.
    targets: ends of the names of layers; "all-linear": all but the output; None: PEFT's choice for
        the family, mostly queries and values.
    seed: of A at the start; B is 0. The run's seed changes nothing of M_0.
    """

    rank: int
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] | Literal["all-linear"] | None = "all-linear"
    seed: int = 0


def add_adapters(model: PreTrainedModel, lora: Lora) -> None:
    """Puts fresh adapters into a model on the CPU; they alone are trained from now on.

    Whatever the state of torch's random numbers, they are the same, and the state stays. UserError
    where the model has no such layers.
    """
    from peft import LoraConfig

    targets = lora.targets if isinstance(lora.targets, str | None) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT says int, and divides
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")  # GPT-2's; PEFT sets it right
        torch.default_generator.manual_seed(lora.seed)
        try:
            model.add_adapter(config, NAME)
        except ValueError as error:
            raise UserError(
                f"model.lora.targets={lora.targets}: {type(model).__name__} can't be adapted so "
                f"({error}); model.lora.targets=all-linear is for any model"
            ) from error
    for weights in model.parameters():
        if weights.requires_grad:  # in bfloat16 small steps would be rounded away
            weights.data = weights.data.to(torch.promote_types(weights.dtype, torch.float32))


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """While it lasts, adapted layers compute with one weight, W + alpha/rank * B A.

    Afterwards each has its own W again, the very tensor: nothing is subtracted, nothing drifts.
    A model without adapters stays as it is. Not to be trained, nor merged again, meanwhile.
    """
    kept: list[tuple[nn.Module, nn.Parameter]] = []
    layers = _adapted(model)
    try:
        for layer in layers:
            base = layer.get_base_layer()
            kept.append((base, base.weight))
            with torch.no_grad():
                weight = base.weight + layer.get_delta_weight(NAME)
            base.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
            layer.merged_adapters.append(NAME)  # so its forward is that of the base layer
        yield
    finally:
        for base, weight in kept:
            base.weight = weight
        for layer in layers:
            layer.merged_adapters.clear()


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model inside of `merged`, under the names that it has without adapters."""
    return {
        name.replace(".base_layer.", "."): weights
        for name, weights in model.state_dict().items()
        if not _is_adapter(name)
    }


def num_adapter_weights(model: nn.Module) -> int:
    return sum(weights.numel() for name, weights in model.named_parameters() if _is_adapter(name))


def _adapted(model: nn.Module) -> list:
    """The layers that hold an adapter: PEFT's LoraLayer, found without importing it."""
    return [layer for layer in model.modules() if hasattr(layer, "lora_A")]


def _is_adapter(name: str) -> bool:
    return re.search(r"\.lora_\w+\.", name) is not None
