"""Settings that a run chooses for itself, anew at an iteration: B-STaR's temperature and threshold.

What a phase chose lies in the store, `rollouts/iter_003/chosen.json`, and stands in for the setting
of the same name wherever there is one: in a sampler, in a filter. So neither has to know who chose,
and a run that is resumed goes on with what was chosen.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def tuned(thing: T, chosen: Mapping[str, Any]) -> T:
    """A dataclass with what was chosen in the place of its own; anything else as it is.

    >>> tuned(Rewarded(threshold=0.0), {"temperature": 0.8, "threshold": -0.1})
    Rewarded(threshold=-0.1)
    """
    if not is_dataclass(thing):
        return thing
    own = {field.name for field in fields(thing)}
    return replace(thing, **{name: value for name, value in chosen.items() if name in own})  # type: ignore[type-var]
