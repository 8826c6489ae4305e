"""Chain-of-thought verification: the verifier reasons in words, then ends with a line that is read.

What the two methods of this kind share. A reply without a readable last line is `unparsed` with a null score,
never a low one; one cut off in its reasoning is the same.
"""

from abc import abstractmethod
from typing import ClassVar

from si_dagster.engines.base import Completion, Prompt
from si_dagster.verification.asking import draw_replies
from si_dagster.verification.base import Batch, Judgement, SingleAnswerMethod


class ChainOfThought(SingleAnswerMethod):
    """Reasoning drawn from the verifier policy, and a last line."""

    samples: ClassVar[bool] = True

    @abstractmethod
    def read(self, reply: str, truncated: bool) -> tuple[str, float] | None:
        """Verdict and score of a reply; `None` if unreadable."""

    def verify(self, batch: Batch) -> list[Judgement]:
        """See `VerificationMethod.verify`; each verification is a draw of its own, equal questions too."""
        keys = (item.generation_id for item in batch.items)
        prompts = [Prompt(key, question) for key, question in zip(keys, self.questions(batch), strict=True)]
        drawn = draw_replies(batch, prompts, batch.num_verifications, lambda r: self._found(r) is not None)
        replies = (reply for row in drawn for reply in row)
        return [
            self._judgement(item.generation_id, index, reply)
            for (item, index), reply in zip(batch.verifications(), replies, strict=True)
        ]

    def _found(self, reply: Completion) -> tuple[str, float] | None:
        return self.read(reply.text, reply.finish_reason == "length")

    def _judgement(self, generation_id: str, index: int, reply: Completion) -> Judgement:
        found = self._found(reply)
        verdict, score = found or (None, None)
        status = "scored" if found else "unparsed"
        return Judgement(generation_id, index, self.name, reply.text, verdict, score, status)
