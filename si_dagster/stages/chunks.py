"""Chunks under way at once: as many as the engine has lanes, each handed on as soon as it is done.

It keeps no order: rows have natural keys. It stores nothing and asks for no chunk twice.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

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
    waiting, lanes = iter(chunks), ThreadPoolExecutor(num_lanes)
    running: set[Future[Result]] = set()
    error: BaseException | None = None
    try:
        while True:
            if error is None:
                # Twice as many as lanes: none is idle while the caller writes what another has finished.
                ahead = islice(waiting, 2 * num_lanes - len(running))
                running |= {lanes.submit(compute, chunk) for chunk in ahead}
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                failed = None if future.cancelled() else future.exception()
                if failed is not None:
                    error = error or failed
                    for late in running:
                        late.cancel()
                elif not future.cancelled():
                    yield future.result()
    finally:
        # An interrupted caller waits for nobody: what is under way ends with the engine.
        lanes.shutdown(wait=False, cancel_futures=True)
    if error is not None:
        raise error
