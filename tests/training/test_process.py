"""The training process as its launcher sees it: exit code, last line, end of its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from si_dagster.training.reporting import Reporter

ROOT = Path(__file__).parents[2]
RECIPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "per_device_train_batch_size": 2,
}


def spec_file(folder: Path, **recipe: object) -> str:
    spec = {"output_dir": str(folder), "task": "sudoku4", "seed": 0, "recipe": {**RECIPE, **recipe}}
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def command(spec: str) -> list[str]:
    return [sys.executable, "-m", "si_dagster.training.pretrain", spec]


def test_success_ends_with_zero_and_progress(tmp_path):
    done = subprocess.run(
        command(spec_file(tmp_path, max_steps=3)), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "pre-training: 3/3 steps (100%), loss " in done.stdout


@pytest.mark.parametrize(
    ("content", "last_line"),
    [
        ("{", "training failed: ValidationError: "),
        ('{"output_dir": "x", "task": "chess", "seed": 0, "recipe": {"max_steps": 1}}', "no task 'chess'"),
    ],
)
def test_failure_ends_with_one_and_says_why_last(tmp_path, content, last_line):
    (tmp_path / "spec.json").write_text(content)
    done = subprocess.run(
        command(str(tmp_path / "spec.json")), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert last_line in done.stderr.strip().splitlines()[-1]


def test_missing_spec_is_a_usage_error():
    done = subprocess.run(command("a")[:3], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "SPEC.json" in done.stderr


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_trainer_does_not_outlive_its_parent(tmp_path):
    started = "import subprocess, sys; c = subprocess.Popen(sys.argv[1:]); print(c.pid, flush=True); c.wait()"
    spec = spec_file(tmp_path, max_steps=20_000)
    parent = subprocess.Popen(
        [sys.executable, "-c", started, *command(spec)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        for line in parent.stdout:
            if line.startswith("pre-training"):  # in the middle of its work
                break
        assert is_running(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while is_running(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(child)
        assert not (tmp_path / "result.json").exists()
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_steps_are_told_seldom_and_the_last_always():
    lines: list[str] = []
    report = Reporter(lines.append)
    for step in range(1, 101):
        report.step("fine-tuning", step, 100, 0.25)
    assert len(lines) == 1
    assert lines[0].startswith("fine-tuning: 100/100 steps (100%), loss 0.250, ")
