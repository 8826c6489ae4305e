"""What the pipeline costs beside the engine beneath it, side by side in one run.

    python benchmarks/throughput.py asset --checkpoint DIR     the generations asset against its bare engine
    python benchmarks/throughput.py harness --checkpoint DIR --lm-eval PYTHON    against lm-evaluation-harness
    python benchmarks/throughput.py prefix                     multiple choice, prefix shared or read again
    python benchmarks/throughput.py growth --checkpoint DIR    a whole iteration, 10^3 to 10^5 generations
    python benchmarks/throughput.py store                      the store alone, to 10^7 rows
    python benchmarks/throughput.py loop                       from nothing; the quickstart unless --study

DIR is a Hugging Face folder, e.g. the base checkpoint of a finished quickstart. Each prints one JSON line a
measurement, with command, machine and load. On a GPU:

    python benchmarks/throughput.py loop --study studies/hundred_million.yaml --engine vllm --home HOME
    python benchmarks/throughput.py asset --engine vllm --checkpoint DIR    # the base of that study

It does not measure quality, nor servers on other machines.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import yaml

from assets.report import study_metrics
from si_dagster.engines import vllm_setup
from si_dagster.engines.child import child_environment, engine_python
from si_dagster.engines.registry import open_engine
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.manifest import Manifest
from si_dagster.study import load_study, parse_study

CELL = ("policy", "sudoku4")
WARM_UP = 8
"""Prompts that start and warm an engine, and are not timed by themselves."""
BASE_STUDY: dict[str, Any] = {
    "name": "throughput",
    "tasks": [{"name": "sudoku4", "options": {"num_blanks": 8}}],
    "generation": {"n": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 20},
    "weighting": {"q": 0.75, "max_per_prompt": 4},
    "distillation": {"learning_rate": 1.0e-3, "max_steps": 100},
    "iterations": 1,
    "stop": {"min_gap": -1.0},
}


def told(name: str, **numbers: Any) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in numbers.items()}
    print(json.dumps({"benchmark": name, **rounded}), flush=True)


def machine() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    command = " ".join(["python -m benchmarks.throughput", *sys.argv[1:]])
    versions = {name: version(name) for name in ("dagster", "polars", "torch", "transformers")}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    told(
        "machine",
        date=str(datetime.now().date()),
        cores=os.cpu_count(),
        cpu=cpu,
        load=os.getloadavg()[0],
        commit=commit.stdout.strip(),
        command=command,
        **versions,
    )


def study_file(folder: Path, checkpoint: Path, train: int, held: int) -> Path:
    study = {
        **BASE_STUDY,
        "models": [{"name": "policy", "path": str(checkpoint.absolute()), "prompt_style": "pico"}],
        "splits": {"train": train, "eval": held},
    }
    file = folder / "throughput.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


WITH_PEAK = """
import atexit, pathlib, sys
from si_dagster.processes import peak_memory
file = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: file.write_text(str(peak_memory())))
"""
"""Its own, told by itself: `ru_maxrss` of a child begins with what its parent held."""


def with_peak(program: str, *arguments: str) -> tuple[float, float]:
    """Wall seconds of a Python program, and GB that its process held at most."""
    with tempfile.NamedTemporaryFile() as peak:
        command = [sys.executable, "-c", WITH_PEAK + program, peak.name, *arguments]
        began = time.perf_counter()
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"failed: {' '.join(arguments)}")
        return time.perf_counter() - began, int(peak.read()) / 1e9


def run_study(file: Path, home: Path, *options: str) -> tuple[float, float]:
    """Wall seconds and peak GB of a run from the command line; its engine and its trainer tell their own."""
    program = (
        f"import os; os.environ['SI_DAGSTER_HOME'] = {str(home)!r}; from si_dagster.cli import main; main()"
    )
    return with_peak(program, "run", str(file), "--json", *options)


def options_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Of the engine, the same on both sides."""
    return dict(option.split("=", 1) for option in arguments.engine_option)


