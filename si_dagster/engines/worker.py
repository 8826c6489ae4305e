"""The child of `EngineProcess`: `python -m si_dagster.engines.worker DESCRIPTOR PARENT_PID [KIND]`.

With a kind it imports what that engine needs before anything is asked.

Answers (number, method, arguments) with (number, error or None, result, usage) until the pipe ends, as many
calls at once as the engine has lanes. Standard output stays free for what libraries print. It trusts its
pipe: both ends are ours.
"""

import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from si_dagster.engines.base import Engine, Usage, num_lanes
from si_dagster.engines.registry import open_engine, prepare
from si_dagster.engines.remote import answered
from si_dagster.processes import exit_with_descendants, exit_with_parent, peak_gpu_memory, peak_memory

Question = tuple[int, str, tuple[Any, ...]]


class Desk:
    """The child's end of the pipe: questions come one by one, answers go from any thread."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._answering = pipe, threading.Lock()
        self.engine: Engine | None = None

    def question(self) -> Question | None:
        """The next question; `None` when the other end is closed or says so."""
        try:
            question: Question = pickle.loads(self._pipe.recv_bytes())
        except EOFError:
            return None
        return None if question[1] == "close" else question

    def answer(self, number: int, ask: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Compute and send one answer; an error is an answer, too."""
        failure, result = answered(ask, arguments)
        # Under the lock: a later message never carries an earlier reading of the counters.
        with self._answering:
            usage = Usage() if self.engine is None else self.engine.usage()
            usage = usage.with_peaks(peak_memory(), peak_gpu_memory())
            self._pipe.send_bytes(pickle.dumps((number, failure, result, usage), pickle.HIGHEST_PROTOCOL))

    def open(self, kind: str, path: str, options: dict[str, Any]) -> int:
        """Open the engine; says how many calls it answers at once."""
        self.engine = open_engine(kind, path, **options)
        return num_lanes(self.engine)

    def read_ahead(self, questions: "SimpleQueue[Question | None]") -> None:
        """Take questions off the pipe while others are answered: who asks never waits for a full pipe."""
        try:
            while question := self.question():
                questions.put(question)
        finally:
            questions.put(None)


def serve(desk: Desk, kinds_to_come: Sequence[str]) -> None:
    """Open the engine, then answer until the other end is closed."""
    questions: SimpleQueue[Question | None] = SimpleQueue()
    threading.Thread(target=desk.read_ahead, args=(questions,), daemon=True).start()
    for kind in kinds_to_come:
        prepare(kind)
    first = questions.get()
    if first is None:
        return
    desk.answer(first[0], desk.open, first[2])
    engine = desk.engine
    if engine is None:
        return
    lanes = num_lanes(engine)
    # One lane answers from the main thread, where torch and signals are happiest.
    pool = ThreadPoolExecutor(lanes) if lanes > 1 else None
    while question := questions.get():
        number, method, arguments = question
        job = (number, getattr(engine, method), arguments)
        if pool is None:
            desk.answer(*job)
        else:
            pool.submit(desk.answer, *job)
    engine.close()


def main() -> None:
    """Entry point of the child."""
    descriptor, parent, *kinds_to_come = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    exit_with_parent(int(parent))
    try:
        serve(Desk(Connection(int(descriptor))), kinds_to_come)
    except (BrokenPipeError, ConnectionResetError):
        exit_with_descendants(1)
    # Interpreter shutdown frees a large policy block by block; the kernel does it at once.
    sys.stdout.flush()
    exit_with_descendants(0)


if __name__ == "__main__":
    main()
