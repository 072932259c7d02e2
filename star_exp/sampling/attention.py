"""Attention over texts that share their beginnings, each beginning computed and kept once.

The tokens of a call stand in one line, (1, T), whatever texts they belong to: no padding. What a
token attends to lies on three levels, each with its own `Pages`:

    0  the prefix that all prompts begin with        (a few-shot prompt)
    1  the question that the samples of a problem share
    2  the row's own text: what is left of its prompt, and its completion

Attention over a level is one batched matrix product over its pages; each page meets the tokens of
all texts that it is part of (Part). The results are partial softmaxes, merged by their maxima and
sums (the log-sum-exp merge of online softmax, Milakov and Gimelshein 2018; for a shared prefix,
Hydragen, Juravsky et al. 2024, section 3.1).

Models are used as they are: they call the function registered here in place of their own attention,
and a cache (`SharedCache.update`) that takes a call's keys and values and gives them back alone.
A model that doesn't go through the registry gets all pages in a line, and a mask.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from star_exp.sampling.pages import Ints, Layout, Pages, ramp

NAME = "star_exp_shared"
PREFIX, QUESTION, ROW = range(3)
NOT = -1e30  # added to the score of what a token may not see; finite, so that no NaN can arise


@dataclass
class Part:
    """What the T tokens of a call see of one level: N pages of L tokens, M queries to each.

    queries: (N, M) token of the call; where a text has fewer than M, any. None: page 0, all tokens.
    entries: (T, R) which of the N * M results belong to a token; absent: (T, R) where none does.
    first, last: (N,) position of the page's first token, and behind its text's last.
    positions: (T,) of the tokens.
    """

    pages: slice | Tensor
    first: Tensor
    last: Tensor
    positions: Tensor
    text: Ints  # (T,) the text that a token reads, -1 for none
    owner: Ints  # (N,) the text that a page is part of
    used: int  # places of a page that any of the pages uses
    own: bool  # whether tokens of this call lie in these pages, so that some come too late
    whole: bool = False  # whether the call's tokens are those of one page, from its first on
    queries: Tensor | None = None
    entries: Tensor | None = None
    absent: Tensor | None = None
    biases: dict[int | None, Tensor | None] = field(default_factory=dict)

    @property
    def pages_a_token(self) -> int:
        return 1 if self.entries is None else self.entries.shape[1]

    def bias(self, window: int | None) -> Tensor | None:
        """(N, M or 1, L) to be added to the scores; None if all tokens see all of the pages."""
        if window not in self.biases:
            self.biases[window] = self._bias(window)
        return self.biases[window]

    def _bias(self, window: int | None) -> Tensor | None:
        if self.queries is None and not self.own and window is None:
            return None
        keys = self.first[:, None] + torch.arange(self.used, device=self.first.device)  # (N, L)
        visible = (keys < self.last[:, None])[:, None]
        if self.own or window is not None:
            at = self.positions[None] if self.queries is None else self.positions[self.queries]
            visible = visible & (keys[:, None] <= at[:, :, None])
            if window is not None:
                visible &= keys[:, None] > at[:, :, None] - window
        return torch.where(visible, 0.0, NOT)

    def mask(self) -> Tensor:
        """(T, N * L): the same, for all pages in a line."""
        keys = self.first[:, None] + torch.arange(self.used, device=self.first.device)
        at = self.positions[:, None, None]
        visible = (keys <= at) & (keys < self.last[:, None])
        visible &= _tensor(self.text[:, None] == self.owner, at.device)[:, :, None]
        return torch.where(visible, 0.0, NOT).flatten(1)

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        softcap: float | None,
        window: int | None,
        alone: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Partial softmax of each token's scores: sums weighted with values (T, R, heads, G, D),
        maxima and sums of exponentials (T, R, heads, G); float32 or finer.

        query: (T, key-value heads, G, D), scaled; keys, values: (capacity, heads, L, D). alone:
        a token sees a single page and no other part; then the sums are normalised, and no maxima.
        """
        keys, values = (each[self.pages][:, :, : self.used] for each in (keys, values))
        count, heads, _, width = keys.shape
        group = query.shape[2]
        if self.queries is None:  # (T, heads, G, D) -> (1, heads, T * G, D)
            asked = query.transpose(0, 1).reshape(1, heads, -1, width)
        elif self.queries.shape[1] == 1:
            asked = query[self.queries[:, 0]]  # (N, heads, G, D)
        else:
            asked = query[self.queries].transpose(1, 2).reshape(count, heads, -1, width)
        bias = self.bias(window)
        # flash attention asks for this, and knows no other mask than the causal one
        flash = width == values.shape[3] and softcap is None and query.device.type == "cpu"
        if flash and self.whole and (window is None or window >= self.used):
            wide = (each.repeat_interleave(group, 1) for each in (keys, values))
            out, _ = _flash(query.flatten(1, 2).transpose(0, 1)[None], *wide, causal=True)
            return out.transpose(1, 2).reshape(*query.shape[:3], -1)[:, None], out, out
        if alone:
            out = _weighted(_scores(asked, keys, softcap, bias, group).softmax(-1), values)
            maxima = sums = None
        elif flash and bias is None:
            out, maxima = _flash(asked, keys, values)
            sums = torch.ones_like(maxima)
        else:
            scores = _scores(asked, keys, softcap, bias, group)
            maxima = scores.amax(-1, keepdim=True)
            weights = scores.sub_(maxima).exp_()
            out, maxima, sums = _weighted(weights, values), maxima.squeeze(-1), weights.sum(-1)

        def by_token(result: Tensor) -> Tensor:  # N * heads * M * G -> (T, R, heads, G, ...)
            tail = result.shape[-1:] if result is out else ()
            result = result.view(count, heads, -1, group, *tail).transpose(1, 2)
            if self.entries is None:
                return result[0][:, None]
            return result.reshape(-1, heads, group, *tail)[self.entries]

        if maxima is None or sums is None:
            return by_token(out), out, out
        maxima = by_token(maxima)
        if self.absent is not None:
            maxima = maxima.masked_fill(self.absent[:, :, None, None], NOT)
        return by_token(out), maxima, by_token(sums)


