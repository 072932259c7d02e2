"""The scores that a verifier gives rollouts, on disk, in files beside those of the rollouts.

    scores/iter_002/dev-candidates/00000.parquet    by the verifier after its second iteration

A row names a rollout (iteration, phase, problem, sample) and holds its score, the higher the
better. Like a shard of rollouts, a file is whole or not there, and tells which weights it is from.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from star_exp.files import replace_file
from star_exp.records import Rollout
from star_exp.store import read_table

SCHEMA = pa.schema(
    [
        ("iteration", pa.int32()),
        ("phase", pa.string()),
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("score", pa.float64()),
        ("weights", pa.string()),
    ]
)
Key = tuple[int, str, str, int]


def key(rollout: Rollout) -> Key:
    """What names a rollout in its run."""
    return rollout.iteration, rollout.phase, rollout.problem, rollout.sample


class ScoreStore:
    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def path(self, iteration: int, name: str, shard: int) -> Path:
        return self.root / f"iter_{iteration:03d}" / name / f"{shard:05d}.parquet"

    def missing(self, iteration: int, name: str, shards: int, weights: str) -> list[int]:
        """Which of the shards 0..shards-1 the verifier with these weights has still to score."""
        return [
            shard
            for shard in range(shards)
            if self._weights(self.path(iteration, name, shard)) != weights
        ]

    def write(
        self,
        iteration: int,
        name: str,
        shard: int,
        rollouts: Sequence[Rollout],
        scores: Sequence[float],
        weights: str,
    ) -> None:
        rows = [
            dict(zip(SCHEMA.names, (*key(rollout), score, weights), strict=True))
            for rollout, score in zip(rollouts, scores, strict=True)
        ]
        with replace_file(self.path(iteration, name, shard)) as file:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)

    def read(self, iteration: int, name: str) -> dict[Key, float]:
        """The score of each rollout that has one; {} where nothing was scored."""
        found: dict[Key, float] = {}
        for path in sorted(self.path(iteration, name, 0).parent.glob("*.parquet")):
            columns = [read_table(path).column(name).to_pylist() for name in SCHEMA.names[:5]]
            found |= {(i, p, q, s): score for i, p, q, s, score in zip(*columns, strict=True)}
        return found

    @staticmethod
    def _weights(path: Path) -> str | None:
        if not path.exists():
            return None
        column = read_table(path, ["weights"]).column("weights")
        return column[0].as_py() if len(column) else ""
