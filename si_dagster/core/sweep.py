"""Gaps of many thresholds at once: each method is sorted once, and that gives every cut.

Agrees to rounding with `gap.estimate_gap` on `weighting.quantile_weights`, `best_of_n_weights` and
`threshold_weights`, and serves where those would be called a hundred times: curves and interactive
sweeps. Cuts are also had as masks, which ensembles and differences between training sets are made of. It
gives no intervals and picks no best cut: the cut that looks best on these samples has an inflated gap, so
choose on one split of the prompts (`gap_per_prompt[split]`) and report on another.
"""

from dataclasses import dataclass

import numpy as np

from si_dagster.core.gap import (
    NoSurvivors,
    Saturated,
    check_utilities,
    expected_utility,
    fill_no_survivors,
    pooled_slopes,
    relative_gap_per_prompt,
)
from si_dagster.core.intervals import linearised_filled_mean, linearised_ratio
from si_dagster.core.samples import (
    blocks_of_equal_size,
    check_layout,
    divide_or_nan,
    mean_or_nan,
    sum_per_prompt,
)
from si_dagster.core.weighting import Ties, check_quantile, num_kept_at_quantile, rank_of_quantile


@dataclass(frozen=True)
class GapCurve:
    """The gap of one verification method as a function of its cut.

    Prompts without survivors have gap 0 (`identity`) and saturated prompts leave the relative gap (`skip`),
    unless `gap_of_kept` was asked for other conventions.

    Attributes:
        cuts: The quantiles, numbers kept or thresholds; shape (num_cuts,).
        gap: Mean gap over graded prompts; shape (num_cuts,), like all that follow.
        relative_gap: Mean of the ratios.
        reweighted_utility: Mean J(f[w]), under `skip` over the prompts that have one.
        pooled_gap: Mean utility of all that stays less that of all samples; NaN where nothing stays.
        retained: Share of graded samples that stay.
        coverage: Share of graded prompts of which a graded sample stays.
        gap_per_prompt: NaN where nothing was graded (and, under `skip`, where nothing stays); shape
            (num_prompts, num_cuts), like the two that follow.
        kept_per_prompt: Graded samples that stay.
        hits_per_prompt: Their summed utility.
        expected_per_prompt: J_x, NaN where nothing was graded; shape (num_prompts,).
        graded_per_prompt: Graded samples; shape (num_prompts,).
        no_survivors: Convention of the gap.
        saturated: Convention of the relative gap.
    """

    cuts: np.ndarray
    gap: np.ndarray
    relative_gap: np.ndarray
    reweighted_utility: np.ndarray
    pooled_gap: np.ndarray
    retained: np.ndarray
    coverage: np.ndarray
    gap_per_prompt: np.ndarray
    kept_per_prompt: np.ndarray
    hits_per_prompt: np.ndarray
    expected_per_prompt: np.ndarray
    graded_per_prompt: np.ndarray
    no_survivors: NoSurvivors
    saturated: Saturated

    def on(self, prompts: np.ndarray) -> "GapCurve":
        """The same cuts as if only some of the prompts were there: `pooled` is of these alone.

        Args:
            prompts: bool, shape (num_prompts,).
        """
        expected, graded = self.expected_per_prompt[prompts], self.graded_per_prompt[prompts]
        kept, hits = self.kept_per_prompt[prompts], self.hits_per_prompt[prompts]
        return _curve(self.cuts, expected, graded, kept, hits, self.no_survivors, self.saturated)

    def values_per_prompt(self) -> dict[str, np.ndarray]:
        """Values of each graded prompt, whose means are the numbers of those names.

        Ratios of sums over all prompts are linearised, and so are gaps that have one in them, under `pooled`.
        What `intervals.means_above_zero` needs, a column a cut; NaN as in `gap_per_prompt`.
        """
        known = self.graded_per_prompt > 0.0
        kept, hits = self.kept_per_prompt[known], self.hits_per_prompt[known]
        expected = np.broadcast_to(self.expected_per_prompt[known, None], kept.shape)
        graded = np.broadcast_to(self.graded_per_prompt[known, None], kept.shape)
        gap = self.gap_per_prompt[known]
        relative_gap = relative_gap_per_prompt(gap, expected, self.saturated)
        if self.no_survivors == "pooled":
            of_gap, of_relative = pooled_slopes(kept, expected, self.saturated)
            gap = linearised_filled_mean(gap, of_gap, hits, kept)
            relative_gap = linearised_filled_mean(relative_gap, of_relative, hits, kept)
        return {
            "gap": gap,
            "relative_gap": relative_gap,
            "pooled_gap": linearised_ratio(hits, kept) - linearised_ratio(expected * graded, graded),
            "retained": linearised_ratio(kept, graded),
            "coverage": (kept > 0.0).astype(np.float64),
        }


