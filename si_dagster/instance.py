"""The Dagster instance of a home folder, shared by command line and UI.

It opens the instance and closes the books on runs whose process is gone: a run from the command line has no
worker that Dagster could ask, so one that was killed would be shown as running for ever. It starts no run.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from si_dagster.store.errors import ArtifactBusy
from si_dagster.store.locks import FileLock

INSTANCE_CONFIG = Path(__file__).parent / "instance.yaml"
"""Named so that Dagster, started beside it, does not warn of a `dagster.yaml` that it will not use."""

STREAMS_TO_TERMINAL: Any = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}
"""What runs of this process print goes to the terminal as it is. Dagster's copy of it for the UI takes four
processes a step, of which two answer Ctrl-C with a traceback each. Runs from the UI keep theirs."""

SESSION_TAG = "si/session"
"""On every run from the command line: the lock its process holds as long as it lives."""


def open_instance(home: Path) -> dg.DagsterInstance:
    """The instance of a home folder, made on first use."""
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "the home folder cannot be written to", str(folder))
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(INSTANCE_CONFIG, folder / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(folder)
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=STREAMS_TO_TERMINAL))


@contextmanager
def session(instance: dg.DagsterInstance, home: Path) -> Iterator[dict[str, str]]:
    """Tags for the runs of this process; runs of processes that are gone are marked as failed first."""
    close_abandoned_runs(instance, home)
    name = uuid4().hex
    path = _lock_file(home, name)
    lock = FileLock(path, f"session {name}")
    try:
        yield {SESSION_TAG: name}
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def close_abandoned_runs(instance: dg.DagsterInstance, home: Path) -> None:
    """Mark runs as failed that are shown as running though their process has ended."""
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        name = run.tags.get(SESSION_TAG)
        if name is not None and _has_ended(home, name):
            instance.report_run_failed(run, "its process ended (killed?); run the study again: it goes on")


def _has_ended(home: Path, name: str) -> bool:
    path = _lock_file(home, name)
    try:
        lock = FileLock(path, f"session {name}")
    except ArtifactBusy:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True


def _lock_file(home: Path, name: str) -> Path:
    return home / "dagster" / "sessions" / f"{name}.lock"
