"""Values out of range, and settings that are each right and clash together.

Each check yields sentences that name the settings and a way out. Keys and types have been checked
before. What would end a run only after hours is found here: a damaged file, no exemplars to show.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from star_exp.config.build import build
from star_exp.errors import UserError, did_you_mean
from star_exp.metrics import metric
from star_exp.records import Problem
from star_exp.rewards import SCALES
from star_exp.sampling.ranges import RANGES
from star_exp.tasks.base import Task
from star_exp.tasks.sources import Source, texts

Check = Callable[[dict[str, Any]], Iterator[str]]
TaskCheck = Callable[[dict[str, Any], Task], Iterator[str]]

AT_LEAST = {
    "iterations": 0,
    "seed": 0,
    "patience": 1,
    "data.batch_size": 1,
    "data.bucket": 1,
    "data.problems_per_iteration": 1,
    "data.exemplars": 0,
    "data.schedule.first": 1,
    "callbacks.generate.samples": 1,
    "callbacks.rationalize.samples": 1,
    "callbacks.candidates.samples": 2,
    "callbacks.balance.samples": 1,
    "callbacks.balance.problems": 1,
    "callbacks.balance.wanted": 1,
    "samples": 1,
    "model.hidden": 1,
    "model.layers": 1,
    "model.heads": 1,
    "model.seed_rationales": 1,
    "model.steps": 1,
    "model.batch_size": 1,
    "model.lora.rank": 0,
    "module.kl_to_base": 0,
    "module.weight_decay": 0,
    "trainer.devices": 1,
    "verifier.iterations": 1,
    "verifier.module.weight_decay": 0,
    "verifier.module.lm_weight": 0,
    "verifier.data.batch_size": 1,
    "verifier.data.rounds": 1,
    "verifier.data.groups.most": 1,
    "verifier.callbacks.candidates.samples": 2,
}
ABOVE_ZERO = (
    *("module.learning_rate", "model.learning_rate", "data.schedule.growth"),
    *("verifier.module.learning_rate", "verifier.module.beta", "verifier.module.rate.level"),
)
SET_BY_PROGRAM = {
    "max_epochs": "iterations=",
    "callbacks": "+callbacks.NAME={_target_: ...}",
    "logger": "logger=",
    "fast_dev_run": "debug=smoke",
    "limit_train_batches": "data.schedule.first=",
    "default_root_dir": "run_dir=",
    "max_steps": "data.schedule.first=",
    "plugins": "trainer.strategy=",
    "enable_progress_bar": "callbacks.panel=",
    **dict.fromkeys(("min_steps", "min_epochs", "max_time"), "iterations="),
    **dict.fromkeys(("log_every_n_steps", "enable_model_summary"), "logger="),
    **dict.fromkeys(("num_sanity_val_steps", "use_distributed_sampler"), "nothing: it is off"),
    "reload_dataloaders_every_n_epochs": "nothing: it is 1",
}


def first_faults(config: dict[str, Any]) -> list[str]:
    """What the first check says that finds something; the task is built once, for all of its own.

    UserError, as a run would raise it, where the data of the task can't be read.
    """
    for check in CHECKS:
        if found := [*check(config)]:
            return found
    try:
        task = build(config["task"])
        for of_task in TASK_CHECKS:
            if found := [*of_task(config, task)]:
                return found
    except ValueError as error:  # of the task: of its settings, or of a split
        return [str(error)]
    return []


def _ranges(config: dict[str, Any]) -> Iterator[str]:
    for key, least in AT_LEAST.items():
        value = _select(config, key)
        if isinstance(value, int | float) and value < least:
            yield f"{key}={value}: expected at least {least}"
    for key in ABOVE_ZERO:
        value = _select(config, key)
        if isinstance(value, int | float) and value <= 0:
            yield f"{key}={value}: expected a number above 0"
    if config["seed"] >= 2**32:
        yield f"seed={config['seed']}: expected a number below 2**32"
    share = config["data"].get("replay", 0)
    if not 0 <= share < 1:
        yield f"data.replay={share}: expected a share in [0, 1)"
    told = set()
    for where, sampler in _samplers(config):
        for key, (right, expected) in RANGES.items():
            value = sampler.get(key)
            said = isinstance(value, int | float) and not right(value) and (key, value)
            if said and said not in told:  # of those that are set from one place, the first
                told.add(said)
                yield f"{where}.{key}={value}: expected {expected}"
    for key in ("name", "run_dir", "cache_dir"):
        if not config[key]:
            yield f"{key} is empty; expected a name"
    try:
        metric(config["optimized_metric"])
    except KeyError as error:
        yield f"optimized_metric={config['optimized_metric']}: {error.args[0]}"


def _program(config: dict[str, Any]) -> Iterator[str]:
    for key, instead in SET_BY_PROGRAM.items():
        if key in config["trainer"]:
            yield f"trainer.{key} is set by the program; instead of it there is {instead}"
    for name in ("evaluate", "report"):
        if not config["callbacks"].get(name):
            yield f"callbacks.{name} is missing: without it nothing would be measured or reported"


def _digits(config: dict[str, Any]) -> Iterator[str]:
    low, high = config["task"].get("min_digits"), config["task"].get("max_digits")
    if low is not None and high is not None and low > high:
        yield (
            f"task.min_digits={low} and task.max_digits={high} clash: the shortest problems are "
            f"longer than the longest; raise max_digits to {low} or lower min_digits"
        )


def _splits(config: dict[str, Any], task: Task) -> Iterator[str]:
    """Whether the task has the splits that are measured, and one to train on."""
    for split in config["callbacks"]["evaluate"]["splits"]:
        if not task.problems(split):
            yield (
                f"callbacks.evaluate.splits holds {split!r}, and the task has no problems in it "
                "with these settings; leave it out"
            )
    trained = ("train",) if config["data"].get("phases") else ()
    for split in (*trained, *config["callbacks"]["evaluate"]["final_splits"]):
        task.problems(split)[:1]


def _exemplars(config: dict[str, Any], task: Task) -> Iterator[str]:
    """Prompts with exemplars, of a task that has none."""
    prompts = config["data"].get("prompts") or {}
    few_shot = prompts.get("few_shot", "never")
    if few_shot == "never" and not prompts.get("few_shot_train"):
        return
    try:
        lack = "" if task.shown(Problem("", "", "")) else "it has no exemplars to show"
    except ValueError as error:
        lack = str(error)
    if lack:
        yield (
            f"data.prompts.few_shot={few_shot} and {type(task).__name__} clash: {lack}. Choose a "
            "task with exemplars, or data/prompts=bare (for a model that needs none, as model=tiny)"
        )


def _chance_hits(config: dict[str, Any], task: Task) -> Iterator[str]:
    """Two choices: every other wrong rationale reaches the right one (STaR, section 6)."""
    chance: float | None = getattr(task, "chance", None)
    filters = [node.get("_target_") for node in config["data"].get("filters") or ()]
    if config.get("chance_hits") == "keep" or "star_exp.filters.Agreement" in filters:
        return
    if _sampled(config) and chance is not None and chance >= 0.5:
        yield (
            f"{type(task).__name__} is answered right by chance in {chance:.0%} of all cases, and "
            "data.filters would keep their rationales (STaR, section 6). Ask several samples to "
            "agree (star_exp.filters.Agreement), as experiment=star_strategyqa does; or, to train "
            "on chance hits all the same: +chance_hits=keep"
        )


def _other_tasks(config: dict[str, Any], task: Task) -> Iterator[str]:
    """What is wrong with tasks that are measured beside the run, found before it begins."""
    for name, callback in config["callbacks"].items():
        tasks = callback.get("tasks") if callback else None
        for other, node in tasks.items() if isinstance(tasks, dict) else ():
            where = f"callbacks.{name}.tasks.{other}"
            try:
                built: Task = build(node)
                found = [] if built.problems(callback.get("split", "test")) else ["no problems"]
                yield from (f"{where}: {said}" for said in (*found, *_exemplars(config, built)))
            except (ValueError, UserError) as error:
                yield f"{where}: " + re.sub(r"\btask\.(?=\w)", f"{where}.", str(error))


def _curriculum(config: dict[str, Any], task: Task) -> Iterator[str]:
    """Whether the first iteration has problems to draw from: later ones depend on the rollouts."""
    node = config["data"].get("curriculum")
    if node and config["data"].get("phases"):
        try:
            build(node)(task.problems("train"), 1, lambda iteration: [])
        except UserError as error:
            yield str(error)


def _lengths(config: dict[str, Any], task: Task) -> Iterator[str]:
    """Completions that the sampler would cut off, or that the model has no positions for."""
    model = config["model"]
    longest = task.longest_completion() + 1  # and the end-of-text token
    if model.get("tokens") != "characters" or longest == 1:
        return
    for where, limit in _limits(config):
        yield from _length(config, where, limit, longest)


def _limits(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every different limit of a sampler, and where it stands: sampling first."""
    seen = set()
    for where, sampler in _samplers(config):
        limit = sampler.get("max_new_tokens")
        if isinstance(limit, int) and limit not in seen:
            seen.add(limit)
            yield where, limit


