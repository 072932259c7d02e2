"""Samples while they are being written: their next tokens, and when they end. For any engine."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from star_exp.errors import UserError
from star_exp.records import Segment
from star_exp.sampling.base import OnStop, Policy, Sample, segments
from star_exp.sampling.choice import Choice
from star_exp.sampling.ends import Ends

LOGITS = 2**26  # chosen from at once


@dataclass(eq=False)
class Row:
    """One sample. text: its tokens; `start` of them belong to the prompt, the rest is completion.

    sampled: of each token of the completion, or forced. logprobs: of those sampled. begin: where in
    `text` the tokens behind the last forced one begin. sample: set when it has ended.
    """

    index: int
    seed: int
    prompt: tuple[int, ...]
    text: list[int] = field(default_factory=list)
    start: int = field(init=False)
    begin: int = field(init=False)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    seen: Tensor | None = None  # (V,) which tokens occurred, for the repetition penalty
    sample: Sample | None = None

    def __post_init__(self) -> None:
        self.start = self.begin = len(self.text)

    @property
    def completion(self) -> list[int]:
        return self.text[self.start :]


@dataclass(frozen=True)
class Writer:
    """Gives rows their next tokens. max_new_tokens: of a completion, forced ones too."""

    policy: Policy
    choice: Choice
    ends: Ends
    on_stop: OnStop | None
    max_new_tokens: int

    @cached_property
    def positions(self) -> int:
        """Tokens that a text may have, as the model's config says."""
        config = self.policy.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or sys.maxsize

    def check(self, prompt: tuple[int, ...]) -> None:
        """UserError where the model has no position behind a prompt, or the prompt is empty."""
        if not prompt:
            raise UserError("a prompt has no tokens: there is nothing to go on from")
        if len(prompt) >= self.positions:
            raise UserError(
                f"a prompt has {len(prompt)} tokens and the model {self.positions} positions, so "
                "that nothing can be written behind it. It begins: "
                f"{self.policy.decode(prompt[:50])!r}"
            )

    def advance(self, rows: Sequence[Row], logits_R_V: Tensor) -> None:
        """The next token of each row, chosen; row.sample, where it is the last."""
        at_once = max(1, LOGITS // logits_R_V.shape[-1])
        for first in range(0, len(rows), at_once):
            some, logits = rows[first : first + at_once], logits_R_V[first : first + at_once]
            chosen, logprobs = self.choice(
                logits,
                torch.tensor([row.seed for row in some], device=logits.device),
                torch.tensor([len(row.sampled) for row in some], device=logits.device),
                self._seen(some, logits),
            )
            for row, token, logprob in zip(some, chosen.tolist(), logprobs.tolist(), strict=True):
                row.text.append(token)
                row.sampled.append(True)
                row.logprobs.append(logprob)
                if token in self.ends.looked_at or len(row.sampled) >= self._room(row):
                    self._end(row, token)

    def _room(self, row: Row) -> int:
        return min(self.max_new_tokens, self.positions - len(row.prompt))

    def _end(self, row: Row, token: int) -> None:
        """Ends a row whose newest token is the last, or forces in what on_stop goes on with."""
        room = self._room(row)
        if token in self.ends.tokens:
            row.sample = self._sample(row)
        elif (overhang := self.ends.overhang(row.text, row.begin)) is not None:
            text = self.on_stop and self.on_stop(row.index, self._text(row))
            forced = self.policy.encode_on(text) if text else ()
            if text is None:
                row.sample = self._sample(row, overhang)
            elif len(row.sampled) + len(forced) >= room:
                row.sample = self._sample(row, truncated=True)
            elif forced:
                row.text += forced
                row.sampled += [False] * len(forced)
                row.begin = len(row.text)
        elif len(row.sampled) >= room:
            row.sample = self._sample(row, truncated=True)

    def _segments(self, row: Row) -> tuple[Segment, ...]:
        return segments(self.policy, row.completion, row.sampled, row.logprobs)

    def _text(self, row: Row) -> str:
        return "".join(segment.text for segment in self._segments(row))

    def _sample(self, row: Row, overhang: int = 0, truncated: bool = False) -> Sample:
        *before, last = self._segments(row)
        last = replace(last, text=last.text[: len(last.text) - overhang])
        return Sample((*before, last), truncated)

    def _seen(self, rows: Sequence[Row], logits_R_V: Tensor) -> Tensor | None:
        if self.choice.repetition_penalty == 1:
            return None
        for row in rows:
            if row.seen is None:
                row.seen = torch.zeros_like(logits_R_V[0], dtype=torch.bool)
                row.seen[list(row.prompt)] = True
            row.seen[row.completion] = True
        return torch.stack([row.seen for row in rows if row.seen is not None])
