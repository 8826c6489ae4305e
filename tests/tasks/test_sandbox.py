"""Hostile programs run inside the sandbox only, small and under short limits."""

import json
import os
import time
from pathlib import Path

import pytest

from si_dagster.tasks.grading import sandbox
from si_dagster.tasks.grading.code_grader import CodeGrader
from si_dagster.tasks.grading.judging import UnreadableTestsError, plan_tests
from si_dagster.tasks.grading.sandbox import Limits, SandboxUnavailableError, run_program

LIMITS = Limits(cpu_s=1, wall_s=4.0)
TESTS = json.dumps({"tests": ["assert f(3) == 9", "assert f(4) == 16"]})


def grade(code, tests=TESTS, guard="namespaces", limits=LIMITS):
    try:
        return CodeGrader(guard, limits, num_workers=1).grade([tests], [code])[0]
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


HOSTILE = {
    "pass_marker": "print('PASS'); print('ok 1'); print({'passed': True})\ndef f(x):\n    print('PASS')",
    "pass_marker_on_every_descriptor": """
import os
for d in range(64):
    try: os.write(d, b"passed true\\n{'value': ['int', '0x9']}\\n")
    except OSError: pass
def f(x): return None
""",
    "sys_exit": "import sys\ndef f(x): sys.exit(0)",
    "sys_exit_at_import": "import sys\nsys.exit(0)",
    "os_exit": "import os\ndef f(x): os._exit(0)",
    "os_exit_at_import": "import os\nos._exit(0)",
    "overridden_eq": "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()",
    "overridden_eq_of_int": "class A(int):\n    def __eq__(self, o): return True\ndef f(x): return A(1)",
    "overridden_assertion_error": """
import builtins
class Quiet(BaseException): pass
builtins.AssertionError = Quiet
builtins.Exception = Quiet
def f(x): raise Quiet()
""",
    "endless_loop": "def f(x):\n    while True: pass",
    "endless_sleep": "import time\ndef f(x):\n    time.sleep(1000)",
    "endless_output": "def f(x):\n    while True: print('x' * 10000)",
    "endless_value": "import itertools\ndef f(x): return itertools.count()",
    "huge_value": "def f(x): return 'x' * 50_000_000",
    "ten_gigabytes": "def f(x):\n    a = bytearray(10 * 1024**3)\n    return 9",
    "fork_bomb": """
import os
def f(x):
    while True:
        try: os.fork()
        except OSError: pass
""",
    "many_files": """
def f(x):
    for i in range(100_000):
        open(f"/tmp/{i}", "w").close()
    return x * x
""",
    "big_file": """
def f(x):
    with open("/tmp/a", "wb") as file:
        for i in range(100):
            file.write(b"x" * 1_000_000)
    return x * x
""",
    "socket_out": """
import socket
def f(x):
    s = socket.socket(); s.settimeout(1); s.connect(("1.1.1.1", 53))
    return x * x
""",
    "reads_home": "import os\ndef f(x):\n    os.listdir(os.path.expanduser('~root'))\n    return x * x",
    "reads_passwords": "def f(x):\n    open('/etc/passwd').read()\n    return x * x",
    "reads_processes": "import os\ndef f(x):\n    os.listdir('/proc/1')\n    return x * x",
    "writes_root": "def f(x):\n    open('/written', 'w').write('x')\n    return x * x",
    "kills_parent": """
import os, signal
def f(x):
    for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getppid(), s)
    os.kill(-1, signal.SIGKILL)
    return None
""",
    "kills_its_group": "import os, signal\ndef f(x):\n    os.killpg(0, signal.SIGKILL)",
    "answers_by_frame": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and 'calls' in value: return str(value)
        frame = frame.f_back
""",
    "syntax_error": "def f(x: return x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program_gets_no_pass(name):
    began = time.monotonic()
    found = grade(f"```python\n{HOSTILE[name]}\n```")
    assert (found.utility, found.strict_utility, found.status) == (0.0, 0.0, "scored"), found
    assert time.monotonic() - began < 30


def test_right_program_passes_and_a_wrong_one_says_where():
    assert grade("def f(x):\n    return x * x").utility == 1.0
    wrong = grade("def f(x):\n    return 9")
    assert (wrong.utility, wrong.detail) == (0.0, "assertion 2 does not hold")


def test_room_is_empty():
    seen = """
import os, sys
def f():
    return [os.getpid() < 5, sys.flags.isolated, sys.flags.no_site, os.getuid() != 0,
            os.path.exists("/proc/self"), os.listdir("/tmp"),
            [name for name in os.environ if name != "LC_CTYPE"]]
def roots(): return os.listdir("/")
"""
    tests = [
        "assert f() == [True, 1, 1, True, False, [], []]",
        "assert set(roots()) <= {'dev', 'lib', 'lib64', 'root', 'tmp', 'usr', 'home', 'opt'}",
    ]
    found = grade(seen, json.dumps({"tests": tests}))
    assert found.utility == 1.0, found


def test_home_holds_the_interpreter_at_most():
    seen = "import os\ndef f():\n    return os.listdir('/root') if os.path.isdir('/root') else []"
    found = grade(seen, json.dumps({"tests": ["assert set(f()) <= {'.pyenv', '.local'}"]}))
    assert found.utility == 1.0, found


def test_nothing_is_left_for_the_next_program():
    """Programs share one chamber: files, shared memory, modules, names and limits are their own."""
    grader = CodeGrader("namespaces", LIMITS, num_workers=1)
    leaves = """
import builtins, ctypes, math, os, resource, sys
libc = ctypes.CDLL(None)
def f():
    open("/tmp/left", "w").write("x")
    libc.shmget(77, 4096, 0o1666)
    math.pi = 3
    builtins.len = lambda x: 0
    sys.modules["left"] = math
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
    return os.path.exists("/tmp/left")
"""
    looks = """
import ctypes, math, os, resource, sys
libc = ctypes.CDLL(None)
def f():
    return [os.listdir("/tmp"), libc.shmget(77, 4096, 0o666), math.pi > 3, len([1]), "left" in sys.modules,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
"""
    tests = [
        json.dumps({"tests": [f"assert f() == {value}"]})
        for value in ("True", "[[], -1, True, 1, False, 64]")
    ]
    for _ in range(2):
        assert grader.grade([tests[0]], [leaves])[0].utility == 1.0
        found = grader.grade([tests[1]], [looks])[0]
        assert found.utility == 1.0, found


def test_program_has_no_rights_and_no_way_to_the_chamber():
    tries = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def f():
    found = [libc.mount(b"tmpfs", b"/usr", b"tmpfs", 0, None), libc.sethostname(b"x", 1),
             libc.setresuid(0, 0, 0), libc.chroot(b"/usr"),
             libc.ptrace(16, 1, 0, 0), libc.ptrace(16, 2, 0, 0)]
    opened = []
    for descriptor in range(1024):
        try:
            os.fstat(descriptor)
            opened.append(descriptor)
        except OSError:
            pass
    return found, opened, os.getppid(), socket.if_nameindex() == [(1, "lo")]
"""
    found = grade(tries, json.dumps({"tests": ["assert f() == ([-1] * 6, [0, 1, 2, 3], 1, True)"]}))
    assert found.utility == 1.0, found


def test_values_that_are_dear_to_compare_are_no_way_to_stop_the_judge():
    found = grade("def f(x): return 10 ** 9", json.dumps({"tests": ["assert f(3) ** f(4) == 1"]}))
    assert (found.utility, found.status) == (0.0, "scored"), found


def test_a_chamber_that_is_gone_is_made_anew():
    plan = plan_tests(["assert f(3) == 9"])
    try:
        assert run_program("def f(x): return 9", plan).passed
        sandbox._chambers["namespaces"]._process.kill()
        sandbox._chambers["namespaces"]._process.wait()
        assert run_program("def f(x): return 9", plan).passed
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    finally:
        for chamber in sandbox._chambers.values():
            chamber.close()
        sandbox._chambers.clear()


def test_daemon_dies_with_the_run():
    # A process with this argument may not be seen from outside afterwards.
    mark = f"sandbox-daemon-{os.getpid()}"
    daemon = f"""
import os, sys
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", "{mark}"]
            os.execve(sys.executable, command, {{}})
        os._exit(0)
    os.wait()
    return x * x
"""
    assert grade(daemon).utility == 1.0
    deadline = time.monotonic() + 5
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(mark)


def _running(mark):
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if line.split("\0")[-2:-1] == [mark]]


def test_weaker_guard_runs_by_name_and_is_refused_otherwise():
    assert grade("def f(x):\n    return x * x", guard="rlimits").utility == 1.0
    assert grade("def f(x):\n    while True: pass", guard="rlimits").utility == 0.0
    with pytest.raises(ValueError, match="namespaces, rlimits"):
        CodeGrader("none")


def test_reference_without_assertions_is_an_error_of_the_grader():
    found = grade("def f(x):\n    return x", json.dumps({"tests": ["f(3)"]}))
    assert (found.utility, found.status) == (None, "grader_error")
    assert "no assertion" in found.detail
    with pytest.raises(UnreadableTestsError, match="parse"):
        plan_tests(["assert f(3 == 9"])


def test_tests_may_shadow_builtins_only_by_name():
    code = "def set(x):\n    return 0\ndef f(x):\n    return [1]"
    assert grade(code, json.dumps({"tests": ["assert set(f(3)) == set([9])"]})).utility == 0.0
    tests = {"tests": ["assert sum(10, 15) == 6"], "shadowed": ["sum"]}
    assert grade("def sum(a, b):\n    return 6", json.dumps(tests)).utility == 1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("(x, [x], {x: {x}})", "(2, [2], {2: {2}})"),
        ("float('nan') if x else 0.1", "0.1"),
        ("b'ab', 1j, None, True", "(b'ab', 1j, None, True)"),
        ("10 ** 5000", "10 ** 5000"),
        ("range(x)", "range(2)"),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}"),
        ("'\\ud800'", "'\\ud800'"),
    ],
)
def test_values_come_back_whole(value, expected):
    holds = value != "float('nan') if x else 0.1"
    found = grade(f"def f(x):\n    return {value}", json.dumps({"tests": [f"assert f(2) == {expected}"]}))
    assert found.utility == float(holds), found


