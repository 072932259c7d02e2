"""Keys and values of many texts, in pages of equal size, for all layers of a model."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """What a model caches for a token: heads and sizes of keys and values, layer by layer."""

    layers: tuple[tuple[int, int, int], ...]  # (key-value heads, size of a key, of a value)
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_a_token(self) -> int:
        return sum(h * (k + v) for h, k, v in self.layers) * self.dtype.itemsize


class Pages:
    """Texts are numbered from 0 without gaps, and so are pages: what is in use is one slice.

    size: tokens in a page. starts, lengths: of each text: the position of its first token, and how
    many of its tokens lie here. owner, place: of each page: its text, and which of its pages it is.
    """

    def __init__(self, layout: Layout, size: int):
        self.layout, self.size = layout, size
        self.starts, self.lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.owner, self.place = np.zeros(0, np.int64), np.zeros(0, np.int64)
        where = {"dtype": layout.dtype, "device": layout.device}
        self.keys = [torch.empty(0, heads, size, key, **where) for heads, key, _ in layout.layers]
        self.values = [torch.empty(0, heads, size, val, **where) for heads, _, val in layout.layers]

    @property
    def capacity(self) -> int:
        """Pages that memory is held for."""
        return len(self.keys[0])

    def open(self, start: int) -> int:
        """A new, empty text; its number."""
        self.starts = np.append(self.starts, start)
        self.lengths = np.append(self.lengths, 0)
        return len(self.starts) - 1

    def needed(self, texts: Ints, counts: Ints) -> int:
        """Pages in use once `counts` tokens have been added to these texts."""
        return len(self.owner) + int(self._missing(texts, counts).sum())

    def extend(self, texts: Ints, counts: Ints, most: int) -> tuple[Ints, Ints]:
        """(page, place in it) for each of `counts` new tokens of each of `texts`, text by text.

        most: pages that there is memory for; room is made for more than are needed now, but not
        for more than this.
        """
        missing = self._missing(texts, counts)
        have = np.bincount(self.owner, minlength=len(self.starts))[texts]
        used = len(self.owner)
        self.owner = np.concatenate([self.owner, np.repeat(texts, missing)])
        self.place = np.concatenate([self.place, ramp(missing) + np.repeat(have, missing)])
        if len(self.owner) > self.capacity:
            self._reserve(max(len(self.owner), min(most, used + used // 2)))
        table = self.table(np.arange(len(self.owner)))
        places = ramp(counts) + np.repeat(self.lengths[texts], counts)
        self.lengths[texts] += counts
        return table[np.repeat(texts, counts), places // self.size], places % self.size

    def table(self, pages: Ints) -> Ints:
        """(texts, most pages of one) -> index into `pages`, -1 where a text has fewer."""
        owner, place = self.owner[pages], self.place[pages]
        table = np.full((len(self.starts), int(place.max(initial=-1)) + 1), -1)
        table[owner, place] = np.arange(len(pages))
        return table

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drops the other texts; those kept are numbered anew, in their order.

        Pages move from the end into the gaps.
        """
        staying = kept[self.owner]
        used = int(staying.sum())
        gaps = np.flatnonzero(~staying[:used])
        movers = used + np.flatnonzero(staying[used:])
        if len(gaps):
            to, source = (torch.from_numpy(x).to(self.layout.device) for x in (gaps, movers))
            for tensor in (*self.keys, *self.values):
                tensor[to] = tensor[source]
            self.owner[gaps], self.place[gaps] = self.owner[movers], self.place[movers]
        number = np.cumsum(kept) - 1
        self.owner, self.place = number[self.owner[:used]], self.place[:used]
        self.starts, self.lengths = self.starts[kept], self.lengths[kept]

    def shrink(self) -> None:
        """Holds memory for the pages in use alone."""
        self._reserve(len(self.owner))

    def write(self, layer: int, slots: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """keys, values: (T, heads, width) into the slots that `extend` gave for the T tokens."""
        page, place = slots
        self.keys[layer][page, :, place] = keys
        self.values[layer][page, :, place] = values

    def _missing(self, texts: Ints, counts: Ints) -> Ints:
        have = np.bincount(self.owner, minlength=len(self.starts))[texts]
        return -(-(self.lengths[texts] + counts) // self.size) - have

    def _reserve(self, capacity: int) -> None:
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                # zeros, since what was never written is read too, and masked: it must be finite
                tensors[layer] = old.new_zeros(capacity, *old.shape[1:])
                tensors[layer][: len(old)] = old[:capacity]


def ramp(counts: Ints) -> Ints:
    """[2, 3] -> [0, 1, 0, 1, 2]"""
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(int(counts.sum())) - first
