"""Life and death of an engine in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import ended

from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.child import CLOSE_SECONDS, PACKAGE_ROOT
from si_dagster.engines.process import EngineProcess

PROMPTS = [Prompt("p", "?____3412________A")]
FORKING_WORKER = Path(__file__).with_name("forking_worker.py")


@pytest.fixture
def forking_python(tmp_path):
    """In the place of Python: a worker whose engine forks as vLLM does."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {FORKING_WORKER} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_same_draws_as_in_process(transformers_engine, process_engine):
    sampling = SamplingParams(n=5, max_tokens=12, seed=4)
    assert process_engine.generate(PROMPTS, sampling) == transformers_engine.generate(PROMPTS, sampling)


def test_closing_ends_the_child_twice_is_harmless(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    pid = engine.pid
    usage = engine.usage()
    engine.close()
    engine.close()
    assert not psutil.pid_exists(pid)
    assert engine.usage() == usage
    with pytest.raises(EngineError, match="closed"):
        engine.generate(PROMPTS, SamplingParams())


def test_a_killed_child_is_an_engine_error(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    os.kill(engine.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"SIGKILL \(out of memory\?"):
            engine.generate(PROMPTS, SamplingParams())
    assert engine.is_closed
    engine.close()


def test_a_child_killed_in_the_middle_of_a_call(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    threading.Timer(0.3, os.kill, (engine.pid, signal.SIGKILL)).start()
    prompts = [Prompt(str(i), PROMPTS[0].text) for i in range(200_000)]
    with pytest.raises(EngineError, match="SIGKILL"):
        engine.generate(prompts, SamplingParams(n=64))
    engine.close()


def test_last_words_of_the_child_are_reported(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    with pytest.raises(EngineError, match="AttributeError"):
        engine.generate([object()], SamplingParams())  # pyright: ignore[reportArgumentType]
    # An error of the call is not the end of the engine.
    assert len(engine.generate(PROMPTS, SamplingParams(n=3))[0]) == 3
    os.kill(engine.pid, signal.SIGABRT)
    with pytest.raises(EngineError, match="SIGABRT"):
        engine.label_logprobs(["a"], ["Y", "N"])
    engine.close()


def test_memory_that_ends_is_told_with_what_to_lower(tmp_path, checkpoint):
    narrow = tmp_path / "python"
    narrow.write_text(f'#!/bin/sh\nulimit -v 600000\nOPENBLAS_NUM_THREADS=1 exec {sys.executable} "$@"\n')
    narrow.chmod(0o755)
    with pytest.raises(EngineError, match=r"out of memory\? lower max_batch_rows or max_batch_tokens"):
        EngineProcess("transformers", checkpoint, {"device": "cpu"}, python=str(narrow))


def test_what_the_engine_cannot_open_is_said_in_its_words(tmp_path):
    with pytest.raises(EngineError, match="no such checkpoint folder"):
        EngineProcess("scripted", tmp_path / "nowhere")
    with pytest.raises(EngineError, match="no engine 'oracle': allowed are openai, ray, scripted"):
        EngineProcess("oracle", tmp_path)
    with pytest.raises(EngineError, match="no option 'speed'"):
        EngineProcess("scripted", tmp_path, {"speed": 2})


def test_the_child_is_gone_after_its_parent_was_killed(tmp_path):
    program = (
        "import sys, time\n"
        "from si_dagster.engines.process import EngineProcess\n"
        f"engine = EngineProcess('scripted', {str(tmp_path)!r})\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=PACKAGE_ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert ended(pid)


def test_a_busy_child_is_gone_after_its_parent_was_killed(tmp_path):
    program = (
        "from si_dagster.engines.process import EngineProcess\n"
        "from si_dagster.engines.base import Prompt, SamplingParams\n"
        f"engine = EngineProcess('scripted', {str(tmp_path)!r})\n"
        "print(engine.pid, flush=True)\n"
        "prompts = [Prompt(str(i), 'x') for i in range(100_000)]\n"
        "engine.generate(prompts, SamplingParams(n=1000))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=PACKAGE_ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    assert ended(pid)


def test_the_engine_outlives_the_thread_that_opened_it(tmp_path):
    opened: list[EngineProcess] = []
    thread = threading.Thread(target=lambda: opened.append(EngineProcess("scripted", tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.7)
    assert len(opened[0].generate(PROMPTS, SamplingParams(n=2))[0]) == 2
    opened[0].close()


def test_a_child_without_torch_starts_fast(tmp_path):
    started = time.perf_counter()
    engine = EngineProcess("scripted", tmp_path)
    memory = psutil.Process(engine.pid).memory_info().rss
    engine.close()
    assert memory < 200 * 2**20
    assert time.perf_counter() - started < 10


def test_works_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = EngineProcess("scripted", Path("."))
    assert len(engine.generate(PROMPTS, SamplingParams(n=2))[0]) == 2
    engine.close()


def test_a_killed_child_is_told_and_its_fork_ends_though_it_holds_the_pipe(tmp_path, forking_python):
    engine = EngineProcess("forking", tmp_path, python=forking_python)
    fork = int((tmp_path / "fork").read_text())
    assert psutil.pid_exists(fork)
    threading.Timer(0.3, os.kill, (engine.pid, signal.SIGKILL)).start()
    with pytest.raises(EngineError, match="SIGKILL"):
        engine.generate(PROMPTS, SamplingParams())
    engine.close()
    assert ended(fork, seconds=0.1)


def test_an_interrupted_call_ends_the_child_and_its_fork(tmp_path, forking_python):
    engine = EngineProcess("forking", tmp_path, python=forking_python)
    interrupt = (threading.main_thread().ident, signal.SIGINT)
    threading.Timer(0.3, signal.pthread_kill, interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, SamplingParams())
    assert ended(int((tmp_path / "fork").read_text()), seconds=0.1)
    assert not psutil.pid_exists(engine.pid)
    assert time.monotonic() - started < CLOSE_SECONDS, "killed, not waited for"


def test_a_question_larger_than_the_pipe_waits_in_a_busy_child_and_keeps_nobody(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    assert engine.num_lanes == 2, "one call under way and one that waits"
    prompts = [Prompt(str(i), PROMPTS[0].text) for i in range(100_000)]
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(engine.generate, prompts, SamplingParams(n=640)) for _ in range(2)]
        time.sleep(2)
        assert not any(call.done() for call in calls)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < CLOSE_SECONDS, "killed, not waited for"
        assert all("is closed" in str(call.exception()) for call in calls)


def test_a_child_that_stands_still_is_closed_though_a_question_waits_in_the_pipe(tmp_path):
    engine = EngineProcess("scripted", tmp_path)
    os.kill(engine.pid, signal.SIGSTOP)
    prompts = [Prompt(str(i), PROMPTS[0].text) for i in range(100_000)]
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(engine.generate, prompts, SamplingParams())
        time.sleep(1)
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < CLOSE_SECONDS
        assert "is closed" in str(call.exception())


def test_a_fork_is_gone_after_the_parent_was_killed(tmp_path, forking_python):
    program = (
        "import time\n"
        "from si_dagster.engines.process import EngineProcess\n"
        f"engine = EngineProcess('forking', {str(tmp_path)!r}, python={forking_python!r})\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=PACKAGE_ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert ended(pid)
    assert ended(int((tmp_path / "fork").read_text()))


def test_what_only_the_log_tells_comes_with_the_error(tmp_path, forking_python):
    with pytest.raises(EngineError, match=r"See root cause above(.|\n)*CUDA out of memory. Tried") as failure:
        EngineProcess("forking", tmp_path, {"fails": True}, python=forking_python)
    assert "(out of memory? lower " in str(failure.value)
