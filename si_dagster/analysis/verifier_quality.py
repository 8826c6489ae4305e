"""Verifier quality by difficulty: error rates, ranking, calibration and gap in ranges of J_x.

Difficulty is J_x measured on the same samples, so with few samples a range holds prompts whose true
difficulty lies outside it. It compares no verifiers with each other: that is `verifier_overlap`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.gap import expected_utility
from si_dagster.core.samples import mean_or_nan, offsets_of_subset, per_sample
from si_dagster.core.verifier_quality import (
    DifficultyBin,
    calibration_error,
    difficulty_bins,
    quality_by_difficulty,
    verifier_quality,
)
from si_dagster.stages.conventions import bootstrap_options

TITLE = "Verifier quality by difficulty"
CARD = """TPR, FPR, AUROC within prompts, calibration and gap of every verification, over all evaluation
prompts and by difficulty.

Reads: utilities, verifications of all iterations.

Writes: one row a verification and range of J_x.
"""
READING = """Prompts by how often the policy is right on them (J). At J=0 and J=1 no verifier can have a gap.
TPR and FPR are shares of right and wrong answers that the study's rule keeps; AUROC is within prompts, since
telling easy prompts from hard ones adds nothing. Calibration error is of scores read as probabilities."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and range; columns as the schema of `verifier_quality`."""
    return table([row for samples in data.samples() for row in _of_policy(samples)])


def _of_policy(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    expected = expected_utility(samples.utilities, samples.offsets)
    bins = difficulty_bins(expected)
    for spec in samples.scorers:
        scores, weights = samples.scores_and_weights(spec)
        parts = quality_by_difficulty(samples.utilities, scores, weights, samples.offsets)
        chosen = [~np.isnan(expected), *(bins == b for b in range(len(parts)))]
        for rank, part in enumerate([_overall(samples, scores, weights), *parts]):
            yield {
                **samples.keys,
                "verification": spec.name,
                "difficulty": "all" if rank == 0 else part.label,
                "difficulty_rank": rank,
                **{name: getattr(part, name) for name in ("num_prompts", "expected_utility", "gap")},
                "tpr": part.true_positive_rate,
                "fpr": part.false_positive_rate,
                "auroc_per_prompt": part.auroc_per_prompt,
                **_calibration(samples, scores, chosen[rank]),
            }


def _overall(samples: ScoredSamples, scores: np.ndarray, weights: np.ndarray) -> DifficultyBin:
    quality = verifier_quality(samples.utilities, scores, weights, samples.offsets)
    expected = expected_utility(samples.utilities, samples.offsets)
    return DifficultyBin(
        low=0.0,
        high=1.0,
        num_prompts=int((~np.isnan(expected)).sum()),
        expected_utility=mean_or_nan(expected),
        gap=mean_or_nan(samples.gap_per_prompt(weights)),
        true_positive_rate=quality.true_positive_rate,
        false_positive_rate=quality.false_positive_rate,
        auroc_per_prompt=quality.auroc_per_prompt,
    )


def _calibration(samples: ScoredSamples, scores: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
    """Over the samples of some prompts."""
    kept = per_sample(prompts, samples.offsets)
    offsets = offsets_of_subset(kept, samples.offsets)
    error = calibration_error(
        samples.utilities[kept], scores[kept], offsets, **bootstrap_options(samples.study)
    )
    return {**columns_of("calibration_error", error), "mean_proxy_utility": mean_or_nan(scores[kept])}


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The last iteration's ranges, and all iterations' totals, as text."""
    if rows.is_empty():
        return []
    totals = (pl.col("difficulty") == "all") | (pl.col("iteration") == pl.col("iteration").max())
    headings = {
        "iteration": "t",
        "verification": "verification",
        "difficulty": "prompts",
        "num_prompts": "number",
        "expected_utility": "J",
        "gap": "gap",
        "tpr": "TPR",
        "fpr": "FPR",
        "auroc_per_prompt": "AUROC",
        "calibration_error": "calibration error",
    }
    order = ["model", "task", "verification", "iteration", "difficulty_rank"]
    return text_rows(rows.filter(totals, pl.col("num_prompts") > 0).sort(order), headings)


def chart(rows: pl.DataFrame) -> Any:
    """TPR and FPR by difficulty, a panel an iteration."""
    from si_dagster.analysis.plots import cell_titles, lines

    ranges = rows.filter(pl.col("difficulty") != "all", pl.col("num_prompts") > 0)
    long = cell_titles(ranges).unpivot(
        ["tpr", "fpr"], index=["cell", "verification", "difficulty", "difficulty_rank"], variable_name="rate"
    )
    if long.is_empty():
        return None
    order = long.sort("difficulty_rank")["difficulty"].unique(maintain_order=True).to_list()
    return lines(
        long, x="difficulty", y="value", color="verification", dash="rate", column="cell", sort=order
    )