def gap_by_quantile(
    utilities: np.ndarray,
    scores: np.ndarray,
    offsets: np.ndarray,
    quantiles: np.ndarray,
    ties: Ties = "keep",
    seed: int = 0,
) -> GapCurve:
    """The gap at each per-prompt quantile, as `quantile_weights` cuts it.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        scores: NaN if unparsed; same order.
        offsets: Shape (num_prompts + 1,).
        quantiles: Each in [0, 1]; shape (num_cuts,).
        ties: `keep` or `random`, as in `quantile_weights`.
        seed: Decides ties under `random`; the same draw as there.

    Raises:
        ValueError: If a quantile lies outside [0, 1], or as in `estimate_gap`.

    Examples:
        Utilities 0, 1, 0, 1 by rising score: J = .5; the upper half holds 0, 1 (gap 0), the best is right:

        >>> curve = gap_by_quantile(
        ...     np.array([0.0, 1, 0, 1]), np.array([1.0, 2, 3, 4]), np.array([0, 4]), np.array([0.5, 0.75]))
        >>> curve.gap.tolist(), curve.retained.tolist()
        ([0.0, 0.5], [0.5, 0.25])
    """
    check_utilities(utilities, offsets)
    check_layout(offsets, scores)
    for q in quantiles:
        check_quantile(float(q))
    kept, hits = np.zeros((2, len(offsets) - 1, len(quantiles)))
    lots = np.random.default_rng(seed).random(len(scores)) if ties == "random" else None
    for prompts, rows in blocks_of_equal_size(offsets):
        if lots is None:
            # Prompts of one size lie one behind the other: no copy is needed.
            alike = rows.size == len(scores)
            u, s = (v.reshape(rows.shape) if alike else v[rows] for v in (utilities, scores))
            kept[prompts], hits[prompts] = _sums_with_ties(u, s, quantiles)
            continue
        ranking = _rank(utilities, scores, rows, lots)
        for c, q in enumerate(quantiles):
            ends = num_kept_at_quantile(ranking.num_parsed, float(q))
            kept[prompts, c], hits[prompts, c] = ranking.sums(ends)
    return _curve(np.asarray(quantiles, dtype=np.float64), *_of_policy(utilities, offsets), kept, hits)