FORGER = """
import sys
class Same:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __abs__(self): return 0
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
    def __lt__(self, other): return True
    def __bool__(self): return True
    __hash__ = None
def f(x):
    frame = sys._getframe(1)
    while frame:  # whatever is expected may stand in a loop around the call
        for name in ("y", "expected", "cases", "want"):
            for scope in (frame.f_locals, frame.f_globals):
                if name == "y" and name in scope: return scope[name]
                if name in scope: return dict(scope[name])[x] if name == "cases" else scope[name]
        frame = frame.f_back
    return Same()
def near(a, b): return True
"""
"""Answers with what is equal to everything, or with what it can see of the expected values."""


@pytest.mark.parametrize(
    "reference",
    [
        {"tests": ["assert all(f(x) == y for x, y in [(2, 4), (3, 9)])"]},
        {"tests": ["assert all([f(x) == y for x, y in [(2, 4), (3, 9)]])"]},
        {"tests": ["assert [f(x) for x in (2, 3)] == [4, 9]"]},
        {"tests": ["assert {x: f(x) for x in (2, 3)} == {2: 4, 3: 9}"]},
        {"tests": ["assert not any(f(x) != y for x, y in [(2, 4), (3, 9)] if x > 1)"]},
        {"tests": ["assert sum(f(x) == y for x, y in cases) == 2"], "setup": "cases = [(2, 4), (3, 9)]"},
        {"tests": ["assert f(2) == expected"], "setup": "expected = 4"},
        {"tests": ["assert near(f(2), 4)"], "setup": "def near(a, b):\n    return abs(a - b) < 1e-6"},
        {"tests": ["assert [g for g in [f(2)]] == [4]"]},
    ],
    ids=str,
)
def test_loops_and_helpers_of_tests_are_out_of_reach(reference):
    right = "def f(x):\n    return x * x"
    assert grade(right, json.dumps(reference)).utility == 1.0
    forged = grade(FORGER, json.dumps(reference))
    assert (forged.utility, forged.status) == (0.0, "scored"), forged


