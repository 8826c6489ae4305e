"""Random: a verifier that knows nothing, the lower bound of any comparison.

    score(x, y) ~ Uniform(0, 1), by seed, generation and verification index alone

Under a per-prompt quantile it keeps about the share that other methods keep, so it is their control at the
same rate: its true gap is 0. It looks at neither prompt nor completion, so equal completions get different
scores.
"""

from collections.abc import Iterable
from typing import ClassVar

from si_dagster.engines.streams import uniforms
from si_dagster.verification.base import Batch, UnaskedMethod


class Random(UnaskedMethod):
    """Seeded noise."""

    name: ClassVar[str] = "random"
    version: ClassVar[str] = "1"

    calls_verifier: ClassVar[bool] = False

    def scores(self, batch: Batch) -> Iterable[float]:
        """See `UnaskedMethod.scores`; the order of the items changes nothing."""
        keys = [(item.generation_id, index) for item, index in batch.verifications()]
        return uniforms(batch.seed, keys, 1)[:, 0].tolist()
