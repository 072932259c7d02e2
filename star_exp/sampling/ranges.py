"""What the settings of a sampler may be: without torch, so that a config is checked before that."""

from collections.abc import Callable

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: x >= 0, "0 (greedy) or more"),
    "top_p": (lambda x: 0 < x <= 1, "a share in (0, 1]; 1 is off"),
    "top_k": (lambda x: x >= 0, "a number of tokens; 0 is off"),
    "min_p": (lambda x: 0 <= x < 1, "a share in [0, 1); 0 is off"),
    "repetition_penalty": (lambda x: x > 0, "more than 0; 1 is off"),
    "max_new_tokens": (lambda x: x >= 1, "at least 1"),
    "batch_size": (lambda x: x >= 1, "at least 1"),
    "cache_gib": (lambda x: x > 0, "more than 0, or null for a share of the free memory"),
}


def check(settings: object) -> None:
    """ValueError for the first attribute that is out of its range; None is in any."""
    for name, (right, expected) in RANGES.items():
        value = getattr(settings, name, None)
        if value is not None and not right(value):
            raise ValueError(f"sampling.{name}={value}: expected {expected}")
