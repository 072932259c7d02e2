"""Where the configs lie, how one is composed, and the hash that names a run."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from star_exp.errors import UserError

# What does not change what is computed: where it runs, where it writes, how far it goes.
NOT_HASHED = (
    "name",
    "iterations",
    "cell",
    "run_dir",
    "cache_dir",
    "tags",
    "optimized_metric",
    "choices",
    "samples",
    "logger",
    "callbacks.panel",
    "chance_hits",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_nodes",
)
# Likewise, of any sampler: how fast it is.
SPEED = ("engine", "batch_size", "cache_gib")
# What a verifier's fit takes over from the run that it is on, and what may be said of it.
OF_GENERATOR = ("task", "model", "module", "sampling")
OF_VERIFIER = (
    *("from", "variant", "verifier", "seed", "name", "tags", "run_dir", "cache_dir", "trainer"),
    *("logger", "optimized_metric", "hydra"),
)


def conf_dir() -> Path:
    """The folder of the configs: inside the installed package, or conf/ of a checkout beside it."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register_resolvers() -> None:
    """`${cell_hash:}`: eight characters that name all but seed, paths and hardware.
    `${samples:16}`: the key `samples`, or else 16. `${grid:0.5,1.2,0.1}`: 0.5, 0.6, ... 1.2."""
    OmegaConf.register_new_resolver("cell_hash", lambda *, _root_: cell_hash(_root_), replace=True)
    OmegaConf.register_new_resolver(
        "samples", lambda default, *, _root_: _root_.get("samples") or default, replace=True
    )
    OmegaConf.register_new_resolver("grid", _grid, replace=True)


def _grid(lowest: float, highest: float, step: float) -> ListConfig:
    """From the lowest to the highest, both included, as they are written down."""
    places = range(round((highest - lowest) / step) + 1)
    return OmegaConf.create([round(lowest + step * place, 6) for place in places])


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config of `star-exp run OVERRIDES`, outside of the command line (tests, notebooks)."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # ${hydra:runtime.choices.task} is read from there
    bare = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return OmegaConf.create(plain(bare))


def with_generator(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with what a verifier shares with the run that `from` names, if it names one."""
    if config.get("from") is None:
        return config
    path = Path(config["from"]) / "config.yaml"
    if not path.exists():
        raise UserError(f"from={config['from']} is not a run directory: it holds no config.yaml")
    if config.get("verifier") is None:
        raise UserError(
            f"from={config['from']}: without a verifier nothing is trained on that run; add "
            "variant=vstar_verifier, or verifier=dpo"
        )
    theirs = OmegaConf.load(path)
    said = {word.lstrip("+~").partition("=")[0] for word in overrides}
    for word in sorted(said):
        if word.split(".")[0].split("/")[0] not in OF_VERIFIER:
            raise UserError(
                f"{word} and from={config['from']} clash: it is that run's, or of no use to a "
                "verifier's fit; leave it out, or set verifier.*"
            )
    with open_dict(config):
        for name in (*OF_GENERATOR, *(("seed",) if "seed" not in said else ())):
            config[name] = OmegaConf.select(theirs, name)
        config.data.prompts = OmegaConf.select(theirs, "data.prompts")
        for group in ("task", "model"):
            config.choices[group] = OmegaConf.select(theirs, f"choices.{group}")
    return config


def plain(config: DictConfig) -> dict[str, Any]:
    """The config with every interpolation resolved, as plain dicts, lists and values."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def cell_hash(config: DictConfig) -> str:
    """Names what is computed, but for the seed: runs of one cell differ in their seeds alone."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    container["seed"] = None  # and whatever is set to it: task.seed=${seed} is still one cell
    for key in (key for key in NOT_HASHED if key != "samples"):  # which others are made of
        *parents, last = key.split(".")
        node = container
        for parent in parents:
            node = node.get(parent) or {}
        node.pop(last, None)
    container |= {"name": None, "iterations": None}  # may be interpolated elsewhere
    resolved: Any = OmegaConf.to_container(OmegaConf.create(container), resolve=True)
    hashed = {key: value for key, value in _flat(resolved).items() if not _ignored(key)}
    text = json.dumps(hashed, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Lines `key: theirs -> mine` of all hashed keys (and the seed) that differ between configs."""
    flat_mine, flat_theirs = _flat(mine), _flat(theirs)
    lines = []
    for key in sorted(flat_mine.keys() | flat_theirs.keys()):
        a, b = flat_theirs.get(key, "(absent)"), flat_mine.get(key, "(absent)")
        if a != b and not _ignored(key):
            lines.append(f"{key}: {a!r} -> {b!r}")
    return lines


def _ignored(key: str) -> bool:
    """Whether a dotted key changes nothing of what is computed."""
    *_, parent, last = ["", *key.split(".")]
    if parent in ("sampling", "sampler") and last in SPEED:
        return True
    return any(key == name or key.startswith(f"{name}.") for name in NOT_HASHED)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        where = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{where}.")
        else:
            flat[where] = value
    return flat
