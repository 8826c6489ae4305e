"""Threshold sweep: every cut of every verification and ensemble, as if the study had used it.

A counterfactual from stored verifications; no engine is asked. Cuts are placed and chosen on one half of the
evaluation prompts and scored on the other, and the p-values of all cuts are adjusted by Holm within each
iteration, model and task. It does not say what training on another set would have led to: only which rows
would enter it and which would leave.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import BOUNDS, ScoredSamples, StudyData, table
from si_dagster.analysis.table import interval_text
from si_dagster.core.fingerprint import derive_seed
from si_dagster.core.intervals import MeansAboveZero, means_above_zero
from si_dagster.core.multiplicity import holm
from si_dagster.core.samples import offsets_of_subset, per_sample
from si_dagster.core.sweep import gap_of_kept, kept_at_quantiles, kept_at_thresholds
from si_dagster.core.weighting import fill_unparsed
from si_dagster.stages.weighting import scores_and_weights

TITLE = "Threshold sweep"
CARD = """What other thresholds would have kept, from stored verifications alone: every verification and
ensemble, by per-prompt quantile and by one tau for all prompts.

Cuts are placed and chosen on one half of the evaluation prompts and scored on the other; p-values are
adjusted by Holm over all verifications, rules and cuts of an iteration, model and task.

Reads: utilities, verifications, generations of all iterations.

Writes: one row a cut: gap on all prompts and on either half, p-values, coverage, retained, and the training
rows that would enter and leave.
"""
READING = """Gap of the best cut of each verification and rule: placed (a tau is a quantile of scores) and
chosen on one half of the evaluation prompts, scored on the other. p is one-sided (the gap is not above 0;
none where gaps are all equal), adjusted by Holm over all cuts of that iteration, model and task. Entering and
leaving count training rows against the study's own rule, before caps. Ensembles are those of the study, and
`and`, `or`, `mean_rank` and `agreement` of all its verifications; members are cut alike. Oracle and random
are bounds, and not tested."""

READ = ("prompt_id", "sample_index", "utility")
"""Of utilities."""

QUANTILES = np.round(np.arange(0.1, 1.0, 0.1), 1)
"""The grid of cuts (ours): keep the best 90%, 80%, ... 10%."""

RANGES = {"coverage": (0.0, 1.0), "retained": (0.0, 1.0), "relative_gap": (-np.inf, 1.0)}
"""Where a number can lie that is no gap."""

GAP_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class Candidate:
    """One verification or ensemble under one rule, at every quantile of the grid.

    Attributes:
        verification: Its name.
        kind: `verification`, `ensemble` or `bound`.
        rule: `quantile` or `threshold`.
        thresholds: tau at each quantile, NaN where there is no single tau; shape (num_cuts,).
        kept: bool, shape (num_cuts, num_samples).
    """

    verification: str
    kind: str
    rule: str
    thresholds: np.ndarray
    kept: np.ndarray


def rows(data: StudyData) -> pl.DataFrame:
    """A row a cut; columns as the schema of `threshold_sweep`."""
    train = {(s.iteration, s.model, s.task): s for s in data.samples("train", READ)}
    tables = [
        sweep_rows(held_out, train.get((held_out.iteration, held_out.model, held_out.task)))
        for held_out in data.samples("eval", READ)
    ]
    return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()


def sweep_rows(held_out: ScoredSamples, train: ScoredSamples | None) -> pl.DataFrame:
    """The sweep of one iteration of one model on one task; `train` is `None` in the last iteration."""
    choosing = choosing_half(len(held_out.offsets) - 1, held_out.study.seed)
    on_choosing = per_sample(choosing, held_out.offsets)
    taus = global_thresholds({name: scores[on_choosing] for name, scores in held_out.parsed.items()})
    # What only teaches has no scores of training prompts: ensembles of all have other members there.
    alike = {spec.name for spec in held_out.scorers if train is not None and spec in train.scorers}
    differences = {} if train is None else training_differences(train, taus)
    differences = {key: counts for key, counts in differences.items() if key[1] in alike}
    rows = [
        row | differences.get((row["kind"], row["verification"], row["rule"], row["quantile"]), {})
        for candidate in candidates(held_out, filled_by_half(held_out, choosing), taus)
        for row in _candidate_rows(candidate, held_out, choosing)
    ]
    return table([held_out.keys | row for row in _with_holm(rows)])


def choosing_half(num_prompts: int, seed: int) -> np.ndarray:
    """Which prompts cuts are chosen on: half of them by lot, the same in every iteration; bool."""
    lots = np.random.default_rng(derive_seed(seed, "choosing_half")).permutation(num_prompts)
    return lots < num_prompts // 2


def filled_by_half(samples: ScoredSamples, choosing: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each verification; under `neutral` each half of the prompts is filled from itself alone.

    Args:
        samples: Of evaluation prompts.
        choosing: From `choosing_half`.
    """
    on_choosing = per_sample(choosing, samples.offsets)
    filled = {}
    for spec in samples.specs:
        scores = filled[spec.name] = samples.parsed[spec.name].copy()
        for half in (on_choosing, ~on_choosing) if spec.unparsed_policy == "neutral" else ():
            offsets = offsets_of_subset(half, samples.offsets)
            scores[half] = fill_unparsed(scores[half], offsets, spec.unparsed_policy)
    return filled


