"""Cross-entropy on the trained tokens, used by fine-tuning and by the making of the base model."""

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.data.encode import IGNORED
from star_exp.modules import packing


def summed_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Sum of -log p over the trained tokens of a batch, padded or packed, in nats.

    In float32 where the model computes in less. The same for any batch of the same examples.
    """
    if "lengths" in batch and not packing.enabled(model):
        parts = packing.like_lengths(batch)
        return torch.stack([summed_loss(model, part) for part in parts]).sum()
    inputs, labels = packing.inputs(batch), batch["labels"]
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = said = (labels != IGNORED).any(0).nonzero().squeeze(1)
        labels = labels[:, said]  # prompts need no logits
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(
        logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
