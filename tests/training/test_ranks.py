"""Several processes for real, over gloo: the same training as one process, and ordinary checkpoints.

All trainings in two processes are made by the same two, one after the other (`training.several`).
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import psutil
import pytest
import torch
from safetensors.torch import load_file
from training.rows import largest_difference, spec_file

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.transformers import TransformersEngine
from si_dagster.training.checkpointing import layout_of
from si_dagster.training.launch import forget_killed_builds
from si_dagster.training.preference import preference
from si_dagster.training.reporting import Reporter
from si_dagster.training.sft import sft
from si_dagster.training.space import KEPT, own_bytes
from si_dagster.training.specs import Execution, FineTuningSpec

ROOT = Path(__file__).parents[2]
ROWS = [(f"?{i % 10}{'A' * (1 + i % 3)}", str(i) * (1 + i % 4), 1.0 + i % 2) for i in range(32)]
PAIRS = [(*row[:2], str(40 - i) * (1 + i % 3), 0.5 + i / 64, i / 64) for i, row in enumerate(ROWS)]
PAIR_COLUMNS = ["prompt", "completion", "rejected_completion", "proxy_utility", "rejected_proxy_utility"]
RECIPE = {
    "learning_rate": 1e-2,
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "constant",
}
METHODS = ("sft", "dpo", "rpo", "sharpening_dpo", "dpo lora")
VARIANTS: dict[str, dict[str, object]] = {
    "": {},
    "lora": {"lora": {}},
    "small": {"learning_rate": 1e-6},
    "stopped": {"max_steps": 2},
}
ZEROS = ("zero1", "zero2", "zero3")
PORTIONS = {"micro_batch_size": 4}
"""A step of 16 rows is 2 processes x 2 portions of 4."""

TOGETHER: dict[str, tuple[str, dict[str, object]]] = {
    **{f"{method} two": (method, {}) for method in METHODS},
    **{f"{method} two portions": (method, PORTIONS) for method in ("sft", "rpo")},
    **{f"sft {zero}": ("sft", {"deepspeed": zero, **PORTIONS}) for zero in ZEROS},
    **{f"dpo {zero}": ("dpo", {"deepspeed": zero, **PORTIONS}) for zero in ZEROS[1:]},
    **{f"sharpening_dpo {zero}": ("sharpening_dpo", {"deepspeed": zero}) for zero in ZEROS[1:]},
    "dpo lora zero2": ("dpo lora", {"deepspeed": "zero2"}),
    **{f"{zero} bf16": ("sft", {"deepspeed": zero, "bf16": True}) for zero in ZEROS},
    **{f"{name} zero2 bf16": (name, {"deepspeed": "zero2", "bf16": True}) for name in ("dpo", "dpo lora")},
    **{f"{zero} small": ("sft small", {"deepspeed": zero, "bf16": True}) for zero in ZEROS[1:]},
    **{f"{zero} saving": ("sft", {"deepspeed": zero, "save_steps": 2}) for zero in ZEROS[1:]},
}
"""Method, with a variant behind it, and execution of each training in two processes."""

COMPARED = [name for name in TOGETHER if not name.endswith(("bf16", "small", "saving"))]
RESUMED: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "plain then zero2": ({}, {"deepspeed": "zero2"}),
    "zero2 then plain": ({"deepspeed": "zero2"}, {}),
    "zero2 then zero2": ({"deepspeed": "zero2"}, {"deepspeed": "zero2"}),
}
"""Execution of a training that stops at its second step, and of the one that finds its checkpoint."""


def spec_of(
    folder: Path, base: Path, method: str, execution: dict[str, object], own: Path | None = None
) -> tuple[str, str]:
    """The trainer of a training, and its spec; its own checkpoints go to `own`."""
    (folder / "out").mkdir(parents=True)
    method, _, variant = method.partition(" ")
    columns = ["prompt", "completion", "weight"] if method == "sft" else PAIR_COLUMNS
    rows = pl.DataFrame(ROWS if method == "sft" else PAIRS, schema=columns, orient="row")
    rows.write_parquet(folder / "train.parquet")
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": 1,
        "model_dir": str(base),
        "train_files": [str(folder / "train.parquet")],
        "distillation": {**RECIPE, "method": method, **VARIANTS[variant]},
        "execution": {"device": "cpu", "save_steps": 0 if "bf16" in execution else 4, **execution},
        "work_dir": str(own or folder / "own"),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return "sft" if method == "sft" else "preference", str(folder / "spec.json")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, base: Path, wide: Path) -> Path:
    """A folder with one folder for each of `TOGETHER` and `RESUMED`, and what was told.

    All are made by the same two processes.
    """
    folder = tmp_path_factory.mktemp("together")
    two = {"num_processes": 2}
    trainings = []
    # ZeRO-3 last: in a training without DeepSpeed behind it transformers would take it to be on.
    for name, (before, after) in RESUMED.items():
        stopped_at, stopped = folder / f"{name}, stopped", {**two, "save_steps": 2, **before}
        trainings.append(spec_of(stopped_at, base, "sft stopped", stopped, folder / name / "own"))
        trainings.append(spec_of(folder / name, base, "sft", {**two, **after}))
    for name, (method, execution) in TOGETHER.items():
        policy = wide if "saving" in name else base
        trainings.append(spec_of(folder / name, policy, method, {**two, **execution}))
    (folder / "list.json").write_text(json.dumps(trainings))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "si_dagster.training.launch",
            "2",
            "training.several",
            str(folder / "list.json"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "told").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A folder with one folder for each method, made by this one process."""
    folder = tmp_path_factory.mktemp("alone")
    for method in METHODS:
        trainer, spec = spec_of(folder / method, base, method, {})
        (sft if trainer == "sft" else preference)(spec, Reporter(lambda line: None))
    return folder


