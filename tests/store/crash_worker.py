"""Forks workers that write until they are killed; driven over stdin by the fixture `zygote`."""

import itertools
import json
import os
import signal
import sys
import traceback

import duckdb  # noqa: F401  imported before the fork, so that a worker starts in milliseconds
import numpy as np
import polars as pl
import pyarrow.parquet  # noqa: F401
from safetensors.numpy import save

from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address, generation_id
from si_dagster.store.lineage import Catalogue


def acknowledge(log: str, word: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (word + "\n").encode())
    os.close(descriptor)


def draws(address: Address, prompts: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "generation_id": generation_id(address, f"train-{i}", 0),
            "prompt_id": f"train-{i}",
            "split": "train",
            "sample_index": 0,
            "completion": str(i) * 10,
            "finish_reason": "stop",
            "num_tokens": 10,
            "logprob": -1.0,
        }
        for i in prompts
    )


def write(home: str, log: str, num_prompts: str) -> None:
    """Resume one artifact in parts of ten rows; say each row when its part is written."""
    address = Address("crash", 0, "generations", "s", "facts")
    with Store(home).open_writer(address, {}, "fp", study_snapshot={}) as writer:
        done = set(writer.existing(["prompt_id"])["prompt_id"])
        todo = [i for i in range(int(num_prompts)) if f"train-{i}" not in done]
        for start in range(0, len(todo), 10):
            frame = draws(address, todo[start : start + 10])
            writer.write_part(frame)
            acknowledge(log, " ".join(frame["prompt_id"]))
        writer.commit()


def commit(home: str, log: str, first: str) -> None:
    """Make tables and checkpoints one after the other; say each when it is committed."""
    store = Store(home)
    for i in itertools.count(int(first)):
        table = Address(f"crash-{i}", 0, "generations", "s", "facts")
        with store.open_writer(table, {}, "fp", study_snapshot={}) as writer:
            writer.write_part(draws(table, [1, 2, 3]))
            writer.commit()
        acknowledge(log, table.artifact_id)
        policy = Address(f"crash-{i}", 0, "checkpoint", "s", "facts")
        with store.open_writer(policy, {}, "fp", study_snapshot={}) as writer:
            for name in ("a", "b", "c"):
                (writer.staging_dir / f"{name}.safetensors").write_bytes(
                    save({"w": np.frombuffer(name.encode() * 99, np.uint8)})
                )
            writer.adopt_folder(writer.staging_dir)
            writer.commit()
        acknowledge(log, policy.artifact_id)


def record(home: str, log: str, study: str, num_artifacts: str) -> None:
    """Make small artifacts and record each; say each when it is recorded."""
    store, catalogue = Store(home), Catalogue(home)
    for i in range(int(num_artifacts)):
        address = Address(study, i, "generations", "s", "facts")
        with store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
            writer.is_complete or writer.write_part(draws(address, [1, 2]))
            manifest = writer.commit(dagster_run_id=f"run-{study}")
        catalogue.record(manifest)
        acknowledge(log, address.artifact_id)


def hold(home: str, log: str) -> None:
    """Hold the lock of one artifact until killed."""
    with Store(home).open_writer(Address("held", 0, "prompts"), {}, "fp", study_snapshot={}):
        acknowledge(log, "held")
        signal.pause()


WORKLOADS = {"write": write, "commit": commit, "record": record, "hold": hold}


def start(workload: str, *arguments: str) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            WORKLOADS[workload](*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


if __name__ == "__main__":
    for line in sys.stdin:
        request, *words = json.loads(line)
        answer = start(*words) if request == "start" else os.waitpid(words[0], 0)[1]
        print(answer, flush=True)
