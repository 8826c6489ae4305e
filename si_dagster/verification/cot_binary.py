"""CoT-binary (CoT-B): reason, then say correct or incorrect.

    score(x, y) = 1 if the last "Verdict:" is correct, 0 if it is incorrect

as in "Mind the Gap" (arXiv 2412.02674, Section 3), where the samples with score 1 are kept: weight by
`threshold` with tau = 1, or with M verifications by any share of them. It does not say how sure it is.
"""

from typing import ClassVar

from si_dagster.core.verdict import read_verdict
from si_dagster.verification.chain_of_thought import ChainOfThought


class CotBinary(ChainOfThought):
    """A verdict after reasoning."""

    name: ClassVar[str] = "cot_binary"
    version: ClassVar[str] = "1"
    accepts_from: ClassVar[float | None] = 0.5
    """Of M verdicts at least half say correct."""
    is_probability: ClassVar[bool] = True
    """A share of verdicts."""

    def read(self, reply: str, truncated: bool) -> tuple[str, float] | None:
        """The verdict and 1 or 0."""
        verdict = read_verdict(reply)
        return None if verdict is None else (verdict, float(verdict == "correct"))