def made(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of every step, and the weights."""
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["steps"] == RECIPE["max_steps"]
    return [loss for _, loss in result["loss_curve"]], load_file(folder / "out" / "model.safetensors")


def gradient_norms(folder: Path) -> list[float]:
    """Of every step, before clipping."""
    state = json.loads((folder / "own" / "checkpoint-4" / "trainer_state.json").read_text())
    norms = [entry["grad_norm"] for entry in state["log_history"]]
    assert len(norms) == RECIPE["max_steps"]
    return norms


@pytest.mark.parametrize("name", COMPARED)
def test_two_ranks_train_as_one_at_the_same_batch(base, alone, together, name):
    """The reference of preference methods is whole with `zero2` and lies in shards with `zero3`."""
    losses, weights = made(alone / TOGETHER[name][0])
    losses_of_two, weights_of_two = made(together / name)
    assert losses_of_two == pytest.approx(losses, rel=1e-3)
    assert largest_difference(weights, load_file(base / "model.safetensors")) > 1e-2
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in weights_of_two.items()}
    assert largest_difference(weights, weights_of_two) < 2e-3


@pytest.mark.parametrize("name", COMPARED)
def test_gradients_of_two_ranks_are_as_large_as_those_of_one(alone, together, name):
    """Losses and weights do not tell: a loss is logged before it is scaled, AdamW divides by the scale."""
    norms = gradient_norms(alone / TOGETHER[name][0])
    assert gradient_norms(together / name) == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("method", ["dpo", "dpo lora"])
def test_the_reference_computes_in_the_type_of_the_policy(together, method):
    """Else they would differ before the first step: -log sigmoid(0) = ln 2."""
    plain, coarse = (made(together / f"{method} zero2{how}")[0] for how in ("", " bf16"))
    assert coarse[0] == pytest.approx(math.log(2), abs=1e-6)
    assert coarse[1:] != plain[1:]
    assert coarse == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_goes_on_where_it_can_read_the_optimiser_and_else_begins_anew(alone, together, name):
    executions = [Execution.model_validate({"num_processes": 2, **how}) for how in RESUMED[name]]
    layouts = [execution.optimizer_layout for execution in executions]
    passed = f"checkpoint-2 is passed over: written {layouts[0]}, it cannot be gone on from {layouts[1]}"
    told, own = (together / "told").read_text(), together / name / "own"
    assert told.count(passed) == (layouts[0] != layouts[1])
    assert told.count("going on from checkpoint-2") == 1
    left = {"checkpoint-4"} if passed in told else {"checkpoint-2", "checkpoint-4"}
    assert {path.name for path in own.glob("checkpoint-*")} == left
    assert layout_of(own / "checkpoint-4") == layouts[1]
    losses, weights = made(alone / "sft")
    losses_of_it, weights_of_it = made(together / name)
    assert losses_of_it == pytest.approx(losses, rel=1e-3)
    assert largest_difference(weights, weights_of_it) < 2e-3


def test_memory_is_that_of_all_ranks(together):
    folder = together / "sft two"
    told = json.loads((folder / "out" / "result.json").read_text())
    peaks = [int((folder / f"peak.{rank}").read_text()) for rank in (0, 1)]
    assert 1e8 < 1.2 * max(peaks) < told["peak_memory_bytes"] <= sum(peaks)
    assert told["peak_gpu_memory_bytes"] == 0


@pytest.mark.parametrize("zero", ZEROS)
def test_bfloat16_computes_coarsely_over_weights_that_are_never_rounded(base, together, zero):
    plain, coarse = (made(together / name) for name in (f"sft {zero}", f"{zero} bf16"))
    assert coarse[0] != plain[0]
    assert coarse[0] == pytest.approx(plain[0], rel=0.02)
    before = load_file(base / "model.safetensors")
    for name, tensor in coarse[1].items():
        assert tensor.dtype == torch.float32
        if tensor.ndim == 2:  # norms are ones at first, and near ones many a number is coarse by itself
            assert (tensor != tensor.bfloat16().float()).float().mean() > 0.9, name
            assert not torch.equal(tensor, before[name])


@pytest.mark.parametrize("zero", ZEROS[1:])
def test_small_updates_are_kept_in_bfloat16(base, together, zero):
    """Four steps of at most 10^-6; bfloat16 has no number that near to any weight of the base."""
    before, (_, after) = load_file(base / "model.safetensors"), made(together / f"{zero} small")
    assert largest_difference(before, after) < 5e-6
    matrices = [name for name, tensor in before.items() if tensor.ndim == 2]
    assert all((before[name] != after[name]).float().mean() > 0.9 for name in matrices)


@pytest.mark.parametrize("zero", ZEROS[1:])
def test_deepspeeds_own_checkpoints_are_as_large_as_estimated(together, zero):
    folder = together / f"{zero} saving"
    left = [path for path in (folder / "own").glob("checkpoint-*") if path.is_dir()]
    assert len(left) == KEPT == 2
    measured = max(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in left)
    estimated = own_bytes(FineTuningSpec.read(folder / "spec.json"))
    assert measured < 1.1 * estimated
    assert measured > (0.9 if zero == "zero2" else 0.7) * estimated


def test_weights_gathered_from_shards_are_a_checkpoint_of_the_engine(together):
    folder = together / "dpo zero3" / "out"
    engine = TransformersEngine(folder)
    ((completion,),) = engine.generate([Prompt("a", "?1A")], SamplingParams(temperature=0.0, max_tokens=4))
    engine.close()
    assert completion.num_tokens > 0
    assert not list(folder.glob("*.bin"))


def test_peak_memory_is_not_that_of_the_process_before():
    held = bytearray(600_000_000)
    code = "from si_dagster.processes import peak_memory; print(peak_memory())"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 1e6 < int(told.stdout) < 3e8 < len(held)


def test_what_a_killed_build_left_is_removed_unless_another_launch_is_there(tmp_path):
    left = tmp_path / "py_cpu" / "deepspeed_shm_comm" / "lock"
    left.parent.mkdir(parents=True)
    left.touch()
    first = forget_killed_builds(tmp_path)
    assert not left.exists()
    left.touch()
    with forget_killed_builds(tmp_path):
        assert left.exists()
    first.close()
    forget_killed_builds(tmp_path).close()
    assert not left.exists()


def test_ranks_end_with_the_process_that_waits_for_them(tmp_path, base):
    folder = tmp_path / "killed"
    file = spec_file(folder, base, ROWS, execution={"device": "cpu", "num_processes": 2}, max_steps=100_000)
    command = [sys.executable, "-m", "si_dagster.training.launch", "2", "si_dagster.training.sft", file]
    waiting = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    parent = subprocess.Popen(
        [sys.executable, "-c", waiting, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    told = next(line for line in parent.stdout if line.startswith("fine-tuning"))
    assert "steps" in told
    descendants = psutil.Process(parent.pid).children(recursive=True)
    assert len(descendants) >= 3  # the launcher and two ranks
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(descendants, timeout=30)
    parent.stdout.close()
    assert len(gone) >= 3
    assert not alive


def test_the_first_rank_that_fails_says_why_for_all(tmp_path, base):
    recipe = {"learning_rate": 1e30, "max_steps": 50}
    file = spec_file(tmp_path / "a", base, ROWS, execution={"device": "cpu", "num_processes": 2}, **recipe)
    done = subprocess.run(
        [sys.executable, "-m", "si_dagster.training.launch", "2", "si_dagster.training.sft", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "training failed: ValueError: the loss of step" in last
    assert "lower distillation.learning_rate" in last
    assert not list((tmp_path / "a" / "out").iterdir())
