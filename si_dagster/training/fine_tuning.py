"""Fine-tuning a policy with TRL: what training on rows and on pairs have in common.

Loads, adapts, trains, goes on from the trainer's own checkpoints, and writes one ordinary checkpoint folder
from rank 0. It knows no loss (`sft`, `preference`) and starts no processes (`launch`).

FLOPs are 6 N a token of what passes through the model, padding included, and 2 N more where a reference model
reads it too; N is all parameters. Of adapters (LoRA) that is an upper bound, 4 N and little more being
computed; the second forward pass of gradient checkpointing is left out, and so is attention, which grows with
length. All attempts count, killed ones up to their last second (`attempts`).
"""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from si_dagster.processes import peak_gpu_memory, peak_memory
from si_dagster.training.attempts import Attempts
from si_dagster.training.checkpointing import newest_whole, remove_newer, vouch_for
from si_dagster.training.devices import check_device, dtype_of, one_gpu_a_process
from si_dagster.training.pretrain import loss_curve
from si_dagster.training.reporting import Reporter
from si_dagster.training.space import KEPT, require_space
from si_dagster.training.specs import TYPE_SECTIONS, Execution, FineTuningSpec

SHARED_WITH_TRL = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "warmup_steps",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
)
"""Fields of `DistillationSpec` that TRL's configurations have by the same name and sense."""


TRAINING_FLOPS = 6.0
"""A parameter and token: a multiplication and an addition forward, twice that backward."""

REFERENCE_FLOPS = 2.0
"""The same of a reference model, which reads alone."""


@dataclass(frozen=True)
class Examples:
    """What is trained on.

    Attributes:
        rows: Tokenised rows or pairs that fit into `max_length`.
        num_read: Rows or pairs before those were left out that do not.
        counts: For the result.
    """

    rows: list[dict[str, Any]]
    num_read: int
    counts: dict[str, int]


@dataclass(frozen=True)
class FineTuner:
    """What a method makes its trainer from.

    Attributes:
        spec: As given.
        settings: Arguments for TRL's configuration, whatever the method.
        tokenizer: Of the policy; it has a padding token.
        dataset: A `datasets.Dataset` of the examples.
        callbacks: For the trainer.
        peft_config: For the trainer; `None` trains all weights.
        load: Loads the policy. To be called after the configuration is made: ZeRO-3 shards while loading.
    """

    spec: FineTuningSpec
    settings: dict[str, Any]
    tokenizer: Any
    dataset: Any
    callbacks: list[Any]
    peft_config: Any
    load: Callable[[], Any]


