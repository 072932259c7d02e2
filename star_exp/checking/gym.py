"""What reasoning-gym is asked: its tasks, their settings, its scorers. Importing it takes seconds.

Scorers run in worker processes: some evaluate what a model wrote.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import reasoning_gym
from reasoning_gym.factory import CURRICULA, DATASETS

from star_exp.checking.workers import Workers
from star_exp.errors import UserError, did_you_mean

Settings = tuple[tuple[str, Any], ...]  # of a task's configuration, hashable


def settings(name: str, levels: Mapping[str, int], others: Mapping[str, Any]) -> Settings:
    """Of a task: what its curriculum says at these levels, then `others`. UserError if wrong."""
    if name not in DATASETS:
        raise UserError(f"task.name={name}: {did_you_mean(name, DATASETS)}")
    chosen = {**_at_levels(name, levels), **others}
    known = asdict(DATASETS[name][1]())
    for key in others:
        if key not in known or key in ("seed", "size"):
            near = did_you_mean(key, [key for key in known if key not in ("seed", "size")])
            raise UserError(f"task.settings: {name} has no {key!r}; {near}")
    return tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in sorted(chosen.items())
    )


def _at_levels(name: str, levels: Mapping[str, int]) -> dict[str, Any]:
    if not levels:
        return {}
    if name not in CURRICULA:
        raise UserError(f"task.levels={dict(levels)}: {name} has no curriculum; set task.settings")
    curriculum: Any = CURRICULA[name]()  # type: ignore[operator]  # a class, whatever is said there
    for attribute, level in levels.items():
        if attribute not in curriculum.attributes:
            near = did_you_mean(attribute, curriculum.attributes)
            raise UserError(f"task.levels: {name} has no {attribute!r}; {near}")
        most = len(curriculum.attributes[attribute].levels) - 1
        if not 0 <= level <= most:
            raise UserError(f"task.levels.{attribute}={level}: expected 0 to {most}")
        curriculum.set_attr_level(attribute, level)
    made = asdict(curriculum.generate_configuration())
    return {key: value for key, value in made.items() if key not in ("seed", "size")}


@lru_cache(maxsize=16)
def dataset(name: str, chosen: Settings, seed: int, size: int) -> Any:
    """Entries 0 to size-1 of a seed. UserError where reasoning-gym refuses the settings."""
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **dict(chosen))
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{name} refuses task.settings={dict(chosen)}: {error}") from error


def score(item: tuple[str, Settings, int, int, str]) -> float:
    """Of (task, settings, seed, index, answer), in [0, 1]."""
    name, chosen, seed, index, answer = item
    entries = dataset(name, chosen, seed, 1 << index.bit_length())  # of few sizes: one is kept
    return float(entries.score_answer(answer, entries[index]))


WORKERS: Workers[tuple[str, Settings, int, int, str], float] = Workers(score)
