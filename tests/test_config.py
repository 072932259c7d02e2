"""Configs: what is in conf/ is valid, what is not is refused with a word of help and without torch.

The command line is tried in processes of their own, where the import of torch would be seen. In one
of them a fake takes the place of star_exp.run, so that a config that is let through runs nothing.
"""

import ast
import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from star_exp.config.build import build
from star_exp.config.compose import (
    cell_hash,
    compose,
    conf_dir,
    differences,
    plain,
    register_resolvers,
)
from star_exp.config.signatures import NotFound, accepts, literal_choices, signature
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import did_you_mean
from tests.made import ROWS, local

HEAVY = ("torch", "pytorch_lightning", "transformers")


def choices() -> dict[str, list[str]]:
    """The names of all files in conf/, by group; conf/local is the user's own."""
    found: dict[str, list[str]] = {}
    for path in sorted(conf_dir().rglob("*.yaml")):
        group = path.parent.relative_to(conf_dir()).as_posix()
        if group not in {".", "local"} and not group.startswith(("hydra", "experiment/")):
            found.setdefault(group, []).append(path.stem)
    return found


CHOICES = choices()
BESIDE = sorted((conf_dir() / "experiment").glob("*/*.yaml"))  # of one variant in one experiment
UNTRAINED = {"base": ["iterations=0"]}  # an experiment may say how many, and then they clash
WORDS = [[], *([f"{group}={name}"] for group, names in CHOICES.items() for name in names)]
PAIRS = [
    [f"variant={variant}", f"{group}={name}", *UNTRAINED.get(variant, [])]
    for group in ("experiment", "debug")
    for variant, name in product(CHOICES["variant"], CHOICES.get(group, []))
]


@pytest.fixture(scope="module")
def default() -> dict:
    return plain(compose())


def changed(config: dict, key: str, value: object) -> dict:
    """A copy with another value at a dotted key."""
    copy = deepcopy(config)
    *parents, last = key.split(".")
    node = copy
    for parent in parents:
        node = node[parent]
    node[last] = value
    return copy


# What is in conf/


@pytest.mark.slow
@pytest.mark.parametrize("words", PAIRS, ids=" ".join)
def test_every_variant_is_valid_in_every_experiment(words, tmp_path):
    test_every_choice_of_every_group_composes_and_is_valid(words, tmp_path)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_choice_of_every_group_composes_and_is_valid(words, tmp_path):
    if {"task=dataset", "model=pretrained", "verifier=fit", "variant=vstar_verifier"} & {*words}:
        return  # what the others have in common; what needs a run to begin with
    validate(completed(words, tmp_path))


def completed(words: list[str], folder: Path) -> dict[str, Any]:
    """The config, with what a choice needs: local files, exemplars, a model for a chat."""
    chat = "data/prompts=chat" in words
    if chat or {"model=hf", "sampling=reasoner"} & {*words}:
        words = [*words, "model=hf", "model.name=owner/name"]
    if {"balance=threshold", "balance=temperature_and_threshold"} & {*words}:
        words = [*words, "reward=process", "sampling=hot"]
    if "balance=released" in words:
        words = [*words, "variant=bstar"]
    asked = before = words
    config = plain(compose(words))
    prompts = config["data"].get("prompts", {})
    if prompts.get("few_shot", "never") != "never" and config["choices"]["task"] == "arithmetic":
        words = [*words, *local("gsm8k", folder)]
    elif config["choices"]["task"] in ROWS:  # else the hub would be asked
        words = [*words, *local(config["choices"]["task"], folder)]
    elif "path" in config["task"]:
        pytest.skip("tests of its own read its files")
    for name in config["callbacks"].get("other_tasks", {}).get("tasks", {}):
        if name in ROWS:
            _, path = local(name, folder)
            words = [*words, path.replace("task.", f"callbacks.other_tasks.tasks.{name}.")]
    if asked == ["task=strategyqa"]:
        words = [*words, "+chance_hits=keep"]
    if config["task"].get("splits", {}).get("train", "train") is None:  # it is only measured
        words = [*words, "variant=base", "callbacks.evaluate.splits=[]"]
    return config if words == before else plain(compose(words))


def test_every_group_of_the_folder_was_found():
    assert {"task", "model", "sampling", "module", "data", "trainer", "variant"} <= set(CHOICES)


def test_a_choice_is_what_its_file_says():
    assert plain(compose(["sampling=hot"]))["sampling"]["temperature"] == 1.0
    assert plain(compose(["logger=none"]))["logger"] in (None, {})


def test_what_one_variant_needs_beside_in_an_experiment_is_for_it_alone():
    words = ["experiment=compare_addition"]
    mine, other = (plain(compose([*words, f"variant={name}"])) for name in ("bstar", "online_rft"))
    assert mine["callbacks"]["balance"]["problems"] == 100
    assert other["callbacks"]["balance"] is None and other["reward"] is None
    assert mine["module"] == other["module"]
    assert mine["task"] == other["task"]
    said = plain(compose([*words, "variant=bstar", "callbacks.balance.problems=7"]))
    assert said["callbacks"]["balance"]["problems"] == 7  # the command line has the last word


