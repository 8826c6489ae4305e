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
from si_dagster.core.intervals import (
    UNKNOWN,
    Interval,
    bootstrap_means,
    percentile_interval,
    resampled_sums,
)
from si_dagster.core.pass_at_k import majority_at_k
from si_dagster.core.samples import divide_or_nan, max_per_prompt, per_sample, sum_per_prompt
from si_dagster.core.verifier_quality import auroc_per_prompt, match_accuracy
from si_dagster.core.weighting import best_of_n_weights
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.stages.samples import by_prompt
from si_dagster.study import Scorer, VerificationSpec
from si_dagster.verification.catalogue import load_method
from si_dagster.verification.tournament import Tournament

TITLE = "Other meanings of gap"
CARD = """What else is called a gap, from the same rows, each under its own name: pooled gap, best-of-n gap,
pass@n less selected, pass@n less expected, majority less expected, AUROC over chance, and of tournaments the
accuracy of the judge of pairs over chance.

Reads: utilities, verifications of all iterations, with the replies of tournaments.

Writes: one row a verification and meaning.
"""
READING = """generation_verification_gap is the paper's: J(f[w]) - J(f) under the study's rule. pooled_gap is
the same over all answers at once. best_of_n_gap selects the best-scored answer of each prompt, and
pass_at_n_minus_selected is what that selection leaves of pass@n, n being as many answers as were graded.
pass_at_n_minus_expected and majority_minus_expected need no verifier. auroc_over_chance is how often a right
answer outscores a wrong one of the same prompt, ties half, less 1/2. match_accuracy_over_chance is of
tournaments alone: how often the right answer won when the verifier decided a match of a right and a wrong
one, less 1/2; lots do not count."""

MATCH = pl.Struct({"A": pl.String, "B": pl.String, "winner": pl.String, "by": pl.String})
"""What is read of a match as a tournament stores it."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and meaning; columns as the schema of `other_gaps`."""
    return table([row for samples in data.samples() for row in _of_policy(samples)])


def _of_policy(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    unverified = _unverified(samples)
    for spec in samples.scorers:
        for meaning, value in _of(samples, spec, unverified).items():
            yield {
                **samples.keys,
                "verification": spec.name,
                "meaning": meaning,
                **columns_of("value", value),
            }


def _unverified(samples: ScoredSamples) -> dict[str, np.ndarray]:
    """What needs no verifier, as values of each prompt; n is as many answers as it has graded."""
    u, offsets = samples.utilities, samples.offsets
    expected = expected_utility(u, offsets)
    solved = max_per_prompt(np.where(np.isnan(u), np.nan, u >= 1.0), offsets)
    majority = majority_at_k(samples.policy.answers, u, offsets, k=None)
    return {
        "pass_at_n_minus_expected": solved - expected,
        "majority_minus_expected": majority - expected,
    }


def _of(samples: ScoredSamples, spec: Scorer, unverified: dict[str, np.ndarray]) -> dict[str, Interval]:
    """Every meaning of one verification or ensemble."""
    how, (scores, weights) = bootstrap_options(samples.study), samples.scores_and_weights(spec)
    graded = np.where(np.isnan(samples.utilities), np.nan, scores)
    selected = samples.gap_per_prompt(best_of_n_weights(graded, samples.offsets, 1, samples.study.seed))
    per_prompt = {
        "generation_verification_gap": samples.gap_per_prompt(weights),
        "best_of_n_gap": selected,
        "pass_at_n_minus_selected": unverified["pass_at_n_minus_expected"] - selected,
        "auroc_over_chance": auroc_per_prompt(samples.utilities, scores, samples.offsets) - 0.5,
        **unverified,
    }
    means = bootstrap_means(np.column_stack(list(per_prompt.values())), **how)
    found = dict(zip(per_prompt, means, strict=True)) | {"pooled_gap": _pooled(samples, weights, how)}
    if isinstance(spec, VerificationSpec) and isinstance(load_method(spec.method), Tournament):
        found["match_accuracy_over_chance"] = _match_accuracy_over_chance(samples, spec, how)
    return found


def _pooled(samples: ScoredSamples, weights: np.ndarray, how: dict[str, Any]) -> Interval:
    graded = ~np.isnan(samples.utilities)
    u, w = np.where(graded, samples.utilities, 0.0), np.where(graded, weights, 0.0)
    columns = np.column_stack([sum_per_prompt(values, samples.offsets) for values in (w * u, w, u, graded)])
    sums = resampled_sums(columns, how["num_resamples"], how["seed"])
    draws = divide_or_nan(sums[:, 0], sums[:, 1]) - divide_or_nan(sums[:, 2], sums[:, 3])
    return percentile_interval(pooled_gap(samples.utilities, weights), draws, how["confidence"])


def _match_accuracy_over_chance(
    samples: ScoredSamples, spec: VerificationSpec, how: dict[str, Any]
) -> Interval:
    """Over the stored matches that the verifier decided; unknown where none are stored."""
    columns = ["generation_id", "verification_index", "prompt_id", "sample_index", "reply"]
    rows = samples.verification_rows(spec, columns)
    if rows is None:
        return UNKNOWN
    first = by_prompt(rows.filter(pl.col("verification_index") == 0))
    places = pl.DataFrame(
        {
            "generation_id": first["generation_id"],
            "prompt": per_sample(np.arange(len(samples.offsets) - 1), samples.offsets),
            "utility": samples.utilities,
        }
    )
    decided = decided_matches(rows)
    winners, losers = (
        decided.select(generation_id=side).join(places, on="generation_id", how="left", maintain_order="left")
        for side in ("winner", "loser")
    )
    accuracy = match_accuracy(
        winners["utility"].to_numpy(),
        losers["utility"].to_numpy(),
        winners["prompt"].to_numpy(),
        len(samples.offsets) - 1,
        **how,
    )
    return Interval(accuracy.estimate - 0.5, accuracy.low - 0.5, accuracy.high - 0.5)


def decided_matches(rows: pl.DataFrame) -> pl.DataFrame:
    """The matches of tournaments whose winner the verifier named, each once: generation ids of both.

    Args:
        rows: Verifications by a tournament, with generation_id and reply.

    Returns:
        Columns winner and loser.

    Examples:
        Stored with both who met in it; a lot is nobody's decision:

        >>> matches = '[{"A": "x", "B": "y", "winner": "B", "by": "verifier"},'
        >>> matches += ' {"A": "y", "B": "x", "winner": "A", "by": "lot"}]'
        >>> rows = pl.DataFrame({"generation_id": ["x", "y"], "reply": [matches, matches]})
        >>> decided_matches(rows).rows()
        [('y', 'x')]
    """
    matches = (
        rows.select("generation_id", match=pl.col("reply").str.json_decode(pl.List(MATCH)))
        .explode("match")
        .unnest("match")
        .filter(pl.col("A") == pl.col("generation_id"), pl.col("by") == "verifier")
    )
    first_won = pl.col("winner") == "A"
    return matches.select(
        winner=pl.when(first_won).then("A").otherwise("B"), loser=pl.when(first_won).then("B").otherwise("A")
    )


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
