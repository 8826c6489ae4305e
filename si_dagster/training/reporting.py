"""How a training process says how far it is: to a Dagster run through Pipes, else to standard output.

Only the process that was launched speaks; further ranks are silent. It does not log to any service.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from si_dagster.processes import exit_with_parent
from si_dagster.training.faults import leave_word

SECONDS_BETWEEN_LINES = 2.0


class Reporter:
    """Tells lines, and steps as `label: done/total steps (share), loss, rate, time left`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._start = self._told = time.monotonic()

    def step(self, label: str, done: int, total: int, loss: float) -> None:
        """Tell a step, at most every few seconds, and the last."""
        now = time.monotonic()
        if done < total and now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        rate = done / max(now - self._start, 1e-9)
        left = (total - done) / rate
        share = f"{done / total:.0%}"
        self.tell(
            f"{label}: {done}/{total} steps ({share}), loss {loss:.3f}, {rate:.1f}/s, {left:.0f} s left"
        )


@contextmanager
def reporter() -> Iterator[Reporter]:
    """The reporter of this process."""
    if os.environ.get("RANK", "0") != "0":
        yield Reporter(lambda line: None)
        return
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield Reporter(lambda line: print(line, flush=True))
        return
    from dagster_pipes import open_dagster_pipes

    os.dup2(2, 1)  # what libraries print belongs to the log, not into the output of the caller
    with open_dagster_pipes() as pipes:
        yield Reporter(pipes.log.info)


def run_trainer(train: Callable[[str, Reporter], object]) -> None:
    """Entry point of a training process: `python -m MODULE SPEC.json`.

    Ends with its parent. A failure ends with exit code 1 and one clear last line, which lies beside the spec
    too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group; the parent tells it once
    exit_with_parent(os.getppid())
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {sys.argv[0]} SPEC.json")
    fault = None
    try:
        with reporter() as report:
            train(sys.argv[1], report)
    except Exception as error:
        traceback.print_exc()
        fault = f"training failed: {leave_word(sys.argv[1], error)}"
    _leave_the_others(fault)
    if fault:
        sys.exit(fault)


def _leave_the_others(fault: str | None) -> None:
    """End a process that is one of several, at once; a lone process goes on.

    Not by the interpreter's own end: there threads of gloo abort the process now and then (1 of 4 runs of
    ZeRO-3 under load, "terminate called without an active exception"), after all was done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if fault is None:
        distributed.barrier()  # the first may still be writing
    else:
        print(fault, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if fault else 0)
