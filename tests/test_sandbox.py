"""The sandbox: what hostile programs get, and what is left of them, in each isolation there is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from star_exp.checking import sandbox
from star_exp.checking.runner import decode, encode
from star_exp.checking.sandbox import (
    WORKERS,
    Check,
    Limits,
    Sandbox,
    SandboxError,
    Verdict,
    Walls,
    judge,
    walls,
)
from star_exp.errors import UserError

MODES: tuple[Walls, ...] = ("bubblewrap", "namespaces", "limits")
MEMORY_MIB = 200 + os.getpid() % 100  # stands in the command line of this module's sandboxes
SECRET = "98765" + "4321"

# A name, what is run, and what the reasons begin with that it may come out with. {folder} is a
# place to write to, {port} one that listens, {parent} the judge's parent.
HOSTILE = {
    "fork bomb": (
        """
import os
def f(n):
    while True:
        try:
            os.fork()
        except OSError:
            pass""",
        "timeout",
    ),
    "fork": ("import os\ndef f(n): return os.fork()", "forbidden"),
    "fork by the C library": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "def f(n): return [libc.fork(), libc.vfork(), libc.syscall(56, 17, 0, 0, 0, 0)]",
        "assertion exception",
    ),
    "sockets by the C library": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "def f(n): return [libc.socket(2, 1, 0), libc.open(b'/etc/passwd', 0), libc.kill(-1, 0)]",
        "assertion exception",
    ),
    "threads": (
        "import threading\ndef f(n): threading.Thread(target=print).start()",
        "exception",
    ),
    "subprocess": (
        "import subprocess\ndef f(n): return subprocess.run(['/bin/touch', '{folder}/a'])",
        "forbidden",
    ),
    "shell": ("import os\ndef f(n): return os.system('touch {folder}/b')", "assertion"),
    "exec": ("import os\ndef f(n): os.execv('/bin/touch', ['touch', '{folder}/c'])", "forbidden"),
    "daemonised grandchild": (
        """
import os, time
def f(n):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
    except OSError:
        return 'refused'""",
        "assertion",
    ),
    "endless loop": ("def f(n):\n    while True: pass", "timeout"),
    "endless loop before any call": ("while True: pass", "timeout"),
    "endless sleep that ignores signals": (
        """
import signal, time
for number in (2, 15, 24):
    signal.signal(number, signal.SIG_IGN)
def f(n):
    while True:
        time.sleep(1)""",
        "timeout",
    ),
    "16 GiB": ("def f(n): return len(bytearray(2 ** 34))", "memory"),
    "16 GiB, bit by bit": (
        "kept = []\ndef f(n):\n    while True: kept.append(bytes(2 ** 20))",
        "memory",
    ),
    "more memory": (
        "import resource\ndef f(n): resource.setrlimit(resource.RLIMIT_AS, (2 ** 34, 2 ** 34))",
        "forbidden exception",
    ),
    "a file": ("def f(n): open('{folder}/d', 'w')", "forbidden"),
    "a file by os": (
        "import os\ndef f(n): os.mkdir('{folder}/e'); os.unlink('{folder}/keep')",
        "forbidden",
    ),
    "a temporary file": ("import tempfile\ndef f(n): tempfile.mkstemp()", "forbidden exception"),
    "reading files": ("def f(n): return open('/etc/passwd').read()", "forbidden exception"),
    "reading memory": ("def f(n): return open('/proc/self/mem', 'rb')", "forbidden exception"),
    "environment": ("import os\ndef f(n): return os.environ['SANDBOX_SECRET']", "exception"),
    "environment of the judge": (
        "def f(n): return open('/proc/{parent}/environ').read()",
        "forbidden exception",
    ),
    "listing": ("import os\ndef f(n): return os.listdir('/')", "forbidden exception"),
    "sockets": (
        "import socket\ndef f(n): socket.socket().connect(('127.0.0.1', {port}))",
        "forbidden",
    ),
    "unix sockets": (
        "import socket\ndef f(n): return socket.socket(socket.AF_UNIX)",
        "forbidden",
    ),
    "killing": (
        "import os\ndef f(n): os.kill({parent}, 9)",
        "forbidden",
    ),
    "killing the parent": ("import os\ndef f(n): os.kill(os.getppid(), 9)", "forbidden"),
    "printing without end": ("def f(n):\n    while True: print('x' * 10 ** 5)", "timeout"),
    "writing to the channel without end": (
        "import os\ndef f(n):\n    while True: os.write(3, b'x' * 10 ** 5)",
        "output",
    ),
    "exit before the tests": ("import sys\nsys.exit(0)", "exception: SystemExit"),
    "exit in a call": ("def f(n): raise SystemExit(0)", "exception: SystemExit"),
    "hard exit": ("import os\nos._exit(0)", "exit"),
    "hard exit in a call": ("import os\ndef f(n): os._exit(0)", "exit"),
    "keyboard interrupt": ("def f(n): raise KeyboardInterrupt", "exception: KeyboardInterrupt"),
    "overridden equality": (
        "class Any:\n    def __eq__(self, other): return True\ndef f(n): return Any()",
        "assertion",
    ),
    "overridden equality of a number": (
        "class Any(int):\n    def __eq__(self, other): return True\n"
        "    __hash__ = None\ndef f(n): return Any()",
        "assertion",
    ),
    "overridden builtins": (
        "import builtins\nclass AssertionError(BaseException): pass\n"
        "builtins.AssertionError = builtins.Exception = AssertionError\n"
        "builtins.all = builtins.isinstance = lambda *_: True\ndef f(n): return 1",
        "assertion exception output exit",
    ),
    "overridden JSON": (
        "import json\njson.dumps = lambda *_: '{\"value\": true}'\ndef f(n): return 1",
        "assertion",
    ),
    "forged exception": (
        "class Passed(Exception):\n    __module__ = 'builtins'\n    def __str__(self): 1 / 0\n"
        "def f(n): raise Passed",
        "exception: Passed",
    ),
    "forged answers": (
        "import os\nos.write(3, b'{\"value\": null}\\n' * 50)\ndef f(n): return 1",
        "assertion",
    ),
    "forged nonsense": ('import os\nos.write(3, b\'{"value": {"int": 3}}\\n\')', "output"),
    "forged depth": ("import os\nos.write(3, b'[' * 10 ** 5 + b'\\n')", "output"),
    "forged number": (
        "import os\nos.write(3, b'{\"value\": ' + b'9' * 10 ** 5 + b'}\\n')",
        "output",
    ),
    "forged complex number": (
        "import os\nos.write(3, b'{\"value\": {\"complex\": [1' + b'0' * 999 + b', 0]}}\\n')",
        "output",
    ),
    "frame walking": (
        """
