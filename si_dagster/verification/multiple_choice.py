"""Multiple choice (MC): is this answer correct or incorrect? Read from probabilities, without reasoning.

    score(x, y) = P(correct) / (P(correct) + P(incorrect))

as in "Mind the Gap" (arXiv 2412.02674, Section 3). The probabilities are those of the two verdict labels as
continuations of the question; summed over all tokens of a label, softmax over the labels (ours: the paper
reads the next token). A cut-off or empty completion is asked about like any other. Nothing is drawn, so the
M verifications of a generation are equal. It does not calibrate: a verifier that always prefers one label has
low scores throughout, and per-prompt quantiles see through that while a fixed threshold does not.
"""

from typing import ClassVar

import numpy as np

from si_dagster.verification.base import Batch, Judgement, SingleAnswerMethod


class MultipleChoice(SingleAnswerMethod):
    """The verdict labels compared by their probabilities."""

    name: ClassVar[str] = "multiple_choice"
    version: ClassVar[str] = "1"
    accepts_from: ClassVar[float | None] = 0.5
    is_probability: ClassVar[bool] = True

    def verify(self, batch: Batch) -> list[Judgement]:
        """See `VerificationMethod.verify`; equal (prompt, completion) pairs are asked once."""
        questions = self.questions(batch)
        # Sorted, so that questions with a common beginning are neighbours and the engine reads it once.
        asked = sorted(set(questions))
        labels = batch.task.verdict_labels(batch.style)
        scores = self.scores(batch.verifier.label_logprobs(asked, labels))
        score_of = dict(zip(asked, scores.tolist(), strict=True))
        return [
            self._judgement(item.generation_id, index, score_of[question])
            for item, question in zip(batch.items, questions, strict=True)
            for index in range(batch.num_verifications)
        ]

    def scores(self, logprobs: np.ndarray) -> np.ndarray:
        """The score of each question, from nats of the labels (correct, incorrect)."""
        return correct_shares(logprobs)

    def _judgement(self, generation_id: str, index: int, score: float) -> Judgement:
        verdict = "correct" if score >= 0.5 else "incorrect"
        return Judgement(generation_id, index, self.name, None, verdict, score, "scored")


def correct_shares(logprobs: np.ndarray) -> np.ndarray:
    """P(correct) / (P(correct) + P(incorrect)), safe where both are far below the smallest float.

    Args:
        logprobs: Nats of the labels (correct, incorrect); shape (num_questions, 2).

    Returns:
        float64 in [0, 1], shape (num_questions,).

    Examples:
        P(correct) = .3 and P(incorrect) = .1, the rest on other words: .3 / .4

        >>> correct_shares(np.log([[0.3, 0.1]])).round(6).tolist()
        [0.75]
    """
    return np.exp(-np.logaddexp(0.0, logprobs[:, 1] - logprobs[:, 0]))
