"""A run directory as it is verified: what its config names, built again; and what a check says."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_object
from omegaconf import OmegaConf
from yaml import YAMLError

from star_exp import verifying
from star_exp.callbacks.generate import Written
from star_exp.callbacks.other_tasks import OtherTasks
from star_exp.callbacks.phase import Phase
from star_exp.callbacks.report import read_lines
from star_exp.clock import Clock
from star_exp.config.build import build
from star_exp.data.iterations import IterationData
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.records import Problem, Rollout
from star_exp.rewards import Reward
from star_exp.schedule import draw
from star_exp.scores import ScoreStore
from star_exp.seeds import derive
from star_exp.store import RolloutStore
from star_exp.tasks.base import Task

NOTHING_YET = {"status": "running", "iterations": []}  # of results.json
SPLITS = ("train", "dev", "test", "ood")
BEFORE = re.compile(r"generate|rationalize|balance-.*")  # what M_{n-1} writes for iteration n
AFTER = re.compile(r"(dev|test|ood)(-candidates)?|ood-.*|faithful-.*")  # what measures M_n


@dataclass
class Check:
    """
    said: what was looked at; "" if nothing was.
    faults: what was found, where, and what was expected.
    left_out: what could not be looked at, and why.
    """

    name: str
    said: str = ""
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Stored:
    """A run directory, and what its config names built again: all that callbacks read of a trainer
    when they measure."""

    def __init__(self, root: Path):
        self.root = self.default_root_dir = root
        self.config = read_config(root)
        self.manifest = _read_json(root / "manifest.json")
        made = root / "results.json"
        self.results: dict[str, Any] = _read_json(made) if made.exists() else dict(NOTHING_YET)
        self.max_epochs = self.config["iterations"]
        self.finished = self.results["status"] == "finished"
        self.store = RolloutStore(root / "rollouts")
        self._problems: dict[tuple[str, ...], dict[str, Problem]] = {}

    @cached_property
    def lines(self) -> dict[int, dict[str, float]]:
        """metrics.jsonl, by iteration."""
        with _readable(self.root / "metrics.jsonl"):
            lines = read_lines(self.root)
            for iteration, name, value in ((n, *each) for n in lines for each in lines[n].items()):
                if not isinstance(value, int | float):
                    raise ValueError(f"iteration {iteration}: {name} is {value!r}, no number")
        return lines

    @cached_property
    def generator(self) -> Path | None:
        """The run whose rollouts a verifier's is on; None: it is no verifier's."""
        if "iteration" not in self.config["data"]:
            return None
        named = self.config["from"]
        found = Path(named) if named is not None else self.root.resolve().parents[1]
        if not (found / "rollouts").exists():
            raise UserError(
                f"{self.root} is the run of a verifier on {found}, which is no run directory here; "
                "call this from the folder that it was run in, or put that run back"
            )
        return found

    @cached_property
    def task(self) -> Task:
        return build(self.config["task"])

    @cached_property
    def datamodule(self) -> IterationData:
        handed: dict[str, Any] = {}
        if self.generator is not None:
            scores = ScoreStore(self.root / "scores")
            handed = {"generator": self.generator, "scores": scores}
        if self.config.get("reward"):
            name, scale = self.results["reward"]["name"], self.config["reward"]["scale"]
            handed["reward"] = Reward(name, _never, scale)
        return build(
            self.config["data"],
            task=self.task,
            store=self.store,
            clock=Clock(self.root / "clock"),
            seed=self.config["seed"],
            **handed,
        )

    @cached_property
    def callbacks(self) -> list[Phase]:
        """The phases in the config's order, without those that show what the others did."""
        handed = {"star_exp.callbacks.balance.Balance", "star_exp.callbacks.keep.KeepSFT"}
        named = self.config["callbacks"].items()
        nodes = [node for name, node in named if node and name not in verifying.SHARED]
        return [
            build(node, **({"folder": self.root} if node["_target_"] in handed else {}))
            for node in nodes
            if _is_phase(get_object(node["_target_"]))
        ]

    @cached_property
    def lightning_module(self) -> LanguageModel | None:
        """The module around the last model, the generator's where it is a verifier's; None where
        there is none yet."""
        folder = (self.generator or self.root) / "model"
        if not folder.exists():
            return None
        source = build(self.config["model"])
        return build(self.config["module"], base=partial(source.load, folder))

    @property
    def outdated(self) -> bool:
        """Whether it is a verifier's, and its generator has gone on since."""
        if self.generator is None:
            return False
        later = RolloutStore(self.generator / "rollouts").iterations()
        return max(later, default=0) > self.config["data"]["iteration"]

    @cached_property
    def others(self) -> dict[str, tuple[Task, dict[str, Problem]]]:
        """By phase: a task that is not the run's, and the problems of it that are measured."""
        measuring = [each for each in self.callbacks if isinstance(each, OtherTasks)]
        found = {}
        for each, phase, task in ((e, *both) for e in measuring for both in e.phases.items()):
            problems = task.problems(each.split)
            seed = derive(self.config["seed"], "other tasks", phase.removeprefix("ood-"))
            drawn = draw(problems, min(each.size, len(problems)), seed)
            found[phase] = task, {problem.id: problem for problem in drawn}
        return found

    def asking(self, phase: str) -> tuple[Task, dict[str, Problem]]:
        """The task of a phase, and the problems by id that it may ask."""
        if phase in self.others:
            return self.others[phase]
        named = "train" if BEFORE.fullmatch(phase) else phase.removesuffix("-candidates")
        splits = (named,) if named in SPLITS else SPLITS
        if splits not in self._problems:
            self._problems[splits] = _by_id(self.task, splits)
        return self.task, self._problems[splits]

    def measured(self, phase: str) -> set[str]:
        """The problems that a phase asks all of; none where it may ask some of them."""
        whole = phase in self.others or phase.removesuffix("-candidates") in SPLITS[1:]
        return {*self.asking(phase)[1]} if whole else set()

    @cached_property
    def written(self) -> set[str]:
        """The phases that no model samples."""
        return {each.phase for each in self.callbacks if isinstance(each, Written)}


def _by_id(task: Task, splits: Sequence[str]) -> dict[str, Problem]:
    found: dict[str, Problem] = {}
    for split in splits:
        try:
            found |= {problem.id: problem for problem in task.problems(split)}
        except ValueError:  # the task has no such split
            continue
    return found


def _is_phase(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, Phase)


def _never(rollouts: Sequence[Rollout]) -> list[float]:
    raise AssertionError("rewards are stored with the rollouts, and not given again")


def read_config(root: Path) -> dict[str, Any]:
    with _readable(root / "config.yaml"):
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(root / "config.yaml")))


def _read_json(path: Path) -> dict[str, Any]:
    with _readable(path):
        return json.loads(path.read_text())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, YAMLError) as error:
        raise UserError(f"{path} can't be read ({error}); it was changed after the run") from error
