"""Lanes: order, errors, and Ctrl-C at any instruction of whoever waits for them."""

import subprocess
import sys
import threading
import time

import pytest

from si_dagster.stages.chunks import as_finished

INTERRUPTED_EVERYWHERE = """
import sys, time
from si_dagster.stages.chunks import as_finished

def run(strike):
    "Chunks with KeyboardInterrupt at the strike-th instruction below this frame; whether it came to that."
    left = strike
    def trace(frame, event, argument):
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        list(as_finished(lambda chunk: time.sleep(0.0005), range(5), 2))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left <= 0

strike = 1
while run(strike):
    strike += 1
print(strike)
"""


def test_a_caller_interrupted_at_any_instruction_keeps_no_thread_waiting():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_EVERYWHERE], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200, "instructions were struck"


def test_what_is_under_way_at_an_error_is_handed_on_and_nothing_more_is_begun():
    begun, second_is_there = [], threading.Event()

    def compute(chunk: int) -> int:
        begun.append(chunk)
        if chunk == 0:
            assert second_is_there.wait(10)
            raise ValueError("the first")
        second_is_there.set()
        time.sleep(0.3)
        return chunk

    handed_on = []
    with pytest.raises(ValueError, match="the first"):
        collect(handed_on, as_finished(compute, range(100), num_lanes=2))
    assert 1 in handed_on
    assert sorted(begun) == [0, *sorted(handed_on)]
    assert len(begun) < 5


def collect(found, finished):
    for result in finished:
        found.append(result)
