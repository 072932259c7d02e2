"""From a node of a config to the object that its `_target_` names."""

from typing import Any

from hydra.utils import instantiate


def build(node: dict[str, Any], **handed: Any) -> Any:
    """What `_target_` names, with the settings of its config and these objects.

    As a partial first: Hydra would take the objects that are dataclasses for configs. An error of
    the constructor comes out as it is.
    """
    return instantiate(node, _partial_=True, _convert_="all")(**handed)
