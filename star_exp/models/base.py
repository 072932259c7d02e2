"""What a source of a base model is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from star_exp.sampling.base import Policy
from star_exp.tasks.base import Task

Progress = Callable[[int, int], None]  # (steps done, of how many)


class BaseModel(ABC):
    """M_0: the weights that every iteration of STaR starts from."""

    @abstractmethod
    def prepare(self, task: Task, cache: Path, progress: Progress) -> Path:
        """A folder in Hugging Face format, made or fetched where it is not there yet."""

    @abstractmethod
    def description(self, task: Task) -> dict[str, Any]:
        """What the base model was given beforehand, for results.json: nothing may be hidden."""


def load(folder: Path, dtype: str = "float32") -> Policy:
    """The model and tokenizer of a folder in Hugging Face format; safetensors only."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    model.train()  # it arrives in eval mode, in which Lightning would keep it
    return Policy(model, AutoTokenizer.from_pretrained(folder))
