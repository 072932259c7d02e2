"""Losses on the trained tokens: cross-entropy, and the divergence from the base model; and what a
verifier needs: the log-probability of each example, and the states that its tokens are said from.

All are in nats, in float32 where the model computes in less, and the same for any batch of the same
examples, padded or packed.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.data.encode import IGNORED, Example
from star_exp.modules import packing

Batch = dict[str, Tensor]
Frozen = Callable[[], AbstractContextManager[PreTrainedModel]]  # M_0 in eval mode, while it lasts


def summed_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Sum of -log p over the trained tokens of a batch."""
    parts = [_nll(*_logprobs(model, part)) for part in _parts(model, batch)]
    return torch.stack(parts).sum()


def summed_loss_and_kl(model: PreTrainedModel, base: Frozen, batch: Batch) -> Tensor:
    """(2,): the same sum, and that of KL(p_base || p_model) over the same tokens.

    The divergence is over the whole vocabulary, no estimate from the token that follows.
    """
    sums = []
    for part in _parts(model, batch):
        with torch.no_grad(), base() as frozen:
            before, _ = _logprobs(frozen, part)
        now, labels = _logprobs(model, part)
        sums.append(torch.stack([_nll(now, labels), _kl(before, now, labels)]))
    return torch.stack(sums).sum(0)


def owned(collate: Callable[[Sequence[Example]], Batch], examples: Sequence[Example]) -> Batch:
    """The batch that `collate` (`pack`, `pad`) makes, which knows whose each of its tokens is.

    batch["owner"]: of the shape of "labels", at each place the example's index in `examples`; of no
    meaning in padding. ValueError where an example has no trained token: it has no likelihood.
    """
    for index, example in enumerate(examples):
        if not any(example.trained[1:]):
            raise ValueError(f"example {index} of {len(examples)} has no trained token to score")
    # collated as examples are, with the index in place of each token: `pack` sorts by length alone
    names = [Example((i,) * len(each.tokens), each.trained) for i, each in enumerate(examples)]
    return {**collate(examples), "owner": collate(names)["input_ids"]}


def num_examples(batch: Batch) -> int:
    """How many examples are in a batch that knows whose its tokens are."""
    return int(batch["owner"][batch["labels"] != IGNORED].max()) + 1


def logprob_of_each(model: PreTrainedModel, batch: Batch, examples: int) -> Tensor:
    """(examples,): the sum of log p over the trained tokens of each example of `owned`."""
    sums = []
    for part in _parts(model, batch):
        logprobs, labels = _logprobs(model, part)
        sums.append(sum_of_each(_said(logprobs, labels), _owner(part), examples))
    return torch.stack(sums).sum(0)


def states_and_logprobs(
    model: PreTrainedModel, batch: Batch
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The N trained tokens of a batch of `owned`, part by part: the state (N, H) that each is said
    from, its log p (N,), and whose it is (N,).

    The state is what the output embeddings are given: the last layer's, behind its norm, when all
    before the token was read, and not the token. ValueError for a model without such embeddings.
    """
    output = model.get_output_embeddings()
    if output is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings")
    for part in _parts(model, batch):
        caught: list[Tensor] = []
        hook = output.register_forward_pre_hook(lambda _, args, to=caught: to.append(args[0]))
        try:
            logprobs, labels = _logprobs(model, part)
        finally:
            hook.remove()
        (states,) = caught
        states = states.flatten(0, 1)[labels != IGNORED]
        yield states, _said(logprobs, labels), _owner(part)


def sum_of_each(values: Tensor, owner: Tensor, examples: int) -> Tensor:
    """values, owner (N,) -> the sum of each owner's values, (examples,); no atomics, so the same
    bits each time on a GPU too."""
    mine = owner == torch.arange(examples, device=owner.device)[:, None]
    return torch.where(mine, values, 0.0).sum(1)


def _parts(model: PreTrainedModel, batch: Batch) -> Iterator[Batch]:
    """The batch as the model can read it: a packed row may have to be several padded batches."""
    if "lengths" in batch and not packing.enabled(model):
        yield from packing.like_lengths(batch)
    else:
        yield batch


def _logprobs(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p of every token (N, V) at N places, and what follows there (N,), IGNORED at some."""
    inputs, labels = packing.inputs(batch), batch["labels"]
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = said = (labels != IGNORED).any(0).nonzero().squeeze(1)
        labels = labels[:, said]  # prompts need no logits
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).log_softmax(-1), labels.flatten()


def _said(logprobs: Tensor, labels: Tensor) -> Tensor:
    """log p of the trained tokens alone, in their order."""
    each = nn.functional.nll_loss(logprobs, labels, ignore_index=IGNORED, reduction="none")
    return -each[labels != IGNORED]


def _owner(batch: Batch) -> Tensor:
    """Whose the trained tokens are, in their order: prompts that got no logits change nothing."""
    return batch["owner"][batch["labels"] != IGNORED]


def _nll(logprobs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.nll_loss(logprobs, labels, ignore_index=IGNORED, reduction="sum")


def _kl(before: Tensor, now: Tensor, labels: Tensor) -> Tensor:
    each = nn.functional.kl_div(now, before, reduction="none", log_target=True).sum(-1)
    return each[labels != IGNORED].sum()
