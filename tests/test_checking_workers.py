"""Worker processes: what a hanging, dying or greedy item costs, and that none of them stays."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from star_exp.checking.workers import Outcome, Workers

LIMIT_S = 1.0


def behave(item: str) -> str:
    """Does what it is told to, in a worker."""
    match item:
        case "hang":
            while True:
                pass
        case "hang in C":
            return str(len(str(7 ** (10**8))))
        case "eat":
            return str(len([bytes(2**26) for _ in range(10**6)]))
        case "exit":
            os._exit(3)
        case "raise":
            raise ValueError("no answer")
        case "pid":
            return str(os.getpid())
        case "modules":
            return " ".join(sys.modules)
        case "shout":
            warnings.warn("shouting", stacklevel=1)
            print("shouting")
            os.system("echo shouting; echo shouting >&2")
    return item.upper()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers[str, str]]:
    workers = Workers(behave, workers=2, timeout_s=LIMIT_S, memory_mib=1024)
    yield workers
    workers.close()


def test_outcomes_come_in_the_order_of_the_items(workers: Workers[str, str]):
    items = [f"item {number}" for number in range(500)]
    assert workers.map(items) == [Outcome(item.upper()) for item in items]


def test_nothing_to_do_is_no_outcome(workers: Workers[str, str]):
    assert workers.map([]) == []


def test_a_hanging_item_is_killed_in_time_and_costs_only_itself(workers: Workers[str, str]):
    start = time.monotonic()
    outcomes = workers.map(["a", "hang", "b", "hang in C", "c"])
    assert time.monotonic() - start < 4 * LIMIT_S
    late = Outcome(failed="timed out after 1 s")
    assert outcomes == [Outcome("A"), late, Outcome("B"), late, Outcome("C")]
    assert workers.map(["a", "b"]) == [Outcome("A"), Outcome("B")]


def test_a_worker_that_dies_costs_only_its_item(workers: Workers[str, str]):
    died = Outcome(failed="worker died: exit code 3")
    assert workers.map(["exit", "a", "exit", "b"]) == [died, Outcome("A"), died, Outcome("B")]


def test_an_item_that_eats_the_memory_costs_only_itself(workers: Workers[str, str]):
    greedy = Outcome(failed="out of memory: more than 1024 MiB")
    assert workers.map(["a", "eat", "b"]) == [Outcome("A"), greedy, Outcome("B")]


def test_an_exception_is_an_outcome(workers: Workers[str, str]):
    assert workers.map(["raise", "a"]) == [
        Outcome(failed="ValueError: no answer"),
        Outcome("A"),
    ]


def test_workers_are_silent(workers: Workers[str, str], capfd: pytest.CaptureFixture[str]):
    assert workers.map(["shout"]) == [Outcome("SHOUT")]
    assert capfd.readouterr() == ("", "")


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Workers(behave, workers=0)


def test_closed_workers_are_gone_and_start_again():
    workers = Workers(behave)
    pids = {int(outcome.value or 0) for outcome in workers.map(["pid"] * 20)}
    workers.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert workers.map(["a"]) == [Outcome("A")]
    workers.close()


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


SCRIPT = """
from star_exp.checking.workers import Workers
from tests.test_checking_workers import behave
if __name__ == "__main__":
    workers = Workers(behave, workers=2, timeout_s=2)
    print(workers.map(["modules"])[0].value, flush=True)
    {then}
"""


def script(path: Path, then: str) -> subprocess.Popen[str]:
    path.write_text(SCRIPT.format(then=then))
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def test_the_end_of_a_script_ends_its_workers_quietly_and_they_never_had_torch(tmp_path: Path):
    output, errors = script(tmp_path / "script.py", "").communicate(timeout=30)
    assert "star_exp.checking.workers" in output.split()
    assert "torch" not in output.split()
    assert errors == ""


def test_a_script_that_ends_while_a_killed_worker_is_replaced_ends_quietly(tmp_path: Path):
    then = "workers.timeout_s = 0.3; workers.map(['hang'])"
    _, errors = script(tmp_path / "script.py", then).communicate(timeout=30)
    assert errors == ""


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path):
    parent = script(tmp_path / "script.py", "workers.map(['hang', 'hang'])")
    assert parent.stdout is not None and parent.stderr is not None
    parent.stdout.readline()  # one of the workers is up
    time.sleep(0.5)
    children = psutil.Process(parent.pid).children()
    assert sum("spawn_main" in command(child) for child in children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
