"""Small training sets and specs, shared by the tests of fine-tuning."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file

from si_dagster.training.reporting import Reporter
from si_dagster.training.sft import sft

ROWS = [("?1_A", "12", 1.0), ("?_2A", "34", 1.0), ("?3_A", "1432", 1.0)]


def spec_file(
    folder: Path, base: Path, rows: list, seed: int = 1, execution: dict | None = None, **distillation: Any
) -> str:
    """A spec for supervised fine-tuning on rows of (prompt, completion, weight)."""
    folder.mkdir()
    (folder / "out").mkdir()
    table = pl.DataFrame(rows, schema=["prompt", "completion", "weight"], orient="row")
    table.write_parquet(folder / "train.parquet")
    given_fields = {
        "learning_rate": 1e-2,
        "max_steps": 4,
        "per_device_train_batch_size": len(rows),
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e6,
    }
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": seed,
        "model_dir": str(base),
        "train_files": [str(folder / "train.parquet")],
        "distillation": {**given_fields, **distillation},
        "execution": execution or {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def run(
    folder: Path, base: Path, rows: list, seed: int = 1, execution: dict | None = None, **distillation: Any
) -> tuple[dict, dict, list[str]]:
    """The result, the weights after training, and what was told."""
    lines: list[str] = []
    spec = spec_file(folder, base, rows, seed, execution, **distillation)
    result = sft(spec, Reporter(lines.append))
    return result, load_file(folder / "out" / "model.safetensors"), lines


def largest_difference(first: dict, second: dict) -> float:
    """Between the weights of two policies."""
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
