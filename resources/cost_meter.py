"""What an artifact costs its engine, over every run that worked on it.

Saved before each chunk is written, so that no rows are ever without what they cost: a run that is killed
takes at most the cost of a chunk with it that was not written. It counts the engine alone: training tells its
own numbers, and grading and weighting are not metered.
"""

from pathlib import Path
from typing import Any

from si_dagster.engines.base import Engine, Usage, highest
from si_dagster.store.atomic import read_json, write_json

PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")
MADE_ANEW = ("tokens_per_second", *PEAKS)
"""What of an earlier run is not added up."""


class CostMeter:
    """The cost so far.

    Args:
        engine: What is metered, from now on.
        file: Where the cost is kept until the artifact is whole; what lies there is carried on.
    """

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine, self._file, self._before = engine, file, engine.usage()
        self._earlier = read_json(file)

    def cost(self) -> dict[str, Any]:
        """Tokens, seconds, FLOPs (2 N a token that is computed), peak bytes of the engine process.

        A peak is `None` where one of the runs could not know it. Beside them what this engine alone counts,
        for example `actors_lost` of the ray engine.
        """
        usage = self._engine.usage()
        spent, earlier = _spent(self._before, usage), self._earlier
        names = dict.fromkeys((*spent, *(name for name in earlier if name not in MADE_ANEW)))
        total = {name: spent.get(name, 0) + earlier.get(name, 0) for name in names}
        tokens, seconds = total["prompt_tokens"] + total["completion_tokens"], total["engine_seconds"]
        peaks = {name: highest((getattr(usage, name), earlier.get(name, 0))) for name in PEAKS}
        return {**total, "tokens_per_second": tokens / seconds if seconds else 0.0, **peaks}

    def save(self) -> None:
        """Keep the cost so far, for the run that finishes the artifact."""
        write_json(self._file, self.cost())


def _spent(before: Usage, after: Usage) -> dict[str, Any]:
    prompt = after.prompt_tokens - before.prompt_tokens
    completion = after.completion_tokens - before.completion_tokens
    cached = after.cached_tokens - before.cached_tokens
    seconds = after.seconds - before.seconds
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": cached,
        "engine_seconds": seconds,
        "gpu_seconds": seconds * after.num_gpus,
        **{name: value - before.extra.get(name, 0) for name, value in after.extra.items()},
        "flops": 2.0 * after.num_parameters * (prompt - cached + completion),
    }
