"""Hydra's part of `star-exp run`: compose, check, and only then import what runs.

Hydra composes the config (or, with -m, one for each job); every job's config is validated before
torch is imported, and handed to `star_exp.run` as plain data.

The jobs of a multirun may work in other processes or on other machines (hydra/launcher=joblib,
submitit_slurm). So what becomes of each is told by a file, and read when all have ended:

    outputs/multirun/2026-11-23_21-30-00_4711/    of one launch
        job_000.json    overrides, run_dir, status, of (jobs); of one that failed: error and logs
        job_000.log     its traceback, if it failed
"""

import io
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from star_exp.config.compose import conf_dir, plain, register_resolvers, with_generator
from star_exp.config.messages import for_the_user
from star_exp.config.validate import ConfigError, validate
from star_exp.errors import UserError
from star_exp.files import write_json, write_text
from star_exp.progress import MULTIRUNS, held, is_main_process, read

LAUNCH = "STAR_EXP_LAUNCH"  # the name of a launch's folder, for hydra.sweep.dir
# What Lightning sets in the main process when it starts the others.
RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def main(arguments: list[str]) -> int:
    """Runs `star-exp run ARGUMENTS`. Errors come out as exceptions, not as Hydra's prints.

    A job of a multirun that fails does not stop the others; all that failed are listed at the end.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if is_main_process() or LAUNCH not in os.environ:  # the other ranks belong to its launch
        os.environ[LAUNCH] = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    command = sys.argv
    folder = (MULTIRUNS / os.environ[LAUNCH]).absolute()
    job = Job(tuple(command), folder, os.getpid(), _jobs(arguments))
    run_all = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)
    sys.argv = [command[0], *arguments]
    ended = ""
    try:
        run_all()
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
        if not job.records() or not is_main_process():  # Hydra's error, before any job began
            raise _explained(error, arguments) from error
    finally:
        sys.argv = command
    # Of a multirun's job the main process tells; for another status of a rank Lightning kills it.
    if job.errors and not job.records():
        raise job.errors[0]
    if not job.records() or not is_main_process():
        return 0
    return summed_up(job.records(), ended)


@dataclass(frozen=True)
class Job:
    """What Hydra calls for each job, in whatever process: it is pickled on its way there.

    command: the words of the command line. folder: of the launch. launcher: its process.
    jobs: how many there are, where that is known. errors: that of the only job, where it is no
    multirun.
    """

    command: tuple[str, ...]
    folder: Path
    launcher: int
    jobs: int | None = None
    errors: list[Exception] = field(default_factory=list)

    def __call__(self, config: DictConfig) -> float | None:
        """What a sweeper optimizes; None if the job failed, which stops no other."""
        register_resolvers()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            with self._lines(config):
                return self._tracked(config)
        try:
            with _process(self.command):
                return _run(config)
        except Exception as error:
            self.errors.append(error)
            return None

    def records(self) -> list[dict[str, Any]]:
        """What the jobs that began have left, in their order."""
        paths = self.folder.glob("job_*.json")
        return [read(path) for path in sorted(paths, key=lambda path: int(path.stem[4:]))]

    def _tracked(self, config: DictConfig) -> float | None:
        record = Record(self.folder / f"job_{int(HydraConfig.get().job.num):03d}.json")
        overrides = [*HydraConfig.get().overrides.task]
        sweeper = HydraConfig.get().sweeper
        ours = sweeper._target_.endswith(".BasicSweeper") and not sweeper.get("params")
        record.note(overrides=overrides, status="running", of=self.jobs if ours else None)
        try:
            hydra = HydraConfig.get().overrides
            with _process(alone(self.command, [*hydra.hydra, *hydra.task])), own_ranks():
                return _run(config, record)
        except Exception as error:
            record.failed(error)
            return None

    @contextmanager
    def _lines(self, config: DictConfig) -> Iterator[None]:
        """Lets each line say whose it is; but a run alone on a terminal has its live panel."""
        if os.getpid() == self.launcher and sys.stdout.isatty():
            yield
            return
        number, choices = HydraConfig.get().job.num, HydraConfig.get().runtime.choices
        stream = Prefixed(sys.stdout, f"{number} {choices['variant']} s{config.get('seed')} | ")
        try:
            with redirect_stdout(stream):
                yield
        finally:
            stream.end()


class Record:
    """job_000.json: what becomes of a job. Of several processes of a job only one writes it."""

    def __init__(self, path: Path):
        self.path = path
        self.said: dict[str, Any] = {}

    def note(self, **said: Any) -> None:
        self.said |= said
        if is_main_process():
            write_json(self.path, self.said)

    def failed(self, error: Exception) -> None:
        overrides = self.said["overrides"]
        message = for_the_user(error, overrides) or f"{type(error).__name__}: {error}"
        logs = [self.path.with_suffix(".log")]
        if is_main_process():
            write_text(logs[0], "".join(traceback.format_exception(error)))
        if self._of_run(error):
            logs.append(Path(self.said["run_dir"]) / "run.log")
        self.note(status="failed", error=message, logs=[str(log) for log in logs])
        print(f"failed: {message}", flush=True)

    def _of_run(self, error: Exception) -> bool:
        """Whether the run itself tells of it; one that was refused has not touched its directory,
        where another process may be at work."""
        with suppress(UserError):  # its results can't be read
            results = read(Path(self.said.get("run_dir", "")) / "results.json")
            return results.get("error") == f"{type(error).__name__}: {error}"
        return False


def _run(config: DictConfig, record: Record | None = None) -> float | None:
    overrides = [*HydraConfig.get().overrides.task]
    resolved = plain(with_generator(config, overrides))
    _heeded(resolved, overrides)
    validate(resolved)
    from star_exp.run import run

    if record is None:
        return run(resolved, overrides=overrides)
    root = Path(resolved["run_dir"]).absolute()
    before = _written(root)
    record.note(run_dir=str(root))
    value = run(resolved, overrides=overrides)
    # a run that was finished before is not touched
    status = "finished before" if before == _written(root) != 0 else "finished"
    record.note(status=status, **{resolved["optimized_metric"]: value})
    return value


def _heeded(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Raises ConfigError where a file that comes later has undone what was typed."""
    for word in overrides:
        group, _, choice = word.partition("=")
        if group in ("reward", "verifier") and choice != "none" and config[group] is None:
            raise ConfigError(
                f"{word} has no effect: a file that comes after it sets {group} to null, as "
                "experiment/NAME/VARIANT.yaml may do; take another experiment, or leave it out"
            )


