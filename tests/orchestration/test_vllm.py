"""A study that moves to vLLM: same fingerprints, same gap."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import MINI, run_cli

from si_dagster.engines.process import engine_python

# Half a minute of start-up for each engine, ten times that on a machine with other things to do.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

# vLLM has CPU kernels for heads of size 32 and more; the paper's gate, set where no gap reaches, ends a run
# before it trains.
STUDY = (str(MINI), "iterations=1", "models.0.pretrain.num_attention_heads=1")
GATED = (*STUDY, "stop.min_gap=0.99")


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("by_transformers")
    done = run_cli(home, "run", *GATED)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="module")
def by_vllm(by_transformers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = only_the_base(by_transformers, tmp_path_factory.mktemp("by_vllm"))
    # The command line starts without this process's SI_DAGSTER_ variables.
    python = f"python={engine_python('vllm')}"
    settings = (python, "num_threads=1", f"kv_cache_bytes={2**26}", "max_num_seqs=64")
    options = [word for setting in settings for word in ("--engine-option", setting)]
    done = run_cli(home, "run", *STUDY, "--engine", "vllm", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def only_the_base(source: Path, home: Path) -> Path:
    shutil.copytree(source / "data/mini/base_checkpoint", home / "data/mini/base_checkpoint")
    return home


def fingerprints(home: Path) -> dict[str, str]:
    manifests = sorted((home / "data/mini").rglob("manifest.json"))
    return {str(file.relative_to(home)): json.loads(file.read_text())["fingerprint"] for file in manifests}


def gap_row(home: Path, study: tuple[str, ...]) -> dict:
    return json.loads(run_cli(home, "gap", *study, "--json").stdout)[0]


def test_same_fingerprints_and_a_gap_within_its_interval(by_transformers: Path, by_vllm: Path) -> None:
    ours, theirs = fingerprints(by_vllm), fingerprints(by_transformers)
    assert len(theirs) > 8
    assert theirs.items() <= ours.items()
    assert any("iteration_1/gap_metrics" in name for name in ours)
    mine, other = gap_row(by_vllm, STUDY), gap_row(by_transformers, GATED)
    assert other["gap_low"] <= mine["gap"] <= other["gap_high"]
    assert mine["gap_low"] <= other["gap"] <= mine["gap_high"]
