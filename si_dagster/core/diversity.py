"""Diversity of the answers a policy gives to one prompt: how many, and how evenly.

The other half of self-improvement: pass@k for large k falls when answers grow alike. These are plug-in
estimates and biased down: N samples show at most N answers, and the entropy misses about
(A - 1) / (2N) nats when there are A answers (Miller 1955). Compare policies at the same N only. Answers are
compared as codes; this module does not decide which answers are the same.
"""

import numpy as np

from si_dagster.core.samples import check_layout, divide_or_nan, per_sample, sum_per_prompt


def distinct_answers(answers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Number of different answers among the samples of each prompt; biased down, see the module.

    Args:
        answers: Codes from `samples.answer_codes`, -1 (no answer) is not counted; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Returns:
        int64, shape (num_prompts,); 0 where no sample has an answer.

    Examples:
        >>> distinct_answers(np.array([0, 1, 0, -1, -1]), np.array([0, 4, 5])).tolist()
        [2, 0]
    """
    prompts, _ = _answer_counts(answers, offsets)
    return np.bincount(prompts, minlength=len(offsets) - 1)


def answer_entropy(answers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Entropy in nats of the answers of each prompt, -Σ p ln p; plug-in, biased down, see the module.

    Args:
        answers: Codes from `samples.answer_codes`; samples without an answer (-1) are left out.
        offsets: Shape (num_prompts + 1,).

    Returns:
        Shape (num_prompts,); 0.0 where all answers agree, NaN where there is none.

    Examples:
        Two answers, half each: ln 2 = .693147:

        >>> answer_entropy(np.array([0, 1, 3, 3, -1]), np.array([0, 2, 4, 5])).round(6).tolist()
        [0.693147, 0.0, nan]
    """
    prompts, counts = _answer_counts(answers, offsets)
    num_answered = sum_per_prompt(answers >= 0, offsets)
    shares = counts / num_answered[prompts]
    nats = np.bincount(prompts, weights=-shares * np.log(shares), minlength=len(num_answered))
    return np.where(num_answered > 0, np.maximum(nats, 0.0), np.nan)


def answered_share(answers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Share of each prompt's samples that have an answer; NaN where a prompt has no samples.

    Examples:
        >>> answered_share(np.array([0, -1, 2, 2]), np.array([0, 4])).tolist()
        [0.75]
    """
    return divide_or_nan(sum_per_prompt(answers >= 0, offsets), np.diff(offsets))


def vote_shares(answers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Share of the samples of its prompt that give the answer of each; NaN for no answer.

    The score of the verification `majority_vote`, for any cut of the samples into prompts.

    Args:
        answers: Codes from `samples.answer_codes`, -1 for no answer, which counts among the samples.
        offsets: Shape (num_prompts + 1,).

    Returns:
        Shape (num_samples,).

    Examples:
        >>> vote_shares(np.array([0, 1, 0, -1, 0]), np.array([0, 4, 5])).tolist()
        [0.5, 0.25, 0.5, nan, 1.0]
    """
    check_layout(offsets, answers)
    prompts, num_codes = per_sample(np.arange(len(offsets) - 1), offsets), int(answers.max(initial=0)) + 2
    _, ballots, votes = np.unique(prompts * num_codes + answers + 1, return_inverse=True, return_counts=True)
    return np.where(answers >= 0, votes[ballots] / per_sample(np.diff(offsets), offsets), np.nan)


def _answer_counts(answers: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (prompt, answer) that occurs, as prompt index, and how often it does."""
    check_layout(offsets, answers)
    answered = answers >= 0
    prompts = per_sample(np.arange(len(offsets) - 1), offsets)[answered]
    num_codes = int(answers.max(initial=0)) + 1
    pairs, counts = np.unique(prompts * num_codes + answers[answered], return_counts=True)
    return pairs // num_codes, counts
