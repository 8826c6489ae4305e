"""The engine alone, for benchmarks/throughput.py: `python benchmarks/bare_engine.py SPEC.json`.

SPEC names engine, checkpoint, options, sampling and two lists of (key, prompt). The first warms the engine
up, the second is timed, each in one call. Prints one JSON line. It needs what the engine needs and no more:
no Dagster, no store, no chunks, so that it runs in an engine's own environment.
"""

import json
import sys
import time
from pathlib import Path

from si_dagster.engines.base import Prompt, SamplingParams
from si_dagster.engines.registry import open_engine


def main() -> None:
    began = time.perf_counter()
    spec = json.loads(Path(sys.argv[1]).read_text())
    engine = open_engine(spec["engine"], spec["checkpoint"], **spec["options"])
    sampling = SamplingParams(**spec["sampling"])
    told = {"open_seconds": time.perf_counter() - began}
    for name in ("warm_up", "timed"):
        began = time.perf_counter()
        drawn = engine.generate([Prompt(*pair) for pair in spec[name]], sampling)
        told[f"{name}_seconds"] = time.perf_counter() - began
        told[f"{name}_tokens"] = sum(c.num_tokens for completions in drawn for c in completions)
    engine.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
