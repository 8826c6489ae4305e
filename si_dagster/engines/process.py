"""An engine in a process of its own, spoken to over a private pipe.

The memory of a policy goes back to the machine when the process ends, and what kills it (the kernel's
out-of-memory killer, a fault in a native library) does not kill the caller. Calls may come from several
threads; as many are answered at once as the engine has lanes, the others wait in the child. It does not
restart a dead engine: the caller's stage fails, and resumes from its last chunk.
"""

import contextlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

import psutil

from si_dagster.engines.base import CAUSE_IN_LOG, WANT_OF_MEMORY, EngineError, Usage
from si_dagster.engines.remote import RemoteEngine
from si_dagster.processes import descendants, kill_all, taken

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

Answer: TypeAlias = "SimpleQueue[tuple[str | None, Any] | EngineError]"
"""Of one call: failure and result, or the end of the child. No future: Ctrl-C may strike its caller while it
holds the lock of one, on which whoever answers would wait without end."""

MEMORY_OPTIONS = {
    "transformers": "max_batch_rows or max_batch_tokens",
    "vllm": "kv_cache_bytes, max_num_seqs or gpu_memory_utilization",
}
"""Engine kind -> options that bound its memory."""

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


class EngineProcess(RemoteEngine):
    """The engine `kind` holding the policy at `path`, in a child process.

    The child ends with `close`, and by itself when this process is gone, however it went.

    Args:
        kind: A name `open_engine` knows.
        path: Checkpoint folder.
        options: Keyword arguments of the engine.
        python: The Python to run it with; default: `engine_python(kind)`.
        environment: Variables of the child beside ours, for example CUDA_VISIBLE_DEVICES.

    Raises:
        EngineError: If the engine cannot start; the message is the engine's own.
    """

    def __init__(
        self,
        kind: str,
        path: str | Path,
        options: Mapping[str, Any] | None = None,
        python: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = f"{kind} engine of {path}"
        self._memory_options = MEMORY_OPTIONS.get(kind, "chunk_prompts")
        self._usage = Usage()
        self._sending = threading.Lock()
        self._waiting: dict[int, Answer] = {}
        self._num_calls = 0
        self._ended: str | None = None
        """Why no further call is answered."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._pipe, theirs = Pipe()
        python = python or engine_python(kind)
        command = [python, "-m", "si_dagster.engines.worker", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    env={**child_environment(), **(environment or {})},
                    process_group=0,  # by which its descendants are found when it is dead
                )
            except OSError as error:
                self._pipe.close()
                self._log.close()
                raise EngineError(f"the {kind} engine has no Python to run with: {error}") from error
        self._left_behind: list[psutil.Process] = []
        """What the child had started when it was told to end."""
        self._threads = [threading.Thread(target=job, daemon=True) for job in (self._listen, self._bury)]
        for thread in self._threads:
            thread.start()
        self.num_lanes = 2
        """One call more than the child answers at once: it waits there, so that the engine is not idle while
        the caller writes what came back."""
        try:
            self.num_lanes = 1 + self._call("open", kind, str(path), dict(options or {}))
        except BaseException:
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether it was closed or its child died: it answers no more."""
        return self._ended is not None

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def usage(self) -> Usage:
        """Counters as of the last call that came back, also after the end of the child."""
        return self._usage

    def close(self) -> None:
        """End the child and what it started, and wait until their memory is free.

        Calls under way fail. A child that answers one at a time is killed then: it would go on for seconds,
        and, if it stands still, whoever asks it something keeps the lock.
        """
        end = f"the {self._name} is closed"
        if self._ended is None and self._waiting and self.num_lanes == 2:
            self._ended = end
            self._left_behind = descendants(self._process.pid)
            self._kill()
        with self._sending:
            if self._ended is None:
                self._ended = end
                self._left_behind = descendants(self._process.pid)
                # Said aloud: processes forked from this one hold copies of the pipe, which then has no end.
                with contextlib.suppress(OSError):
                    self._pipe.send_bytes(pickle.dumps((0, "close", ())))
        self._reaped()
        for thread in self._threads:
            thread.join()

    def _call(self, method: str, *arguments: Any) -> Any:
        answer: Answer = SimpleQueue()
        try:
            self._ask(answer, method, arguments)
            found = taken(answer)
            if isinstance(found, EngineError):
                raise found
            failure, result = found
        except EngineError:
            raise
        except BaseException:
            # Interrupted between question and answer: the child would go on for nobody.
            self._kill()
            self.close()
            raise
        if failure is not None:
            raise EngineError(self._explained(failure))
        return result

    def _explained(self, failure: str) -> str:
        """What the child says of a failure, with what its words leave out."""
        if CAUSE_IN_LOG.search(failure):
            with self._sending:  # the listener closes the log under it
                tail = "" if self._log.closed else self._log_tail()
            return failure + self._memory_hint(tail) + (f"; its last lines:\n{tail}" if tail else "")
        # An engine's own words say what to change already; those of a library come with its traceback.
        return failure + (self._memory_hint(failure) if "Traceback" in failure else "")

    def _ask(self, answer: Answer, method: str, arguments: tuple[Any, ...]) -> None:
        with self._sending:
            if self._ended is not None:
                raise EngineError(self._ended)
            self._num_calls += 1
            question = pickle.dumps((self._num_calls, method, arguments), pickle.HIGHEST_PROTOCOL)
            self._waiting[self._num_calls] = answer
            with contextlib.suppress(OSError):  # a dead child is the listener's to tell
                self._pipe.send_bytes(question)

    def _listen(self) -> None:
        """Hand every answer to its call, until the child has ended."""
        try:
            while True:
                number, failure, result, self._usage = pickle.loads(self._pipe.recv_bytes())
                self._waiting.pop(number).put((failure, result))
        except (EOFError, OSError):
            end = self._obituary()
        except Exception as error:
            self._kill()
            end = f"the answer of the {self._name} cannot be read: {error!r}; {self._obituary()}"
        with self._sending:
            self._ended = self._ended or end
            self._pipe.close()
            self._log.close()
            for answer in self._waiting.values():
                answer.put(EngineError(self._ended))

    def _bury(self) -> None:
        """End what a dead child left behind, which may hold its memory and its end of the pipe."""
        self._process.wait()
        left = {*self._left_behind, *descendants(self._process.pid)}
        alive = psutil.wait_procs(left, CLOSE_SECONDS)[1]
        kill_all(alive)
        psutil.wait_procs(alive, CLOSE_SECONDS)

    def _kill(self) -> None:
        """Kill the child and what it started."""
        started = descendants(self._process.pid)
        self._process.kill()
        kill_all(started)

    def _reaped(self) -> int:
        """Exit code of the child, which is killed if it does not end by itself."""
        try:
            return self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _memory_hint(self, words: str) -> str:
        """What to lower, if the words tell of memory."""
        return f" (out of memory? lower {self._memory_options})" if WANT_OF_MEMORY.search(words) else ""

    def _obituary(self) -> str:
        """How the child died and its last words."""
        code, tail = self._reaped(), self._log_tail()
        how = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        hint = self._memory_hint("out of memory" if code == -signal.SIGKILL else tail)
        return f"the {self._name} {how}{hint}" + (f"; its last lines:\n{tail}" if tail else "")

    def _log_tail(self) -> str:
        """The last that the child and its descendants wrote; what they write next goes where it would."""
        file = self._log.fileno()
        start = max(0, os.fstat(file).st_size - LOG_TAIL_BYTES)
        return os.pread(file, LOG_TAIL_BYTES, start).decode(errors="replace").strip()
