"""Runs killed by the system: `python -m tests.killed SCENARIOS.json`, a helper of test_resume.

Imports what a run needs once, then forks a child for each run of each scenario: one that is killed
with SIGKILL when a named function is called for the n-th time, and one that goes on to the end. A
forked child is a process of its own, killed as hard as any, without ten seconds of imports.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def kill_at(place: str, call: int) -> None:
    """Patches `module:Class.function` or `module:function` to kill this process at a call."""
    module_name, _, path = place.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module_name)
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), [0]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)


def child(config: dict[str, Any], place: str | None, call: int, log: Path) -> int:
    """Runs `config` in a forked process; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if place is not None:
                kill_at(place, call)
            from star_exp.run import run

            run(config, [])
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    import star_exp.loggers
    import star_exp.run  # noqa: F401

    for name, (config, place, call) in json.loads(Path(sys.argv[1]).read_text()).items():
        log = Path(sys.argv[1]).with_name(f"{name}.log")
        killed = child(config, place, call, log) if place else None
        finished = child(config, None, 0, log)
        print(json.dumps({"name": name, "killed": killed, "finished": finished}), flush=True)


if __name__ == "__main__":
    main()
