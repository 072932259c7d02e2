"""`star-exp dashboard`: a W&B workspace and a report that compare variants, made from the metrics.

    star-exp dashboard                                   of the project star-exp
    star-exp dashboard --project gsm8k --entity my_team --out gsm8k.json

Both are written as JSON, and saved in W&B where somebody is logged in; the same command again
brings those that it saved up to date. Runs are grouped by config_hash_no_seed: a line is the mean
over the seeds of one cell, its band their range. The fits that a run needs (its verifier, G_SFT, a
reward model) are W&B runs of its cell too, with a job type of their own, and are not shown.
"""

import argparse
import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from star_exp.config.compose import conf_dir
from star_exp.errors import UserError
from star_exp.files import write_json
from star_exp.metrics import METRICS, Metric

NAME = "star-exp: comparison of variants"
MEASURED = ("dev", "test", "ood", "ood/[*]")  # [*]: another task; * alone is any text
GROUPING = ("config_hash_no_seed", "choices.variant")  # the cell, and a name to read it by
SHOWN = "JobType = 'train'"  # loggers.RunInfo: not a run's verifier, which is of its cell too
COLUMNS = ("config:choices.value.variant", "config:seed.value", "summary:final/test/accuracy")


@dataclass(frozen=True)
class Section:
    """A section takes the metrics whose registered names fit one of its patterns.

    A metric goes to the first section that takes it. axis: a view of metrics that another section
    has already, over this instead of their own axis. first: opened, and part of the report.
    """

    name: str
    patterns: tuple[str, ...]
    text: str
    axis: str | None = None
    first: bool = False

    def takes(self, metric: Metric) -> bool:
        return any(fnmatchcase(metric.name, pattern) for pattern in self.patterns)


SECTIONS = (
    Section(
        "Accuracy over iterations",
        tuple(f"{split}/*accuracy*" for split in ("dev", "test", "ood")),
        "Iteration 0 is the base model, iteration n the model after n fine-tunings. dev is "
        "measured after each, test and ood of the first and the last.",
        first=True,
    ),
    Section(
        "Accuracy over tokens",
        tuple(f"{split}/accuracy" for split in MEASURED),
        "The same over the tokens that were sampled for training and trained on: a variant that "
        "samples more of each problem stands further to the right.",
        axis="cost/tokens",
        first=True,
    ),
    Section(
        "Accuracy over FLOPs",
        tuple(f"{split}/accuracy" for split in MEASURED),
        "The same over computation, prompts included.",
        axis="cost/flops",
        first=True,
    ),
    Section(
        "Coverage",
        ("*/coverage*", "generate/*accuracy", "rationalize/*accuracy*", "rationalize/leaked"),
        "The share of training problems with a right rationale, by itself or with the hint: what "
        "the next fine-tuning can learn from.",
        first=True,
    ),
    Section(
        "Diversity",
        ("*/distinct_*", "*/self_bleu"),
        "A variant whose samples become alike has little left to explore.",
        first=True,
    ),
    Section(
        "Exploration and balance",
        ("balance/*", "train/balance", "*/pass@[*]-[*]"),
        "B-STaR: what was chosen at each iteration, and the balance score of what any variant "
        "trained on. pass@k-s: s of k samples are right and different.",
        first=True,
    ),
    Section(
        "Several samples",
        ("*/pass@*", "*/majority@*", "*/weighted_majority@*", "*/best_of_*", "*/reward@*"),
        "What k samples of a problem are worth: that any is right, that a vote or a verifier "
        "picks a right one.",
    ),
    Section(
        "Verifiers and labels",
        ("*/auc*", "*/ece/*", "steps/*", "completions/*", "score/*", "*/candidates/*"),
        "Whether scores tell right from wrong, and what labels of steps cost.",
    ),
    Section("Cost", ("cost/*",), "Totals since the start of the run.", first=True),
    Section(
        "Cost of each phase",
        ("*/tokens", "*/prompt_tokens", "*/tokens_per_s", "*/seconds"),
        "Tokens and wall time of one iteration.",
    ),
    Section("Training", ("train/*",), "Loss and learning rate of each step, size of each set."),
    Section(
        "Forgetting and faithfulness",
        ("general/*", "faithful/*"),
        "What else changes with training.",
    ),
    Section(
        "Length and missing answers",
        ("*/length", "*/truncated", "*/unanswered", "*/check_failed", "*/problems"),
        "How long texts are, and how many gave nothing that could be judged.",
    ),
)
ARROWS = {"up": " ↑", "down": " ↓", "": ""}  # where it is better
ROLLOUTS = "Rollouts"  # a section of what is no number: tables and heat maps

HOW_TO_READ = (
    "A line is the mean over the seeds of one config (config_hash_no_seed), its band reaches from "
    "the lowest seed to the highest: with three seeds that is no confidence interval. On how many "
    "problems and seeds a number rests, its interval, and whether a difference is more than noise, "
    "`star-exp report` says. Compare runs of one task, and at the same cost."
)