def fine_tune(
    spec: FineTuningSpec,
    report: Reporter,
    examples_of: Callable[[FineTuningSpec, Any], Examples],
    trainer_of: Callable[[FineTuner], Any],
    flops_per_token: float = TRAINING_FLOPS,
) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result.

    Args:
        spec: What to train.
        report: Told how far it is.
        examples_of: Makes the examples.
        trainer_of: Makes the trainer.
        flops_per_token: Of each parameter; more where a reference model reads too.

    Raises:
        ValueError: If there is nothing to train on, or the loss is no number.
        DeviceError: If the device asked for is not there.
        DiskFull: If the checkpoint and the trainer's own would not fit.
    """
    one_gpu_a_process(spec.execution)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_device(spec.execution)
    tokenizer = AutoTokenizer.from_pretrained(spec.model_dir, trust_remote_code=spec.trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    examples = examples_of(spec, tokenizer)
    _refuse_nothing(examples, spec)
    require_space(spec)
    with _work_folder(spec) as work:
        trainer = trainer_of(_tuner(spec, tokenizer, examples, report, work))
        _forget_printing(trainer)
        left = newest_whole(work, spec.execution.optimizer_layout, report)
        remove_newer(work, left, trainer.is_world_process_zero())
        attempts = Attempts(work, _num_gpus(trainer), left)
        trainer.add_callback(_keeping(attempts))
        trainer.train(resume_from_checkpoint=left)
        spent = attempts.total(_tokens_seen(trainer.state))
        _save(trainer, tokenizer, spec)
        peaks = _peaks(trainer)
    if not trainer.is_world_process_zero():
        return {}
    result = {
        **examples.counts,
        "num_dropped_rows": examples.num_read - len(examples.rows),
        **_outcome(trainer, spent, spec, flops_per_token),
        **peaks,
    }
    (spec.output_dir / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


def read_rows(spec: FineTuningSpec, columns: list[str]) -> list[pl.DataFrame]:
    """The filtered set, those of other tasks, then those that are replayed; empty ones left out."""
    files = (spec.train_files, *spec.further_files, *spec.replay_files)
    sets = [pl.read_parquet(parts, columns=columns, glob=False) for parts in files]
    return [rows for rows in sets if rows.height] or sets[:1]


def _refuse_nothing(examples: Examples, spec: FineTuningSpec) -> None:
    if not examples.rows:
        bound = f"{spec.recipe_name}.max_length = {spec.distillation.max_length} tokens"
        raise ValueError(
            f"nothing to train on: all {examples.num_read} rows are longer than {bound} (prompt, completion "
            "and end together); raise it"
        )


@contextlib.contextmanager
def _work_folder(spec: FineTuningSpec) -> Iterator[Path]:
    if spec.work_dir is not None:
        spec.work_dir.mkdir(parents=True, exist_ok=True)
        yield spec.work_dir
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _tuner(
    spec: FineTuningSpec, tokenizer: Any, examples: Examples, report: Reporter, work: Path
) -> FineTuner:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        # Weights in float32 whatever the checkpoint holds: in bfloat16 the updates of a small learning rate
        # are lost in rounding.
        import torch

        return AutoModelForCausalLM.from_pretrained(
            spec.model_dir,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            dtype=torch.float32,
        )

    dataset = Dataset.from_list(examples.rows)
    return FineTuner(
        spec,
        _settings(spec, work),
        tokenizer,
        dataset,
        [_callback(spec, report)],
        _peft_config(spec),
        load,
    )


def _settings(spec: FineTuningSpec, work: Path) -> dict[str, Any]:
    """Arguments of TRL's configurations."""
    execution, recipe = spec.execution, spec.distillation
    size, times = execution.portions(recipe)
    device = check_device(execution)
    dtype = dtype_of(execution, device)
    saving = spec.work_dir is not None and execution.save_steps > 0
    return {
        **recipe.model_dump(include=set(SHARED_WITH_TRL)),
        "output_dir": str(work),
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": times,
        "seed": spec.seed,
        "data_seed": spec.seed,
        "use_cpu": device == "cpu",
        "bf16": dtype == "bfloat16" and not execution.deepspeed,
        "gradient_checkpointing": _default(execution.gradient_checkpointing, device == "cuda"),
        "deepspeed": deepspeed_settings(execution, dtype),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if saving else "no",
        "save_steps": execution.save_steps or 500,
        "save_total_limit": KEPT,
        "dataloader_pin_memory": device == "cuda",
        "report_to": "none",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "all",
    }


def deepspeed_settings(execution: Execution, dtype: str) -> dict[str, Any] | None:
    """The DeepSpeed configuration; it computes in `dtype` and holds and sends weights in float32.

    Its own section `bf16` would round the weights as they are loaded and again as they are gathered, and so
    would its list of modules that are safe in bfloat16: ZeRO-3 gathers theirs in that type. Gradients are
    clipped as the study says where the configuration says nothing (DeepSpeed would at 1.0).
    """
    if not execution.deepspeed:
        return None
    fields = {name: value for name, value in execution.deepspeed_fields.items() if name not in TYPE_SECTIONS}
    fields.setdefault("gradient_clipping", "auto")
    if execution.zero_stage == 3:
        fields["zero_optimization"] = _gathering(fields["zero_optimization"])
    if dtype == "bfloat16":
        autocast = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
        fields["torch_autocast"] = autocast
    return fields


