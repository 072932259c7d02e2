"""What runs inside the sandbox: it locks itself in, then runs a program and what is called of it.

    python -I -S -B runner.py '{"walls": "namespaces", "memory_mib": 512, "cpu_s": 4}'

It is started by checking/sandbox.py and reads a JSON line, does it, writes a JSON line, over and
over, on the socket that it gets as standard input. The program that is run shares the process with
all this and may do what it likes here. So nothing that is written here is trusted by who reads it,
and what a program is expected to return never comes here.

The order on Linux: namespaces, limits, a filter of system calls that leaves opening files; the
modules that the program imports; no capabilities, an empty root, a filter that leaves memory, the
clock and the files that are open (the socket, /dev/null). Only then the program.
"""

import ast
import contextlib
import ctypes
import importlib
import json
import os
import platform
import signal
import struct
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 2**20  # bytes of a message
SMALL = 2**63  # JSON has decimal numbers, which take quadratic time
SHOWN = 200  # characters of an exception's message

# System calls by their numbers on x86_64 and aarch64; others fail with EPERM.
ALWAYS = {
    **{"read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62)},
    **{"mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214)},
    **{"mremap": (25, 216), "madvise": (28, 233), "futex": (202, 98), "getrandom": (318, 278)},
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139)},
    **{"sigaltstack": (131, 132), "restart_syscall": (219, 128), "sched_yield": (24, 124)},
    **{"nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113)},
    **{"clock_getres": (229, 114), "gettimeofday": (96, 169), "times": (100, 153)},
    **{"getrusage": (98, 165), "getpid": (39, 172), "getppid": (110, 173)},
    **{"gettid": (186, 178), "exit": (60, 93), "exit_group": (231, 94)},
}
AT_FIRST = {
    **{"openat": (257, 56), "open": (2, None), "fcntl": (72, 25), "ioctl": (16, 29)},
    **{"newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291)},
    **{"access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439)},
    **{"readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61)},
    **{"pread64": (17, 67), "getcwd": (79, 17), "uname": (63, 160), "getuid": (102, 174)},
    **{"geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177)},
    **{"chroot": (161, 51), "chdir": (80, 49), "capset": (126, 91), "prctl": (157, 167)},
    **{"mount": (165, 40)},
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, as the kernel names it

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
NEW_NAMESPACES = (
    0x10000000 | 0x40000000 | 0x00020000 | 0x08000000 | 0x04000000
)  # user net mnt ipc uts
MS_PRIVATE_ALL = 0x4000 | 0x40000
MS_EMPTY = 1 | 2 | 4 | 8  # read-only, nosuid, nodev, noexec
_long = ctypes.c_ulong  # arguments beyond the known ones must have all their bits
LATE = {  # what these import when they are used
    "collections": "heapq",
    "datetime": "_strptime",
    "fractions": "decimal",
    "time": "_strptime",
    "urllib.parse": "unicodedata",
}


class TooLarge(Exception):
    """What a call returned doesn't fit into a message."""


def main() -> None:
    settings = json.loads(sys.argv[1])
    channel = _own_channel()
    try:
        if settings["walls"] == "namespaces":
            _unshare()
        _limit(settings["memory_mib"], settings["cpu_s"])
        if sys.platform == "linux":
            _check(_libc().prctl(PR_SET_PDEATHSIG, _long(signal.SIGKILL)))
            _filter({**ALWAYS, **AT_FIRST})
    except OSError as error:
        _say(channel, {"refused": str(error)})
        return
    _say(channel, {"value": "ready"})
    _serve(channel, settings["walls"])


# the program


def _serve(channel: int, walls: str) -> None:
    """Answers each message with {"value": ...} or {"raised": [class, message]}."""
    program = types.ModuleType("program")
    sys.modules["program"] = program  # dataclasses look their module up
    handles: list[Any] = []

    def keep(value: object) -> int:
        handles.append(value)
        return len(handles) - 1

    def fetch(handle: int | str) -> Any:
        return handles[handle] if isinstance(handle, int) else getattr(program, handle)

    def plain(data: object) -> Any:
        return decode(data, fetch)

    def run(source: str) -> None:
        exec(compile(source, "<program>", "exec"), program.__dict__)

    def call(function: object, args: object, kwargs: object) -> Any:
        return plain(function)(*plain(args), **plain(kwargs))

    def get(owner: object, name: str) -> Any:
        return getattr(plain(owner), name)

    def put(owner: object, name: str, value: object) -> None:
        setattr(plain(owner), name, plain(value))

    def prepare(program: str) -> None:
        _import(program)
        _lock(walls)

    buffered = bytearray()
    actions: dict[str, Callable[..., Any]] = {
        **{"prepare": prepare, "run": run},
        **{"call": call, "get": get, "put": put},
    }
    while (line := _line(channel, buffered)) is not None:
        action, *words = json.loads(line)
        try:
            reply = json.dumps({"value": encode(actions[action](*words), keep)})
            if len(reply) >= LONGEST:
                raise TooLarge(f"more than {LONGEST} bytes")
        except BaseException as error:  # SystemExit and KeyboardInterrupt too
            reply = json.dumps({"raised": [type(error).__name__, message(error)]})
        _say(channel, reply)


def message(error: BaseException) -> str:
    try:
        return str(error)[:SHOWN]
    except BaseException:  # it may be the program's own class
        return ""


def _import(source: str) -> None:
    """The modules that a program imports, wherever in it: later it can't open their files."""
    names = ["warnings", "weakref"]  # re's, from 3.13 on; functools.singledispatch's
    with contextlib.suppress(Exception):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in [*names, *(LATE[name] for name in names if name in LATE)]:
        with contextlib.suppress(BaseException):  # it is told when the program is run
            importlib.import_module(name)


# plain data as JSON

PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
TYPES: dict[str, type] = {each.__name__: each for each in PLAIN}


def encode(value: object, keep: Callable[[object], int | str]) -> Any:
    """Plain data as what JSON has. Anything else is a handle, what `keep` calls it."""
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return value if -SMALL < value < SMALL else {"int": hex(value)}
        case list():
            return [encode(each, keep) for each in value]
        case tuple():
            return {"tuple": [encode(each, keep) for each in value]}
        case frozenset():
            return {"frozenset": [encode(each, keep) for each in value]}
        case set():
            return {"set": [encode(each, keep) for each in value]}
        case dict():
            return {"dict": [[encode(k, keep), encode(v, keep)] for k, v in value.items()]}
        case bytes() | bytearray():
            return {"bytes": value.hex()}
        case complex():
            return {"complex": [value.real, value.imag]}
        case type() if TYPES.get(value.__name__) is value:
            return {"type": value.__name__}
    return {"handle": keep(value)}


def decode(data: Any, fetch: Callable[[int | str], Any]) -> Any:
    """Values of exactly these types, and what `fetch` knows. ValueError, TypeError, RecursionError
    where it can't have come from `encode`."""
    match data:
        case list():
            return [decode(each, fetch) for each in data]
        case {"tuple": list(items)}:
            return tuple([decode(each, fetch) for each in items])
        case {"set": list(items)}:
            return {decode(each, fetch) for each in items}
        case {"frozenset": list(items)}:
            return frozenset([decode(each, fetch) for each in items])
        case {"dict": list(items)}:
            return {decode(key, fetch): decode(value, fetch) for key, value in items}
        case {"int": str(digits)}:
            return int(digits, 16)
        case {"bytes": str(digits)}:
            return bytes.fromhex(digits)
        case {"complex": [float() | int() as real, float() | int() as imaginary]}:
            return complex(real, imaginary)
        case {"type": str(name)} if name in TYPES:
            return TYPES[name]
        case {"handle": int() | str() as handle}:
            return fetch(handle)
        case dict():
            raise ValueError(f"no value: {str(data)[:SHOWN]}")
    return data


# the channel


def _own_channel() -> int:
    """The socket under another number; standard input, output and errors are /dev/null."""
    channel = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    return channel


def _line(channel: int, buffered: bytearray) -> bytes | None:
    """The next line, None at the end."""
    while b"\n" not in buffered:
        read = os.read(channel, 2**16)
        if not read:
            return None
        buffered += read
    line, _, rest = bytes(buffered).partition(b"\n")
    buffered[:] = rest
    return line


def _say(channel: int, message: object) -> None:
    text = message if isinstance(message, str) else json.dumps(message)
    left = memoryview(f"{text}\n".encode())
    while left:
        left = left[os.write(channel, left) :]


# the walls


def _limit(memory_mib: int, cpu_s: int) -> None:
    """No files but small numbers of open ones, no processes, so much memory and processor time."""
    import resource  # there is none on Windows, where this module is still read

    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_mib * 2**20,
        resource.RLIMIT_NPROC: 0,  # for users other than root
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, most in limits.items():
        with contextlib.suppress(ValueError):  # macOS knows some by name only; more is not allowed
            resource.setrlimit(kind, (most, most))


def _unshare() -> None:
    """A user, a network, IPC, a host name and mounts of its own."""
    libc = _libc()
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(NEW_NAMESPACES))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _check(libc.mount(None, b"/", None, _long(MS_PRIVATE_ALL), None))


def _lock(walls: str) -> None:
    """The second half, when the modules are there. On systems other than Linux there is none."""
    if sys.platform != "linux":
        return
    libc = _libc()
    if walls == "namespaces":
        _check(libc.mount(b"none", b"/tmp", b"tmpfs", _long(MS_EMPTY), b"size=4k"))
        os.chroot("/tmp")  # an empty folder
        os.chdir("/")
    version = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(libc.capset(version, (ctypes.c_uint32 * 6)()))
    _filter(ALWAYS)


def _filter(allowed: Mapping[str, tuple[int | None, int | None]]) -> None:
    """From now on only these system calls: seccomp(2). OSError where the kernel can't do it."""
    if platform.machine() not in MACHINES:
        raise OSError(f"no filter of system calls is known for {platform.machine()}")
    column, machine = MACHINES[platform.machine()]
    numbers = [each[column] for each in allowed.values() if each[column] is not None]
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD | W | ABS, BPF_JMP | JEQ | K, BPF_RET | K
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050001  # process, call, with EPERM
    code = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, kill), (load, 0, 0, 0)]
    code += [(equal, len(numbers) - place, 0, n) for place, n in enumerate(numbers)]
    code += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    header = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(program)))
    none = _long(0)
    _check(_libc().prctl(PR_SET_NO_NEW_PRIVS, _long(1), none, none, none))
    _check(_libc().prctl(PR_SET_SECCOMP, _long(2), header))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main()