def test_a_grid_may_be_resolved_in_its_place_as_by_cfg_job_with_resolve():
    register_resolvers()
    config = OmegaConf.create({"temperatures": "${grid:0.5,0.7,0.1}"})
    OmegaConf.resolve(config)
    assert config == {"temperatures": [0.5, 0.6, 0.7]}


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_beside_an_experiment_is_of_one_and_of_a_variant(path):
    """It is optional, so that one of another name would be passed over in silence."""
    assert path.parent.name in CHOICES["experiment"] and path.stem in CHOICES["variant"]


def test_settings_of_a_reasoning_gym_task_are_given_as_a_mapping():
    words = ["task=reasoning_gym", "task.levels={num_terms: 2}", "task.settings={max_digits: 1}"]
    task = compose(words)["task"]
    assert task["levels"] == {"num_terms": 2}
    assert task["settings"] == {"max_digits": 1}


def test_the_run_directory_is_named_by_what_is_computed():
    config = plain(compose(["variant=direct", "seed=3"]))
    name = cell_hash(OmegaConf.create(config))
    assert config["cell"] == name and len(name) == 8
    assert config["run_dir"].endswith(f"direct-arithmetic-tiny-{name}/seed3")


# What is wrong, found in the config itself


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("task.max_digits", "abc", ["task.max_digits", "'abc'", "int"]),
        ("task.max_digits", [1, 2], ["task.max_digits", "list", "int"]),
        ("task.max_digits", None, ["task.max_digits", "null", "int"]),
        ("task.max_digits", 1.5, ["task.max_digits", "1.5", "int"]),
        ("task.max_digits", True, ["task.max_digits", "boolean", "int"]),
        ("task.max_digit", 3, ["task.max_digit:", "did you mean 'max_digits'"]),
        ("task.format", "scratchpd", ["task.format", "did you mean 'scratchpad'"]),
        ("task._target_", "star_exp.tasks.arithmetic.Arithmetc", ["did you mean 'Arithmetic'"]),
        ("trainer.acelerator", "cpu", ["trainer.acelerator", "did you mean 'accelerator'"]),
        ("callbacks.evaluate.split", ["dev"], ["evaluate.split:", "did you mean 'splits'"]),
        ("callbacks.evaluate.splits", "dev", ["evaluate.splits", "'dev'", "Sequence[str]"]),
        ("callbacks.evaluate.sampler.top", 1, ["evaluate.sampler.top:", "did you mean 'top_p'"]),
        ("module.learning_rate", "fast", ["module.learning_rate", "'fast'", "float"]),
        ("data.filters", [{"_target_": "star_exp.filters.AtMost"}], ["filters[0]", "per_problem"]),
        ("sede", 1, ["sede:", "did you mean 'seed'"]),
        ("seed", "abc", ["seed='abc'", "int"]),
        ("tags", "x", ["tags", "list[str]"]),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_wrong_key_or_value_is_named_with_what_was_expected(default, key, value, said):
    with pytest.raises(ConfigError) as caught:
        validate(changed(default, key, value))
    for words in said:
        assert words in str(caught.value)


def test_every_fault_is_said_at_once(default):
    config = changed(changed(default, "seed", "abc"), "task.max_digit", 3)
    with pytest.raises(ConfigError, match=r"(?s)task\.max_digit.*seed='abc'|seed='abc'.*max_digit"):
        validate(config)


def test_a_missing_top_level_key_is_named(default):
    config = deepcopy(default)
    del config["iterations"]
    with pytest.raises(ConfigError, match="'iterations' is missing"):
        validate(config)


def test_a_missing_group_is_named(default):
    """`star-exp run ~task`"""
    config = deepcopy(default)
    del config["task"]
    with pytest.raises(ConfigError, match="task"):
        validate(config)


