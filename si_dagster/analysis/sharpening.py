"""Sharpening (arXiv 2412.01951): the likeliest of N answers, greedy decoding, and coverage, by iteration.

Reads what a study verified by `log_likelihood`. Greedy decoding is a study of its own (temperature 0, one
answer), named by `analysis.greedy`, whose bases have to be of the same recipe and seed; nothing here checks
that. It trains nothing.
"""

from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.gap import expected_utility, reweighted_utility
from si_dagster.core.intervals import bootstrap_mean
from si_dagster.core.sharpening import inverse_likelihood_of_best
from si_dagster.core.weighting import best_of_n_weights
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.stages.samples import PolicySamples
from si_dagster.store.layout import Address

METHOD = "log_likelihood"
TITLE = "Sharpening"
CARD = """The policy's own log-likelihood as the reward: J of the likeliest answers, of greedy decoding, and
how hard the likeliest answer is to find. Empty where the study has no verification by `log_likelihood`.

Reads: utilities, verifications of all iterations; utilities of the study named by `analysis.greedy`, if any.

Writes: one row an iteration and verification by `log_likelihood`.
"""
READING = """Of studies that verify by `log_likelihood`; others have none. J is the expected utility on
evaluation prompts, `likeliest` that of the likeliest of the N answers by the policy's own log-likelihood
(what best-of-N distillation trains on), `greedy` that of the base at temperature 0, where the study names one
that did. 1/pi(y*) is the mean over prompts of the inverse probability of the likeliest answer found, the
coverage coefficient of arXiv 2412.01951, and its median: about how many draws find that answer. It errs
upwards."""

UTILITIES = {"expected_utility": "J", "likeliest": "likeliest", "greedy": "greedy"}


def rows(data: StudyData) -> pl.DataFrame:
    """A row an iteration and verification; columns as the schema of `sharpening`."""
    return table(
        [
            _row(samples, spec.name, _greedy(data, samples))
            for samples in data.samples()
            for spec in samples.specs
            if spec.method == METHOD
        ]
    )


def _greedy(data: StudyData, samples: ScoredSamples) -> PolicySamples | None:
    """Utilities of the base's greedy answers to the same prompts, where they are stored.

    Of iteration 0 alone: what the study that decodes greedily trains later on is another policy.
    """
    study = data.study.analysis.greedy
    if study is None or samples.iteration > 0:
        return None
    cell = (samples.iteration, "utilities", samples.model, samples.task, samples.split)
    artifact = data.artifacts.get(Address(study, *cell))
    if artifact is None:
        return None
    greedy = PolicySamples.of(artifact.read(["prompt_id", "sample_index", "utility"]))
    return greedy if np.array_equal(greedy.prompt_ids, samples.policy.prompt_ids) else None


def _row(samples: ScoredSamples, verification: str, greedy: PolicySamples | None) -> dict[str, Any]:
    logprobs, offsets = samples.scores[verification], samples.offsets
    best = best_of_n_weights(logprobs, offsets, 1, samples.study.seed)
    inverse = inverse_likelihood_of_best(logprobs, offsets)
    values = {
        "expected_utility": expected_utility(samples.utilities, offsets),
        "likeliest": reweighted_utility(samples.utilities, best, offsets),
        "greedy": expected_utility(greedy.utilities, greedy.offsets) if greedy else np.full(1, np.nan),
        "inverse_likelihood": inverse,
    }
    row = {**samples.keys, "verification": verification}
    for name, per_prompt in values.items():
        row |= columns_of(name, bootstrap_mean(per_prompt, **bootstrap_options(samples.study)))
    return row | {
        "inverse_likelihood_median": float(np.nanmedian(inverse)),
        "num_prompts": len(offsets) - 1,
        "n": int(np.diff(offsets).min()),
    }


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The rows as text."""
    coverage = {"inverse_likelihood": "1/pi(y*)", "inverse_likelihood_median": "median"}
    return text_rows(
        rows, {"iteration": "t", **UTILITIES, **coverage}, cells=("model", "task", "verification")
    )


def chart(rows: pl.DataFrame) -> Any:
    """J, J of the likeliest and J of greedy decoding by iteration, a panel a model and task."""
    from si_dagster.analysis.plots import interval_points

    long = pl.concat(
        rows.select(
            pl.col("iteration").cast(pl.String),
            answers=pl.lit(title),
            cell=pl.concat_str("model", "task", "verification", separator=" "),
            value=name,
            value_low=f"{name}_low",
            value_high=f"{name}_high",
        )
        for name, title in UTILITIES.items()
    ).drop_nulls("value")
    order = [str(iteration) for iteration in sorted(set(rows["iteration"]))]
    return interval_points(
        long,
        x="iteration",
        y="value",
        color="answers",
        column="cell",
        title="J, held-out prompts",
        sort=order,
    )
