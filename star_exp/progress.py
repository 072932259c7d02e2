"""Where a run stands, in a small file that its main process writes and any other can read.

RUN_DIR/progress.json: {"iteration", "of", "phase", "done", "total", "seconds_left", "time", "host",
"pid"}; gone when the run is finished, since results.json then says all. Whether somebody works on
the run is told by its lock. Nothing heavy is imported here: `star-exp status` answers at once.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from star_exp.clock import Clock
from star_exp.errors import UserError
from star_exp.files import write_json

FILE = "progress.json"
MULTIRUNS = Path("outputs/multirun")  # a folder of each launch, with a record of each job
LOCK = ".lock"
SAID = ("iteration", "of", "phase", "done", "total")
FRESH_S = 60.0
EVERY_S = 2.0  # at most so often, but for the begin and the end of a phase


class Progress:
    """What is known of a run while it works.

    root: of the run directory. of: its iterations. iteration: the last that is done. write: whether
    it goes to the file.
    """

    def __init__(self, root: Path, of: int, *, iteration: int = 0, write: bool = True):
        self.root, self.of, self.write = root, of, write
        self.clock = Clock(root / "clock")
        self.phase, self.iteration, self.done, self.total = "starting", iteration, 0, 1
        self.begun = time.monotonic()
        self._save()

    def at(self, phase: str, iteration: int, done: int = 0, total: int = 1) -> None:
        """Notes how far a phase is; a phase begins when it is first named."""
        begins = (phase, iteration) != (self.phase, self.iteration)
        if begins:
            self.begun = time.monotonic()
        self.phase, self.iteration, self.done, self.total = phase, iteration, done, total
        if begins or done == total or time.monotonic() - self.saved >= EVERY_S:
            self._save()

    def seconds(self) -> float:
        """Since the phase began."""
        return max(1e-6, time.monotonic() - self.begun)

    def _estimate(self) -> float | None:
        """Seconds left, if each iteration to come takes as long as the last finished one.

        By the run's clock, so that a run which is resumed knows it too. None before one is
        finished, and where more time has passed than that.
        """
        last = sum(self.clock.seconds(self.iteration - 1).values()) if self.iteration > 1 else 0.0
        spent = {**self.clock.seconds(self.iteration), self.phase: self.seconds()}
        left = (self.of - self.iteration + 1) * last - sum(spent.values())
        return round(left, 1) if left > 0 else None

    def _save(self) -> None:
        self.saved, self.left = time.monotonic(), self._estimate()
        if self.write:
            known = {
                **{name: getattr(self, name) for name in SAID},
                "seconds_left": self.left,
                "time": round(time.time(), 1),
                "host": socket.gethostname(),
                "pid": os.getpid(),
            }
            write_json(self.root / FILE, known)


def held(root: Path) -> bool:
    """Whether a process works in the run directory `root`: nothing is created or changed there.

    False where the file system has no locks; of another machine's only where they are shared.
    """
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY)
    except OSError:
        return False
    with closing(os.fdopen(descriptor)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def elsewhere(root: Path) -> str | None:
    """The other machine that has told of its progress in `root` within the last minute, if one has:
    a lock may not reach from one machine to another."""
    now: dict[str, Any] = {}
    with suppress(UserError):
        now = read(root / FILE)
    fresh = time.time() - now.get("time", 0.0) < FRESH_S
    return now["host"] if fresh and now["host"] != socket.gethostname() else None


def read(path: Path) -> dict[str, Any]:
    """A JSON file that a run may just be making or removing; {} where there is none.

    UserError if it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(
            f"{path} can't be read ({error}); it was damaged after it was written. Delete it and "
            "give the same command again, which writes it anew"
        ) from error


def runs(folder: Path) -> Iterator[Path]:
    """The run directories in `folder` or below, in order. What is below one is a part of it."""
    for place, folders, files in os.walk(folder):
        if "config.yaml" in files and ("results.json" in files or LOCK in files):
            folders.clear()
            yield Path(place)
        folders.sort()


def rank() -> int:
    """The number of this process, as Lightning, torchrun and Slurm give it; 0 if there is one."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((int(found) for found in ranks if found is not None), 0)


def is_main_process() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


def waiting(roots: Iterable[Path]) -> int:
    """How many jobs of the multiruns that are at work on any of these runs have not begun.

    A launch that was killed still calls its last runs its own: they are of the newest that does.
    """
    names, count = {root.resolve() for root in roots}, 0
    studies = {folder for root in names for folder in root.parents[2:3]}  # where they lie
    beside = {MULTIRUNS.resolve(), *(folder / MULTIRUNS.name for folder in studies)}
    folders = {folder.resolve() for each in beside for folder in each.glob("*/")}
    for folder in sorted(folders, key=lambda folder: folder.name, reverse=True):
        if not names:
            break
        records = []
        for path in folder.glob("job_*.json"):
            with suppress(UserError):  # a damaged one hides no run
                records.append(read(path))
        at_work = {
            Path(each["run_dir"]).resolve()
            for each in records
            if each.get("status") == "running" and "run_dir" in each
        } & names
        if at_work:
            count += max(0, (records[0].get("of") or 0) - len(records))
            names -= at_work
    return count
