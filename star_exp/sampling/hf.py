"""Sampling from any causal language model of transformers, in batches that finished rows leave.

Prompts are padded on the left and read at once; then one token a step for all rows. When a quarter
of the rows have ended, their part of the key-value cache is dropped. Which token a row takes
depends on its own logits and on its own seed (`noise.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from star_exp.sampling.base import Policy, Request, Sample
from star_exp.sampling.noise import gumbel


@dataclass(frozen=True)
class HFSampler:
    """
    temperature: 0 is greedy. top_p: nucleus of this mass (Holtzman et al. 2020), 1 is off.
    batch_size: rows decoded together; the samples do not depend on it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(
                f"sampling.temperature={self.temperature}: expected 0 (greedy) or more"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p={self.top_p}: expected a share in (0, 1]")
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError("sampling.max_new_tokens and sampling.batch_size must be at least 1")

    @torch.no_grad()  # inference_mode would leave inference tensors in the model's cached buffers
    def sample(
        self, policy: Policy, requests: Sequence[Request], stop: Sequence[str]
    ) -> list[Sample]:
        # rows of like length together: less padding
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
        ends = _Ends(policy, stop)
        samples: dict[int, Sample] = {}
        training = policy.model.training
        policy.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                drawn = self._batch(policy, [requests[index] for index in batch], ends)
                samples |= zip(batch, drawn, strict=True)
        finally:
            policy.model.train(training)
        return [samples[index] for index in range(len(requests))]

    def _batch(self, policy: Policy, requests: list[Request], ends: "_Ends") -> list[Sample]:
        device = policy.model.device
        tokens, mask = _left_padded([r.prompt for r in requests], policy.pad_token, device)
        seeds = torch.tensor([request.seed for request in requests], device=device)
        rows = torch.arange(len(requests), device=device)  # whose row this is in `written`
        written = torch.zeros(len(requests), self.max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(written.shape, device=device)
        lengths = torch.zeros(len(requests), dtype=torch.long, device=device)
        alive = torch.ones(len(requests), dtype=torch.bool, device=device)
        cache = DynamicCache(config=policy.model.config)
        for position in range(self.max_new_tokens):
            logits = policy.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen, chosen_logprobs = self._choose(logits.float(), seeds, position)
            live = rows[alive]
            written[live, position] = chosen[alive]
            logprobs[live, position] = chosen_logprobs[alive]
            lengths[live] = position + 1
            alive &= ~ends.reached(chosen, written, rows, position)
            remaining = int(alive.sum())
            if remaining == 0:
                break
            if remaining <= 0.75 * len(alive):
                keep = alive.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                rows, seeds, alive = rows[keep], seeds[keep], alive[keep]
                chosen, mask = chosen[keep], mask[keep]
            tokens = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        truncated = torch.zeros(len(requests), dtype=torch.bool, device=device)
        truncated[rows[alive]] = True
        return [
            Sample(tuple(row[:length]), tuple(scores[:length]), cut)
            for row, scores, length, cut in zip(
                written.tolist(),
                logprobs.tolist(),
                lengths.tolist(),
                truncated.tolist(),
                strict=True,
            )
        ]

    def _choose(self, logits_BV: Tensor, seeds_B: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Next tokens (B,) and their log-probabilities under the untempered model (B,)."""
        if self.temperature == 0:
            chosen = logits_BV.argmax(-1)
        else:
            scaled = _nucleus(logits_BV / self.temperature, self.top_p)
            chosen = (scaled.double() + gumbel(seeds_B, position, logits_BV.shape[1])).argmax(-1)
        logprobs = logits_BV.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
        return chosen, logprobs


class _Ends:
    """Tells which rows have just ended: by an end-of-text token, or by a stop string.

    A text is only decoded where the newest token may complete a stop string.
    """

    def __init__(self, policy: Policy, stop: Sequence[str]):
        self.policy, self.stop = policy, tuple(stop)
        self.tokens = torch.tensor(sorted(policy.end_tokens), device=policy.model.device)
        last = {string[-1] for string in stop}
        self.closing = torch.tensor(
            [
                token
                for token in range(policy.model.config.get_text_config().vocab_size if stop else 0)
                if last & set(policy.decode([token]))
            ],
            dtype=torch.long,
            device=policy.model.device,
        )

    def reached(self, chosen: Tensor, written: Tensor, rows: Tensor, position: int) -> Tensor:
        ended = torch.isin(chosen, self.tokens)
        for place in torch.isin(chosen, self.closing).nonzero().squeeze(1).tolist():
            text = self.policy.decode(written[rows[place], : position + 1].tolist())
            ended[place] |= any(text.endswith(string) for string in self.stop)
        return ended


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Logits with -inf outside of the smallest set of tokens whose mass is at least `top_p`."""
    if top_p == 1:
        return logits_BV
    ordered, order = logits_BV.sort(descending=True, dim=-1)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of all that rank higher
    ordered = ordered.masked_fill(before >= top_p, float("-inf"))
    return torch.empty_like(logits_BV).scatter_(1, order, ordered)


def _left_padded(
    prompts: Sequence[tuple[int, ...]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (B, T): prompts end in the last column, so that each goes on from there."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)
