"""What could keep a study from running here: versions, memory, disk, accelerator, damaged artifacts.

It looks and tells; it mends nothing and starts nothing.
"""

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from si_dagster.store.artifacts import Artifact
from si_dagster.store.errors import StoreError
from si_dagster.store.integrity import manifest_folders, read_manifest
from si_dagster.store.layout import default_home, superseded_dir

PACKAGES = ("dagster", "duckdb", "polars", "torch", "transformers", "trl")
OPTIONAL = ("vllm", "deepspeed")
GIB = 2**30
ENOUGH_MEMORY, ENOUGH_DISK = 4 * GIB, 5 * GIB


def examine() -> list[dict[str, Any]]:
    """All findings: check, ok, found, and what to do where it is not ok."""
    home = default_home()
    return [
        _finding(
            "python", sys.version_info >= (3, 11), platform.python_version(), "use Python 3.11 or newer"
        ),
        *(_package(name) for name in PACKAGES),
        *(_finding(f"{name} (optional)", True, _version(name) or "not installed") for name in OPTIONAL),
        _memory(),
        _disk(home),
        _accelerator(),
        *_artifacts(home),
    ]


def _finding(check: str, ok: bool, found: str, todo: str = "") -> dict[str, Any]:
    return {"check": check, "ok": ok, "found": found if ok or not todo else f"{found}; {todo}"}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> dict[str, Any]:
    version = _version(name)
    return _finding(
        name, version is not None, version or "not installed", "run `make quickstart` or pip install -e ."
    )


def _memory() -> dict[str, Any]:
    free = psutil.virtual_memory().available
    found = f"{free / GIB:.1f} GiB free, {os.cpu_count()} cores"
    return _finding("memory", free >= ENOUGH_MEMORY, found, "a pico study wants 4 GiB")


def _disk(home: Path) -> dict[str, Any]:
    folder = next(parent for parent in (home, *home.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    found = f"{home}: {free / GIB:.1f} GiB free{'' if writable else ', not writable'}"
    return _finding(
        "home folder", writable and free >= ENOUGH_DISK, found, "set SI_DAGSTER_HOME to a roomier place"
    )


def _accelerator() -> dict[str, Any]:
    try:
        import torch

        found = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: engines run on the CPU"
    except (ImportError, OSError, RuntimeError) as error:
        return _finding("accelerator", False, f"torch does not load: {error}", "reinstall torch")
    return _finding("accelerator", True, found)


def _artifacts(home: Path) -> list[dict[str, Any]]:
    damaged, count = [], 0
    for folder in manifest_folders(home):
        if folder.is_relative_to(superseded_dir(home)):
            continue
        count += 1
        try:
            if (manifest := read_manifest(folder)) is not None:
                Artifact(folder, manifest).verify()
        except StoreError as error:
            damaged.append(_finding(str(folder.relative_to(home)), False, str(error)))
    return [_finding("artifacts", not damaged, f"{count} complete, {len(damaged)} damaged"), *damaged]
