"""Lanes: order, errors, and Ctrl-C at any instruction of whoever waits for them."""

import subprocess
import sys
import threading
import time

import pytest

from si_dagster.stages.chunks import as_finished

INTERRUPTED_EVERYWHERE = """
import _thread, sys, time
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
deadline = time.monotonic() + 10
while _thread._count() and time.monotonic() < deadline:
    time.sleep(0.1)
print(strike, _thread._count())
"""

UNHEARD_UNTIL_A_WAIT_ENDS = """
import os, signal, threading, time
from si_dagster.stages.chunks import as_finished

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.siginterrupt(signal.SIGINT, False)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    list(as_finished(lambda chunk: time.sleep(60), range(5), 2))
except KeyboardInterrupt:
    print("heard")
"""


def in_another_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_caller_interrupted_at_any_instruction_keeps_no_thread_waiting():
    struck, threads = in_another_process(INTERRUPTED_EVERYWHERE).split()
    assert int(struck) > 200, "instructions were struck"
    assert threads == "0", "each lane ends by itself"


def test_ctrl_c_is_heard_though_a_library_lets_waits_go_on():
    started = time.monotonic()
    assert in_another_process(UNHEARD_UNTIL_A_WAIT_ENDS).strip() == "heard"
    assert time.monotonic() - started < 30, "not after the chunk"


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
