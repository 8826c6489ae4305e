"""Diversity over iterations: pass@k for every k, distinct answers and entropy, against the base.

Self-improvement spends diversity: pass@k rises for small k and falls for large k. The same n of every
iteration is compared, since all these measures grow with n. It does not say what a loss costs later.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.diversity import answer_entropy, answered_share, distinct_answers
from si_dagster.core.intervals import UNKNOWN, Interval, bootstrap_means
from si_dagster.core.pass_at_k import pass_at_k
from si_dagster.stages.conventions import bootstrap_options

TITLE = "Diversity over iterations"
CARD = """pass@k for every k that n allows, distinct answers, entropy of answers: each with its paired
difference to the base, and the k from which on an iteration is worse than the base.

Reads: utilities of all iterations.

Writes: one row a measure and iteration.
"""
READING = """Over base is the paired difference to iteration 0 on the same prompts. Crossing k is the
smallest k at which pass@k is below that of the base; its lower end is where the estimate first is, its
upper end where the interval of the difference first excludes 0. Counts of distinct answers and entropy are
biased down alike in every iteration, as all have the same n. pass@k rests on the prompts that have k graded
answers: where a grader failed, fewer than all for the largest k."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a measure; columns as the schema of `diversity`."""
    bases: dict[tuple[str, str], ScoredSamples] = {}
    found: list[dict[str, Any]] = []
    for samples in data.samples():
        base = bases.setdefault((samples.model, samples.task), samples)
        found += _of_policy(samples, base if base.iteration == 0 and samples.iteration > 0 else None)
    return table(found)


def measures(samples: ScoredSamples) -> dict[tuple[str, int], np.ndarray]:
    """(measure, k) -> its value on each prompt, NaN if unknown; shape (num_prompts,)."""
    policy, offsets = samples.policy, samples.offsets
    fewest = int(np.diff(offsets).min())
    return {
        **{("pass_at_k", k): pass_at_k(policy.utilities, offsets, k) for k in range(1, fewest + 1)},
        ("distinct_answers", 0): distinct_answers(policy.answers, offsets).astype(float),
        ("answer_entropy", 0): answer_entropy(policy.answers, offsets),
        ("answered", 0): answered_share(policy.answers, offsets),
    }


def _of_policy(samples: ScoredSamples, base: ScoredSamples | None) -> Iterator[dict[str, Any]]:
    how, ours = bootstrap_options(samples.study), measures(samples)
    values = bootstrap_means(np.column_stack(list(ours.values())), **how)
    differences = _over_base(samples, ours, base, how)
    for (measure, k), value in zip(ours, values, strict=True):
        yield {
            **samples.keys,
            "measure": measure,
            "k": k,
            **columns_of("value", value),
            **columns_of("over_base", differences.get((measure, k), UNKNOWN)),
            "num_prompts": int((~np.isnan(ours[measure, k])).sum()),
        }
    if base is not None:
        value = columns_of("value", crossing(differences))
        yield {**samples.keys, "measure": "crossing_k", "k": 0, **value, **columns_of("over_base", UNKNOWN)}


def _over_base(
    samples: ScoredSamples,
    ours: dict[tuple[str, int], np.ndarray],
    base: ScoredSamples | None,
    how: dict[str, Any],
) -> dict[tuple[str, int], Interval]:
    """Paired differences to the base, in the measures both have; none without a base on the same prompts."""
    if base is None or not np.array_equal(base.policy.prompt_ids, samples.policy.prompt_ids):
        return {}
    theirs = measures(base)
    both = [key for key in ours if key in theirs]
    columns = np.column_stack([ours[key] - theirs[key] for key in both])
    return dict(zip(both, bootstrap_means(columns, **how), strict=True))


def crossing(differences: dict[tuple[str, int], Interval]) -> Interval:
    """Smallest k whose pass@k is below the base's: by the estimate, and beyond doubt (its upper end).

    Examples:
        >>> crossing({("pass_at_k", 1): Interval(0.1, 0, 1), ("pass_at_k", 2): Interval(-0.1, -0.3, 0.1)})
        Interval(estimate=2.0, low=2.0, high=nan)
    """
    at_k = {k: found for (measure, k), found in sorted(differences.items()) if measure == "pass_at_k"}
    first = min((k for k, found in at_k.items() if found.estimate < 0), default=float("nan"))
    clear = min((k for k, found in at_k.items() if found.high < 0), default=float("nan"))
    return Interval(float(first), float(first), float(clear))


def collapsed(rows: pl.DataFrame) -> list[str]:
    """What has collapsed, one sentence a finding: pass@n or entropy beyond doubt below the base's (ours).

    Entropy counts where half of it is gone; pass@n where its interval of the difference excludes 0.
    """
    largest_k = pl.col("k").max().over("iteration", "model", "task")
    pass_at_n = (pl.col("measure") == "pass_at_k") & (pl.col("k") == largest_k)
    lost = pl.col("over_base_high") < 0
    halved = pl.col("value") < -pl.col("over_base")  # value < base / 2
    entropy = (pl.col("measure") == "answer_entropy") & halved
    return [
        f"{row['model']} on {row['task']}, iteration {row['iteration']}: "
        f"{row['measure'] if row['k'] == 0 else 'pass@' + str(row['k'])} is {row['value']:.3f}, "
        f"{row['over_base']:+.3f} [{row['over_base_low']:+.3f}, {row['over_base_high']:+.3f}] over the base"
        for row in rows.filter(lost & (pass_at_n | entropy)).iter_rows(named=True)
    ]


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """pass@k at powers of two, and the other measures, as text."""
    if rows.is_empty():
        return []
    few = pl.col("k").is_in([0, *(2**i for i in range(11))]) | (pl.col("k") == pl.col("k").max())
    named = rows.filter(few).with_columns(
        measure=pl.when(pl.col("k") > 0).then(pl.format("pass@{}", "k")).otherwise(pl.col("measure"))
    )
    headings = {
        "measure": "measure",
        "iteration": "t",
        "value": "value",
        "over_base": "over base",
        "num_prompts": "prompts",
    }
    order = ["model", "task", pl.col("k") == 0, "k", "measure", "iteration"]
    return text_rows(named.sort(order), headings)


def chart(rows: pl.DataFrame) -> Any:
    """pass@k over k, a line an iteration, a panel a cell."""
    from si_dagster.analysis.plots import interval_lines

    at_k = rows.filter(pl.col("measure") == "pass_at_k").with_columns(
        cell=pl.format("{} {}", "model", "task"), policy=pl.format("iteration {}", "iteration")
    )
    return interval_lines(at_k, x="k", y="value", color="policy", column="cell", title="pass@k", log_x=True)
