"""Gaps of more samples than memory holds: whole prompts go through in blocks, one number a prompt stays.

What is kept is J_x and gap_x of every prompt and cut, so memory grows with prompts, not with samples. Blocks
must hold whole prompts. It reads no files; the caller cuts them at the ends of prompts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from si_dagster.core.gap import expected_utility
from si_dagster.core.sweep import gap_by_quantile


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
    """Per-prompt values of all blocks, in their order.

    Attributes:
        expected: J_x; shape (num_prompts,).
        gaps: Verifier -> gap_x at each quantile, rejected prompts under `identity`; (num_prompts, num_cuts).
    """

    expected: np.ndarray
    gaps: dict[str, np.ndarray]


def stream_gaps(blocks: Iterable[Block], quantiles: np.ndarray) -> StreamedGaps:
    """The gap of each prompt, verifier and quantile, block after block.

    Args:
        blocks: Whole prompts, all with the same verifiers.
        quantiles: As in `sweep.gap_by_quantile`.

    Examples:
        >>> block = Block(np.array([0.0, 1.0]), {"v": np.array([1.0, 2.0])}, np.array([0, 2]))
        >>> found = stream_gaps([block, block], np.array([0.5]))
        >>> found.expected.tolist(), found.gaps["v"].tolist()
        ([0.5, 0.5], [[0.5], [0.5]])
    """
    expected: list[np.ndarray] = []
    gaps: dict[str, list[np.ndarray]] = {}
    for block in blocks:
        expected.append(expected_utility(block.utilities, block.offsets))
        for name, scores in block.scores.items():
            curve = gap_by_quantile(block.utilities, scores, block.offsets, quantiles)
            gaps.setdefault(name, []).append(curve.gap_per_prompt)
    return StreamedGaps(
        np.concatenate(expected or [np.zeros(0)]),
        {name: np.concatenate(parts) for name, parts in gaps.items()},
    )


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
