"""Seconds of each phase, kept on disk."""

import errno

import pytest

from star_exp.clock import Clock


def test_pieces_of_one_phase_add_up(tmp_path):
    clock = Clock(tmp_path / "clock")
    clock.add(1, "generate", 1.5)
    clock.add(1, "generate", 2.0)
    clock.add(1, "train", 4.0)
    assert clock.seconds(1) == {"generate": 3.5, "train": 4.0}


def test_iterations_are_kept_apart(tmp_path):
    clock = Clock(tmp_path / "clock")
    clock.add(1, "generate", 1.5)
    clock.add(2, "generate", 2.0)
    assert clock.seconds(2) == {"generate": 2.0}


def test_a_phase_takes_as_long_as_its_busiest_rank(tmp_path):
    clock = Clock(tmp_path / "clock")
    for rank, seconds in ((0, 1.0), (1, 2.0), (0, 2.5), (1, 1.0)):
        clock.add(1, "generate", seconds, rank)
    clock.add(1, "train", 5.0, rank=1)
    assert clock.seconds(1) == {"generate": 3.5, "train": 5.0}


def test_a_clock_that_never_ran_has_no_seconds(tmp_path):
    assert Clock(tmp_path / "clock").seconds(1) == {}


def test_the_seconds_of_a_killed_process_are_kept(tmp_path):
    Clock(tmp_path / "clock").add(1, "generate", 1.0)
    Clock(tmp_path / "clock").add(1, "generate", 2.0)
    assert Clock(tmp_path / "clock").seconds(1) == {"generate": 3.0}


def test_a_line_that_was_being_written_at_the_kill_is_passed_over(tmp_path):
    clock = Clock(tmp_path)
    clock.add(1, "generate", 1.0)
    path = tmp_path / "0.jsonl"
    path.write_text(path.read_text() + '{"iteration": 1, "phase": "gen')
    assert clock.seconds(1) == {"generate": 1.0}


def test_seconds_added_after_a_half_written_line_are_kept(tmp_path):
    clock = Clock(tmp_path)
    clock.add(1, "generate", 1.0)
    path = tmp_path / "0.jsonl"
    path.write_text(path.read_text() + '{"iteration": 1, "phase": "gen')
    clock.add(1, "generate", 2.0)
    clock.add(1, "generate", 4.0)
    assert clock.seconds(1) == {"generate": 7.0}


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(OSError, match="Free some space"):
        Clock(tmp_path).add(1, "generate", 1.0)