def _samplers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each sampler stands, and its settings."""
    yield "sampling", config["sampling"]
    for where, node in _callbacks(config):
        if isinstance(node.get("sampler"), dict):
            yield f"{where}.sampler", node["sampler"]


def _callbacks(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each callback stands, a verifier's too, and its settings."""
    for parent in ("", "verifier.", "reward.model."):
        for name, node in (_select(config, f"{parent}callbacks") or {}).items():
            if _has_target(node):
                yield f"{parent}callbacks.{name}", node


def _length(config: dict[str, Any], where: str, limit: int, longest: int) -> Iterator[str]:
    positions = config["model"].get("max_positions")
    if limit < longest:
        settings = ", ".join(
            f"task.{key}={config['task'].get(key)}" for key in ("format", "max_digits")
        )
        yield (
            f"{where}.max_new_tokens={limit} and {settings} clash: the longest rationale has "
            f"{longest} characters, its end and the ood split included; set "
            f"{where}.max_new_tokens={longest} or more"
        )
    if positions is not None and limit + longest > positions:
        yield (
            f"model.max_positions={positions} and {where}.max_new_tokens={limit} clash: a prompt "
            f"and {limit} new tokens may not fit; set model.max_positions={limit + longest} or more"
        )


def _model(config: dict[str, Any]) -> Iterator[str]:
    hidden, heads = config["model"].get("hidden"), config["model"].get("heads")
    if hidden is not None and heads is not None and hidden % (2 * heads):
        yield (
            f"model.hidden={hidden} and model.heads={heads} clash: each head needs an even part of "
            f"the width; choose a multiple of {2 * heads}"
        )

    frozen, rank = config["model"].get("frozen"), _select(config, "model.lora.rank")
    if frozen and rank:
        yield (
            f"model.frozen={frozen} and model.lora.rank={rank} clash: beside adapters none of the "
            "model's weights are trained; leave frozen empty (which layers get adapters says "
            "model.lora.targets), or set model.lora.rank=0"
        )
    if config["model"].get("tokens") and _select(config, "data.prompts.chat"):
        yield (
            "data.prompts.chat=true and a model made on the spot clash: it has no chat template; "
            "choose an instruct model, or data/prompts=bare"
        )


