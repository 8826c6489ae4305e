"""Shared by all tests: a home folder that a real run has filled, and the command line as a process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    import polars as pl

    from si_dagster.plan import Plan
    from si_dagster.store.layout import Address

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-c", "from si_dagster.cli import main; main()"]
MINI = ROOT / "tests" / "cases" / "mini.yaml"

# A shell that starts tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path) -> dict[str, str]:
    """The environment of a fresh process with that home folder."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SI_DAGSTER_", "DAGSTER_"))
    }
    return {**kept, "SI_DAGSTER_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def run_cli(home: Path, *arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """`si-dagster ARGUMENTS` to its end, from the root of the repository."""
    return subprocess.run(
        [*CLI, *arguments], cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=500
    )


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process is gone, or only waits to be buried, within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def replace_rows(plan: "Plan", home: Path, address: "Address", table: "pl.DataFrame") -> None:
    """Store an artifact again with other rows."""
    from si_dagster.store.artifacts import Store

    store = Store(home)
    manifest = store.require(address).manifest
    with store.open_writer(
        address,
        manifest.recipe,
        manifest.fingerprint,
        study_snapshot=plan.study.model_dump(mode="json"),
        supersede=True,
    ) as writer:
        writer.write_part(table)
        writer.commit(metadata={}, dagster_run_id="test", code_version="1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which the mini study ran to its end: real engine, real trainer. Do not change it."""
    home = tmp_path_factory.mktemp("finished")
    done = run_cli(home, "run", str(MINI), "--chunk-prompts", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished home folder, to change."""
    copy = tmp_path / "home"
    shutil.copytree(finished, copy)
    # The views of the catalogue name files by absolute path.
    assert run_cli(copy, "lineage", "rebuild").returncode == 0
    return copy