def _written(root: Path) -> int:
    path = root / "results.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def alone(command: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The command of a job of a multirun by itself: it takes the place of all that are swept over.

    For its other ranks. With the command of all they would go through jobs that are over, and at
    the end be in another one than the main process, which alone is refused by a lock.
    """
    dropped = ("-m", "--multirun")
    kept = [
        word
        for word in command
        if word not in dropped and (word.startswith("-") or "=" not in word) and word[:1] != "~"
    ]
    return [*kept, *overrides, "hydra.mode=RUN"]


@contextmanager
def own_ranks() -> Iterator[None]:
    """Lets each job begin with no other ranks, where Lightning starts them: those of a job end
    with it, however it ends in the main process."""
    before = {name: os.environ[name] for name in RANKS if name in os.environ}
    try:
        yield
    finally:
        if "LOCAL_RANK" in os.environ and "LOCAL_RANK" not in before:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()
            for name in RANKS:
                os.environ.pop(name, None)
            os.environ.update(before)


@contextmanager
def _process(command: Sequence[str]) -> Iterator[None]:
    """This process as the run wants it: Lightning starts the other ranks of a DDP run with the
    words of `command`, and classes of the user's own may lie in the current folder."""
    argv, sys.argv = sys.argv, [*command]
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())
        sys.argv = argv


class Prefixed(io.TextIOBase):
    """A stream on which each line begins with a prefix, and is written in one piece."""

    def __init__(self, stream: TextIO, prefix: str):
        self.stream, self.prefix, self.begun = stream, prefix, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        self.stream.write("".join(f"{self.prefix}{line}\n" for line in lines))
        return len(text)

    def end(self) -> None:
        """Writes what no newline has ended."""
        if self.begun:
            self.write("\n")

    def flush(self) -> None:
        self.stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def summed_up(records: Sequence[dict[str, Any]], ended: str = "") -> int:
    """Prints how many jobs did what, and of each that failed its overrides, error and logs.

    ended: why the launcher itself gave up. The exit status: 1 if a job is not finished.
    """
    unfinished = [each for each in records if not each["status"].startswith("finished")]
    for each in unfinished:
        print(f"\n{' '.join(each['overrides'])}", file=sys.stderr)
        said = each.get("error") or _silent(each)
        print("  " + said.replace("\n", "\n  "), file=sys.stderr)
        for log in each.get("logs", []):
            print(f"  log: {log}", file=sys.stderr)
    counts: dict[str, int] = {}
    for each in records:
        name = "broken off" if each["status"] == "running" else each["status"]
        counts[name] = counts.get(name, 0) + 1
    parts = ", ".join(f"{number} {name}" for name, number in counts.items())
    of = "1 job" if len(records) == 1 else f"{len(records)} jobs"
    print(f"\n{of}: {parts}", file=sys.stderr if unfinished or ended else sys.stdout)
    if ended:
        print(_given_up(ended, records), file=sys.stderr)
    if unfinished or ended:
        print("the same command goes on: what is finished is not repeated", file=sys.stderr)
    return 1 if unfinished or ended else 0


def _given_up(ended: str, records: Sequence[Mapping[str, Any]]) -> str:
    if "No trials are completed" not in ended:
        return f"the launcher gave up; jobs that had not begun are not counted here: {ended}"
    empty = {name for each in records for name, value in each.items() if value is None}
    return "the search has no result: no trial gave a value" + (
        f"; {', '.join(sorted(empty))} is no metric of these runs: set optimized_metric="
        if empty
        else ", since all failed"
    )


def _silent(record: dict[str, Any]) -> str:
    root = record.get("run_dir")
    if root and held(Path(root)):
        return f"still works in {root}; `star-exp status {root}` tells how far it is"
    return "its process ended without a word (killed, or out of memory?)"


def _jobs(arguments: Sequence[str]) -> int | None:
    """How many jobs these words make, if they are swept over by Hydra's own sweeper."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    try:
        swept = OverridesParser.create().parse_overrides(words)
        return prod(len([*each.sweep_iterator()]) for each in swept if each.is_sweep_override())
    except HydraException:  # what can't be read is told when Hydra reads it; and glob()
        return None


def _explained(error: Exception, arguments: list[str]) -> Exception:
    """An error of Hydra's composing, as one of the config."""
    if not isinstance(error, ValueError | AttributeError | TypeError):
        return error
    nulls = [word for word in arguments if word.endswith("=null")]
    named = f" ({', '.join(nulls)}: a group takes the name of a choice)" if nulls else ""
    return ConfigError(f"Hydra can't compose {arguments}: {error}{named}")
