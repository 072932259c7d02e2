"""Judging in worker processes that are killed when an answer makes them hang or eat the memory.

    def check(pair):                   # at the top of a module that imports quickly
        return equivalent(*pair)
    workers = Workers(check, timeout_s=5)
    workers.map([("1/2", "0.5"), ("1", "9^{9^{9^9}}")])
    # [Outcome(value=True), Outcome(failed="timed out after 5 s")]

Pebble keeps the processes. They are spawned, not forked: the parent has threads, maybe CUDA. A
spawned process imports the parent's script again, so one's own script needs `if __name__ ==
"__main__"`; that of `star-exp` imports nothing heavy.
"""

import atexit
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Timeout  # pebble's; the builtin one since 3.11
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

Item = TypeVar("Item")
Value = TypeVar("Value")

GRACE_S = 1.0  # a worker's own time limit comes this much after its parent's
START_S = 60.0  # a new process, with its imports, is there by then
OUT_OF_MEMORY = 77  # exit code


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What the function returned, or what it failed with."""

    value: Value | None = None
    failed: str | None = None


class Workers(Generic[Item, Value]):
    """A function of one argument, called in processes that start at the first `map`.

    function: of a module's top level. Its module must not import torch: each worker imports it.
    timeout_s: for one item; a process's start and imports are not counted.
    memory_mib: address space of one process, where the system can limit it; None for no limit.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        workers: int = 2,
        timeout_s: float = 5.0,
        memory_mib: int | None = 2048,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        self.function = function
        self.workers = workers
        self.timeout_s = timeout_s
        self.memory_mib = memory_mib
        self._pool: ProcessPool | None = None

    def map(self, items: Iterable[Item]) -> list[Outcome[Value]]:
        """An outcome for each item, in order. One that hangs or kills its process costs itself.

        RuntimeError if no process can be started.
        """
        self._pool = pool = self._pool or self._open()
        try:
            futures = [
                pool.schedule(_call, (self.function, item, self.timeout_s), timeout=self.timeout_s)
                for item in items
            ]
            return [self._outcome(future) for future in futures]
        except BaseException:  # nothing of this call may run on, or wait before the next
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes; a later `map` starts others. The end of the parent ends them too."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
            atexit.unregister(self.close)

    def _open(self) -> ProcessPool:
        atexit.register(self.close)  # pebble's own exit may meet a worker that is just starting
        return ProcessPool(
            self.workers,
            initializer=_start,
            initargs=(self.function, self.memory_mib),
            context=multiprocessing.get_context("spawn"),
        )

    def _outcome(self, future: Future[Outcome[Value]]) -> Outcome[Value]:
        try:
            # Items are taken in order, so this one runs or is next. Pebble would wait for ever for
            # one that its worker died of before it said that it had it.
            return future.result(self.timeout_s + START_S)
        except Timeout:
            return Outcome(failed=f"timed out after {self.timeout_s:g} s")
        except ProcessExpired as error:
            if error.exitcode == OUT_OF_MEMORY:
                return Outcome(failed=f"out of memory: more than {self.memory_mib} MiB")
            return Outcome(failed=f"worker died: exit code {error.exitcode}")
        except BrokenProcessPool as error:
            name = f"{self.function.__module__}.{self.function.__qualname__}"
            raise RuntimeError(
                f"no worker process could be started for {name}; what went wrong is printed above. "
                "The function must be at the top of a module that a new process can import"
            ) from error


def _start(function: Callable, memory_mib: int | None) -> None:
    """In a new worker. `function` came with its module: imports are done before any item."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's SIGTERM ends it even inside C code
    warnings.simplefilter("ignore")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if memory_mib is not None and os.name == "posix":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20, most))


def _call(function: Callable[[Item], Value], item: Item, timeout_s: float) -> Outcome[Value]:
    """In a worker. If the parent is gone, an idle worker sees the closed pipe, a busy one this."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)  # SIGALRM ends the process
    try:
        return Outcome(function(item))
    except MemoryError:  # what is left may not do for the next item
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # data: on what a model writes it may fail in any way
        return Outcome(failed=f"{type(error).__name__}: {error}")
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
