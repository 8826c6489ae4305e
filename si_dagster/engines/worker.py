"""The child of `EngineProcess`: `python -m si_dagster.engines.worker DESCRIPTOR PARENT_PID`.

Answers (method, arguments) with (error or None, result, usage), one after the other, until the pipe ends.
Standard output stays free for what libraries print. It trusts its pipe: both ends are ours.
"""

import os
import pickle
import resource
import signal
import sys
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection

from si_dagster.engines.base import Engine, EngineError, Usage
from si_dagster.engines.registry import open_engine
from si_dagster.processes import exit_with_parent


def serve(pipe: Connection) -> None:
    """Answer until the other end is closed."""
    engine: Engine | None = None
    while True:
        try:
            method, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        if method == "close":
            return
        failure, result = None, None
        try:
            if engine is None:
                kind, path, options = arguments
                engine = open_engine(kind, path, **options)
            else:
                result = getattr(engine, method)(*arguments)
        except EngineError as error:
            failure = str(error)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        usage = Usage() if engine is None else replace(engine.usage(), peak_memory_bytes=_peak_memory())
        pipe.send_bytes(pickle.dumps((failure, result, usage), protocol=pickle.HIGHEST_PROTOCOL))


def _peak_memory() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Entry point of the child."""
    descriptor, parent = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    exit_with_parent(parent)
    try:
        serve(Connection(descriptor))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    # Interpreter shutdown frees a large policy block by block; the kernel does it at once.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
