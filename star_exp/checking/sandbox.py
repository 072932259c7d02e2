"""Programs that a model wrote, run against tests in a sandbox. The tests themselves stay outside.

    check = Check("def double(n): return 2 * n", "assert double(3) == 6", ("double",))
    WORKERS.map([check])      # [Outcome(value=Verdict(passed=True, reason=None))]

The judge, a worker process (workers.py), executes the tests. The names that they take from the
program are proxies there: they send their arguments to the sandbox (runner.py) and get plain data
back. So the program never sees what is expected of it, and whatever it overrides, forges or exits,
whether values are equal is decided by Python's own types in the judge. What is isolated, and where:
docs/sandbox.md.
"""

import ast
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from star_exp.checking import runner
from star_exp.checking.workers import Workers
from star_exp.errors import UserError

log = logging.getLogger("star_exp")

Walls = Literal["bubblewrap", "namespaces", "limits"]
Isolation = Literal["auto", "bubblewrap", "namespaces", "limits"]

START_S = 30.0  # a sandbox is up by then, however busy the machine is
MOST_S = 25.0  # of `timeout_s`: a judge has a minute
REASONS = {"MemoryError": "memory", "PermissionError": "forbidden", "TooLarge": "output"}


class SandboxError(RuntimeError):
    """No sandbox could be started: nothing is known about the program."""


class Stopped(Exception):
    """The program raised, ended, took too long or wrote what can't be read; says which."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    timeout_s: wall-clock time of a program with all calls of its tests.
    memory_mib: address space, of which Python takes some 30 MiB.
    """

    walls: Walls = "limits"
    timeout_s: float = 3.0
    memory_mib: int = 512


@dataclass(frozen=True)
class Check:
    """
    program: what a model wrote. tests, given: Python of the dataset, which is trusted.
    names: what the tests take from the program, functions and classes.
    given: executed before the tests, outside of the sandbox: imports, helpers.
    """

    program: str
    tests: str
    names: tuple[str, ...]
    given: str = ""
    limits: Limits = Limits()


@dataclass(frozen=True)
class Verdict:
    """reason: why it didn't pass, `timeout: more than 3 s`; its first word is one of assertion,
    exception, exit, forbidden, memory, output, timeout. The rest may come from the program."""

    passed: bool
    reason: str | None = None


def judge(check: Check) -> Verdict:
    """Whether the program passes all tests. SandboxError if it could not be run."""
    with Sandbox(check.limits) as sandbox:
        try:
            sandbox.prepare(check.program)
            sandbox.ask("run", check.program)
            names: dict[str, Any] = {"__name__": "tests"}
            exec(compile(check.given, "<given>", "exec"), names)
            names |= {name: Proxy(sandbox, name) for name in check.names}
            _execute(check.tests, names)
        except Stopped as stopped:
            return Verdict(False, str(stopped))
        except AssertionError as error:
            return Verdict(False, f"assertion: {runner.message(error)}")
        except SandboxError:
            raise
        except Exception as error:  # of a test, on what it was given: None + 1
            return Verdict(False, f"exception: {type(error).__name__}: {runner.message(error)}")
    return Verdict(True)


def _execute(tests: str, names: dict[str, Any]) -> None:
    """Statement by statement, so that a failed assertion tells which it was."""
    for statement in ast.parse(tests).body:
        code = compile(ast.Module([statement], []), "<tests>", "exec")
        try:
            exec(code, names)
        except AssertionError as error:
            if isinstance(statement, ast.Assert):
                raise AssertionError(ast.unparse(statement)) from error
            raise


# As many judges as processors. What hangs or eats up a judge is not said to be right.
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
WORKERS: Workers[Check, Verdict] = Workers(judge, workers=CORES, timeout_s=60.0)


