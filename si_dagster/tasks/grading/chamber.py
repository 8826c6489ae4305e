"""The room of the sandbox: a process that waits inside its namespaces and forks a program when asked.

    chamber (user, network, ipc, uts and mount namespaces, read-only root)
      -> keeper (new pid, ipc and mount namespaces, a fresh /tmp) -> init (pid 1) -> program

Started as `python -I -S` with this text as its program, so it imports the standard library only, and what a
program inherits from it is an interpreter with nothing in it. It is told calls, never what a test expects; it
keeps no time and judges nothing. When a program is over, so are all processes of its namespace.
"""

import ctypes
import marshal
import os
import platform
import resource
import signal
import socket
import struct
import sys
from typing import Any

FOR_PROGRAMS = (
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools math operator re"
)
"""Modules that programs often import and so find loaded; none of them holds a random state."""

NEW_FOR_ALL = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x40000000
"""CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWNET."""
NEW_FOR_EACH = 0x00020000 | 0x08000000 | 0x20000000
"""CLONE_NEWNS, NEWIPC, NEWPID."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION_3 = 0x20080522
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MNT_DETACH = 2
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
HEADER = struct.Struct("!Q")


def main():
    """Enter the namespaces, then fork one program for each job until the other end is gone."""
    control = socket.socket(fileno=int(sys.argv.pop()))
    # Pid 1 takes only signals it has handlers for: Python's own for SIGINT would let a program end it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    start, _ = receive(control)
    candidate = {"__name__": "candidate_end"}
    exec(compile(start["candidate"], "<candidate end>", "exec"), candidate)
    for name in FOR_PROGRAMS.split():
        __import__(name)
    null = os.open(os.devnull, os.O_RDWR)
    if start["guard"] == "namespaces":
        enter(control, start)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    send(control, {"ready": True})
    keeper = 0
    while True:
        job, descriptors = receive(control)
        if keeper:
            os.waitpid(keeper, 0)
        if job is None:
            os._exit(0)
        keeper = os.fork()
        if keeper == 0:
            keep(control, start["guard"], job, descriptors[0], null, candidate["main"])
        os.close(descriptors[0])
        # Left unreaped, so that its number belongs to nobody else while it may still be killed.
        ended: Any = os.waitid(os.P_PID, keeper, os.WEXITED | os.WNOWAIT)
        send(control, {"exited": ended.si_code == os.CLD_EXITED, "status": ended.si_status})


def receive(control) -> tuple[Any, list[int]]:
    """The next message with the descriptors that came along, or `None` where the other end is gone."""
    head, descriptors, _, _ = socket.recv_fds(control, HEADER.size, 1)
    while head and len(head) < HEADER.size:
        head += control.recv(HEADER.size - len(head))
    if not head:
        return None, []
    parts, missing = [], HEADER.unpack(head)[0]
    while missing:
        part = control.recv(min(missing, 1 << 20))
        if not part:
            return None, []
        parts.append(part)
        missing -= len(part)
    return marshal.loads(b"".join(parts)), descriptors


def send(control, message, descriptors=()):
    """One message; descriptors go with its head."""
    body = marshal.dumps(message)
    socket.send_fds(control, [HEADER.pack(len(body))], list(descriptors))
    control.sendall(body)


def enter(control, start):
    """New namespaces with users mapped from outside, and a new root; a refusal is told and ends it."""
    try:
        checked(LIBC.unshare(NEW_FOR_ALL), "unshare")
        send(control, {"unshared": True})
        receive(control)
        build_root(start["places"], start["links"])
    except OSError as error:
        send(control, {"error": str(error)})
        os._exit(1)


def keep(control, guard, job, reply, null, answer):
    """The process between chamber and program; tells what to kill, waits, and never returns."""
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if guard == "namespaces":
            checked(LIBC.unshare(NEW_FOR_EACH), "unshare")
            options = f"size={job['tmp_bytes']},nr_inodes={job['tmp_files']},mode=1777"
            mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
            init = os.fork()
            if init == 0:
                control.close()
                drop_rights()
                reap(job, reply, null, answer)
            os.close(reply)
            send(control, {"kill": init})
            leave(os.waitpid(init, 0)[1])
        send(control, {"kill": os.getpid()})
        control.close()
        reap(job, reply, null, answer)
    except OSError as error:
        send(control, {"error": str(error)})
    finally:
        os._exit(1)


def reap(job, reply, null, answer):
    """Start the program and wait for it, burying what else dies; its end is the end of the namespace."""
    program = os.fork()
    if program == 0:
        become_program(job, reply, null, answer)
    os.close(reply)
    while True:
        ended, status = os.wait()
        if ended == program:
            leave(status)


def leave(status):
    """Exit as a child did; 128 and more stands for a signal."""
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def become_program(job, reply, null, answer):
    """Let go of everything, take the limits on and answer the job; never returns."""
    try:
        os.setsid() if job["own_session"] else None
        reply = os.dup2(reply, 200)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.dup2(reply, 3)
        os.closerange(4, 1024)
        os.chdir(job["room"])
        for name, value in job["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        drop_rights()
        answer(job, 3)
    finally:
        os._exit(111)


def drop_rights():
    """Become nobody without capabilities, for good; the parent's death is death."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.getuid() == 0:
        LIBC.setgroups(0, None)  # forbidden inside, where none are left anyway
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    head = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    checked(LIBC.capset(head, bytes(24)), "capset")
    # Both are forgotten by the kernel whenever rights change, so they come last.
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def build_root(places, links):
    """A new root: interpreter and system libraries read-only, an empty /tmp, nothing else."""
    mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    root = "/tmp"
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for place in places:
        target = root + place
        if os.path.isdir(place):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        mount(place, target, None, MS_BIND | MS_REC, None)
        if not place.startswith("/dev/"):
            mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept_flags(target), None)
    for link, aim in links:
        os.symlink(aim, root + link)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    os.makedirs(f"{root}/.old")
    os.chdir(root)
    checked(LIBC.syscall(PIVOT_ROOT[platform.machine()], b".", b".old"), "pivot_root")
    os.chdir("/")
    checked(LIBC.umount2(b"/.old", MNT_DETACH), "umount of the old root")
    os.rmdir("/.old")
    mount(None, "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


def kept_flags(place):
    """Flags a remount inside a user namespace may not clear."""
    flags = os.statvfs(place).f_flag
    return flags & (
        os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
    )


def prctl(option, value):
    """The system call of that name."""
    checked(LIBC.prctl(option, value, 0, 0, 0), f"prctl {option}")


def mount(source, target, kind, flags, options):
    """The system call of that name."""
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    data = None if options is None else options.encode()
    checked(LIBC.mount(*words, ctypes.c_ulong(flags), data), f"mount of {target}")


def checked(result, what):
    """Raise what a system call failed with."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
