"""What a sampler is given and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a text: what the generation config names, and the tokenizer's own."""
        configured = (
            self.model.generation_config.eos_token_id if self.model.generation_config else None
        )
        ends = configured if isinstance(configured, list) else [configured]
        return frozenset(
            int(end) for end in [*ends, self.tokenizer.eos_token_id] if end is not None
        )

    @property
    def pad_token(self) -> int:
        """A token to fill up with; it is masked wherever it stands, so any will do."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else min(self.end_tokens)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)  # a list only for a list of lists
        return text


@dataclass(frozen=True)
class Request:
    """One sample to draw. seed: of this sample alone, in [0, 2**63)."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sample:
    """tokens: with the end-of-text token or the stop string, where it ended by itself.

    logprobs: of each token under the untempered model, in nats.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


class Sampler(Protocol):
    def sample(
        self, policy: Policy, requests: Sequence[Request], stop: Sequence[str]
    ) -> list[Sample]:
        """One sample for each request, in their order. Sample i depends on request i alone."""
        ...


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits that name the weights, to the bit; computed where the weights lie."""
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in tensor.detach().contiguous().view(-1).view(torch.uint8).split(1 << 24):
            bits = part.to(torch.int64)  # in parts, since this is eight times the size
            places = torch.arange(1, len(bits) + 1, device=bits.device)
            digest.update(f" {int(bits.sum())} {int((bits * places).sum())}".encode())
    return digest.hexdigest()
