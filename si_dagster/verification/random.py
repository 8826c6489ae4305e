"""Random: a verifier that knows nothing, the lower bound of any comparison.

    score(x, y) ~ Uniform(0, 1), by seed, generation and verification index alone

Under a per-prompt quantile it keeps about the share that other methods keep, so it is their control at the
same rate: its true gap is 0. It looks at neither prompt nor completion, so equal completions get different
scores.
"""

from collections.abc import Sequence
from typing import ClassVar

from si_dagster.engines.base import Engine
from si_dagster.engines.streams import uniforms
from si_dagster.tasks.base import PromptStyle, Task
from si_dagster.verification.base import Item, Judgement
from si_dagster.verification.unasked import Unasked


class Random(Unasked):
    """Seeded noise."""

    name: ClassVar[str] = "random"
    version: ClassVar[str] = "1"

    def verify(
        self,
        engine: Engine,
        task: Task,
        style: PromptStyle,
        items: Sequence[Item],
        seed: int,
        num_verifications: int,
    ) -> list[Judgement]:
        """See `VerificationMethod.verify`; the order of the items changes nothing."""
        keys = [(item.generation_id, index) for item in items for index in range(num_verifications)]
        draws = uniforms(seed, keys, 1)[:, 0].tolist()
        return [
            Judgement(generation_id, index, self.name, None, None, draw, "scored")
            for (generation_id, index), draw in zip(keys, draws, strict=True)
        ]
