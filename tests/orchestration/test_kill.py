"""kill -9 in every stage that takes time: what was whole stays, what was not is made again, nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from conftest import CLI, MINI, ROOT, environment, run_cli

from si_dagster.instance import open_instance

CELL = "pico|sudoku4"
ITERATION = Path("data") / "mini" / "iteration_0"
COSTS = {"prompt_tokens", "completion_tokens", "cached_tokens", "engine_seconds", "gpu_seconds", "flops"}
RUN = ("run", str(MINI), "--chunk-prompts", "4")


def part_files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("part-*.parquet")}


def kill_when(home: Path, happened: Callable[[], bool]) -> None:
    """Start the study and kill it, and only it, as soon as something has happened."""
    process = subprocess.Popen(
        [*CLI, *RUN], cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "nothing to kill within 300 s"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def is_partial(folder: Path, at_least: int) -> bool:
    return len(list(folder.glob("part-*.parquet"))) >= at_least and not (folder / "manifest.json").exists()


def tables(home: Path) -> dict[str, pl.DataFrame]:
    """Every table artifact, sorted; cut into parts or not, resumed or not."""
    folders = {file.parent for file in (home / "data" / "mini").rglob("part-*.parquet")}
    return {
        str(folder.relative_to(home)): pl.concat(
            [pl.read_parquet(f) for f in sorted(folder.glob("part-*.parquet"))]
        ).sort(pl.all())
        for folder in folders
    }


def run_statuses(home: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # open_instance sets it; this puts it back
    with open_instance(home) as instance:
        return {run.status.value for run in instance.get_runs()}


@pytest.mark.timeout(900)
def test_killed_four_times_the_study_ends_as_if_never_broken(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    generations = home / ITERATION / "generations" / CELL / "train"
    verifications = home / ITERATION / "verifications" / CELL / "train.multiple_choice"
    staging = home / ITERATION / "checkpoint" / CELL / ".staging" / "spec.json"
    lineage = home / "lineage.duckdb"

    kill_when(home, lambda: is_partial(generations, 3))
    kept = part_files(generations)
    assert kept

    kill_when(home, lambda: is_partial(verifications, 3))
    assert kept.items() <= part_files(generations).items(), "whole chunks of generations were written again"
    kept = part_files(verifications)

    kill_when(home, staging.exists)
    assert kept.items() <= part_files(verifications).items(), (
        "whole chunks of verifications were written again"
    )

    # The catalogue is copied, changed and renamed; a temporary beside it means a commit is under way.
    before = set(home.glob("*"))
    kill_when(home, lambda: bool(set(home.glob("*lineage*")) - before) or not lineage.exists())

    done = run_cli(home, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, unbroken = tables(home), tables(finished)
    assert ours.keys() == unbroken.keys()
    for name, table in unbroken.items():
        assert ours[name].equals(table), name
    assert run_statuses(home, monkeypatch) == {"SUCCESS", "FAILURE"}, "a killed run is shown as running"
    gap = [run_cli(folder, "gap", "mini", "--json").stdout for folder in (home, finished)]
    assert gap[0] == gap[1] != ""


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["metadata"]


@pytest.mark.timeout(600)
def test_a_kill_before_the_manifest_loses_no_cost(home: Path) -> None:
    folders = [
        home / ITERATION / "generations" / CELL / "train",
        home / ITERATION / "verifications" / CELL / "train.multiple_choice",
        home / ITERATION / "probes" / CELL / "eval.multiple_choice",
    ]
    spent = [{name: value for name, value in told(folder).items() if name in COSTS} for folder in folders]
    for folder, cost in zip(folders, spent, strict=True):
        assert cost.keys() == COSTS
        # As a kill between the last part and the manifest leaves it.
        (folder / "manifest.json").unlink()
        (folder / ".staging").mkdir()
        (folder / ".staging" / "cost.json").write_text(json.dumps(cost))
        (folder / ".staging" / "wall.json").write_text('{"seconds": 1000}')
    probes = home / ITERATION.with_name("iteration_1") / "probes" / CELL / "eval.multiple_choice"
    shutil.rmtree(probes)
    kill_when(home, (probes / ".staging" / "wall.json").exists)
    done = run_cli(home, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder, cost in zip(folders, spent, strict=True):
        assert {name: told(folder)[name] for name in COSTS} == cost
        assert told(folder)["wall_seconds"] > 1000
    assert told(probes)["prompt_tokens"] > 0


def test_an_engine_that_dies_is_started_again_and_the_stage_goes_on(finished: Path, home: Path) -> None:
    generations = home / ITERATION / "generations" / CELL / "train"
    shutil.rmtree(generations)
    process = subprocess.Popen([*CLI, *RUN], cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not is_partial(generations, 3):
        assert process.poll() is None, "the run ended before its engine could be killed"
        assert time.monotonic() < deadline, "nothing to kill within 300 s"
        time.sleep(0.002)
    (engine,) = (
        c for c in psutil.Process(process.pid).children() if "si_dagster.engines.worker" in c.cmdline()
    )
    engine.kill()
    assert process.wait() == 0
    assert tables(home)[str(generations.relative_to(home))].equals(
        tables(finished)[str(generations.relative_to(home))]
    )


def test_a_second_run_on_the_same_partition_is_refused(finished: Path, home: Path) -> None:
    from si_dagster.plan import Plan
    from si_dagster.store.artifacts import Store
    from si_dagster.study import load_study

    plan, store = Plan(load_study(MINI)), Store(home)
    address = plan.address("generations", 0, ("pico", "sudoku4"), "eval")
    shutil.rmtree(store.folder(address))
    with store.open_writer(
        address, plan.recipe(address), plan.fingerprint(address), study_snapshot={}, inputs=None
    ):
        done = run_cli(home, *RUN)
    assert done.returncode == 1
    assert str(os.getpid()) in done.stdout
    assert run_cli(home, *RUN).returncode == 0
