"""Which token comes next, given the logits: the rules of decoding, for a whole batch at once.

The rules are applied in the order of transformers' generate: repetition penalty, temperature,
top-k, top-p, min-p. What is left is sampled by Gumbel-max in two stages, each exact: first a block
of tokens by the mass of the block, then a token in it. A vocabulary of 49,152 then needs 448 random
numbers a row, and one pass for the masses of the blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from star_exp.sampling.noise import gumbel
from star_exp.sampling.ranges import check

BLOCK = 256  # tokens
CANDIDATES = 1024  # a nucleus is looked for among so many first; few are larger


@dataclass(frozen=True)
class Choice:
    """
    temperature: 0 is greedy. top_p: nucleus of this mass (Holtzman et al. 2020), 1 is off.
    top_k: of the highest logits, 0 is off. min_p: tokens at least this likely relative to the
    likeliest (Nguyen et al. 2024), 0 is off. repetition_penalty: logits of tokens that occurred,
    in the prompt too, are divided by it, or multiplied if negative (Keskar et al. 2019); 1 is off.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(
        self, logits_B_V: Tensor, seeds_B: Tensor, positions_B: Tensor, seen_B_V: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Next tokens (B,), and their log-probabilities under the untempered model (B,), in nats.

        positions: of the next token in its completion, from 0. seen: which tokens occurred; needed
        with a repetition penalty.
        """
        logits = logits_B_V.double() if logits_B_V.dtype == torch.float64 else logits_B_V.float()
        penalised = logits
        if seen_B_V is not None:
            penalty = self.repetition_penalty
            changed = torch.where(logits < 0, logits * penalty, logits / penalty)
            penalised = torch.where(seen_B_V, changed, logits)
        if self.temperature == 0:
            chosen = penalised.argmax(-1)
        else:
            chosen = draw(self._allowed(penalised / self.temperature), seeds_B, positions_B)
        taken = logits.gather(1, chosen[:, None]).squeeze(1)
        return chosen, taken - logits.logsumexp(-1)

    def _allowed(self, logits_B_V: Tensor) -> Tensor:
        """-inf for the tokens that top-k, top-p and min-p rule out."""
        if 0 < self.top_k < logits_B_V.shape[1]:
            least = logits_B_V.topk(self.top_k).values[:, -1:]
            logits_B_V = logits_B_V.masked_fill(logits_B_V < least, float("-inf"))
        if self.top_p < 1:
            logits_B_V = nucleus(logits_B_V, self.top_p)
        if self.min_p > 0:
            log_ratio = logits_B_V - logits_B_V.amax(-1, keepdim=True)
            logits_B_V = logits_B_V.masked_fill(log_ratio.exp() < self.min_p, float("-inf"))
        return logits_B_V


def draw(logits_B_V: Tensor, seeds_B: Tensor, positions_B: Tensor) -> Tensor:
    """A token of each row from softmax(logits), (B,)."""
    rows, vocabulary = logits_B_V.shape
    inside = torch.arange(min(BLOCK, vocabulary), device=logits_B_V.device)
    first = torch.zeros(rows, 1, dtype=torch.long, device=logits_B_V.device)
    if vocabulary > BLOCK:
        padding = -vocabulary % BLOCK
        if padding:
            logits_B_V = torch.nn.functional.pad(logits_B_V, (0, padding), value=float("-inf"))
        blocks = torch.arange(logits_B_V.shape[1] // BLOCK, device=logits_B_V.device)
        masses = logits_B_V.view(rows, -1, BLOCK).logsumexp(-1).double()
        # a block's noise has the place of a negative token, so that none is used twice
        masses += gumbel(seeds_B, positions_B, -2 - blocks)
        first = masses.argmax(-1, keepdim=True) * BLOCK
    tokens = first + inside
    scores = logits_B_V.gather(1, tokens).double() + gumbel(seeds_B, positions_B, tokens)
    return tokens.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1)


def nucleus(logits_B_V: Tensor, top_p: float) -> Tensor:
    """Logits with -inf outside of the smallest set of tokens whose mass is at least `top_p`."""
    total = logits_B_V.logsumexp(-1, keepdim=True)
    for size in (min(CANDIDATES, logits_B_V.shape[1]), logits_B_V.shape[1]):
        ordered, order = logits_B_V.topk(size)
        mass = (ordered - total).exp()
        upto = mass.cumsum(-1)
        if bool((upto[:, -1] >= top_p).all()):
            break
    ordered = ordered.masked_fill(upto - mass >= top_p, float("-inf"))
    return torch.full_like(logits_B_V, float("-inf")).scatter_(1, order, ordered)
