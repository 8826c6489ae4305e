"""How fast gaps are computed, beside pandas, polars and DuckDB; the bootstrap; growth; the sweep.

    OMP_NUM_THREADS=1 python benchmarks/analysis.py gap bootstrap growth sweep --most 1e8

gap: 3 verifiers x 5 per-prompt quantiles over 1.28 million rows (10,000 prompts x 128), one thread each, all
on the same data in memory, results compared; runs alternate and the best of each counts. bootstrap: 1000
resamples of 3 statistics. growth: Parquet on disk, gaps and their bootstrap streamed by prompt, a process a
size. sweep: the command `si-dagster sweep` on a stored study, start-up and all. Results go to
benchmarks/results/analysis.json with the command and the load of the machine. It does not measure grading,
verification or drawing.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

QUANTILES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
VERIFIERS = ("a", "b", "c")
SAMPLES = 128
RESULTS = Path(__file__).parent / "results" / "analysis.json"


def made(num_prompts: int, size: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """Flat columns: prompt, u, and the scores of three verifiers."""
    rng = np.random.default_rng(seed)
    chances = np.repeat(rng.random(num_prompts), size)
    u = (rng.random(num_prompts * size) < chances).astype(np.float64)
    columns = {"prompt": np.repeat(np.arange(num_prompts), size), "u": u}
    return columns | {name: u + rng.normal(size=u.size) for name in VERIFIERS}


def ours(columns: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    from si_dagster.core.samples import offsets_from_sorted_ids
    from si_dagster.core.sweep import gap_by_quantile

    def run() -> np.ndarray:
        offsets = offsets_from_sorted_ids(columns["prompt"])
        curves = [gap_by_quantile(columns["u"], columns[name], offsets, QUANTILES) for name in VERIFIERS]
        return np.array([curve.gap for curve in curves])

    return run


def with_pandas(columns: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    import pandas as pd

    frame = pd.DataFrame(columns)

    def run() -> np.ndarray:
        expected = frame.groupby("prompt")["u"].mean()
        gaps = np.empty((len(VERIFIERS), len(QUANTILES)))
        for i, name in enumerate(VERIFIERS):
            thresholds = frame.groupby("prompt")[name].quantile(list(QUANTILES)).unstack()
            for j, q in enumerate(QUANTILES):
                kept = frame[frame[name] >= frame["prompt"].map(thresholds[q])]
                gaps[i, j] = (kept.groupby("prompt")["u"].mean() - expected).mean()
        return gaps

    return run


def with_polars(columns: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    import polars as pl

    frame = pl.DataFrame(columns)

    def run() -> np.ndarray:
        kept = {
            f"{name}{q}": pl.col("u").filter(pl.col(name) >= pl.col(name).quantile(q, "linear"))
            for name in VERIFIERS
            for q in QUANTILES
        }
        cells = [(u.mean() - pl.col("u").mean()).alias(name) for name, u in kept.items()]
        means = frame.group_by("prompt").agg(cells).drop("prompt").mean()
        return means.to_numpy().reshape(len(VERIFIERS), len(QUANTILES))

    return run


def with_duckdb(columns: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    import duckdb
    import polars as pl

    connection = duckdb.connect(config={"threads": 1})
    connection.register("incoming", pl.DataFrame(columns).to_arrow())
    connection.execute("CREATE TABLE samples AS SELECT * FROM incoming")
    listed = ", ".join(str(q) for q in QUANTILES)
    thresholds = ", ".join(f"quantile_cont({name}, [{listed}]) AS {name}_t" for name in VERIFIERS)
    cells = [
        f"avg(u) FILTER ({name} >= {name}_t[{j + 1}]) - avg(u) AS {name}{j}"
        for name in VERIFIERS
        for j in range(len(QUANTILES))
    ]
    means = ", ".join(f"avg({name}{j})" for name in VERIFIERS for j in range(len(QUANTILES)))
    query = (
        f"WITH cut AS (SELECT prompt, {thresholds} FROM samples GROUP BY prompt), "
        f"gaps AS (SELECT {', '.join(cells)} FROM samples JOIN cut USING (prompt) GROUP BY prompt) "
        f"SELECT {means} FROM gaps"
    )

    def run() -> np.ndarray:
        row = connection.execute(query).fetchone()
        assert row is not None
        return np.array(row).reshape(len(VERIFIERS), len(QUANTILES))

    return run


def best_of(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Best wall and CPU seconds of each, runs alternating."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best = found.setdefault(name, {"wall_s": wall, "cpu_s": cpu})
            found[name] = {"wall_s": min(best["wall_s"], wall), "cpu_s": min(best["cpu_s"], cpu)}
    return found


def gap(arguments: argparse.Namespace) -> dict[str, Any]:
    columns = made(10_000)
    makers = {"ours": ours, "pandas": with_pandas, "polars": with_polars, "duckdb": with_duckdb}
    runs = {name: maker(columns) for name, maker in makers.items()}
    reference = runs["ours"]()
    differences = {name: float(np.abs(run() - reference).max()) for name, run in runs.items()}
    assert max(differences.values()) < 1e-12, differences
    times = best_of(runs, arguments.repeats)
    return {
        "rows": len(columns["u"]),
        "verifiers": len(VERIFIERS),
        "quantiles": len(QUANTILES),
        "best": times,
        "times_ours_cpu": {name: t["cpu_s"] / times["ours"]["cpu_s"] for name, t in times.items()},
        "largest_difference": max(differences.values()),
    }


def bootstrap(arguments: argparse.Namespace) -> dict[str, Any]:
    from si_dagster.core.intervals import bootstrap_means

    values = np.random.default_rng(0).random((10_000, 3))

    def loop() -> None:
        rng = np.random.default_rng(0)
        for _ in range(1000):
            values[rng.integers(0, len(values), len(values))].mean(axis=0)

    runs: dict[str, Callable[[], Any]] = {"ours": lambda: bootstrap_means(values, 1000), "numpy loop": loop}
    times = best_of(runs, arguments.repeats)
    return {"prompts": 10_000, "statistics": 3, "resamples": 1000, "best": times}


def grow(rows: int, folder: Path) -> dict[str, Any]:
    """One size, in this process: make the file block by block, then stream it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from si_dagster.core.streaming import stream_gaps, whole_prompts

    file, block = folder / f"{rows}.parquet", 2_000
    writer = None
    for start in range(0, rows // SAMPLES, block):
        columns = made(min(block, rows // SAMPLES - start), seed=start)
        columns["prompt"] = (columns["prompt"] + start).astype(np.int32)
        stored = {
            n: v.astype(np.float32) if n in VERIFIERS else v.astype(np.int8) if n == "u" else v
            for n, v in columns.items()
        }
        table = pa.table(stored)
        writer = writer or pq.ParquetWriter(file, table.schema, compression="snappy")
        writer.write_table(table)
    assert writer is not None
    writer.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def batches():
        # pre_buffer would read the whole file ahead: 2.2 GB for 10^8 rows.
        parquet = pq.ParquetFile(file, pre_buffer=False)
        for batch in parquet.iter_batches(batch_size=block * SAMPLES):
            read = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            scores = {name: read[name].astype(np.float64) for name in VERIFIERS}
            yield read["prompt"], read["u"].astype(np.float64), scores

    wall, cpu = time.perf_counter(), time.process_time()
    found = stream_gaps(whole_prompts(batches()), QUANTILES)
    size = file.stat().st_size
    file.unlink()
    return {
        "rows": rows // SAMPLES * SAMPLES,
        "prompts": found.num_prompts,
        "resamples": 1000,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_memory_before_streaming_mb": before / 1024,
        "file_mb": size / 2**20,
        "gap_a_at_0.9": asdict(found.gaps["a"][-1]),
    }


def growth(arguments: argparse.Namespace) -> dict[str, Any]:
    sizes = [10**e for e in range(5, 10) if 10**e <= arguments.most]
    found = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "grow", "--rows", str(rows), "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        print(json.dumps(found[-1]), file=sys.stderr)
    rates = [row["rows"] / row["cpu_s"] for row in found]
    return {"sizes": found, "rows_per_cpu_s": rates, "not_run": f"above {arguments.most:.0e} rows"}


def sweep(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command on a study of one million stored rows, from a cold process."""
    with tempfile.TemporaryDirectory() as home:
        store_study(Path(home), num_prompts=10_000, size=100)
        command = [sys.executable, "-c", "from si_dagster.cli import main; main()", "sweep", "million"]
        walls, cpus = [], []
        for _ in range(arguments.repeats):
            before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            environment = {**os.environ, "SI_DAGSTER_HOME": home}
            environment.pop("POLARS_MAX_THREADS", None)
            subprocess.run(command, env=environment, check=True, capture_output=True)
            walls.append(time.perf_counter() - wall)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return {"rows": 1_000_000, "verifications": 1, "best_wall_s": min(walls), "best_cpu_s": min(cpus)}


def store_study(home: Path, num_prompts: int, size: int) -> None:
    """A study with utilities and verifications of one iteration, as a run would have left them."""
    import polars as pl
    import yaml

    from si_dagster.store.artifacts import Store
    from si_dagster.store.layout import Address
    from si_dagster.study import parse_study

    fields = {
        "name": "million",
        "tasks": [{"name": "sudoku4"}],
        "models": [{"name": "pico", "pretrain": {}}],
        "splits": {"train": 8, "eval": num_prompts},
        "generation": {"n": size},
    }
    study = parse_study(fields, "benchmark")
    (home / "studies").mkdir()
    plain = study.model_dump(mode="json", exclude_none=True)
    (home / "studies" / "million.yaml").write_text(yaml.safe_dump(plain))
    columns, none = made(num_prompts, size), pl.lit(None, dtype=pl.String)
    names = [f"eval-{number:06d}" for number in range(num_prompts)]
    keys = pl.DataFrame(
        {"prompt_id": np.repeat(names, size), "sample_index": np.tile(np.arange(size), num_prompts)}
    ).with_columns(
        generation_id=pl.format("million/iteration_0/pico|sudoku4/{}/{}", "prompt_id", "sample_index"),
        split=pl.lit("eval"),
        status=pl.lit("scored"),
    )
    utilities = keys.with_columns(
        utility=columns["u"],
        strict_utility=columns["u"],
        rule=pl.lit("-"),
        detail=none,
        extracted=pl.col("sample_index").cast(pl.String),
    )
    verifications = keys.with_columns(
        verification_id=pl.format("{}/multiple_choice/0", "generation_id"),
        verification=pl.lit("multiple_choice"),
        method=pl.lit("multiple_choice"),
        verifier=pl.lit("-"),
        verification_index=pl.lit(0),
        proxy_utility=columns["a"],
        verdict=none,
        reply=none,
    )
    store, of = Store(home), ("pico", "sudoku4")
    for stage, part, rows in (
        ("utilities", "eval", utilities),
        ("verifications", "eval.multiple_choice", verifications),
    ):
        address = Address("million", 0, stage, *of, part)
        with store.open_writer(address, {"made": "up"}, "made up", study_snapshot={}) as writer:
            for start in range(0, rows.height, 250_000):
                writer.write_part(rows.slice(start, 250_000))
            writer.commit(metadata={}, dagster_run_id="benchmark", code_version="1")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"gap": gap, "bootstrap": bootstrap, "growth": growth, "sweep": sweep}
    parser.add_argument("parts", nargs="+", choices=[*parts, "grow"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=float, default=1e7, help="Largest number of rows of growth.")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parts == ["grow"]:
        print(json.dumps(grow(arguments.rows, arguments.folder)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in arguments.parts:
        load = os.getloadavg()[0]
        results[part] = {
            "command": f"OMP_NUM_THREADS=1 python benchmarks/analysis.py {' '.join(sys.argv[1:])}",
            "load_before": load,
            "load_after": os.getloadavg()[0],
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            **parts[part](arguments),
        }
        results[part]["load_after"] = os.getloadavg()[0]
        print(json.dumps({part: results[part]}, indent=2))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