def _scores(
    query: Tensor, keys: Tensor, softcap: float | None, bias: Tensor | None, group: int
) -> Tensor:
    """query (N, heads, M * G, D), keys (N, heads, L, D) -> (N * heads, M * G, L), not in half
    precision."""
    count, heads, size, width = keys.shape
    lines = keys.reshape(count * heads, size, width).transpose(1, 2)
    scores = torch.bmm(query.flatten(0, 1), lines)
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores.view(count, heads, -1, group, size).add_(bias[:, None, :, None])
    return scores


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """weights (N * heads, M * G, L), values (N, heads, L, D) -> (N * heads, M * G, D)."""
    return torch.bmm(weights.to(values.dtype), values.reshape(-1, *values.shape[2:]))


def _flash(
    query: Tensor, keys: Tensor, values: Tensor, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """The same on a CPU, where all is seen, or all before a token, in one pass: normalised, with
    the log of the sums. The public scaled_dot_product_attention doesn't give the latter."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, is_causal=causal, scale=1.0
    )


@dataclass
class Call:
    """One call of the model: which tokens, where their keys go, and what they attend to."""

    tokens: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    level: int
    slots: tuple[Tensor, Tensor]
    parts: list[tuple[int, Part]]  # (level, what is seen of it)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(1, 1, T, S) additive: for models that are shown all pages in a line."""
        return torch.cat([part.mask() for _, part in self.parts], -1).to(dtype)[None, None]


class LineCache(Cache):
    """A cache for calls that give the position of each token: it tells a model nothing of them."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class SharedCache(LineCache):
    """The key-value cache of a model for texts on three levels.

    prefix: level 0: text 0, a single page, or no text. registered: whether the model calls
    `shared_attention`. question_of: of each row: the text of level 1 that it goes on from, or -1.
    """

    def __init__(self, layout: Layout, page: int, prefix: Pages, registered: bool = True):
        super().__init__()
        self.layout, self.registered = layout, registered
        self.levels = [prefix, Pages(layout, page), Pages(layout, page)]
        self.question_of = np.zeros(0, np.int64)
        self.call: Call | None = None

    def open_question(self) -> int:
        """A new, empty text behind the prefix; its number."""
        return self.levels[QUESTION].open(int(self.levels[PREFIX].lengths.sum()))

    def open_row(self, question: int, start: int) -> int:
        """A new, empty text at position `start`, behind a question or (-1) behind the prefix."""
        self.question_of = np.append(self.question_of, question)
        return self.levels[ROW].open(start)

    def keep(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Drops the other rows, and the questions that no row is left of. Which questions stay."""
        self.levels[ROW].keep(rows)
        asked = self.question_of[rows]
        questions = np.bincount(asked[asked >= 0], minlength=len(self.levels[QUESTION].starts)) > 0
        self.levels[QUESTION].keep(questions)
        number = np.append(np.cumsum(questions) - 1, -1)
        self.question_of = number[asked]
        return questions

    def plan(self, level: int, texts: Ints, counts: Ints, tokens: Sequence[int], most: int) -> Call:
        """Makes room for new tokens of texts of one level, `counts` of each, text by text.

        most: pages that the level may take; see Pages.extend.
        """
        pages, device = self.levels[level], self.layout.device
        positions = (pages.starts + pages.lengths)[np.repeat(texts, counts)] + ramp(counts)
        slots = pages.extend(texts, counts, most)
        texts_T = np.repeat(texts, counts)
        reads = {level: texts_T}
        if level == ROW:
            reads[QUESTION] = self.question_of[texts_T]
        if level != PREFIX:
            reads[PREFIX] = np.zeros_like(texts_T)
        here = _tensor(positions, device)
        parts = [
            (depth, part)
            for depth in sorted(reads)
            if (part := self._part(depth, reads[depth], here, own=depth == level))
        ]
        return Call(
            tokens=torch.tensor([tokens], device=device),
            positions=here[None],
            level=level,
            slots=(_tensor(slots[0], device), _tensor(slots[1], device)),
            parts=parts,
        )

    def _part(self, level: int, text_T: Ints, positions: Tensor, own: bool) -> Part | None:
        pages, device = self.levels[level], self.layout.device
        reading = text_T >= 0
        if not reading.any() or not len(pages.owner):
            return None
        counts = np.bincount(text_T[reading], minlength=len(pages.starts))
        chosen = np.flatnonzero(counts[pages.owner])
        everything = 2 * len(chosen) > len(pages.owner)  # cheaper than to copy some of them
        if everything:
            chosen = np.arange(len(pages.owner))
        owner = pages.owner[chosen]
        first = pages.starts[owner] + pages.place[chosen] * pages.size
        last = (pages.starts + pages.lengths)[owner]
        part = Part(
            pages=slice(0, len(chosen)) if everything else _tensor(chosen, device),
            first=_tensor(first, device),
            last=_tensor(last, device),
            positions=positions,
            text=text_T,
            owner=owner,
            used=int(np.minimum(last - first, pages.size).max()),
            own=own,
        )
        if level == PREFIX:
            part.whole = own and len(text_T) == part.used
            return part
        # the tokens of each text, in a table with a row for each text
        order = np.argsort(text_T, kind="stable")[len(text_T) - int(reading.sum()) :]
        rank = np.zeros_like(text_T)
        rank[order] = ramp(counts)
        table = np.zeros((len(counts), int(counts.max())), np.int64)
        table[text_T[order], rank[order]] = order
        page_of = pages.table(chosen)[text_T]  # (T, R)
        page_of[~reading] = -1
        part.queries = _tensor(table[owner], device)
        part.entries = _tensor(np.maximum(page_of, 0) * table.shape[1] + rank[:, None], device)
        if (page_of < 0).any():
            part.absent = _tensor(page_of < 0, device)
        return part

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes (1, heads, T, D) of a layer. Gives them back; or, to a model that attends with its
        own code, those of all pages in a line."""
        assert self.call is not None
        keys, values = (states[0].transpose(0, 1) for states in (key_states, value_states))
        self.levels[self.call.level].write(layer_idx, self.call.slots, keys, values)
        if self.registered:
            return key_states, value_states

        def line(tensors: list[list[Tensor]]) -> Tensor:
            assert self.call is not None
            pages = [
                tensors[level][layer_idx][part.pages][:, :, : part.used]
                for level, part in self.call.parts
            ]
            return torch.cat([p.transpose(0, 1).flatten(1, 2) for p in pages], 1)[None]

        return line([level.keys for level in self.levels]), line(
            [level.values for level in self.levels]
        )

    def attend(
        self, query: Tensor, layer: int, scale: float, softcap: float | None, window: int | None
    ) -> Tensor:
        """query (1, heads, T, D) -> (1, T, heads, D)."""
        assert self.call is not None
        _, heads, count, width = query.shape
        groups = self.levels[self.call.level].keys[layer].shape[1]
        asked = (query[0] * scale).transpose(0, 1).reshape(count, groups, heads // groups, width)
        alone = len(self.call.parts) == 1 and self.call.parts[0][1].pages_a_token == 1
        results = [
            part.attend(
                asked, self.levels[level].keys[layer], self.levels[level].values[layer],
                softcap, window, alone,
            )
            for level, part in self.call.parts
        ]  # fmt: skip
        if alone:
            return results[0][0].reshape(1, count, heads, -1).to(query.dtype)
        out, maxima, sums = (torch.cat(each, 1) for each in zip(*results, strict=True))
        weights = (maxima - maxima.amax(1, keepdim=True)).exp_()
        total = (sums * weights).sum(1)
        out = (out * weights[..., None]).sum(1) / total[..., None]
        return out.reshape(1, count, heads, -1).to(query.dtype)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


CACHE: ContextVar[SharedCache] = ContextVar("CACHE")
"""Of the call of the model that is running: it reaches attention in no other way for all models."""


def shared_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """In the registry of transformers; a call's keys and values are in the cache already."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return CACHE.get().attend(query, module.layer_idx, scale, softcap, sliding_window), None  # type: ignore[arg-type]


ALL_ATTENTION_FUNCTIONS.register(NAME, shared_attention)
