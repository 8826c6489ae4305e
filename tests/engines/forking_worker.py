"""A worker whose engine forks, as vLLM does: the fork holds the pipe, the log and what the policy needs.

Run in the place of Python: `forking_worker.py -m si_dagster.engines.worker DESCRIPTOR PARENT_PID`.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from si_dagster.engines import registry, worker
from si_dagster.engines.base import Completion, Prompt, SamplingParams
from si_dagster.engines.scripted import ScriptedEngine

TOO_LITTLE = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


class ForkingEngine(ScriptedEngine):
    """Writes the number of its fork to the file `fork` beside the policy; answers no `generate`."""

    def __init__(self, path: Path, *, fails: bool = False) -> None:
        super().__init__(path)
        fork = os.fork()
        if not fork:
            if fails:
                os.write(2, TOO_LITTLE.encode())
                os._exit(1)
            time.sleep(600)
            os._exit(0)
        (Path(path) / "fork").write_text(str(fork))
        if fails:
            os.waitpid(fork, 0)
            raise RuntimeError("Engine core initialization failed. See root cause above.")

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        time.sleep(600)
        return []


if __name__ == "__main__":
    registry.ENGINE_CLASSES["forking"] = ("forking_worker", "ForkingEngine")
    sys.modules["forking_worker"] = sys.modules["__main__"]
    sys.argv = sys.argv[2:]
    worker.main()
