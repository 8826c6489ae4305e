"""Gaps of more samples than memory holds: whole prompts go through in blocks, and only sums stay.

Sums of J_x and gap_x, as they are and over resampled prompts, so memory grows neither with samples nor with
prompts. Resamples are Poisson's (Chamandy et al., "Estimating uncertainty for massive data streams", 2012):
each prompt counts 0, 1, 2, ... times by lot with mean 1, instead of a fixed number of prompts being drawn,
since nobody needs to know how many will come. Blocks must hold whole prompts. It reads no files; the caller
cuts them at the ends of prompts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import exp, factorial

import numpy as np

from si_dagster.core.gap import expected_utility
from si_dagster.core.intervals import MIN_RESAMPLES, Interval, percentile_interval
from si_dagster.core.samples import divide_or_nan
from si_dagster.core.sweep import gap_by_quantile

_PROMPTS_AT_ONCE = 1000
"""Of which resampled counts are held at a time: 8 MB at 1000 resamples."""

_COUNT_OF_LOT = np.searchsorted(
    np.cumsum([exp(-1.0) / factorial(k) for k in range(10)]), (np.arange(2**16) + 0.5) / 2**16
).astype(np.float64)
"""Poisson's distribution of mean 1 as a table over 16 random bits, so exact to 2^-16 a count; twenty times as
fast as drawing it."""


@dataclass(frozen=True)
class Block:
    """Some whole prompts.

    Attributes:
        utilities: NaN where the grader failed; shape (num_samples,).
        scores: Verifier -> scores, NaN if unparsed, same order.
        offsets: Shape (num_prompts + 1,).
    """

    utilities: np.ndarray
    scores: dict[str, np.ndarray]
    offsets: np.ndarray


@dataclass(frozen=True)
class StreamedGaps:
    """Means over the prompts of all blocks, with intervals.

    Attributes:
        expected: J.
        gaps: Verifier -> the gap at each quantile, rejected prompts under `identity`.
        num_prompts: How many there were.
    """

    expected: Interval
    gaps: dict[str, list[Interval]]
    num_prompts: int


def stream_gaps(
    blocks: Iterable[Block],
    quantiles: np.ndarray,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> StreamedGaps:
    """J and the gap of each verifier and quantile, block after block; the same however blocks are cut.

    Args:
        blocks: Whole prompts, all with the same verifiers.
        quantiles: As in `sweep.gap_by_quantile`.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples.

    Raises:
        ValueError: If `num_resamples` < 1000.

    Examples:
        >>> block = Block(np.array([0.0, 1.0]), {"v": np.array([1.0, 2.0])}, np.array([0, 2]))
        >>> found = stream_gaps([block, block], np.array([0.5]))
        >>> found.expected.estimate, found.gaps["v"][0].estimate, found.num_prompts
        (0.5, 0.5, 2)
    """
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(f"a bootstrap needs at least {MIN_RESAMPLES} resamples, got {num_resamples}")
    rng, num_prompts, names = np.random.default_rng(seed), 0, ()
    sums, draws = np.zeros((1, 2)), np.zeros((num_resamples, 2))
    for block in blocks:
        values = _values(block, quantiles)
        if not num_prompts:
            names = tuple(block.scores)
            sums, draws = (np.zeros((len(each), 2 * values.shape[1])) for each in (sums, draws))
        num_prompts += len(values)
        for start in range(0, len(values), _PROMPTS_AT_ONCE):
            columns = _known(values[start : start + _PROMPTS_AT_ONCE])
            sums += columns.sum(axis=0)
            lots = rng.integers(2**16, size=(len(columns), num_resamples), dtype=np.uint16)
            draws += _COUNT_OF_LOT[lots].T @ columns
    means, resampled = _means(sums)[0], _means(draws)
    found = [percentile_interval(float(m), d, confidence) for m, d in zip(means, resampled.T, strict=True)]
    cuts = len(quantiles)
    gaps = {name: found[1 + i * cuts : 1 + (i + 1) * cuts] for i, name in enumerate(names)}
    return StreamedGaps(found[0], gaps, num_prompts)


def _values(block: Block, quantiles: np.ndarray) -> np.ndarray:
    """J_x, then gap_x of each verifier and cut; NaN where unknown; shape (num_prompts, 1 + cuts)."""
    gaps = [
        gap_by_quantile(block.utilities, scores, block.offsets, quantiles).gap_per_prompt
        for scores in block.scores.values()
    ]
    return np.column_stack([expected_utility(block.utilities, block.offsets), *gaps])


def _known(values: np.ndarray) -> np.ndarray:
    """Values with 0 for NaN, and beside them which are known."""
    return np.hstack([np.nan_to_num(values), ~np.isnan(values)])


def _means(sums: np.ndarray) -> np.ndarray:
    """Means from sums of the columns of `_known`."""
    count = sums.shape[1] // 2
    return divide_or_nan(sums[:, :count], sums[:, count:])


def whole_prompts(
    batches: Iterable[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]],
) -> Iterator[Block]:
    """Cut batches of rows, sorted by prompt, into blocks: an unfinished last prompt waits for the next batch.

    Args:
        batches: (prompt numbers, utilities, verifier -> scores) of consecutive rows; equal numbers adjacent,
            also from one batch to the next.

    Examples:
        >>> batches = [(np.array([0, 1]), np.zeros(2), {}), (np.array([1, 2]), np.zeros(2), {})]
        >>> [block.offsets.tolist() for block in whole_prompts(batches)]
        [[0, 1], [0, 2], [0, 1]]
    """
    waiting: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]] | None = None
    for batch in batches:
        prompts, utilities, scores = batch if waiting is None else _joined(waiting, batch)
        starts = np.concatenate([[0], np.flatnonzero(prompts[1:] != prompts[:-1]) + 1])
        cut = int(starts[-1])
        if cut:
            yield Block(utilities[:cut], {n: s[:cut] for n, s in scores.items()}, starts)
        waiting = (prompts[cut:], utilities[cut:], {n: s[cut:] for n, s in scores.items()})
    if waiting is not None and len(waiting[0]):
        yield Block(waiting[1], waiting[2], np.array([0, len(waiting[0])]))


def _joined(
    a: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]],
    b: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    scores = {name: np.concatenate([a[2][name], b[2][name]]) for name in b[2]}
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]]), scores
