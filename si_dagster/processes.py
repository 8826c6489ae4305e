"""What a process does beside its work: end with its parent, share the cores, hear Ctrl-C, tell its memory.

It starts none itself, and it sees the memory of this process alone, not of those that it started.
"""

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NoReturn, TypeVar

import psutil

Item = TypeVar("Item")

PARENT_POLL_SECONDS = 0.5
SIGNAL_POLL_SECONDS = 0.5
RESOURCE_TRACKER = "multiprocessing.resource_tracker"


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_each(count: int) -> int:
    """CPU threads of each of `count` processes that share the cores of this one.

    Examples:
        >>> threads_of_each(10**6)
        1
    """
    return max(1, usable_cores() // count)


def taken(queue: "SimpleQueue[Item]") -> Item:
    """The next of a queue, waited for in slices: a library's handler of Ctrl-C may let a wait go on."""
    while True:
        try:
            return queue.get(timeout=SIGNAL_POLL_SECONDS)
        except Empty:
            continue


def exit_with_parent(parent: int) -> None:
    """End this process and what it started as soon as it is another's child, even amid a native call.

    What it started does not watch for itself: a fork has no copy of this thread, and would keep the GPU.
    By polling rather than PR_SET_PDEATHSIG, which fires when the *thread* that started us ends; an
    orchestrator starts children from threads that it drops.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        exit_with_descendants(1)

    threading.Thread(target=watch, daemon=True).start()


def exit_with_descendants(code: int) -> NoReturn:
    """End this process and what it started, at once: without flushing, freeing or asking."""
    kill_all(descendants(os.getpid()))
    os._exit(code)


def descendants(pid: int) -> list[psutil.Process]:
    """Processes that a process has started, and theirs: the ranks of a policy on several GPUs.

    Those of its process group count as well: when it is dead itself, its children are another's.
    """
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        found = []
    for member in psutil.pids():
        # Gone in the meantime, of either kind.
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if member != pid and os.getpgid(member) == pid:
                found.append(psutil.Process(member))
    return list(dict.fromkeys(found))


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill them, Python's resource tracker apart: it removes the shared memory of the others and ends."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if RESOURCE_TRACKER not in " ".join(process.cmdline()):
                process.kill()


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    By Linux's VmHWM, which begins anew with a program: `ru_maxrss` begins with the size of the process that
    started it. Elsewhere `ru_maxrss` is all there is; macOS counts it in bytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_gpu_memory() -> int:
    """Most bytes that this process has held on its GPUs, by torch's allocator; 0 where it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_reserved(gpu) for gpu in range(torch.cuda.device_count()))
