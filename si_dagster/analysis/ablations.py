"""Ablations: the gap had fewer generations a prompt, or fewer verifications of each, been drawn.

Subsamples of what is stored: n generations are cut into disjoint blocks of fewer, and the numbers are means
over blocks, so that nothing drawn is thrown away. Temperature cannot be had this way: which tokens another
temperature would have drawn is not stored, so temperatures are compared between studies (`comparison`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.diversity import vote_shares
from si_dagster.core.gap import expected_utility, gap_per_prompt, relative_gap_per_prompt
from si_dagster.core.intervals import bootstrap_mean
from si_dagster.core.samples import divide_or_nan, sum_per_prompt
from si_dagster.core.weighting import fill_unparsed
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.stages.samples import floats
from si_dagster.stages.weighting import proxy_utilities, rule_weights, scores_and_weights
from si_dagster.study import Scorer, VerificationSpec
from si_dagster.verification.catalogue import load_method
from si_dagster.verification.majority_vote import MajorityVote

TITLE = "Fewer generations, fewer verifications"
CARD = """The gap with fewer generations a prompt (n) and fewer verifications of each (M), by subsampling what
is stored.

Reads: utilities, verifications of all iterations.

Writes: one row a verification, factor and level.
"""
READING = """n: generations a prompt, cut into disjoint blocks and averaged over them. M: verifications a
generation, where the study drew several. Votes are counted anew in each block; of tournaments, whose matches
would have been others, there are no smaller n. A relative gap leaves out blocks in which every answer is
right, so at small n it is of harder prompts."""


@dataclass(frozen=True)
class SubsampledGap:
    """Mean over the blocks of each prompt; NaN where no block has a value; shapes (num_prompts,)."""

    gap: np.ndarray
    relative_gap: np.ndarray
    num_subsamples: int


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification, factor and level; columns as the schema of `ablations`."""
    return table(
        [row for samples in data.samples() for spec in samples.scorers for row in _of(samples, spec)]
    )


def _of(samples: ScoredSamples, spec: Scorer) -> Iterator[dict[str, Any]]:
    size = int(np.diff(samples.offsets).min())
    for n in levels(size)[1:]:  # of one generation nothing can be chosen: its gap is 0
        if (found := subsampled_gap(samples, spec, n)) is not None:
            yield _row(samples, spec, "n", n, found)
    if not isinstance(spec, VerificationSpec):
        return
    most = int(samples.verifications[spec.name]["verification_index"].max() or 0) + 1  # pyright: ignore[reportArgumentType, reportOperatorIssue]
    for m in levels(most) if most > 1 else ():
        yield _row(samples, spec, "M", m, fewer_verifications_gap(samples, spec, m, most))


def levels(most: int) -> list[int]:
    """Powers of two below, and the number itself.

    Examples:
        >>> levels(12)
        [1, 2, 4, 8, 12]
    """
    return [2**i for i in range(most.bit_length()) if 2**i < most] + [most]


def subsampled_gap(samples: ScoredSamples, spec: Scorer, n: int) -> SubsampledGap | None:
    """The gap had n generations a prompt been drawn: each block of n counts as a prompt, then the mean.

    `None` where a score cannot be had of the block alone: a tournament would have played other matches.
    """
    sizes = np.diff(samples.offsets)
    num_blocks = sizes // n
    within = np.arange(len(samples.utilities)) - np.repeat(samples.offsets[:-1], sizes)
    chosen = within < np.repeat(num_blocks * n, sizes)
    block_offsets = np.arange(int(num_blocks.sum()) + 1) * n
    scores = {}
    for name in spec.sources:
        of_blocks = _scores_of_blocks(samples, samples.study.verification_named(name), chosen, block_offsets)
        if of_blocks is None:
            return None
        scores[name] = of_blocks
    _, weights = scores_and_weights(samples.study, spec, scores, block_offsets, samples.study.seed)
    return _mean_of_blocks(samples, samples.utilities[chosen], weights, block_offsets, num_blocks)


