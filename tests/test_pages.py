"""Pages against lists of vectors; attention over shared texts against the softmax of each alone."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from star_exp.sampling.attention import PREFIX, QUESTION, ROW, SharedCache
from star_exp.sampling.pages import Layout, Pages, ramp

SIZES = [1, 3, 4, 64]
WIDTHS = ((2, 4, 3), (1, 2, 5))  # of a layer: key-value heads, size of a key, of a value


Layers = tuple[tuple[int, int, int], ...]


def layout_of(layers: Layers, dtype: torch.dtype = torch.float64) -> Layout:
    return Layout(layers, dtype, torch.device("cpu"))


def ints(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int64)


# pages


@dataclass
class Text:
    """What the pages ought to hold of a text: a number for each of its tokens."""

    start: int
    written: list[int] = field(default_factory=list)


def vectors(numbers: list[int], heads: int, width: int, salt: int) -> Tensor:
    """(T, heads, width), others for each number, head and place."""
    table = torch.arange(heads * width, dtype=torch.float64).view(heads, width) / 1000
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None] + table + salt * 1e6


def add(pages: Pages, texts: list[Text], counts: dict[int, int], most: int, first: int) -> int:
    """Writes new tokens, numbered from `first`, to pages and model; the number behind the last."""
    chosen, many = ints(list(counts)), ints(list(counts.values()))
    slots = pages.extend(chosen, many, most)
    numbers = list(range(first, first + int(many.sum())))
    places = tuple(torch.from_numpy(slot) for slot in slots)
    for layer, (heads, key, value) in enumerate(pages.layout.layers):
        pages.write(
            layer,
            (places[0], places[1]),
            vectors(numbers, heads, key, salt=layer),
            vectors(numbers, heads, value, salt=-1 - layer),
        )
    rest = iter(numbers)
    for text, count in counts.items():
        texts[text].written += [next(rest) for _ in range(count)]
    return first + len(numbers)


def check(pages: Pages, texts: list[Text]) -> None:
    """The pages hold the texts, and nothing else."""
    assert pages.starts.tolist() == [text.start for text in texts]
    assert pages.lengths.tolist() == [len(text.written) for text in texts]
    size = pages.size
    in_use = sorted(zip(pages.owner.tolist(), pages.place.tolist(), strict=True))
    assert in_use == [
        (number, place)
        for number, text in enumerate(texts)
        for place in range(-(-len(text.written) // size))
    ]
    assert len(in_use) <= pages.capacity
    table = pages.table(np.arange(len(pages.owner)))
    assert table.shape[0] == len(texts)
    for layer, (heads, key, value) in enumerate(pages.layout.layers):
        assert pages.keys[layer].shape == (pages.capacity, heads, size, key)
        assert pages.values[layer].shape == (pages.capacity, heads, size, value)
        assert pages.keys[layer].isfinite().all()
        assert pages.values[layer].isfinite().all()
        for number, text in enumerate(texts):
            wanted = (
                (pages.keys[layer], vectors(text.written, heads, key, layer)),
                (pages.values[layer], vectors(text.written, heads, value, -1 - layer)),
            )
            for tensor, expected in wanted:
                if not text.written:
                    assert (table[number] == -1).all()
                    continue
                held = [page for page in table[number].tolist() if page >= 0]
                found = torch.cat([tensor[page].transpose(0, 1) for page in held])
                assert torch.equal(found[: len(text.written)], expected)
                places = {p: int(pages.place[p]) for p in np.flatnonzero(pages.owner == number)}
                for page, place in places.items():
                    part = expected[place * size : (place + 1) * size]
                    assert torch.equal(tensor[page].transpose(0, 1)[: len(part)], part)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_pages_hold_what_was_written_whatever_came_and_went(size, seed):
    rng = random.Random(seed)
    pages, texts, number = Pages(layout_of(WIDTHS), size), [], 0
    for _ in range(40):
        what = rng.random()
        capacity = pages.capacity
        if what < 0.3 or not texts:
            start = rng.randrange(9)
            assert pages.open(start) == len(texts)
            texts.append(Text(start))
            assert pages.capacity == capacity
        elif what < 0.8:
            chosen = rng.sample(range(len(texts)), rng.randint(1, len(texts)))
            counts = {text: rng.choice([0, 1, 1, 2, 3, size, 2 * size + 1]) for text in chosen}
            arguments = ints(list(counts)), ints(list(counts.values()))
            needed = pages.needed(*arguments)
            most = rng.choice([0, 5, 20, 10_000])
            number = add(pages, texts, counts, most, number)
            assert len(pages.owner) == needed
            assert capacity <= pages.capacity <= max(capacity, needed, most)
        else:
            kept = [rng.random() < 0.6 for _ in texts]
            pages.keep(np.array(kept, dtype=bool))
            texts = [text for text, stays in zip(texts, kept, strict=True) if stays]
            assert pages.capacity == capacity  # memory is used again
        check(pages, texts)


def test_where_new_tokens_go_by_hand():
    pages = Pages(layout_of(((1, 1, 1),)), 3)
    for start in (7, 0):
        pages.open(start)
    slots = pages.extend(ints([1, 0]), ints([4, 2]), most=10)
    assert [slot.tolist() for slot in slots] == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 0, 0, 1]]
    assert pages.owner.tolist() == [1, 1, 0]
    assert pages.place.tolist() == [0, 1, 0]
    assert pages.needed(ints([0, 1]), ints([1, 2])) == 3
    assert pages.needed(ints([0, 1]), ints([2, 3])) == 5
    slots = pages.extend(ints([0]), ints([2]), most=10)
    assert [slot.tolist() for slot in slots] == [[2, 3], [2, 0]]
    assert pages.table(np.arange(4)).tolist() == [[2, 3], [0, 1]]
    assert pages.table(ints([1, 3])).tolist() == [[-1, 1], [-1, 0]]
    pages.keep(np.array([True, False]))
    assert pages.table(np.arange(2)).tolist() in ([[0, 1]], [[1, 0]])
    assert pages.starts.tolist() == [7]
    assert pages.capacity == 4


def test_keeping_all_or_none_of_the_texts():
    pages, texts = Pages(layout_of(WIDTHS), 3), []
    for start in range(4):
        pages.open(start)
        texts.append(Text(start))
    add(pages, texts, {0: 5, 2: 3, 3: 1}, most=99, first=0)
    pages.keep(np.ones(4, bool))
    check(pages, texts)
    pages.keep(np.zeros(4, bool))
    check(pages, [])
    assert pages.open(6) == 0
    texts = [Text(6)]
    add(pages, texts, {0: 7}, most=99, first=100)
    check(pages, texts)


def test_memory_grows_by_half_but_not_beyond_what_there_is():
    pages = Pages(layout_of(((1, 1, 1),)), 2)
    pages.open(0)
    held = []
    for count, most in [(20, 99), (2, 99), (8, 99), (2, 99), (10, 23), (4, 0)]:
        pages.extend(ints([0]), ints([count]), most)
        held.append((len(pages.owner), pages.capacity))
    assert held == [(10, 10), (11, 15), (15, 15), (16, 22), (21, 22), (23, 23)]


def test_bytes_of_a_token_and_ramps():
    assert layout_of(WIDTHS, torch.bfloat16).bytes_a_token == 2 * (2 * (4 + 3) + 1 * (2 + 5))
    assert ramp(ints([2, 3])).tolist() == [0, 1, 0, 1, 2]
    assert ramp(ints([0, 2, 0, 1])).tolist() == [0, 1, 0]
    assert ramp(ints([])).tolist() == []


# attention


@dataclass
class Written:
    """Keys and values of a text's own tokens, layer by layer, and what it goes on from."""

    before: "Written | None"
    layers: list[tuple[Tensor, Tensor]]  # (T, heads, width)

    def whole(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self.layers[layer]
        if self.before is None:
            return keys, values
        earlier = self.before.whole(layer)
        return torch.cat([earlier[0], keys]), torch.cat([earlier[1], values])

    def __len__(self) -> int:
        return len(self.layers[0][0]) + (0 if self.before is None else len(self.before))


def dense(
    query: Tensor, keys: Tensor, values: Tensor, softcap: float | None, window: int | None
) -> Tensor:
    """Softmax attention of the last of T tokens, in plain sums: query (H, D), keys and values
    (T, heads, width) -> (H, value width)."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, dim=1) for x in (keys, values))
    scores = torch.einsum("hd,thd->ht", query.double(), keys)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if window is not None:
        scores, values = scores[:, -window:], values[-window:]
    return torch.einsum("ht,thd->hd", scores.softmax(-1), values)


class Tree:
    """A cache under test, and the texts that it ought to hold."""

    def __init__(self, layout: Layout, page: int, prefix: int, heads: int, rng: random.Random):
        self.layout, self.heads, self.rng = layout, heads, rng
        self.numbers = torch.Generator().manual_seed(rng.randrange(2**31))
        pages = Pages(layout, prefix)
        pages.open(0)
        self.cache = SharedCache(layout, page, pages)
        self.texts: list[list[Written]] = [[self._empty(None)], [], []]

    def _empty(self, before: Written | None) -> Written:
        none = [
            (torch.zeros(0, h, k, dtype=d), torch.zeros(0, h, v, dtype=d))
            for d in [self.layout.dtype]
            for h, k, v in self.layout.layers
        ]
        return Written(before, none)

    def open_question(self) -> int:
        number = self.cache.open_question()
        assert number == len(self.texts[QUESTION])
        self.texts[QUESTION].append(self._empty(self.texts[PREFIX][0]))
        return number

    def open_row(self, question: int) -> int:
        before = self.texts[QUESTION][question] if question >= 0 else self.texts[PREFIX][0]
        number = self.cache.open_row(question, len(before))
        assert number == len(self.texts[ROW])
        self.texts[ROW].append(self._empty(before))
        return number

    def keep(self, kept: list[bool]) -> None:
        questions = self.cache.keep(np.array(kept, dtype=bool))
        texts = [text for text, stays in zip(self.texts[ROW], kept, strict=True) if stays]
        left = [any(row.before is q for row in texts) for q in self.texts[QUESTION]]
        assert questions.tolist() == left
        self.texts[QUESTION] = [
            text for text, stays in zip(self.texts[QUESTION], left, strict=True) if stays
        ]
        self.texts[ROW] = texts
        for row, question in zip(texts, self.cache.question_of.tolist(), strict=True):
            theirs = self.texts[QUESTION][question] if question >= 0 else self.texts[PREFIX][0]
            assert row.before is theirs

    def read(
        self,
        level: int,
        counts: dict[int, int],
        softcap: float | None = None,
        window: int | None = None,
        line: bool = False,
    ) -> float:
        """Reads new tokens of some texts in one call; the largest error of what they attend to."""
        order, many = ints(list(counts)), ints(list(counts.values()))
        total, error = int(many.sum()), 0.0
        call = self.cache.plan(level, order, many, list(range(total)), most=10**6)
        self.cache.call = call
        assert call.tokens.tolist() == [list(range(total))]
        starts = [len(self.texts[level][text]) for text in counts]
        places = [s + i for s, n in zip(starts, many.tolist(), strict=True) for i in range(n)]
        assert call.positions.tolist() == [places]
        for layer, (heads, key, value) in enumerate(self.layout.layers):
            keys, values = self._random(heads, total, key), self._random(heads, total, value)
            query, scale = self._random(self.heads, total, key), key**-0.5
            self.cache.registered = True
            given = self.cache.update(keys, values, layer)
            assert given[0] is keys
            assert given[1] is values
            if line:  # what a model with its own attention is shown
                self.cache.registered = False
                all_keys, all_values = self.cache.update(keys, values, layer)
                found = torch.nn.functional.scaled_dot_product_attention(
                    query, all_keys, all_values, call.mask(query.dtype), enable_gqa=True
                ).transpose(1, 2)
            else:
                found = self.cache.attend(query, layer, scale, softcap, window)
            assert found.shape == (1, total, self.heads, value)
            assert found.dtype == query.dtype
            parts = (states[0].split(many.tolist(), 1) for states in (keys, values))
            for text, new_keys, new_values in zip(counts, *parts, strict=True):
                own = self.texts[level][text].layers
                old_keys, old_values = own[layer]
                own[layer] = (
                    torch.cat([old_keys, new_keys.transpose(0, 1)]),
                    torch.cat([old_values, new_values.transpose(0, 1)]),
                )
            token = 0
            for text, count in counts.items():
                all_keys, all_values = self.texts[level][text].whole(layer)
                for end in range(len(all_keys) - count + 1, len(all_keys) + 1):
                    asked = query[0, :, token] * scale
                    wanted = dense(asked, all_keys[:end], all_values[:end], softcap, window)
                    error = max(error, float((found[0, token] - wanted).abs().max()))
                    token += 1
            assert token == total
        return error

    def _random(self, heads: int, count: int, width: int) -> Tensor:
        """As a model gives them: heads first, in memory behind the tokens."""
        numbers = torch.randn(1, count, heads, width, generator=self.numbers, dtype=torch.float64)
        return (numbers * 2).to(self.layout.dtype).transpose(1, 2)


SHAPES: dict[str, tuple[Layers, int]] = {  # layers, and query heads
    "one head for each": (((2, 4, 4), (2, 4, 4)), 2),
    "grouped": (((2, 4, 4), (1, 8, 8)), 6),
    "values of another width": (((2, 6, 3), (1, 2, 5)), 4),
}


def grow(
    tree: Tree, prefix: int, softcap: float | None, window: int | None, line: bool = False
) -> float:
    """Reads a random tree of texts, rows of which come and go; the largest error."""
    rng, errors = tree.rng, []
    rules = {"softcap": softcap, "window": window, "line": line}

    def read(level: int, counts: dict[int, int]) -> None:
        if counts:
            errors.append(tree.read(level, counts, **rules))

    if prefix:
        some = rng.randint(0, prefix - 1)  # a long one is read in two calls
        for count in (some, prefix - some):
            read(PREFIX, {0: count} if count else {})
    for _ in range(3):
        new = [tree.open_question() for _ in range(rng.randint(0, 2))]
        if len(new) == 2:  # the second is read in two calls, the first beside it
            read(QUESTION, {new[1]: rng.randint(1, 4)})
        read(QUESTION, {question: rng.randint(1, 9) for question in new})
        for question in [*new, *new, -1]:
            for _ in range(rng.randint(question >= 0, 2)):
                tree.open_row(question)
        rows = list(range(len(tree.texts[ROW])))
        unread = [row for row in rows if not len(tree.texts[ROW][row].layers[0][0])]
        rng.shuffle(unread)
        read(ROW, {row: rng.choice([1, 2, 5, 7]) for row in unread})
        read(ROW, dict.fromkeys(rows, 1))
        for _ in range(2):  # some rows, some of them with several tokens: forced texts
            some = rng.sample(rows, rng.randint(0, len(rows)))
            read(ROW, {row: rng.choice([1, 1, 3]) for row in some})
        kept = [rng.random() < 0.6 for _ in rows]
        tree.keep(kept)
        read(ROW, dict.fromkeys(range(sum(kept)), 1))
    return max(errors)


RULES = pytest.mark.parametrize(
    ("softcap", "window"), [(None, None), (None, 1), (None, 6), (1.5, None), (2.0, 10)]
)


@pytest.mark.parametrize("page", [1, 3, 64])
@pytest.mark.parametrize("shape", ["one head for each", "grouped"])
@RULES
def test_a_token_attends_to_its_own_text_and_to_what_it_goes_on_from(page, shape, softcap, window):
    layers, heads = SHAPES[shape]
    rng = random.Random(f"{page} {shape} {softcap} {window}")
    prefix = rng.choice([1, 2, 11])
    tree = Tree(layout_of(layers), page, prefix, heads, rng)
    assert grow(tree, prefix, softcap, window) < 1e-12


@pytest.mark.parametrize("page", [1, 3, 64])
@RULES
def test_there_may_be_no_prefix(page, softcap, window):
    layers, heads = SHAPES["grouped"]
    tree = Tree(layout_of(layers), page, 0, heads, random.Random(f"{page} {softcap} {window}"))
    assert grow(tree, 0, softcap, window) < 1e-12


@pytest.mark.parametrize(
    ("prefix", "softcap", "window"),
    [
        (0, None, None),
        (11, None, 6),
        (11, 1.5, None),
        (11, None, None),
    ],
)
def test_keys_and_values_may_differ_in_width(prefix, softcap, window):
    layers, heads = SHAPES["values of another width"]
    tree = Tree(layout_of(layers), 3, prefix, heads, random.Random(0))
    assert grow(tree, prefix, softcap, window) < 1e-12


@pytest.mark.parametrize("page", [1, 3, 64])
@pytest.mark.parametrize("prefix", [0, 11])
def test_a_model_with_its_own_attention_is_shown_the_same(page, prefix):
    layers, heads = SHAPES["grouped"]
    tree = Tree(layout_of(layers), page, prefix, heads, random.Random(f"line {prefix} {page}"))
    assert grow(tree, prefix, None, None, line=True) < 1e-12


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)],
)
@pytest.mark.parametrize(("softcap", "window"), [(None, None), (2.0, 6)])
def test_attention_in_other_precisions_is_as_exact_as_they_are(dtype, precision, softcap, window):
    layers, heads = SHAPES["grouped"]
    tree = Tree(layout_of(layers, dtype), 3, 11, heads, random.Random("precision"))
    assert grow(tree, 11, softcap, window) < precision


def test_a_row_attends_to_few_of_many_texts():
    """Where most pages are not asked for, those that are get copied; the rest is left alone."""
    tree = Tree(layout_of(((1, 4, 4),)), 2, 5, 2, random.Random(0))
    assert tree.read(PREFIX, {0: 5}) < 1e-12
    questions = [tree.open_question() for _ in range(6)]
    assert tree.read(QUESTION, dict.fromkeys(questions, 5)) < 1e-12
    rows = [tree.open_row(question) for question in [*questions, *questions, -1]]
    assert tree.read(ROW, {row: 1 + row % 4 for row in rows}) < 1e-12
    for asked in ([3], [12], [9, 3], [12, 0], [4, 10, 12]):
        assert tree.read(ROW, dict.fromkeys(asked, 2)) < 1e-12
        assert tree.cache.call is not None
        parts = dict(tree.cache.call.parts)
        assert isinstance(parts[ROW].pages, Tensor)
        assert (QUESTION in parts) == (asked != [12])


def test_large_scores_do_not_overflow():
    tree = Tree(layout_of(((1, 4, 4),), torch.float32), 2, 4, 1, random.Random(0))
    random_numbers = tree._random
    tree._random = lambda heads, count, width: random_numbers(heads, count, width) * 30
    assert tree.read(PREFIX, {0: 4}) < 1e-2
    question = tree.open_question()
    assert tree.read(QUESTION, {question: 3}) < 1e-2
    row = tree.open_row(question)
    assert tree.read(ROW, {row: 5}) < 1e-2
