"""A real cluster of two nodes: the rows of one process, whatever the number of actors and whoever dies."""

from itertools import islice, product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from engines.two_nodes import TwoNodes

from resources.cost_meter import CostMeter
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


def open_ray(cluster: TwoNodes, checkpoint: Path, **options: Any) -> EngineProcess:
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
        open_ray(cluster, tmp_path / "nowhere", engine="scripted", options={}, num_actors=1)
    with pytest.raises(EngineError, match="no option 'speed'"):
        open_ray(cluster, tmp_path, engine="scripted", options={"speed": 2}, num_actors=1)
    with pytest.raises(EngineError, match=r"no actor came up within 1 s; .*ask for less \(num_cpus"):
        open_ray(cluster, tmp_path, engine="scripted", options={}, num_cpus=9, start_seconds=1)


def test_a_node_killed_midway_loses_nothing_and_repeats_nothing(
    cluster: TwoNodes, checkpoint: Path, prompts: pl.DataFrame, unbroken: pl.DataFrame, tmp_path: Path
) -> None:
    engine = open_ray(cluster, checkpoint)
    assert engine.num_lanes == 2, "one actor a node"
    meter = CostMeter(engine, tmp_path / "cost.json")
    with open_writer(tmp_path) as writer:
        for count, chunk in enumerate(generation_chunks(prompts, engine, SAMPLING, ADDRESS, CHUNK), 1):
            writer.write_part(chunk)
            assert writer.existing(["prompt_id"])["prompt_id"].n_unique() == CHUNK * count
            if count == 3:
                cluster.kill_second_node()
        stored = writer.existing()
    cost = meter.cost()
    engine.close()
    assert cost["actors_lost"] >= 1, "and the metadata of the stage says so"
    assert stored.sort("generation_id").equals(unbroken.select(stored.columns))
    assert cost["completion_tokens"] == unbroken["num_tokens"].sum(), (
        "what a dead actor had done is not counted"
    )
