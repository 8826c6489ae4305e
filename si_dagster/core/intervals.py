"""Intervals by the cluster bootstrap: prompts are resampled, never samples; and Student's t over prompts.

Samples of one prompt share its difficulty, so treating them as independent gives intervals several times
too narrow. All intervals here are percentile intervals: simple and transformation-respecting, but too
narrow by a few points of coverage below about 30 prompts, and blind to the noise of choosing a threshold
on the same data. This module knows nothing about what the values mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from si_dagster.core.samples import divide_or_nan, mean_or_nan
from si_dagster.core.student import t_cdf, t_quantile

MIN_RESAMPLES = 1000
"""Fewer make the ends of a 95% interval jump visibly from seed to seed."""

_ROUNDING = 1e-12
"""Means and standard errors up to here are 0: sums of equal fractions differ in their last digits."""

_CHUNK_CELLS = 2_000_000
"""Resamples are drawn in chunks of about this many (resample, prompt) cells: 16 MB of counts each."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile bootstrap interval; all three NaN where nothing was known."""

    estimate: float
    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def bootstrap_mean(
    values: np.ndarray, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean over prompts with a percentile interval.

    NaN marks a prompt whose value is unknown: it is skipped, in the estimate and in every resample, so the
    number of prompts behind a resample varies as it would in a new study.

    Args:
        values: One value a prompt, shape (num_prompts,).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: The same seed and number of prompts give the same resamples, so intervals are comparable.

    Raises:
        ValueError: If `num_resamples` < 1000 or `confidence` lies outside (0, 1).

    Examples:
        >>> bootstrap_mean(np.array([1.0, 1.0, np.nan, 1.0]))
        Interval(estimate=1.0, low=1.0, high=1.0)
        >>> bootstrap_mean(np.array([0.0, 1.0]))
        Interval(estimate=0.5, low=0.0, high=1.0)
    """
    return bootstrap_means(values[:, None], num_resamples, confidence, seed)[0]


def bootstrap_means(
    columns: np.ndarray, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """`bootstrap_mean` of several columns over one shared set of resamples.

    Args:
        columns: One value a prompt and statistic, NaN if unknown; shape (num_prompts, num_statistics).
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Seed of the resamples.
    """
    known = ~np.isnan(columns)
    return bootstrap_ratios(np.where(known, columns, 0.0), known, num_resamples, confidence, seed)


def bootstrap_ratio(
    numerators: np.ndarray,
    denominators: np.ndarray,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Ratio of two sums over prompts, Σ numerators / Σ denominators; NaN in either skips the prompt.

    Both shapes are (num_prompts,); arguments and errors as in `bootstrap_mean`.

    Examples:
        (1 + 3) / (2 + 2) = 1; a resample of the first prompt alone gives 1/2, of the second 3/2:

        >>> bootstrap_ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
        Interval(estimate=1.0, low=0.5, high=1.5)
    """
    known = ~(np.isnan(numerators) | np.isnan(denominators))
    above, below = np.where(known, numerators, 0.0), np.where(known, denominators, 0.0)
    return bootstrap_ratios(above[:, None], below[:, None], num_resamples, confidence, seed)[0]


def paired_difference(
    a: np.ndarray, b: np.ndarray, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of a - b over the prompts where both are known: two verifiers or iterations on the same prompts.

    Pairing removes the difficulty of the prompts from the comparison, which is most of its noise.

    Args:
        a: One value a prompt, NaN if unknown; shape (num_prompts,).
        b: The same prompts in the same order.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Seed of the resamples.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> paired_difference(np.array([0.5, 0.9, np.nan]), np.array([0.25, 0.9, 0.5])).estimate
        0.125
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values must be of the same prompts, got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, num_resamples, confidence, seed)


def difference_of_means(
    a: np.ndarray,
    b: np.ndarray,
    prompts: tuple[np.ndarray, np.ndarray],
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of a less mean of b, each over its own known prompts; prompts that both share are paired.

    With the same prompts, all known, this is `paired_difference`; with none in common the two are resampled
    independently; in between, as `jointly_resampled_sums` says.

    Args:
        a: One value a prompt, NaN if unknown; shape (num_prompts_a,).
        b: Shape (num_prompts_b,).
        prompts: What tells a prompt of a and of b from others; of the shapes of a and b.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Seed of the resamples.

    Examples:
        Alike on both prompts but for .5, so that every resample differs by .5; without a common prompt the
        same numbers leave the difference open.

        >>> a, b, names = np.array([0.5, 1.0]), np.array([0.0, 0.5]), np.array(["x", "y"])
        >>> difference_of_means(a, b, (names, names))
        Interval(estimate=0.5, low=0.5, high=0.5)
        >>> difference_of_means(a, b, (names, np.array(["v", "w"]))).low < 0.5
        True
    """
    tables = [np.stack([np.nan_to_num(v), ~np.isnan(v)], axis=1) for v in (a, b)]
    sums = jointly_resampled_sums(list(zip(prompts, tables, strict=True)), num_resamples, seed)
    of_a, of_b = (divide_or_nan(s[:, 0], s[:, 1]) for s in sums)
    estimate = mean_or_nan(a) - mean_or_nan(b)
    return percentile_interval(estimate, of_a - of_b, confidence)


def bootstrap_ratios(
    numerators: np.ndarray, denominators: np.ndarray, num_resamples: int, confidence: float, seed: int
) -> list[Interval]:
    """Ratios of sums over prompts, each column a statistic, over one shared set of resamples.

    A resample in which a denominator is 0 says nothing about that statistic and is left out of it.

    Args:
        numerators: Shape (num_prompts, num_statistics), without NaN.
        denominators: The same shape.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Seed of the resamples.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies in (0, 1), got {confidence}")
    num_statistics = numerators.shape[1]
    sums = resampled_sums(np.hstack([numerators, denominators]), num_resamples, seed)
    draws = divide_or_nan(sums[:, :num_statistics], sums[:, num_statistics:])
    estimates = divide_or_nan(numerators.sum(axis=0), denominators.sum(axis=0))
    return [percentile_interval(float(e), draws[:, s], confidence) for s, e in enumerate(estimates)]


def bootstrap_filled_means(
    columns: np.ndarray,
    slopes: np.ndarray,
    numerators: np.ndarray,
    denominators: np.ndarray,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """`bootstrap_means` of values into some of which a ratio of sums over all prompts has been filled.

    The ratio is made anew in every resample: its noise is that of all the values it was filled into.

    Args:
        columns: As in `bootstrap_means`, filled with Σ numerators / Σ denominators.
        slopes: How much each value rises with the ratio, 0 where it has no part in it; the same shape.
        numerators: Shape (num_prompts,), without NaN.
        denominators: The same shape.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples; equal ones give those of `bootstrap_means`.

    Examples:
        The second prompt has the value of the first: 1/2, whichever is drawn, or, drawn alone, none.

        >>> once = np.array([1.0, 0.0])
        >>> bootstrap_filled_means(np.array([[0.5], [0.5]]), np.array([[0.0], [1.0]]), once / 2, once)
        [Interval(estimate=0.5, low=0.5, high=0.5)]
    """
    known = ~np.isnan(columns)
    parts = [np.where(known, columns, 0.0), known, np.where(known, slopes, 0.0), numerators, denominators]
    sums = resampled_sums(np.column_stack(parts), num_resamples, seed)
    values, num, slope = np.split(sums[:, :-2], 3, axis=1)
    moved = divide_or_nan(sums[:, -2:-1], sums[:, -1:]) - divide_or_nan(numerators.sum(), denominators.sum())
    draws = divide_or_nan(values + np.where(slope == 0.0, 0.0, slope * moved), num)
    estimates = divide_or_nan(parts[0].sum(axis=0), known.sum(axis=0))
    return [percentile_interval(float(e), draws[:, s], confidence) for s, e in enumerate(estimates)]


@dataclass(frozen=True)
class MeansAboveZero:
    """Means over prompts, each tested against 0; all shape (num_statistics,), NaN where nothing is known.

    Attributes:
        mean: Of the known values.
        low: Lower end of the t interval.
        high: Upper end.
        p_value: One-sided, of "the mean is not above 0"; NaN as well where equal values lie above 0.
        num: Known values behind each.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    num: np.ndarray

    def within(self, lowest: float, highest: float) -> "MeansAboveZero":
        """The same with intervals cut where no value can lie; what they cover stays covered.

        Examples:
            >>> means_above_zero(np.array([[0.0], [1.0], [1.0]])).within(0.0, 1.0).high.tolist()
            [1.0]
        """
        return replace(self, low=self.low.clip(lowest, highest), high=self.high.clip(lowest, highest))


def means_above_zero(columns: np.ndarray, confidence: float = 0.95) -> MeansAboveZero:
    """Student's t over prompts, many statistics at once (ours).

    Where hundreds of thresholds are tested a bootstrap of 1000 cannot serve: its smallest p-value, .001, is
    above .05 after Holm over 50 tests. Prompts are independent, so t holds from some 30 prompts on. Values
    that are all equal have no spread, and t says nothing of them: the interval is a point, and p is NaN where
    they lie above 0 (two prompts that happen to agree are no proof) and 1 elsewhere.

    Args:
        columns: One value a prompt and statistic, NaN if unknown; shape (num_prompts, num_statistics).
        confidence: In (0, 1).

    Examples:
        Mean 1, standard deviation 1, three prompts: t = 1 / (1 / sqrt(3)) = 1.732, P(T_2 > 1.732) = .1127:

        >>> found = means_above_zero(np.array([[0.0], [1.0], [2.0]]))
        >>> found.mean.tolist(), found.p_value.round(4).tolist()
        ([1.0], [0.1127])
    """
    known = ~np.isnan(columns)
    num = known.sum(axis=0)
    mean = divide_or_nan(np.where(known, columns, 0.0).sum(axis=0), num)
    squares = (np.where(known, columns - mean, 0.0) ** 2).sum(axis=0)
    error = np.sqrt(divide_or_nan(squares, num * (num - 1.0)))
    width = t_quantile((1.0 + confidence) / 2.0, np.maximum(num - 1, 1)) * error
    alike = error <= _ROUNDING  # and never where it is NaN
    p_value = t_cdf(-divide_or_nan(mean, np.where(alike, 0.0, error)), np.maximum(num - 1, 1))
    p_value = np.where(alike & (mean <= _ROUNDING), 1.0, p_value)
    return MeansAboveZero(mean, mean - width, mean + width, p_value, num)


def linearised_ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Values of prompts whose mean is Σ numerators / Σ denominators and whose spread tells that of it.

    The delta method: r + (a_i - r b_i) / mean b, so that `means_above_zero` serves for ratios of sums too.

    Args:
        numerators: Shape (num_prompts, num_statistics), without NaN.
        denominators: The same shape.

    Returns:
        The same shape; NaN where denominators sum to 0.

    Examples:
        (1 + 3) / (2 + 2) = 1; the prompts say 1/2 and 3/2:

        >>> linearised_ratio(np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])).T.tolist()
        [[0.5, 1.5]]
    """
    ratio = divide_or_nan(numerators.sum(axis=0), denominators.sum(axis=0))
    mean = denominators.sum(axis=0) / max(len(denominators), 1)
    return ratio + divide_or_nan(numerators - ratio * denominators, mean)


def linearised_filled_mean(
    columns: np.ndarray, slopes: np.ndarray, numerators: np.ndarray, denominators: np.ndarray
) -> np.ndarray:
    """Values of prompts whose mean is that of `columns` and whose spread tells that of it, as filled.

    What `bootstrap_filled_means` is for, by the delta method of `linearised_ratio`: a prompt moves the mean
    by its own value, and by what it does to the ratio times the mean slope.

    Args:
        columns: Each filled with its own Σ numerators / Σ denominators; NaN if unknown; shape (num_prompts,
            num_statistics), like all that follow.
        slopes: How much each value rises with the ratio, 0 where it has no part in it.
        numerators: Without NaN.
        denominators: Without NaN.

    Examples:
        Ratio (1 + 0) / 2 = 1/2, filled into two of four prompts, the others say 1/2 ± 1/2:

        >>> columns, slopes = np.full((4, 1), 0.5), np.array([[0.0], [0.0], [1.0], [1.0]])
        >>> above, below = np.array([[1.0], [0.0], [0.0], [0.0]]), np.array([[1.0], [1.0], [0.0], [0.0]])
        >>> linearised_filled_mean(columns, slopes, above, below).T.tolist()
        [[1.0, 0.0, 0.5, 0.5]]
    """
    known = ~np.isnan(columns)
    ratio = divide_or_nan(numerators.sum(axis=0), denominators.sum(axis=0))
    mean_slope = divide_or_nan(np.where(known, slopes, 0.0).sum(axis=0), known.sum(axis=0))
    values = linearised_ratio(np.where(known, columns, 0.0), known)
    return values + mean_slope * (linearised_ratio(numerators, denominators) - ratio)


def resampled_sums(columns: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Sums of each column over prompts drawn with replacement, num_prompts of them in each resample.

    A resample is held as counts, so a sum is a matrix product, and only one chunk of resamples is in
    memory at a time.

    Args:
        columns: Shape (num_prompts, num_statistics).
        num_resamples: At least 1000.
        seed: Seed of the resamples.

    Returns:
        float64, shape (num_resamples, num_statistics).

    Raises:
        ValueError: If `num_resamples` < 1000.
    """
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(f"a bootstrap needs at least {MIN_RESAMPLES} resamples, got {num_resamples}")
    num_prompts = len(columns)
    sums = np.zeros((num_resamples, columns.shape[1]))
    if num_prompts == 0:
        return sums
    rng = np.random.default_rng(seed)
    weights = np.asarray(columns, dtype=np.float64)
    chunk = max(1, _CHUNK_CELLS // num_prompts)
    for start in range(0, num_resamples, chunk):
        stop = min(start + chunk, num_resamples)
        sums[start:stop] = _draw_counts(rng, stop - start, num_prompts) @ weights
    return sums


def jointly_resampled_sums(
    tables: Sequence[tuple[np.ndarray, np.ndarray]], num_resamples: int, seed: int
) -> list[np.ndarray]:
    """`resampled_sums` of several tables whose prompts may be the same ones (ours).

    Prompts are drawn from those of all tables together, and one that several share is drawn for all of them
    at once: what makes it hard in one makes it hard in the others, so its copies are no independent prompts.
    How many prompts of a table are drawn varies a little, so statistics must be ratios of sums.

    Args:
        tables: (what tells the prompts apart, shape (num_prompts,); values without NaN, shape (num_prompts,
            num_columns)) of each.
        num_resamples: At least 1000.
        seed: Seed of the resamples.

    Returns:
        Shape (num_resamples, num_columns) for each table.

    Examples:
        >>> table = (np.array(["a", "b"]), np.array([[1.0], [0.0]]))
        >>> first, second = jointly_resampled_sums([table, table], 1000, 0)
        >>> bool((first == second).all())
        True
    """
    all_prompts = np.unique(np.concatenate([prompts for prompts, _ in tables]))
    placed = []
    for prompts, values in tables:
        rows = np.zeros((len(all_prompts), values.shape[1]))
        np.add.at(rows, np.searchsorted(all_prompts, prompts), values)
        placed.append(rows)
    ends = np.cumsum([rows.shape[1] for rows in placed])
    return np.split(resampled_sums(np.hstack(placed), num_resamples, seed), ends[:-1], axis=1)


def _draw_counts(rng: np.random.Generator, num_resamples: int, num_prompts: int) -> np.ndarray:
    """How often each prompt is drawn; float64 for the matrix product, shape (num_resamples, num_prompts)."""
    counts = np.empty((num_resamples, num_prompts))
    for row in counts:
        row[:] = np.bincount(
            rng.integers(num_prompts, size=num_prompts, dtype=np.int32), minlength=num_prompts
        )
    return counts


def percentile_interval(estimate: float, draws: np.ndarray, confidence: float) -> Interval:
    """An estimate with the percentiles of its resampled values; NaN draws say nothing and are left out."""
    known = draws[~np.isnan(draws)]
    if known.size == 0:
        return Interval(estimate, float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(estimate, float(low), float(high))
