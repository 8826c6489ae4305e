"""Runs one untrusted Python program against its tests, cut off from everything else.

    worker -> new user, network, pid, ipc, uts and mount namespaces -> judge (pid 1) -> program

The program sees a read-only root that holds interpreter and system libraries and nothing more, a small tmpfs
as /tmp, no /proc, no network, an empty environment, `python -I -S`, and limits on memory, CPU time,
processes, file size and descriptors. It tells values on a private descriptor with a nonce; the judge, another
process that it can neither read nor signal, compares them. Killing the judge kills every process inside.

Linux only, x86-64 and arm64. It does not guard against kernel bugs, does not bound the memory of all
processes together below processes x memory, and the weaker guard (`rlimits`) hides no file and no network:
it is for kernels that forbid namespaces, chosen by name.
"""

import ast
import ctypes
import json
import marshal
import os
import platform
import resource
import secrets
import select
import shutil
import signal
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

CLONE_FLAGS = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MNT_DETACH = 2
NOBODY = 65534
PATIENCE = 10
"""Times `wall_s` after which a program is killed however busy the machine is."""
MAX_REPLY_BYTES = 8 << 20
"""Most that is read from a program; a program that says more has failed."""


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


class SandboxUnavailableError(RuntimeError):
    """The kernel forbids what the sandbox needs; the message says what and how to go on."""


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
    limits = limits or Limits()
    room = "/tmp" if guard == "namespaces" else _open_room()
    for known in (_libc, _needed_places, _needed_links, _python, _shared_python, _candidate_source):
        known()  # read while the old root is there
    nonce = secrets.token_hex(16)
    told, tell = os.pipe()
    ready, go = os.pipe()
    mapped, map_it = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        for descriptor in (told, ready, map_it):
            os.close(descriptor)
        _keep(lambda: _judge_program(code, plan, guard, limits, nonce, tell, room), guard, go, mapped)
    for descriptor in (tell, go, mapped):
        os.close(descriptor)
    try:
        if guard == "namespaces":
            _map_users(keeper, ready, map_it)
        return _listen(told, nonce, keeper, limits)
    finally:
        for descriptor in (told, ready, map_it):
            os.close(descriptor)
        _kill(keeper)
        if guard == "rlimits":
            shutil.rmtree(room, ignore_errors=True)


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


def _kill(keeper: int) -> None:
    """The judge dies with its keeper, and all processes of the program with the judge."""
    try:
        os.killpg(keeper, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)


def _map_users(keeper: int, ready: int, map_it: int) -> None:
    """Map the users of the new namespace from outside; root maps nobody too, so that process limits count."""
    word = os.read(ready, 256)
    if word != b"ok":
        raise SandboxUnavailableError(_forbidden(word.decode(errors="replace")))
    try:
        Path(f"/proc/{keeper}/setgroups").write_text("deny")
        if os.geteuid() == 0:
            users = groups = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
        else:
            users, groups = f"{NOBODY} {os.geteuid()} 1\n", f"{NOBODY} {os.getegid()} 1\n"
        Path(f"/proc/{keeper}/uid_map").write_text(users)
        Path(f"/proc/{keeper}/gid_map").write_text(groups)
    except OSError as error:
        raise SandboxUnavailableError(_forbidden(str(error))) from error
    os.write(map_it, b"!")


def _forbidden(reason: str) -> str:
    return (
        f"this kernel forbids the namespaces for untrusted programs ({reason or 'no reason given'}); allow "
        "unprivileged user namespaces, or set the task option `guard: rlimits` for less protection"
    )


def _listen(told: int, nonce: str, keeper: int, limits: Limits) -> Verdict:
    heard, began = b"", time.monotonic()
    while not heard.endswith(b"\n"):
        if not select.select([told], [], [], 0.25)[0]:
            if problem := _overrun(keeper, time.monotonic() - began, limits):
                return Verdict(False, problem)
            continue
        data = os.read(told, 1 << 16)
        if not data:
            return Verdict(False, "the judge died without a verdict", sandbox_error=True)
        heard += data
    head, _, body = heard.decode().partition(" ")
    if head != nonce:
        return Verdict(False, "a verdict without its nonce", sandbox_error=True)
    return Verdict(**json.loads(body))


def _overrun(keeper: int, elapsed: float, limits: Limits) -> str | None:
    """Which limit the processes below the keeper have passed together, if any."""
    used = [_scheduled(pid) for pid in _descendants(keeper)]
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


def _keep(run_judge: Callable[[], None], guard: Guard, go: int, mapped: int) -> None:
    """The process between worker and judge; enters the namespaces and never returns."""
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if guard == "namespaces":
        if _libc().unshare(CLONE_FLAGS) != 0:
            os.write(go, os.strerror(ctypes.get_errno()).encode())
            os._exit(1)
        os.write(go, b"ok")
        if os.read(mapped, 1) != b"!":
            os._exit(1)
    judge_pid = os.fork()
    if judge_pid == 0:
        run_judge()
        os._exit(0)
    os.waitpid(judge_pid, 0)
    os._exit(0)


