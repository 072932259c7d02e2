"""Tokens and loss mask of a training example, and batches of them.

The tokens of a rollout are those that were sampled: nothing is tokenized a second time. The mask
comes from lengths, never from the id of the pad token, which for many models is the end-of-text
token too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from star_exp.records import Rollout
from star_exp.sampling.base import Policy

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Example:
    """tokens: prompt, completion, end of text. trained: which of them the loss is taken on."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


def example(policy: Policy, prompt: str, rollout: Rollout) -> Example:
    """The rollout as an example after `prompt`, which shows no hint whatever it was sampled with.

    The end-of-text token is appended where the sample ended with a stop string, and is trained on.
    """
    prompt_tokens = policy.encode(prompt)
    tokens, trained = [*prompt_tokens], [False] * len(prompt_tokens)
    for segment in rollout.segments:
        tokens += segment.tokens
        trained += [segment.sampled] * len(segment.tokens)
    if tokens[-1] not in policy.end_tokens:
        tokens.append(end_token(policy))
        trained.append(True)
    return Example(tuple(tokens), tuple(trained))


def text_example(policy: Policy, prompt: str, completion: str) -> Example:
    """A text that no model sampled, as an example: a seed rationale."""
    before, after = policy.encode(prompt), (*policy.encode(completion), end_token(policy))
    return Example((*before, *after), (False,) * len(before) + (True,) * len(after))


def end_token(policy: Policy) -> int:
    """The token that a text ends with. ValueError for a tokenizer without one."""
    end = policy.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no end-of-text token, so a model can't learn to stop")
    return end


def trained_tokens(examples: Sequence[Example]) -> int:
    return sum(sum(example.trained) for example in examples)


def collate(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, (B, T), padded on the right to the longest."""
    width = max(len(example.tokens) for example in examples)
    input_ids = torch.full((len(examples), width), pad)
    attention_mask = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED)
    for row, each in enumerate(examples):
        length = len(each.tokens)
        input_ids[row, :length] = tokens = torch.tensor(each.tokens)
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.tensor(each.trained), tokens, IGNORED)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