def _samples(config: dict[str, Any]) -> Iterator[str]:
    for where, node in _callbacks(config):
        samples, temperature = _select(node, "samples"), _select(node, "sampler.temperature")
        if "temperatures" in node:  # it takes each of these
            continue
        if isinstance(samples, int) and samples > 1 and temperature == 0:
            shared = node["sampler"] == config["sampling"]
            add = "sampling.temperature=0.7 or sampling=hot"
            yield (
                f"{where}.samples={samples} and temperature 0 clash: all samples of a problem "
                f"would be the same; add {add if shared else f'{where}.sampler.temperature=0.7'}"
            )


def _filters(config: dict[str, Any]) -> Iterator[str]:
    """Settings that a filter refuses, samples that are too few for it, and wrong ones that pass."""
    targets = [
        node["_target_"] for node in config["data"].get("filters") or () if _has_target(node)
    ]
    ours = bool(targets) and all(target.startswith(OURS) for target in targets)
    if ours and not {*JUDGE} & {*targets} and _sampled(config):
        yield (
            f"data.filters has {', '.join(targets)} and not star_exp.filters.Correct: rationales "
            "that are wrong would be trained on; add {_target_: star_exp.filters.Correct} (behind "
            "Agreement or Difficulty, before all others). To train on wrong ones all the same: "
            "data.filters=[], or a filter of your own"
        )
    for place, node in enumerate(config["data"].get("filters") or ()):
        if not _has_target(node):
            yield f"data.filters[{place}]={node!r}: expected a config with a _target_"
            continue
        try:
            build(node)
        except ValueError as error:
            yield f"data.filters[{place}]: {error}"
        if node["_target_"] == "star_exp.filters.Agreement":
            yield from _agreement(config, node)