def _judge_program(
    code: str, plan: Plan, guard: Guard, limits: Limits, nonce: str, tell: int, room: str
) -> None:
    """Pid 1 of the namespace: builds the room, starts the program, compares its values, tells the verdict."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_DUMPABLE, 0)
    # Pid 1 takes only signals it has handlers for: Python's own for SIGINT would let the program end it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if guard == "namespaces":
            _build_root(limits)
        verdict = _compare(code, plan, limits, room)
    except Exception as error:
        verdict = Verdict(False, f"{type(error).__name__}: {str(error)[:300]}", sandbox_error=True)
    os.write(tell, f"{nonce} {json.dumps(vars(verdict))}\n".encode())


def _compare(code: str, plan: Plan, limits: Limits, room: str) -> Verdict:
    nonce = secrets.token_hex(16)
    job = {"code": code, "calls": plan.calls, "imports": plan.imports, "setup": plan.setup, "nonce": nonce}
    reply, problem = _converse(marshal.dumps(job), limits, room, nonce.encode(), len(plan.calls))
    values: list[Any] = []
    for line in reply.split(b"\n"):
        head, _, body = line.partition(b" ")
        if head != nonce.encode() or len(values) == len(plan.calls):
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


def _converse(job: bytes, limits: Limits, room: str, nonce: bytes, wanted: int) -> tuple[bytes, str | None]:
    """Start the program, hand it the job, read its answers; says why where it was cut off.

    Reading ends with the last answer or the program, since a process it left behind may hold the pipe open.
    """
    job_read, job_write = os.pipe()
    reply_read, reply_write = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(job_write)
        os.close(reply_read)
        _become_program(job_read, reply_write, limits, room)
    os.close(job_read)
    os.close(reply_write)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        while job:
            job = job[os.write(job_write, job) :]
    except BrokenPipeError:
        pass
    os.close(job_write)
    return _hear(program, reply_read, nonce, wanted)


def _hear(program: int, reply: int, nonce: bytes, wanted: int) -> tuple[bytes, str | None]:
    heard, status = b"", None
    while heard.count(b"\n" + nonce) + heard.startswith(nonce) < wanted or not heard.endswith(b"\n"):
        if not select.select([reply], [], [], 0.05)[0]:
            if status is not None:
                break
            ended, code = os.waitpid(program, os.WNOHANG)
            status = code if ended else None
            continue
        data = os.read(reply, 1 << 20)
        heard += data
        if len(heard) > MAX_REPLY_BYTES:
            return b"", "said more than the limit"
        if not data:
            break
    if status is None and len(heard) == 0:
        _, status = os.waitpid(program, 0)
    return heard, _ending(status or 0)


def _ending(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return (
            f"killed by {name}, the limit of CPU time"
            if name in ("SIGXCPU", "SIGKILL")
            else f"killed by {name}"
        )
    return None


def _become_program(job: int, reply: int, limits: Limits, room: str) -> None:
    """Drop everything and become `python -I -S`; never returns."""
    try:
        if os.getppid() == 1:  # the judge of a namespace; without one the process group is what gets killed
            os.setsid()
        null = os.open(os.devnull if os.path.exists(os.devnull) else "/tmp/.null", os.O_CREAT | os.O_RDWR)
        reply = os.dup2(reply, 200)
        os.dup2(job, 0)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.dup2(reply, 3)
        os.closerange(4, 1024)
        os.chdir(room)
        _set_limits(limits)
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        if os.getuid() == 0:
            _libc().setgroups(0, None)  # forbidden inside, where none are left anyway
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        python = _python() if os.access(_python(), os.X_OK) else _shared_python() or _python()
        os.execve(python, [python, "-I", "-S", "-c", _candidate_source()], {})
    finally:
        os._exit(111)


def _set_limits(limits: Limits) -> None:
    for name, value in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.descriptors),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


def _build_root(limits: Limits) -> None:
    """A new root: interpreter and system libraries read-only, /tmp writable, nothing else."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for place in _needed_places():
        target = root + place
        if os.path.isdir(place):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _mount(place, target, None, MS_BIND | MS_REC, None)
        if not place.startswith("/dev/"):
            _mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | _kept_flags(target), None)
    for link, aim in _needed_links():
        os.symlink(aim, root + link)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    options = f"size={limits.tmp_bytes},nr_inodes={limits.tmp_files},mode=1777"
    _mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.makedirs(f"{root}/.old")
    os.chdir(root)
    if _libc().syscall(PIVOT_ROOT[platform.machine()], b".", b".old") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    if _libc().umount2(b"/.old", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount of the old root")
    os.rmdir("/.old")
    _mount(None, "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


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


def _kept_flags(place: str) -> int:
    """Flags a remount inside a user namespace may not clear."""
    flags = os.statvfs(place).f_flag
    return flags & (
        os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
    )


@cache
def _python() -> str:
    return str(
        Path(sys.base_prefix).resolve() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )


@cache
def _candidate_source() -> str:
    return (Path(__file__).parent / "candidate.py").read_text(encoding="utf-8")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    data = None if options is None else options.encode()
    if _libc().mount(*words, ctypes.c_ulong(flags), data) != 0:
        raise OSError(ctypes.get_errno(), f"mount of {target}: {os.strerror(ctypes.get_errno())}")


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
