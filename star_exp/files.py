"""Files that appear whole or not at all, and disks that refuse with a word on what to do."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

WHAT_TO_DO = {
    errno.ENOSPC: "The disk is full. Free some space",
    errno.EDQUOT: "The disk quota is used up. Free some space",
    errno.EROFS: "The file system is read-only. Mount it writable, or choose another run_dir=",
    errno.EACCES: "The directory is not writable. Change its mode, or choose another run_dir=",
    errno.EPERM: "The directory is not writable. Change its mode, or choose another run_dir=",
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Gives an OSError at `path` a message that says what to do; others pass as they are."""
    try:
        yield
    except OSError as error:
        advice = WHAT_TO_DO.get(error.errno or 0)
        if advice is None:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror} while writing {path}. {advice} and give the same command "
            "again: what was written is whole, and the run goes on from there",
        ) from error


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` once it is whole and on the disk."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)  # or the new name may be lost with the power
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` once it is whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with explained(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
            _sync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
