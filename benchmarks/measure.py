"""What the benchmarks share: a clock that waits for the device, and what a machine can do."""

import statistics
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of five."""
    size = 2048 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        begun = now(device)
        torch.matmul(left, right)
        best = min(best, now(device) - begun)
    return 2 * size**3 / best


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@dataclass(frozen=True)
class Size:
    """Weights that a token is multiplied with, in the layers and behind them; and, over all layers,
    the width that attention multiplies a token with for each token it sees."""

    body: int
    head: int
    attention: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Size":
        config = model.config.get_text_config()
        head = config.vocab_size * config.hidden_size
        body = model.num_parameters() - head * (1 if config.tie_word_embeddings else 2)
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return cls(body, head, config.num_hidden_layers * config.num_attention_heads * width)