def drawn(arguments: argparse.Namespace, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """A run with few training and many held-out prompts; its store, and what the generations assets told.

    Both splits are one step of the graph: the first starts the engine, the second finds it warm.
    """
    home = scratch / "home"
    file = study_file(scratch, arguments.checkpoint, train=WARM_UP, held=arguments.num_prompts)
    began = time.perf_counter()
    settings = [f"{name}={value}" for name, value in options_of(arguments).items()]
    command = [sys.executable, "-m", "benchmarks.draw", str(file), str(home), arguments.engine, *settings]
    subprocess.run(command, check=True)
    whole = time.perf_counter() - began
    plan, store = Plan(load_study(file)), Store(home)
    manifests = [
        store.require(plan.address("generations", 0, CELL, split)).manifest for split in ("train", "eval")
    ]
    start, warm = (manifest.metadata["wall_seconds"] for manifest in manifests)
    tokens = manifests[1].metadata["num_tokens"]
    seconds = {"warm": warm, "cold": start + warm, "whole": whole}
    return home, {"completions": manifests[1].num_rows, "tokens": tokens, **seconds}


def prompts_of(home: Path, scratch: Path, split: str) -> list[tuple[str, str]]:
    plan = Plan(load_study(scratch / "throughput.yaml"))
    table = Store(home).require(plan.address("prompts", 0, CELL, split)).read(["prompt_id", "prompt"])
    return table.rows()


def bare(arguments: argparse.Namespace, scratch: Path, home: Path) -> dict[str, float]:
    """The same prompts by the engine alone, in a process of its own and one call a split."""
    spec = {
        "engine": arguments.engine,
        "checkpoint": str(arguments.checkpoint.absolute()),
        "options": options_of(arguments),
        "sampling": {**BASE_STUDY["generation"], "seed": 1},
        "warm_up": prompts_of(home, scratch, "train"),
        "timed": prompts_of(home, scratch, "eval"),
    }
    (scratch / "bare.json").write_text(json.dumps(spec))
    command = [engine_python(arguments.engine), str(Path(__file__).with_name("bare_engine.py"))]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, str(scratch / "bare.json")],
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cold = time.perf_counter() - began
    return {**json.loads(done.stdout.splitlines()[-1]), "cold": cold}


def asset(arguments: argparse.Namespace) -> None:
    """Cold: with the start of the engine on both sides. Warm: the second split alone, on both sides.

    Both sides take turns; the ratio is that of the medians.
    """
    turns = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            home, ours = drawn(arguments, Path(folder))
            turns.append((ours, bare(arguments, Path(folder), home)))
    warm, alone, cold, alone_cold = (
        median(turn[side][which] for turn in turns)
        for which, side in (("warm", 0), ("timed_seconds", 1), ("cold", 0), ("cold", 1))
    )
    ours, bares = turns[0]
    told(
        "asset against bare engine",
        engine=arguments.engine,
        options=options_of(arguments),
        completions=ours["completions"],
        repeats=len(turns),
        asset_seconds=warm,
        bare_seconds=alone,
        ratio=warm / alone,
        ratio_of_each=[round(ours["warm"] / bares["timed_seconds"], 3) for ours, bares in turns],
        asset_tokens_per_second=ours["tokens"] / warm,
        bare_tokens_per_second=bares["timed_tokens"] / alone,
        asset_seconds_with_start=cold,
        bare_seconds_with_start=alone_cold,
        ratio_with_start=cold / alone_cold,
    )


HARNESS_TASK = {
    "task": "sudoku4_samples",
    "dataset_path": "json",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{prompt_id}}",
    "repeats": 16,
    "generation_kwargs": {"until": ["\n"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 20},
    "metric_list": [{"metric": "exact_match"}],
}


