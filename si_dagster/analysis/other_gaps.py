"""Other meanings of "gap" in use, each under its own name, so that no reader takes one for another.

The generation-verification gap of the paper is a difference of expected utilities under a weighting. Others
call a gap what is between pass@n and what a selector picks, or how far a judge of pairs is from guessing. All
are computed here from the same rows; none is better than the others, they answer different questions.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.gap import expected_utility, pooled_gap
from si_dagster.core.intervals import Interval, bootstrap_mean, percentile_interval, resampled_sums
from si_dagster.core.pass_at_k import majority_at_k, pass_at_k
from si_dagster.core.samples import divide_or_nan, sum_per_prompt
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.core.weighting import best_of_n_weights
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.study import Scorer

TITLE = "Other meanings of gap"
CARD = """What else is called a gap, from the same rows, each under its own name: pooled gap, best-of-n gap,
pass@n less selected, pass@n less expected, majority less expected, pairwise accuracy over chance.

Reads: utilities, verifications of all iterations.

Writes: one row a verification and meaning.
"""
READING = """generation_verification_gap is the paper's: J(f[w]) - J(f) under the study's rule. pooled_gap is
the same over all answers at once. best_of_n_gap selects the best-scored answer of each prompt, and
pass_at_n_minus_selected is what that selection leaves of pass@n. pass_at_n_minus_expected and
majority_minus_expected need no verifier. pairwise_accuracy_over_chance is how often a right answer outscores
a wrong one of the same prompt, ties half, less 1/2."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and meaning; columns as the schema of `other_gaps`."""
    return table(
        [row for samples in data.samples() for spec in samples.scorers for row in _of(samples, spec)]
    )


def _of(samples: ScoredSamples, spec: Scorer) -> Iterator[dict[str, Any]]:
    how, (scores, weights) = bootstrap_options(samples.study), samples.scores_and_weights(spec)
    found = {name: bootstrap_mean(values, **how) for name, values in _per_prompt(samples, scores, weights)}
    found["pooled_gap"] = _pooled(samples, weights, how)
    for meaning, value in found.items():
        yield {
            **samples.keys,
            "verification": spec.name,
            "meaning": meaning,
            **columns_of("value", value),
        }


def _per_prompt(
    samples: ScoredSamples, scores: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Those that are a mean over prompts, as values of each prompt."""
    u, offsets = samples.utilities, samples.offsets
    n = int(np.diff(offsets).min())
    expected, at_n = expected_utility(u, offsets), pass_at_k(u, offsets, n)
    selected = samples.gap_per_prompt(best_of_n_weights(scores, offsets, 1, samples.study.seed))
    yield "generation_verification_gap", samples.gap_per_prompt(weights)
    yield "best_of_n_gap", selected
    yield "pass_at_n_minus_selected", at_n - (expected + selected)
    yield "pass_at_n_minus_expected", at_n - expected
    majority = majority_at_k(samples.policy.answers, u, offsets, n, seed=samples.study.seed)
    yield "majority_minus_expected", majority - expected
    yield "pairwise_accuracy_over_chance", auroc_per_prompt(u, scores, offsets) - 0.5


def _pooled(samples: ScoredSamples, weights: np.ndarray, how: dict[str, Any]) -> Interval:
    graded = ~np.isnan(samples.utilities)
    u, w = np.where(graded, samples.utilities, 0.0), np.where(graded, weights, 0.0)
    columns = np.column_stack([sum_per_prompt(values, samples.offsets) for values in (w * u, w, u, graded)])
    sums = resampled_sums(columns, how["num_resamples"], how["seed"])
    draws = divide_or_nan(sums[:, 0], sums[:, 1]) - divide_or_nan(sums[:, 2], sums[:, 3])
    return percentile_interval(pooled_gap(samples.utilities, weights), draws, how["confidence"])


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All meanings, as text."""
    headings = {"iteration": "t", "verification": "verification", "meaning": "meaning", "value": "value"}
    return text_rows(rows, headings)


def chart(rows: pl.DataFrame) -> Any:
    """All meanings side by side, a panel an iteration."""
    from si_dagster.analysis.plots import cell_titles, interval_points

    return interval_points(
        cell_titles(rows), x="meaning", y="value", color="verification", column="cell", title="value"
    )
