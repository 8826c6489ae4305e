"""Baselines: what could stand in the place of a verification, beside its gap.

A random filter that keeps as many of each prompt, the majority vote, which costs nothing, the verification
itself on fewer generations so that its own cost is paid for, and the filter by ground truth, which is no
method but the top of the scale and is marked so. It trains nobody.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.ablations import subsampled_gap
from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.diversity import vote_shares
from si_dagster.core.fingerprint import derive_seed
from si_dagster.core.intervals import UNKNOWN, bootstrap_mean, paired_difference
from si_dagster.core.samples import max_per_prompt, per_sample, sum_per_prompt
from si_dagster.core.weighting import best_weights
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.store.layout import Address
from si_dagster.study import Scorer
from si_dagster.verification.catalogue import load_method

TITLE = "Baselines at the same cost"
CARD = """Each verification beside a random filter, the majority vote, itself at equal cost, and the oracle.

Reads: generations and verifications (their cost), utilities of all iterations.

Writes: one row a verification and baseline: its gap, and the advantage of the verification over it, paired by
prompt, on all generations and on so few that both cost the same.
"""
READING = """Advantage is the gap of the verification less that of the baseline, paired by prompt. The random
filter keeps as many answers of each prompt as the verification does; the majority vote keeps the most common
answer of each prompt. Same cost is the verification on so few generations that generating and verifying them
costs about what generating all n did, rather more: the bound is from above, in favour of verifying. Of
tournaments there is none, since fewer answers would have played other matches. Advantage at the same cost is
its gap less that of the baseline, which has all n: whether a budget is better spent on verifying. The oracle
filter reads ground truth: a bound, not a method."""

SAME_COST = "same_cost"

RANDOM_DRAWS = 16
"""A single draw of a filter by lot has a gap of its own, of chance; sixteen bring it to a quarter."""


def rows(data: StudyData) -> pl.DataFrame:
    """A row a verification and baseline; columns as the schema of `baselines`."""
    return table(
        [
            row
            for samples in data.samples()
            for spec in samples.scorers
            if not samples.is_bound(spec)
            for row in _of_verification(data, samples, spec)
        ]
    )


def _of_verification(data: StudyData, samples: ScoredSamples, spec: Scorer) -> Iterator[dict[str, Any]]:
    weights, cost = samples.weights(spec), relative_cost(data, samples, spec)
    ours, size = samples.gap_per_prompt(weights), int(np.diff(samples.offsets).min())
    baselines = {
        "random_filter": (random_filter_gap(samples, weights), size),
        "majority_vote": (samples.gap_per_prompt(majority_filter(samples)), size),
        "oracle_filter": (samples.gap_per_prompt(np.nan_to_num(samples.utilities)), size),
    }
    num_affordable = 0 if cost is None else affordable(size, cost, prompt_share(data, samples))
    fewer = subsampled_gap(samples, spec, num_affordable) if num_affordable else None
    if fewer is not None:
        baselines[SAME_COST] = (fewer.gap, num_affordable)
    how = bootstrap_options(samples.study)
    for name, (gaps, num_generations) in baselines.items():
        yield {
            **samples.keys,
            "verification": spec.name,
            "baseline": name,
            "is_oracle": name == "oracle_filter",
            "num_generations": num_generations,
            "relative_cost": cost,
            **columns_of("gap", bootstrap_mean(gaps, **how)),
            **columns_of("advantage", paired_difference(ours, gaps, **how)),
            **columns_of(
                "same_cost_advantage",
                UNKNOWN if fewer is None or name == SAME_COST else paired_difference(fewer.gap, gaps, **how),
            ),
        }


def random_filter_gap(samples: ScoredSamples, weights: np.ndarray) -> np.ndarray:
    """gap_x of keeping as many samples of each prompt as have a positive weight, by lot; mean of draws."""
    num_kept = sum_per_prompt(weights > 0, samples.offsets).astype(np.int64)
    all_tied = np.zeros(len(weights))  # so that the seed decides
    seeds = (derive_seed(samples.study.seed, "random_filter", d) for d in range(RANDOM_DRAWS))
    drawn = (best_weights(all_tied, samples.offsets, num_kept, seed) for seed in seeds)
    return np.mean([samples.gap_per_prompt(kept) for kept in drawn], axis=0)


def majority_filter(samples: ScoredSamples) -> np.ndarray:
    """Weight 1 for the most common answer of each prompt, or answers where several are; never for none."""
    votes, offsets = vote_shares(samples.policy.answers, samples.offsets), samples.offsets
    return (votes == per_sample(max_per_prompt(votes, offsets), offsets)).astype(np.float64)


def affordable(size: int, cost: float, share: float = 0.0) -> int:
    """The most generations that can be drawn and verified for what drawing `size` of them cost.

    An upper bound where equal answers are verified once: fewer answers have fewer equal ones among them.

    Args:
        size: Generations a prompt.
        cost: Of verifying them all, over that of drawing them.
        share: Of the cost of drawing that the reading of prompts is, and stays however few are drawn.

    Examples:
        Verifying costs what drawing does, so 8 buy 8 / 2; half of that spent on prompts, 8 · .5 / (.5 + 1):

        >>> affordable(8, 1.0), affordable(8, 1.0, 0.5), affordable(8, 0.0)
        (4, 2, 8)
    """
    return int(size * (1.0 - share) / (1.0 - share + cost)) if cost else size


def prompt_share(data: StudyData, samples: ScoredSamples) -> float:
    """Share of the tokens of generating that were prompts, each read once for all its samples; or 0."""
    cell = (samples.study.name, samples.iteration)
    address = Address(*cell, "generations", samples.model, samples.task, samples.split)
    names = ("prompt_tokens", "cached_tokens", "completion_tokens")
    read, cached, drawn = (data.told(address, name) or 0.0 for name in names)
    return (read - cached) / (read - cached + drawn) if drawn else 0.0


def relative_cost(data: StudyData, samples: ScoredSamples, spec: Scorer) -> float | None:
    """FLOPs of verifying over those of generating, of all runs that made them; `None` where any is not told.

    An ensemble costs what its members do, those nothing that call no verifier.
    """
    cell = (samples.study.name, samples.iteration)
    of = (samples.model, samples.task)
    generated = data.told(Address(*cell, "generations", *of, samples.split), "flops")
    methods = {name: load_method(samples.study.verification_named(name).method) for name in spec.sources}
    verified = [
        data.told(Address(*cell, "verifications", *of, f"{samples.split}.{name}"), "flops")
        for name, method in methods.items()
        if method.calls_verifier
    ]
    known = [flops for flops in verified if flops is not None]
    return sum(known) / generated if generated and len(known) == len(verified) else None


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """All baselines, as text; the oracle marked."""
    marked = rows.with_columns(
        baseline=pl.when("is_oracle").then(pl.format("{} (oracle)", "baseline")).otherwise("baseline")
    )
    headings = {
        "iteration": "t",
        "verification": "verification",
        "baseline": "baseline",
        "num_generations": "n",
        "gap": "gap of the baseline",
        "advantage": "advantage of verification",
        "same_cost_advantage": "at the same cost",
        "relative_cost": "relative cost",
    }
    return text_rows(marked, headings)


def chart(rows: pl.DataFrame) -> Any:
    """Advantage over each baseline at n and at the same cost, a panel an iteration; without the oracle."""
    from si_dagster.analysis.plots import cell_titles, interval_points

    drawn = cell_titles(rows.filter(~pl.col("is_oracle")))
    long = pl.concat(
        drawn.select(
            "baseline",
            "verification",
            cell=pl.concat_str("cell", pl.lit(told)),
            value=name,
            value_low=f"{name}_low",
            value_high=f"{name}_high",
        ).filter(pl.col("value").is_not_null())
        for name, told in (("advantage", ""), ("same_cost_advantage", ", at the same cost"))
    )
    return interval_points(
        long,
        x="baseline",
        y="value",
        color="verification",
        column="cell",
        title="advantage of the verification",
    )