def _balance(config: dict[str, Any]) -> Iterator[str]:
    """Whether what is chosen at each iteration is of use, and is chosen in time."""
    node, order = config["callbacks"].get("balance"), [*config["callbacks"]]
    if not node:
        return
    targets = [filter_.get("_target_") for filter_ in config["data"].get("filters") or ()]
    for name in ("temperatures", "thresholds"):
        if node.get(name) == []:
            yield (
                f"callbacks.balance.{name}=[]: expected numbers to choose from, or null to leave "
                "it as it is"
            )
    if node.get("temperatures") is None and node.get("thresholds") is None:
        yield (
            "callbacks.balance.temperatures and thresholds are both null: there is nothing to "
            "choose; give a grid of one of them, or take balance=none"
        )
    several = bool(node.get("thresholds"))
    if several and not {*JUDGE[1:]} & {*targets}:
        yield (
            f"callbacks.balance.thresholds={node['thresholds']} and data.filters clash: none of "
            f"{', '.join(map(str, targets))} has a threshold; add reward=process, or choose the "
            "temperature alone: balance=temperature"
        )
    elif several and not config.get("reward"):
        yield (
            f"callbacks.balance.thresholds={node['thresholds']} and reward=none clash: right or "
            "wrong is all the reward there is, and each threshold selects the same; add "
            "reward=process, or choose the temperature alone: balance=temperature"
        )
    if any(temperature <= 0 for temperature in node.get("temperatures") or ()):
        yield (
            f"callbacks.balance.temperatures={node['temperatures']}: expected numbers above 0; at "
            "0 all samples of a problem are the same"
        )
    late = [name for name in ("generate", "rationalize") if name in order[: order.index("balance")]]
    if late:
        yield (
            f"callbacks.balance stands behind callbacks.{late[0]}, which samples at what it "
            "chooses; choose it by the group instead: balance=temperature"
        )
    if not config["callbacks"].get("generate"):
        yield (
            f"callbacks.balance and variant={config['choices']['variant']} clash: nothing samples "
            "at what it chooses; take balance=none"
        )


def _reward(config: dict[str, Any]) -> Iterator[str]:
    """A reward model that can't be made, or isn't there: found before hours are spent on it."""
    node = config.get("reward")
    if node is None:
        return
    named, model, known = node.get("from"), node.get("model"), ("from", "seed", "scale", "model")
    for key in sorted({*node} - {*known}):
        yield f"reward.{key}: there is no such key; {did_you_mean(key, known)}"
    if type(node.get("seed")) is not int or node["seed"] < 0:
        yield f"reward.seed={node.get('seed')!r}: expected an integer, at least 0"
    if node.get("scale") not in SCALES:
        yield f"reward.scale={node.get('scale')!r}: {did_you_mean(str(node.get('scale')), SCALES)}"
    if named is not None and not (Path(named) / "verifier.safetensors").exists():
        yield (
            f"reward.from={named}: there is no verifier.safetensors; give the folder of a finished "
            "fit of verifier=process or verifier=orm, such as RUN_DIR/verifier/iter_004"
        )
    elif named is None and not isinstance(model, dict):
        yield (
            f"reward.model={model!r} and reward.from=null: there is no reward model to make or to "
            "read; give reward.from=DIR, or take reward=process as it is"
        )
    elif named is None and model["iterations"] < 1:
        yield f"reward.model.iterations={model['iterations']}: expected at least 1"


