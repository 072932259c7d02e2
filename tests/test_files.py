"""A disk that refuses leaves the old file whole, no litter, and a word on what to do."""

import errno
import json
import os
import subprocess
import sys

import pytest

from star_exp.files import explained, replace_file, write_json, write_text

ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EROFS: "another run_dir=",
    errno.EACCES: "another run_dir=",
}
CALLS = ("replace", "fsync")


def refuse(monkeypatch, call: str, code: int) -> None:
    def refusing(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refusing)


def test_a_file_holds_what_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "text"
    write_text(path, "Zoë\n")
    assert path.read_bytes() == "Zoë\n".encode()


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, "ß"], "b": {}}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value


def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", ADVICE, ids=errno.errorcode.get)
def test_a_refusing_disk_is_explained(tmp_path, monkeypatch, call, code):
    refuse(monkeypatch, call, code)
    with pytest.raises(OSError, match=ADVICE[code]) as caught:
        write_text(tmp_path / "x", "new")
    assert caught.value.errno == code
    assert str(tmp_path / "x") in str(caught.value)
    assert "same command" in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", ADVICE, ids=errno.errorcode.get)
def test_a_refusing_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, code):
    path = tmp_path / "x"
    path.write_text("old")
    refuse(monkeypatch, call, code)
    with pytest.raises(OSError):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_an_error_of_the_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replace_file(path) as file:
        file.write(b"half of it")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_until_it_is_whole_the_old_file_is_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with replace_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), rename(*paths))[1])
    write_text(tmp_path / "x", "new")
    assert order == ["fsync", "replace", "fsync"]  # the content, the name, and the directory


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(OSError) as caught, explained(tmp_path):
        raise OSError(errno.EIO, "broken")
    assert str(caught.value) == "[Errno 5] broken"


def test_a_folder_where_the_file_should_be_is_no_disk_error(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "kept").touch()
    with pytest.raises(OSError):
        write_text(tmp_path / "x", "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "x"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB; skipped where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "star-exp-test", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux mounts a tmpfs")
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_keeps_the_old_file(tiny_disk):
    path = tiny_disk / "x"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk is full"):
        write_text(path, "new" * 100_000)
    assert path.read_text() == "old"
    assert [*tiny_disk.iterdir()] == [path]


def test_a_file_system_that_is_really_read_only_is_explained(tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(OSError, match="read-only"):
        write_text(tiny_disk / "new" / "x", "new")
