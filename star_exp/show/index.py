"""Which rollouts a run has, without their texts: found, filtered and counted in columns.

A run may have millions of rollouts, so nothing here is a Python object for each of them. Only the
columns that a list needs are read at first, and a whole rollout when it is looked at.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from star_exp.errors import UserError, did_you_mean
from star_exp.metrics import METRICS
from star_exp.records import Rollout
from star_exp.store import RolloutStore, read_shard, read_table

COLUMNS = (
    *("iteration", "phase", "problem", "sample", "question"),
    *("gold", "answer", "correct", "truncated", "hinted"),
)
IN_ORDER = tuple(dict.fromkeys(metric.name.partition("/")[0] for metric in METRICS))
KEPT_SHARDS = 4  # whole ones, in memory
EXAMPLES = 5


@dataclass(frozen=True)
class Selection:
    """Which rollouts to show: those that pass all of these.

    iterations: none means all. correct: True for right ones, False for wrong ones, None for both.
    text: a piece of the problem's id or question, in any case.
    """

    iterations: tuple[int, ...] = ()
    phase: str | None = None
    correct: bool | None = None
    problem: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Count:
    """How many rollouts a phase of an iteration has, and how many of them are right."""

    iteration: int
    phase: str
    rollouts: int
    right: int


class Index:
    """The rollouts of a store, in the order they were written: by iteration, phase and shard.

    table: a row for each, with COLUMNS and its place: `shard`, a number in `paths`, and `row`.
    Raises StoreError for a damaged shard and UserError if there are no rollouts.
    """

    def __init__(self, store: RolloutStore):
        self.paths = [
            path
            for iteration in store.iterations()
            for phase in sorted(store.phases(iteration), key=phase_order)
            for path in store.shards(iteration, phase)
        ]
        self._read = lru_cache(KEPT_SHARDS)(read_shard)
        shards = [read_table(path, list(COLUMNS)) for path in self.paths]
        if not any(map(len, shards)):
            raise UserError(f"{store.root} holds no rollouts yet; show it when a phase has written")
        self.table = pa.concat_tables(
            table.select(COLUMNS)
            .append_column("shard", pa.array([shard] * len(table), pa.int32()))
            .append_column("row", pa.array(range(len(table)), pa.int32()))
            for shard, table in enumerate(shards)
        )
        self.iterations: list[int] = sorted(self.table["iteration"].unique().to_pylist())
        self.phases: list[str] = sorted(self.table["phase"].unique().to_pylist(), key=phase_order)

    def rollout(self, shard: int, row: int) -> Rollout:
        """A whole rollout. Raises StoreError if its text can't be read."""
        return self._read(self.paths[shard])[row]

    def find_iterations(self, wanted: Iterable[range]) -> tuple[int, ...]:
        """The iterations in these ranges. Raises UserError for a range without any."""
        found: set[int] = set()
        for range_ in wanted:
            inside = {iteration for iteration in self.iterations if iteration in range_}
            if not inside:
                first, last = range_[0], range_[-1]
                near = min(self.iterations, key=lambda iteration: abs(iteration - first))
                raise UserError(
                    f"there is no iteration {first if first == last else f'{first}-{last}'} in "
                    f"this run; it has {spans(self.iterations)}; did you mean {near}?"
                )
            found |= inside
        return tuple(sorted(found))

    def find_phase(self, name: str | None) -> str | None:
        """The name, if there is such a phase. Raises UserError if not."""
        if name is None or name in self.phases:
            return name
        raise UserError(
            f"there is no phase {name!r} in this run; it has {', '.join(self.phases)}; "
            f"{did_you_mean(name, self.phases)}"
        )

    def find_problem(self, name: str | None) -> str | None:
        """The id, if there is such a problem. Raises UserError, with near ones, if not."""
        if name is None:
            return None
        problems: list[str] = self.table["problem"].unique().to_pylist()
        if name in problems:
            return name
        near = difflib.get_close_matches(name, problems, n=1)
        near = near or [problem for problem in problems if name in problem] or problems
        raise UserError(
            f"there is no problem {name!r} among the {len(problems):,} of this run, such as "
            f"{problems[0]!r} and {problems[-1]!r}; {did_you_mean(name, near[:EXAMPLES])}"
        )


def select(table: pa.Table, selection: Selection) -> pa.Table:
    """The rows that pass, in their order."""
    if selection.iterations:
        table = table.filter(pc.field("iteration").isin(list(selection.iterations)))
    for name in ("phase", "correct", "problem"):
        value = getattr(selection, name)
        if value is not None:
            table = table.filter(pc.field(name) == value)
    if selection.text:
        piece = pc.MatchSubstringOptions(selection.text, ignore_case=True)
        masks = [
            pc.call_function("match_substring", [table[name]], piece)
            for name in ("problem", "question")
        ]
        table = table.filter(pc.call_function("or", masks))
    return table


def either_way(selection: Selection) -> Selection:
    """The same with right and wrong rollouts: what a share of right ones is a share of."""
    return replace(selection, correct=None)


def counts(table: pa.Table) -> list[Count]:
    """For each iteration and phase, in their order."""
    groups = table.group_by(["iteration", "phase"], use_threads=False)  # threads lose the order
    rows = groups.aggregate([("correct", "count"), ("correct", "sum")]).to_pylist()
    return [
        Count(row["iteration"], row["phase"], row["correct_count"], row["correct_sum"])
        for row in rows
    ]


def phase_order(phase: str) -> tuple[int, str]:
    """Sorts phases as an iteration goes through them, others last and by name."""
    return (IN_ORDER.index(phase) if phase in IN_ORDER else len(IN_ORDER)), phase


def spans(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"; the numbers are in order."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
