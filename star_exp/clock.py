"""How long each phase took, on disk, so that the seconds of a killed process are not forgotten.

clock/<rank>.jsonl in the run directory: a line {"iteration", "phase", "seconds"} for each piece of
work that was finished. Kept apart from the rollouts, which are the same to the byte in every run.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from star_exp.files import explained


class Clock:
    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, iteration: int, phase: str, seconds: float, rank: int = 0) -> None:
        entry = {"iteration": iteration, "phase": phase, "seconds": round(seconds, 4)}
        path = self.folder / f"{rank}.jsonl"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                cut = file.tell() > 0 and path.read_bytes()[-1:] != b"\n"  # by a kill
                file.write((cut * "\n" + json.dumps(entry) + "\n").encode())

    @contextmanager
    def timed(self, iteration: int, phase: str, rank: int = 0) -> Iterator[None]:
        """Adds what the body takes, if it ends."""
        begun = time.perf_counter()
        yield
        self.add(iteration, phase, time.perf_counter() - begun, rank)

    def seconds(self, iteration: int) -> dict[str, float]:
        """Wall time of each phase of an iteration: that of the busiest rank."""
        totals: dict[str, float] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            mine: dict[str, float] = {}
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # cut by a kill
                    continue
                if entry["iteration"] == iteration:
                    mine[entry["phase"]] = mine.get(entry["phase"], 0.0) + entry["seconds"]
            for phase, seconds in mine.items():
                totals[phase] = max(seconds, totals.get(phase, 0.0))
        return totals
