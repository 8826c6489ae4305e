"""Several verifiers as one: AND, OR, mean rank, and weighting by agreement without labels.

AND and OR combine *weights* (each verifier has thresholded its own scores already), mean rank and agreement
combine *scores* into one score, which is then weighted like any other. Nothing here sees a utility. It
cannot tell agreement that comes from the truth from agreement that comes from a shared fault: two copies of
one bad verifier agree perfectly, and weighting by agreement believes them.
"""

from collections.abc import Sequence

import numpy as np

from si_dagster.core.samples import check_layout, divide_or_nan, per_sample, ranks_per_prompt, sum_per_prompt

LARGEST_LOADING = 0.99
"""Loadings are cut here (ours): at 1 the verifier would be free of noise and outweigh all others."""

_NUM_SWEEPS = 200
"""Of the rank-one fit; three verifiers of equal quality need about ten."""


def and_weights(weights: Sequence[np.ndarray]) -> np.ndarray:
    """All verifiers keep the sample: w = Π_k 1[û_k >= τ_k] for 0/1 weights (paper).

    Weights that are not 0/1 multiply, so that exponential weights combine as a sum of their exponents.

    Args:
        weights: The weights of each verifier, all of shape (num_samples,).

    Raises:
        ValueError: If there is none, or their shapes differ.

    Examples:
        >>> and_weights([np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])]).tolist()
        [1.0, 0.0, 0.0]
    """
    return np.prod(_stacked(weights), axis=0)


def or_weights(weights: Sequence[np.ndarray]) -> np.ndarray:
    """At least one verifier keeps the sample: the largest of the weights (ours).

    Arguments and errors as in `and_weights`.

    Examples:
        >>> or_weights([np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])]).tolist()
        [1.0, 1.0, 0.0]
    """
    return _stacked(weights).max(axis=0)


def relative_ranks(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rank of each score within its prompt as a share, (rank - 1/2) / n of n parsed; NaN stays NaN (ours).

    The mean over the parsed samples of a prompt is always 1/2, so ranks of different verifiers, and of
    prompts with different numbers of parsed samples, can be averaged.

    Examples:
        >>> relative_ranks(np.array([9.0, 2.0, np.nan, 4.0]), np.array([0, 3, 4])).tolist()
        [0.75, 0.25, nan, 0.5]
    """
    counts = sum_per_prompt(~np.isnan(scores), offsets)
    return divide_or_nan(ranks_per_prompt(scores, offsets) - 0.5, per_sample(counts, offsets))


def mean_rank_scores(scores: Sequence[np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """One score from several of different scales: the mean of their `relative_ranks` (ours).

    A sample that some verifiers could not be read on has the mean over the others; NaN where none was read.

    Args:
        scores: The scores of each verifier, NaN if unparsed; all of shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Returns:
        In (0, 1), NaN where nothing was parsed; shape (num_samples,).

    Raises:
        ValueError: If there is none, or their shapes differ.

    Examples:
        Ranks .25 and .75 of two verifiers that disagree on the first prompt; the second verifier alone
        could be read on the second:

        >>> one, other = np.array([1.0, 10.0, np.nan]), np.array([0.9, 0.1, 0.3])
        >>> mean_rank_scores([one, other], np.array([0, 2, 3])).tolist()
        [0.5, 0.5, 0.5]
    """
    return _weighted_mean_rank(scores, offsets, np.ones(len(scores)))


def agreement_scores(scores: Sequence[np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """One score from several: `relative_ranks` averaged with `agreement_weights`, no label needed (ours).

    The idea of Weaver (arXiv 2506.18203): verifiers that agree with the others are weighted up. Arguments,
    result and errors as in `mean_rank_scores`; of two verifiers both count alike and it *is* the mean rank.
    """
    return _weighted_mean_rank(scores, offsets, agreement_weights(scores, offsets))


def agreement_weights(scores: Sequence[np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """How much each verifier should count, from their agreement alone; sums to 1.

    One hidden cause, the truth, is assumed to make the verifiers agree within a prompt, and their errors to
    be independent. The correlation of verifiers i and j is then l_i · l_j, the loadings l follow from the
    off-diagonal correlations (as in Parisi et al., PNAS 2014, for classifiers; least squares here), and the
    best linear guess at the cause weighs verifier i by l_i / (1 - l_i²). A verifier that disagrees with the
    others gets 0. Equal weights where agreement says nothing: one or two verifiers, or none that agree.

    Args:
        scores: The scores of each verifier, NaN if unparsed; all of shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Returns:
        Non-negative, shape (num_verifiers,); meant for `relative_ranks`, not for raw scores.

    Raises:
        ValueError: If there is none, or their shapes differ.

    Examples:
        Two that agree and one that says the opposite:

        >>> good = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        >>> agreement_weights([good, good**2, -good], np.array([0, 6])).round(3).tolist()
        [0.5, 0.5, 0.0]
    """
    ranks = np.stack([relative_ranks(one, offsets) for one in _stacked(scores)])
    # An unparsed sample says nothing about its prompt: the middle rank.
    deviations = np.nan_to_num(ranks - 0.5, nan=0.0)
    scale = np.sqrt((deviations**2).mean(axis=1)) if deviations.shape[1] else np.zeros(len(scores))
    correlations = divide_or_nan(
        deviations @ deviations.T, np.outer(scale, scale) * max(deviations.shape[1], 1)
    )
    loadings = _loadings(np.nan_to_num(correlations))
    # Ranks of a verifier with many ties spread less; dividing by the spread makes weights comparable.
    raw = np.nan_to_num(divide_or_nan(loadings / (1.0 - loadings**2), scale))
    return raw / raw.sum() if raw.sum() > 0.0 else np.full(len(raw), 1.0 / len(raw))


def _loadings(correlations: np.ndarray) -> np.ndarray:
    """Non-negative l with l_i·l_j nearest to the off-diagonal correlations; zeros where none fits."""
    others = correlations - np.diag(np.diag(correlations))
    num = len(others)
    loadings = np.full(num, np.sqrt(max(others.sum() / max(num * (num - 1), 1), 0.0)))
    if (
        not loadings.any()
    ):  # on the whole they disagree, or there is one: begin with the pair that agrees most
        loadings = np.sqrt(np.maximum(others.max(axis=1, initial=0.0), 0.0))
    for _ in range(_NUM_SWEEPS):
        before = loadings.copy()
        for i in range(num):
            rest = float(loadings @ loadings - loadings[i] ** 2)
            best = float(others[i] @ loadings) / rest if rest > 0.0 else 0.0
            loadings[i] = min(max(best, 0.0), LARGEST_LOADING)
        if np.abs(loadings - before).max(initial=0.0) < 1e-9:
            break
    return loadings


def _weighted_mean_rank(scores: Sequence[np.ndarray], offsets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of relative ranks over the verifiers that were read, weighted by `counts`, one a verifier."""
    ranks = np.stack([relative_ranks(one, offsets) for one in _stacked(scores)])
    parsed = ~np.isnan(ranks)
    return divide_or_nan(counts @ np.where(parsed, ranks, 0.0), counts @ parsed)


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Shape (num_verifiers, num_samples)."""
    if not len(columns):
        raise ValueError("an ensemble needs at least one verifier")
    if len({column.shape for column in columns}) > 1:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise ValueError(f"verifiers of an ensemble score the same samples, got shapes {shapes}")
    check_layout(np.array([0, len(columns[0])]), *columns)
    return np.stack(columns)
