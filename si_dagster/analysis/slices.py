"""Slices: the gap on the prompts that share a value of some column (level, subject, clue count).

Columns come from the task, in column `slices` of prompts. Small slices have wide intervals, and with many of
them some look different by chance: nothing here is adjusted for that, which the report says.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, estimated, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.gap import estimate_gap
from si_dagster.core.samples import offsets_of_subset, per_sample
from si_dagster.stages.conventions import bootstrap_options

TITLE = "Slices"
CARD = """J, gap and relative gap on the prompts that share one value of a column, for every column of the
task.

Reads: prompts (their slices), utilities, verifications of all iterations.

Writes: one row a verification, column and value.
"""
READING = """One row a value of a column of the prompts; numbers of many values are cut into quarters of the
prompts. Intervals are not adjusted for the number of slices: of twenty without any effect, one looks
different."""

MOST_VALUES = 12
"""Columns of more different values are cut into quarters if they are numbers, and left out if not (ours)."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and value; columns as the schema of `slices`."""
    return table([row for samples in data.samples() for row in _of_policy(samples)])


def _of_policy(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    prompts = samples.rows_of("prompts", ["prompt_id", "slices"])
    if prompts is None:
        return
    by_id = dict(prompts.iter_rows())
    weights = {spec.name: samples.weights(spec) for spec in samples.scorers}
    columns = [json.loads(by_id.get(prompt_id) or "{}") for prompt_id in samples.policy.prompt_ids]
    for name in dict.fromkeys(key for row in columns for key in row):
        for rank, (value, chosen) in enumerate(values_of([row.get(name) for row in columns])):
            for verification, weight in weights.items():
                yield {
                    **samples.keys,
                    "verification": verification,
                    "column": name,
                    "value": value,
                    "value_rank": rank,
                    **_estimates(samples, weight, chosen),
                }


def values_of(column: list[Any]) -> list[tuple[str, np.ndarray]]:
    """(value, which prompts have it), in order; empty where a column has one value or too many.

    Examples:
        >>> [(value, chosen.tolist()) for value, chosen in values_of(["b", "a", None, "b"])]
        [('a', [False, True, False, False]), ('b', [True, False, False, True])]
        >>> [value for value, _ in values_of(list(range(100)))]
        ['0 to 24', '25 to 49', '50 to 74', '75 to 99']
    """
    known = [value for value in column if value is not None]
    different = sorted(set(known), key=lambda value: (isinstance(value, str), value)) if known else []
    if len(different) < 2:
        return []
    if len(different) <= MOST_VALUES:
        return [(str(value), np.array([each == value for each in column])) for value in different]
    if any(isinstance(value, str | bool) for value in different):
        return []
    numbers = np.array([np.nan if value is None else float(value) for value in column])
    inner = np.nanquantile(numbers, [0.25, 0.5, 0.75])
    quarter = np.where(np.isnan(numbers), -1, np.searchsorted(inner, numbers, side="right"))
    parts = ((q, numbers[quarter == q]) for q in range(4) if (quarter == q).any())
    return [(f"{part.min():g} to {part.max():g}", quarter == q) for q, part in parts]


def _estimates(samples: ScoredSamples, weights: np.ndarray, prompts: np.ndarray) -> dict[str, Any]:
    kept = per_sample(prompts, samples.offsets)
    offsets = offsets_of_subset(kept, samples.offsets)[np.append(True, prompts)]
    estimate = estimate_gap(
        samples.utilities[kept],
        weights[kept],
        offsets,
        no_survivors=samples.study.weighting.no_survivors,
        saturated=samples.study.analysis.saturated,
        **bootstrap_options(samples.study),
    )
    return {
        **estimated(estimate, "expected_utility", "gap", "relative_gap"),
        "num_prompts": estimate.num_prompts,
    }


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All slices, as text."""
    if rows.is_empty():
        return []
    headings = {
        "iteration": "t",
        "verification": "verification",
        "column": "column",
        "value": "value",
        "num_prompts": "prompts",
        "expected_utility": "J",
        "gap": "gap",
        "relative_gap": "relative gap",
    }
    order = ["model", "task", "column", "verification", "iteration", "value_rank"]
    return text_rows(rows.sort(order), headings)


def chart(rows: pl.DataFrame) -> Any:
    """The gap by value, a panel a column and iteration."""
    from si_dagster.analysis.plots import cell_titles, interval_points

    named = cell_titles(rows).with_columns(panel=pl.format("{}, {}", "column", "cell"))
    order = rows.sort("column", "value_rank")["value"].unique(maintain_order=True).to_list()
    return interval_points(
        named, x="value", y="gap", color="verification", column="panel", title="gap", sort=order
    )
