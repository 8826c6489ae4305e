"""Fills a real, small file system while writing an artifact; prints what it met as JSON."""

import itertools
import json
import os
import random
import sys
from pathlib import Path

import polars as pl

from si_dagster.store.artifacts import Store
from si_dagster.store.errors import DiskFull
from si_dagster.store.layout import Address, generation_id
from si_dagster.store.lineage import Catalogue


def draws(address: Address, first: int) -> pl.DataFrame:
    noise = random.Random(first)
    return pl.DataFrame(
        {
            "generation_id": generation_id(address, f"train-{i}", 0),
            "prompt_id": f"train-{i}",
            "split": "train",
            "sample_index": 0,
            "completion": noise.randbytes(500).hex(),
            "finish_reason": "stop",
            "num_tokens": 10,
            "logprob": -1.0,
        }
        for i in range(first, first + 50)
    )


def attempt(action, *arguments) -> str | None:
    try:
        action(*arguments)
    except DiskFull as error:
        return str(error)
    return None


def main(home: Path) -> None:
    store, address = Store(home), Address("full", 0, "generations", "s", "facts")
    recorded = Address("full", 1, "generations", "s", "facts")
    with store.open_writer(recorded, {}, "fp", study_snapshot={}) as writer:
        writer.write_part(draws(recorded, 0))
        Catalogue(home).record(writer.commit())
    ballast, reserve = home / "ballast", home / "reserve"
    ballast.write_bytes(b"x" * 100_000)
    reserve.write_bytes(b"x" * 3_500_000)
    met = {}
    with store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
        for part in itertools.count():
            met["part"] = attempt(writer.write_part, draws(address, 50 * part))
            if met["part"]:
                break
        met["num_parts"] = part
        met["files"] = sorted(path.name for path in writer.folder.iterdir())
    with store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
        met["rows_after"] = writer.existing().height
        ballast.unlink()
        writer.write_part(draws(address, 50 * part))
        manifest = writer.commit()
    met["rows_in_the_end"] = store.require(address).read().height
    filler = home / "filler"
    with open(filler, "wb", buffering=0) as file:
        while attempt_write(file):
            pass
    met["record"], met["recorded_then"] = [], []
    # Free a little more each time: the copy fails first, then DuckDB in its transaction.
    for size in range(3_500_000, 0, -100_000):
        os.truncate(reserve, size)
        met["recorded_then"].append(recorded_artifacts(home))
        met["record"].append(attempt(Catalogue(home).record, manifest))
        if met["record"][-1] is None:
            break
    met["recorded_in_the_end"] = recorded_artifacts(home)
    met["left_over"] = [path.name for path in home.glob(".tmp*")]
    print(json.dumps(met))


def attempt_write(file) -> bool:
    try:
        return file.write(b"x" * 4096) > 0
    except OSError:
        return False


def recorded_artifacts(home: Path) -> list[str]:
    rows = Catalogue(home).query("SELECT artifact_id FROM artifacts ORDER BY ALL")
    return rows["artifact_id"].to_list()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
