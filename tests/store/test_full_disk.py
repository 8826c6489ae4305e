import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from si_dagster.store import atomic
from si_dagster.store.errors import DiskFull

WORKER = Path(__file__).with_name("full_disk_worker.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "OMP_NUM_THREADS": "1"}


def in_small_file_system(folder: Path, megabytes: int, command: str) -> list[str]:
    """A command in a mount namespace of its own, with a small tmpfs on `folder`; needs no root."""
    mount = f"mount -t tmpfs -o size={megabytes}m none '{folder}'"
    return ["unshare", "-Urm", "sh", "-c", f"{mount} && {command}"]


@pytest.fixture
def small_disk(tmp_path) -> Path:
    probe = subprocess.run(in_small_file_system(tmp_path, 1, "true"), capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no unprivileged mount namespace here: {probe.stderr.strip()}")
    return tmp_path


def test_a_full_disk_stops_the_writer_and_loses_nothing(small_disk):
    command = f"exec '{sys.executable}' -W error '{WORKER}' '{small_disk}/home'"
    answer = subprocess.run(
        in_small_file_system(small_disk, 8, f"mkdir '{small_disk}/home' && {command}"),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert answer.returncode == 0, answer.stderr
    met = json.loads(answer.stdout)
    assert met["num_parts"] > 3
    name = f"part-{met['num_parts']:06d}.parquet"
    assert (
        f"could not write {small_disk}/home/data/full/iteration_0/generations/s|facts/{name}: " in met["part"]
    )
    assert "No space left on device; " in met["part"]
    assert "MB were free in" in met["part"]
    assert "free some space" in met["part"]
    parts = [f"part-{n:06d}.parquet" for n in range(met["num_parts"])]
    assert met["files"] == ["begin.json", *parts], "no half part, no temporary file"
    assert met["rows_after"] == 50 * met["num_parts"]
    assert met["rows_in_the_end"] == 50 * (met["num_parts"] + 1)
    *refused, accepted = met["record"]
    assert accepted is None
    assert len(refused) > 3
    assert all("could not write" in message and "lineage.duckdb" in message for message in refused)
    assert all(rows == ["full/iteration_1/generations/s|facts"] for rows in met["recorded_then"])
    assert met["left_over"] == []
    assert met["recorded_in_the_end"] == [
        "full/iteration_0/generations/s|facts",
        "full/iteration_1/generations/s|facts",
    ]


def test_a_file_size_limit_is_met_like_a_full_disk(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from si_dagster.store import atomic\n"
        "from si_dagster.store.errors import DiskFull\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try: atomic.write_bytes(path, b'x' * 100_000)\n"
        "except DiskFull as error: print(error)\n"
    )
    (tmp_path / "a").write_bytes(b"old")
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert f"could not write {tmp_path}/a: {os.strerror(errno.EFBIG)}" in answer.stdout, answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_an_unwritable_place_is_no_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "missing" / "a", b"x")
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a", {"gap": float("nan")})
    assert not issubclass(FileNotFoundError, DiskFull)
    assert list(tmp_path.iterdir()) == []
