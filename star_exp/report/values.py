"""What each problem is worth: a metric of a run's model, problem by problem, from its rollouts.

    values_of(run, ["test/accuracy", "dev/pass@16"])      {metric: {problem: value}}
    grid_of(runs, "test/accuracy", values)       a row's seeds x problems, and its interval

Of a million candidates only the columns that are asked for are read, and no Rollout is made.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_exp.metrics import best_of_k, pass_at_k, pass_at_k_s, vote
from star_exp.metrics.rollouts import SEVERAL
from star_exp.records import Rollout
from star_exp.report.runs import Run, split_of
from star_exp.report.statistics import (
    RESAMPLES,
    Interval,
    grid,
    interval_of_shares,
    resampled_means,
)
from star_exp.scores import ScoreStore
from star_exp.seeds import derive
from star_exp.store import RolloutStore, StoreError, read_table

SHARED = 0.9  # of problems: fewer in common are other problems
CANDIDATES = [
    *("problem", "sample", "answer", "correct", "truncated", "failed", "logprob"),
    "segments.list.element.text",  # without tokens, which are most of it
]
Values = Mapping[str, float]  # by problem


def values_of(run: Run, metrics: Iterable[str]) -> dict[str, Values]:
    """The value of each problem, of the last iteration, of those metrics that rollouts give.

    accuracy, of one rollout a problem; and of candidates pass@k, pass@k-4, best_of_k by likelihood
    or by the run's own trained verifier, and majority@k where k is all of them. StoreError if a
    shard is damaged, or problems that the run counted are gone.
    """
    found: dict[str, Values] = {}
    drawn: dict[str, Drawn | None] = {}
    for metric in metrics:
        split = split_of(metric)
        if split is None or metric not in run.final:
            continue
        if metric == f"{split}/accuracy":
            found[metric] = accuracies(run, run.last, split)
            continue
        if split not in drawn:
            drawn[split] = _drawn(run, split)
        if of := drawn[split]:
            found[metric] = of.values(metric.removeprefix(f"{split}/"))
    return {metric: values for metric, values in found.items() if values}


def accuracies(run: Run, iteration: int, split: str) -> dict[str, float]:
    """Share of right rollouts of each problem, among those that could be judged. StoreError as
    above."""
    shards = run.store.shards(iteration, split.replace("/", "-"))
    table = _table(shards, ["problem", "correct", "failed"])
    _all_there(run, iteration, split, table)
    counts = _counts(table.filter(table.column("failed").is_null()))
    return {problem: right / number for problem, (number, right) in counts.items()}


@dataclass(frozen=True)
class Grid:
    """A metric of a row, seed by seed and problem by problem; NaN where one was not judged.

    of: what tells these problems from others with the same ids; None where seeds have problems of
    their own. cell: seeds the bootstrap, so that a row has the same interval in any comparison.
    """

    values_S_P: np.ndarray
    problems: tuple[str, ...]
    of: str | None
    cell: str

    @cached_property
    def means(self) -> np.ndarray:
        """Of the bootstrap's resamples; rows with the same problems have the same draws of them."""
        return self._means(RESAMPLES)

    @cached_property
    def mean(self) -> float:
        return float(np.nanmean(self.values_S_P, axis=1).mean())

    @property
    def judged(self) -> int:
        """How many problems, of the seed with the fewest."""
        return int((~np.isnan(self.values_S_P)).sum(axis=1).min())

    def interval(self, resamples: int = RESAMPLES) -> Interval:
        means = self.means if resamples == RESAMPLES else self._means(resamples)
        return interval_of_shares(self.values_S_P, means)

    def on(self, problems: Sequence[str]) -> "Grid":
        """The same on some of the problems."""
        place = {problem: index for index, problem in enumerate(self.problems)}
        chosen = self.values_S_P[:, [place[problem] for problem in problems]]
        return replace(self, values_S_P=chosen, problems=tuple(problems))

    def _means(self, resamples: int) -> np.ndarray:
        seed = derive("bootstrap", self.cell)
        crossed = self.of is not None
        return resampled_means(self.values_S_P, crossed=crossed, resamples=resamples, seed=seed)


def grid_of(runs: Sequence[Run], metric: str, values: Sequence[Values]) -> Grid:
    """values: those of each run. Runs of which fewer than 90% of all problems are common, such as
    subsets of another task that each seed draws anew, have problems of their own."""
    ids = [{*of} for of in values]
    problems, common = sorted(set().union(*ids)), set.intersection(*ids)
    same = _told_by(runs, metric) if len(common) >= SHARED * len(problems) else None
    return Grid(grid(values, problems), tuple(problems), same, runs[0].cell)


