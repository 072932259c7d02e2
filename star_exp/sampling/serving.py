"""What the paged engine must know of a model, asked from the model itself; and its calls."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.errors import UserError
from star_exp.sampling.attention import CACHE, NAME, PREFIX, QUESTION, ROW, LineCache, SharedCache
from star_exp.sampling.base import Policy
from star_exp.sampling.pages import Ints, Layout, Pages


@dataclass(frozen=True)
class Serving:
    """How a model is called. registered: its attention comes from transformers' registry; else it
    is shown all pages in a line, with a mask. selects: it can compute the logits of some tokens.
    layers: those computed in another, faster way.
    """

    layout: Layout
    registered: bool
    selects: bool
    layers: tuple[nn.Linear, ...]

    @contextmanager
    def ready(self, model: PreTrainedModel) -> Iterator[None]:
        """While it lasts, the model attends with `shared_attention`, and its linear layers are
        computed by oneDNN where that is faster."""
        before = model.config._attn_implementation or "eager"
        layers = [layer for layer in self.layers if "forward" not in vars(layer)]
        if self.registered:
            model.set_attn_implementation(NAME)
        for layer in layers:
            vars(layer)["forward"] = partial(_onednn_linear, layer)
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["forward"]
            if self.registered:
                model.set_attn_implementation(before)

    def call(
        self,
        model: PreTrainedModel,
        cache: SharedCache,
        level: int,
        texts: Ints,
        tokens: Sequence[Sequence[int]],
        wanted: Sequence[int] = (),
        most: int = 0,
    ) -> Tensor:
        """Reads `tokens` of each of some texts of a level; logits (W, V) behind the tokens
        `wanted`, which are counted over all texts. most: see Pages.extend."""
        counts = np.array([len(part) for part in tokens])
        line = [token for part in tokens for token in part]
        cache.call = call = cache.plan(level, texts, counts, line, most)
        chosen = torch.tensor(wanted or [0], device=call.tokens.device)
        options: dict[str, Any] = {"logits_to_keep": chosen} if self.selects else {}
        if not self.registered:
            options["attention_mask"] = call.mask(self.layout.dtype)
        token = CACHE.set(cache)
        try:
            logits = model(
                input_ids=call.tokens,
                position_ids=call.positions,
                past_key_values=cache,
                use_cache=True,
                **options,
            ).logits[0]
        finally:
            CACHE.reset(token)
        return logits if self.selects else logits[chosen]


def _fast_layers(model: PreTrainedModel) -> tuple[nn.Linear, ...]:
    """The linear layers that oneDNN computes faster than what torch takes for float32 on a CPU,
    MKL: in half of the time for 4 rows, with a fifth less for 64, 6% less for 2,048."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return ()
    return tuple(
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32
    )


def _onednn_linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    product = torch.ops.mkldnn._linear_pointwise.default
    return product(inputs, layer.weight, layer.bias, "none", [], "")


_KNOWN: WeakKeyDictionary[PreTrainedModel, Serving] = WeakKeyDictionary()


def serving(model: PreTrainedModel) -> Serving:
    """How the paged engine serves a model, found out once. UserError where it can't."""
    known = _KNOWN.get(model)
    if known is None or (known.layout.dtype, known.layout.device) != (model.dtype, model.device):
        try:
            with torch.no_grad():
                known = _found(model)
                _compare(model, known)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a model may fail in any way on what it isn't made for
            raise UserError(
                f"{type(model).__name__} can't be sampled with the paged engine: {error}. "
                "sampling.engine=reference samples it with transformers' generate"
            ) from error
        _KNOWN[model] = known
    return known


class _Seen(LineCache):
    """Notes what a model wants to be kept of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[int, tuple[int, int, int]] = {}

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        heads, width = key_states.shape[1], key_states.shape[3]
        self.shapes[layer_idx] = (heads, width, value_states.shape[3])
        return key_states, value_states


def _found(model: PreTrainedModel) -> Serving:
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or {}
    for each in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        if each.get("rope_type") in ("dynamic", "longrope"):
            raise ValueError(
                f"its rotary positions ({each['rope_type']}) depend on the longest row of a batch"
            )
    known = {"full_attention", "sliding_attention"}
    if unknown := set(getattr(config, "layer_types", None) or ()) - known:
        raise ValueError(f"it has layers of type {', '.join(sorted(unknown))}")
    seen = _Seen()
    model(input_ids=torch.tensor([[1, 2]], device=model.device), past_key_values=seen)
    if sorted(seen.shapes) != list(range(len(seen.shapes))) or not seen.shapes:
        raise ValueError(f"it caches keys and values of the layers {sorted(seen.shapes)} only")
    layers = tuple(seen.shapes[layer] for layer in sorted(seen.shapes))
    registered = model._can_set_attn_implementation() and model._supports_attention_backend
    if not registered and getattr(config, "sliding_window", None):
        raise ValueError("its attention is its own, and has a window")
    return Serving(
        layout=Layout(layers, model.dtype, model.device),
        registered=registered,
        selects="logits_to_keep" in inspect.signature(model.forward).parameters,
        layers=_fast_layers(model),
    )


def _compare(model: PreTrainedModel, serving: Serving) -> None:
    """ValueError unless texts that share their beginnings have the logits that the model's own
    attention computes for each of them alone."""
    texts = [[5, 9, 7, 3, 8, 6, 4, 2, 1], [5, 9, 7, 3, 8, 6, 4, 7, 7], [5, 9, 7, 2, 2, 1, 8, 9, 6]]
    texts = [[token % model.config.get_text_config().vocab_size for token in t] for t in texts]
    prefix = Pages(serving.layout, 3)
    prefix.open(0)
    cache = SharedCache(serving.layout, 2, prefix, serving.registered)
    with serving.ready(model):
        serving.call(model, cache, PREFIX, np.array([0]), [texts[0][:3]])
        question = cache.open_question()
        serving.call(model, cache, QUESTION, np.array([question]), [texts[0][3:6]])
        rows = [cache.open_row(*where) for where in ((question, 6), (question, 6), (-1, 3))]
        parts = [texts[0][6:8], texts[1][6:8], texts[2][3:8]]
        serving.call(model, cache, ROW, np.array(rows), parts)
        ours = serving.call(model, cache, ROW, np.array(rows), [t[8:] for t in texts], [0, 1, 2])
    for text, logits in zip(texts, ours, strict=True):
        tokens = torch.tensor([text], device=model.device)
        theirs = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
        error = (logits.float() - theirs).abs().max() / theirs.abs().max()
        if not error < (1e-3 if serving.layout.dtype in (torch.float32, torch.float64) else 0.1):
            raise ValueError(
                f"with shared beginnings its logits are others (relative difference {error:.1e})"
            )


_PREFIXES: WeakKeyDictionary[PreTrainedModel, tuple[object, Pages]] = WeakKeyDictionary()


def known_prefix(policy: Policy, prefix: tuple[int, ...]) -> Pages | None:
    """The keys and values of a prefix, where they were noted last for these weights of the model.
    Only the caller knows whether they are the same: `policy.weights` says it."""
    key, pages = _PREFIXES.get(policy.model, (None, None))
    return pages if policy.weights is not None and key == (policy.weights, prefix) else None


def note_prefix(policy: Policy, prefix: tuple[int, ...], pages: Pages) -> None:
    """The keys and values of a prefix that has been read; they are kept as long as the model is."""
    if policy.weights is not None:
        _PREFIXES[policy.model] = ((policy.weights, prefix), pages)
