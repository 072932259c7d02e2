"""Tokens and loss mask of a training example, and batches of them.

The tokens of a rollout are those that were sampled: nothing is tokenized a second time. The mask
comes from lengths, never from the id of the pad token, which for many models is the end-of-text
token too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from star_exp.records import Rollout
from star_exp.sampling.base import Policy

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Example:
    """tokens: prompt, completion, end of text. trained: which of them the loss is taken on."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


def example(policy: Policy, prompt: Sequence[int], rollout: Rollout) -> Example:
    """The rollout as an example after a prompt, which shows no hint whatever it was sampled with.

    The end-of-text token is appended where the sample ended with a stop string, and is trained on;
    a text that was cut off has no end.
    """
    tokens, trained = [*prompt], [False] * len(prompt)
    for segment in rollout.segments:
        tokens += segment.tokens
        trained += [segment.sampled] * len(segment.tokens)
    if not rollout.truncated and tokens[-1] not in policy.end_tokens:
        tokens.append(end_token(policy))
        trained.append(True)
    return Example(tuple(tokens), tuple(trained))


def text_example(policy: Policy, prompt: str, completion: str) -> Example:
    """A text that no model sampled, as an example: a seed rationale."""
    before, after = (
        (*policy.begin, *policy.encode(prompt)),
        (*policy.encode_on(completion), end_token(policy)),
    )
    return Example((*before, *after), (False,) * len(before) + (True,) * len(after))


def end_token(policy: Policy) -> int:
    """The token that a text ends with. ValueError for a tokenizer without one."""
    end = policy.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no end-of-text token, so a model can't learn to stop")
    return end


def trained_tokens(examples: Sequence[Example]) -> int:
    return sum(sum(example.trained) for example in examples)


def pad(examples: Sequence[Example], token: int) -> dict[str, Tensor]:
    """A padded batch: input_ids and labels, (B, T), filled up on the right with `token`.

    labels: the token that follows each input, IGNORED where the loss is not taken on it.
    """
    pairs = [map(_row, _inputs_and_labels(example)) for example in examples]
    inputs, labels = zip(*pairs, strict=True)
    return {
        "input_ids": pad_sequence([*inputs], batch_first=True, padding_value=token),
        "labels": pad_sequence([*labels], batch_first=True, padding_value=IGNORED),
    }


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A packed batch: the examples in one row, the shortest first; (1, T) each, and lengths (B,).

    labels: as in `pad`; no example's end has the next one's beginning for a label.
    position_ids: begin anew with each example.
    """
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    pairs = [_inputs_and_labels(example) for example in ordered]
    lengths = [len(inputs) for inputs, _ in pairs]
    row = {
        "input_ids": [token for inputs, _ in pairs for token in inputs],
        "labels": [label for _, labels in pairs for label in labels],
        "position_ids": [position for length in lengths for position in range(length)],
    }
    batch = {name: _row(values)[None] for name, values in row.items()}
    return {**batch, "lengths": _row([length for length in lengths if length])}


def _inputs_and_labels(example: Example) -> tuple[list[int], list[int]]:
    """What a model reads, all but the last token, and what it is to say after each."""
    following = zip(example.tokens[1:], example.trained[1:], strict=True)
    labels = [token if trained else IGNORED for token, trained in following]
    return [*example.tokens[:-1]], labels


def _row(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)  # for an empty one torch would choose floats
