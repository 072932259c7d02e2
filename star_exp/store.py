"""The rollouts of a run on disk, in Parquet: what a phase has written is never sampled again.

    rollouts/iter_001/generate/00007.parquet     shard 7 of that phase, a whole file or none
                     /rationalize/00000.parquet
                     /dev/00000.parquet          what M_1 wrote for the dev problems
                     /chosen.json                what it chose for itself (tuning.py), if anything

A folder iter_n holds all that iteration n did: M_{n-1} wrote generate/ and rationalize/, which made
M_n, which wrote dev/. iter_000 holds the evaluation of the base model. Any of it is read by
`datasets.load_dataset("parquet", data_files=...)`, duckdb or pandas. A shard is written to a `.tmp`
file, flushed to the disk and renamed, so that a file which exists is whole, whenever the power
went.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_exp.errors import UserError
from star_exp.files import replace_file, write_json
from star_exp.records import Rollout, Segment

SEGMENT = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("sampled", pa.bool_()),
        ("logprobs", pa.list_(pa.float32())),
    ]
)
NAMED_TEXTS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))
NAMED_NUMBERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("groups", NAMED_TEXTS),
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
        ("scores", NAMED_NUMBERS),
        ("seed", pa.int64()),
        ("weights", pa.string()),
        ("lenient", pa.bool_()),
        ("failed", pa.string()),
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
        for path in self.shards(iteration, phase):
            if int(path.stem) >= shards:  # of a phase that had more to do, with other weights
                os.replace(path, _unused(path))
        for shard in range(shards):
            path = self.path(iteration, phase, shard)
            if path.exists() and self._weights(path) != weights:
                os.replace(path, _unused(path))
            if not path.exists():
                pending.append(shard)
        return pending

    def write(self, iteration: int, phase: str, shard: int, rollouts: Sequence[Rollout]) -> Path:
        """Writes a whole shard or none. Raises OSError, with what to do, where the disk refuses."""
        path = self.path(iteration, phase, shard)
        table = pa.Table.from_pylist([_to_row(rollout) for rollout in rollouts], schema=SCHEMA)
        with replace_file(path) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        return path

    def read(self, iteration: int, *phases: str) -> list[Rollout]:
        """The rollouts of these phases, in order of phase and shard; [] where none were written."""
        return [rollout for path in self.shards(iteration, *phases) for rollout in read_shard(path)]

    def solved(self, iteration: int, phase: str) -> set[str]:
        """The problems with a right rollout; of many, read without their texts."""
        found: set[str] = set()
        for path in self.shards(iteration, phase):
            table = read_table(path, ["problem", "correct"])
            found |= set(table.filter(table.column("correct")).column("problem").to_pylist())
        return found

    def note(self, iteration: int, name: str, values: Mapping[str, Any]) -> None:
        """Keeps what a phase found, beside its rollouts: `chosen`, the grid chosen from."""
        write_json(self._note(iteration, name), values)

    def noted(self, iteration: int, name: str) -> dict[str, Any]:
        """What was kept; {} where nothing was."""
        path = self._note(iteration, name)
        return json.loads(path.read_text()) if path.exists() else {}

    def shards(self, iteration: int, *phases: str) -> list[Path]:
        return [
            path
            for phase in phases
            for path in sorted(self.folder(iteration, phase).glob("*.parquet"))
        ]

    def iterations(self) -> list[int]:
        folders = self.root.glob("iter_[0-9]*")
        return sorted(int(path.name.removeprefix("iter_")) for path in folders)

    def phases(self, iteration: int) -> list[str]:
        folder = self.root / f"iter_{iteration:03d}"
        return sorted(path.name for path in folder.glob("*/"))

    def _note(self, iteration: int, name: str) -> Path:
        return self.root / f"iter_{iteration:03d}" / f"{name}.json"

    def _weights(self, path: Path) -> str:
        column = read_table(path, ["weights"]).column("weights")
        return column[0].as_py() if len(column) else ""


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The columns of a shard. StoreError, with what to do, if it is damaged."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def read_shard(path: Path) -> list[Rollout]:
    """The rollouts of a shard. StoreError, with what to do, if it is damaged."""
    rows = read_table(path).to_pylist()
    try:
        return [_from_row(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} can't be read ({type(error).__name__}: {error}). It was damaged after it was "
        "written, since shards appear whole. Delete this file and give the same command "
        "again: only this shard is sampled anew, everything else is kept."
    )


def _unused(path: Path) -> Path:
    """A name beside `path` that no file has: 00007.stale, 00007.stale1, ..."""
    candidate, number = path.with_suffix(".stale"), 0
    while candidate.exists():
        number += 1
        candidate = path.with_suffix(f".stale{number}")
    return candidate


def _to_row(rollout: Rollout) -> dict:
    row = {name: getattr(rollout, name) for name in SCHEMA.names}
    row["segments"] = [vars(segment) for segment in rollout.segments]
    for name in ("groups", "scores"):
        row[name] = [{"name": key, "value": value} for key, value in sorted(row[name].items())]
    return row


def _from_row(row: dict) -> Rollout:
    del row["logprob"]  # derived from the segments; a column so that queries have it
    for name in ("groups", "scores"):
        row[name] = {pair["name"]: pair["value"] for pair in row[name]}
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
