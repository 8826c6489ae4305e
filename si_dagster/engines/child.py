"""The child process of an engine: how it is started, what it left in its log, how it and its own end.
One can be started ahead, to import an engine's libraries while the caller does something else: that takes
seconds. It says nothing of questions and answers: `EngineProcess` does.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil

from si_dagster.engines.base import EngineError
from si_dagster.processes import descendants, kill_all

LOG_TAIL_BYTES = 4000
CHILD_DEFAULTS = {
    # Threads that spin while they wait starve each other as soon as another process wants the cores: with a
    # load of 6 on 2 cores the same work took 25 s spinning and 4.4 s sleeping.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Tensors of some MiB come and go with every step; by default glibc gives each back to the kernel at once,
    # and getting fresh pages took 15% of the time of a label pass.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""Environment of the child where the caller's does not say otherwise; set before torch is loaded."""

CLOSE_SECONDS = 5.0
"""Patience with a child that was asked to end, and with what a dead one left behind, before they are killed.
"""

PACKAGE_ROOT = Path(__file__).resolve().parents[2]

PYTHON_VARIABLES = {"vllm": "SI_DAGSTER_VLLM_PYTHON"}
"""Engine kind -> environment variable that names the Python it runs with."""

OWN_ENVIRONMENTS = {"vllm": PACKAGE_ROOT / ".venv-vllm" / "bin" / "python"}
"""Engine kind -> Python of the environment that `make` builds for it beside the package's."""


def engine_python(kind: str) -> str:
    """The Python that an engine runs with: of the environment variable, ours, or of its own environment.

    Ours comes before its own environment where it has the engine's library.
    """
    named = os.environ.get(PYTHON_VARIABLES.get(kind, ""))
    if named:
        return named
    own = OWN_ENVIRONMENTS.get(kind)
    if own is not None and own.exists() and importlib.util.find_spec(kind) is None:
        return str(own)
    return sys.executable


def child_environment() -> dict[str, str]:
    """The caller's environment, with `CHILD_DEFAULTS` and with this package on the import path."""
    paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**CHILD_DEFAULTS, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


IMPORTED_AHEAD = ("transformers", "vllm")
"""Engine kinds whose libraries take seconds to import."""

SETTLED_BY_IMPORT = ("device", "num_threads")
"""Options that a library may read when it is imported, so that it cannot be imported without them."""


class Child:
    """A process that runs `si_dagster.engines.worker`, the pipe to it and its log.

    Args:
        kind: Engine kind, which decides on the Python.
        python: The Python to run it with; default: `engine_python(kind)`.
        environment: Variables of the child beside ours.
        is_ahead: Whether to import the engine's libraries before anything is asked.

    Raises:
        EngineError: If there is no such Python.
    """

    def __init__(
        self,
        kind: str,
        python: str = "",
        environment: Mapping[str, str] | None = None,
        is_ahead: bool = False,
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.pipe, theirs = Pipe()
        worker = ["-m", "si_dagster.engines.worker", str(theirs.fileno()), str(os.getpid())]
        worker += [kind] * is_ahead
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [python or engine_python(kind), *worker],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self.log,
                    stderr=subprocess.STDOUT,
                    env={**child_environment(), **(environment or {})},
                    process_group=0,  # by which its descendants are found when it is dead
                )
            except OSError as error:
                self.close_files()
                raise EngineError(f"the {kind} engine has no Python to run with: {error}") from error
        self._left_behind: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def note_descendants(self) -> None:
        """Remember what it has started: once it has ended, they may be found no more."""
        self._left_behind = descendants(self.pid)

    def kill(self) -> None:
        """Kill it and what it started."""
        started = descendants(self.pid)
        self._process.kill()
        kill_all(started)

    def reaped(self) -> int:
        """Exit code; it is killed if it does not end by itself."""
        try:
            return self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def bury(self) -> None:
        """Wait for its end, then end what it left behind, which may hold memory and its end of the pipe."""
        self._process.wait()
        left = {*self._left_behind, *descendants(self.pid)}
        alive = psutil.wait_procs(left, CLOSE_SECONDS)[1]
        kill_all(alive)
        psutil.wait_procs(alive, CLOSE_SECONDS)

    def log_tail(self) -> str:
        """The last that it and its descendants wrote; what they write next goes where it would."""
        if self.log.closed:
            return ""
        file = self.log.fileno()
        start = max(0, os.fstat(file).st_size - LOG_TAIL_BYTES)
        return os.pread(file, LOG_TAIL_BYTES, start).decode(errors="replace").strip()

    def close_files(self) -> None:
        """Close this end of the pipe, and the log."""
        self.pipe.close()
        self.log.close()


def may_be_imported_ahead(kind: str, options: Mapping[str, Any]) -> bool:
    """Whether importing an engine's libraries takes long, and does not depend on its options."""
    return kind in IMPORTED_AHEAD and not any(name in SETTLED_BY_IMPORT for name in options)


class Spare:
    """At most one child that was started ahead and waits for an engine that fits it."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._fits: tuple[str, str] | None = None
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the child that waits, if one does."""
        return None if self._child is None else self._child.pid

    def start(self, kind: str, python: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Start a child for an engine to come, where that gains anything; one that is there goes."""
        self.drop()
        if not may_be_imported_ahead(kind, options or {}):
            return
        # What is wrong with its Python is told by the engine that asks for it.
        with self._changing, contextlib.suppress(EngineError):
            self._fits, self._child = (kind, python), Child(kind, python, is_ahead=True)

    def take(self, kind: str, python: str, options: Mapping[str, Any]) -> Child | None:
        """The child, if it fits and lives: for one engine."""
        with self._changing:
            fits = self._fits == (kind, python) and may_be_imported_ahead(kind, options)
            if self._child is None or not fits or not self._child.is_alive():
                return None
            child, self._child = self._child, None
            return child

    def drop(self) -> None:
        """End the child that nobody took."""
        with self._changing:
            child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.reaped()
            child.close_files()


spare = Spare()
"""Of this process."""
