"""Supervised fine-tuning on weighted rows with TRL: how the filtered set becomes the next policy.

The loss is over completion tokens alone, each token with the weight of its row: a row of weight 2 counts
as two rows. Rows are not packed, so examples never see each other. It does not choose rows, and it reads
no utilities: there is none in what it is given.

    python -m si_dagster.training.sft SPEC.json
"""

import json
import os
import tempfile
from typing import Any

import numpy as np
import polars as pl

from si_dagster.tasks.catalogue import load_task
from si_dagster.training.pretrain import IGNORED, loss_curve
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.specs import SftSpec


def sft(spec_file: str, report: Reporter) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    spec = SftSpec.read(spec_file)
    tokenizer = AutoTokenizer.from_pretrained(spec.model_dir, trust_remote_code=spec.trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(
        spec.model_dir, use_safetensors=True, trust_remote_code=spec.trust_remote_code
    )
    rows = training_rows(spec)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = weighted_trainer(spec, model, tokenizer, rows, report, scratch)
        outcome = trainer.train()
    trainer.model.save_pretrained(spec.output_dir, safe_serialization=True)
    tokenizer.save_pretrained(spec.output_dir)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "num_rows": rows.height,
        "num_replay_rows": int((rows["source"] == "replay").sum()),
        "steps": trainer.state.global_step,
        "epochs": float(trainer.state.epoch or 0.0),
        "final_loss": float(np.mean(losses[-20:])),
        "seconds": outcome.metrics["train_runtime"],
        "steps_per_second": outcome.metrics["train_steps_per_second"],
        "flops": 6.0 * model.num_parameters() * int(trainer.state.num_input_tokens_seen or 0),
        "num_parameters": model.num_parameters(),
        "seed": spec.seed,
        "loss_curve": loss_curve(losses),
    }
    (spec.output_dir / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


def training_rows(spec: SftSpec) -> pl.DataFrame:
    """The filtered set, weights scaled to mean 1, and replayed pre-training text of weight 1.

    Returns:
        Columns prompt, completion, weight, source (`filtered` or `replay`).

    Raises:
        ValueError: If replay is asked of a task that has no pre-training text.
    """
    rows = pl.read_parquet(spec.train_files, columns=["prompt", "completion", "weight"], glob=False)
    rows = rows.with_columns(pl.col("weight") / pl.col("weight").mean(), source=pl.lit("filtered"))
    share = spec.distillation.replay_fraction
    if not share:
        return rows
    task: Any = load_task(spec.task, spec.task_options)
    if not hasattr(task, "pretraining_text"):
        raise ValueError(f"distillation.replay_fraction: task {spec.task!r} has no pre-training text")
    count = round(rows.height * share / (1 - share))
    pairs = list(task.pretraining_text(np.random.default_rng(spec.seed), count, 1.0))
    replay = pl.DataFrame(pairs, schema=["prompt", "completion"], orient="row")
    return pl.concat([rows, replay.with_columns(weight=pl.lit(1.0), source=pl.lit("replay"))])


def weighted_trainer(
    spec: SftSpec, model: Any, tokenizer: Any, rows: pl.DataFrame, report: Reporter, scratch: str
) -> Any:
    """TRL's SFTTrainer over tokenised rows, with the weighted loss."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class WeightedTrainer(SFTTrainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # Our loss is a mean of its own batch: Trainer has to average accumulated batches, not sum them.
            self.model_accepts_loss_kwargs = False

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["input_ids", "completion_mask", "weight"]

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights, labels = inputs.pop("weight"), inputs.pop("labels")
            outputs = model(**inputs)
            loss = weighted_loss(outputs.logits, labels, weights)
            return (loss, outputs) if return_outputs else loss

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                report.step("fine-tuning", state.global_step, state.max_steps, logs["loss"])

    trainer = WeightedTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(tokenised(rows, tokenizer, spec.distillation.max_length)),
        data_collator=collator(tokenizer.pad_token_id),
        callbacks=[Told()],
        args=SFTConfig(
            output_dir=scratch,
            seed=spec.seed,
            data_seed=spec.seed,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_strategy="no",
            dataloader_pin_memory=model.device.type == "cuda",
            report_to="none",
            disable_tqdm=True,
            bf16=model.dtype.is_floating_point and model.device.type == "cuda",
            gradient_checkpointing=model.device.type == "cuda",
            include_num_input_tokens_seen="all",
            **spec.distillation.model_dump(exclude={"method", "start_from", "replay_fraction"}),
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def tokenised(rows: pl.DataFrame, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of prompt, completion and end token, the completion marked; cut at `max_length`."""
    prompts = tokenizer(rows["prompt"].to_list())["input_ids"]
    answers = tokenizer(rows["completion"].to_list(), add_special_tokens=False)["input_ids"]
    examples = []
    for prompt, answer, weight in zip(prompts, answers, rows["weight"], strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        mask = [0] * len(prompt) + [1] * (len(answer) + 1)
        examples.append(
            {"input_ids": ids[:max_length], "completion_mask": mask[:max_length], "weight": weight}
        )
    return examples


def collator(pad_token_id: int) -> Any:
    """Pads on the right; labels are -100 outside the completion; weights ride along."""

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        length = max(len(example["input_ids"]) for example in examples)
        ids = torch.full((len(examples), length), pad_token_id)
        labels = torch.full((len(examples), length), IGNORED)
        attention = torch.zeros((len(examples), length), dtype=torch.long)
        for i, example in enumerate(examples):
            row = torch.tensor(example["input_ids"])
            ids[i, : len(row)], attention[i, : len(row)] = row, 1
            marked = torch.tensor(example["completion_mask"], dtype=torch.bool)
            labels[i, : len(row)] = torch.where(marked, row, IGNORED)
        weights = torch.tensor([example["weight"] for example in examples])
        return {"input_ids": ids, "attention_mask": attention, "labels": labels, "weight": weights}

    return collate


def weighted_loss(logits: Any, labels: Any, weights: Any) -> Any:
    """Σ w_i Σ_t nll_it / Σ w_i T_i: the mean over completion tokens with each row counted w_i times.

    Args:
        logits: Shape (batch, length, vocabulary).
        labels: -100 outside the completion; shape (batch, length).
        weights: Shape (batch,).
    """
    import torch

    targets = labels[:, 1:]
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    counted = (targets != IGNORED) * weights[:, None]
    return (nll * counted).sum() / counted.sum()


if __name__ == "__main__":
    run_trainer(sft)
