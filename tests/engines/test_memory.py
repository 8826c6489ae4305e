"""Running out of memory: the batch is halved until it fits."""

import json
import subprocess
import sys

from si_dagster.engines.child import PACKAGE_ROOT

PROGRAM = """
import json, resource, sys
from si_dagster.engines.transformers import TransformersEngine

def scores_and_passes(room):
    passes.clear()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    return engine.label_logprobs(prompts, ["Y"])[:, 0].tolist(), len(passes)

engine = TransformersEngine(
    sys.argv[1], device="cpu", num_threads=1, max_batch_rows=2048, max_batch_tokens=10**7
)
prompts = [chr(48 + i % 70) + str(i % 1013).zfill(4) + "x" * 70 for i in range(1024)]
passes = []
engine._model.register_forward_hook(lambda *_: passes.append(1))
engine.label_logprobs(prompts[:2], ["Y"])
print(json.dumps([scores_and_passes(24 * 2**20), scores_and_passes(2**36)]))
"""


def test_batches_are_halved_until_they_fit(checkpoint):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint)], capture_output=True, text=True, cwd=PACKAGE_ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (tight, tight_passes), (free, free_passes) = json.loads(done.stdout)
    assert max(abs(a - b) for a, b in zip(tight, free, strict=True)) < 1e-4
    assert tight_passes > free_passes
