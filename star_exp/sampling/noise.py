"""Random numbers without a state: noise is a hash of (seed of the sample, position, token).

Sampling a row then needs no generator of its own, and does not depend on which rows stand beside
it, on the order, or on how often it was interrupted. splitmix64 (Steele et al. 2014, "Fast
splittable pseudorandom number generators", figure 16) is used as a counter-based generator;
Gumbel-max turns uniform numbers into a sample: argmax(logits + gumbel) is distributed as
softmax(logits).
"""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer; the next two likewise
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(seeds_B: Tensor, positions_B: Tensor, tokens_B_N: Tensor) -> Tensor:
    """Numbers in (0, 1), (B, N) float64: a function of (seed, position, token) and nothing else.

    tokens_B_N: (B, N), or (N,) where they are the same for all rows.
    """
    row = _mix(_mix(seeds_B) + (positions_B + 1) * _GOLDEN)
    bits = _logical_shift(_mix(row[:, None] + (tokens_B_N + 1) * _GOLDEN), 11)  # 53, as in a double
    # the largest of them would be rounded to 1
    return ((bits.double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)


def gumbel(seeds_B: Tensor, positions_B: Tensor, tokens_B_N: Tensor) -> Tensor:
    """Standard Gumbel noise, (B, N) float64."""
    return -torch.log(-torch.log(uniform(seeds_B, positions_B, tokens_B_N)))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * _MIX_1
    x = (x ^ _logical_shift(x, 27)) * _MIX_2
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, places: int) -> Tensor:
    """Unsigned shift to the right; torch has only the signed one for int64."""
    return (x >> places) & ((1 << (64 - places)) - 1)