SAVED = """query SavedViews($entity: String, $project: String, $type: String) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: $type) { edges { node { id name displayName } } }
  }
}"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("star-exp dashboard", description="Compare variants in W&B.")
    default = OmegaConf.select(OmegaConf.load(conf_dir() / "config.yaml"), "name")
    parser.add_argument("--project", default=default, help="the runs' name=; %(default)s")
    parser.add_argument("--entity", default="", help="your team; else your default")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/dashboard.json"),
        help="where the specification is written; %(default)s",
    )
    options = parser.parse_args(arguments)
    write_json(options.out, specification(options.entity, options.project))
    print(f"{options.out}: the specification of workspace and report")
    from star_exp.loggers import is_offline

    if is_offline():
        print(
            "Nobody is logged in to W&B, so nothing was saved there: `wandb login` (or "
            "WANDB_API_KEY), then the same command again. Until then `wandb leet` shows runs."
        )
        return 0
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # W&B prints each URL too
            urls = save(options.entity, options.project)
    except Exception as error:  # of sockets, requests, W&B and its server: who could list them?
        raise UserError(
            f"W&B did not save workspace and report ({options.entity or 'your default entity'}, "
            f"project {options.project}): {error}. See that --entity and --project are yours and "
            f"that there is a network, then try again; the specification is in {options.out}"
        ) from error
    print(*urls, sep="\n")
    return 0


def specification(entity: str, project: str) -> dict[str, Any]:
    """Workspace and report as W&B stores them. The same metrics give the same, ids included."""
    return {
        kind: made._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        for kind, made in (
            ("workspace", workspace(entity, project)),
            ("report", report(entity, project)),
        )
    }


def save(entity: str, project: str) -> list[str]:
    """Saves both in W&B, in place of what was saved before under that name; gives their URLs."""
    import wandb

    api = wandb.Api()
    entity = entity or api.default_entity or ""
    written = report(entity, project)  # before the workspace: it makes a project that is missing
    written.id = _saved(api, entity, project, "runs").get("id", "")
    written.save()
    shown = workspace(entity, project)
    saved = _saved(api, entity, project, "project-view")
    shown._internal_id, shown._internal_name = saved.get("id", ""), saved.get("name", "")
    shown.save()
    return [shown.url, written.url]


def workspace(entity: str, project: str) -> Any:
    """All sections, those that are read first opened."""
    ws, _ = _packages()
    made = ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        auto_generate_panels=False,
        sections=[
            *(
                ws.Section(name=section.name, panels=[*panels(section)], is_open=section.first)
                for section in SECTIONS
            ),
            ws.Section(name=ROLLOUTS, panels=[*_rollouts()]),
        ],
        runset_settings=ws.RunsetSettings(
            filters=SHOWN,
            groupby=[ws.Config(key) for key in GROUPING],
            pinned_columns=[*COLUMNS],
        ),
    )
    made._internal_runset_id = _id("workspace")
    return made


def report(entity: str, project: str) -> Any:
    """The sections that are read first, each with a word on how to read it."""
    _, wr = _packages()
    blocks: list[Any] = [wr.P(HOW_TO_READ), wr.TableOfContents()]
    for section in SECTIONS:
        if not section.first:
            continue
        # of the report's own project: to name one, W&B is asked for its number
        groupby = [f"config.{key}" for key in GROUPING]
        runset = wr.Runset(name="all runs", filters=SHOWN, groupby=groupby)
        runset._id = _id("report", section.name)
        grid = wr.PanelGrid(runsets=[runset], panels=[*panels(section)])
        blocks += [wr.H2(section.name), wr.P(section.text), grid]
    return wr.Report(entity=entity, project=project, title=NAME, blocks=blocks, width="fluid")


def panels(section: Section) -> Iterator[Any]:
    """A line plot for each metric of the section."""
    _, wr = _packages()
    for metric in metrics_of(section):
        several = "*" in metric.name
        plot = wr.LinePlot(
            title=metric.name + ARROWS[metric.better],
            x=section.axis or metric.axis,
            y=[] if several else [metric.name],
            metric_regex=regex(metric.name) if several else None,
            title_x=section.axis or metric.axis,
            title_y=metric.unit,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=100,
        )
        plot._id = _id(section.name, metric.name)
        yield plot


def metrics_of(section: Section) -> list[Metric]:
    """Those that it takes and, but for a view, no section before it does."""
    before = SECTIONS[: SECTIONS.index(section)]
    others = [] if section.axis else [other for other in before if not other.axis]
    return [
        metric
        for metric in METRICS
        if section.takes(metric) and not any(other.takes(metric) for other in others)
    ]


def regex(name: str) -> str:
    """What W&B finds the metrics of a registered name by; a * behind @ or - is a number."""
    numbers = re.sub(r"(?<=[@-])\*", r"\\d+", name)
    return "^" + numbers.replace("*", "[^/]+") + "$"


def _rollouts() -> Iterator[Any]:
    """What the models wrote, and the heat maps of what B-STaR chose from."""
    _, wr = _packages()
    for panel in (
        wr.WeavePanelSummaryTable(table_name="rollouts", layout=wr.Layout(w=24, h=12)),
        wr.MediaBrowser(title="balance score", media_keys=["balance"]),
    ):
        panel._id = _id(ROLLOUTS, type(panel).__name__)
        yield panel


def _saved(api: Any, entity: str, project: str, kind: str) -> dict[str, str]:
    """Id and name of the view that this command saved before; {} if there is none."""
    from wandb_workspaces._graphql import execute_graphql

    variables = {"entity": entity, "project": project, "type": kind}
    found = execute_graphql(api, SAVED, variables).get("project") or {"allViews": {"edges": []}}
    views = [edge["node"] for edge in found["allViews"]["edges"]]
    return next((view for view in views if view["displayName"] == NAME), {})


def _id(*words: str) -> str:
    """Stable, where the package would draw one: what is saved again differs where it changed."""
    return hashlib.blake2b("/".join(words).encode(), digest_size=6).hexdigest()


def _packages() -> tuple[Any, Any]:
    """wandb-workspaces, its two halves. UserError if it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's validators, in 0.4.13
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise UserError(
            f"star-exp dashboard needs the package wandb-workspaces ({error}): "
            'pip install "star-exp[dashboard]"'
        ) from error
    return workspaces, reports
