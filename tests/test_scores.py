"""Scores on disk: whole or not at all, of the weights that gave them, by rollout."""

import os
from dataclasses import replace

import pytest

from star_exp.scores import ScoreStore, key
from star_exp.store import StoreError
from tests.rollouts import right, wrong

NAME = "dev-candidates"
ROLLOUTS = [right("dev/0"), wrong("dev/0", sample=1), right("dev/1", phase="solutions")]
SCORES = [-0.1 - 1e-12, -1e300, float("-inf")]  # not what 32 bits hold


@pytest.fixture
def store(tmp_path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def test_scores_come_back_by_what_names_a_rollout(store):
    store.write(2, NAME, 0, ROLLOUTS, SCORES, "w")
    assert store.read(2, NAME) == {
        (1, "generate", "dev/0", 0): SCORES[0],
        (1, "generate", "dev/0", 1): SCORES[1],
        (1, "solutions", "dev/1", 0): SCORES[2],
    }
    assert [store.read(2, NAME)[key(rollout)] for rollout in ROLLOUTS] == SCORES


def test_a_rollout_is_named_by_iteration_phase_problem_and_sample():
    one = right("dev/0")
    others = [
        replace(one, iteration=2),
        replace(one, phase="dev"),
        replace(one, problem="dev/1"),
        replace(one, sample=1),
    ]
    assert len({key(each) for each in (one, *others)}) == 5
    assert key(replace(one, segments=(), correct=False, weights="else")) == key(one)


def test_where_nothing_was_scored_there_is_nothing(store):
    assert store.read(0, NAME) == {}
    store.write(2, NAME, 0, ROLLOUTS, SCORES, "w")
    assert store.read(1, NAME) == {} and store.read(2, "test-candidates") == {}


def test_iterations_and_names_are_kept_apart(store):
    for place, (iteration, name) in enumerate([(1, NAME), (2, NAME), (2, "reference")]):
        store.write(iteration, name, 0, ROLLOUTS[:1], [float(place)], "w")
    found = [store.read(i, name) for i, name in ((1, NAME), (2, NAME), (2, "reference"))]
    assert [[*scores.values()] for scores in found] == [[0.0], [1.0], [2.0]]


def test_shards_are_read_together(store):
    for shard in (2, 0, 1):
        store.write(1, NAME, shard, [ROLLOUTS[shard]], [SCORES[shard]], "w")
    assert store.read(1, NAME) == dict(zip(map(key, ROLLOUTS), SCORES, strict=True))


def test_missing_are_shards_that_were_not_scored_or_by_other_weights(store):
    assert store.missing(1, NAME, 3, "w") == [0, 1, 2]
    store.write(1, NAME, 0, ROLLOUTS, SCORES, "w")
    store.write(1, NAME, 2, ROLLOUTS, SCORES, "before")
    assert store.missing(1, NAME, 3, "w") == [1, 2]
    assert store.missing(1, NAME, 3, "before") == [0, 1]
    assert store.missing(1, NAME, 0, "w") == []


def test_scores_of_other_weights_are_replaced(store):
    store.write(1, NAME, 0, ROLLOUTS, [0.0, 0.0, 0.0], "before")
    store.write(1, NAME, 0, ROLLOUTS, SCORES, "w")
    assert [*store.read(1, NAME).values()] == SCORES
    assert store.missing(1, NAME, 1, "w") == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_file_appears_whole_or_not_at_all(store, monkeypatch, function):
    """The process is gone before the file has its name."""
    store.write(1, NAME, 0, ROLLOUTS, SCORES, "before")

    def gone(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, function, gone)
        for shard in (0, 1):
            with pytest.raises(KeyboardInterrupt):
                store.write(1, NAME, shard, ROLLOUTS, [0.0, 0.0, 0.0], "w")
    assert [*store.read(1, NAME).values()] == SCORES
    assert store.missing(1, NAME, 2, "w") == [0, 1]
    assert store.missing(1, NAME, 2, "before") == [1]


def test_a_half_written_file_of_a_killed_process_is_no_score(store):
    store.write(1, NAME, 0, ROLLOUTS, SCORES, "w")
    path = store.path(1, NAME, 1)
    path.with_name(f"{path.name}.tmp").write_bytes(store.path(1, NAME, 0).read_bytes()[:100])
    assert [*store.read(1, NAME).values()] == SCORES
    assert store.missing(1, NAME, 2, "w") == [1]


def test_a_damaged_file_is_named_and_not_taken_for_scores(store):
    store.write(1, NAME, 0, ROLLOUTS, SCORES, "w")
    path = store.path(1, NAME, 0)
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", whole[:20] + bytes(20) + whole[40:]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"00000.parquet can't be read .* Delete this file"):
            store.read(1, NAME)


def test_a_score_for_each_rollout_is_asked_for(store):
    with pytest.raises(ValueError, match="zip"):
        store.write(1, NAME, 0, ROLLOUTS, SCORES[:2], "w")
    assert store.read(1, NAME) == {} and store.missing(1, NAME, 1, "w") == [0]
