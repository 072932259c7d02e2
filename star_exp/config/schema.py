"""Top-level keys of a config and their types; below `_target_` the constructor is the schema."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Run:
    """See conf/config.yaml for what each key means."""

    name: str
    seed: int
    iterations: int
    cell: str
    run_dir: str
    cache_dir: str
    tags: list[str]
    patience: int | None
    optimized_metric: str
    choices: dict[str, str]
    task: dict[str, Any]
    model: dict[str, Any]
    sampling: dict[str, Any]
    module: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    logger: dict[str, Any] | None
    callbacks: dict[str, Any]
    samples: int | None = None
    verifier: dict[str, Any] | None = None
    reward: dict[str, Any] | None = None
    judge: dict[str, Any] | None = None  # a filter, for data.filters
    from_: str | None = None  # `from`
    chance_hits: Literal["refuse", "keep"] = "refuse"  # of a task with two choices; checks.py