def paired(ours: Grid, theirs: Grid) -> tuple[Grid, Grid] | None:
    """Both on the problems that both have; None if these are fewer than 90% of all."""
    if ours.of is None or ours.of != theirs.of:
        return None
    if ours.problems == theirs.problems:
        return ours, theirs
    common = sorted({*ours.problems} & {*theirs.problems})
    if len(common) < SHARED * len({*ours.problems} | {*theirs.problems}):
        return None
    return ours.on(common), theirs.on(common)


def _told_by(runs: Sequence[Run], metric: str) -> str | None:
    """The fingerprint of the split, or of another task its config; None if runs differ in it."""
    split = split_of(metric) or ""
    found = {run.data.get(split) or _other_task(run, split) for run in runs}
    return found.pop() if len(found) == 1 else None


def _other_task(run: Run, split: str) -> str:
    """The config of the task whose problems are measured as ood/<its name>."""
    measured = run.config.get("callbacks", {}).get("other_tasks") or {}
    return str(measured.get("tasks", {}).get(split.removeprefix("ood/"), ""))


@dataclass(frozen=True)
class Drawn:
    """A table of candidates. scores: of trained verifiers, by name, one for each line of it."""

    table: pa.Table
    scores: Mapping[str, np.ndarray]

    def values(self, name: str) -> Values:
        """`pass@16`, ... of each problem; {} where candidates don't tell it."""
        if found := re.fullmatch(r"pass@(\d+)(-\d+)?", name):
            several = found[2] is not None
            return self._several_passes(int(found[1])) if several else self._passes(int(found[1]))
        if found := re.fullmatch(r"best_of_(\d+)/(.+)", name):
            return self._best_of(int(found[1]), found[2])
        if found := re.fullmatch(r"majority@(\d+)", name):
            return self._majority_of_all(int(found[1]))
        return {}

    @cached_property
    def _judged(self) -> pa.Table:
        return self.table.filter(self.table.column("failed").is_null())

    @cached_property
    def _right(self) -> np.ndarray:
        return self._judged.column("correct").to_numpy()

    @cached_property
    def _whole(self) -> np.ndarray:
        """Which were not cut off."""
        return ~self._judged.column("truncated").to_numpy()

    @cached_property
    def _counts(self) -> dict[str, tuple[int, int]]:
        return _counts(self._judged)

    def _passes(self, k: int) -> Values:
        return {
            problem: pass_at_k(number, right, min(k, number))
            for problem, (number, right) in self._counts.items()
        }

    def _several_passes(self, k: int) -> Values:
        right = self._judged.filter(pa.array(self._right & self._whole))
        named = pa.table({"problem": right.column("problem"), "text": _texts(right)})
        grouped = named.group_by(["problem", "text"]).aggregate([([], "count_all")])
        often: dict[str, list[int]] = {}
        for problem, count in _lines(grouped, "problem", "count_all"):
            often.setdefault(problem, []).append(count)
        return {
            problem: pass_at_k_s(number, often.get(problem, []), min(k, number), SEVERAL)
            for problem, (number, _) in self._counts.items()
            if min(k, number) >= SEVERAL
        }

    def _best_of(self, k: int, verifier: str) -> Values:
        """By score; a text that was cut off comes last."""
        if verifier not in self.scores:
            return {}
        given = self.scores[verifier][self.table.column("failed").is_null().to_numpy()]
        scores = np.where(self._whole, given, -math.inf)
        codes = self._judged.column("problem").combine_chunks().dictionary_encode()
        of = codes.indices.to_numpy()
        order, ends = np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))
        parts = [order[start:end] for start, end in pairwise([0, *ends])]
        return {
            problem: best_of_k(scores[part], self._right[part], min(k, part.size))
            for problem, part in zip(codes.dictionary.to_pylist(), parts, strict=True)
        }

    def _majority_of_all(self, k: int) -> Values:
        """majority@k of all k, in one count: share of right ones among those of the top answers."""
        sizes = self.table.group_by("problem").aggregate([([], "count_all")])
        if {*sizes.column("count_all").to_pylist()} != {k}:
            return {}
        votes: dict[str, Counter[str]] = {problem: Counter() for problem in self._counts}
        rights: dict[str, Counter[str]] = {problem: Counter() for problem in self._counts}
        said = self._judged.filter(pa.array(self._whole))
        said = said.filter(said.column("answer").is_valid())
        flagged = said.append_column("right", said.column("correct").cast(pa.int64()))
        grouped = flagged.group_by(["problem", "answer"]).aggregate(
            [([], "count_all"), ("right", "sum")]
        )
        columns = ("problem", "answer", "count_all", "right_sum")
        for problem, answer, count, right in _lines(grouped, *columns):
            votes[problem][_vote(answer)] += count
            rights[problem][_vote(answer)] += right
        return {problem: _won(of, rights[problem]) for problem, of in votes.items()}


