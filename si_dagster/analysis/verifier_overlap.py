"""Verifier overlap: whether two verifications say the same, in scores and in what they keep.

No ground truth is involved, so agreement may be of a shared fault. The paper found little overlap, which is
why ensembles help.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core import overlap
from si_dagster.core.intervals import bootstrap_mean
from si_dagster.stages.conventions import bootstrap_options

TITLE = "Verifier overlap"
CARD = """Every pair of verifications: correlation of their scores, and overlap of what the study's rule would
keep by either.

Reads: utilities (for the order of rows alone), verifications of all iterations.

Writes: one row a pair: samples that both could be read on, Pearson, Spearman, Spearman within prompts,
Jaccard and what chance would give, each with its interval.
"""
READING = """Pearson and Spearman are over all samples that both could be read on, so partly of easy and hard
prompts; Spearman within prompts is what filtering lives on. Jaccard is the share of samples both keep of
those either keeps; by chance is what it would be if both kept as many of each prompt, independently. An
ensemble overlaps with its members by construction."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a pair; columns as the schema of `verifier_overlap`."""
    return table([row for samples in data.samples() for row in _pairs(samples)])


def _pairs(samples: ScoredSamples) -> Iterator[dict[str, Any]]:
    how, offsets = bootstrap_options(samples.study), samples.offsets
    found = {spec.name: samples.scores_and_weights(spec) for spec in samples.scorers}
    scores = {name: values for name, (values, _) in found.items()}
    kept = {name: weights > 0 for name, (_, weights) in found.items()}
    ensembles = {spec.name for spec in samples.ensembles}
    for a, b in combinations(scores, 2):
        if a in ensembles:
            continue  # two ensembles are made of the same, and say nothing of each other
        within = overlap.correlation_of_each_prompt(scores[a], scores[b], offsets)
        yield {
            **samples.keys,
            "verification": a,
            "other": b,
            "num_samples": int(np.count_nonzero(~(np.isnan(scores[a]) | np.isnan(scores[b])))),
            **columns_of("pearson", overlap.correlation(scores[a], scores[b], offsets, **how)),
            **columns_of("spearman", overlap.rank_correlation(scores[a], scores[b], offsets, **how)),
            **columns_of("spearman_per_prompt", bootstrap_mean(within, **how)),
            **columns_of("jaccard", overlap.jaccard(kept[a], kept[b], offsets, **how)),
            **columns_of("jaccard_by_chance", overlap.jaccard_by_chance(kept[a], kept[b], offsets, **how)),
        }


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All pairs, as text."""
    headings = {
        "iteration": "t",
        "verification": "verification",
        "other": "other",
        "num_samples": "samples",
        "pearson": "Pearson",
        "spearman": "Spearman",
        "spearman_per_prompt": "Spearman within prompts",
        "jaccard": "Jaccard",
        "jaccard_by_chance": "by chance",
    }
    return text_rows(rows, headings)


def chart(rows: pl.DataFrame) -> Any:
    """Spearman within prompts as a matrix with intervals, a panel an iteration."""
    from si_dagster.analysis.plots import cell_titles, heat_map

    return heat_map(
        cell_titles(rows),
        x="other",
        y="verification",
        value="spearman_per_prompt",
        column="cell",
    )
