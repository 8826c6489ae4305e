"""Worker processes for work that may hang or crash: one item at a time each, replaced when they fail.

A worker is a module run with `python -m` that speaks JSON lines and keeps its own clock: see
`serve` for the other end. Nothing is retried and nothing is cached here; a failed item comes back as
a `WorkerFailure` with its reason.
"""

import atexit
import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WALL_FACTOR = 20
"""Wall seconds allowed for each CPU second of the limit, so that a busy machine fails no item."""
START_LIMIT_S = 120.0
"""Wall seconds a worker may take to import its libraries; seen: 1 to 3 on an idle machine."""


@dataclass(frozen=True)
class WorkerFailure:
    """Why an item has no result; the worker that held it is gone or said that it could not."""

    reason: str


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    started: float
    ready: bool = False
    item: int | None = None
    sent: float = 0.0
    buffer: bytes = b""


@dataclass
class WorkerPool:
    """A few workers of one module.

    Attributes:
        module: Run as `python -m <module>`; it calls `serve`.
        num_workers: Processes at most; started when there is work for them.
        time_limit_s: CPU seconds an item may take. The clock starts when the worker takes the item up
            and stands still while the machine does something else: waiting is not counted.
    """

    module: str
    num_workers: int = 2
    time_limit_s: float = 5.0
    extra_path: str | None = None
    """A further folder of modules, before all others."""
    broken: str | None = None
    """Why no worker can be started, e.g. a missing dependency; then every item fails with it."""
    _workers: list[_Worker] = field(default_factory=list)
    _failed_starts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def map(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | WorkerFailure]:
        """The result of each item, in order; an empty sequence starts no process."""
        with self._lock:
            return self._map(items)

    def _map(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | WorkerFailure]:
        results: list[dict[str, Any] | WorkerFailure | None] = [None] * len(items)
        waiting = list(range(len(items)))[::-1]
        while waiting or any(worker.item is not None for worker in self._workers):
            if self.broken:
                break
            self._fill(len(waiting))
            self._hand_out(items, waiting)
            self._collect(results)
        failure = WorkerFailure(self.broken or "no worker took the item")
        return [failure if result is None else result for result in results]

    def close(self) -> None:
        """End all workers; calling it twice is harmless, and a later `map` starts new ones."""
        for worker in self._workers:
            _end(worker.process)
        self._workers.clear()

    def _fill(self, num_waiting: int) -> None:
        idle = sum(worker.item is None for worker in self._workers)
        while len(self._workers) < self.num_workers and idle < num_waiting:
            self._workers.append(_Worker(self._spawn(), time.monotonic()))
            idle += 1

    def _spawn(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, (self.extra_path, root)))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", self.module, str(self.time_limit_s)]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def _hand_out(self, items: Sequence[Mapping[str, Any]], waiting: list[int]) -> None:
        for worker in self._workers:
            if worker.ready and worker.item is None and waiting:
                worker.item, worker.sent = waiting.pop(), time.monotonic()
                pipe = worker.process.stdin
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):  # its death is seen and told by _collect
                    pipe.write(json.dumps(items[worker.item]).encode() + b"\n")
                    pipe.flush()

    def _collect(self, results: list[Any]) -> None:
        """Wait for one sign of life, or until the next deadline, and store what came."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            for key, _ in selector.select(timeout=1.0):
                self._read(key.data, results)
        for worker in [*self._workers]:
            limit = self.time_limit_s * WALL_FACTOR if worker.ready else START_LIMIT_S
            since = worker.sent if worker.ready else worker.started
            if (worker.item is not None or not worker.ready) and time.monotonic() - since > limit:
                self._lose(worker, results, f"no answer within {limit:g} s of wall time")

    def _read(self, worker: _Worker, results: list[Any]) -> None:
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not data:
            worker.process.wait()
            self._lose(worker, results, _death(worker.process.returncode, self.time_limit_s))
            return
        worker.buffer += data
        if not worker.buffer.endswith(b"\n"):
            return
        message, worker.buffer = json.loads(worker.buffer), b""
        if not worker.ready:
            worker.ready, self.broken = "error" not in message, message.get("error")
            self._failed_starts = 0
            return
        results[worker.item or 0] = WorkerFailure(message["error"]) if "error" in message else message
        worker.item = None

    def _lose(self, worker: _Worker, results: list[Any], reason: str) -> None:
        if worker.item is not None:
            results[worker.item] = WorkerFailure(reason)
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                self.broken = f"{self.module} does not start: {reason}"
        _end(worker.process)
        self._workers.remove(worker)


_pools: dict[tuple[int, str, int, float], WorkerPool] = {}
_pools_lock = threading.Lock()


def shared_pool(module: str, num_workers: int, time_limit_s: float) -> WorkerPool:
    """The pool of this process for that module; its workers start when there is work and end with it."""
    key = (os.getpid(), module, num_workers, time_limit_s)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = WorkerPool(module, num_workers, time_limit_s)
        return _pools[key]


def close_shared_pools() -> None:
    """End the workers of this process now."""
    with _pools_lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()


atexit.register(close_shared_pools)


def _death(returncode: int, limit: float) -> str:
    if returncode == -signal.SIGPROF:
        return f"took more than {limit:g} s of CPU time"
    return f"worker died with exit code {returncode}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve(
    prepare: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]],
    time_limit_s: float,
    memory_bytes: int = 4 << 30,
) -> None:
    """The worker's end: say ready, then answer one JSON line with one JSON line until stdin closes.

    An item that takes more CPU than the limit kills the process by SIGPROF, even inside C code and even
    when the parent is gone. Memory is bounded too: an item that asks for more is an error, not a swap.

    Args:
        prepare: Imports what is needed and returns the function for one item; an ImportError is told to
            the pool as the reason why no item can be done.
        time_limit_s: CPU seconds for one item.
        memory_bytes: Bound of the address space.
    """
    reply, sys.stdout = sys.stdout, sys.stderr  # libraries may print; the answers are alone on the pipe
    try:
        work = prepare()
    except ImportError as error:
        _say(reply, {"error": f"missing dependency: {error}"})
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _say(reply, {"ready": True})
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, time_limit_s)
        try:
            answer = work(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(reply, answer)


def _say(pipe: Any, message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()
