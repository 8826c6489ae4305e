"""Which neighbouring token sequences share a beginning, and how to read every beginning once.

Pure numpy over token ids. It looks at neighbours only: callers put sequences with a common beginning side by
side. It does not build a full prefix tree, because every level of one costs a forward pass of its own; two
shared levels (of the whole batch, and of runs inside it) hold nearly all that few-shot prompts can save.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SAVED_SHARE = 0.1
"""A shared level must save this share of the tokens, or its extra forward pass costs more than it saves."""

SLAB_ROWS = 4096
"""Sequences compared at once: bounds the padded table."""


@dataclass(frozen=True)
class Level:
    """One forward pass: row i continues row `parents[i]` of the level before with tokens `segments[i]`."""

    parents: np.ndarray
    segments: list[np.ndarray]


def shared_lengths(sequences: Sequence[np.ndarray], limits: np.ndarray) -> np.ndarray:
    """Tokens that each sequence has in common with the one before it, at most `limits` of either.

    Args:
        sequences: Token ids, each of shape (length,).
        limits: Most tokens of each sequence that may be shared; shape (num_sequences,).

    Returns:
        int64, shape (num_sequences - 1,).

    Examples:
        >>> sequences = [np.array(s) for s in ([1, 2, 3, 4], [1, 2, 3, 5], [1, 9])]
        >>> shared_lengths(sequences, np.array([3, 3, 1])).tolist()
        [3, 1]
    """
    first = [
        _first_difference(sequences[start : start + SLAB_ROWS + 1])
        for start in range(0, len(limits) - 1, SLAB_ROWS)
    ]
    return np.minimum(np.concatenate(first), np.minimum(limits[1:], limits[:-1]))


def _first_difference(sequences: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.array([len(s) for s in sequences])
    table = np.full((len(sequences), int(lengths.max()) + 1), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    table[:, -1] = -2 - np.arange(len(sequences))  # equal sequences differ behind their end
    return np.minimum((table[1:] != table[:-1]).argmax(axis=1), np.minimum(lengths[1:], lengths[:-1]))


def run_starts(shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut neighbours into runs that are read with one prefix each, so that the fewest tokens are computed.

    A threshold on the shared length cuts the row of sequences; a run shares the least of its shared lengths.
    All thresholds that occur are tried.

    Args:
        shared: Result of `shared_lengths`, shape (num_sequences - 1,).

    Returns:
        Index of the first sequence of each run, and the tokens its run shares (0 for a run of one).

    Examples:
        Two questions with three answers each; the questions share 4 tokens, the answers 9 and 8:

        >>> starts, prefixes = run_starts(np.array([9, 9, 4, 8, 8]))
        >>> starts.tolist(), prefixes.tolist()
        ([0, 3], [9, 8])
    """
    best = (0, np.array([0]), np.array([0]))
    for threshold in np.unique(shared[shared > 0]):
        starts = np.flatnonzero(np.concatenate([[True], shared < threshold]))
        sizes = np.diff(np.append(starts, len(shared) + 1))
        inner = np.append(
            np.where(shared < threshold, np.iinfo(np.int64).max, shared), np.iinfo(np.int64).max
        )
        prefixes = np.where(sizes > 1, np.minimum.reduceat(inner, starts), 0)
        saved = int(((sizes - 1) * prefixes).sum())
        if saved > best[0]:
            best = (saved, starts, prefixes)
    return best[1], best[2]


def reading_levels(sequences: Sequence[np.ndarray], limits: np.ndarray) -> list[Level]:
    """The forward passes that read all sequences: the beginning of all, of each run, then the rest of each.

    Rows of the last level are the sequences in their order. Levels that would save too little are left out.

    Args:
        sequences: Token ids, each of shape (length,) with length >= 1.
        limits: Most tokens of each sequence that may be read in a shared level; at most length - 1.

    Examples:
        >>> sequences = [np.array(s) for s in ([5, 5, 1, 2], [5, 5, 1, 3], [5, 5, 7, 8], [5, 5, 7, 9])]
        >>> [[s.tolist() for s in level.segments] for level in reading_levels(sequences, np.full(4, 3))]
        [[[5, 5]], [[1], [7]], [[2], [3], [8], [9]]]
    """
    count = len(sequences)
    if count == 1:
        return [Level(np.zeros(1, dtype=np.int64), list(sequences))]
    worth = MIN_SAVED_SHARE * sum(len(s) for s in sequences)
    shared = shared_lengths(sequences, limits)
    common = int(shared.min())
    if common * (count - 1) < worth:
        common = 0
    starts, prefixes = run_starts(shared - common)
    run_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count)))
    levels = []
    if common:
        levels.append(Level(np.zeros(1, dtype=np.int64), [sequences[0][:common]]))
    if (prefixes[run_of].sum() - prefixes.sum()) < worth:
        rest = [s[common:] for s in sequences]
        return [*levels, Level(np.zeros(count, dtype=np.int64), rest)]
    heads = [sequences[s][common : common + p] for s, p in zip(starts, prefixes, strict=True)]
    levels.append(Level(np.zeros(len(starts), dtype=np.int64), heads))
    rest = [s[common + prefixes[r] :] for s, r in zip(sequences, run_of, strict=True)]
    return [*levels, Level(run_of, rest)]
