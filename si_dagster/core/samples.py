"""The layout of samples: flat arrays sorted by prompt plus offsets, and sums over each prompt.

Sample j of prompt i is row `offsets[i] + j` of every flat array; prompts may hold different numbers of
samples, and none. This module knows no utilities, scores or weights, and it never sorts rows for the caller.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def offsets_from_sorted_ids(ids: Sequence[str] | Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each prompt begins and ends in arrays whose rows are grouped by prompt.

    Args:
        ids: Prompt id of each sample, equal ids adjacent; shape (num_samples,).

    Returns:
        int64, shape (num_prompts + 1,); samples of prompt i are rows `offsets[i]:offsets[i + 1]`.

    Raises:
        ValueError: If a prompt's rows are not adjacent, which would split it in two.

    Examples:
        >>> offsets_from_sorted_ids(["a", "a", "b", "c", "c"]).tolist()
        [0, 2, 3, 5]
    """
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(1, dtype=np.int64)
    starts = np.concatenate([[0], np.flatnonzero(array[1:] != array[:-1]) + 1])
    if len(set(array[starts].tolist())) != len(starts):
        raise ValueError("rows of one prompt are not adjacent: sort the samples by prompt id first")
    return np.append(starts, array.size).astype(np.int64)


def check_layout(offsets: np.ndarray, *arrays: np.ndarray) -> None:
    """Raise where offsets and flat arrays do not describe the same samples.

    Args:
        offsets: Shape (num_prompts + 1,).
        arrays: Flat arrays, each of shape (num_samples,).

    Raises:
        ValueError: If offsets do not start at 0, fall, or end elsewhere than an array.
    """
    if offsets.ndim != 1 or offsets.size == 0 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ValueError("offsets must be one-dimensional, start at 0 and never fall")
    for array in arrays:
        if array.shape != (offsets[-1],):
            raise ValueError(f"offsets end at {offsets[-1]} but an array has shape {array.shape}")


def sum_per_prompt(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum of a flat array over each prompt; 0.0 where a prompt has no samples.

    `np.add.reduceat` alone returns the first element of the next group for an empty one, and raises
    where the last is empty, so only prompts with samples are handed to it.

    Returns:
        float64, shape (num_prompts,).

    Examples:
        >>> sum_per_prompt(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 2, 3])).tolist()
        [3.0, 0.0, 4.0]
    """
    check_layout(offsets, values)
    sums = np.zeros(len(offsets) - 1)
    occupied = np.diff(offsets) > 0
    if occupied.any():
        sums[occupied] = np.add.reduceat(values, offsets[:-1][occupied], dtype=np.float64)
    return sums


def mean_per_prompt(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mean of a flat array over each prompt; NaN where a prompt has no samples.

    Examples:
        >>> mean_per_prompt(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 2, 3])).tolist()
        [1.5, nan, 4.0]
    """
    return divide_or_nan(sum_per_prompt(values, offsets), np.diff(offsets))


def max_per_prompt(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Largest value of each prompt, NaN values left out; NaN where nothing is left.

    Examples:
        >>> max_per_prompt(np.array([1.0, np.nan, np.nan]), np.array([0, 2, 3])).tolist()
        [1.0, nan]
    """
    check_layout(offsets, values)
    largest = np.full(len(offsets) - 1, np.nan)
    occupied = np.diff(offsets) > 0
    if occupied.any():
        largest[occupied] = np.fmax.reduceat(values, offsets[:-1][occupied])
    return largest


def per_sample(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Repeat one value a prompt for each of its samples; shape (num_samples,).

    Examples:
        >>> per_sample(np.array([5, 7, 9]), np.array([0, 2, 2, 3])).tolist()
        [5, 5, 9]
    """
    return np.repeat(values, np.diff(offsets))


def ranks_per_prompt(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rank of each value in its prompt, from 1; equal values share their mean rank, NaN stays NaN.

    Returns:
        Shape (num_samples,).

    Examples:
        >>> ranks_per_prompt(np.array([0.5, 0.1, 0.5, 7.0, np.nan]), np.array([0, 3, 5])).tolist()
        [2.5, 1.0, 2.5, 1.0, nan]
    """
    check_layout(offsets, values)
    prompts = per_sample(np.arange(len(offsets) - 1), offsets)
    order = np.lexsort((values, prompts))  # NaN last in each prompt
    ordered, prompt_of = values[order], prompts[order]
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (ordered[1:] != ordered[:-1]) | (prompt_of[1:] != prompt_of[:-1])
    starts = np.append(np.flatnonzero(opens), len(order))
    ranks = np.empty(len(order))
    ranks[order] = np.repeat((starts[:-1] + starts[1:] + 1) / 2.0, np.diff(starts))
    return np.where(np.isnan(values), np.nan, ranks - per_sample(offsets[:-1], offsets))


def offsets_of_subset(kept: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Offsets of the samples that a mask keeps; prompts that lose all their samples stay, empty.

    Args:
        kept: bool, shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Examples:
        >>> offsets_of_subset(np.array([True, False, False, True]), np.array([0, 2, 3, 4])).tolist()
        [0, 1, 1, 2]
    """
    check_layout(offsets, kept)
    return np.concatenate([[0], np.cumsum(kept)])[offsets]


def blocks_of_equal_size(offsets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a ragged layout into rectangles, so that work along a row needs no loop over prompts.

    Yields:
        Indices of the prompts that have one number of samples, shape (num_block_prompts,), and the row
        indices of their samples, shape (num_block_prompts, size). Prompts without samples are left out.

    Examples:
        >>> blocks = blocks_of_equal_size(np.array([0, 2, 3, 5]))
        >>> [(prompts.tolist(), rows.tolist()) for prompts, rows in blocks]
        [([1], [[2]]), ([0, 2], [[0, 1], [3, 4]])]
    """
    sizes = np.diff(offsets)
    for size in np.unique(sizes[sizes > 0]):
        prompts = np.flatnonzero(sizes == size)
        yield prompts, offsets[prompts][:, None] + np.arange(size)


def answer_codes(answers: Sequence[str | None]) -> np.ndarray:
    """Equal answers as equal integers, from 0; no answer (`None`) is -1.

    Returns:
        int64, shape (num_samples,).

    Examples:
        >>> answer_codes(["7", None, "8", "7"]).tolist()
        [0, -1, 1, 0]
    """
    codes: dict[str, int] = {}
    return np.fromiter(
        (-1 if answer is None else codes.setdefault(answer, len(codes)) for answer in answers),
        dtype=np.int64,
        count=len(answers),
    )


def divide_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, NaN where the denominator is 0: an undefined mean is unknown, not zero.

    Examples:
        >>> divide_or_nan(np.array([1.0, 0.0]), np.array([4, 0])).tolist()
        [0.25, nan]
    """
    quotient = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) != 0)
    return quotient


def mean_or_nan(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where there are none.

    Examples:
        >>> mean_or_nan(np.array([1.0, np.nan, 2.0])), mean_or_nan(np.array([]))
        (1.5, nan)
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
