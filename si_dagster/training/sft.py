"""Supervised fine-tuning on weighted rows with TRL: how the filtered set becomes the next policy.

The loss is over completion tokens alone, each token with the weight of its row: a row of weight 2 counts
as two rows. It is a mean over all such tokens of an optimiser step, however the step is cut into portions
and shared among processes. It does not choose rows, and it reads no utilities: there is none in what it is
given. Rows longer than `max_length` are left out and counted, since a cut one teaches no end.

    python -m si_dagster.training.sft SPEC.json
"""

from typing import Any

import numpy as np
import polars as pl

from si_dagster.tasks.catalogue import load_task
from si_dagster.training.fine_tuning import Examples, FineTuner, fine_tune, read_rows
from si_dagster.training.packing import packed, refuse_leaks
from si_dagster.training.pretrain import IGNORED
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.specs import FineTuningSpec


def sft(spec_file: str, report: Reporter) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result."""
    return fine_tune(FineTuningSpec.read(spec_file), report, sft_examples, sft_trainer)


def sft_examples(spec: FineTuningSpec, tokenizer: Any) -> Examples:
    """Token ids of every row that fits, with its weight."""
    rows = training_rows(spec)
    counts = {
        "num_rows": rows.height,
        "num_replay_rows": int((rows["source"] == "replay").sum()),
    }
    return Examples(tokenised(rows, tokenizer, spec.distillation.max_length), rows.height, counts)


def training_rows(spec: FineTuningSpec) -> pl.DataFrame:
    """Filtered sets, weights of each scaled to mean 1, and replayed pre-training text of weight 1.

    Returns:
        Columns prompt, completion, weight, source (`filtered` or `replay`).

    Raises:
        ValueError: If replay is asked of a task that has no pre-training text.
    """
    sets = read_rows(spec, ["prompt", "completion", "weight"])
    rows = pl.concat(rows.with_columns(pl.col("weight") / pl.col("weight").mean()) for rows in sets)
    rows = rows.with_columns(source=pl.lit("filtered"))
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


def sft_trainer(tuner: FineTuner) -> Any:
    """TRL's SFTTrainer over tokenised rows, with the weighted loss."""
    import torch
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class WeightedTrainer(SFTTrainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # The loss is over the tokens of the whole step already: not to be divided by its portions.
            self.loss_is_scaled_for_ga = True

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["input_ids", "completion_mask", "weight"]

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            sums = [counted_weights(b["labels"], b["weight"]).sum().to(device) for b in batch_samples]
            totals: Any = self.accelerator.gather(torch.stack(sums).sum().reshape(1))
            return totals.sum()

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights, labels = inputs.pop("weight"), inputs.pop("labels")
            outputs = model(**inputs, use_cache=False)  # with a cache, packed rows would see each other
            loss = weighted_loss(outputs.logits, labels, weights, num_items_in_batch)
            loss = loss * self.accelerator.num_processes  # gradients of processes are averaged, not summed
            return (loss, outputs) if return_outputs else loss

    config = SFTConfig(
        **tuner.settings,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=tuner.spec.distillation.max_length,
    )
    pad, model = tuner.tokenizer.pad_token_id, tuner.load()
    pack_to = tuner.spec.distillation.max_length if tuner.spec.execution.packing else None
    if pack_to:
        refuse_leaks(model)
    return WeightedTrainer(
        model=model,
        args=config,
        processing_class=tuner.tokenizer,
        train_dataset=tuner.dataset,
        data_collator=collator(pad, pack_to),
        callbacks=tuner.callbacks,
        peft_config=tuner.peft_config,
    )


def tokenised(rows: pl.DataFrame, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of prompt, completion and end token, the completion marked; only rows that fit."""
    prompts = tokenizer(rows["prompt"].to_list())["input_ids"]
    answers = tokenizer(rows["completion"].to_list(), add_special_tokens=False)["input_ids"]
    examples = []
    for prompt, answer, weight in zip(prompts, answers, rows["weight"], strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        if len(ids) <= max_length:
            mask = [0] * len(prompt) + [1] * (len(answer) + 1)
            examples.append({"input_ids": ids, "completion_mask": mask, "weight": weight})
    return examples


def collator(pad_token_id: int, pack_to: int | None = None) -> Any:
    """Pads on the right; labels are -100 outside the completion; each token has the weight of its row.

    Args:
        pad_token_id: What fills up.
        pack_to: Lay rows one after the other up to this many tokens. Positions restart with every row and
            there is no mask of padding, from which attention knows that rows do not see each other.
    """

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        lengths = [len(example["input_ids"]) for example in examples]
        lines = packed(lengths, pack_to) if pack_to else [[i] for i in range(len(examples))]
        shape = (len(lines), max(sum(lengths[i] for i in line) for line in lines))
        ids, labels = torch.full(shape, pad_token_id), torch.full(shape, IGNORED)
        attention, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        weights = torch.zeros(shape)
        for line, members in enumerate(lines):
            start = 0
            for example in (examples[i] for i in members):
                row = torch.tensor(example["input_ids"])
                marked = torch.tensor(example["completion_mask"], dtype=torch.bool)
                span = slice(start, start + len(row))
                ids[line, span], attention[line, span], weights[line, span] = row, 1, example["weight"]
                labels[line, span] = torch.where(marked, row, IGNORED)
                labels[line, start] = IGNORED  # predicted from the row before, or from nothing
                positions[line, span] = torch.arange(len(row))
                start += len(row)
        masking = {"position_ids": positions} if pack_to else {"attention_mask": attention}
        return {"input_ids": ids, "labels": labels, "weight": weights, **masking}

    return collate


def counted_weights(labels: Any, weights: Any) -> Any:
    """The weight of each predicted token, 0 outside completions; shape (batch, length - 1)."""
    return (labels[:, 1:] != IGNORED) * weights[:, 1:]


def weighted_loss(logits: Any, labels: Any, weights: Any, total: Any = None) -> Any:
    """Σ w_t nll_t / Σ w_t: the mean over completion tokens with each row counted as often as it weighs.

    Args:
        logits: Shape (batch, length, vocabulary).
        labels: -100 outside the completion; shape (batch, length).
        weights: Weight of each token's row; shape (batch, length).
        total: Σ w_t over all portions and processes of the step; default: over these rows.
    """
    import torch

    counted = counted_weights(labels, weights)
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    return (nll * counted).sum() / (counted.sum() if total is None else total)


if __name__ == "__main__":
    run_trainer(sft)