import gc, sys
def f(n):
    wanted, frame = ''.join(('98765', '4321')), sys._getframe()
    while frame:
        if any(wanted in repr(value) for value in frame.f_locals.values() if value is not wanted):
            return int(wanted)
        frame = frame.f_back
    if any(type(each) is tuple and int(wanted) in each for each in gc.get_objects()):
        return int(wanted)""",
        "assertion exception",
    ),
    "deep recursion": ("def f(n): return f(n)", "exception: RecursionError"),
    "deeper recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n): return [f(n)]",
        "exit memory timeout",
    ),
    "a deep result": (
        "def f(n):\n    deep = []\n    for _ in range(10 ** 5): deep = [deep]\n    return deep",
        "exception: RecursionError",
    ),
    "a result in itself": (
        "def f(n):\n    a = []\n    a.append(a)\n    return a",
        "exception: RecursionError",
    ),
    "a huge number": ("def f(n): return 1 << 2 ** 25", "output"),
    "a huge text": ("def f(n): return 'x' * 2 ** 22", "output"),
    "closed files": ("import os\nos.closerange(0, 100)\ndef f(n): return n", "exit"),
    "a crash": ("import ctypes\ndef f(n): ctypes.string_at(0)", "exit"),
    "no program": ("def f(n:", "exception: SyntaxError"),
    "null bytes": ("\0", "exception: "),
    "nothing": ("", "exception: AttributeError"),
}


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> Walls:
    try:
        return walls(request.param)
    except UserError as error:
        pytest.skip(str(error))


def limits(mode: Walls, timeout_s: float = 0.7) -> Limits:
    return Limits(walls=mode, timeout_s=timeout_s, memory_mib=MEMORY_MIB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "keep").touch()
    return folder


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield listener


@pytest.fixture(scope="module")
def outcomes(mode: Walls, folder: Path, listener: socket.socket) -> Iterator[dict]:
    """Of all hostile programs, judged side by side as a task's programs are."""
    WORKERS.close()
    os.environ["SANDBOX_SECRET"] = SECRET  # the judges have it
    known: dict[str, object] = {
        "folder": folder,
        "port": listener.getsockname()[1],
        "parent": os.getpid(),
    }
    checks = [
        Check(_filled(program, known), f"assert f(3) == {SECRET}", ("f",), limits=limits(mode))
        for program, _ in HOSTILE.values()
    ]
    yield dict(zip(HOSTILE, WORKERS.map(checks), strict=True))
    del os.environ["SANDBOX_SECRET"]
    WORKERS.close()


def _filled(program: str, known: dict[str, object]) -> str:
    for name, value in known.items():
        program = program.replace(f"{{{name}}}", str(value))
    return program


def left() -> list[psutil.Process]:
    """Processes of this module's sandboxes; a forked one has the same command line."""
    marked = f'"memory_mib": {MEMORY_MIB},'
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if marked in " ".join(p.info["cmdline"] or ())]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_does_not_pass(outcomes, name):
    outcome = outcomes[name]
    assert outcome.failed is None
    assert not outcome.value.passed
    reasons = HOSTILE[name][1]
    expected = [reasons] if ":" in reasons else reasons.split()
    assert any(outcome.value.reason.startswith(each) for each in expected), outcome.value


def test_hostile_programs_leave_nothing_behind(outcomes, folder, listener):
    assert left() == []
    assert [path.name for path in folder.iterdir()] == ["keep"]
    with pytest.raises(BlockingIOError):  # nobody came
        listener.accept()


