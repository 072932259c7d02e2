"""What comes after a generator: the fit of a verifier on what its run wrote (V-STaR, section 3).

    RUN_DIR/sft.safetensors         G_SFT, kept by the generator's run
    RUN_DIR/verifier/iter_004/      a run directory of its own, of the generator's iteration 4
        verifier.safetensors        the verifier
        scores/iter_002/...         what it gave the candidates after its second iteration

A verifier's fit is a run as any other, with the verifier's module, data and callbacks: it resumes,
reports and logs in the same way. `star-exp run variant=vstar` makes it when the generator is done;
`star-exp run variant=vstar_verifier from=RUN_DIR` for a run that was made before.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from star_exp.callbacks.keep import MADE, SFT
from star_exp.config.build import build
from star_exp.errors import UserError
from star_exp.models.base import BaseModel, Progress
from star_exp.modules import packing
from star_exp.modules.base import Load, put_trained, started_from
from star_exp.modules.verifier import Verifier, fitting, logprobs, score
from star_exp.prompts import Prompts
from star_exp.records import Rollout
from star_exp.sampling.base import Policy
from star_exp.tasks.base import Task

Config = dict[str, Any]
WEIGHTS = "verifier.safetensors"  # of a verifier's run, when it is done
SHARED = ("report", "panel")  # callbacks that every fit has
OF_SFT = ("Correct", "Distinct")  # filters, as in variant=sft
PICKED = (  # what is measured of a verifier, and of what it picks from
    *("pass@", "majority@", "distinct_equations", "best_of_", "reward@", "weighted_majority@"),
    *("auc", "ece"),
)


def after(config: Config, iteration: int) -> Config:
    """The config of the fit that follows a generator of so many iterations."""
    return _fit(config, Path(config["run_dir"]) / "verifier" / f"iter_{iteration:03d}", iteration)


def alone(config: Config) -> Config:
    """The config of a fit by itself, on the run that `from` names. UserError if that has no end."""
    results = _json(Path(config["from"]) / "results.json")
    if results["status"] != "finished":
        raise UserError(
            f"from={config['from']}: that run is {results['status']}; finish it first, by the "
            "command that it was started with"
        )
    return _fit(config, Path(config["run_dir"]), results["final"]["iteration"])


def _fit(config: Config, root: Path, iteration: int) -> Config:
    mine = config["verifier"]
    shared = {name: config["callbacks"].get(name) for name in SHARED}
    return {
        **config,
        **{name: mine[name] for name in ("iterations", "module")},
        "data": {**mine["data"], "iteration": iteration},
        "callbacks": {**mine["callbacks"], **shared},
        "run_dir": str(root),
        **{"verifier": None, "reward": None, "patience": None},
    }


def sft(config: Config, generator: Path, run: Callable[[Config], Any]) -> Path:
    """G_SFT of the run that a verifier's fit is on; made here, by `run`, if that run kept none.

    Then it is M_0 after two passes over the solutions that come with the problems (V-STaR,
    section 4, for GSM8K), in a run directory below the verifier's.
    """
    if (generator / SFT).exists():
        return generator / SFT
    theirs: Any = OmegaConf.to_container(OmegaConf.load(generator / "config.yaml"))
    root = Path(config["run_dir"]) / MADE
    mine = {name: config[name] for name in ("name", "seed")}
    run(of_solutions({**theirs, **mine, "run_dir": str(root)}))
    return root / SFT


def of_solutions(config: Config) -> Config:
    """The config of a run that makes G_SFT, and ends with it."""
    kept = {name: config["callbacks"].get(name) for name in ("evaluate", *SHARED)}
    return {
        **config,
        "iterations": 1,
        **{"patience": None, "from": None, "verifier": None, "reward": None},
        "data": {
            **config["data"],
            "phases": ["solutions"],
            "schedule": {"_target_": "star_exp.schedule.Epochs", "epochs": 2.0},
            "filters": [{"_target_": f"star_exp.filters.{name}"} for name in OF_SFT],
            "replay": 0.0,
        },
        "callbacks": {
            "solutions": {"_target_": "star_exp.callbacks.generate.Solutions"},
            "keep": {"_target_": "star_exp.callbacks.keep.KeepSFT"},
            "reset": {"_target_": "star_exp.callbacks.reset.ResetToBase"},
            **kept,
        },
    }


def picked(root: Path) -> dict[str, float]:
    """What a verifier's run says of how it picks, for the results of the generator's."""
    final = _json(root / "results.json")["final"]
    return {
        name: value for name, value in final.items() if name.partition("/")[2].startswith(PICKED)
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"from={path.parent}: there is no {path.name}; give the folder of a run")
    return json.loads(path.read_text())


def fingerprint_in(root: Path) -> str:
    """Of the weights of the verifier in a run directory: the same ones give the same scores."""
    with (root / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()


@dataclass(frozen=True)
class Picker:
    """A trained verifier, to pick from any samples. name: in metrics, dev/best_of_16/dpo; root: of
    its run."""

    name: str
    root: Path
    verifier: Verifier
    prompts: Prompts  # that it was trained with
    sft: Load  # the reference, where its scores need one

    def check_reads(self, policy: Policy, setting: str) -> None:
        """UserError if it reads other tokens than this policy writes; setting: that named it."""
        if self.verifier.policy.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise UserError(
                f"{setting}{self.root} reads other tokens than the model writes that it is to "
                "judge; give a verifier of a model with the same tokenizer"
            )

    def fingerprint(self) -> str:
        return fingerprint_in(self.root)

    def scores(self, rollouts: Sequence[Rollout], task: Task) -> list[float]:
        """Of each rollout, in their order: the higher, the better."""
        policy, tokens = self.verifier.policy, fitting(self.verifier.model)
        asked = {rollout.problem: rollout.asked for rollout in rollouts}
        before = {name: self.prompts.training(policy, task, each) for name, each in asked.items()}
        examples = [
            self.verifier.example(task, before[rollout.problem], rollout) for rollout in rollouts
        ]
        reference = None
        if self.verifier.needs_reference:
            model = self.sft().model.to(self.verifier.device)  # type: ignore[arg-type]
            packing.enable(model)  # as in the fit
            reference = logprobs(model, examples, tokens)
        packing.enable(self.verifier.model)
        return score(self.verifier, examples, tokens, reference)


def picker(root: Path, progress: Progress) -> Picker:
    """The verifier of a verifier's run, on the base model that it was made with, whichever run it
    is to pick for. UserError where it is not finished, or where a reference that it needs is gone.
    """
    weights, settings = root / WEIGHTS, root / "config.yaml"
    for path in (settings, weights):
        if not path.exists():
            raise UserError(
                f"{root} holds no {path.name}: it is no verifier's run, or not finished; give the "
                "folder of one that is, such as RUN_DIR/verifier/iter_004"
            )
    config: Any = OmegaConf.to_container(OmegaConf.load(settings))
    source: BaseModel = build(config["model"])
    folder = source.prepare(build(config["task"]), Path(config["cache_dir"]), progress)
    base = partial(source.load, folder)
    verifier: Verifier = build(config["module"], base=base)
    put_trained(verifier, weights)
    generator = Path(config["from"]) if config["from"] else root.resolve().parents[1]
    kept = generator / SFT if (generator / SFT).exists() else root / MADE / SFT
    if verifier.needs_reference and not kept.exists():
        raise UserError(
            f"{root}: its scores need G_SFT, and there is neither {generator / SFT} nor {kept}; "
            "put the generator's run back where it was"
        )
    sft = partial(started_from, base, kept)
    prompts = build(config["data"]["prompts"])
    return Picker(config["callbacks"]["score"]["name"], root, verifier, prompts, sft)