def global_thresholds(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tau of each verification at each quantile of the grid, over those of the scores that were parsed."""
    return {name: _quantiles(values[~np.isnan(values)]) for name, values in scores.items()}


def _quantiles(values: np.ndarray) -> np.ndarray:
    """The smallest score that a share q of all does not exceed, for each q of the grid; NaN without scores.

    As `np.nanquantile(..., method="inverted_cdf")` in a third of the time, and without loading numpy.ma.

    Examples:
        >>> _quantiles(np.array([4.0, 1.0, 3.0, 2.0])).tolist()
        [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    """
    if not values.size:
        return np.full(len(QUANTILES), np.nan)
    ranks = np.ceil(np.round(values.size * QUANTILES, 9)).astype(np.int64) - 1
    return np.partition(values, ranks)[ranks]


def candidates(
    samples: ScoredSamples, scores: Mapping[str, np.ndarray], taus: Mapping[str, np.ndarray]
) -> Iterator[Candidate]:
    """Every verification and ensemble under both rules.

    Args:
        samples: Of one policy and split.
        scores: Of each verification, what could not be read filled; each of shape (num_samples,).
        taus: From `global_thresholds` of the choosing half of the evaluation prompts, whatever is cut here:
            training rows are cut by the same, and scoring prompts have no part in where a cut lies.
    """
    none = np.full(len(QUANTILES), np.nan)
    masks: dict[str, dict[str, np.ndarray]] = {"quantile": {}, "threshold": {}}
    for spec in samples.specs:
        kind = "bound" if spec.method in BOUNDS else "verification"
        of_spec = scores[spec.name]
        of_rule = {
            "quantile": kept_at_quantiles(of_spec, samples.offsets, QUANTILES),
            "threshold": kept_at_thresholds(of_spec, taus[spec.name]),
        }
        for rule, kept in of_rule.items():
            thresholds = taus[spec.name] if rule == "threshold" else none
            yield Candidate(spec.name, kind, rule, thresholds, kept)
            masks[rule][spec.name] = kept
    for spec in samples.ensembles:
        kind = "bound" if samples.is_bound(spec) else "ensemble"
        if spec.thresholds_members:
            both = np.logical_and if spec.combine == "and" else np.logical_or
            for rule, kept in masks.items():
                yield Candidate(
                    spec.name, kind, rule, none, both.reduce([kept[name] for name in spec.sources])
                )
        else:
            # Ranks within prompts: one tau for all prompts would mean the same as a quantile.
            ranks, _ = scores_and_weights(samples.study, spec, scores, samples.offsets, samples.study.seed)
            kept = kept_at_quantiles(ranks, samples.offsets, QUANTILES)
            yield Candidate(spec.name, kind, "quantile", none, kept)


def _candidate_rows(
    candidate: Candidate, samples: ScoredSamples, choosing: np.ndarray
) -> Iterator[dict[str, Any]]:
    study = samples.study
    conventions = (study.weighting.no_survivors, study.analysis.saturated)
    curve = gap_of_kept(samples.utilities, candidate.kept, samples.offsets, QUANTILES, *conventions)
    confidence = study.analysis.confidence
    on_all = {
        name: means_above_zero(values, confidence).within(*RANGES.get(name, GAP_RANGE))
        for name, values in curve.values_per_prompt().items()
    }
    # Each half is a sweep of its own: filled from all prompts, as `pooled` would, it had seen the other.
    chosen_on = curve.on(choosing).gap
    scoring = means_above_zero(curve.on(~choosing).values_per_prompt()["gap"], confidence).within(*GAP_RANGE)
    best = int(np.nanargmax(chosen_on)) if not np.isnan(chosen_on).all() else -1
    for c, quantile in enumerate(QUANTILES):
        yield {
            "verification": candidate.verification,
            "kind": candidate.kind,
            "rule": candidate.rule,
            "quantile": float(quantile),
            "threshold": float(candidate.thresholds[c]),
            **{key: end for name, found in on_all.items() for key, end in _interval(name, found, c).items()},
            "choosing_gap": float(chosen_on[c]),
            **_interval("scoring_gap", scoring, c),
            "num_scoring_prompts": int(scoring.num[c]),
            "is_chosen": c == best,
            "p_value": float(scoring.p_value[c]),
        }


def _interval(name: str, tested: MeansAboveZero, c: int) -> dict[str, float]:
    return {
        name: float(tested.mean[c]),
        f"{name}_low": float(tested.low[c]),
        f"{name}_high": float(tested.high[c]),
    }


def _with_holm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjusted over all rows of the cell that are a test: a bound is no hypothesis."""
    tested = [row for row in rows if row["kind"] != "bound" and not np.isnan(row["p_value"])]
    adjusted = holm(np.array([row["p_value"] for row in tested]))
    p_holm = {id(row): float(p) for row, p in zip(tested, adjusted, strict=True)}
    none = {"rows_entering": None, "rows_leaving": None, "rows_staying": None}
    return [none | row | {"p_holm": p_holm.get(id(row)), "num_tests": len(tested)} for row in rows]


def training_differences(
    train: ScoredSamples, taus: Mapping[str, np.ndarray]
) -> dict[tuple[str, str, str, float], dict[str, int]]:
    """Training rows of each cut against those of the study's own rule, before caps and duplicates.

    Truncated generations train nobody and are left out of both.
    """
    finished = _finished(train)
    used = train.used
    if used is None:
        return {}
    ours = (train.weights(used) > 0) & finished
    found = {}
    for candidate in candidates(train, train.scores, taus):
        for c, quantile in enumerate(QUANTILES):
            theirs = candidate.kept[c] & finished
            both = int((theirs & ours).sum())
            key = (candidate.kind, candidate.verification, candidate.rule, float(quantile))
            found[key] = {
                "rows_entering": int(theirs.sum()) - both,
                "rows_leaving": int(ours.sum()) - both,
                "rows_staying": both,
            }
    return found


def _finished(samples: ScoredSamples) -> np.ndarray:
    """Which generations came to their end."""
    rows = samples.rows_of("generations", ["prompt_id", "sample_index", "finish_reason"])
    if rows is None:
        return np.ones(len(samples.utilities), dtype=bool)
    return (rows.sort("prompt_id", "sample_index")["finish_reason"] != "length").to_numpy()


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The chosen cuts, as text."""
    if rows.is_empty():
        return []
    chosen = rows.filter("is_chosen").sort("model", "task", "iteration", "rule", "kind", "verification")
    cells = [name for name in ("model", "task") if rows[name].n_unique() > 1]
    return [_shown_row(row, cells) for row in chosen.iter_rows(named=True)]


def _shown_row(row: dict[str, Any], cells: list[str]) -> dict[str, str]:
    cut = f"q={row['quantile']:g}"
    if row["threshold"] is not None:
        cut = f"tau={row['threshold']:.3g} ({cut})"
    entering = "-" if row["rows_entering"] is None else f"+{row['rows_entering']} -{row['rows_leaving']}"
    return {
        **{name: str(row[name]) for name in cells},
        "t": str(row["iteration"]),
        "verification": row["verification"] + ("" if row["kind"] == "verification" else f" ({row['kind']})"),
        "rule": row["rule"],
        "chosen cut": cut,
        "gap where chosen": interval_text(row, "choosing_gap"),
        "gap on the other half": interval_text(row, "scoring_gap"),
        "prompts there": interval_text(row, "num_scoring_prompts"),
        "p (Holm)": "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
        "coverage": interval_text(row, "coverage"),
        "retained": interval_text(row, "retained"),
        "training rows": entering,
    }


def chart(rows: pl.DataFrame) -> Any:
    """Gap over quantile with its interval, a panel an iteration, a row of panels a rule."""
    from si_dagster.analysis.plots import cell_titles, interval_lines

    if rows.is_empty():
        return None
    return interval_lines(
        cell_titles(rows),
        x="quantile",
        y="gap",
        color="verification",
        column="cell",
        row="rule",
        title="gap, all evaluation prompts",
    )