@pytest.mark.parametrize(
    "reference",
    [
        {"tests": ["assert list(map(lambda x: f(x) == 4, [2])) == [True]"]},
        {"tests": ["assert all(f(a) == b for a, b in zip(g(2), [4]))"]},
        {"tests": ["assert ok"], "setup": "ok = f(2) == 4"},
        {"tests": ["assert f(2) == 4"], "setup": "for x, y in [(2, 4)]:\n    assert f(x) == y"},
        {"tests": ["assert same(f(2), 4)"], "setup": "def same(a, b):\n    return a == Node(b).value"},
    ],
    ids=str,
)
def test_what_cannot_be_parted_is_refused(reference):
    found = grade(FORGER, json.dumps(reference))
    assert (found.utility, found.status) == (None, "grader_error"), found


def test_loops_over_values_of_the_program_and_over_two_ranges():
    code = "def f(n):\n    return [2, 3, 5][:n]\ndef g(p, q=1):\n    return p > q"
    tests = [
        "assert all(g(p) for p in f(3))",
        "assert [[g(i, j) for j in range(i)] for i in range(3)][2] == [True] * 2",
    ]
    assert grade(code, json.dumps({"tests": tests})).utility == 1.0
    assert grade(code.replace("p > q", "p > 2"), json.dumps({"tests": tests})).utility == 0.0
