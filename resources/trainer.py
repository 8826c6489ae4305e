"""The trainer as a resource: a module run in a process of its own, through Dagster Pipes.

It launches and waits; what is trained and how is in `si_dagster.training`. The child writes into a staging
folder that becomes a checkpoint only when it is whole.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from dagster._utils.warnings import PreviewWarning
from pydantic import Field

from si_dagster.assignments import assignment
from si_dagster.training.faults import exit_reason, fault_file
from si_dagster.training.specs import Execution, FineTuningSpec

DEFAULT_ENV = {
    "PYTHONUNBUFFERED": "1",
    # Waiting threads that spin make a step many times slower when another process wants a core.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def execution_of(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of `Execution` from `name=value` pairs, values read as YAML.

    Raises:
        ValueError: If a pair is none, names no field, or has a value that does not fit.

    Examples:
        >>> execution_of(["num_processes=2", "deepspeed=zero2"])
        {'num_processes': 2, 'deepspeed': 'zero2'}
    """
    fields = {}
    for setting in settings:
        name, value = assignment(setting, "trainer option")
        if name not in Execution.model_fields:
            known = ", ".join(Execution.model_fields)
            raise ValueError(f"trainer option {setting!r}: no such name; names are {known}")
        fields[name] = value
    Execution.model_validate(fields)
    return fields


def execution_of_environment() -> dict[str, Any]:
    """The `name=value` pairs of SI_DAGSTER_TRAINER_OPTIONS, between spaces."""
    return execution_of(os.environ.get("SI_DAGSTER_TRAINER_OPTIONS", "").split())


class TrainerResource(dg.ConfigurableResource):
    """Turns a training set into a checkpoint folder."""

    execution: dict[str, Any] = Field(default_factory=execution_of_environment)
    """How fine-tuning runs: fields of `si_dagster.training.specs.Execution` (num_processes, deepspeed,
    micro_batch_size, bf16, gradient_checkpointing, packing, save_steps, device); default: the `name=value`
    pairs of SI_DAGSTER_TRAINER_OPTIONS."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of the training process (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES), beside the inherited."""

    def fine_tune(
        self, context: dg.AssetExecutionContext, module: str, spec: dict[str, Any], spec_file: Path
    ) -> dict[str, Any]:
        """As `train`, in as many processes as `execution` says.

        Raises:
            dg.Failure: As `train`.
            ValueError: If `execution` does not fit the spec; says what to change.
        """
        checked = FineTuningSpec.model_validate({**spec, "execution": self.execution})
        execution = checked.execution
        launched = execution.num_processes > 1 or bool(execution.deepspeed)
        launcher = ["si_dagster.training.launch", str(execution.num_processes)] if launched else []
        # DeepSpeed takes a GPU for granted unless it is told.
        env = {"DS_ACCELERATOR": "cpu"} if execution.deepspeed and execution.device == "cpu" else {}
        fields = checked.model_dump(mode="json")
        return self._run(context, [*launcher, module], fields, spec_file, env)

    def train(
        self, context: dg.AssetExecutionContext, module: str, spec: dict[str, Any], spec_file: Path
    ) -> dict[str, Any]:
        """Run `python -m module SPEC.json` to its end, on the device of `execution`; return its result.json.

        Raises:
            dg.Failure: If the process fails, with its last word; nothing of its folder becomes a checkpoint.
        """
        device = Execution.model_validate(self.execution).device
        return self._run(context, [module], {**spec, "device": device}, spec_file, {})

    def _run(
        self,
        context: dg.AssetExecutionContext,
        command: list[str],
        spec: dict[str, Any],
        spec_file: Path,
        env: dict[str, str],
    ) -> dict[str, Any]:
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        fault_file(spec_file).unlink(missing_ok=True)
        client = dg.PipesSubprocessClient(env={**DEFAULT_ENV, **env, **self.env})
        try:
            with warnings.catch_warnings():
                # Dagster warns of a preview feature that its own client uses.
                warnings.simplefilter("ignore", PreviewWarning)
                client.run(context=context, command=[sys.executable, "-m", *command, str(spec_file)])
        except DagsterPipesExecutionError as error:
            code = re.search(r"code (-?[0-9]+)", str(error))
            reason = exit_reason(spec_file, int(code[1]) if code else None)
            raise dg.Failure(f"training failed: {reason}", allow_retries=False) from error
        return json.loads((Path(spec["output_dir"]) / "result.json").read_text(encoding="utf-8"))
