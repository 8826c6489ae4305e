"""Verifier quality by difficulty: error rates, ranking, calibration and gap in ranges of J_x.

Difficulty is J_x measured on the same samples, so with few samples a range holds prompts whose true
difficulty lies outside it. It compares no verifiers with each other: that is `verifier_overlap`.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.verifier_quality import ALL_PROMPTS, DifficultyBin, quality_by_difficulty
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.study import Scorer, VerificationSpec
from si_dagster.verification.catalogue import load_method

TITLE = "Verifier quality by difficulty"
CARD = """TPR, FPR, AUROC within prompts, calibration, coverage and gap of every verification, over all
evaluation prompts and by difficulty, each with its interval.

Reads: utilities, verifications of all iterations.

Writes: one row a verification and range of J_x.
"""
READING = """Prompts by how often the policy is right on them (J). At J=0 and J=1 no verifier can have a gap.
TPR and FPR are shares of right and wrong answers that the study's rule keeps; AUROC is within prompts, since
telling easy prompts from hard ones adds nothing. Coverage is the share of prompts of which anything is kept.
Calibration error is of methods whose scores are probabilities, and of all prompts alone: those picked by J
are picked by what came out. Its interval is wide rather than narrow."""

MEASURES = {
    "expected_utility": "expected_utility",
    "gap": "gap",
    "coverage": "coverage",
    "tpr": "true_positive_rate",
    "fpr": "false_positive_rate",
    "auroc_per_prompt": "auroc_per_prompt",
    "calibration_error": "calibration_error",
    "mean_proxy_utility": "mean_score",
}
"""Column -> figure of a range."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and range; columns as the schema of `verifier_quality`."""
    return table([row for samples in data.samples() for row in _of_policy(samples)])


def _of_policy(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    for spec in samples.scorers:
        for rank, part in enumerate(_ranges(samples, spec)):
            yield {
                **samples.keys,
                "verification": spec.name,
                "difficulty": part.label,
                "difficulty_rank": rank,
                "num_prompts": part.num_prompts,
                **{
                    name: value
                    for column, figure in MEASURES.items()
                    for name, value in columns_of(column, getattr(part, figure)).items()
                },
            }


def _ranges(samples: ScoredSamples, spec: Scorer) -> list[DifficultyBin]:
    scores, weights = samples.scores_and_weights(spec)
    return quality_by_difficulty(
        samples.utilities,
        scores,
        weights,
        samples.offsets,
        no_survivors=samples.study.weighting.no_survivors,
        # Ensembles combine ranks or keep and drop: their scores are no probabilities.
        are_probabilities=isinstance(spec, VerificationSpec) and load_method(spec.method).is_probability,
        **bootstrap_options(samples.study),
    )


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The last iteration's ranges, and all iterations' totals, as text."""
    if rows.is_empty():
        return []
    totals = (pl.col("difficulty") == ALL_PROMPTS) | (pl.col("iteration") == pl.col("iteration").max())
    headings = {
        "iteration": "t",
        "verification": "verification",
        "difficulty": "prompts",
        "num_prompts": "number",
        "expected_utility": "J",
        "gap": "gap",
        "coverage": "coverage",
        "tpr": "TPR",
        "fpr": "FPR",
        "auroc_per_prompt": "AUROC",
        "calibration_error": "calibration error",
    }
    order = ["model", "task", "verification", "iteration", "difficulty_rank"]
    return text_rows(rows.filter(totals, pl.col("num_prompts") > 0).sort(order), headings)


DRAWN = {"tpr": "TPR", "fpr": "FPR", "auroc_per_prompt": "AUROC", "gap": "gap"}


def chart(rows: pl.DataFrame) -> Any:
    """TPR, FPR, AUROC and gap by difficulty with their intervals: a panel each, a row an iteration."""
    from si_dagster.analysis.plots import cell_titles, interval_points

    ranges = rows.filter(pl.col("difficulty") != ALL_PROMPTS, pl.col("num_prompts") > 0)
    if ranges.is_empty():
        return None
    titled = cell_titles(ranges)
    long = pl.concat(
        titled.select(
            "verification",
            "difficulty",
            panel=pl.format("{}: {}", "cell", pl.lit(title)),
            value=name,
            value_low=f"{name}_low",
            value_high=f"{name}_high",
        )
        for name, title in DRAWN.items()
    )
    order = ranges.sort("difficulty_rank")["difficulty"].unique(maintain_order=True).to_list()
    return interval_points(
        long, x="difficulty", y="value", color="verification", column="panel", title="", sort=order
    )