@pytest.mark.parametrize("key", ["task.max_digits", "seed", "sampling.max_new_tokens"])
def test_a_mapping_for_a_number_is_refused(default, key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        validate(changed(default, key, {"a": 1}))


@pytest.mark.parametrize("value", [5, "x", [1]], ids=repr)
def test_a_callback_that_is_none_is_refused(default, value):
    with pytest.raises(ConfigError, match=r"callbacks\.panel"):
        validate(changed(default, "callbacks.panel", value))


@pytest.mark.parametrize("value", [5, None, "nope.Nope", "star_exp.no.Nope"], ids=repr)
def test_a_target_that_is_none_is_refused(default, value):
    with pytest.raises(ConfigError, match=r"model\._target_"):
        validate(changed(default, "model._target_", value))


AGREEMENT = ("Agreement", "Correct")  # with one sample of each


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task.min_digits": 5, "task.max_digits": 3}, ["task.min_digits=5", "task.max_digits=3"]),
        ({"sampling.cache_gib": -1.0}, ["sampling.cache_gib=-1.0", "more than 0", "null"]),
        ({"sampling.top_p": 2.0}, ["sampling.top_p=2.0", "a share in (0, 1]"]),
        ({"callbacks.evaluate.sampler.temperature": -1.0}, ["callbacks.evaluate.sampler.temper"]),
        ({"sampling.max_new_tokens": 8}, ["sampling.max_new_tokens=8", "task.format"]),
        ({"model.max_positions": 60}, ["model.max_positions=60", "sampling.max_new_tokens"]),
        (
            {"data.batch_size": 63, "trainer.devices": 2},
            ["data.batch_size=63", "trainer.devices=2"],
        ),
        ({"patience": 3, "callbacks.evaluate": None}, ["patience=3", "callbacks.evaluate"]),
        ({"patience": 3, "callbacks.evaluate.splits": []}, ["patience=3", "callbacks.evaluate"]),
        (
            {"callbacks.generate": None, "callbacks.rationalize": None},
            ["data.phases=", "variant=star"],
        ),
        ({"trainer.accumulate_grad_batches": 4}, ["accumulate_grad_batches=4", "data.batch_size"]),
        ({"trainer.devices": 2, "trainer.strategy": "fsdp"}, ["devices=2", "strategy='fsdp'"]),
        ({"callbacks.generate.samples": 4}, ["callbacks.generate.samples=4", "sampling=hot"]),
        ({"data.exemplars": 0}, ["data.replay=0.2", "data.exemplars=0"]),
        ({"model.frozen": ["embeddings"], "model.lora": {"rank": 8}}, ["frozen=", "lora.rank=8"]),
        ({"data.prompts.chat": True}, ["data.prompts.chat=true", "no chat template"]),
        (
            {"data.prompts.few_shot": "always"},
            ["data.prompts.few_shot=always", "Arithmetic", "data/prompts=bare"],
        ),
        ({"data.prompts.few_shot_train": True}, ["Arithmetic has no exemplars"]),
        ({"data.general": {"path": "nowhere.txt"}}, ["data.general.path=nowhere.txt"]),
        ({"module.weight_decay": -1}, ["module.weight_decay=-1", "at least 0"]),
        ({"samples": 0}, ["samples=0", "at least 1"]),
        (
            {"data.filters": [{"_target_": "star_exp.filters.AtMost", "per_problem": 0}]},
            ["data.filters[0]: AtMost(per_problem=0): expected at least 1"],
        ),
        ({"data.filters": ["Correct"]}, ["data.filters[0]='Correct'", "_target_"]),
        (
            {"data.filters": [{"_target_": "star_exp.filters.Distinct"}]},
            ["Distinct and not star_exp.filters.Correct", "data.filters=[]"],
        ),
        (
            {"data.filters": [{"_target_": f"star_exp.filters.{name}"} for name in AGREEMENT]},
            ["callbacks.generate.samples=1", "callbacks.rationalize.samples=1", "2 or more"],
        ),
        (
            {"data.curriculum": {"_target_": "star_exp.curriculum.ByGroup", "group": "level"}},
            ["data.curriculum.group='level'", "digits"],
        ),
    ],
    ids=lambda part: ", ".join(part),
)
def test_settings_that_clash_are_both_named(default, changes, named):
    config = default
    for key, value in changes.items():
        config = changed(config, key, value)
    with pytest.raises(ConfigError) as caught:
        validate(config)
    for words in named:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("iterations", 0, "at least 1"),
        ("data.batch_size", 0, "at least 1"),
        ("data.rounds", 0, "at least 1"),
        ("data.groups.most", 0, "at least 1"),
        ("module.beta", 0.0, "a number above 0"),
        ("module.weight_decay", -0.1, "at least 0"),
        ("module.lm_weight", -1.0, "at least 0"),
        ("callbacks.candidates.samples", 1, "at least 2"),
        ("callbacks.candidates.sampler.temperature", -1.0, "0 (greedy) or more"),
    ],
)
def test_numbers_of_a_verifier_have_ranges_too(key, value, expected):
    name = "orm" if key == "module.lm_weight" else "dpo"
    config = plain(compose(["variant=vstar", f"verifier={name}", "sampling=hot"]))
    validate(config)
    with pytest.raises(ConfigError) as caught:
        validate(changed(config, f"verifier.{key}", value))
    assert str(caught.value) == f"verifier.{key}={value}: expected {expected}"


def test_greedy_candidates_would_all_be_the_same():
    config = plain(compose(["variant=vstar", "sampling=hot"]))
    where = "verifier.callbacks.candidates"
    with pytest.raises(ConfigError) as caught:
        validate(changed(config, f"{where}.sampler.temperature", 0.0))
    assert str(caught.value).startswith(f"{where}.samples=128 and temperature 0 clash")
    assert str(caught.value).endswith(f"add {where}.sampler.temperature=0.7")