def _sums_with_ties(
    utilities: np.ndarray, scores: np.ndarray, quantiles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Graded samples kept and their summed utility, from rectangles; two arrays (prompts, num_cuts).

    Sorting scores alone and comparing takes a third of the time of ranking samples and summing up.
    """
    graded = ~np.isnan(utilities)
    all_graded = bool(graded.all())
    known = utilities if all_graded else np.where(graded, utilities, 0.0)
    ascending = np.sort(scores, axis=1)  # NaN last
    parsed = scores.shape[1] - np.count_nonzero(np.isnan(scores), axis=1)
    kept, hits = np.empty((2, len(scores), len(quantiles)))
    for c, q in enumerate(quantiles):
        at = rank_of_quantile(parsed, float(q))[:, None]
        stays = scores >= np.take_along_axis(ascending, at, axis=1)
        stays = stays if all_graded else stays & graded
        kept[:, c] = np.count_nonzero(stays, axis=1)
        hits[:, c] = np.einsum("ij,ij->i", stays, known)
    return kept, hits


def gap_by_num_kept(
    utilities: np.ndarray, scores: np.ndarray, offsets: np.ndarray, seed: int = 0
) -> GapCurve:
    """The gap of keeping the k best samples of each prompt, for every k from 1 to the most a prompt has.

    Ties are broken as in `best_of_n_weights`; prompts with fewer than k parsed samples keep those.

    Examples:
        Best first the utilities are 1, 0, 1, 0, so the kept means are 1, 1/2, 2/3, 1/2 less J = 1/2:

        >>> curve = gap_by_num_kept(np.array([0.0, 1, 0, 1]), np.array([1.0, 2, 3, 4]), np.array([0, 4]))
        >>> curve.gap.round(4).tolist()
        [0.5, 0.0, 0.1667, 0.0]
    """
    check_utilities(utilities, offsets)
    check_layout(offsets, scores)
    lots = np.random.default_rng(seed).random(len(scores))
    largest = int(np.diff(offsets).max(initial=0))
    ks = np.arange(1, largest + 1)
    kept, hits = np.zeros((2, len(offsets) - 1, largest))
    for prompts, rows in blocks_of_equal_size(offsets):
        ranking = _rank(utilities, scores, rows, lots)
        ends = np.minimum(ks, ranking.num_parsed[:, None])
        kept[prompts], hits[prompts] = ranking.sums(ends)
    return _curve(ks.astype(np.float64), *_of_policy(utilities, offsets), kept, hits)


def gap_by_threshold(
    utilities: np.ndarray, scores: np.ndarray, offsets: np.ndarray, thresholds: np.ndarray
) -> GapCurve:
    """The gap at each global threshold tau, as `threshold_weights` cuts it.

    Examples:
        >>> curve = gap_by_threshold(
        ...     np.array([0.0, 1, 0, 1]), np.array([1.0, 2, 3, 4]), np.array([0, 4]), np.array([4.0, 5.0]))
        >>> curve.gap.tolist(), curve.coverage.tolist()
        ([0.5, 0.0], [1.0, 0.0])
    """
    return gap_of_kept(utilities, kept_at_thresholds(scores, thresholds), offsets, thresholds)


def gap_of_kept(
    utilities: np.ndarray,
    kept: np.ndarray,
    offsets: np.ndarray,
    cuts: np.ndarray,
    no_survivors: NoSurvivors = "identity",
    saturated: Saturated = "skip",
) -> GapCurve:
    """The gap of keeping some samples and no others, for many choices at once: ensembles, for one.

    Args:
        utilities: In [0, 1], NaN where the grader failed; shape (num_samples,).
        kept: bool; shape (num_cuts, num_samples).
        offsets: Shape (num_prompts + 1,).
        cuts: What the choices are called by; shape (num_cuts,).
        no_survivors: See `gap.fill_no_survivors`; `pooled` is of each choice by itself.
        saturated: See `gap.relative_gap_per_prompt`.

    Examples:
        Keeping the one right of two, then nothing (gap 0 by convention):

        >>> kept = np.array([[True, False], [False, False]])
        >>> gap_of_kept(np.array([1.0, 0.0]), kept, np.array([0, 2]), np.array([0.0, 1.0])).gap.tolist()
        [0.5, 0.0]
    """
    check_utilities(utilities, offsets)
    graded = ~np.isnan(utilities)
    all_graded = bool(graded.all())
    known_utilities = utilities if all_graded else np.where(graded, utilities, 0.0)
    num_kept, hits = np.zeros((2, len(offsets) - 1, len(cuts)))
    for c, stays in enumerate(kept):
        check_layout(offsets, stays)
        stays = stays if all_graded else stays & graded
        num_kept[:, c] = sum_per_prompt(stays, offsets)
        hits[:, c] = sum_per_prompt(stays * known_utilities, offsets)
    cuts = np.asarray(cuts, dtype=np.float64)
    return _curve(cuts, *_of_policy(utilities, offsets), num_kept, hits, no_survivors, saturated)


def kept_at_thresholds(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which samples `threshold_weights` keeps at each global threshold; bool, (num_cuts, num_samples).

    Examples:
        >>> kept_at_thresholds(np.array([0.2, np.nan, 0.7]), np.array([0.0, 0.5])).astype(int).tolist()
        [[1, 0, 1], [0, 0, 1]]
    """
    return np.asarray(scores) >= np.asarray(thresholds)[:, None]


def kept_at_quantiles(scores: np.ndarray, offsets: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Which samples `quantile_weights` keeps at each per-prompt quantile; each prompt is sorted once.

    Args:
        scores: NaN if unparsed; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        quantiles: Each in [0, 1]; shape (num_cuts,).

    Returns:
        bool, shape (num_cuts, num_samples).

    Raises:
        ValueError: If a quantile lies outside [0, 1].

    Examples:
        >>> kept_at_quantiles(np.array([1.0, 3.0, 2.0]), np.array([0, 3]), np.array([0.5, 1.0])).tolist()
        [[False, True, True], [False, True, False]]
    """
    check_layout(offsets, scores)
    for q in quantiles:
        check_quantile(float(q))
    kept = np.empty((len(quantiles), len(scores)), dtype=bool)
    for _, rows in blocks_of_equal_size(offsets):
        of_prompt = scores[rows]
        ascending = np.sort(of_prompt, axis=1)  # NaN last
        parsed = (~np.isnan(of_prompt)).sum(axis=1)
        for c, q in enumerate(quantiles):
            at = rank_of_quantile(parsed, float(q))[:, None]
            kept[c, rows] = of_prompt >= np.take_along_axis(ascending, at, axis=1)
    return kept


@dataclass(frozen=True)
class _Ranking:
    """The samples of some prompts of one size, best score first and unparsed last."""

    num_parsed: np.ndarray  # (prompts,)
    graded: np.ndarray  # (prompts, size + 1): graded samples among the first k
    hits: np.ndarray  # (prompts, size + 1): their summed utility

    def sums(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Graded samples and summed utility among the first `ends`; the shape of `ends`."""
        columns = ends if ends.ndim == 2 else ends[:, None]
        graded = np.take_along_axis(self.graded, columns, axis=1)
        hits = np.take_along_axis(self.hits, columns, axis=1)
        return graded.reshape(ends.shape), hits.reshape(ends.shape)


def _rank(utilities: np.ndarray, scores: np.ndarray, rows: np.ndarray, lots: np.ndarray) -> _Ranking:
    falling = -scores[rows]
    order = np.lexsort((lots[rows], falling), axis=-1)
    ranked_utilities = np.take_along_axis(utilities[rows], order, axis=1)
    ranked_scores = -np.take_along_axis(falling, order, axis=1)
    graded = ~np.isnan(ranked_utilities)
    cumulative = np.zeros((2, rows.shape[0], rows.shape[1] + 1))
    if graded.all():  # the usual case, a third of the time of the other
        cumulative[0] = np.arange(rows.shape[1] + 1)
        np.cumsum(ranked_utilities, axis=1, out=cumulative[1, :, 1:])
    else:
        np.cumsum(graded, axis=1, out=cumulative[0, :, 1:])
        np.cumsum(np.where(graded, ranked_utilities, 0.0), axis=1, out=cumulative[1, :, 1:])
    num_parsed = (~np.isnan(ranked_scores)).sum(axis=1)
    return _Ranking(num_parsed, cumulative[0], cumulative[1])


def _of_policy(utilities: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J_x and the number of graded samples of each prompt."""
    graded = ~np.isnan(utilities)
    # All graded is the usual case, spared a sum.
    num_graded = np.diff(offsets) if graded.all() else sum_per_prompt(graded, offsets)
    return expected_utility(utilities, offsets), num_graded


def _curve(
    cuts: np.ndarray,
    expected: np.ndarray,
    graded: np.ndarray,
    kept: np.ndarray,
    hits: np.ndarray,
    no_survivors: NoSurvivors = "identity",
    saturated: Saturated = "skip",
) -> GapCurve:
    """Means over prompts from the graded samples kept and their summed utility, (num_prompts, num_cuts)."""
    reweighted, pooled = divide_or_nan(hits, kept), divide_or_nan(hits.sum(axis=0), kept.sum(axis=0))
    for c, of_all in enumerate(pooled):
        reweighted[:, c] = fill_no_survivors(reweighted[:, c], expected, float(of_all), no_survivors)
    gap = reweighted - expected[:, None]
    relative_gap = relative_gap_per_prompt(gap, np.broadcast_to(expected[:, None], gap.shape), saturated)
    num_graded, num_prompts = np.array(graded.sum()), np.array(np.count_nonzero(graded))
    columns = range(len(cuts))
    return GapCurve(
        cuts=cuts,
        gap=np.array([mean_or_nan(gap[:, c]) for c in columns]),
        relative_gap=np.array([mean_or_nan(relative_gap[:, c]) for c in columns]),
        reweighted_utility=np.array([mean_or_nan(reweighted[:, c]) for c in columns]),
        pooled_gap=pooled - divide_or_nan(np.array(np.nansum(expected * graded)), num_graded),
        retained=divide_or_nan(kept.sum(axis=0), num_graded),
        coverage=divide_or_nan((kept > 0.0).sum(axis=0), num_prompts),
        gap_per_prompt=gap,
        kept_per_prompt=kept,
        hits_per_prompt=hits,
        expected_per_prompt=expected,
        graded_per_prompt=graded,
        no_survivors=no_survivors,
        saturated=saturated,
    )
