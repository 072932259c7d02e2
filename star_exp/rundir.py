"""The directory of a run: what it holds, whose it is, and how far it is.

config.yaml  manifest.json  results.json  metrics.jsonl  run.log  curves.png  progress.json
checkpoints/  rollouts/  clock/  model/  wandb/
"""

import json
import logging
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from star_exp.config.compose import differences
from star_exp.errors import ConfigMismatch, UserError
from star_exp.files import explained, write_json, write_text
from star_exp.progress import FILE, LOCK, Progress, elsewhere, is_main_process, rank, read

__all__ = ["RunDirectory", "git_state", "is_main_process", "together"]
LOGGED = ("star_exp", "pytorch_lightning", "py.warnings")


class RunDirectory:
    """
    main: whether this process writes; the other ranks of a DDP run only read.
    progress: how far it is, of a run that is opened to be gone on with.
    """

    progress: Progress

    def __init__(self, root: Path, *, main: bool = True):
        self.root, self.main = root, main
        self.lock = FileLock(root / LOCK)
        self.manifest: dict[str, Any] = {}
        self.head: dict[str, Any] = {}

    def __enter__(self) -> "RunDirectory":
        if self.main:
            with explained(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                try:
                    self.lock.acquire(timeout=0.5)  # `star-exp status` holds it for an instant
                except Timeout as error:
                    raise UserError(
                        f"another process is working in {self.root}; wait for it or stop it"
                    ) from error
            other = elsewhere(self.root)
            if other is not None:  # it may have been killed, and this is the job that goes on
                print(
                    f"{self.root}: {other} worked in it less than a minute ago. If it still does, "
                    "stop one of the two: locks do not reach from one machine to the other there",
                    file=sys.stderr,
                )
        name = "run.log" if self.main else f"run.rank{rank()}.log"
        self.handler = logging.FileHandler(self.root / name, delay=True)
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        self.handler.setFormatter(logging.Formatter(form))
        for name in LOGGED:
            logging.getLogger(name).addHandler(self.handler)
        logging.getLogger("star_exp").setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGED:
            logging.getLogger(name).removeHandler(self.handler)
        self.handler.close()
        if self.main:
            self.lock.release()

    def open(self, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
        """Takes the directory for this config and returns its results so far.

        Raises ConfigMismatch, naming the keys, if it holds a run of another config.
        """
        path = self.root / "config.yaml"
        if path.exists():
            theirs = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(theirs, dict)
            changed = differences(config, theirs)  # type: ignore[arg-type]
            if changed:
                raise ConfigMismatch(
                    f"{self.root} holds a run with another config:\n  "
                    + "\n  ".join(changed)
                    + "\nchoose another run_dir, or give the settings that it was started with"
                )
        results = self.results()
        done = max((line["iteration"] for line in results["iterations"]), default=0)
        if done > config["iterations"]:
            raise ConfigMismatch(
                f"{self.root} has {done} iterations behind it, which is more than "
                f"iterations={config['iterations']}; give {done} or more, or another name="
            )
        more = config["iterations"] > results.get("requested_iterations", -1)
        if results["status"] == "finished" and not more:
            return results  # and nothing of it is touched
        self.manifest = self._manifest(config, overrides)
        self.head = {
            "schema": 1,
            "status": "running",
            **config["choices"],
            "seed": config["seed"],
            "config_hash": self.manifest["config_hash"],
            "config_hash_no_seed": self.manifest["config_hash_no_seed"],
            "requested_iterations": config["iterations"],
        }
        if self.main:
            write_text(path, OmegaConf.to_yaml(OmegaConf.create(config)))
            write_json(self.root / "manifest.json", self.manifest)
            if results["status"] != "running":  # failed before, or finished with fewer iterations
                results = {**results, "status": "running"}
                results.pop("error", None)
                write_json(self.root / "results.json", results)
        write, of = self.main, config["iterations"]
        self.progress = Progress(self.root, of, iteration=done, write=write)
        return {**results, "status": "running"}

    def note_data(self, fingerprints: dict[str, str]) -> None:
        """Puts the data's fingerprints into the manifest. ConfigMismatch if they have changed."""
        path = self.root / "manifest.json"
        before = json.loads(path.read_text()).get("data", fingerprints) if path.exists() else {}
        if before and before != fingerprints:
            changed = [
                f"{name}: {before.get(name, 'none')} then, {fingerprints.get(name, 'none')} now"
                for name in sorted({*before, *fingerprints})
                if before.get(name) != fingerprints.get(name)
            ]
            raise ConfigMismatch(
                f"what it reads has changed since {self.root} was begun:\n  "
                + "\n  ".join(changed)
                + "\nchoose another run_dir, or put back what it began with"
            )
        self.manifest["data"] = fingerprints
        if self.main:
            write_json(path, self.manifest)

    def results(self) -> dict[str, Any]:
        begun = {"status": "running", "iterations": [], "final": {}}
        return read(self.root / "results.json") or begun

    def add(self, values: dict[str, float]) -> None:
        """Puts what was measured after the last iteration into its line."""
        results = {**self.head, **self.results()}
        if self.main:
            results["final"] |= values
            results["iterations"][-1] |= values
            lines = "".join(json.dumps(line) + "\n" for line in results["iterations"])
            write_text(self.root / "metrics.jsonl", lines)
            write_json(self.root / "results.json", results)

    def finish(self) -> dict[str, Any]:
        logging.getLogger("star_exp").info("finished")
        if self.main:
            (self.root / FILE).unlink(missing_ok=True)
        return self._set_status("finished")

    def failed(self, error: BaseException) -> None:
        """Leaves the reason in run.log and results.json; the run can still be resumed."""
        if isinstance(error, KeyboardInterrupt | SystemExit):  # Slurm's time limit, a SIGTERM
            logging.getLogger("star_exp").info("interrupted")
            return
        logging.getLogger("star_exp").error("failed", exc_info=error)
        if not self.main:
            return
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def _set_status(self, status: str, **more: str) -> dict[str, Any]:
        results = {**self.head, **self.results(), "status": status, **more}
        if self.main:
            write_json(self.root / "results.json", results)
        return results

    def _manifest(self, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
        """What was run, by what, on what. The run id is drawn once and kept."""
        from star_exp.run import hardware, versions

        path = self.root / "manifest.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        kept = {"data": before["data"]} if "data" in before else {}
        return {
            **kept,
            "run_id": before.get("run_id") or secrets.token_hex(4),
            "config_hash": f"{config['cell']}-s{config['seed']}",
            "config_hash_no_seed": config["cell"],
            "overrides": overrides,
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware(),
        }


def together() -> None:
    """Waits for the other ranks of a run, if it has any: what one has written all can read."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def git_state() -> dict[str, Any]:
    """Commit of the code that runs, and whether files differ from it; {} outside of a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return {}  # somebody else's checkout, with this package installed in it
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