def test_the_environment_is_not_inherited(mode, monkeypatch):
    monkeypatch.setenv("SANDBOX_SECRET", SECRET)
    with Sandbox(limits(mode)) as box:
        box.ask("run", "import os\ndef f(): return dict(os.environ)")
        assert {*box.ask("call", {"handle": "f"}, [], {"dict": []})} <= {
            "LC_CTYPE",
            "PWD",
        }  # Python's and bubblewrap's own


PASSES = {
    "plain": ("def f(n): return 2 * n", "assert f(3) == 6\nassert f(n=2) == 4", ("f",)),
    "objects": (
        "class Pair:\n    def __init__(self, a): self.a = a\n"
        "    def twice(self): return self.a * 2\n"
        "def f(pairs): return sum(pair.twice() for pair in pairs)",
        "p = Pair(1)\np.a = 5\np.next = Pair(2)\np.next.a = 7\n"
        "assert f([p, p.next]) == 24\nassert p.twice() == 10\nassert p == p",
        ("Pair", "f"),
    ),
    "modules, also where they are imported late": (
        """
from collections import Counter
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
def f(n):
    import datetime, hashlib, math, re
    words = Counter('abca').most_common(1)
    day = datetime.datetime.strptime('2020-02-03', '%Y-%m-%d').day
    digest = hashlib.md5(b'').hexdigest()[:4]
    return words, day, digest, math.isqrt(n), Point(3).x, re.sub('a', 'b', 'aa')
""",
        "assert f(9) == ([('a', 2)], 3, 'd41d', 3, 3, 'bb')",
        ("f",),
    ),
    "types": ("def f(n, kind): return kind, kind(n)", "assert f('3', int) == (int, 3)", ("f",)),
    "printing": ("def f(n):\n    print('x' * 10 ** 5)\n    return n", "assert f(3) == 3", ("f",)),
    "tests that catch what is raised": (
        "def f(n): raise ValueError(n)",
        "try:\n    f(3)\nexcept Exception as error:\n    assert '3' in str(error)",
        ("f",),
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_right_program_passes(mode, name):
    program, tests, names = PASSES[name]
    check = Check(program, tests, names, limits=limits(mode, timeout_s=10))
    assert judge(check) == Verdict(True)


def test_the_failed_assertion_is_told():
    check = Check("def f(n): return n", "assert f(1) == 1\nassert f(2) == 3", ("f",))
    check = Check(check.program, check.tests, ("f",), limits=Limits(walls=walls("auto")))
    assert judge(check) == Verdict(False, "assertion: assert f(2) == 3")


def test_tests_have_what_is_given_and_the_program_can_not_change_it(mode):
    program = "import math\nmath.fabs = lambda x: 0\ndef f(n): return n"
    tests = "assert math.fabs(f(-3) - helper(-3)) < 1"
    given = "import math\ndef helper(n): return {} * n"
    wrong, right = (
        Check(program, tests, ("f",), given.format(factor), limits(mode)) for factor in (2, 1)
    )
    assert judge(right).passed
    assert judge(wrong).reason == f"assertion: {tests}"


def test_plain_data_come_back_equal_and_of_the_same_type():
    values = [None, True, 0, -1, 2**63, -(2**200), 1.5, -0.0, float("inf"), 2 - 3j, "", "\ud800é\n"]
    values += [b"\x00\xff", [], [1, [2]], (), (1,), {1, 2}, frozenset("ab"), {(1, 2): [3]}, int]

    def none(_: object) -> int:
        raise AssertionError

    for value in values:
        back = decode(json.loads(json.dumps(encode(value, none))), none)
        assert (back, type(back), repr(back)) == (value, type(value), repr(value))


SCRIPT = """
from star_exp.checking.sandbox import Limits, Sandbox
with Sandbox(Limits(walls={mode!r}, timeout_s=25, memory_mib={memory})) as box:
    print("started", flush=True)
    box.ask("run", "while True: pass")
"""


def test_a_sandbox_does_not_outlive_a_parent_that_is_killed(mode):
    script = SCRIPT.format(mode=mode, memory=MEMORY_MIB)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
    assert left()
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []


def test_a_sandbox_that_can_not_start_is_no_verdict(mode):
    check = Check("", "", (), limits=Limits(walls=mode, memory_mib=2**60))  # no limit can be that
    with pytest.raises(SandboxError, match=mode):
        judge(check)
    (outcome,) = WORKERS.map([check])
    WORKERS.close()
    assert outcome.value is None
    assert outcome.failed is not None and outcome.failed.startswith(f"SandboxError: {mode}")


def test_an_isolation_that_is_not_here_is_told(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    walls.cache_clear()
    with pytest.raises(UserError, match="no bwrap in PATH"):
        walls("bubblewrap")
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"task\.isolation=limits"):
        walls("auto")
    walls.cache_clear()


def test_auto_takes_the_first_that_works_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    walls.cache_clear()
    with caplog.at_level("INFO", logger="star_exp"):
        assert walls("auto") == walls("auto")
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [walls("auto")]
    walls.cache_clear()
