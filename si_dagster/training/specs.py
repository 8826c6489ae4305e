"""What a training process is told: one JSON file, read and checked before anything heavy is imported.

Fields of recipes are those of the study; here are the paths and seeds that a study does not have, and how
the work is done: on what, in how many processes, in what portions.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from si_dagster.study import DistillationSpec, PretrainRecipe

DEEPSPEED_CONFIGS = Path(__file__).parent / "deepspeed"

HELD_IN_16_BITS = "holds the weights in 16 bits, where updates of a small learning rate are lost"
TYPE_SECTIONS = {
    **dict.fromkeys(("bf16", "bfloat16", "fp16"), HELD_IN_16_BITS),
    "torch_autocast": "is for the trainer to set",
}
"""Sections of a DeepSpeed configuration that choose types, and why one that is enabled is refused; `bfloat16`
is DeepSpeed's old name of `bf16`. The trainer writes its own (`fine_tuning.deepspeed_settings`)."""


class TrainingSpec(BaseModel):
    """Common to all trainers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    output_dir: Path
    """Folder for the checkpoint and result.json."""
    task: str
    """Name of the task whose pre-training text is used."""
    task_options: dict[str, Any] = {}
    seed: int

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The spec in a JSON file."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))


class PretrainSpec(TrainingSpec):
    """Pre-training of a pico policy from scratch."""

    recipe: PretrainRecipe
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As `Execution.device`; one GPU at most."""
    work_dir: Path | None = None
    """Folder that keeps what a killed attempt spent; default: it is forgotten."""


class Execution(BaseModel):
    """How a fine-tuning runs: what changes clock and memory, and the numbers by rounding alone."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one; `cuda` insists."""
    num_processes: int = Field(default=1, ge=1)
    """Processes on this machine, one a GPU. They share the batch of the study, which stays what it is."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows a process takes at once, at most; default: the study's per_device_train_batch_size."""
    bf16: bool | None = None
    """Compute in bfloat16 over float32 weights; default: on a GPU that can."""
    gradient_checkpointing: bool | None = None
    """Compute activations again instead of keeping them; default: on a GPU."""
    packing: bool = False
    """Lay several rows of a batch into one, with attention within each row alone (sft)."""
    deepspeed: str = ""
    """`zero1`, `zero2`, `zero3`, or the path of a DeepSpeed configuration; empty: none."""
    save_steps: int = Field(default=0, ge=0)
    """Optimiser steps between the trainer's own checkpoints, from which a killed run goes on; 0: none."""

    @property
    def deepspeed_config(self) -> Path | None:
        """The file of the DeepSpeed configuration, if there is to be one.

        Raises:
            ValueError: If there is no such file; lists those of this repository.
        """
        if not self.deepspeed:
            return None
        shipped = DEEPSPEED_CONFIGS / f"{self.deepspeed}.json"
        file = shipped if shipped.is_file() else Path(self.deepspeed)
        if not file.is_file():
            known = ", ".join(sorted(f.stem for f in DEEPSPEED_CONFIGS.glob("*.json")))
            raise ValueError(f"deepspeed: {self.deepspeed!r} is neither one of {known} nor a file")
        return file

    @property
    def deepspeed_fields(self) -> dict[str, Any]:
        """What the DeepSpeed configuration says; empty without one."""
        file = self.deepspeed_config
        return json.loads(file.read_text(encoding="utf-8")) if file else {}

    @property
    def zero_stage(self) -> int:
        """Stage of ZeRO in the DeepSpeed configuration; 0 without."""
        return self.deepspeed_fields.get("zero_optimization", {}).get("stage", 0)

    @property
    def optimizer_layout(self) -> str:
        """How the trainer's own checkpoints hold the optimiser: what cannot change before they are read.

        Without DeepSpeed any number of processes reads them, under it only as many as wrote them.

        Examples:
            >>> Execution(num_processes=4).optimizer_layout
            'without DeepSpeed'
            >>> Execution(num_processes=4, deepspeed="zero2").optimizer_layout
            'under ZeRO-2 in 4 processes'
            >>> Execution(deepspeed="zero2").optimizer_layout
            'under ZeRO-2 in 1 process'
        """
        if not self.deepspeed:
            return "without DeepSpeed"
        noun = "process" if self.num_processes == 1 else "processes"
        return f"under ZeRO-{self.zero_stage} in {self.num_processes} {noun}"

    def portions(self, distillation: DistillationSpec) -> tuple[int, int]:
        """(rows a process takes at once, times it does so a step), so that a step has the study's rows.

        Raises:
            ValueError: If the rows of a step cannot be shared evenly.

        Examples:
            >>> recipe = DistillationSpec(per_device_train_batch_size=64, gradient_accumulation_steps=2)
            >>> Execution().portions(recipe)
            (64, 2)
            >>> Execution(num_processes=4, micro_batch_size=20).portions(recipe)
            (16, 2)
        """
        rows = distillation.per_device_train_batch_size * distillation.gradient_accumulation_steps
        share, rest = divmod(rows, self.num_processes)
        if rest:
            raise ValueError(
                f"a step of this study has {rows} rows (per_device_train_batch_size x "
                f"gradient_accumulation_steps), which {self.num_processes} processes cannot share evenly: "
                "choose a num_processes that divides it"
            )
        most = min(share, self.micro_batch_size or distillation.per_device_train_batch_size)
        micro = next(size for size in range(most, 0, -1) if share % size == 0)
        return micro, share // micro


class FineTuningSpec(TrainingSpec):
    """Fine-tuning of a policy, on weighted rows or on pairs."""

    model_dir: Path
    """Checkpoint to start from; for preference methods also the reference."""
    train_files: list[Path]
    """Parquet with columns prompt, completion, weight; for pairs also rejected_completion, proxy_utility and
    rejected_proxy_utility; for a student prompt_id, question, proxy_utility."""
    further_files: list[list[Path]] = []
    """The same of the other tasks of a joint policy, one list each."""
    replay_files: list[list[Path]] = []
    """The same of earlier iterations, one list each."""
    distillation: DistillationSpec
    recipe_name: str = "distillation"
    """What the study calls that recipe; named in messages."""
    labels: tuple[str, ...] = ()
    """Verdict labels (correct, incorrect) whose log-odds are a student's score."""
    execution: Execution = Execution()
    trust_remote_code: bool = False
    work_dir: Path | None = None
    """Folder for the trainer's own checkpoints, kept if the process is killed; default: none are made."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.execution.portions(self.distillation)
        if self.shards_weights and self.distillation.lora:
            raise ValueError("distillation.lora cannot be merged from shards: use deepspeed zero1 or zero2")
        if self.execution.packing and (self.shards_weights or self.distillation.pairing):
            raise ValueError("packing is for sft on whole weights: set the trainer's packing to false")
        self._refuse_other_types()
        return self

    def _refuse_other_types(self) -> None:
        fields, file = self.execution.deepspeed_fields, self.execution.deepspeed
        for section, why in TYPE_SECTIONS.items():
            if fields.get(section, {}).get("enabled") is True:
                raise ValueError(
                    f"deepspeed: {section} {why}: take the section out of {file}; the trainer's bf16 "
                    "computes in bfloat16 over float32 weights"
                )
        sent = str(fields.get("communication_data_type")).lower()
        if sent in ("bf16", "fp16"):
            raise ValueError(
                f"deepspeed: communication_data_type {sent} rounds the gradients that processes send each "
                f"other: take it out of {file}"
            )

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds all weights (ZeRO-3)."""
        return self.execution.zero_stage == 3
