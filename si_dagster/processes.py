"""What a process of an engine or a trainer does beside its work: end with its parent, tell its memory.

It starts none itself, and it sees the memory of this process alone, not of those that it started.
"""

import os
import resource
import sys
import threading
import time
from pathlib import Path

PARENT_POLL_SECONDS = 0.5


def exit_with_parent(parent: int) -> None:
    """End this process as soon as it is another's child, even in the middle of a native call.

    By polling rather than PR_SET_PDEATHSIG, which fires when the *thread* that started us ends; an
    orchestrator starts children from threads that it drops.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
