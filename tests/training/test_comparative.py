"""Comparative distillation on a tiny policy: what is minimised, and that engines read what was learned."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from si_dagster.engines.transformers import TransformersEngine
from si_dagster.training.comparative import comparative, comparative_loss
from si_dagster.training.reporting import Reporter

ROWS = [
    ("p", "V1_=12:", 0.9),
    ("p", "V1_=13:", 0.1),
    ("p", "V1_=1:", 0.4),
    ("q", "V_2=12:", 0.2),
    ("q", "V_2=22222:", 0.3),
    ("r", "V3_=31:", 0.7),
]
"""(prompt id, question, score by the teacher); the last prompt has one response alone."""

LABELS = ("Y", "N")
SCALE = np.sqrt((0.8**2 + 0.5**2 + 0.3**2 + 0.1**2) / 4)


def run(folder: Path, base: Path, rows=ROWS, execution: dict | None = None, **recipe) -> tuple[dict, Path]:
    """The result of training, and its folder."""
    (folder / "out").mkdir(parents=True)
    table = pl.DataFrame(rows, schema=["prompt_id", "question", "proxy_utility"], orient="row")
    table.write_parquet(folder / "rows.parquet")
    given = {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": 1,
        "model_dir": str(base),
        "train_files": [str(folder / "rows.parquet")],
        "labels": LABELS,
        "recipe_name": "student",
        "distillation": {**given, "max_steps": 1, **recipe},
        "execution": execution or {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    lines: list[str] = []
    return comparative(str(folder / "spec.json"), Reporter(lines.append)), folder / "out"


def log_odds(folder: Path) -> list[float]:
    """The student's score of each row, as an engine reads it."""
    engine = TransformersEngine(folder, device="cpu")
    found = engine.label_logprobs([question for _, question, _ in ROWS], LABELS)
    return (found[:, 0] - found[:, 1]).tolist()


def differences(scores: list[float]) -> np.ndarray:
    """Of every two responses to one prompt."""
    return np.array([a - b for a, b in (*combinations(scores[:3], 2), tuple(scores[3:5]))])


def test_the_first_loss_is_that_of_the_policy_it_begins_as(tmp_path, base):
    result, _ = run(tmp_path, base)
    teacher = differences([score for *_, score in ROWS]) / SCALE
    expected = np.mean((differences(log_odds(base)) - teacher) ** 2)
    assert result["loss_curve"][0][1] == pytest.approx(expected, rel=1e-4)
    assert (result["num_rows"], result["num_comparisons"], result["num_dropped_rows"]) == (5, 4, 1)


def test_the_student_reaches_the_differences_and_engines_read_them(tmp_path, base):
    result, folder = run(tmp_path, base, max_steps=150)
    assert result["final_loss"] < 0.01
    wanted = differences([score for *_, score in ROWS]) / SCALE
    assert differences(log_odds(folder)) == pytest.approx(wanted, abs=0.15)


def test_portions_of_a_step_change_nothing(tmp_path, base):
    # Three pairs of one prompt and one of the other: a mean of means would be another loss.
    whole, portions = (
        run(tmp_path / name, base, execution=how, max_steps=5)[0]["loss_curve"]
        for name, how in (("whole", {}), ("portions", {"micro_batch_size": 1}))
    )
    assert np.array(whole) == pytest.approx(np.array(portions), rel=1e-3)


def test_loss_by_hand():
    # Differences 1 and 3 of the pair of each prompt, the teacher's 0 and 1: (1² + 2²) / 2.
    student, teacher = torch.tensor([1.0, 0.0, 3.0, 0.0]), torch.tensor([5.0, 5.0, 1.0, 0.0])
    assert comparative_loss(student, teacher, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(2.5)
    # A constant of each prompt changes nothing.
    moved = student + torch.tensor([7.0, 7.0, -2.0, -2.0])
    assert comparative_loss(moved, teacher, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(2.5)


def test_a_teacher_that_makes_no_difference_is_refused(tmp_path, base):
    with pytest.raises(ValueError, match="scores all responses to each prompt alike"):
        run(tmp_path, base, rows=[(p, q, 1.0) for p, q, _ in ROWS])


def test_what_is_too_long_is_left_out_or_named(tmp_path, base):
    result, _ = run(tmp_path / "some", base, max_length=9)
    assert (result["num_rows"], result["num_comparisons"]) == (3, 3)  # q has one response left
    with pytest.raises(ValueError, match=r"longer than student\.max_length = 8"):
        run(tmp_path / "none", base, rows=ROWS[3:], max_length=8)
