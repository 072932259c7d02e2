"""The rollouts of a run on disk, in Parquet: what a phase has written is never sampled again.

    rollouts/iter_001/generate/00007.parquet     shard 7 of that phase, a whole file or none
                     /rationalize/00000.parquet
                     /dev/00000.parquet          what M_1 wrote for the dev problems

A folder iter_n holds all that iteration n did: M_{n-1} wrote generate/ and rationalize/, which made
M_n, which wrote dev/. iter_000 holds the evaluation of the base model. Any of it is read by
`datasets.load_dataset("parquet", data_files=...)`, duckdb or pandas. A shard is written to a `.tmp`
file, flushed to the disk and renamed, so that a file which exists is whole, whenever the power
went.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from star_exp.errors import UserError
from star_exp.files import replace_file
from star_exp.records import Rollout, Segment

SEGMENT = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("sampled", pa.bool_()),
        ("logprobs", pa.list_(pa.float32())),
    ]
)
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("groups", pa.map_(pa.string(), pa.string())),
        ("iteration", pa.int32()),
        ("phase", pa.string()),
        ("sample", pa.int32()),
        ("hinted", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("segments", pa.list_(SEGMENT)),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("truncated", pa.bool_()),
        ("logprob", pa.float32()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("seed", pa.int64()),
        ("weights", pa.string()),
    ]
)


class StoreError(UserError):
    """A shard can't be read or written; the message says what to do."""


class RolloutStore:
    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def folder(self, iteration: int, phase: str) -> Path:
        return self.root / f"iter_{iteration:03d}" / phase

    def path(self, iteration: int, phase: str, shard: int) -> Path:
        return self.folder(iteration, phase) / f"{shard:05d}.parquet"

    def missing(self, iteration: int, phase: str, shards: int, weights: str) -> list[int]:
        """Which of the shards 0..shards-1 are still to be written by the model with these weights.

        Shards that other weights wrote are put aside as `.stale` files: they can only come from an
        iteration whose checkpoint was lost and whose training was not repeatable to the bit.
        """
        pending = []
        for shard in range(shards):
            path = self.path(iteration, phase, shard)
            if path.exists() and self._weights(path) != weights:
                os.replace(path, path.with_suffix(".stale"))
            if not path.exists():
                pending.append(shard)
        return pending

    def write(self, iteration: int, phase: str, shard: int, rollouts: Sequence[Rollout]) -> Path:
        """Writes a whole shard or none. Raises OSError, with what to do, where the disk refuses."""
        path = self.path(iteration, phase, shard)
        table = pa.Table.from_pylist([_to_row(rollout) for rollout in rollouts], schema=SCHEMA)
        with replace_file(path) as file:
            pq.write_table(table, file, compression="zstd")
        return path

    def read(self, iteration: int, *phases: str) -> list[Rollout]:
        """The rollouts of these phases, in order of phase and shard; [] where none were written."""
        tables = [self._read(path) for path in self.shards(iteration, *phases)]
        return [_from_row(row) for table in tables for row in table.to_pylist()]

    def shards(self, iteration: int, *phases: str) -> list[Path]:
        return [
            path
            for phase in phases
            for path in sorted(self.folder(iteration, phase).glob("*.parquet"))
        ]

    def iterations(self) -> list[int]:
        return sorted(int(path.name.removeprefix("iter_")) for path in self.root.glob("iter_*"))

    def phases(self, iteration: int) -> list[str]:
        folder = self.root / f"iter_{iteration:03d}"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _weights(self, path: Path) -> str:
        column = self._read(path, ["weights"]).column("weights")
        return column[0].as_py() if len(column) else ""

    @staticmethod
    def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.ParquetFile(path).read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{path} can't be read ({type(error).__name__}: {error}). It was damaged after it "
                "was written, since shards appear whole. Delete this file and give the same "
                "command again: only this shard is sampled anew, everything else is kept."
            ) from error


def _to_row(rollout: Rollout) -> dict[str, object]:
    row = {name: getattr(rollout, name) for name in SCHEMA.names}
    row["segments"] = [vars(segment) for segment in rollout.segments]
    row["groups"] = sorted(rollout.groups.items())
    row["scores"] = sorted(rollout.scores.items())
    return row


def _from_row(row: dict) -> Rollout:
    del row["logprob"]  # derived from the segments; a column so that queries have it
    row["groups"], row["scores"] = dict(row["groups"]), dict(row["scores"])
    row["segments"] = tuple(
        Segment(s["text"], tuple(s["tokens"]), s["sampled"], tuple(s["logprobs"]))
        for s in row["segments"]
    )
    return Rollout(**row)


def by_problem(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts grouped by problem, problems in order of first appearance."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem, []).append(rollout)
    return groups
