"""Whether the settings and the data of a run are those that it names."""

import re
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from star_exp import verifying
from star_exp.callbacks.keep import MADE
from star_exp.config.compose import cell_hash, compose, differences, plain
from star_exp.errors import UserError
from star_exp.run import fingerprints
from star_exp.verify.stored import Check, Stored, read_config


def config(run: Stored) -> Check:
    """The hash of config.yaml, which manifest, results and folder name."""
    mine = run.config
    name = f"{mine['cell']}-s{mine['seed']}"
    check = Check("config", name)
    expected = {"config_hash": name, "config_hash_no_seed": mine["cell"]}
    heads = [("manifest.json", run.manifest, expected)]
    if "config_hash" in run.results:
        heads.append(("results.json", run.results, {**expected, **mine["choices"]}))
    for file, head, wanted in heads:
        check.faults += [
            f"{file}: {key} is {head.get(key)!r}, config.yaml says {value!r}"
            for key, value in wanted.items()
            if head.get(key) != value
        ]
    folder = re.fullmatch(r".*-([0-9a-f]{8})/seed(\d+)", "/".join(run.root.resolve().parts[-2:]))
    if folder and "-s".join(folder.groups()) != name:
        check.faults.append(f"the folder is named {folder[0]}, config.yaml says {name}")
    above = run.root.resolve().parents
    if above[0].name == "verifier" and (above[1] / "config.yaml").exists():
        made = verifying.after(read_config(above[1]), mine["data"]["iteration"])
        check.faults += [
            f"config.yaml differs from what {above[1] / 'config.yaml'} makes of it, in {line}"
            for line in differences(mine, made)
        ]
    elif _of_another(run):
        what = f"the hash {mine['cell']} is of the config that star-exp made this one of"
        check.left_out.append(what)
    else:
        check.faults += _changed(run)
    return check


def _of_another(run: Stored) -> bool:
    """Whether star-exp made its config of another run's."""
    alone, reward = run.config["from"] is not None, run.config["choices"]["variant"] == "reward"
    return alone or reward or run.root.resolve().name == MADE


def _changed(run: Stored) -> Iterator[str]:
    """What differs in config.yaml from what has the hash that it gives itself.

    The stored config is resolved; where the seed was interpolated (task.seed=${seed}) its hash is
    another one, and it is composed again from its command.
    """
    cell, now = run.config["cell"], cell_hash(OmegaConf.create(run.config))
    if now == cell:
        return
    try:
        made = plain(compose(run.manifest["overrides"]))
    except (HydraException, OmegaConfBaseException, UserError):
        made = {"cell": "none"}
    if made["cell"] != cell:
        yield (
            f"config.yaml has the hash {now}, and says cell={cell}; the command in manifest.json "
            f"gives {made['cell']} now: config.yaml was changed after the run, or conf/ was"
        )
        return
    for line in differences(run.config, made):
        yield f"config.yaml is not what was run (hash {now}, not {cell}); was -> is: {line}"


def data(run: Stored) -> Check:
    """The fingerprints of the task, and of the reward model, which the manifest names."""
    check, theirs = Check("data"), dict(run.manifest.get("data", {}))
    if not theirs:
        check.left_out.append("manifest.json has no fingerprints yet")
        return check
    mine = fingerprints(run.task)
    if "reward model" in theirs:
        judge = Path(run.results.get("reward", {}).get("model", ""))
        if (judge / verifying.WEIGHTS).exists():
            mine["reward model"] = verifying.fingerprint_in(judge)
        else:
            check.left_out.append(f"reward model: there is no {judge / verifying.WEIGHTS} here")
            del theirs["reward model"]
    check.said = ", ".join(mine)
    check.faults = [
        f"{name}: {mine.get(name, 'none')} now, manifest.json has {theirs.get(name, 'none')}"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    ]
    return check