def _rewarded(config: dict[str, Any]) -> Iterator[str]:
    """Rewards that select nothing, and thresholds that, without a reward, select all or nothing."""
    filters = [each for each in config["data"].get("filters") or () if _has_target(each)]
    thresholds = [each for each in filters if each["_target_"] in JUDGE[1:]]
    if config.get("reward") is None:
        for each in thresholds:
            if not 0 <= (threshold := each.get("threshold", 0.0)) < 1:
                yield (
                    f"{each['_target_']}.threshold={threshold} and reward=none clash: without a "
                    "reward model right ones have a reward of 1 and wrong ones of 0, so that "
                    f"{'all' if threshold < 0 else 'none'} would be trained on; add "
                    "reward=process, or set judge.threshold=0"
                )
    elif not config["callbacks"].get("generate"):
        yield (
            f"reward and variant={config['choices']['variant']} clash: nothing is sampled that a "
            "reward model could judge; take reward=none"
        )
    elif not thresholds and all(each["_target_"].startswith(OURS) for each in filters):
        yield (
            "reward and data.filters clash: none of "
            f"{', '.join(each['_target_'] for each in filters)} goes by the reward; put ${{judge}} "
            "in the place of star_exp.filters.Correct, or take reward=none"
        )


def _has_target(node: Any) -> bool:
    return isinstance(node, dict) and "_target_" in node


def _sampled(config: dict[str, Any]) -> set[str]:
    """The phases that are trained on and that a model writes."""
    return {"generate", "rationalize"} & {*(config["data"].get("phases") or ())}