@pytest.mark.parametrize("phase", ["generate", "rationalize"])
def test_what_begins_a_verifier_is_not_trained_on_samples(default, phase):
    """The model that KeepSFT keeps is that of the first iteration."""
    names = ("generate", "rationalize")
    keep = {"_target_": "star_exp.callbacks.keep.KeepSFT"}
    config = changed(default, "callbacks.mine", keep)
    for name in names:
        config = changed(config, f"callbacks.{name}.first", 1 if name == phase else 2)
    said = rf"^callbacks\.{phase}\.first=1 and callbacks\.mine clash: .*\.first=2, or [^\n]*$"
    with pytest.raises(ConfigError, match=said):
        validate(config)
    validate(changed(config, f"callbacks.{phase}.first", 2))
    validate(changed(config, "data.phases", [name for name in names if name != phase]))
    validate(changed(config, "callbacks.mine", None))


def test_a_round_of_samples_before_there_is_a_generator_is_refused():
    words = ["variant=vstar", "sampling=hot"]
    validate(plain(compose(words)))
    with pytest.raises(ConfigError, match=r"^callbacks\.generate\.first=1 and callbacks\.keep "):
        validate(plain(compose([*words, "callbacks.generate.first=1"])))


def test_general_text_is_read_before_a_run_as_far_as_a_run_reads_it(default, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "a"}\n{"text": 5}\n')
    target = {"_target_": "star_exp.data.general.GeneralText", "share": 0.1, "path": str(path)}
    with pytest.raises(ConfigError, match=r"^data\.general: text\.jsonl line 2: 'text' is 5"):
        validate(changed(default, "data.general", target))
    validate(changed(default, "data.general", {**target, "texts": 1}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=smollm2_135m"], "Arithmetic has no exemplars for a few-shot prompt"),
        (["model=smollm2_135m", "task=jsonl"], "give task.exemplars_from=FILE"),
        (["task=strategyqa"], "experiment=star_strategyqa"),
        (["diagnostics=perplexity", "callbacks.perplexity.path=no.txt"], "perplexity.path=no.txt"),
        (
            ["ood=word_problems", "callbacks.other_tasks.tasks.svamp.path=no"],
            "callbacks.other_tasks.tasks.svamp: callbacks.other_tasks.tasks.svamp.path=no: no does",
        ),
        (["ood=subtraction", "callbacks.other_tasks.tasks.subtraction.base=99"], "subtraction: "),
        (["ood=subtraction", "callbacks.other_tasks.split=tset"], "tset"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_would_end_a_run_only_after_hours_is_refused_before_it(words, said, tmp_path):
    for task in ("jsonl", "strategyqa"):
        if f"task={task}" in words:
            words = [*words, *local(task, tmp_path)]
    for task in ("multiarith", "asdiv") if "ood=word_problems" in words else ():
        _, path = local(task, tmp_path)
        words = [*words, path.replace("task.", f"callbacks.other_tasks.tasks.{task}.")]
    with pytest.raises(ConfigError, match=re.escape(said)):
        validate(plain(compose(words)))


def test_a_task_is_built_and_read_once(default, monkeypatch):
    from star_exp.config import checks

    built = []
    monkeypatch.setattr(checks, "build", lambda node: built.append(node) or build(node))
    validate(default)
    assert [node for node in built if "tasks" in node["_target_"]] == [default["task"]]


@pytest.mark.parametrize("filters", ["agreement", "correct"])
def test_chance_hits_are_kept_only_where_samples_agree_or_one_says_so(filters, tmp_path):
    words = ["experiment=star_strategyqa", *local("strategyqa", tmp_path)]
    if filters == "correct":
        words += ["data.filters=[{_target_: star_exp.filters.Correct}]"]
        with pytest.raises(ConfigError, match=r"\+chance_hits=keep"):
            validate(plain(compose(words)))
        kept = plain(compose([*words, "+chance_hits=keep"]))
        assert named(kept) == named(plain(compose(words)))
        validate(kept)
        words += ["variant=direct"]  # what is not sampled is hit by no chance
    validate(plain(compose(words)))


@pytest.mark.parametrize("name", CHOICES["model"])
def test_adapters_learn_faster_than_whole_models(name):
    if name == "hf":
        return
    config = plain(compose([f"model={name}"]))
    adapters = config["model"].get("lora", {}).get("rank", 0) > 0
    whole = {"tiny": 5e-4}.get(name, 2e-5)
    assert config["module"]["learning_rate"] == (2e-4 if adapters else whole)


def test_a_reasoner_is_asked_in_a_chat_and_has_room_to_think():
    config = plain(compose(["model=qwq_32b", "task=gsm8k"]))
    assert config["data"]["prompts"]["chat"] and config["sampling"]["max_new_tokens"] >= 4096


def test_an_experiment_asks_for_samples_of_the_phases_that_there_are():
    for variant, phases in (("star", {"generate", "rationalize"}), ("direct", set())):
        callbacks = plain(compose(["experiment=star_strategyqa", f"variant={variant}"]))[
            "callbacks"
        ]
        asked = {name for name, node in callbacks.items() if node and node.get("samples") == 5}
        assert asked == phases


def test_the_length_that_a_clash_asks_for_is_enough_and_no_more(default):
    with pytest.raises(ConfigError) as caught:
        validate(changed(default, "sampling.max_new_tokens", 1))
    found = re.search(r"sampling\.max_new_tokens=(\d+) or more", str(caught.value))
    assert found
    enough = int(found[1])
    validate(changed(default, "sampling.max_new_tokens", enough))
    with pytest.raises(ConfigError):
        validate(changed(default, "sampling.max_new_tokens", enough - 1))


def test_validation_changes_nothing(default):
    before = deepcopy(default)
    validate(default)
    assert default == before


def test_a_near_miss_is_named_and_else_all_there_are():
    assert did_you_mean("max_digit", ["max_digits", "min_digits"]) == "did you mean 'max_digits'?"
    assert did_you_mean("zzz", ["b", "a"]) == "expected one of: a, b"


# Signatures


SOURCE = '''
from __future__ import annotations
import dataclasses
from dataclasses import dataclass
from typing import ClassVar
from .base import Distant, Record

class Plain:
    def __init__(self, a, b: int, c: float = 1.0, *, d: str, e: bool = False): ...

class Inherits(Plain):
    def other(self): ...

class InheritsFromAfar(Distant):
    pass

class Open:
    def __init__(self, a: int, **kwargs): ...

class Nothing:
    pass

@dataclass(frozen=True)
class Data(Record):
    """x"""
    a: int
    b: float = 1.0
    stop = ("not a field",)

    def method(self): ...

@dataclasses.dataclass
class Qualified:
    a: int

def function(a: int, b: str = "x"): ...

Alias = Plain

try:
    from .base import Distant as Tried
except ImportError:
    pass

class Overloaded:
    @typing.overload
    def __init__(self, a: int): ...
    @typing.overload
    def __init__(self, a: str, b: int): ...
    def __init__(self, a, b=0): ...
'''
BASE = """
from dataclasses import dataclass

class Distant:
    def __init__(self, far: int): ...

@dataclass
class Record:
    first: str
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package that breaks when it is imported: it may only be read."""
    folder = tmp_path / "unimportable"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from .inside import Plain\nfrom .inside import Data as D\n"
    )
    (folder / "inside.py").write_text(f"raise ImportError('read me only')\n{SOURCE}")
    (folder / "base.py").write_text(f"raise ImportError('read me only')\n{BASE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "unimportable"


@pytest.mark.parametrize(
    ("name", "required", "optional"),
    [
        ("inside.Plain", "a b d", "c e"),
        ("inside.Inherits", "a b d", "c e"),
        ("inside.InheritsFromAfar", "far", ""),
        ("inside.Open", "a", ""),
        ("inside.Nothing", "", ""),
        ("inside.Data", "first a", "b"),
        ("inside.Qualified", "a", ""),
        ("inside.function", "a", "b"),
        ("Plain", "a b d", "c e"),
        ("D", "first a", "b"),
    ],
)
def test_a_constructor_is_read_from_its_source(package, name, required, optional):
    found = signature(f"{package}.{name}")
    assert found is not None
    parameters = found.parameters
    assert {key for key in parameters if parameters[key].required} == set(required.split())
    assert {key for key in parameters if not parameters[key].required} == set(optional.split())
    assert found.open == (name == "inside.Open")


@pytest.mark.parametrize("name", ["Alias", "Tried"])
def test_what_is_defined_in_another_way_is_not_refused(package, name):
    signature(f"{package}.inside.{name}")


def test_an_overloaded_constructor_is_the_one_that_is_called(package):
    found = signature(f"{package}.inside.Overloaded")
    assert found is None or found.open or set(found.parameters) == {"a", "b"}


def test_trainer_is_found_through_its_reexports_without_being_imported():
    script = (
        "import sys; from star_exp.config.signatures import signature;"
        "found = signature('pytorch_lightning.Trainer');"
        "print(*found.parameters); print(*{'torch', 'pytorch_lightning'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    names, imported = done.stdout.splitlines()
    assert {"accelerator", "devices", "max_epochs", "callbacks"} <= set(names.split())
    assert imported == ""


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("star_exp.schedule.GrowingStep", "GrowingSteps"),
        ("star_exp.filters.correct", "Correct"),
        ("star_exp.filter.Correct", "filters"),
    ],
)
def test_a_wrong_path_is_not_found_and_what_is_near_is_known(target, near):
    with pytest.raises(NotFound) as caught:
        signature(target)
    message, *rest = caught.value.args
    assert target in message
    assert did_you_mean(*rest) == f"did you mean {near!r}?"


def test_what_could_be_meant_is_what_a_module_defines_or_a_package_gathers():
    with pytest.raises(NotFound) as caught:
        signature("star_exp.filters.Nope")
    assert {"Correct", "edit_distance"} < set(caught.value.args[2])
    assert not {"Callable", "Counter", "lru_cache", "_annotations"} & set(caught.value.args[2])
    with pytest.raises(NotFound) as caught:
        signature("star_exp.metrics.nope")
    assert {"METRICS", "pass_at_k", "registry"} <= set(caught.value.args[2])
    assert not any(name.startswith("_") for name in caught.value.args[2])


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(NotFound, match="no package 'no_such_package'"):
        signature("no_such_package.Thing")


def test_a_module_is_no_class():
    with pytest.raises(NotFound, match="is a module"):
        signature("star_exp.schedule")


@pytest.mark.parametrize("target", ["math.sqrt", "builtins.dict", "datasets.Dataset.from_dict"])
def test_what_is_not_python_source_is_left_to_the_constructor(target):
    assert signature(target) is None


@pytest.mark.parametrize(
    "target",
    ["torch.nn.Linear", "transformers.AutoModelForCausalLM", "numpy.array", "functools.partial"],
)
def test_what_can_be_imported_is_never_refused(target):
    """Star imports, lazy modules, compiled names: what can't be read is no fault of the user."""
    found = signature(target)
    assert found is None or found.open


@pytest.mark.parametrize(
    ("annotation", "fitting", "unfitting"),
    [
        ("int", [0, -3], [1.5, "1", True, None, [1]]),
        ("float", [0, 1.5, float("inf")], ["1.5", True, None]),
        ("str", ["", "x"], [1, None, ["x"], True]),
        ("bool", [True, False], [0, 1, "true", None]),
        ("Path", ["/tmp"], [1, None]),
        ("None", [None], [0, ""]),
        ("int | None", [1, None], ["x", 1.5]),
        ("Optional[int]", [1, None], ["x"]),
        ("Union[int, str]", [1, "x"], [None, 1.5]),
        ("typing.Union[int, None]", [1, None], ["x"]),
        ("'int | None'", [1, None], ["x"]),
        ("Literal['a', 'b']", ["a", "b"], ["c", None, 1]),
        ("Literal['a'] | None", ["a", None], ["b"]),
        ("list[int]", [[], [1, 2]], [1, "12", ["x"], [1, None], None]),
        ("Sequence[str]", [[], ["a"]], ["a", [1], None]),
        ("collections.abc.Sequence[float]", [[1, 2.5]], [["x"]]),
        ("tuple[float, ...]", [[1, 2.5]], [["x"], 1]),
        ("dict[str, int]", [{}, {"a": 1}], [[], 1, None]),
        ("Mapping[str, str]", [{"a": "b"}], [[]]),
        ("Sampler", [{}, 1, None, "x"], []),
        ("Callable[[int], int]", [1, None], []),
        ("Any", [1, None, "x", []], []),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_value_fits_its_annotation(annotation, fitting, unfitting):
    node = ast.parse(annotation, mode="eval").body
    for value in fitting:
        assert accepts(node, value), value
    for value in unfitting:
        assert not accepts(node, value), value


def test_anything_fits_where_there_is_no_annotation():
    assert all(accepts(None, value) for value in (1, None, "x", [], {}))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("Literal['a', 'b']", ["a", "b"]),
        ("Literal['a'] | None", ["a"]),
        ("Literal[1, 2]", []),
        ("str", []),
    ],
)
def test_the_strings_of_a_literal_are_known(annotation, expected):
    assert literal_choices(ast.parse(annotation, mode="eval").body) == expected


# Hashes and differences

# what does not change what is computed: where it runs, where it writes, how far it goes
UNHASHED = ("name", "iterations", "run_dir", "cache_dir", "tags", "optimized_metric", "choices")
UNHASHED = (*UNHASHED, "logger", "callbacks.panel", "trainer.accelerator", "trainer.devices")
UNHASHED = (*UNHASHED, "trainer.strategy", "cell", "samples")  # samples: what reads it is hashed


def keys(node: dict, prefix: str = "") -> list[str]:
    """The dotted keys of all leaves."""
    return [
        name
        for key, value in node.items()
        for name in (
            keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
        )
    ]


def named(config: dict) -> str:
    return cell_hash(OmegaConf.create(config))


def computes(key: str) -> bool:
    speed = (".engine", ".cache_gib", ".batch_size")
    if "sampl" in key and key.endswith(speed):
        return False
    return not any(key == other or key.startswith(f"{other}.") for other in UNHASHED)


def test_every_key_that_changes_the_computation_changes_the_hash(default):
    before = named(default)
    for key in keys(default):
        assert (named(changed(default, key, "other")) != before) == (
            computes(key) and key != "seed"
        ), key


@pytest.mark.parametrize(
    "words",
    [
        ["seed=5"],
        ["logger=csv"],
        ["logger=none"],
        ["iterations=99"],
        ["run_dir=/somewhere/else"],
        ["cache_dir=/somewhere/else"],
        ["trainer=ddp_cpu"],
        ["name=study", "tags=[a,b]"],
        ["callbacks.panel=null"],
        ["callbacks.panel.every_s=1"],
    ],
    ids=" ".join,
)
def test_where_and_how_far_a_run_goes_is_not_in_its_name(default, words):
    assert named(plain(compose(words))) == named(default)


def test_a_variant_is_in_the_name():
    names = {plain(compose([f"variant={name}"]))["run_dir"] for name in CHOICES["variant"]}
    assert len(names) == len(CHOICES["variant"])


def test_how_many_samples_are_drawn_is_in_the_name_however_it_is_said():
    runs = {
        words: plain(compose(["variant=rest_em", *words.split()]))["cell"]
        for words in ("samples=4", "samples=8", "callbacks.generate.samples=4", "samples=32", "")
    }
    assert runs["samples=4"] == runs["callbacks.generate.samples=4"]
    assert runs["samples=32"] == runs[""]  # as many as the variant says itself
    assert len({*runs.values()}) == 3


def test_the_order_of_keys_does_not_change_the_hash(default):
    assert named(dict(reversed(default.items()))) == named(default)


def test_the_hash_is_the_same_in_every_process(default):
    script = (
        "from omegaconf import OmegaConf; from star_exp.config.compose import *;"
        "print(cell_hash(OmegaConf.create(plain(compose()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == named(default)


@pytest.mark.parametrize("words", [["seed=1"], ["task.seed=${seed}", "seed=1"]], ids=" ".join)
def test_the_seeds_of_a_cell_share_its_hash_before_and_after_interpolation(words):
    """The hash is of the config as written, in which task.seed=${seed} is the same for all."""
    folders, groups = set(), set()
    for seed in ("seed=1", "seed=2"):
        config = plain(compose([*words, seed]))
        folders.add(Path(config["run_dir"]).parent.name)
        groups.add(config["cell"])
    assert len(folders) == len(groups) == 1


def test_a_difference_is_named_by_its_key_and_both_values(default):
    mine = changed(changed(default, "task.max_digits", 3), "seed", 9)
    theirs = changed(default, "task.max_digits", 7)
    assert differences(mine, theirs) == ["seed: 0 -> 9", "task.max_digits: 7 -> 3"]


def test_a_key_that_only_one_config_has_is_a_difference(default):
    mine = changed(default, "task.extra", 1)
    assert differences(mine, default) == ["task.extra: '(absent)' -> 1"]
    assert differences(default, mine) == ["task.extra: 1 -> '(absent)'"]


def test_a_config_does_not_differ_from_itself_run_elsewhere_and_for_longer(default):
    there = default
    for key in keys(default):
        if not computes(key):
            there = changed(there, key, "other")
    assert differences(default, there) == []


# The command line

TRIES = """
import contextlib, io, json, sys, traceback, types
fake = types.ModuleType("star_exp.run")
fake.run = lambda config, overrides: print("STARTED", json.dumps(config))
sys.modules["star_exp.run"] = fake
from star_exp.cli import main
for words in json.load(sys.stdin):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(["run", *words])
        except BaseException:
            code = "a traceback"
            traceback.print_exc()
    said = {"code": code, "output": output.getvalue(), "errors": errors.getvalue()}
    print(json.dumps({**said, "imported": sorted({*sys.argv[1:]} & set(sys.modules))}))
"""

REFUSED = {
    "task.max_digit=3": ["task.max_digit", "did you mean", "max_digits'"],
    "trainer.acelerator=cpu": ["trainer.acelerator", "did you mean", "accelerator'"],
    "callbacks.evaluate.split=[dev]": ["callbacks.evaluate.split", "did you mean", "splits'"],
    "sampling.temprature=1": ["sampling.temprature", "did you mean", "temperature'"],
    "sede=1": ["sede", "did you mean 'seed'"],
    "~task.max_digit": ["task.max_digit"],
    "+callbacks.evaluate.split=[dev]": ["callbacks.evaluate.split", "did you mean 'splits'"],
    "task.max_digits=abc": ["task.max_digits='abc'", "int"],
    "variant=startt": ["variant=startt", "did you mean 'star'"],
    "vriant=star": ["vriant", "did you mean 'variant'"],
    "experiment=nope": ["experiment", "nope"],
    "experiment=[star_strategyqa,star_gsm8k_smollm2]": ["star_strategyqa", "one name each"],
    "experiment=compare_addition variant=[star,bstar]": ["variant=[star,bstar]", "one name each"],
    "experiment=compare_addition variant=bstar reward=process": ["reward=process has no effect"],
    "+verifier.data.rounds=1": ["verifier=none clash"],
    "+reward.scale=logit": ["reward=none clash"],
    "+verifier.iterations=2": ["verifier", "verifier=none clash", "add verifier=dpo"],
    "+reward.model.callbacks.score.samples=2": ["reward", "reward=none clash", "reward=process"],
    "+typo=1": ["typo", "expected one of"],
    "task.format=scratchpd": ["task.format", "did you mean 'scratchpad'"],
    "task.min_digits=5 task.max_digits=3": ["task.min_digits=5", "task.max_digits=3"],
    "sampling.max_new_tokens=8": ["sampling.max_new_tokens=8", "task.format"],
    "task.base=40": ["task.base=40", "2 to 36"],
    "name=${nope}": ["nope"],
    "name=${oc.env:STAR_EXP_NOT_SET}": ["STAR_EXP_NOT_SET"],
    "seed=???": ["seed"],
    "seed=0,1": ["seed=0,1", "--multirun"],
    "task.max_digits": ["task.max_digits"],
    "--config-name=nope": ["nope"],
    # hostile
    "task=null": ["task"],
    "logger=null": ["logger"],
    "debug=null": [],
    "=3": [],
    "task=[]": ["task"],
    "~task": ["task"],
    "model._target_=5": ["model._target_"],
    "callbacks.panel=5": ["callbacks.panel"],
    "task.max_digits={a:1}": ["task.max_digits"],
    "-m seed=0,1 task.max_digit=3": ["task.max_digit"],
    "-m task.max_digits=abc,3": ["task.max_digits='abc'"],
}
ACCEPTED = [
    "",
    "+trainer.precision=bf16-true",
    "task.max_digits=3 task.max_digits=4",
    "~callbacks.panel",
    "logger=[csv,tensorboard]",
    "data.filters=[]",
    "hydra.searchpath=[file://{mine}] task=mine",
]
MINE = """
from star_exp.tasks.arithmetic import Arithmetic
class Mine(Arithmetic):
    def __init__(self, level: int = 1):
        super().__init__(max_digits=level)
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> dict[str, dict]:
    """What the command line says to each of these, in a folder with a class of the user's own."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "task").mkdir()
    (folder / "task" / "mine.yaml").write_text("_target_: mine_of_the_user.Mine\nlevel: 2\n")
    (folder / "mine_of_the_user.py").write_text(MINE)
    asked = [*REFUSED, *ACCEPTED, "hydra.searchpath=[file://{mine}] task=mine task.level=high"]
    done = subprocess.run(
        [sys.executable, "-c", TRIES, *HEAVY],
        input=json.dumps([words.replace("{mine}", str(folder)).split() for words in asked]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("words", REFUSED)
def test_a_command_that_no_run_could_follow_is_refused_with_a_word_of_help(tried, words):
    said = tried[words]
    assert "STARTED" not in said["output"] or words.startswith("-m"), "it was let through"
    assert said["code"] == 1, said["errors"]
    assert "Traceback" not in said["errors"]
    for part in REFUSED[words]:
        assert part in said["errors"]


@pytest.mark.parametrize("words", REFUSED)
def test_a_command_is_refused_without_importing_torch(tried, words):
    assert tried[words]["imported"] == []


@pytest.mark.parametrize("words", ACCEPTED)
def test_a_command_that_makes_sense_is_let_through(tried, words):
    assert tried[words]["code"] == 0, tried[words]["errors"]
    assert tried[words]["output"].startswith("STARTED")


def test_a_folder_of_the_users_own_configs_and_classes_is_found_and_checked(tried):
    said = tried["hydra.searchpath=[file://{mine}] task=mine"]
    assert '"task": {"_target_": "mine_of_the_user.Mine", "level": 2}' in said["output"]
    refused = tried["hydra.searchpath=[file://{mine}] task=mine task.level=high"]
    assert refused["code"] == 1
    assert "task.level='high' is a string; expected int" in refused["errors"]


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "star_exp", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )


def imported(errors: str) -> set[str]:
    """The heavy packages among what -X importtime lists."""
    return set(re.findall(r"\|\s+(\w+)$", errors, flags=re.MULTILINE)) & set(HEAVY)


def test_a_wrong_value_ends_the_command_with_1_and_without_torch(tmp_path):
    done = command("run", "task.max_digits=abc", cwd=tmp_path)
    assert done.returncode == 1
    assert "task.max_digits='abc'" in done.stderr
    assert "Traceback" not in done.stderr
    assert imported(done.stderr) == set()
    assert "omegaconf" in done.stderr  # or the look for torch would find nothing anywhere
    assert [*tmp_path.iterdir()] == []


def test_traceback_shows_where_an_error_came_from(tmp_path):
    done = command("run", "task.max_digits=abc", "--traceback", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_cfg_job_prints_the_config_as_yaml_without_torch(tmp_path):
    done = command("run", "--cfg", "job", "task.max_digits=3", cwd=tmp_path)
    assert done.returncode == 0
    printed = yaml.safe_load(done.stdout)
    assert printed["task"]["max_digits"] == 3
    assert set(printed) == set(plain(compose()))
    assert imported(done.stderr) == set()
    assert [*tmp_path.iterdir()] == []


def test_an_unknown_command_is_refused_with_a_near_miss(tmp_path):
    done = command("rum", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'run'" in done.stdout + done.stderr