def harness(arguments: argparse.Namespace) -> None:
    """The same prompts, 16 samples each, in turns; the ratio is that of the medians.

    Drawing alone is on their side its progress bar from 0 to 100%, without scoring, and on ours the asset
    with the engine warm. A whole process is on both sides from the start of Python to its end.
    """
    turns = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            home, ours = drawn(arguments, scratch)
            rows = pl.DataFrame(prompts_of(home, scratch, "eval"), ["prompt_id", "prompt"], orient="row")
            rows.write_ndjson(scratch / "prompts.jsonl")
            task = {
                **HARNESS_TASK,
                "dataset_kwargs": {"data_files": {"test": str(scratch / "prompts.jsonl")}},
            }
            (scratch / "sudoku4_samples.yaml").write_text(yaml.safe_dump(task))
            turns.append((ours, *harness_seconds(arguments, scratch)))
    warm, whole = (median(ours[name] for ours, *_ in turns) for name in ("warm", "whole"))
    theirs_warm, theirs_whole = (median(turn[place] for turn in turns) for place in (1, 2))
    told(
        "asset against lm-evaluation-harness",
        engine=arguments.engine,
        options=options_of(arguments),
        harness_options=arguments.harness_option,
        harness_tuned=arguments.tuned,
        completions=turns[0][0]["completions"],
        repeats=len(turns),
        asset_seconds=warm,
        harness_seconds=theirs_warm,
        ratio=theirs_warm / warm,
        ratio_of_each=[round(theirs / ours["warm"], 3) for ours, theirs, _ in turns],
        asset_whole_process=whole,
        harness_whole_process=theirs_whole,
        ratio_of_whole_processes=theirs_whole / whole,
    )


BAR = b"Running generate_until requests:"


