"""Oracle: a verifier that knows the truth, the upper bound of any comparison.

    score(x, y) = u(x, y)

Its gap is the headroom: what filtering by ground truth would gain, as the paper's ground-truth baseline
(arXiv 2412.02674, Section 5). It reads the grader's utilities, so it is no self-improvement: the graph has an
edge from utilities to its verifications, and a study whose weights come from it must say `oracle: true`. A
generation without a utility has a null score. It calls no engine, so the M verifications are equal.
"""

from collections.abc import Iterable
from typing import ClassVar

from si_dagster.verification.base import Batch, UnaskedMethod, each_time


class Oracle(UnaskedMethod):
    """The true utility."""

    name: ClassVar[str] = "oracle"
    version: ClassVar[str] = "1"
    calls_verifier: ClassVar[bool] = False
    sees_truth: ClassVar[bool] = True

    def scores(self, batch: Batch) -> Iterable[float | None]:
        """See `UnaskedMethod.scores`."""
        return each_time((item.utility for item in batch.items), batch.num_verifications)