def _gathering(zero: dict[str, Any]) -> dict[str, Any]:
    """ZeRO-3 that gives its weights when they are saved; in the type they have, whatever its name says.

    DeepSpeed refuses the setting beside an older name of it.
    """
    others = {name: value for name, value in zero.items() if not name.endswith("weights_on_model_save")}
    return {**others, "stage3_gather_16bit_weights_on_model_save": True}


def _default(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _peft_config(spec: FineTuningSpec) -> Any:
    lora = spec.distillation.lora
    if lora is None:
        return None
    from peft import LoraConfig

    fields = lora.model_dump()
    if isinstance(lora.target_modules, tuple):
        fields["target_modules"] = list(lora.target_modules)
    return LoraConfig(task_type="CAUSAL_LM", **fields)


def _callback(spec: FineTuningSpec, report: Reporter) -> Any:
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"the loss of step {state.global_step} is {logs['loss']}: lower "
                    f"{spec.recipe_name}.learning_rate (now {spec.distillation.learning_rate:g}) "
                    "or set the trainer's bf16 to false"
                )
            report.step("fine-tuning", state.global_step, state.max_steps, logs["loss"])

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            vouch_for(folder, spec.execution.optimizer_layout, state.is_world_process_zero)

    return Told()


def _keeping(attempts: Attempts) -> Any:
    """Keeps what the training spent, as the first process goes on and with each checkpoint."""
    from transformers import TrainerCallback

    class Keeping(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                attempts.save(_tokens_seen(state))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                attempts.save(_tokens_seen(state), at_once=True)

    return Keeping()


def _tokens_seen(state: Any) -> int:
    return int(state.num_input_tokens_seen or 0)


def _num_gpus(trainer: Any) -> int:
    accelerator = trainer.accelerator
    return accelerator.num_processes if accelerator.device.type == "cuda" else 0


def _forget_printing(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _save(trainer: Any, tokenizer: Any, spec: FineTuningSpec) -> None:
    """One ordinary checkpoint folder, by rank 0, in the type its weights had; shards are gathered first."""
    model = trainer.model
    # Every process takes part in gathering, though the first alone writes.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if spec.shards_weights else None
    if not trainer.is_world_process_zero():
        return
    if spec.distillation.lora:
        model = model.merge_and_unload()
    dtype, state = stored_dtype(spec.model_dir), state or model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    state = {name: tensor.to(dtype) for name, tensor in state.items() if tied.get(name) not in state}
    model.config.dtype = dtype
    model.save_pretrained(spec.output_dir, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(spec.output_dir)


def stored_dtype(folder: Path) -> Any:
    """The type of the first floating-point weight of a safetensors checkpoint."""
    import torch
    from safetensors import safe_open

    with safe_open(sorted(folder.glob("*.safetensors"))[0], "pt") as file:
        tensors = (file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
        known = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return next((known[dtype] for dtype in tensors if dtype in known), torch.float32)


def _peaks(trainer: Any) -> dict[str, int]:
    """Memory of all processes: their peaks added up, whether or not they fell together (ours)."""
    import torch

    own = torch.tensor([[peak_memory(), peak_gpu_memory()]], device=trainer.accelerator.device)
    resident, on_gpus = trainer.accelerator.gather(own).sum(0).tolist()
    return {"peak_memory_bytes": resident, "peak_gpu_memory_bytes": on_gpus}


def _outcome(
    trainer: Any, spent: dict[str, float], spec: FineTuningSpec, flops_per_token: float
) -> dict[str, Any]:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    num_parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters())
    return {
        "steps": trainer.state.global_step,
        "epochs": float(trainer.state.epoch or 0.0),
        "final_loss": float(np.mean(losses[-20:])),
        "seconds": spent["seconds"],
        "gpu_seconds": spent["gpu_seconds"],
        "steps_per_second": trainer.state.global_step / spent["seconds"],
        "flops": flops_per_token * num_parameters * spent["tokens"],
        "num_parameters": num_parameters,
        "seed": spec.seed,
        "loss_curve": loss_curve(losses),
    }
