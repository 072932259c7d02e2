"""What a source of a base model is, and what it gives: M_0, ready to be trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from star_exp.errors import UserError, did_you_mean
from star_exp.models.lora import Lora, add_adapters, merged, merged_weights
from star_exp.sampling.base import Policy
from star_exp.tasks.base import Task

Progress = Callable[[int, int], None]  # (steps done, of how many)


@dataclass(frozen=True, kw_only=True)
class BaseModel(ABC):
    """M_0: the weights that every iteration of STaR starts from, and which of them are trained.

    dtype: of weights and computation; adapters are never of less than float32.
    attention: None is transformers' choice. Packed rows (modules/packing.py) need sdpa.
    gradient_checkpointing: activations are computed a second time, not kept: less memory, slower.
    frozen: parts that are not trained: "embeddings", or a module's name: "model.layers.0".
    lora: adapters that are trained in place of the weights; None, or of rank 0: the weights.
    """

    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    gradient_checkpointing: bool = False
    frozen: Sequence[str] = ()
    lora: Lora | None = None

    @abstractmethod
    def prepare(self, task: Task, cache: Path, progress: Progress) -> Path:
        """A folder in Hugging Face format, made or fetched where it is not there yet."""

    @abstractmethod
    def description(self, task: Task) -> dict[str, Any]:
        """What the base model was given beforehand, for results.json: nothing may be hidden."""

    def load(self, folder: Path) -> Policy:
        """M_0 from its folder, the same to the bit each time; what is trained requires gradients.

        UserError where the folder can't be read, or has no such part to freeze or to adapt.
        """
        policy = load(folder, self.dtype, self.attention)
        for part in self.frozen:
            _part(policy.model, part).requires_grad_(False)
        if self.lora is not None and self.lora.rank:
            add_adapters(policy.model, self.lora)
        if self.gradient_checkpointing:  # not reentrant
            policy.model.activation_checkpointing_enable()
        return policy


def load(folder: Path, dtype: str = "float32", attention: str | None = None) -> Policy:
    """The model and tokenizer of a folder in Hugging Face format; safetensors, and no code of it.

    UserError where transformers can't read it.
    """
    options: dict[str, Any] = {"use_safetensors": True, "attn_implementation": attention}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{folder} can't be loaded as a causal language model in Hugging Face format with "
            f"safetensors, without code of its own: {error}"
        ) from error
    model.train()  # it arrives in eval mode, in which Lightning would keep it
    return Policy(model, tokenizer)


def save(policy: Policy, folder: Path) -> None:
    """Model and tokenizer in Hugging Face format; adapters are merged into the weights."""
    with merged(policy.model):
        save_weights(policy.model, merged_weights(policy.model), folder)
    policy.tokenizer.save_pretrained(folder)


def save_weights(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Config and `weights` of a model as one that was never quantized, nor given adapters."""
    config = deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):  # it takes no memory
        plain = type(model)(config)
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=weights)


def _part(model: PreTrainedModel, name: str) -> torch.nn.Module:
    """Input embeddings, which may be the output's weights too, or a module by its name."""
    parts = {"embeddings": model.get_input_embeddings(), **dict(model.named_modules())}
    if name not in parts:
        raise UserError(
            f"model.frozen={name}: {type(model).__name__} has no such part; "
            f"{did_you_mean(name, parts)}"
        )
    return parts[name]
