"""A real cluster of two nodes: the rows of one process, whatever the number of actors and whoever dies."""

import os
import signal
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from si_dagster.engines.base import Engine, EngineError, SamplingParams
from si_dagster.engines.process import EngineProcess
from si_dagster.stages.generations import generation_chunks
from si_dagster.store.artifacts import Store, Writer
from si_dagster.store.layout import Address

pytestmark = pytest.mark.timeout(600)

SAMPLING = SamplingParams(n=24, max_tokens=30, seed=3)
ADDRESS = Address("study", 0, "generations", "pico", "sudoku4", "eval")
CHUNK = 4
NUM_CHUNKS = 20


class TwoNodes:
    """A head with room for one actor, and a second node like it that can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 2**27, "node_ip_address": "127.0.0.1"}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**node, "include_dashboard": False}, shutdown_at_exit=False
        )
        self._node = node
        self._second = self._cluster.add_node(**node)
        self.address: str = self._cluster.address

    def kill_second_node(self) -> None:
        """All its processes at once, as when a machine loses power."""
        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            os.kill(process.pid, signal.SIGKILL)
        self._cluster.remove_node(self._second, allow_graceful=False)

    def add_second_node(self) -> None:
        self._second = self._cluster.add_node(**self._node)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        # Else Ray puts the machine's outward address in the place of 127.0.0.1, where nobody listens.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray lowers the priority of its workers to 15: on a busy machine they take minutes to start.
        patch.setenv("RAY_worker_niceness", "0")
        two = TwoNodes()
        yield two
        two.shutdown()


def ray_engine(cluster: TwoNodes, checkpoint: Path, **options: Any) -> EngineProcess:
    inner = {"device": "cpu", "num_threads": 1}
    return EngineProcess("ray", checkpoint, {"address": cluster.address, "options": inner, **options})


@pytest.fixture(scope="module")
def prompts() -> pl.DataFrame:
    rows = product("1234", repeat=4)
    puzzles = [f"?{''.join(row)}____3412____A" for row in islice(rows, CHUNK * NUM_CHUNKS)]
    return pl.DataFrame({"prompt_id": [f"p{p}" for p in puzzles], "prompt": puzzles})


@pytest.fixture(scope="module")
def unbroken(transformers_engine: Engine, prompts: pl.DataFrame) -> pl.DataFrame:
    chunks = generation_chunks(prompts, transformers_engine, SAMPLING, ADDRESS, CHUNK)
    return pl.concat(chunks).sort("generation_id")


def open_writer(home: Path) -> Writer:
    return Store(home).open_writer(ADDRESS, {"n": 24}, "fingerprint", study_snapshot={}, inputs=[])


def test_what_cannot_be_opened_is_said(cluster: TwoNodes, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no such checkpoint folder.* \(on node 127.0.0.1\)"):
        ray_engine(cluster, tmp_path / "nowhere", engine="scripted", options={}, num_actors=1)
    with pytest.raises(EngineError, match="no option 'speed'"):
        ray_engine(cluster, tmp_path, engine="scripted", options={"speed": 2}, num_actors=1)
    with pytest.raises(EngineError, match=r"no actor came up within 1 s; .*ask for less \(num_cpus"):
        ray_engine(cluster, tmp_path, engine="scripted", options={}, num_cpus=9, start_seconds=1)


def test_a_node_killed_midway_loses_nothing_and_repeats_nothing(
    cluster: TwoNodes, checkpoint: Path, prompts: pl.DataFrame, unbroken: pl.DataFrame, tmp_path: Path
) -> None:
    engine = ray_engine(cluster, checkpoint)
    assert engine.num_lanes == 2, "one actor a node"
    with open_writer(tmp_path) as writer:
        for count, chunk in enumerate(generation_chunks(prompts, engine, SAMPLING, ADDRESS, CHUNK), 1):
            writer.write_part(chunk)
            assert writer.existing(["prompt_id"])["prompt_id"].n_unique() == CHUNK * count
            if count == 3:
                cluster.kill_second_node()
        stored = writer.existing()
    usage = engine.usage()
    engine.close()
    assert usage.extra["actors_lost"] >= 1
    assert stored.sort("generation_id").equals(unbroken.select(stored.columns))
    assert usage.completion_tokens == unbroken["num_tokens"].sum(), (
        "what a dead actor had done is not counted"
    )
