"""Cross-verification: every generator of a study judged by every verifier of it, gap and relative gap.

The paper's matrix (rows generator, columns verifier). It compares verifiers on the generations of one
generator; generators with each other differ in their prompts' difficulty too, which no pairing removes.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, estimated, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.intervals import UNKNOWN, Interval, bootstrap_mean, paired_difference
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.study import SELF, VerificationSpec

ENSEMBLE = "ensemble"

TITLE = "Cross-verification"
CARD = """Every generator judged by every verifier, on evaluation prompts, under the study's weighting rule.

Reads: utilities, verifications of all iterations.

Writes: one row a generator, iteration and verification: gap, relative gap, AUROC within prompts, and the gap
over self-verification by the same method, all with intervals.
"""
READING = """Rows are generators, columns verifiers. Over self is the gap less that of self-verification by
the same method, paired by prompt. Ensembles of all verifications stand beside them. In the paper the gap
grows with the verifier and shrinks as the generator grows."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a generator and verification; columns as the schema of `cross_verification`."""
    return table([row for samples in data.samples() for row in _of_generator(samples)])


def _of_generator(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    how = bootstrap_options(samples.study)
    for spec in samples.scorers:
        scores, weights = samples.scores_and_weights(spec)
        estimate = samples.estimate(weights)
        ranking = auroc_per_prompt(samples.utilities, scores, samples.offsets)
        single = isinstance(spec, VerificationSpec)
        yield {
            **samples.keys,
            "verification": spec.name,
            "method": spec.method if single else spec.name,
            "verifier": spec.verifier if single else ENSEMBLE,
            **estimated(estimate, "expected_utility", "gap", "relative_gap"),
            **columns_of("over_self", _over_self(samples, spec) if single else UNKNOWN),
            **columns_of("auroc_per_prompt", bootstrap_mean(ranking, **how)),
            "num_prompts": estimate.num_prompts,
        }


def _over_self(samples: ScoredSamples, spec: VerificationSpec) -> Interval:
    """Unknown for self-verification itself, and where the study has none by that method."""
    own = [other for other in samples.specs if other.method == spec.method and other.verifier == SELF]
    if spec.verifier == SELF or not own:
        return UNKNOWN
    gaps = [samples.gap_per_prompt(samples.weights(which)) for which in (spec, own[0])]
    return paired_difference(gaps[0], gaps[1], **bootstrap_options(samples.study))


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The matrix as a list, as text."""
    headings = {
        "iteration": "t",
        "model": "generator",
        "method": "method",
        "verifier": "verifier",
        "expected_utility": "J",
        "gap": "gap",
        "relative_gap": "relative gap",
        "over_self": "over self",
        "auroc_per_prompt": "AUROC in a prompt",
    }
    order = ["task", "iteration", "method", "model", "verifier"]
    return text_rows(rows.sort(order), headings, cells=["task"]) if rows.height else []


def chart(rows: pl.DataFrame) -> Any:
    """The gap as a matrix with intervals, a row a generator and method, a panel an iteration."""
    from si_dagster.analysis.plots import heat_map

    labelled = rows.with_columns(
        generator=pl.format("{}, by {}", "model", "method"),
        which=_panel(rows),
    )
    return heat_map(labelled, x="verifier", y="generator", value="gap", column="which")


def _panel(rows: pl.DataFrame) -> pl.Expr:
    iteration = pl.format("iteration {}", "iteration")
    return pl.format("{}, {}", "task", iteration) if rows["task"].n_unique() > 1 else iteration
