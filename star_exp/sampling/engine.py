"""The default engine: rows enter and leave a running batch, and share what their texts begin with.

    while there are rows:
        admit     rows from the queue, as far as the batch and the cache have room
        read      what rows have not read yet: prompts, forced texts, the token of the last turn
        advance   each row by its next token
        leave     rows that have ended

A row is its tokens; the cache can always be made again from them. So a row that the cache has no
more room for goes back to the queue, and reads its own text again later; and when memory runs out,
the whole cache is dropped and made again with half of its size.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice

import numpy as np
import psutil
import torch
from torch import Tensor

from star_exp.errors import UserError
from star_exp.sampling.attention import PREFIX, QUESTION, ROW, SharedCache
from star_exp.sampling.base import Request, Sample
from star_exp.sampling.pages import Pages
from star_exp.sampling.rows import Row, Writer
from star_exp.sampling.serving import known_prefix, note_prefix, serving

log = logging.getLogger("star_exp")

PAGE = 64  # tokens
SHARED = 16  # tokens that a beginning must have to be worth a level of its own
TOKENS = 2048  # read in one call of the model
SCORES = 2**26  # of attention in one call, which limits the tokens too
GIB = 2**30


@dataclass(eq=False)
class Question:
    """What the rows of a prompt share behind the prefix: nothing, where there is one row."""

    shared: tuple[int, ...]


@dataclass(eq=False)
class QuestionRow(Row):
    """A row whose text begins with what its question leaves of the prompt: at least one token, so
    that each row computes the logits of its own first token."""

    question: Question = field(kw_only=True)


class Engine:
    """Draws the samples of one list of requests.

    batch_size: most rows at a time. cache_gib: most memory for keys and values; None: half of the
    free memory, 80% of a GPU's. The samples depend on neither.
    """

    def __init__(self, writer: Writer, batch_size: int, cache_gib: float | None):
        self.writer, self.model = writer, writer.policy.model
        self.serving = serving(self.model)
        self.batch_size = batch_size
        self.budget = free_memory(self.model.device) if cache_gib is None else cache_gib * GIB
        self.rows: list[QuestionRow] = []  # in the order of their texts in the cache
        self.questions: list[Question] = []  # likewise
        self.queue: deque[QuestionRow] = deque()  # more are made as it empties
        self.ended: list[QuestionRow] = []
        self.cache: SharedCache | None = None
        self.lack = ""  # what was said when memory ran out

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        """(index of the request, its sample), as they end. UserError where a prompt is too long for
        the model, or a single row for the cache."""
        self.prefix = common_prefix([request.prompt for request in requests])
        coming = self._rows(requests)
        while True:
            self.queue.extend(islice(coming, max(0, self.batch_size - len(self.queue))))
            if not self.queue and not self.rows:
                return
            lack = None
            try:
                with torch.no_grad(), self.serving.ready(self.model):
                    self._turn()
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not out_of_memory(error):
                    raise
                lack = str(error)  # not the error, which holds all that the turn held
            if lack is not None:
                self._halve(lack)
            for row in self.ended:
                assert row.sample is not None
                yield row.index, row.sample
            self.ended = []

    def _rows(self, requests: Sequence[Request]) -> Iterator[QuestionRow]:
        """Those of one prompt together, in the order of the first of them."""
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for index, request in enumerate(requests):
            by_prompt.setdefault(request.prompt, []).append(index)
        for prompt in by_prompt:
            self.writer.check(prompt)
        for prompt, indices in by_prompt.items():
            body = prompt[len(self.prefix) :]
            cut = len(body) - 1 if len(indices) > 1 and len(body) > SHARED else 0
            question, rest = Question(body[:cut]), body[cut:]
            for index in indices:
                seed = requests[index].seed
                yield QuestionRow(index, seed, prompt, list(rest), question=question)

    def _turn(self) -> None:
        """Rows enter; each row gets its next token; those that have ended leave."""
        if self.cache is None:  # `or` won't do: a Cache is false
            self.cache = self._new_cache()
        cache = self.cache
        self._admit(cache)
        self._fit(cache)
        lengths = cache.levels[ROW].lengths
        unread = [len(row.text) - int(n) for row, n in zip(self.rows, lengths, strict=True)]
        long = sorted((n for n, count in enumerate(unread) if count > 1), key=lambda n: -unread[n])
        short = [number for number, count in enumerate(unread) if count == 1]
        for numbers in (long, short):
            texts = {number: self.rows[number].text for number in numbers}
            for read, logits in self._read(cache, ROW, texts):
                self.writer.advance([self.rows[number] for number in read], logits)
        self._leave(cache)

    def _read(
        self, cache: SharedCache, level: int, texts: Mapping[int, Sequence[int]]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Reads what the cache lacks of these texts, in calls of a bearable size. After each call:
        the texts of which all is read now, and the logits behind them, (len, V)."""
        lengths = cache.levels[level].lengths
        unread = {number: len(text) - int(lengths[number]) for number, text in texts.items()}
        for portion in portions(unread, self._bearable(cache)):
            numbers, counts = (np.array(column) for column in zip(*portion, strict=True))
            starts = lengths[numbers]
            ends = starts + counts
            tokens = [texts[n][i:j] for n, i, j in zip(numbers, starts, ends, strict=True)]
            last = np.cumsum(counts) - 1
            whole = [len(texts[n]) == j for n, j in zip(numbers, ends, strict=True)]
            needed = cache.levels[level].needed(numbers, counts)
            most = self._most(cache, level, needed)
            logits = self.serving.call(
                self.model, cache, level, numbers, tokens, last[whole].tolist(), most
            )
            yield numbers[whole].tolist(), logits

    def _bearable(self, cache: SharedCache) -> int:
        """Tokens in a call, so that neither they nor the attention scores take much memory."""
        context = sum(int(level.lengths.max(initial=0)) for level in cache.levels)
        context += max((len(row.text) for row in self.rows), default=0)
        if not self.serving.registered:  # each token meets all pages
            context += PAGE * self._used(cache)
        heads = self.model.config.get_text_config().num_attention_heads
        return min(TOKENS, max(1, SCORES // (heads * (context + PAGE))))

    # entering

    def _new_cache(self) -> SharedCache:
        known = known_prefix(self.writer.policy, self.prefix) if self.prefix else None
        pages = known or Pages(self.serving.layout, max(1, len(self.prefix)))
        cache = SharedCache(self.serving.layout, PAGE, pages, self.serving.registered)
        if self.prefix and known is None:
            pages.open(0)
            for _ in self._read(cache, PREFIX, {0: self.prefix}):
                pass
            note_prefix(self.writer.policy, self.prefix, pages)
        return cache

    def _admit(self, cache: SharedCache) -> None:
        """Rows of the queue. Few free places wait for more of them: reading together is cheaper."""
        free = self.batch_size - len(self.rows)
        if self.rows and free < self.batch_size // 8:
            return
        numbers = {question: number for number, question in enumerate(self.questions)}
        unread: dict[int, tuple[int, ...]] = {}
        room = self._pages - self._used(cache) - len(self.rows)  # each may soon need one more
        while self.queue and free > 0:
            question, text = self.queue[0].question, self.queue[0].text
            new = bool(question.shared) and question not in numbers
            needed = pages_of(len(text)) + 1 + new * pages_of(len(question.shared))
            if self.rows and needed > room:
                break
            if new:
                numbers[question] = cache.open_question()
                unread[numbers[question]] = question.shared
                self.questions.append(question)
            self.rows.append(self.queue.popleft())
            start = len(self.prefix) + len(question.shared)
            cache.open_row(numbers.get(question, -1), start)
            room, free = room - needed, free - 1
        for _ in self._read(cache, QUESTION, unread):
            pass

    def _leave(self, cache: SharedCache) -> None:
        ended = [row for row in self.rows if row.sample is not None]
        self._keep(cache, [row.sample is None for row in self.rows])
        self.ended += ended  # last: memory may run out before, and then _halve does all this

    def _keep(self, cache: SharedCache, kept: list[bool]) -> None:
        if all(kept):
            return
        questions = cache.keep(np.array(kept))
        self.rows = list(compress(self.rows, kept))
        self.questions = list(compress(self.questions, questions))

    # memory

    @property
    def _pages(self) -> int:
        """Pages of questions and rows that the budget allows."""
        held = self.serving.layout.bytes_a_token
        return int(self.budget / held - len(self.prefix)) // PAGE

    def _used(self, cache: SharedCache) -> int:
        return len(cache.levels[QUESTION].owner) + len(cache.levels[ROW].owner)

    def _most(self, cache: SharedCache, level: int, needed: int) -> int:
        """Pages that a level may hold memory for, so that all stay within the budget."""
        if level == PREFIX:
            return 1
        other = cache.levels[QUESTION + ROW - level]
        if needed + other.capacity > self._pages:
            other.shrink()
        return self._pages - other.capacity

    def _fit(self, cache: SharedCache) -> None:
        """Sends the newest rows back to the queue until what is to be read has room."""
        while self.rows:
            needed = sum(pages_of(len(row.text)) for row in self.rows)
            if needed + len(cache.levels[QUESTION].owner) <= self._pages:
                return
            if len(self.rows) == 1:
                raise UserError(self._too_small(needed + len(cache.levels[QUESTION].owner)))
            newest = self.rows[-1]
            self._keep(cache, [True] * (len(self.rows) - 1) + [False])
            self.queue.appendleft(newest)  # last, as in _leave

    def _too_small(self, pages: int) -> str:
        said = (
            f"the cache of keys and values has room for {self.budget / GIB:.3g} GiB, and a single "
            f"sample needs {self._bytes(pages) / GIB:.3g} GiB. Raise sampling.cache_gib, or lower "
            "sampling.max_new_tokens"
        )
        return f"{said}. Before, memory ran out: {self.lack}" if self.lack else said

    def _bytes(self, pages: int) -> int:
        """Of the prefix and so many pages of questions and rows."""
        return (pages * PAGE + len(self.prefix)) * self.serving.layout.bytes_a_token

    def _halve(self, lack: str) -> None:
        """Drops the cache; all rows go back to the queue, and half of them may be in it."""
        count = len(self.rows)
        if count <= 1:
            raise UserError(
                f"out of memory {'with a single row' if count else 'while reading the prefix'}: "
                f"{lack}. Take a smaller model, or lower sampling.max_new_tokens"
            )
        pages = sum(pages_of(len(row.text)) for row in self.rows)
        pages += sum(pages_of(len(question.shared)) for question in self.questions)
        self.ended += [row for row in self.rows if row.sample is not None]
        self.queue.extendleft(row for row in reversed(self.rows) if row.sample is None)
        self.rows, self.questions, self.cache, self.lack = [], [], None, lack
        self.budget = min(self.budget, self._bytes(pages)) / 2
        self.batch_size = count // 2
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory while sampling %d rows: going on with at most %d, and a cache of %.3g "
            "GiB (sampling.batch_size, sampling.cache_gib)",
            count,
            self.batch_size,
            self.budget / GIB,
        )


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with, short of the last token of any; () where it isn't worth it."""
    if not prompts:
        return ()
    first, last = min(prompts), max(prompts)
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    same = min(same, min(len(prompt) for prompt in prompts) - 1)
    return first[:same] if same >= SHARED else ()


def portions(unread: Mapping[int, int], most: int) -> Iterator[list[tuple[int, int]]]:
    """Lists of (text, how many of its tokens) with at most `most` tokens, which may cut a text."""
    portion, room = [], most
    for number, count in unread.items():
        while count > 0:
            taken = min(count, room)
            portion.append((number, taken))
            count, room = count - taken, room - taken
            if room == 0:
                yield portion
                portion, room = [], most
    if portion:
        yield portion


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE)


def free_memory(device: torch.device) -> float:
    """Bytes: half of the free memory, or 80% of a GPU's."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return 0.8 * (torch.cuda.mem_get_info(device)[0] + unused)
    return 0.5 * psutil.virtual_memory().available


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