def _drawn(run: Run, split: str) -> Drawn | None:
    """What the last model drew, or a verifier's fit where the run did not; None if neither did."""
    phase = f"{split.replace('/', '-')}-candidates"
    fit = run.folder / "verifier" / f"iter_{run.last:03d}"
    stores = (run.store, RolloutStore(fit / "rollouts"))
    shards = next(filter(None, (store.shards(run.last, phase) for store in stores)), None)
    if shards is None:
        return None
    table = _table(shards, CANDIDATES)
    _all_there(run, run.last, split, table)
    scores = {"likelihood": table.column("logprob").to_numpy().astype(float)}
    return Drawn(table, scores | _verified(run, fit / "scores", phase, table))


def _verified(run: Run, root: Path, phase: str, table: pa.Table) -> dict[str, np.ndarray]:
    """What the run's own verifier gave the candidates after its last pass; {} without one."""
    callbacks = (run.config.get("verifier") or {}).get("callbacks", {})
    passes = sorted(root.glob(f"iter_*/{phase}"))
    if not passes or "score" not in callbacks:
        return {}
    given = ScoreStore(root).read(int(passes[-1].parent.name.removeprefix("iter_")), phase)
    lines = _lines(table, "problem", "sample")
    scores = [given.get((run.last, phase, problem, sample)) for problem, sample in lines]
    if any(score is None for score in scores):
        return {}
    return {callbacks["score"]["name"]: np.array(scores, dtype=float)}


def _all_there(run: Run, iteration: int, split: str, table: pa.Table) -> None:
    """StoreError unless the table has as many problems as the run counted."""
    line = next(line for line in run.lines if int(line["iteration"]) == iteration)
    found, expected = len(table.column("problem").unique()), f"{split}/problems"
    if line.get(expected, found) != found:
        raise StoreError(
            f"{run.folder} holds rollouts of {found} problems of {split} at iteration {iteration}, "
            f"and its results.json counts {line[expected]:g}; copy its rollouts/ again, all of it"
        )


def _table(shards: Sequence[Path], columns: list[str]) -> pa.Table:
    tables = [read_table(path, columns) for path in shards]
    if not tables:
        types = {"problem": pa.string(), "correct": pa.bool_(), "failed": pa.string()}
        return pa.schema(types.items()).empty_table()
    return pa.concat_tables(tables)


def _counts(judged: pa.Table) -> dict[str, tuple[int, int]]:
    """Of each problem how many were judged, and how many of these are right; in order."""
    table = judged.append_column("right", judged.column("correct").cast(pa.int64()))
    grouped = table.group_by("problem", use_threads=False).aggregate(
        [("right", "count"), ("right", "sum")]
    )
    lines = _lines(grouped, "problem", "right_count", "right_sum")
    return {problem: (number, right) for problem, number, right in lines}


def _lines(table: pa.Table, *columns: str) -> Iterable[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in columns), strict=True)


def _texts(table: pa.Table) -> pa.Array:
    """The text of each rollout, its segments joined."""
    segments = table.column("segments").combine_chunks()
    texts = pa.ListArray.from_arrays(segments.offsets, segments.values.field("text"))
    return pc.call_function("binary_join", [texts, pa.scalar("")])


@lru_cache(maxsize=100_000)
def _vote(answer: str) -> str:
    """What an answer of a whole text votes for, by the rule of metrics.vote."""
    return vote(Rollout(**UNREAD, answer=answer, truncated=False)) or ""


def _won(votes: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Each of the answers with the most votes wins with the same chance; without votes none."""
    top = [answer for answer, number in votes.items() if number == max(votes.values())]
    return sum(right[answer] / votes[answer] for answer in top) / max(1, len(top))


UNREAD: dict[str, Any] = {
    **dict.fromkeys(("problem", "question", "gold", "phase", "weights"), ""),
    **dict.fromkeys(("iteration", "sample", "prompt_tokens", "seed"), 0),
    **{"groups": {}, "segments": (), "hinted": False, "correct": False},
}
