"""Verifiers of known making from stored rows to the table: closed forms, bounds, and what must be nothing."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from analysis.made_up import drawn, noisy, scored, stored, study

from si_dagster.analysis import cross_verification, slices
from si_dagster.core.gap import binary_verifier_gap
from si_dagster.tasks.catalogue import load_task

MATH = Path(os.environ.get("SI_DAGSTER_TEST_DATA", Path(__file__).parents[2].parent / "shared/data")) / "math"
BOTH = ("cot_binary", "multiple_choice")
PROMPTS, SIZE, ACCURACY = 200, 64, 0.6
KEEP_ONE = {"rule": "threshold", "tau": 0.5}


def verdicts(u: np.ndarray, tpr: float, fpr: float, seed: int) -> np.ndarray:
    """0 or 1: a right answer accepted with chance tpr, a wrong one with fpr."""
    return (np.random.default_rng(seed).random(u.shape) < np.where(u == 1, tpr, fpr)).astype(float)


def crossed(home: Path, of, u: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, dict]:
    """Verification -> its row in the table of gaps."""
    rows = cross_verification.rows(stored(home, of, scored(of, u, scores)))
    return {row["verification"]: row for row in rows.iter_rows(named=True)}


def test_correlated_verifiers_gain_nothing_together_and_independent_ones_what_is_computed(
    tmp_path: Path,
) -> None:
    """AND of two independent verifiers has rates a² and b², OR 1 - (1 - a)²: of copies, those of one."""
    of = study(BOTH, weighting=KEEP_ONE)
    u = drawn(PROMPTS, SIZE, 0, ACCURACY)
    first, second = verdicts(u, 0.8, 0.4, 1), verdicts(u, 0.8, 0.4, 2)
    apart = crossed(tmp_path / "apart", of, u, dict(zip(BOTH, (first, second), strict=True)))
    # Standard error of a mean over 12,800 answers at most .5 / 113 = .0044.
    for name, rates in (
        ("cot_binary", (0.8, 0.4)),
        ("and", (0.8**2, 0.4**2)),
        ("or", (1 - 0.2**2, 1 - 0.6**2)),
    ):
        assert apart[name]["gap"] == pytest.approx(binary_verifier_gap(ACCURACY, *rates)[0], abs=0.013), name
    copies = crossed(tmp_path / "copies", of, u, dict.fromkeys(BOTH, first))
    alone = copies["cot_binary"]["gap"]
    assert {name: row["gap"] for name, row in copies.items()} == dict.fromkeys(copies, alone)
    # Half of the second's verdicts are the first's: in between.
    half = np.where(np.random.default_rng(3).random(u.shape) < 0.5, first, second)
    between = crossed(tmp_path / "half", of, u, dict(zip(BOTH, (first, half), strict=True)))
    assert alone + 0.01 < between["and"]["gap"] < apart["and"]["gap"] - 0.01


def test_the_bounds_are_ground_truth_and_noise(tmp_path: Path) -> None:
    of = study(("oracle", "random"))
    u = drawn(PROMPTS, 8, 0)
    rows = crossed(tmp_path, of, u, {"oracle": u, "random": np.random.default_rng(4).random(u.shape)})
    # At q = .75 the seventh of eight scores decides: with two right ones they alone stay, with one all do.
    right = u.sum(axis=1)
    assert rows["oracle"]["gap"] == pytest.approx(np.where(right > 1, 1 - right / 8, 0.0).mean())
    assert rows["random"]["gap_low"] < 0 < rows["random"]["gap_high"]
    assert not {"and", "mean_rank"} & set(rows)  # of bounds no ensemble is made


@pytest.mark.parametrize(
    ("score", "weighting"),
    [
        (np.ones((40, 8)), {"rule": "quantile", "q": 0.75}),  # all tied: all stay
        (np.full((40, 8), 0.1), KEEP_ONE),  # all rejected
        (np.full((40, 8), np.nan), KEEP_ONE),  # none could be read
    ],
)
def test_ties_and_rejection_of_all_change_nothing(score: np.ndarray, weighting: dict, tmp_path: Path) -> None:
    of = study(("multiple_choice",), weighting=weighting)
    row = crossed(tmp_path, of, drawn(40, 8, 0), {"multiple_choice": score})["multiple_choice"]
    assert (row["gap"], row["gap_low"], row["gap_high"]) == (0.0, 0.0, 0.0)
    assert row["expected_utility_low"] < row["expected_utility_high"]


def test_saturated_prompts_have_no_relative_gap_and_leave_that_of_the_others(tmp_path: Path) -> None:
    of = study()
    u, full = drawn(100, 8, 0, ACCURACY), np.ones((50, 8))
    with_full = np.concatenate([u, full])
    scores = noisy(with_full, 0.5, 1)
    lone, among, only = (
        crossed(tmp_path / str(i), of, part, {"multiple_choice": values})["multiple_choice"]
        for i, (part, values) in enumerate(
            ((u, scores[:100]), (with_full, scores), (full, noisy(full, 0.5, 2)))
        )
    )
    assert among["relative_gap"] == pytest.approx(lone["relative_gap"])
    assert among["gap"] == pytest.approx(lone["gap"] * 100 / 150)
    assert (only["gap"], only["relative_gap"]) == (0.0, None)


@pytest.mark.skipif(not MATH.exists(), reason=f"needs {MATH} (SI_DAGSTER_TEST_DATA)")
def test_levels_and_subjects_of_a_real_task_are_slices(tmp_path: Path) -> None:
    prompts = list(load_task("math", {"path": str(MATH), "split": "math500"}).rows("eval", 60, 0))
    levels = np.array([int(row.columns["level"]) for row in prompts])
    # The harder, the worse the verifier: noise of .1 at level 1, of 2 at level 5.
    u = drawn(60, 8, 0, ACCURACY)
    scores = u + (0.1 + 0.475 * (levels - 1))[:, None] * np.random.default_rng(1).normal(size=u.shape)
    of = study(BOTH)
    columns = [dict(row.columns) for row in prompts]
    data = stored(tmp_path, of, scored(of, u, dict.fromkeys(BOTH, scores)), slices=columns)
    table = slices.rows(data)
    assert {"level", "subject"} <= set(table["column"])
    by_level = table.filter(pl.col("column") == "level", pl.col("verification") == "multiple_choice")
    counts = dict(by_level.select("value", "num_prompts").rows())
    assert counts == {str(level): int((levels == level).sum()) for level in np.unique(levels)}
    gaps = by_level.sort("value_rank")["gap"].to_list()
    assert gaps[0] > gaps[-1] + 0.1
    assert {"and", "mean_rank"} < set(table["verification"])
