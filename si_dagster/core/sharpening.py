"""Coverage in the sense of the sharpening mechanism: how hard a policy's likeliest answer is to find.

"Self-Improvement in Language Models: The Sharpening Mechanism" (arXiv 2412.01951) takes the policy's own
log-likelihood as reward and bounds what best-of-N distillation needs by E_x[1 / pi(y*|x)] over the likeliest
answers y*. About that many draws a prompt are needed to see y*. This is not the `coverage` of a weighting.
"""

import numpy as np

from si_dagster.core.samples import max_per_prompt


def inverse_likelihood_of_best(logprobs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """1 / pi(y*|x) of each prompt, y* being the likeliest of the samples (ours: a plug-in estimate).

    The likeliest of N samples is at most as likely as the likeliest answer, so this errs upwards, most on
    prompts whose y* was never drawn.

    Args:
        logprobs: log pi(y|x) in nats, NaN if unknown; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).

    Returns:
        At least 1, NaN where nothing is known; shape (num_prompts,).

    Examples:
        The best of the first prompt has probability 1/2, of the second 1/10:

        >>> logprobs = np.log([0.5, 0.25, 0.1])
        >>> inverse_likelihood_of_best(logprobs, np.array([0, 2, 3])).round(9).tolist()
        [2.0, 10.0]
    """
    return np.exp(-max_per_prompt(logprobs, offsets))
