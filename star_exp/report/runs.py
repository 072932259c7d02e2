"""What a comparison is made of: run directories, gathered into rows of the same config, and all
that tables, curves and the page tell of them.

    runs, missing = collect([Path("outputs/star-exp")])
    cells = named(runs)                                   {"rest_em, samples=16": its runs}

A row is a cell: runs that differ in nothing but the seed. Nothing here imports torch.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from star_exp.config.compose import differences
from star_exp.errors import UserError
from star_exp.metrics import WRITTEN
from star_exp.progress import runs as runs_below
from star_exp.report.statistics import Interval
from star_exp.store import RolloutStore

AXES = {"iteration": "iteration", "generated_tokens": "generated tokens", "flops": "FLOPs"}
APART = ("variant", "seed", "hydra")
NAMED = 3  # settings in the name of a row, if more don't need to be


@dataclass(frozen=True)
class Run:
    """A run directory.

    status: finished, running (or stopped), failed; error: of a failed one; requested: iterations.
    lines: of results.json, a mapping for each iteration. settings: what was said on the command
    line, but for variant, seed and what changes nothing; without the + of a new key.
    """

    folder: Path
    variant: str
    seed: int
    cell: str
    status: str
    error: str
    requested: int
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    lines: tuple[Mapping[str, float], ...]

    @cached_property
    def settings(self) -> tuple[str, ...]:
        said = (word.lstrip("+") for word in self.manifest.get("overrides", ()))
        return tuple(w for w in said if not _uncounted(w.lstrip("~").partition("=")[0]))

    @property
    def data(self) -> Mapping[str, str]:
        """Fingerprints of the problems of each split, and of what is shown with them."""
        return self.manifest.get("data", {})

    @property
    def store(self) -> RolloutStore:
        return RolloutStore(self.folder / "rollouts")

    @property
    def final(self) -> Mapping[str, float]:
        return self.lines[-1]

    @property
    def last(self) -> int:
        return int(self.final["iteration"])

    def spent(self, axis: str) -> list[float]:
        """How much was spent until the end of each iteration, for each of `lines`: an axis."""
        if axis == "iteration":
            return [line["iteration"] for line in self.lines]
        if axis == "flops":
            return [line.get("cost/flops", 0.0) for line in self.lines]
        names = [f"{phase}/tokens" for phase in WRITTEN]
        return [*accumulate(sum(line.get(name, 0) for name in names) for line in self.lines)]


@dataclass(frozen=True)
class Value:
    """A metric of a row: the mean over its seeds of the last iteration's value.

    interval: 95%, of the hierarchical bootstrap; None where no value of each problem is at hand.
    problems: how many were judged, at least, of each seed; None where it isn't of problems.
    """

    mean: float
    interval: Interval | None
    by_seed: Mapping[int, float]
    problems: int | None = None


@dataclass(frozen=True)
class Test:
    """A row against the baseline, by the chosen metric. difference: row minus baseline.

    p: of the paired permutation test; p_holm: after Holm's correction for all rows.
    significant: p_holm < 0.05, and the interval of the difference leaves out 0.
    """

    difference: float
    interval: Interval
    p: float
    p_holm: float
    significant: bool


@dataclass(frozen=True)
class Curve:
    """A metric of a row at the iterations that all its seeds have reached and measured.

    x: what was spent by then, mean over seeds, by axis (AXES). band: "95% interval" (bootstrap over
    seeds and problems) or "range of seeds" of low to high.
    """

    x: Mapping[str, tuple[float, ...]]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    band: str


@dataclass(frozen=True)
class Row:
    """
    name: the variant, and the settings that tell it from other rows of that variant.
    runs: finished ones, by seed. values: by metric. curves: by metric.
    test: None for the baseline, and where there is nothing to test; `verdict` says why.
    """

    name: str
    variant: str
    cell: str
    runs: tuple[Run, ...]
    values: Mapping[str, Value]
    test: Test | None
    verdict: str
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


@dataclass(frozen=True)
class Column:
    """A metric of the table. unit: "share", "tokens", "FLOP", "s", "steps" or the registry's."""

    metric: str
    heading: str
    unit: str


@dataclass(frozen=True)
class AtBudget:
    """Where a row was when a budget was used up. iterations: of each seed."""

    row: str
    value: Value
    iterations: Mapping[int, int]


@dataclass(frozen=True)
class EqualCompute:
    """What the rows reach with the same budget: the largest that every row has used up.

    axis: "generated_tokens" or "flops"; metric: dev/accuracy.
    """

    axis: str
    budget: float
    metric: str
    rows: tuple[AtBudget, ...]


