"""Chunks under way at once: as many as the engine has lanes, each handed on as soon as it is done.

It keeps no order: rows have natural keys. It stores nothing and asks for no chunk twice. Threads and queues
are plain ones: Ctrl-C may strike the caller within `concurrent.futures` while it holds one of their locks,
for which its threads, and the end of the process, then wait without end.
"""

from _thread import start_new_thread
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def as_finished(
    compute: Callable[[Chunk], Result], chunks: Iterable[Chunk], num_lanes: int
) -> Iterator[Result]:
    """`compute(chunk)` of every chunk, in the order in which they finish.

    After an error no further chunk is begun; those under way are waited for and handed on, since they are
    paid for, and then the first error is raised.

    Args:
        compute: Called from `num_lanes` threads; from this one alone if that is 1.
        chunks: Read as they are needed, a few ahead.
        num_lanes: Chunks under way at once.

    Examples:
        >>> sorted(as_finished(len, ["a", "bb", "ccc"], num_lanes=2))
        [1, 2, 3]
    """
    if num_lanes == 1:
        yield from map(compute, chunks)
        return
    waiting, lanes, running = iter(chunks), _Lanes(compute, num_lanes), 0
    error: BaseException | None = None
    try:
        while True:
            if error is None:
                # Twice as many as lanes: none is idle while the caller writes what another has finished.
                for chunk in islice(waiting, 2 * num_lanes - running):
                    lanes.begin(chunk)
                    running += 1
            if not running:
                break
            result, failed = lanes.next_finished()
            running -= 1
            if failed is None:
                yield from result
            elif error is None:
                error = failed
                running -= lanes.cancel()
    finally:
        lanes.end()
    if error is not None:
        raise error


class _Lanes(Generic[Chunk, Result]):
    """Threads that compute what they are given, until they are ended.

    Args:
        compute: What they call.
        count: How many.
    """

    def __init__(self, compute: Callable[[Chunk], Result], count: int) -> None:
        self._compute, self._count = compute, count
        self._begun: SimpleQueue[tuple[Chunk] | None] = SimpleQueue()
        self._finished: SimpleQueue[tuple[tuple[Result, ...], BaseException | None]] = SimpleQueue()
        for _ in range(count):
            start_new_thread(self._work, ())  # `Thread` would wait for it, with a lock in hand

    def begin(self, chunk: Chunk) -> None:
        """Give a chunk to the next lane that is free."""
        self._begun.put((chunk,))

    def next_finished(self) -> tuple[tuple[Result, ...], BaseException | None]:
        """A result, or no result and the error of its chunk; waits for it."""
        return self._finished.get()

    def cancel(self) -> int:
        """Take back the chunks that no lane has begun; their number."""
        count = 0
        while True:
            try:
                self._begun.get_nowait()
            except Empty:
                return count
            count += 1

    def end(self) -> None:
        """End the lanes without waiting: what is under way for an interrupted caller ends with the engine."""
        self.cancel()
        for _ in range(self._count):
            self._begun.put(None)

    def _work(self) -> None:
        while (begun := self._begun.get()) is not None:
            try:
                self._finished.put(((self._compute(*begun),), None))
            except BaseException as error:
                self._finished.put(((), error))
