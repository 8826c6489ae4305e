"""Length-normalised log-likelihood: the mean log-probability of the tokens of an answer.

    score(x, y) = log pi(y | x) / (number of tokens of y), in nats a token

the usual remedy where summed log-likelihood would rank answers by their length ("The Sharpening Mechanism",
arXiv 2412.01951). Tokens are the verifier's own. All else as in `log_likelihood`. It does not remove every
effect of length: a long answer that repeats itself has likely tokens.
"""

from typing import ClassVar

from si_dagster.verification.log_likelihood import LogLikelihood


class LogLikelihoodNormalised(LogLikelihood):
    """Mean log-probability a token of the answer."""

    name: ClassVar[str] = "log_likelihood_normalised"
    version: ClassVar[str] = "1"

    def score(self, logprob: float, num_tokens: int) -> float | None:
        """The log-probability a token.

        Examples:
            >>> LogLikelihoodNormalised().score(-6.0, 4)
            -1.5
        """
        return logprob / num_tokens if num_tokens else None