def harness_seconds(arguments: argparse.Namespace, scratch: Path) -> tuple[float, float]:
    """Of its generation alone, and of the whole command."""
    backend, batch = {"transformers": ("hf", "256"), "vllm": ("vllm", "auto")}[arguments.engine]
    dtype = options_of(arguments).get("dtype", "float32")
    settings, environment = vllm_settings() if arguments.tuned else ({}, {})
    settings = {"pretrained": arguments.checkpoint.absolute(), "dtype": dtype, **settings}
    settings |= dict(option.split("=", 1) for option in arguments.harness_option)
    model_args = ",".join(f"{name}={value}" for name, value in settings.items())
    command = [arguments.lm_eval, "-m", "lm_eval", "run", "--model", backend, "--model_args", model_args]
    command += ["--tasks", "sudoku4_samples", "--include_path", str(scratch), "--batch_size", batch]
    began, seen, words = time.perf_counter(), [], b""
    with subprocess.Popen(
        command,
        cwd=scratch,
        env={**environment, **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as child:
        while child.stderr and (some := child.stderr.read(2**16)):  # as it comes: a bar ends no line
            words += some
            if BAR in some:
                seen.append(time.perf_counter())
    if child.returncode or not seen:
        sys.exit(f"{words.decode()[-5000:]}lm-evaluation-harness failed: {' '.join(command)}")
    return seen[-1] - seen[0], time.perf_counter() - began


def vllm_settings() -> tuple[dict[str, Any], dict[str, str]]:
    """What our engine opens vLLM with on CPU, for the other side too: arguments, environment."""
    from si_dagster.engines.checkpoints import CPU_CACHE_BYTES  # imports torch

    settings = {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "block_size": vllm_setup.CPU_BLOCK_TOKENS,
        "max_num_batched_tokens": vllm_setup.CPU_BATCHED_TOKENS,
        "max_num_seqs": vllm_setup.sized_num_seqs(0),
        "kv_cache_memory_bytes": CPU_CACHE_BYTES,
    }
    threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return settings, {**vllm_setup.ENVIRONMENT, **vllm_setup.CPU_ENVIRONMENT, **threads}


def prefix(arguments: argparse.Namespace) -> None:
    """32 answers a prompt behind a shared beginning, against a forward pass over every full text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.engine import random_policy

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.checkpoint or random_policy(Path(scratch), 128, 4)
        begin = ["".join(rng.choice(list("1234_"), arguments.prefix)) for _ in range(arguments.num_prompts)]
        texts = [f"V{b}={''.join(rng.choice(list('1234'), 16))}:" for b in begin for _ in range(32)]
        engine = open_engine("transformers", folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in ("Y", "N")]

        def independent() -> np.ndarray:
            found = []
            for start in range(0, len(texts), 128):
                batch = tokenizer(
                    texts[start : start + 128], return_tensors="pt"
                )  # equal lengths: no padding
                with torch.inference_mode():
                    logits = model(input_ids=batch.input_ids).logits[:, -1]
                found.append(logits.log_softmax(-1)[:, labels].double().numpy())
            return np.concatenate(found)

        contenders = {"shared": lambda: engine.label_logprobs(texts, ["Y", "N"]), "independent": independent}
        best, scores = dict.fromkeys(contenders, float("inf")), {}
        for _ in range(3):
            for name, score in contenders.items():
                began = time.perf_counter()
                scores[name] = score()
                best[name] = min(best[name], time.perf_counter() - began)
        told(
            "multiple choice, prefix shared or not",
            prompts=arguments.num_prompts,
            prefix_tokens=arguments.prefix,
            shared_seconds=best["shared"],
            independent_seconds=best["independent"],
            ratio=best["independent"] / best["shared"],
            largest_difference=float(np.abs(scores["shared"] - scores["independent"]).max()),
        )


def growth(arguments: argparse.Namespace) -> None:
    for generations in arguments.sizes:
        prompts = generations // 16 // 2
        with tempfile.TemporaryDirectory() as scratch:
            file = study_file(Path(scratch), arguments.checkpoint, train=prompts, held=prompts)
            home = Path(scratch) / "home"
            seconds, peak = run_study(file, home, "--engine", arguments.engine)
            store, addresses = Store(home), Plan(load_study(file)).nodes
            found = [manifest for address in addresses if (manifest := store.manifest(address))]
            peaks = [manifest.metadata.get("peak_memory_bytes") or 0 for manifest in found]
            told(
                "growth of an iteration",
                generations=2 * prompts * 16,
                seconds=seconds,
                us_a_generation=1e6 * seconds / (2 * prompts * 16),
                peak_gb=peak,
                peak_gb_of_engine_or_trainer=max(peaks) / 1e9,
            )


def store(arguments: argparse.Namespace) -> None:
    """One generations artifact, written in chunks of 4096 rows."""
    for rows in arguments.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            program = "from benchmarks.throughput import main; main()"
            seconds, peak = with_peak(program, "write", "--rows", str(rows), "--home", scratch)
            size = sum(f.stat().st_size for f in Path(scratch).rglob("*") if f.is_file())
            told(
                "growth of the store",
                rows=rows,
                seconds=seconds,
                us_a_row=1e6 * seconds / rows,
                peak_gb=peak,
                gb_on_disk=size / 1e9,
            )


def write(arguments: argparse.Namespace) -> None:
    plan = Plan(parse_study({**BASE_STUDY, **_no_model()}, "benchmark"))
    address = plan.address("generations", 0, CELL, "eval")
    with Store(arguments.home).open_writer(
        address, plan.recipe(address), plan.fingerprint(address), study_snapshot={}
    ) as writer:
        for chunk in _chunks(address.artifact_id, arguments.rows):
            writer.write_part(chunk)
        writer.commit(metadata={}, code_version="1")


def _no_model() -> dict[str, Any]:
    return {"models": [{"name": "policy", "path": "none"}], "splits": {"train": 1, "eval": 1}}


def _chunks(prefix: str, rows: int) -> Iterator[pl.DataFrame]:
    for start in range(0, rows, 4096):
        index = pl.int_range(start, min(rows, start + 4096), eager=True)
        prompt = "eval-" + (index // 16).cast(pl.String).str.zfill(9)
        sample = (index % 16).cast(pl.Int32)
        yield pl.DataFrame(
            {
                "generation_id": prefix + "/" + prompt + "/" + sample.cast(pl.String),
                "prompt_id": prompt,
                "split": ["eval"] * len(index),
                "sample_index": sample,
                "completion": (index * 7919 % 2**31).cast(pl.String).str.zfill(16),
                "finish_reason": ["stop"] * len(index),
                "num_tokens": pl.Series([17] * len(index), dtype=pl.Int32),
                "logprob": -(index % 97) / 10,
            }
        )


def loop(arguments: argparse.Namespace) -> None:
    """A study from nothing: each stage that asks an engine or trains, the gaps, what was outside."""
    import dagster as dg

    from si_dagster.instance import open_instance

    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.home or Path(scratch) / "home"
        options = [f"--engine-option={name}={value}" for name, value in options_of(arguments).items()]
        command, _ = run_study(arguments.study, home, "--engine", arguments.engine, *options)
        plan, store = Plan(load_study(arguments.study)), Store(home)
        manifests = [store.require(address).manifest for address in plan.nodes if store.manifest(address)]
        for manifest in manifests:
            stage_told(manifest)
        gaps = study_metrics(plan, store).filter(pl.col("split") == "eval")
        for row in gaps.select("iteration", "expected_utility", "gap", "gap_low", "gap_high").to_dicts():
            told("gap", **row)
        with open_instance(home) as instance:
            records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
    runs = sum((record.end_time or 0) - (record.start_time or 0) for record in records)
    stages = sum(manifest.metadata["wall_seconds"] for manifest in manifests)
    told(
        "share of a run outside its stages",
        study=arguments.study.stem,
        engine=arguments.engine,
        command_seconds=command,
        run_seconds=runs,
        stage_seconds=stages,
        share_of_runs=1 - stages / runs,
        share_of_command=1 - stages / command,
    )


def stage_told(manifest: Manifest) -> None:
    """Wall, tokens a second, peak memory and FLOPs of a stage that asked an engine or trained."""
    known = manifest.metadata
    if not {"num_tokens", "completion_tokens", "flops", "pretraining_flops"} & known.keys():
        return
    tokens = known.get("num_tokens") or known.get("completion_tokens")
    told(
        "stage",
        artifact=manifest.artifact_id,
        seconds=known["wall_seconds"],
        tokens_per_second=tokens / known["wall_seconds"] if tokens else None,
        peak_gb=(known.get("peak_memory_bytes") or 0) / 1e9,
        peak_gpu_gb=(known.get("peak_gpu_memory_bytes") or 0) / 1e9,
        flops=known.get("flops", known.get("pretraining_flops")),
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*MEASURES])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--study", type=Path, default=Path("studies/quickstart.yaml"))
    parser.add_argument("--home", type=Path)
    parser.add_argument("--engine-option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--num-prompts", type=int)
    parser.add_argument("--repeats", type=int, default=3, help="turns of asset and bare engine")
    parser.add_argument("--prefix", type=int, default=200)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--sizes", type=lambda text: [int(float(size)) for size in text.split(",")])
    parser.add_argument("--lm-eval", help="python of an environment with lm_eval")
    parser.add_argument("--harness-option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--tuned", action="store_true", help="lm_eval gets our settings of vLLM on CPU")
    return parser.parse_args()


MEASURES = {function.__name__: function for function in (asset, harness, prefix, growth, store, loop, write)}
NUM_PROMPTS = {"prefix": 60}
"""Where 2000 take too long: 32 texts each, read one by one on the other side."""
SIZES = {"growth": [10**3, 10**4, 10**5], "store": [10**5, 10**6, 10**7]}


def main() -> None:
    arguments = parsed()
    arguments.num_prompts = arguments.num_prompts or NUM_PROMPTS.get(arguments.what, 2000)
    arguments.sizes = arguments.sizes or SIZES.get(arguments.what)
    if arguments.what != "write":
        machine()
    MEASURES[arguments.what](arguments)


if __name__ == "__main__":
    main()
