"""A trainer killed with -9 goes on from its own newest whole checkpoint, to the very same policy."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from training.rows import largest_difference, run, spec_file

from si_dagster.store.atomic import read_json
from si_dagster.training.attempts import Attempts
from si_dagster.training.checkpointing import is_whole, newest_whole
from si_dagster.training.reporting import Reporter
from si_dagster.training.sft import sft
from si_dagster.training.specs import Execution

ROOT = Path(__file__).parents[2]
ROWS = [(f"?{i}A", str(i % 4), 1.0) for i in range(64)]
RECIPE = {"max_steps": 400, "per_device_train_batch_size": 4, "lr_scheduler_type": "linear"}
PLAIN = Execution().optimizer_layout


def with_work_folder(file: str) -> Path:
    work = Path(file).parent / "trainer"
    spec = json.loads(Path(file).read_text()) | {"work_dir": str(work)}
    Path(file).write_text(json.dumps(spec))
    return work


def kill_after_checkpoint(file: str, work: Path) -> None:
    """Run the trainer and kill it when its second checkpoint is whole and it is on its way to the next."""
    kill_when(file, lambda: is_whole(work / "checkpoint-40"))


def kill_when(file: str, happened: Callable[[], bool]) -> None:
    """Run the trainer and kill it as soon as something has happened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "si_dagster.training.sft", file],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 200
    try:
        while not happened():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_trainer_ends_where_an_unbroken_one_does(tmp_path, base):
    file = spec_file(tmp_path / "killed", base, ROWS, execution={"save_steps": 20}, **RECIPE)
    work = with_work_folder(file)
    kill_after_checkpoint(file, work)
    out = tmp_path / "killed" / "out"
    assert not list(out.iterdir()), "no half checkpoint"
    newest = newest_whole(work, PLAIN, Reporter(lambda line: None))
    assert newest is not None
    killed = json.loads((work / "spent.json").read_text())
    assert killed["seconds"] > 0
    assert killed["tokens"] > 0
    damaged = Path(newest) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = newest_whole(work, PLAIN, Reporter(lambda line: None))
    assert before is not None, "the one before stays until the next is whole"
    assert before != newest
    resumed = json.loads((Path(before) / "trainer_state.json").read_text())["num_input_tokens_seen"]
    again = killed["tokens"] - resumed  # trained on before the kill, and once more
    assert again > 0

    lines: list[str] = []
    result = sft(file, Reporter(lines.append))
    assert lines[0].startswith(f"going on from {Path(before).name}, ")
    unbroken, weights, _ = run(tmp_path / "unbroken", base, ROWS, **RECIPE)
    assert result["seconds"] > killed["seconds"]
    assert result["flops"] == unbroken["flops"] + 6 * unbroken["num_parameters"] * again
    assert result["steps"] == unbroken["steps"] == 400
    assert result["loss_curve"] == unbroken["loss_curve"]
    assert largest_difference(load_file(out / "model.safetensors"), weights) < 1e-6


def test_without_save_steps_nothing_but_the_checkpoint_is_written(tmp_path, base):
    file = spec_file(tmp_path / "a", base, ROWS, max_steps=2)
    work = with_work_folder(file)
    sft(file, Reporter(lambda line: None))
    assert not list(work.glob("checkpoint-*"))


def test_attempts_killed_before_their_first_checkpoint_are_counted(tmp_path, base):
    file = spec_file(tmp_path / "killed", base, ROWS, **{**RECIPE, "max_steps": 100_000})
    work = with_work_folder(file)
    spent: list[dict[str, float]] = []
    for _ in range(2):
        earlier = spent[-1] if spent else {"seconds": 0.0, "tokens": 0.0}
        kill_when(
            file,
            lambda seconds=earlier["seconds"]: read_json(work / "spent.json").get("seconds", 0) > seconds,
        )
        spent.append(read_json(work / "spent.json"))
        assert spent[-1]["tokens"] > earlier["tokens"]
    spec = json.loads(Path(file).read_text())
    spec["distillation"]["max_steps"] = 2
    Path(file).write_text(json.dumps(spec))
    result = sft(file, Reporter(lambda line: None))
    assert result["steps"] == 2
    assert result["seconds"] > spent[-1]["seconds"]
    assert result["gpu_seconds"] in (0.0, result["seconds"])
    assert result["flops"] > 6 * result["num_parameters"] * spent[-1]["tokens"]


def test_a_checkpoint_from_before_spending_was_kept_counts_its_tokens(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    state.write_text(json.dumps({"num_input_tokens_seen": 300}))
    attempt = Attempts(tmp_path, 2, str(state.parent))
    assert attempt.total(400)["tokens"] == 400
    attempt.save(400)
    told = Attempts(tmp_path, 2, str(state.parent)).total(350)
    assert told["tokens"] == 450
    assert told["gpu_seconds"] == 2 * told["seconds"] > 0
