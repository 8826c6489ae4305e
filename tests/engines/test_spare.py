"""A child that imports an engine's libraries before anybody asks: who gets it, and that it ends."""

import os
import signal
import sys
from collections.abc import Iterator

import psutil
import pytest

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.child import spare
from si_dagster.engines.process import EngineProcess


@pytest.fixture
def spare_pid() -> Iterator[int]:
    """Of a child that was started ahead for the transformers engine."""
    spare.start("transformers")
    assert spare.pid is not None
    yield spare.pid
    spare.drop()


def test_the_first_engine_that_fits_takes_the_child_that_was_started_ahead(spare_pid, checkpoint):
    engines = [EngineProcess("transformers", checkpoint, {"dtype": "float32"}) for _ in range(2)]
    assert engines[0].pid == spare_pid != engines[1].pid
    prompts = [Prompt("p", "?2143____3412____A")]
    texts = [engine.generate(prompts, SamplingParams(max_tokens=8, seed=1)) for engine in engines]
    assert texts[0] == texts[1]
    for engine in engines:
        engine.close()
    assert not psutil.pid_exists(spare_pid)


@pytest.mark.parametrize(
    ("kind", "python", "options"),
    [("scripted", "", {}), ("transformers", sys.executable, {}), ("transformers", "", {"num_threads": 1})],
)
def test_a_child_started_ahead_is_not_taken_where_it_does_not_fit(spare_pid, kind, python, options):
    assert spare.take(kind, python, options) is None
    assert spare.pid == spare_pid
    spare.drop()
    assert not psutil.pid_exists(spare_pid)


def test_a_child_started_ahead_that_died_is_not_taken(spare_pid, tmp_path):
    os.kill(spare_pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(spare_pid)], 5)
    assert spare.take("transformers", "", {}) is None


@pytest.mark.parametrize(("kind", "options"), [("scripted", {}), ("vllm", {"num_threads": 2})])
def test_none_is_started_ahead_where_nothing_is_gained_or_options_come_too_late(kind, options):
    spare.start(kind, "", options)
    assert spare.pid is None
