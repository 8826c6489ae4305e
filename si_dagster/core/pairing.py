"""Pairs of samples of one prompt, for preference methods: who is set against whom.

Indices alone: no texts, and no utilities. A sample whose score is unknown is in no pair, since an unread
verdict rejects nothing. How a pair is learned from is the trainer's.
"""

from itertools import pairwise

import numpy as np

from si_dagster.core.samples import check_layout

Pairs = tuple[np.ndarray, np.ndarray]


def accepted_rejected_pairs(
    accepted: np.ndarray,
    rejected: np.ndarray,
    scores: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    seed: int,
) -> Pairs:
    """Each accepted sample with one rejected sample of its prompt.

    The partner has a lower score and another completion, and is the one that was used least so far, ties
    broken by a seeded draw (ours; Iterative RPO, arXiv 2404.19733, draws K pairs at random). An accepted
    sample without such a partner is in no pair.

    Args:
        accepted: Bool, shape (num_samples,).
        rejected: Bool, shape (num_samples,).
        scores: NaN where unknown; shape (num_samples,).
        codes: Equal integers for equal completions; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        seed: Of the draws.

    Returns:
        Indices of the accepted and of the rejected, one each a pair, sorted by the accepted.

    Examples:
        The third has no score, the fourth is the same completion as the first:

        >>> scores, codes = np.array([0.9, 0.2, np.nan, 0.1]), np.array([1, 2, 3, 1])
        >>> accepted, offsets = np.array([True, False, False, False]), np.array([0, 4])
        >>> pairs = accepted_rejected_pairs(accepted, ~accepted, scores, codes, offsets, seed=0)
        >>> [side.tolist() for side in pairs]
        [[0], [1]]
    """
    check_layout(offsets, accepted, rejected, scores, codes)
    lots = np.random.default_rng(seed).random(len(scores))
    times_used = np.zeros(len(scores), dtype=np.int64)
    pairs = []
    for first, last in pairwise(offsets):
        pool = first + np.flatnonzero(rejected[first:last])
        pool = pool[np.argsort(lots[pool])]
        for sample in first + np.flatnonzero(accepted[first:last]):
            partners = pool[(scores[pool] < scores[sample]) & (codes[pool] != codes[sample])]
            if len(partners):
                partner = partners[np.argmin(times_used[partners])]
                times_used[partner] += 1
                pairs.append((sample, partner))
    return _sides(pairs)


def any_pairs(scores: np.ndarray, codes: np.ndarray, offsets: np.ndarray, seed: int) -> Pairs:
    """Disjoint pairs of any two samples of a prompt with scores, drawn by seed, the better one first.

    Two draws of one policy, as Sharpening's preference regression wants them (arXiv 2412.01951); a pair
    of equal completions says nothing and is left out.

    Args:
        scores: NaN where unknown; shape (num_samples,).
        codes: Equal integers for equal completions; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        seed: Of the draws.

    Returns:
        Indices of the better and of the other, one each a pair, sorted by the better.

    Examples:
        >>> scores, codes = np.array([0.2, np.nan, 0.9]), np.array([1, 2, 3])
        >>> [side.tolist() for side in any_pairs(scores, codes, np.array([0, 3]), 0)]
        [[2], [0]]
    """
    check_layout(offsets, scores, codes)
    rng = np.random.default_rng(seed)
    pairs = []
    for first, last in pairwise(offsets):
        known = rng.permutation(first + np.flatnonzero(~np.isnan(scores[first:last])))
        for one, other in zip(known[::2], known[1::2], strict=False):
            if codes[one] != codes[other]:
                pairs.append((one, other) if scores[one] >= scores[other] else (other, one))
    return _sides(pairs)


def _sides(pairs: list[tuple[int, int]]) -> Pairs:
    table = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
