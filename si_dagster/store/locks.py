"""Advisory locks between processes, given back by the kernel when a process ends, however it ends.

Not here: locks between hosts on file systems without flock, and fairness between those who wait. A child
forked (not exec'd) by the holder keeps the lock alive until it ends too.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from si_dagster.store.atomic import make_folder
from si_dagster.store.errors import ArtifactBusy

_POLL_SECONDS = 0.01


class FileLock:
    """An exclusive lock on a file that stays where it is: removing it would let two holders in.

    Args:
        path: The lock file; created where missing.
        what: What is locked, for the message.
        wait_seconds: How long to wait for another holder.

    Raises:
        ArtifactBusy: If it is held by another, naming its process and since when.
    """

    def __init__(self, path: Path, what: str, wait_seconds: float = 0.0):
        make_folder(path.parent)
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire(self._descriptor, path, what, wait_seconds)
        except BaseException:
            self.release()
            raise
        self._sign(self._descriptor)

    def _acquire(self, descriptor: int, path: Path, what: str, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ArtifactBusy(_busy_message(path, what)) from None
                time.sleep(_POLL_SECONDS)

    def _sign(self, descriptor: int) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def release(self) -> None:
        """Let others in; calling it twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _busy_message(path: Path, what: str) -> str:
    # The holder signs after it locked, so for an instant the file is empty or names the one before.
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        holder = {"pid": "unknown", "host": "unknown", "since": "just now"}
    return (
        f"{what} is being written by process {holder['pid']} on {holder['host']} since {holder['since']}: "
        "wait for it, or end it (what it finished stays); the lock ends with it and its forked children"
    )


@contextlib.contextmanager
def locked(path: Path, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock for a block; as `FileLock`."""
    lock = FileLock(path, what, wait_seconds)
    try:
        yield
    finally:
        lock.release()
