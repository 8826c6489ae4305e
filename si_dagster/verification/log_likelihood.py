"""Log-likelihood: how likely the verifier policy finds the answer itself.

    score(x, y) = log pi(y | x), in nats, summed over the tokens of y

as the self-reward of "Self-Improvement in Language Models: The Sharpening Mechanism" (arXiv 2412.01951). The
policy is read at temperature 1 whatever it was sampled with, on the generation prompt; the end token is not
part of y (ours: what is stored is text), so that an answer that was cut off is not punished for it. An empty
answer has no tokens: its score is null, never 0, which would beat every other (ours). Long answers score low;
`log_likelihood_normalised` divides by the length. It asks no question and draws nothing, so the M
verifications of a generation are equal.
"""

from collections.abc import Sequence
from typing import ClassVar

from si_dagster.engines.base import Engine
from si_dagster.tasks.base import PromptStyle, Task
from si_dagster.verification.base import Item, Judgement, equal_judgements
from si_dagster.verification.unasked import Unasked


class LogLikelihood(Unasked):
    """Summed log-probability of the answer."""

    name: ClassVar[str] = "log_likelihood"
    version: ClassVar[str] = "1"

    def score(self, logprob: float, num_tokens: int) -> float | None:
        """The score of an answer of that log-probability and length; `None` without tokens."""
        return logprob if num_tokens else None

    def verify(
        self,
        engine: Engine,
        task: Task,
        style: PromptStyle,
        items: Sequence[Item],
        seed: int,
        num_verifications: int,
    ) -> list[Judgement]:
        """See `VerificationMethod.verify`; equal (prompt, completion) pairs are read once."""
        pairs = [(task.generation_prompt(item.row, style), item.completion) for item in items]
        # Sorted, so that the engine finds answers to one prompt side by side and reads the prompt once.
        distinct = sorted(set(pairs))
        logprobs, counts = engine.sequence_logprobs([p for p, _ in distinct], [c for _, c in distinct])
        score_of = {
            pair: self.score(logprob, count)
            for pair, logprob, count in zip(distinct, logprobs.tolist(), counts.tolist(), strict=True)
        }
        return equal_judgements(items, [score_of[pair] for pair in pairs], self.name, num_verifications)