def _scores_of_blocks(
    samples: ScoredSamples, spec: VerificationSpec, chosen: np.ndarray, block_offsets: np.ndarray
) -> np.ndarray | None:
    """Scores as if the samples of a block were all that the prompt has; `None` where nobody can tell.

    Methods that compare answers scored them among all n: votes are counted anew, matches cannot be.
    """
    method = load_method(spec.method)
    if not method.compares or np.array_equal(block_offsets, samples.offsets):
        scores = samples.parsed[spec.name][chosen]
    elif isinstance(method, MajorityVote):
        scores = vote_shares(samples.policy.answers[chosen], block_offsets)
    else:
        return None
    return fill_unparsed(scores, block_offsets, spec.unparsed_policy)


def fewer_verifications_gap(
    samples: ScoredSamples, spec: VerificationSpec, m: int, most: int
) -> SubsampledGap:
    """The gap had m verifications a generation been drawn: disjoint groups of them, then the mean."""
    found = []
    for start in range(0, most - m + 1, m):
        group = pl.col("verification_index").is_between(start, start + m - 1)
        scores = proxy_utilities(samples.verifications[spec.name].filter(group))
        values = fill_unparsed(floats(scores["proxy_utility"]), samples.offsets, spec.unparsed_policy)
        weights = rule_weights(values, samples.offsets, samples.study.weighting, samples.study.seed)
        one_each = np.ones(len(samples.offsets) - 1, dtype=np.int64)
        found.append(_mean_of_blocks(samples, samples.utilities, weights, samples.offsets, one_each))
    return SubsampledGap(
        np.mean([each.gap for each in found], axis=0),
        np.mean([each.relative_gap for each in found], axis=0),
        len(found),
    )


def _mean_of_blocks(
    samples: ScoredSamples,
    utilities: np.ndarray,
    weights: np.ndarray,
    block_offsets: np.ndarray,
    num_blocks: np.ndarray,
) -> SubsampledGap:
    convention = samples.study.weighting.no_survivors
    gaps = gap_per_prompt(utilities, weights, block_offsets, convention)
    expected = expected_utility(utilities, block_offsets)
    relative = relative_gap_per_prompt(gaps, expected, samples.study.analysis.saturated)
    of_prompt = np.concatenate([[0], np.cumsum(num_blocks)])
    return SubsampledGap(
        _known_mean(gaps, of_prompt),
        _known_mean(relative, of_prompt),
        int(num_blocks.min()) if len(num_blocks) else 0,
    )


def _known_mean(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return divide_or_nan(
        sum_per_prompt(np.where(known, values, 0.0), offsets), sum_per_prompt(known, offsets)
    )


def _row(
    samples: ScoredSamples, spec: Scorer, factor: str, level: int, found: SubsampledGap
) -> dict[str, Any]:
    how = bootstrap_options(samples.study)
    return {
        **samples.keys,
        "verification": spec.name,
        "factor": factor,
        "level": level,
        **columns_of("gap", bootstrap_mean(found.gap, **how)),
        **columns_of("relative_gap", bootstrap_mean(found.relative_gap, **how)),
        "num_subsamples": found.num_subsamples,
    }


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All levels, as text."""
    headings = {
        "iteration": "t",
        "verification": "verification",
        "factor": "factor",
        "level": "level",
        "gap": "gap",
        "relative_gap": "relative gap",
        "num_subsamples": "subsamples",
    }
    return text_rows(rows, headings)


def chart(rows: pl.DataFrame) -> Any:
    """The gap over n, a panel an iteration; and over M where the study drew several."""
    from si_dagster.analysis.plots import cell_titles, interval_lines

    return interval_lines(
        cell_titles(rows),
        x="level",
        y="gap",
        color="verification",
        column="cell",
        row="factor",
        title="gap",
        log_x=True,
    )
