"""CoT-score (CoT-S): reason, then give a whole number from 1 to 10.

    score(x, y) = the number behind the last "Score:"

as in "Mind the Gap" (arXiv 2412.02674, Section 3). With whole numbers many samples tie, and a quantile keeps
all that tie at it: read the retained share beside the gap. It does not rescale: 10 is 10.
"""

from typing import ClassVar

from si_dagster.core.verdict import read_score
from si_dagster.verification.chain_of_thought import ChainOfThought


class CotScore(ChainOfThought):
    """A score from 1 to 10 after reasoning."""

    name: ClassVar[str] = "cot_score"
    version: ClassVar[str] = "1"
    accepts_from: ClassVar[float | None] = 5.5
    """The middle of the scale (ours)."""

    def read(self, reply: str, truncated: bool) -> tuple[str, float] | None:
        """The number, as text and as score."""
        score = read_score(reply, truncated)
        return None if score is None else (str(score), float(score))
