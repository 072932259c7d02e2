"""Losses on the trained tokens: cross-entropy, and the divergence from the base model.

Both are sums in nats, in float32 where the model computes in less, and the same for any batch of
the same examples, padded or packed.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.data.encode import IGNORED
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


def _nll(logprobs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.nll_loss(logprobs, labels, ignore_index=IGNORED, reduction="sum")


def _kl(before: Tensor, now: Tensor, labels: Tensor) -> Tensor:
    each = nn.functional.kl_div(now, before, reduction="none", log_target=True).sum(-1)
    return each[labels != IGNORED].sum()
