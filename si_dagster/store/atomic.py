"""A file is written whole or not at all: temporary file, fsync, rename, fsync of the folder.

Not here: locks (two processes writing one final name at once: the last rename wins) and network file
systems whose rename or fsync promise less than POSIX.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_dagster.store.errors import DiskFull

if TYPE_CHECKING:
    import polars as pl

TEMPORARY = ".tmp-"
"""Prefix of files being written; one that is left over was never acknowledged and may be removed."""

ROW_GROUP_ROWS = 65_536
"""Point queries read one row group: 64k rows were measured at 10.8 ms over 6.4M."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, no quota, or a file size limit."""


@dataclass(frozen=True)
class Written:
    """What is now on disk under the final name: bytes and their sha256 in hex."""

    size: int
    sha256: str


def fsync_folder(path: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the bytes of a file that another program wrote durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, each durable in its parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with explain_full(path):
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


@contextlib.contextmanager
def explain_full(path: Path) -> Iterator[None]:
    """Turn a full disk, quota or file size limit into a `DiskFull` that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"could not write {path}: {os.strerror(error.errno or 0)}; {_free_space(path)}. "
            "Nothing was put under that name and what was written before is whole: free some space "
            "(or raise the quota), or move the home to a larger disk and set SI_DAGSTER_HOME; then run again"
        ) from error


def _free_space(path: Path) -> str:
    """Free space beside a path, in words; the folder may not exist yet."""
    place = next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))
    return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB were free in {place}"


def write_bytes(path: Path, content: bytes) -> Written:
    """Put `content` under `path`, replacing what was there in one step.

    Raises:
        DiskFull: If there is no space; neither the final name nor a temporary file is left behind.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with explain_full(path):
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Written(len(content), hashlib.sha256(content).hexdigest())


def write_json(path: Path, value: Any) -> Written:
    """Put a JSON document under `path`: UTF-8, indented, keys in order, no NaN.

    Raises:
        DiskFull: As `write_bytes`.
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that was put under `path`; empty where none was."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_parquet(path: Path, frame: "pl.DataFrame") -> Written:
    """Put a table under `path`: zstd, row groups of 64k rows, a checksum on every page.

    Built in memory first, so the hash is of the bytes meant and a full disk is met in one place.
    The page checksums let a resumed artifact, which has no manifest yet, tell damaged parts.

    Raises:
        DiskFull: As `write_bytes`.
    """
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(
        frame.to_arrow(), buffer, compression="zstd", row_group_size=ROW_GROUP_ROWS, write_page_checksum=True
    )
    return write_bytes(path, buffer.getvalue())


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left unacknowledged; call it only under the lock of the folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
