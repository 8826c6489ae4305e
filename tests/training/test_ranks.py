"""Several processes for real, over gloo: the same training as one process, and ordinary checkpoints.

One run a configuration serves all tests: a process that imports torch, transformers and TRL is what costs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest
from safetensors.torch import load_file
from training.rows import spec_file

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.transformers import TransformersEngine
from si_dagster.training.launch import forget_killed_builds

ROOT = Path(__file__).parents[2]
ROWS = [(f"?{i % 10}{'A' * (1 + i % 3)}", str(i) * (1 + i % 4), 1.0 + i % 2) for i in range(32)]
RECIPE = {
    "learning_rate": 1e-2,
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "constant",
}


def train(folder: Path, base: Path, **execution: object) -> tuple[dict, Path]:
    """The result of a training in processes of its own, and its checkpoint."""
    (folder / "out").mkdir(parents=True)
    rows = pl.DataFrame(ROWS, schema=["prompt", "completion", "weight"], orient="row")
    rows.write_parquet(folder / "train.parquet")
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": 1,
        "model_dir": str(base),
        "train_files": [str(folder / "train.parquet")],
        "distillation": RECIPE,
        "execution": {"device": "cpu", **execution},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    command = ["si_dagster.training.sft", str(folder / "spec.json")]
    launch = ["si_dagster.training.launch", str(execution["num_processes"])] if execution else []
    done = subprocess.run(
        [sys.executable, "-m", *launch, *command],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "out" / "result.json").read_text()), folder / "out"


Runs = Callable[[str], tuple[dict, Path]]

EXECUTIONS: dict[str, dict[str, object]] = {
    "one": {},
    "two": {"num_processes": 2},
    "zero1": {"num_processes": 2, "deepspeed": "zero1"},
    "zero2": {"num_processes": 2, "deepspeed": "zero2"},
    "zero3": {"num_processes": 2, "deepspeed": "zero3"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Runs:
    """The run of that name, made when it is first asked for."""
    made: dict[str, tuple[dict, Path]] = {}

    def run(name: str) -> tuple[dict, Path]:
        if name not in made:
            made[name] = train(tmp_path_factory.mktemp(name), base, **EXECUTIONS[name])
        return made[name]

    return run


@pytest.mark.parametrize("name", ["two", "zero1", "zero2", "zero3"])
def test_two_ranks_train_as_one_at_the_same_batch(runs, name):
    (one, alone), (two, together) = runs("one"), runs(name)
    assert two["steps"] == one["steps"] == 6
    assert two["peak_memory_bytes"] > 1.5 * one["peak_memory_bytes"] > 1e8
    assert two["peak_gpu_memory_bytes"] == 0
    losses = [[loss for _, loss in result["loss_curve"]] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0] - 0.3
    first, second = (load_file(folder / "model.safetensors") for folder in (alone, together))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert max((first[k] - second[k]).abs().max().item() for k in first) < 2e-3


def test_weights_gathered_from_shards_are_a_checkpoint_of_the_engine(runs):
    _, folder = runs("zero3")
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
