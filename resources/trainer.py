"""The trainer as a resource: a module run in a process of its own, through Dagster Pipes.

It launches and waits; what is trained and how is in `si_dagster.training`. The child writes into a staging
folder that becomes a checkpoint only when it is whole.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._utils.warnings import PreviewWarning
from pydantic import Field

DEFAULT_ENV = {
    "PYTHONUNBUFFERED": "1",
    # Waiting threads that spin make a step many times slower when another process wants a core.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class TrainerResource(dg.ConfigurableResource):
    """Turns a training set into a checkpoint folder."""

    env: dict[str, str] = Field(default_factory=dict)
    """Environment of the training process (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES), beside the inherited."""

    def train(
        self, context: dg.AssetExecutionContext, module: str, spec: dict[str, Any], spec_file: Path
    ) -> dict[str, Any]:
        """Run `python -m module SPEC.json` to its end and return its result.json.

        Raises:
            dg.Failure: If the process fails; nothing of its folder is kept as a checkpoint.
        """
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        client = dg.PipesSubprocessClient(env={**DEFAULT_ENV, **self.env})
        with warnings.catch_warnings():
            # Dagster warns of a preview feature that its own client uses.
            warnings.simplefilter("ignore", PreviewWarning)
            client.run(context=context, command=[sys.executable, "-m", module, str(spec_file)])
        return json.loads((Path(spec["output_dir"]) / "result.json").read_text(encoding="utf-8"))