def _agreement(config: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    least, phases = node.get("least", 2), node.get("phases", ["generate", "rationalize"])
    for where, callback in _callbacks(config):
        phase, samples = WRITES.get(callback.get("_target_", "")), callback.get("samples", 1)
        if phase in phases and phase in _sampled(config) and samples < least:
            yield (
                f"{where}.samples={samples} and star_exp.filters.Agreement clash: it compares "
                f"{least} or more samples of a problem; add samples=5 sampling=hot, or leave it "
                "out of data.filters"
            )


def _replay(config: dict[str, Any]) -> Iterator[str]:
    share, exemplars = config["data"].get("replay", 0), config["data"].get("exemplars", 0)
    if share and not exemplars and config["data"].get("phases"):
        yield (
            f"data.replay={share} and data.exemplars={exemplars} clash: there are no seed "
            "rationales to show again; set data.exemplars (of each group), or data.replay=0"
        )


def _texts(config: dict[str, Any]) -> Iterator[str]:
    """General text in files. All that is trained on is read here: else it is after sampling."""
    for key, split, rows in (("data.general", "train", None), ("callbacks.perplexity", "test", 1)):
        node = _select(config, key)
        if not node or not isinstance(node.get("path"), str):
            continue
        split = node.get("split", split)
        source = Source(path=node["path"], splits={split: split}, setting=f"{key}.path")
        try:
            for _ in islice(
                texts(source, split, node.get("field", "text")), node.get("texts", rows)
            ):
                pass
        except UserError as error:
            yield str(error)


def _names(config: dict[str, Any]) -> Iterator[str]:
    for name, node in (config["logger"] or {}).items():
        bad = set(str((node or {}).get("project", ""))) & set("/\\#?%:")
        if bad:
            yield (
                f"logger.{name}.project={node['project']!r} holds {''.join(sorted(bad))!r}, which "
                "W&B refuses in a project; choose another name= or logger.wandb.project="
            )


def _batch(config: dict[str, Any]) -> Iterator[str]:
    size, devices = config["data"].get("batch_size"), config["trainer"].get("devices")
    if isinstance(size, int) and isinstance(devices, int) and size % devices:
        yield (
            f"data.batch_size={size} and trainer.devices={devices} clash: a step's batch is shared "
            "out evenly; choose a batch size that the number of devices divides"
        )
    accumulate = config["trainer"].get("accumulate_grad_batches", 1)
    if accumulate != 1:
        yield (
            f"trainer.accumulate_grad_batches={accumulate} and data.batch_size clash: a step's "
            "loss is normalised over the whole of data.batch_size; lower data.batch_size instead"
        )


def _patience(config: dict[str, Any]) -> Iterator[str]:
    evaluate = config["callbacks"].get("evaluate") or {"splits": []}
    if config["patience"] is not None and "dev" not in evaluate["splits"]:
        yield (
            f"patience={config['patience']} and callbacks.evaluate.splits clash: stopping early "
            "goes by dev/accuracy, so the splits must hold dev"
        )


def _phases(config: dict[str, Any]) -> Iterator[str]:
    """Whether what is trained on is written by some phase of the variant."""
    targets = [node["_target_"] for node in config["callbacks"].values() if node]
    written = {WRITES[target] for target in targets if target in WRITES}
    foreign = any(not target.startswith("star_exp.") for target in targets)  # may write anything
    trained, variant = config["data"].get("phases"), config["choices"]["variant"]
    unknown = sorted(set(trained or ()) - written)
    if unknown and not foreign:
        yield (
            f"data.phases={trained} and variant={variant} clash: nothing writes {unknown}; the "
            f"variant's phases write {sorted(written)}"
        )


def _verifier(config: dict[str, Any]) -> Iterator[str]:
    """Whether there is something for a verifier to learn from."""
    if not config.get("verifier") or config.get("from") is not None:
        return
    wanted = config["verifier"].get("data", {}).get("phases", ())
    targets = [node["_target_"] for node in config["callbacks"].values() if node]
    if not {"star_exp.callbacks.generate.Generate"} & {*targets} and "generate" in wanted:
        yield (
            f"variant={config['choices']['variant']} and a verifier clash: the variant draws no "
            "samples to learn from; give from=RUN_DIR, a run that did, or take variant=vstar"
        )


def _kept(config: dict[str, Any]) -> Iterator[str]:
    """Whether G_SFT, which the first iteration makes, would be trained on samples as well."""
    keeps = [where for where, node in _callbacks(config) if node["_target_"] == KEEPS]
    for where, node in _callbacks(config) if keeps else ():
        first = node.get("first", 1)
        if WRITES.get(node["_target_"]) in _sampled(config) and first < 2:
            yield (
                f"{where}.first={first} and {keeps[0]} clash: what is kept is the model after the "
                "solutions alone, and its iteration would be trained on samples as well; set "
                f"{where}.first=2, or {keeps[0]}=null"
            )


KEEPS = "star_exp.callbacks.keep.KeepSFT"
OURS = "star_exp.filters."
# filters that tell right from wrong; all but the first by a threshold
JUDGE = tuple(f"{OURS}{name}" for name in ("Correct", "Rewarded", "TopUp"))
WRITES = {
    "star_exp.callbacks.generate.Generate": "generate",
    "star_exp.callbacks.generate.Rationalize": "rationalize",
    "star_exp.callbacks.generate.GoldAnswers": "answers",
    "star_exp.callbacks.generate.Solutions": "solutions",
}


def _devices(config: dict[str, Any]) -> Iterator[str]:
    strategy, devices = config["trainer"].get("strategy", "auto"), config["trainer"].get("devices")
    if isinstance(devices, int) and devices > 1 and strategy not in {"auto", "ddp"}:
        yield (
            f"trainer.devices={devices} and trainer.strategy={strategy!r} clash: only ddp is "
            "supported on several devices"
        )


def _select(config: dict[str, Any] | None, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


CHECKS: tuple[Check, ...] = (
    *(_ranges, _patience, _program, _digits, _model, _names, _batch),
    *(_phases, _verifier, _kept, _devices, _samples, _filters, _balance, _reward, _rewarded),
    *(_replay, _texts),
)
TASK_CHECKS: tuple[TaskCheck, ...] = (
    *(_splits, _exemplars, _chance_hits, _curriculum, _lengths, _other_tasks),
)
