"""The reference engine: transformers' generate, with our choice of the next token.

Prompts are padded on the left, and a batch runs on until its last row has ended. It serves any
causal language model of transformers, and the paged engine is tested against it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from star_exp.sampling.base import Request, Sample
from star_exp.sampling.rows import Row, Writer


class Reference:
    """Draws the samples of one list of requests; see Engine. cache_gib: not regarded."""

    def __init__(self, writer: Writer, batch_size: int, cache_gib: float | None):
        self.writer, self.policy, self.batch_size = writer, writer.policy, batch_size

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        """(index of the request, its sample), in batches of prompts of like length."""
        rows = [Row(i, request.seed, request.prompt) for i, request in enumerate(requests)]
        for row in rows:
            self.writer.check(row.prompt)
        window = 4 * self.batch_size  # not all, so that the first requests are among the first
        queue: deque[Row] = deque()
        for start in range(0, len(rows), window):
            queue += sorted(rows[start : start + window], key=lambda row: len(row.prompt))
        while queue:
            batch = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
            with torch.no_grad():
                self._generate(batch)
            for row in batch:
                if row.sample is not None:
                    yield row.index, row.sample
            # those that a text was forced into, or that had to wait, go on, and read all again
            queue.extendleft(row for row in batch if row.sample is None)

    def _generate(self, rows: list[Row]) -> None:
        model = self.policy.model
        texts = [(*row.prompt, *row.text) for row in rows]
        tokens, mask = left_padded(texts, self.policy.pad_token, model.device)
        forced = [len(row.text) for row in rows]
        running = [True] * len(rows)

        def choose(_: Tensor, logits: Tensor) -> Tensor:
            live = [number for number, runs in enumerate(running) if runs]
            self.writer.advance([rows[number] for number in live], logits[live])
            chosen = [
                row.text[length] if runs else self.policy.pad_token
                for row, length, runs in zip(rows, forced, running, strict=True)
            ]
            for number in live:
                forced[number] += 1
                row = rows[number]
                running[number] = row.sample is None and len(row.text) == forced[number]
            alone = torch.full_like(logits, float("-inf"))
            return alone.scatter_(1, torch.tensor(chosen, device=logits.device)[:, None], 0.0)

        def ended(*_: Any) -> Tensor:
            return ~torch.tensor(running, device=model.device)

        # rows that have ended go on being padded, and there must be positions for that
        longest = max(len(text) for text in texts)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(self.writer.max_new_tokens, self.writer.positions - longest),
            pad_token_id=self.policy.pad_token,
        )
        recommended = model.generation_config
        model.generation_config = GenerationConfig()  # its rules would come before ours
        try:
            model.generate(  # type: ignore[operator]
                tokens,
                attention_mask=mask,
                generation_config=config,
                logits_processor=[choose],
                stopping_criteria=[ended],
            )
        finally:
            model.generation_config = recommended


def left_padded(
    texts: Sequence[tuple[int, ...]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (B, T): texts end in the last column, so that each goes on from there."""
    width = max(len(text) for text in texts)
    tokens = torch.full((len(texts), width), pad)
    mask = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, width - len(text) :] = torch.tensor(text)
        mask[row, width - len(text) :] = 1
    return tokens.to(device), mask.to(device)
