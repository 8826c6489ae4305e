"""Log-likelihood: how likely the verifier policy finds the answer itself.

    score(x, y) = log pi(y | x), in nats, summed over the tokens of y

as the self-reward of "Self-Improvement in Language Models: The Sharpening Mechanism" (arXiv 2412.01951). The
policy is read at temperature 1 whatever it was sampled with, on the generation prompt; the end token is not
part of y (ours: what is stored is text), so that an answer that was cut off is not punished for it. An empty
answer has no tokens: its score is null, never 0, which would beat every other (ours). Long answers score low;
`log_likelihood_normalised` divides by the length. It asks no question and draws nothing, so the M
verifications of a generation are equal.
"""

from collections.abc import Iterable
from typing import ClassVar

from si_dagster.verification.base import Batch, UnaskedMethod, each_time


class LogLikelihood(UnaskedMethod):
    """Summed log-probability of the answer."""

    name: ClassVar[str] = "log_likelihood"
    version: ClassVar[str] = "1"

    def score(self, logprob: float, num_tokens: int) -> float | None:
        """The score of an answer of that log-probability and length; `None` without tokens."""
        return logprob if num_tokens else None

    def first_prompt(self, batch: Batch) -> str | None:
        """See `VerificationMethod.first_prompt`: the prompt that was answered, with the answer behind it."""
        return next(map("".join, self._pairs(batch)), None)

    def _pairs(self, batch: Batch) -> list[tuple[str, str]]:
        return [(batch.task.generation_prompt(i.row, batch.style), i.completion) for i in batch.items]

    def scores(self, batch: Batch) -> Iterable[float | None]:
        """See `UnaskedMethod.scores`; equal (prompt, completion) pairs are read once."""
        pairs = self._pairs(batch)
        # Sorted, so that the engine finds answers to one prompt side by side and reads the prompt once.
        distinct = sorted(set(pairs))
        prompts, completions = [p for p, _ in distinct], [c for _, c in distinct]
        logprobs, counts = batch.verifier.sequence_logprobs(prompts, completions)
        score_of = {
            pair: self.score(logprob, count)
            for pair, logprob, count in zip(distinct, logprobs.tolist(), counts.tolist(), strict=True)
        }
        return each_time((score_of[pair] for pair in pairs), batch.num_verifications)
