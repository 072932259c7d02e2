"""Cross-entropy on the trained tokens, used by fine-tuning and by the making of the base model."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.data.encode import IGNORED


def summed_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Sum of -log p over the trained tokens of a batch, in nats; float32 whatever the logits are.

    Padding stands on the right, where a causal model's earlier tokens can't see it, so no mask is
    given to the model: its attention then takes the fast path for purely causal masks.
    """
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    logits = model(input_ids=batch["input_ids"][:, :-1], use_cache=False).logits[trained]
    return nn.functional.cross_entropy(logits.float(), labels[trained], reduction="sum")
