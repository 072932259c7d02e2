"""Packed rows: the examples of a step one after the other, (1, T), none of them padded.

What a model does to each token by itself needs no change for that. Its attention does: it must not
reach from one example into another. Here is one that doesn't, for transformers' registry of
attention functions, so that the models stay as they are.

It learns the lengths from its mask. transformers hands a mask of four dimensions to every layer as
it is; ours is (1, 1, runs, 2), int64 and on the CPU: how many examples of which length stand beside
each other, [[3, 17], [1, 18]] for 17, 17, 17, 18. Unlike something set around the call, it is there
again when gradient checkpointing computes a layer a second time.

A model that can't read such rows gets them as padded batches of examples of like length, which is
as exact, and slower.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from star_exp.data.encode import IGNORED, Example, pack, pad

log = logging.getLogger("star_exp")

NAME = "star_exp_packed"
PADDING = 0.05  # of the tokens of a padded batch, at most, where a model can't read packed rows
FILLED = {"input_ids": 0, "labels": IGNORED, "owner": 0}  # what padding holds; see loss.owned


def enable(model: PreTrainedModel) -> bool:
    """Lets a model read packed rows, if it can; whether it does.

    The attention set for that stays; for all but packed rows it is sdpa, to the bit.
    """
    if enabled(model):
        return True
    obstacle = _obstacle(model)
    if obstacle is None:
        model.set_attn_implementation(NAME)
        return True
    log.info(
        "%s can't read packed rows (%s); it gets examples of like length, padded by at most %.0f%%",
        *(type(model).__name__, obstacle, 100 * PADDING),
    )
    return False


def enabled(model: PreTrainedModel) -> bool:
    return model.config._attn_implementation == NAME


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model is called with to read a batch: packed, or padded on the right.

    Padding comes after all that a causal model's tokens see, so that no mask is needed for it, and
    attention takes the fast path for purely causal masks.
    """
    if "lengths" not in batch:
        return {"input_ids": batch["input_ids"]}
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "attention_mask": _runs(batch["lengths"].tolist()),
    }


def like_lengths(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The examples of a packed row, (1, T), as padded batches with little padding."""
    lengths = batch["lengths"].tolist()  # ascending
    rows = {name: batch[name][0].split(lengths) for name in FILLED if name in batch}
    start = 0
    for end in range(1, len(lengths) + 1):
        wider = lengths[start : end + 1]
        if end == len(lengths) or sum(wider) < (1 - PADDING) * wider[-1] * len(wider):
            yield {
                name: pad_sequence([*row[start:end]], batch_first=True, padding_value=FILLED[name])
                for name, row in rows.items()
            }
            start = end


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """query (1, H, T, D), key and value (1, H or fewer, T, D) -> (1, T, H, D).

    A run of examples of equal length is a batch without padding, and a view. With another mask than
    a packed row's, or none, the batch is an ordinary one.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    runs = attention_mask[0, 0].tolist()
    sizes = [number * length for number, length in runs]
    parts = zip(*(states[0].split(sizes, dim=1) for states in (query, key, value)), strict=True)
    outputs = []
    for run, part in zip(runs, parts, strict=True):
        q, k, v = (states.unflatten(1, run).transpose(0, 1) for states in part)
        mask = _band(run[1], sliding_window, query.device) if sliding_window else None
        output, _ = sdpa_attention_forward(module, q, k, v, mask, **kwargs)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs)[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for batches that aren't packed


def _runs(lengths: Sequence[int]) -> Tensor:
    """The mask of a packed row whose examples have these lengths, in this order."""
    runs = [(len([*same]), length) for length, same in groupby(lengths)]
    return torch.tensor(runs).view(1, 1, -1, 2)


def _band(length: int, window: int, device: torch.device) -> Tensor | None:
    """(1, 1, length, length): which of the last `window` tokens each sees; None: all before it."""
    if length <= window:
        return None
    everything = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    return everything.tril().triu(1 - window)


@torch.no_grad()
def _obstacle(model: PreTrainedModel) -> str | None:
    """Why a model can't read packed rows, None if it can; the model is left as it was.

    It is tried out: two examples in a row must get the logits that each gets by itself, and the
    second the same ones again after another first. What so short a trial can't see, that the masks
    of a model do more than order tokens and bound a window, is known from whether transformers says
    that it works without any (`_supports_flash_attn`).
    """
    implementation, training = model.config._attn_implementation, model.training
    if implementation != "sdpa" or not model._supports_flash_attn:
        return f"its attention, {implementation!r}, has no equivalent here"
    vocabulary = model.config.get_text_config().vocab_size
    tokens = [(place * 7919 + 1) % vocabulary for place in range(18)]
    first, second, other = (
        Example(tuple(part), (True,) * len(part))
        for part in (tokens[:5], tokens[5:13], tokens[13:])
    )

    def logits(batch: dict[str, Tensor]) -> Tensor:
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        return model(**inputs(batch), use_cache=False).logits[0].double()

    model.eval()
    try:
        alone = torch.cat([logits(pad([example], token=0)) for example in (first, second)])
        model.set_attn_implementation(NAME)
        row, changed = logits(pack([first, second])), logits(pack([other, second]))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return f"it takes no such mask: {error}"
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)
    if not (row - alone).norm() <= torch.finfo(model.dtype).eps ** 0.5 * alone.norm():
        return "logits in a row are not those of the examples by themselves"
    # whatever the dtype: the same sums are done. Only a mixture of experts adds in another order.
    if not (row - changed)[len(first.tokens) - 1 :].norm() <= 1e-6 * alone.norm():
        return "an example in a row changes the logits of the next"
    return None
