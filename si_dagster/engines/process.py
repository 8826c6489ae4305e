"""An engine in a process of its own, spoken to over a private pipe.

The memory of a policy goes back to the machine when the process ends, and what kills it (the kernel's
out-of-memory killer, a fault in a native library) does not kill the caller. Calls may come from several
threads; as many are answered at once as the engine has lanes, the others wait in the child. It does not
restart a dead engine: the caller's stage fails, and resumes from its last chunk.
"""

import contextlib
import pickle
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from si_dagster.engines.base import CAUSE_IN_LOG, WANT_OF_MEMORY, EngineError, Usage
from si_dagster.engines.child import Child, spare
from si_dagster.engines.remote import RemoteEngine
from si_dagster.processes import taken

Answer: TypeAlias = "SimpleQueue[tuple[str | None, Any] | EngineError]"
"""Of one call: failure and result, or the end of the child. No future: Ctrl-C may strike its caller while it
holds the lock of one, on which whoever answers would wait without end."""

MEMORY_OPTIONS = {
    "transformers": "max_batch_rows or max_batch_tokens",
    "vllm": "kv_cache_bytes, max_num_seqs or gpu_memory_utilization",
}
"""Engine kind -> options that bound its memory."""


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
        taken_over = None if environment else spare.take(kind, python, options or {})
        self._child = taken_over or Child(kind, python, environment)
        self._threads = [
            threading.Thread(target=job, daemon=True) for job in (self._listen, self._child.bury)
        ]
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
        return self._child.pid

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
            self._child.note_descendants()
            self._child.kill()
        with self._sending:
            if self._ended is None:
                self._ended = end
                self._child.note_descendants()
                # Said aloud: processes forked from this one hold copies of the pipe, which then has no end.
                with contextlib.suppress(OSError):
                    self._child.pipe.send_bytes(pickle.dumps((0, "close", ())))
        self._child.reaped()
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
            self._child.kill()
            self.close()
            raise
        if failure is not None:
            raise EngineError(self._explained(failure))
        return result

    def _explained(self, failure: str) -> str:
        """What the child says of a failure, with what its words leave out."""
        if CAUSE_IN_LOG.search(failure):
            with self._sending:  # the listener closes the log under it
                tail = self._child.log_tail()
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
                self._child.pipe.send_bytes(question)

    def _listen(self) -> None:
        """Hand every answer to its call, until the child has ended."""
        try:
            while True:
                number, failure, result, self._usage = pickle.loads(self._child.pipe.recv_bytes())
                self._waiting.pop(number).put((failure, result))
        except (EOFError, OSError):
            end = self._obituary()
        except Exception as error:
            self._child.kill()
            end = f"the answer of the {self._name} cannot be read: {error!r}; {self._obituary()}"
        with self._sending:
            self._ended = self._ended or end
            self._child.close_files()
            for answer in self._waiting.values():
                answer.put(EngineError(self._ended))

    def _memory_hint(self, words: str) -> str:
        """What to lower, if the words tell of memory."""
        return f" (out of memory? lower {self._memory_options})" if WANT_OF_MEMORY.search(words) else ""

    def _obituary(self) -> str:
        """How the child died and its last words."""
        code, tail = self._child.reaped(), self._child.log_tail()
        how = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        hint = self._memory_hint("out of memory" if code == -signal.SIGKILL else tail)
        return f"the {self._name} {how}{hint}" + (f"; its last lines:\n{tail}" if tail else "")
