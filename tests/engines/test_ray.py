"""A real cluster of two nodes: the rows of one process, whatever the number of actors and whoever dies."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from conftest import CLI, MINI, ROOT, ended, environment
from engines.two_nodes import TwoNodes

from resources.cost_meter import CostMeter
from si_dagster.engines.base import EngineError, Prompt, SamplingParams
from si_dagster.engines.process import EngineProcess
from si_dagster.engines.registry import open_engine
from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.stages.generations import generation_chunks
from si_dagster.store.artifacts import Store, Writer
from si_dagster.store.layout import Address

pytestmark = pytest.mark.timeout(600)

SAMPLING = SamplingParams(n=24, max_tokens=30, seed=3)
ADDRESS = Address("study", 0, "generations", "pico", "sudoku4", "eval")
CHUNK = 4
NUM_CHUNKS = 20
STUDY = Path("data/mini")
BASE, MEASURED = STUDY / "base_checkpoint", STUDY / "iteration_0"
VERIFICATIONS = MEASURED / "verifications/pico|sudoku4/eval.multiple_choice"
PROMPT = Prompt("p", "?____3412________A")

FATAL = """#!{python}
import os, signal, sys
from si_dagster.engines import registry, worker
from si_dagster.engines.scripted import ScriptedEngine

registry.ENGINE_CLASSES["vllm"] = registry.ENGINE_CLASSES["scripted"]
ScriptedEngine.generate = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[2:]
worker.main()
"""
"""In the place of Python: a worker whose engine every chunk kills."""


def open_ray(cluster: TwoNodes, policy: Path, **options: Any) -> EngineProcess:
    """Of scripted actors, which need no torch."""
    return EngineProcess("ray", policy, {"address": cluster.address, "engine": "scripted", **options})


@pytest.fixture(scope="module")
def prompts() -> pl.DataFrame:
    rows = product("1234", repeat=4)
    puzzles = [f"?{''.join(row)}____3412____A" for row in islice(rows, CHUNK * NUM_CHUNKS)]
    return pl.DataFrame({"prompt_id": [f"p{p}" for p in puzzles], "prompt": puzzles})


@pytest.fixture(scope="module")
def unbroken(prompts: pl.DataFrame) -> pl.DataFrame:
    chunks = generation_chunks(prompts, ScriptedEngine(), SAMPLING, ADDRESS, CHUNK)
    return pl.concat(chunks).sort("generation_id")


def open_writer(home: Path) -> Writer:
    return Store(home).open_writer(ADDRESS, {"n": 24}, "fingerprint", study_snapshot={}, inputs=[])


def test_what_cannot_be_opened_is_said(cluster: TwoNodes, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no such checkpoint folder.* \(on node 127.0.0.1\)"):
        open_ray(cluster, tmp_path / "nowhere", num_actors=1)
    with pytest.raises(EngineError, match=r"no actor came up within 1 s; .*ask for less \(num_cpus"):
        open_ray(cluster, tmp_path, num_cpus=9, start_seconds=1)


def test_a_chunk_that_kills_every_engine_says_what_to_lower(cluster: TwoNodes, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FATAL.format(python=sys.executable))
    python.chmod(0o755)
    options = {"python": str(python)}
    with closing(open_ray(cluster, tmp_path, engine="vllm", options=options, num_actors=1)) as engine:
        lower = r"one chunk cost 4 actors \(out of memory\? lower kv_cache_bytes, max_num_seqs .*SIGKILL"
        with pytest.raises(EngineError, match=lower):
            engine.generate([PROMPT], SAMPLING)
        assert engine.usage().extra == {}, "of calls that were answered"


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_an_actor_computes_what_transformers_computes(
    cluster: TwoNodes, wide_checkpoint: Path, kind: str
) -> None:
    here = {"device": "cpu", "num_threads": 1}
    options = {**here, **({"kv_cache_bytes": 2**26} if kind == "vllm" else {})}
    greedy = SamplingParams(n=2, temperature=0.0, max_tokens=40)
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(["?1_3_A", "?__43_12A", "few-shot " * 7])]
    texts, labels = [prompt.text for prompt in prompts], ["Y", " correct", " incorrect"]
    with (
        closing(open_engine("transformers", wide_checkpoint, **here)) as reference,
        closing(open_ray(cluster, wide_checkpoint, engine=kind, options=options, num_actors=1)) as engine,
    ):
        for ours, theirs in zip(*(e.generate(prompts, greedy) for e in (engine, reference)), strict=True):
            assert [(c.text, c.num_tokens) for c in ours] == [(c.text, c.num_tokens) for c in theirs]
        scores = [e.label_logprobs(texts, labels) for e in (engine, reference)]
        np.testing.assert_allclose(*scores, atol=1e-3)
        assert engine.usage().num_parameters == reference.usage().num_parameters
        assert engine.usage().peak_memory_bytes > 2**28, "of the process that holds the policy"


def test_a_node_killed_midway_loses_nothing_and_repeats_nothing(
    cluster: TwoNodes, prompts: pl.DataFrame, unbroken: pl.DataFrame, tmp_path: Path
) -> None:
    cluster.start_second_node()
    with closing(open_ray(cluster, tmp_path)) as engine, open_writer(tmp_path) as writer:
        assert engine.num_lanes == 3, "one actor a node, and a chunk that waits"
        cluster.wait_for_actor()
        meter = CostMeter(engine, tmp_path / "cost.json")
        for count, chunk in enumerate(generation_chunks(prompts, engine, SAMPLING, ADDRESS, CHUNK), 1):
            writer.write_part(chunk)
            assert writer.existing(["prompt_id"])["prompt_id"].n_unique() == CHUNK * count
            if count == 3:
                cluster.kill_second_node()
        stored, cost = writer.existing(), meter.cost()
    assert cost["actors_lost"] >= 1, "and the metadata of the stage says so"
    assert stored.sort("generation_id").equals(unbroken.select(stored.columns))
    assert cost["completion_tokens"] == unbroken["num_tokens"].sum(), (
        "what a dead actor had done is not counted"
    )


def test_a_study_ends_as_without_ray_though_a_node_dies_while_it_verifies(
    cluster: TwoNodes, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / BASE, tmp_path / BASE)
    cluster.start_second_node()
    options = (f"address={cluster.address}", "options={device: cpu, num_threads: 1}")
    settings = [word for option in options for word in ("--engine-option", option)]
    command = [*CLI, "run", str(MINI), "iterations=0", "--engine", "ray", "--chunk-prompts", "1", *settings]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
        while len(list((tmp_path / VERIFICATIONS).glob("part-*.parquet"))) < 2:
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.002)
        run.send_signal(signal.SIGSTOP)
        cluster.wait_for_actor()
        cluster.kill_second_node()
        run.send_signal(signal.SIGCONT)
        assert not (tmp_path / VERIFICATIONS / "manifest.json").exists(), "killed in time"
        assert run.wait() == 0, (tmp_path / "log").read_text()

    ours, theirs = manifests(tmp_path), manifests(finished)
    assert {"generations", "verifications", "gap_metrics"} <= {Path(name).parts[3] for name in ours}
    assert {name: ours[name]["fingerprint"] for name in ours} == {
        name: theirs[name]["fingerprint"] for name in ours
    }
    assert ours[str(VERIFICATIONS)]["metadata"]["actors_lost"] >= 1
    for name in ours:
        if "/generations/" in name or "/verifications/" in name:
            mine, other = (rows(home / name) for home in (tmp_path, finished))
            rounded = [c for c in ("logprob", "proxy_utility") if c in mine]
            assert mine.drop(rounded).equals(other.drop(rounded)), name
            assert mine[rounded[0]].to_list() == pytest.approx(other[rounded[0]].to_list(), abs=1e-4)


def manifests(home: Path) -> dict[str, dict[str, Any]]:
    """Of the base and of what was measured of it, by folder."""
    files = [file for folder in (BASE, MEASURED) for file in (home / folder).glob("**/manifest.json")]
    return {str(file.parent.relative_to(home)): json.loads(file.read_text()) for file in files}


def rows(folder: Path) -> pl.DataFrame:
    table = pl.concat(map(pl.read_parquet, folder.glob("part-*.parquet")))
    return table.sort(name for name in ("generation_id", "verification_id") if name in table)


# The last: until Ray notices that its node is gone, it takes the cluster for one with a GPU.
def test_actor_and_engine_end_together_and_the_engine_has_the_gpu_of_its_actor(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    cluster.start_second_node(num_gpus=1)
    try:
        with closing(open_ray(cluster, tmp_path, num_actors=1, num_gpus=1)) as engine:
            rows = engine.generate([PROMPT], SAMPLING)
            process = engine_on_second_node(cluster)
            assert process.environ()["CUDA_VISIBLE_DEVICES"] == "0"
            actor = process.parent()
            assert actor is not None
            actor.kill()
            assert engine.generate([PROMPT], SAMPLING) == rows
            assert ended(process.pid, 5.0), "it would keep the GPU"
            engine_on_second_node(cluster).kill()
            assert engine.generate([PROMPT], SAMPLING) == rows
            assert engine.usage().extra["actors_lost"] == 2
            process = engine_on_second_node(cluster)
        assert ended(process.pid, 5.0)
    finally:
        cluster.kill_second_node()


def engine_on_second_node(cluster: TwoNodes) -> psutil.Process:
    [found] = cluster.engines_of_second_node()
    return found
