"""Chunks under way at once: as many as the engine has lanes, each handed on as soon as it is done.

It keeps no order: rows have natural keys. It stores nothing and asks for no chunk twice. Threads and queues
are plain ones: Ctrl-C may strike the caller within `concurrent.futures` while it holds one of their locks,
for which its threads, and the end of the process, then wait without end.
"""

from _thread import start_new_thread
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import ref

from si_dagster.processes import taken

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

POLL_SECONDS = 0.5


def as_finished(
    compute: Callable[[Chunk], Result], chunks: Iterable[Chunk], num_lanes: int
) -> Iterator[Result]:
    """`compute(chunk)` of every chunk, in the order in which they finish.

    After an error of `compute` no further chunk is begun; those under way are waited for and handed on, since
    they are paid for, and then the first error is raised. An error of `chunks` itself is raised at once.

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
    waiting, running = iter(chunks), 0
    lanes: _Lanes[Chunk, Result] | None = None
    error: BaseException | None = None
    try:
        lanes = _Lanes(compute, num_lanes)
        while True:
            if error is None:
                # Twice as many as lanes: none is idle while the caller writes what another has finished.
                for chunk in islice(waiting, 2 * num_lanes - running):
                    lanes.begun.put((chunk,))
                    running += 1
            if not running:
                break
            result, failed = taken(lanes.finished)
            running -= 1
            if failed is None:
                yield from result
            elif error is None:
                error = failed
                running -= lanes.cancel()
    finally:
        # An interrupted caller waits for nobody: what is under way ends with the engine.
        if lanes is not None:
            lanes.ended = True
    if error is not None:
        raise error


class _Lanes(Generic[Chunk, Result]):
    """Threads that compute what they are given, until they are ended or nobody holds this any more.

    Args:
        compute: What they call.
        count: How many.

    Attributes:
        begun: Chunks for the next lane that is free, each in a tuple.
        finished: A result in a tuple and no error, or none and the error of a chunk.
        ended: Whether no further chunk is to be computed.
    """

    def __init__(self, compute: Callable[[Chunk], Result], count: int) -> None:
        self.compute = compute
        self.begun: SimpleQueue[tuple[Chunk]] = SimpleQueue()
        self.finished: SimpleQueue[tuple[tuple[Result, ...], BaseException | None]] = SimpleQueue()
        self.ended = False
        for _ in range(count):
            # `Thread` would wait for it to start, with a lock in hand.
            start_new_thread(_work, (ref(self), self.begun, self.finished))

    def cancel(self) -> int:
        """Take back the chunks that no lane has begun; their number."""
        count = 0
        while True:
            try:
                self.begun.get_nowait()
            except Empty:
                return count
            count += 1


def _work(
    lanes: "ref[_Lanes[Any, Any]]", begun: "SimpleQueue[tuple[Any]]", finished: "SimpleQueue[Any]"
) -> None:
    while (owner := lanes()) is not None and not owner.ended:
        compute = owner.compute
        del owner
        try:
            (chunk,) = begun.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if (owner := lanes()) is None or owner.ended:
            return
        del owner
        try:
            finished.put(((compute(chunk),), None))
        except BaseException as error:
            finished.put(((), error))
