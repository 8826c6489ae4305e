"""Which answers a verifier accepts, where their worth is known: gold answers and canaries.

Some methods say when an answer is right (a verdict, a score above the middle); scores of the others only
rank, and there a canary counts as accepted where it would be kept before the gold answer; without a gold
answer nothing is known there, which is NaN and never a refusal. An unreadable score accepts nothing. It does
not know what the texts are.
"""

import numpy as np

from si_dagster.core.samples import (
    check_layout,
    max_per_prompt,
    mean_per_prompt,
    offsets_of_subset,
    per_sample,
)


def accepted(
    scores: np.ndarray, is_gold: np.ndarray, offsets: np.ndarray, accepts_from: float | None
) -> np.ndarray:
    """Whether the verifier accepts each answer (ours).

    Args:
        scores: NaN if unparsed; shape (num_answers,).
        is_gold: The gold answer of its prompt, one a prompt at most; the others are known to be wrong.
        offsets: Shape (num_prompts + 1,).
        accepts_from: The score from which on an answer is accepted; `None` where scores only rank: a gold
            answer is then accepted where it beats all others of its prompt, another answer where it ties
            with gold or beats it.

    Returns:
        1.0 or 0.0, NaN where scores only rank and the prompt has no gold answer; shape (num_answers,).

    Examples:
        Gold .9, canaries .9 and .2: with the bar at .5 gold and the first are accepted. By rank the canary
        that ties with gold is, and gold, which does not beat it, is not:

        >>> scores, is_gold = np.array([0.9, 0.9, 0.2]), np.array([True, False, False])
        >>> accepted(scores, is_gold, np.array([0, 3]), 0.5).tolist()
        [1.0, 1.0, 0.0]
        >>> accepted(scores, is_gold, np.array([0, 3]), None).tolist()
        [0.0, 1.0, 0.0]
        >>> accepted(scores[1:], is_gold[1:], np.array([0, 2]), None).tolist()
        [nan, nan]
    """
    check_layout(offsets, scores, is_gold)
    if accepts_from is not None:
        return (np.nan_to_num(scores, nan=-np.inf) >= accepts_from).astype(float)
    known = np.nan_to_num(scores, nan=-np.inf)
    of_gold = per_sample(max_per_prompt(np.where(is_gold, known, -np.inf), offsets), offsets)
    of_others = per_sample(max_per_prompt(np.where(is_gold, -np.inf, known), offsets), offsets)
    has_gold = per_sample(max_per_prompt(is_gold.astype(float), offsets), offsets) > 0
    wins = np.where(is_gold, known > of_others, known >= of_gold)
    return np.where(has_gold, wins & (known > -np.inf), np.nan)


def acceptance_per_prompt(accepts: np.ndarray, chosen: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Share accepted of some answers of each prompt; NaN where it has none of them or theirs is unknown.

    Args:
        accepts: As from `accepted`; shape (num_answers,).
        chosen: Of which the share is taken; same order.
        offsets: Shape (num_prompts + 1,).

    Examples:
        >>> accepts, canaries = np.array([1.0, 1.0, 0.0, 1.0]), np.array([False, True, True, False])
        >>> acceptance_per_prompt(accepts, canaries, np.array([0, 3, 4])).tolist()
        [0.5, nan]
    """
    return mean_per_prompt(accepts[chosen], offsets_of_subset(chosen, offsets))
