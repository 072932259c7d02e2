"""Rollouts on disk: what goes in comes out, to the byte, whatever happens to process and disk."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from star_exp.records import Rollout, Segment
from star_exp.store import RolloutStore, StoreError, by_problem
from tests.rollouts import right, rollout, segment, wrong

# every field that can be empty, long or odd; log-probabilities are exact in 32 bits
ODD: list[Rollout] = [
    right("train/0"),
    wrong("train/1", answer=None),
    wrong("train/2", answer=""),
    right("train/3", text="Zoë 🙂 \u2028 \n\t 数 \\ \" ' \x00 end", groups={"größe": "ß"}),
    right("train/4", segments=[]),
    right("train/5", text=""),
    right("train/6", segments=[segment("2+6=", logprobs=[-0.5, -0.25, 0.0, -(2.0**100)])]),
    right(
        "train/7",
        segments=[
            segment("<<2+6=", logprobs=[-1.0] * 6),
            segment("8>>", sampled=False),
            segment("8"),
        ],
    ),
    rollout(
        "train/8", truncated=True, correct=False, groups={}, scores={"reward": 0.1, "a": -1e300}
    ),
    right("dev/0", groups={"operator": "+", "digits": "2"}, phase="rationalize", prompt_tokens=0),
    replace(right("train/9"), seed=0, iteration=0, sample=2**31 - 1),
]

CRASHES_IN_WRITE = """
import os, signal
from star_exp.store import RolloutStore
from tests.rollouts import right
setattr(os, {function!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
RolloutStore({root!r}).write(1, "generate", 0, [right("train/1")] * 50)
"""


@pytest.fixture
def store(tmp_path) -> RolloutStore:
    return RolloutStore(tmp_path / "rollouts")


@pytest.mark.parametrize("written", ODD, ids=lambda written: written.problem)
def test_a_rollout_comes_back_as_it_was_written(store, written):
    store.write(1, "generate", 0, [written])
    assert store.read(1, "generate") == [written]


def test_rollouts_come_back_in_the_order_of_phase_and_shard(store):
    for shard in (10, 2, 0, 1):
        store.write(1, "generate", shard, [right(f"train/{shard}"), wrong(f"train/{shard}")])
    store.write(1, "answers", 0, [right("train/99")])
    read = [rollout.problem for rollout in store.read(1, "generate", "answers")]
    assert read == [f"train/{n}" for n in (0, 0, 1, 1, 2, 2, 10, 10, 99)]


def test_a_shard_without_rollouts_is_read_as_none(store):
    store.write(1, "generate", 0, [])
    assert store.read(1, "generate") == []


def test_what_was_never_written_is_read_as_nothing(store):
    assert store.read(7, "generate") == []
    assert store.iterations() == []
    assert store.phases(7) == []


def test_the_same_rollouts_make_the_same_bytes(tmp_path):
    first, second = (RolloutStore(tmp_path / name).write(1, "dev", 0, ODD) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_order_of_groups_and_scores_does_not_change_the_bytes(tmp_path):
    groups = {"operator": "+", "digits": "2"}
    there = right("train/0", groups=groups, scores={"b": 1.0, "a": 2.0})
    back = right("train/0", groups=dict(reversed(groups.items())), scores={"a": 2.0, "b": 1.0})
    paths = [
        RolloutStore(tmp_path / name).write(1, "dev", 0, [one])
        for name, one in (("a", there), ("b", back))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_store_knows_its_iterations_and_phases(store):
    store.write(0, "dev", 0, ODD)
    store.write(12, "generate", 0, ODD)
    store.write(12, "dev", 0, ODD)
    assert store.iterations() == [0, 12]
    assert store.phases(12) == ["dev", "generate"]


def test_the_iterations_of_more_than_three_digits_are_in_order(store):
    for iteration in (1000, 999, 2):
        store.write(iteration, "dev", 0, [])
    assert store.iterations() == [2, 999, 1000]


def test_the_log_probability_is_a_column_for_queries(store):
    pq = pytest.importorskip("pyarrow.parquet")
    path = store.write(1, "generate", 0, [ODD[7], ODD[0]])
    assert pq.read_table(path).column("logprob").to_pylist() == [-6.0, 0.0]


def test_rollouts_are_grouped_by_problem_in_order_of_appearance():
    rollouts = [wrong("b"), right("a"), right("b"), right("a")]
    grouped = by_problem(rollouts)
    assert list(grouped) == ["b", "a"]
    assert grouped["b"] == [rollouts[0], rollouts[2]]


# Other readers


def test_duckdb_reads_the_store(store):
    duckdb = pytest.importorskip("duckdb")
    store.write(1, "generate", 0, ODD)
    store.write(1, "generate", 1, ODD)
    pattern = store.folder(1, "generate") / "*.parquet"
    query = f"select count(*), sum(correct::int), count(answer) from '{pattern}'"
    correct = sum(one.correct for one in ODD)
    answered = sum(one.answer is not None for one in ODD)
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchone() == (2 * len(ODD), 2 * correct, 2 * answered)


LOADS_WITH_DATASETS = """
import sys
from datasets import load_dataset
data = load_dataset("parquet", data_files=sys.argv[1], cache_dir=sys.argv[2], split="train")
assert data["problem"] == sys.argv[3].split(), data["problem"]
assert data[0]["segments"][0]["tokens"] == [35, 56], data[0]["segments"]
"""


def test_datasets_reads_the_store(store, tmp_path):
    """In a process of its own: datasets imports torch, and this file does without."""
    path = store.write(1, "generate", 0, ODD)
    names = " ".join(one.problem for one in ODD)
    words = [str(path), str(tmp_path / "cache"), names]
    subprocess.run(
        [sys.executable, "-c", LOADS_WITH_DATASETS, *words],
        check=True,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
    )


# Damage


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99], ids="{:.0%} is left".format)
def test_a_truncated_shard_is_named_with_what_to_do(store, kept):
    path = store.write(1, "generate", 3, ODD)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(StoreError, match=r"Delete this file and give the same\s+command") as caught:
        store.read(1, "generate")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", b"PAR1", b"PAR1PAR1", b"\x00" * 5000], ids=repr)
def test_a_shard_of_something_else_is_named_with_what_to_do(store, content):
    path = store.path(1, "generate", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for access in (lambda: store.read(1, "generate"), lambda: store.missing(1, "generate", 1, "w")):
        with pytest.raises(StoreError, match="Delete this file") as caught:
            access()
        assert str(path) in str(caught.value)


def test_a_shard_of_another_table_is_a_store_error(store):
    """A Parquet file that is whole, and not ours."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = store.path(1, "generate", 0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"weights": ["w"], "x": [1]}), path)
    with pytest.raises(StoreError) as caught:
        store.read(1, "generate")
    assert str(path) in str(caught.value)


def test_a_flipped_byte_is_a_store_error_or_changes_nothing(store):
    """A disk that rots, one byte after another: never other rollouts than were written."""
    path = store.write(1, "generate", 0, ODD)
    content = path.read_bytes()
    unnoticed = {}
    for place in range(4, len(content) - 4, len(content) // 400):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        path.write_bytes(bytes(flipped))
        try:
            if store.read(1, "generate") != ODD:
                unnoticed[place] = "read as other rollouts"
        except StoreError:
            pass
        except Exception as error:
            unnoticed[place] = f"{type(error).__name__}: {error}"
    assert unnoticed == {}


# Crashes


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_process_killed_in_the_middle_of_a_write_leaves_no_shard(store, function):
    script = CRASHES_IN_WRITE.format(function=function, root=str(store.root))
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    assert list(store.root.rglob("*.tmp")), "it was killed before it had written anything"
    assert not list(store.root.rglob("*.parquet"))
    assert store.missing(1, "generate", 1, "w") == [0]
    assert store.read(1, "generate") == []
    store.write(1, "generate", 0, ODD)
    assert store.read(1, "generate") == ODD


def test_a_failed_write_leaves_the_old_shard_whole(store, monkeypatch):
    path = store.write(1, "generate", 0, ODD)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="disk is full"):
        store.write(1, "generate", 0, ODD[:1])
    monkeypatch.undo()
    assert store.read(1, "generate") == ODD
    assert [path] == [*path.parent.iterdir()]


# Resuming


def test_what_is_not_there_is_missing(store):
    store.write(1, "generate", 1, [right("train/1", weights="w")])
    assert store.missing(1, "generate", 3, "w") == [0, 2]


def test_nothing_is_missing_twice(store):
    for shard in store.missing(1, "generate", 3, "w"):
        store.write(1, "generate", shard, [right("train/1", weights="w")])
    assert store.missing(1, "generate", 3, "w") == []


def test_a_shard_of_other_weights_is_put_aside_and_not_lost(store):
    path = store.write(1, "generate", 0, [right("train/0", weights="old")])
    kept = store.write(1, "generate", 1, [right("train/1", weights="new")])
    before, untouched = path.read_bytes(), kept.read_bytes()
    assert store.missing(1, "generate", 2, "new") == [0]
    assert path.with_suffix(".stale").read_bytes() == before
    assert not path.exists()
    assert kept.read_bytes() == untouched


def test_a_shard_put_aside_is_not_read(store):
    store.write(1, "generate", 0, [right("train/0", weights="old")])
    store.missing(1, "generate", 1, "new")
    assert store.read(1, "generate") == []


def test_a_shard_put_aside_twice_is_there_twice(store):
    """Nothing that was sampled is ever deleted."""
    for weights in ("first", "second"):
        store.write(1, "generate", 0, [right("train/0", weights=weights)])
        store.missing(1, "generate", 1, "third")
    assert len(list(store.folder(1, "generate").glob("*stale*"))) == 2


def test_segments_know_their_text_and_tokens():
    made = right(
        "train/0", segments=[segment("ab"), Segment("c", (7, 8), sampled=False), segment("")]
    )
    assert made.text == "abc"
    assert made.tokens == (97, 98, 7, 8)
