"""Several trainings, one after the other, in processes that are started once.

A process that imports torch, transformers, TRL and DeepSpeed is what costs, not the steps.

    python -m si_dagster.training.launch NUM_PROCESSES training.several LIST.json

LIST.json holds pairs of a method, `sft` or `preference`, and a spec.
"""

import gc
import json
import os
from pathlib import Path
from typing import Any

from si_dagster.processes import peak_memory
from si_dagster.training.preference import preference
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.sft import sft

TRAINERS = {"sft": sft, "preference": preference}


def several(list_file: str, report: Reporter) -> None:
    """Run them in order, each as if it were the first; each process leaves its peak of memory by the spec."""
    environment = dict(os.environ)
    trainings: list[Any] = json.loads(Path(list_file).read_text(encoding="utf-8"))
    for trainer, spec in trainings:
        TRAINERS[trainer](spec, report)
        Path(spec).with_name(f"peak.{os.environ['RANK']}").write_text(str(peak_memory()))
        _forget()
        os.environ.clear()
        os.environ.update(environment)


def _forget() -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()  # transformers takes ZeRO-3 to be on as long as the arguments of a training live


if __name__ == "__main__":
    run_trainer(several)
