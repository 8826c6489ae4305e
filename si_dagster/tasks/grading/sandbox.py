"""Runs untrusted Python programs against their tests, cut off from everything else.

    worker -> chamber (its own namespaces) -> keeper -> init (pid 1) -> program

The program sees a read-only root that holds interpreter and system libraries and nothing more, a small tmpfs
of its own as /tmp, no /proc, no network, an empty environment, an interpreter started as `python -I -S`, and
limits on memory, CPU time, processes, file size and descriptors. It tells values on a private descriptor with
a nonce; the worker, which it can neither see nor signal, has them compared by a child of its own. The chamber
is made once and forks each program, since new namespaces and a new interpreter took most of the time.

Linux only, x86-64 and arm64. It does not guard against kernel bugs, does not bound the memory of all
processes together below processes x memory, and the weaker guard (`rlimits`) hides no file and no network:
it is for kernels that forbid namespaces, chosen by name.
"""

import ast
import contextlib
import json
import marshal
import os
import resource
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from si_dagster.tasks.grading.judging import Plan, Unknown, decode, judge, plan_tests

Guard = Literal["namespaces", "rlimits"]

NOBODY = 65534
PATIENCE = 10
"""Times `wall_s` after which a program is killed however busy the machine is."""
MAX_REPLY_BYTES = 8 << 20
"""Most that is read from a program; a program that says more has failed."""
CHAMBER_LIMIT_S = 60.0
"""Seconds a chamber may take to answer before it is given up; seen: under .2 on an idle machine."""
_HEADER = struct.Struct("!Q")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_s: CPU seconds of each process; twice as much for all of them together.
        wall_s: Seconds until everything is killed, less those in which the program was ready and the machine
            busy with something else: waiting is not counted.
        memory_bytes: Address space of each process.
        processes: Processes and threads together.
        file_bytes: Largest file.
        descriptors: Open files.
        tmp_bytes: Size of /tmp.
        tmp_files: Files in /tmp.
    """

    cpu_s: int = 10
    wall_s: float = 15.0
    memory_bytes: int = 1 << 30
    processes: int = 16
    file_bytes: int = 16 << 20
    descriptors: int = 64
    tmp_bytes: int = 32 << 20
    tmp_files: int = 1000

    def rlimits(self) -> dict[str, int]:
        """Name of each resource limit and its value."""
        return {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.descriptors,
            "RLIMIT_CORE": 0,
        }


class SandboxUnavailableError(RuntimeError):
    """The kernel forbids what the sandbox needs; the message says what and how to go on."""


class ChamberLostError(RuntimeError):
    """The chamber died or is silent: a fault of ours and of no program."""


@dataclass(frozen=True)
class Verdict:
    """What came of a program: passed, or why not; `sandbox_error` is ours and no fault of the program."""

    passed: bool
    reason: str | None = None
    sandbox_error: bool = False


def run_program(code: str, plan: Plan, guard: Guard = "namespaces", limits: Limits | None = None) -> Verdict:
    """Run a program and judge it; blocks up to `limits.wall_s`.

    Call it from a process with one thread, since it forks.

    Raises:
        SandboxUnavailableError: If the guard is `namespaces` and the kernel forbids them.
    """
    limits, nonce = limits or Limits(), secrets.token_hex(16)
    room = "/tmp" if guard == "namespaces" else _open_room()
    job = {
        "code": code,
        "calls": plan.calls,
        "imports": plan.imports,
        "setup": plan.setup,
        "nonce": nonce,
        "room": room,
        "own_session": guard == "namespaces",
        "limits": limits.rlimits(),
        "tmp_bytes": limits.tmp_bytes,
        "tmp_files": limits.tmp_files,
    }
    try:
        heard, problem = _chamber(guard).run(job, limits, len(plan.calls))
    except (ChamberLostError, OSError) as error:
        _chambers.pop(guard).close()
        return Verdict(False, f"the sandbox failed: {error}", sandbox_error=True)
    finally:
        if guard == "rlimits":
            shutil.rmtree(room, ignore_errors=True)
    return _judged_apart(lambda: _compare(heard, problem, plan, nonce.encode()), limits)


_chambers: dict[Guard, "Chamber"] = {}


def _chamber(guard: Guard) -> "Chamber":
    """The chamber of this process, made anew where the last one died."""
    if guard in _chambers and not _chambers[guard].lives:
        _chambers.pop(guard).close()
    if guard not in _chambers:
        _chambers[guard] = Chamber(guard)
    return _chambers[guard]


class Chamber:
    """Our end of the process that forks programs, one at a time; see `chamber`.

    Raises:
        SandboxUnavailableError: If the kernel forbids what the guard needs.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._control, theirs = socket.socketpair()
        self._control.settimeout(CHAMBER_LIMIT_S)
        python = (_shared_python() if guard == "rlimits" else None) or _python()
        with theirs:
            self._process = subprocess.Popen(
                [python, "-I", "-S", "-c", _source("chamber.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def lives(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def _open(self) -> None:
        places = {"places": _needed_places(), "links": _needed_links()}
        self._send({"guard": self._guard, "candidate": _source("candidate.py"), **places})
        try:
            if self._guard == "namespaces":
                self._receive()
                _map_users(self._process.pid)
                self._send({"mapped": True})
            self._receive()
        except (ChamberLostError, OSError) as error:
            raise SandboxUnavailableError(_forbidden(str(error))) from error

    def run(self, job: dict[str, Any], limits: Limits, wanted: int) -> tuple[bytes, str | None]:
        """What a program said, and why it was cut off, if it was; no process of it is left afterwards.

        Raises:
            ChamberLostError: If the chamber died.
        """
        told, tell = os.pipe()
        try:
            try:
                self._send(job, tell)
            finally:
                os.close(tell)
            top = self._receive()["kill"]
            heard, problem = _hear(told, top, limits, job["nonce"].encode(), wanted)
            done = problem is not None or _answered(heard, job["nonce"].encode(), wanted)
            ending = self._end(top, done)
            return heard, problem or ending
        finally:
            os.close(told)

    def _end(self, top: int, kill: bool) -> str | None:
        """Wait until nothing of a program is left, killing what is; how one ended that ended by itself."""
        by_itself = not kill and bool(select.select([self._control], [], [], 0.5)[0])
        if not by_itself:
            self._kill(top)
        ended = self._receive()
        if self._guard == "rlimits":
            self._kill(top)  # its leader is not reaped yet, so the group is still the same
        return _ending(ended["status"]) if by_itself and ended["exited"] else None

    def _kill(self, top: int) -> None:
        """Pid 1 takes its namespace along; without one the process group has to do."""
        with contextlib.suppress(ProcessLookupError):
            (os.kill if self._guard == "namespaces" else os.killpg)(top, signal.SIGKILL)

    def _send(self, message: dict[str, Any], *descriptors: int) -> None:
        body = marshal.dumps(message)
        socket.send_fds(self._control, [_HEADER.pack(len(body))], descriptors)
        self._control.sendall(body)

    def _receive(self) -> dict[str, Any]:
        (length,) = _HEADER.unpack(self._exactly(_HEADER.size))
        message = marshal.loads(self._exactly(length))
        if "error" in message:
            raise ChamberLostError(message["error"])
        return message

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._control.recv(size - len(data))
            if not part:
                raise ChamberLostError(f"it ended with code {self._process.wait()}")
            data += part
        return data

    def close(self) -> None:
        """End it and everything in it."""
        self._process.kill()
        self._process.wait()
        self._control.close()


def _answered(heard: bytes, nonce: bytes, wanted: int) -> bool:
    return heard.count(b"\n" + nonce) + heard.startswith(nonce) >= wanted and heard.endswith(b"\n")


def _hear(told: int, top: int, limits: Limits, nonce: bytes, wanted: int) -> tuple[bytes, str | None]:
    """What a program says until it has answered everything, can say no more or passes a limit."""
    heard, began = b"", time.monotonic()
    while not _answered(heard, nonce, wanted):
        if not select.select([told], [], [], 0.25)[0]:
            if problem := _overrun(top, time.monotonic() - began, limits):
                return heard, problem
            continue
        data = os.read(told, 1 << 20)
        if not data:
            break
        heard += data
        if len(heard) > MAX_REPLY_BYTES:
            return b"", "said more than the limit"
        if time.monotonic() - began > PATIENCE * limits.wall_s:
            return heard, "ran past the time limit"
    return heard, None


def _judged_apart(work: Callable[[], Verdict], limits: Limits) -> Verdict:
    """The verdict of a child with limits of its own: values may be made to be dear to compare."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
            resource.setrlimit(resource.RLIMIT_AS, (2 * limits.memory_bytes, 2 * limits.memory_bytes))
            os.write(tell, json.dumps(vars(work())).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(told, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return Verdict(**json.loads(said)) if said else Verdict(False, "its values were too dear to compare")


def _compare(heard: bytes, problem: str | None, plan: Plan, nonce: bytes) -> Verdict:
    values: list[Any] = []
    for line in heard.split(b"\n"):
        head, _, body = line.partition(b" ")
        if head != nonce or len(values) == len(plan.calls):
            continue
        try:
            message = ast.literal_eval(body.decode())
            if "error" in message:
                return Verdict(False, str(message["error"])[:300])
            values.append(decode(message["value"]))
        except (ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError):
            values.append(Unknown())
    if len(values) < len(plan.calls):
        return Verdict(False, problem or "the program ended before it had answered")
    failed = judge(plan, values)
    return Verdict(failed is None, failed)


def _ending(status: int) -> str | None:
    """Why a program ended by itself: 128 and more is a signal."""
    if status <= 128:
        return None
    name = signal.Signals(status - 128).name
    limited = ", the limit of CPU time" if name in ("SIGXCPU", "SIGKILL") else ""
    return f"killed by {name}{limited}"


def _open_room() -> str:
    """A fresh folder for a program under the weaker guard.

    Raises:
        SandboxUnavailableError: If it would have to run as root.
    """
    if os.geteuid() == 0 and _shared_python() is None:
        raise SandboxUnavailableError(
            "guard rlimits as root runs programs as user nobody, who cannot read this interpreter; "
            "run as another user, or with an interpreter outside of home folders"
        )
    room = tempfile.mkdtemp(prefix="program-")
    if os.geteuid() == 0:
        os.chown(room, NOBODY, NOBODY)
    return room


@cache
def _shared_python() -> str | None:
    """An interpreter of this version that every user can run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (_python(), f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        if os.path.exists(place) and all(
            os.stat(above).st_mode & 0o001 for above in Path(place).resolve().parents
        ):
            return place
    return None


def _map_users(pid: int) -> None:
    """Map the users of a new namespace from outside; root maps nobody too, so that process limits count."""
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    if os.geteuid() == 0:
        users = groups = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
    else:
        users, groups = f"{NOBODY} {os.geteuid()} 1\n", f"{NOBODY} {os.getegid()} 1\n"
    Path(f"/proc/{pid}/uid_map").write_text(users)
    Path(f"/proc/{pid}/gid_map").write_text(groups)


def _forbidden(reason: str) -> str:
    return (
        f"this kernel forbids the namespaces for untrusted programs ({reason or 'no reason given'}); allow "
        "unprivileged user namespaces, or set the task option `guard: rlimits` for less protection"
    )


def _overrun(top: int, elapsed: float, limits: Limits) -> str | None:
    """Which limit the processes below the top one have passed together, if any."""
    used = [_scheduled(pid) for pid in _descendants(top)]
    if sum(run for run, _ in used) > 2 * limits.cpu_s:
        return "its processes together used more than the limit of CPU time"
    waited = max((wait for _, wait in used), default=0.0)
    if elapsed - waited > limits.wall_s or elapsed > PATIENCE * limits.wall_s:
        return "ran past the time limit"
    return None


def _descendants(pid: int) -> list[int]:
    found, fresh = [], [pid]
    while fresh and len(found) < 1000:
        parent = fresh.pop()
        try:
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        children = [int(word) for word in text.split()]
        found += children
        fresh += children
    return found


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds a process has run, and seconds it was ready to run and had to wait."""
    try:
        run, wait, *_ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(run) / 1e9, int(wait) / 1e9


@cache
def _needed_places() -> tuple[str, ...]:
    system = [place for place in ("/usr", "/lib", "/lib64") if os.path.isdir(place)]
    system = [place for place in system if not os.path.islink(place)]
    prefix = str(Path(sys.base_prefix).resolve())
    if not any(f"{prefix}/".startswith(f"{place}/") for place in system):
        system.append(prefix)
    return (*system, *(place for place in ("/dev/null", "/dev/urandom") if os.path.exists(place)))


@cache
def _needed_links() -> tuple[tuple[str, str], ...]:
    return tuple((link, os.readlink(link)) for link in ("/lib", "/lib64") if os.path.islink(link))


@cache
def _python() -> str:
    return str(
        Path(sys.base_prefix).resolve() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )


@cache
def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The work of a pool worker: one program with its tests, or a probe whether the guard can be had."""

    def work(item: dict[str, Any]) -> dict[str, Any]:
        plan = plan_tests(item["tests"], item["setup"], item["imports"], item["shadowed"])
        limits = Limits(**item["limits"])
        verdict = run_program(item["code"], plan, item["guard"], limits)
        if verdict.sandbox_error:
            return {"error": f"sandbox: {verdict.reason}"}
        return {"passed": verdict.passed, "reason": verdict.reason}

    return work


if __name__ == "__main__":
    from si_dagster.tasks.grading.worker_pool import serve

    serve(prepare, float(sys.argv[1]))
