"""`star-exp verify RUN_DIR...`: whether what a run says of itself follows from what it stored.

    star-exp verify outputs/.../seed0                 a run, and those below it: of its verifiers
    star-exp verify outputs/star-exp                  all runs below a folder
    star-exp verify outputs/.../seed0 --no-grading    without judging each text again

    config     config.yaml has the hash that manifest, results and the folder's name give
    data       the task, built again, has the problems and prompts that the manifest names
    files      each rollout can be read, stands where it says, and asks what the task asks; what is
               measured on a split has all of it
    seeds      each sample has the seed of its run, iteration, phase, problem and number
    weights    M_n wrote what measures it and the samples of iteration n+1; the last is in model/
    answers    each text, judged again
    metrics    metrics.jsonl, computed again from the rollouts; results.json says the same

Of a run that is not finished what there is; its training sets only where it has left a model/. A
verifier's run below its generator's must have the config that this gives it. Other runs whose
config star-exp makes of another (from=, sft/, reward models) name the hash of that one, which can't
be computed of theirs. Seconds and losses follow from nothing that is stored, and are listed; a
perplexity is compared with that in perplexity.json, and not measured again.

A line with - says what was not checked. Nothing is written; the exit status is 1 if anything
differs.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException

from star_exp.errors import UserError
from star_exp.run import quiet_libraries
from star_exp.verify import metrics, rollouts, settings
from star_exp.verify.stored import Check, Stored

FAULTS = 5  # of one kind that are shown


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("star-exp verify", description="Check runs by their rollouts.")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path)
    parser.add_argument("--no-grading", action="store_true", help="don't judge each text again")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale may have no letter for a tick
        sys.stdout.reconfigure(errors="replace")
    quiet_libraries()
    roots = list(dict.fromkeys(root for given in options.run_dirs for root in runs(given)))
    sys.path.insert(0, os.getcwd())  # as `star-exp run`: a class of the user's own
    try:
        broken = [root for root in roots if not _print(root, verify(root, not options.no_grading))]
    finally:
        sys.path.remove(os.getcwd())
    if len(roots) > 1:
        print(f"{len(roots) - len(broken)} of {len(roots)} runs hold")
    return 1 if broken else 0


def runs(folder: Path) -> list[Path]:
    """The folder, if it is a run's, and all runs below it. UserError where there is none."""
    found = [path.parent for path in folder.rglob("manifest.json")]
    found = sorted(root for root in found if (root / "config.yaml").exists())
    if not found:
        raise UserError(f"{folder}: there is no run in it; give a folder such as outputs/.../seed0")
    return found


def verify(root: Path, grading: bool = True) -> list[Check]:
    """Every check of a run directory, which stays as it is; grading: each text is judged again."""
    try:
        run = Stored(root)
        checks = [settings.config(run), settings.data(run)]
        return [*checks, *rollouts.checks(run, grading), metrics.check(run)]
    except (UserError, OSError, HydraException) as error:  # a file, the data, or a class is gone
        return [Check("run", "can't be read", [str(error)])]
    except (LookupError, ValueError, TypeError) as error:  # what star-exp would not have written
        what = f"{root} was changed after the run ({type(error).__name__}: {error})"
        return [Check("run", "can't be read", [what])]


def _print(root: Path, checks: Sequence[Check]) -> bool:
    """Shows what was checked; whether all holds."""
    print(root)
    for check in checks:
        mark = "✗" if check.faults else "✓" if check.said else "-"
        print(f"  {mark} {check.name:8} {check.said}".rstrip())
        shown, more = check.faults[:FAULTS], len(check.faults) - FAULTS
        for line in [*shown, *([f"and {more} more"] if more > 0 else [])]:
            print(f"      {line}")
        for line in check.left_out:
            print(f"    - {line}")
    return not any(check.faults for check in checks)