@dataclass(frozen=True)
class Comparison:
    """All that a report says.

    metric: by which rows are tested against the row `baseline`; columns: what the table shows, the
    metric first. notes: sentences on n, k, seeds, decoding and how intervals and tests are made.
    """

    title: str
    metric: str
    baseline: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    equal: tuple[EqualCompute, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs below these folders, and sentences on those that can't be read.

    What lies below a run (the fit of its verifier) or in a cache is left out, unless it is named.
    Of runs of one config and seed one counts. UserError if a folder has none.
    """
    runs: dict[tuple[str, int], list[Run]] = {}
    unread: list[str] = []
    for folder in dict.fromkeys(found for root in folders for found in _run_folders(root)):
        try:
            run = _read(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            unread.append(f"{folder} can't be read ({told}): left out; give its command again")
            continue
        runs.setdefault((run.cell, run.seed), []).append(run)
    if not runs:
        raise UserError("\n  ".join(["no run can be read:", *unread]))
    kept = {key: max(twins, key=_worth) for key, twins in runs.items()}
    unread += [
        _left_out(twin, kept[key])
        for key, twins in runs.items()
        for twin in twins
        if twin.folder.resolve() != kept[key].folder.resolve()
    ]
    return [*kept.values()], unread


def _worth(run: Run) -> tuple[bool, int, float]:
    """Finished before any other, then the one with more iterations, then the newest."""
    results = run.folder / "results.json"
    written = results.stat().st_mtime if results.exists() else 0.0
    return run.status == "finished", len(run.lines), written


def _left_out(run: Run, kept: Run) -> str:
    mine, theirs = run.manifest.get("run_id"), kept.manifest.get("run_id")
    what = "a copy of the run" if mine and mine == theirs else "another run of the config and seed"
    ends = [f"{each.status}, {_far(each)}" for each in (run, kept)]
    return f"{run.folder} ({ends[0]}) is {what} in {kept.folder} ({ends[1]}): left out"


def _far(run: Run) -> str:
    return f"{f'iteration {run.last}' if run.lines else 'no iteration'} of {run.requested}"


def named(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each row, by seed, under its name."""
    cells: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.variant, run.cell, run.seed)):
        cells.setdefault(run.cell, []).append(run)
    names = {
        cell: _name(mine[0], [other[0] for other in cells.values() if other is not mine])
        for cell, mine in cells.items()
    }
    alike = Counter(names.values())
    return {
        name if alike[name] == 1 else f"{name} ({cell})": cells[cell]
        for cell, name in names.items()
    }


def _name(run: Run, others: Sequence[Run]) -> str:
    """The variant, and the settings that other rows of it don't all have, short ones first; of
    more than three as few as tell it apart, and how many more there are."""
    alike = [other for other in others if other.variant == run.variant]
    words = sorted(run.settings, key=lambda word: word.partition("=")[0].count("."))
    own = [word for word in words if any(word not in other.settings for other in alike)]
    needed = []
    for word in own:
        if any(word not in other.settings for other in alike):
            needed.append(word)
            alike = [other for other in alike if word in other.settings]
    if len(own) <= NAMED:
        return ", ".join([run.variant, *own])
    more = [f"+{len(own) - len(needed)} more"] if len(own) > len(needed) else []
    return ", ".join([run.variant, *needed, *more])


def missing(cells: Mapping[str, Sequence[Run]]) -> list[str]:
    """Sentences on runs that are not finished, and on seeds that other rows have."""
    told = []
    seeds = sorted({run.seed for runs in cells.values() for run in runs})
    for name, runs in cells.items():
        for run in runs:
            if run.status != "finished":
                why = f" ({run.error})" if run.error else ""
                how = f"{run.status}, {_far(run)}{why}"
                told.append(f"{name}, seed {run.seed}: {how}; {run.folder}")
        absent = sorted({*seeds} - {run.seed for run in runs})
        if absent:
            which = f"seed{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))}"
            told.append(f"{name}: no run with {which}, which other rows have")
    return told


def decoding(run: Run, callback: str) -> str:
    """`greedy, at most 64 new tokens` of what evaluates, measures other tasks (each of which has a
    limit of its own) or draws candidates; "" of none."""
    phase = run.config.get("callbacks", {}).get(callback) or {}
    sampler = phase.get("sampler")
    if not sampler:
        return ""
    heat = sampler.get("temperature", 1.0)
    words = [f"temperature {heat:g}" if heat else "greedy"]
    if callback == "candidates":
        words.insert(0, f"k = {phase.get('samples')} samples of each problem")
    off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    said = {name: sampler.get(name) for name in off}
    words += [f"{name} {of:g}" for name, of in said.items() if of not in (None, off[name])]
    if callback != "other_tasks":
        words.append(f"at most {sampler.get('max_new_tokens')} new tokens")
    return ", ".join(words)


def sampled_by(metric: str) -> str:
    """The callback whose sampler a metric is of."""
    if not metric.endswith("/accuracy"):
        return "candidates"
    return "other_tasks" if (split_of(metric) or "").startswith("ood/") else "evaluate"


def split_of(metric: str) -> str | None:
    """`ood/svamp` of ood/svamp/accuracy; None of what is not of held-out problems."""
    found = re.match(
        r"((?:dev|test|ood)(?:/[^/]+)?)/(?:accuracy$|pass@|majority@|best_of_)", metric
    )
    return found[1] if found else None


def _run_folders(root: Path) -> list[Path]:
    found = [each for each in runs_below(root) if "cache" not in each.relative_to(root).parts]
    if not found:
        what = "no run directory in" if root.is_dir() else "there is no folder"
        raise UserError(
            f"{what} {root}: expected folders that hold config.yaml and results.json\n"
            "give a folder of runs, such as outputs/star-exp, or make some with `star-exp run`"
        )
    return found


def _read(folder: Path) -> Run:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    config = yaml.load((folder / "config.yaml").read_text(), loader)
    manifest, results = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (folder / "manifest.json", folder / "results.json")
    )
    if results.get("status") == "finished" and not results["iterations"]:
        raise ValueError("results.json is finished and has no iterations")
    return Run(
        folder=folder,
        variant=config["choices"]["variant"],
        seed=config["seed"],
        cell=config["cell"],
        status=results.get("status", "begun"),
        error=results.get("error", ""),
        requested=results.get("requested_iterations", config["iterations"]),
        config=config,
        manifest=manifest,
        lines=tuple(results.get("iterations", ())),
    )


def _uncounted(key: str) -> bool:
    """Whether a setting makes no other experiment. The number of iterations is compared by itself;
    `samples` is not hashed because the keys that it sets are: as a word it counts."""
    key = key.replace("/", ".")
    return key.partition(".")[0] in APART or (key != "samples" and not differences({key: 0}, {}))
