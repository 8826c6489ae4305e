"""Solver-verifier dynamics: an exponential through the first gaps of a loop, and where it would end.

After arXiv 2507.00075; `core.dynamics` has the formulas. A loop of two measured iterations can only be
fitted, one of four or more is also held against what the fit of its first three predicted.
"""

from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.dynamics import Dynamics, solver_verifier_dynamics
from si_dagster.core.gap import expected_utility
from si_dagster.core.intervals import bootstrap_mean
from si_dagster.stages.conventions import bootstrap_options

TITLE = "Solver-verifier dynamics"
CARD = """An exponential through the first gaps of each loop: its decay, the share of a gap that arrives in J,
the plateau J runs into, the iteration at which it stops, and how far the last measured J was from it.

Reads: utilities, verifications of all iterations.

Writes: one row a model and task, for the verification that weights training.
"""
READING = """gap_t = A r^t is fitted to the first iterations (three, where there are as many); conversion is
the share of those gaps that arrived in J. Plateau and stop follow by summing up. Intervals are from
resampled prompts; with two or three points they are wide, and a decay near 1 has no plateau at all."""

MOST_FITTED = 3
"""Iterations a fit sees at most (ours): the question is whether the first few tell the rest."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a cell; columns as the schema of `dynamics`."""
    loops: dict[tuple[str, str], list[ScoredSamples]] = {}
    for samples in data.samples():
        if samples.used is not None:
            loops.setdefault((samples.model, samples.task), []).append(samples)
    return table([_of_loop(loop) for loop in loops.values() if _is_one(loop)])


def _is_one(loop: list[ScoredSamples]) -> bool:
    """At least two iterations from the base on, all on the same prompts."""
    prompts = [samples.policy.prompt_ids for samples in loop]
    in_order = [samples.iteration for samples in loop] == list(range(len(loop)))
    return len(loop) > 1 and in_order and all(np.array_equal(prompts[0], other) for other in prompts)


def _of_loop(loop: list[ScoredSamples]) -> dict[str, Any]:
    study, first = loop[0].study, loop[0]
    used = study.weighting_verification()
    expected = np.column_stack([expected_utility(s.utilities, s.offsets) for s in loop])
    gaps = np.column_stack([s.gap_per_prompt(s.weights(used)) for s in loop])
    known = ~(np.isnan(expected) | np.isnan(gaps)).any(axis=1)
    num_fitted = min(MOST_FITTED, len(loop))
    how = bootstrap_options(study)
    last_gap = bootstrap_mean(gaps[known, num_fitted - 1], **how)
    found = solver_verifier_dynamics(
        expected[known],
        gaps[known],
        num_fitted,
        gap_margin=last_gap.estimate - last_gap.low,
        min_gap=max(study.stop.min_gap, 0.0),
        **how,
    )
    return {
        "model": first.model,
        "task": first.task,
        "verification": used.name,
        **_told(found),
        "last_iteration": loop[-1].iteration,
        "observed_last": float(expected[known, -1].mean()),
    }


def _told(found: Dynamics) -> dict[str, Any]:
    names = ("initial_gap", "decay", "conversion", "plateau", "stop_iteration")
    columns: dict[str, Any] = {"num_fitted": found.num_fitted}
    for name in (*names, "predicted_last", "prediction_error"):
        columns |= columns_of(name, getattr(found, name))
    return columns


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All loops, as text."""
    headings = {
        "num_fitted": "iterations fitted",
        "initial_gap": "A",
        "decay": "r",
        "conversion": "conversion",
        "plateau": "plateau of J",
        "stop_iteration": "stops at",
        "last_iteration": "last measured",
        "observed_last": "J there",
        "prediction_error": "less predicted",
    }
    return text_rows(rows, headings)


def chart(rows: pl.DataFrame) -> Any:
    """The fitted gaps over iterations, with the interval that A alone has."""
    from si_dagster.analysis.plots import interval_lines

    points = [
        {"loop": f"{row['model']} {row['task']}", "iteration": t}
        | {f"gap{end}": row[f"initial_gap{end}"] * row["decay"] ** t for end in ("", "_low", "_high")}
        for row in rows.iter_rows(named=True)
        for t in range(int(row["last_iteration"]) + 3)
    ]
    return interval_lines(
        pl.DataFrame(points), x="iteration", y="gap", color="loop", title="A r^t, band: interval of A"
    )