class Sandbox:
    """A process that runs one program. `with Sandbox(limits) as sandbox: sandbox.ask("run", text)`

    SandboxError if it does not start.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._buffered, self._errors = bytearray(), b""
        settings = {
            "walls": limits.walls,
            "memory_mib": limits.memory_mib,
            "cpu_s": int(limits.timeout_s) + 2,
        }
        command = _command(limits.walls, json.dumps(settings))
        self._deadline = time.monotonic() + START_S
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # why it doesn't start; the runner gives it up
                cwd="/",
                env={},
                start_new_session=True,
            )
        except OSError as error:
            self._socket.close()
            raise SandboxError(f"{limits.walls}: {error}") from error
        finally:
            theirs.close()
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        self._deadline = time.monotonic() + limits.timeout_s

    def _wait_until_ready(self) -> None:
        try:
            said = json.loads(self._line())
        except (Stopped, ValueError) as error:
            self.close()
            said = self._errors.decode(errors="replace").strip()[-runner.SHOWN :]
            raise SandboxError(f"{self.limits.walls}: {said or error}") from error
        if said != {"value": "ready"}:
            raise SandboxError(f"{self.limits.walls}: {said.get('refused', said)}")

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills the process with all that is in its group."""
        if self._process.returncode is not None:  # its number may be another's by now
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _, self._errors = self._process.communicate()
        self._socket.close()

    def prepare(self, program: str) -> None:
        """Imports what the program will, and closes the walls. SandboxError where they don't."""
        try:
            self.ask("prepare", program)
        except Stopped as stopped:
            if str(stopped).startswith(("timeout", "memory")):  # of what it imports
                raise
            raise SandboxError(f"the sandbox could not be closed: {stopped}") from stopped

    def ask(self, action: str, *words: object) -> Any:
        """What the runner answers to an action, `run` or `call`. Stopped where it gives none."""
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(f"{json.dumps([action, *words])}\n".encode())
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise self._ended() from error
        line = self._line()
        try:
            match json.loads(line):
                case {"value": value}:
                    return runner.decode(value, self._proxy)
                case {"raised": [str(kind), str(said)]}:
                    reason = REASONS.get(kind, "exception")
                    raise Stopped(f"{reason}: {kind}: {said}"[: 2 * runner.SHOWN])
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Stopped(f"output: no value can be read from it: {error}") from error
        raise Stopped("output: no answer of the runner")

    def _proxy(self, handle: int | str) -> "Proxy":
        return Proxy(self, handle)

    def _line(self) -> bytes:
        """The next line; what stands behind it, if a program forged it, is the next answer."""
        while b"\n" not in self._buffered:
            if len(self._buffered) > runner.LONGEST:
                raise Stopped(f"output: more than {runner.LONGEST} bytes")
            try:
                self._socket.settimeout(self._left())
                read = self._socket.recv(2**16)
            except TimeoutError as error:
                raise self._late() from error
            except OSError as error:
                raise self._ended() from error
            if not read:
                raise self._ended()
            self._buffered += read
        line, _, self._buffered = self._buffered.partition(b"\n")
        return bytes(line)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _late(self) -> Stopped:
        return Stopped(f"timeout: more than {self.limits.timeout_s:g} s")

    def _ended(self) -> Stopped:
        """The process ended, or closed the socket, and then it is ended."""
        self.close()
        return Stopped(f"exit: the program ended (status {self._process.returncode})")


class Proxy:
    """An object in the sandbox: it is called, its attributes are read and set. Equal to itself."""

    __slots__ = ("_handle", "_sandbox")

    def __init__(self, sandbox: Sandbox, handle: int | str) -> None:
        object.__setattr__(self, "_sandbox", sandbox)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._sandbox.ask("call", _plain(self), _plain(args), _plain(kwargs))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, pickle: what an object has that is not here
            raise AttributeError(name)
        return self._sandbox.ask("get", _plain(self), name)

    def __setattr__(self, name: str, value: object) -> None:
        self._sandbox.ask("put", _plain(self), name, _plain(value))


def _plain(value: object) -> Any:
    return runner.encode(value, _handle)


def _handle(value: object) -> int | str:
    if not isinstance(value, Proxy):
        raise TypeError(f"a test gives the program {type(value).__name__}, which is no plain data")
    return value._handle


# which walls


@lru_cache(maxsize=4)
def walls(isolation: Isolation) -> Walls:
    """The strongest that work here, tried once and logged; or the one that is demanded.

    UserError where that does not work. "auto" takes none that leaves files and network open.
    """
    refusals = []
    wanted: Sequence[Walls] = (
        ("bubblewrap", "namespaces", "limits") if isolation == "auto" else (isolation,)
    )
    if os.name != "posix":
        raise UserError("programs of a model are run on Linux only, on Windows in WSL")
    if isolation == "auto" and sys.platform != "linux":
        raise UserError(
            f"on {sys.platform} a program of a model can't be kept from files and network. Run it "
            "on Linux or in a container, or accept that with task.isolation=limits"
        )
    for each in wanted:
        try:
            with Sandbox(Limits(walls=each)) as sandbox:
                sandbox.ask("run", "")
        except (SandboxError, Stopped) as error:
            refusals.append(str(error))
        else:
            log.info("programs of a model run in a sandbox: %s", each)
            return each
    raise UserError(
        f"task.isolation={isolation}: no sandbox could be started here ({'; '.join(refusals)}); "
        "see docs/sandbox.md"
    )


def _command(walls: Walls, settings: str) -> list[str]:
    """Isolated Python, without the site's packages, maybe within bubblewrap."""
    python = str(Path(sys.executable).resolve())
    run = [python, "-I", "-S", "-B"]
    if walls != "bubblewrap":
        return [*run, runner.__file__, settings]
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError("bubblewrap: there is no bwrap in PATH")
    places = (sys.base_prefix, str(Path(python).parents[1]), "/usr", "/lib", "/lib64")
    shown = [word for place in dict.fromkeys(places) for word in ("--ro-bind-try", place, place)]
    inner = ["--ro-bind", runner.__file__, "/runner.py", "--dev", "/dev", "--proc", "/proc"]
    ways = ["--unshare-all", "--die-with-parent", "--chdir", "/"]
    return [found, *ways, *shown, *inner, *run, "/runner.py", settings]
