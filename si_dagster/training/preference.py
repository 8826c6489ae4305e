"""Preference training on pairs with TRL's DPOTrainer: DPO, RPO and Sharpening's preference regression.

    dpo              -log σ(β Δ)                                                     arXiv 2305.18290
    rpo              -log σ(β Δ) - rpo_alpha log π(y) / |y|, y the accepted          arXiv 2404.19733
    sharpening_dpo   (β Δ - (r - r'))²                                               arXiv 2412.01951

Each is a mean over the pairs of an optimiser step, however the step is cut into portions and shared among
processes; Δ = log π(y)/π_ref(y) - log π(y')/π_ref(y'), and |y| counts the end token (ours). The reference is
the policy training starts from. A pair is in or out: it has no weight. Pairs with a side longer than
`max_length` are left out and counted. The load-balancing loss of a mixture of experts, which TRL adds to its
own DPO, is left out: it is one of a portion, and another of other portions. It does not make pairs
(`stages.filtered_set` does, from verifications alone) and reads no utilities.

    python -m si_dagster.training.preference SPEC.json
"""

from typing import Any

import polars as pl

from si_dagster.training.fine_tuning import (
    REFERENCE_FLOPS,
    TRAINING_FLOPS,
    Examples,
    FineTuner,
    fine_tune,
    read_rows,
)
from si_dagster.training.pretrain import IGNORED
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.specs import FineTuningSpec

COLUMNS = ["prompt", "completion", "rejected_completion", "proxy_utility", "rejected_proxy_utility"]


def preference(spec_file: str, report: Reporter) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result."""
    spec, each = FineTuningSpec.read(spec_file), TRAINING_FLOPS + REFERENCE_FLOPS
    return fine_tune(spec, report, pair_examples, preference_trainer, each)


def pair_examples(spec: FineTuningSpec, tokenizer: Any) -> Examples:
    """Token ids of every pair that fits, with the difference of its scores."""
    pairs = pl.concat(read_rows(spec, COLUMNS))
    counts = {"num_rows": pairs.height}
    return Examples(tokenised(pairs, tokenizer, spec.distillation.max_length), pairs.height, counts)


def tokenised(pairs: pl.DataFrame, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of prompt and both completions with their end token; only pairs that fit."""
    ends = [tokenizer.eos_token_id]
    prompts = tokenizer(pairs["prompt"].to_list())["input_ids"]
    sides = [
        [ids + ends for ids in tokenizer(pairs[column].to_list(), add_special_tokens=False)["input_ids"]]
        for column in ("completion", "rejected_completion")
    ]
    margins = (pairs["proxy_utility"] - pairs["rejected_proxy_utility"]).to_list()
    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "margin": margin}
        for prompt, chosen, rejected, margin in zip(prompts, *sides, margins, strict=True)
        if len(prompt) + max(len(chosen), len(rejected)) <= max_length
    ]


def preference_trainer(tuner: FineTuner) -> Any:
    """TRL's DPOTrainer over tokenised pairs, with the loss of the method over the pairs of a whole step."""
    import torch
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    recipe = tuner.spec.distillation
    config = DPOConfig(
        **tuner.settings,
        beta=recipe.beta,
        max_length=recipe.max_length,
        trust_remote_code=tuner.spec.trust_remote_code,
    )

    class PairTrainer(DPOTrainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # The loss is over the pairs of the whole step already: not to be divided by its portions.
            self.loss_is_scaled_for_ga = True

        def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
            return dataset  # tokenised already, prompt and completion apart, as they were sampled

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", "margin"]

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            pairs = sum(len(batch["margin"]) for batch in batch_samples)
            totals: Any = self.accelerator.gather(torch.tensor([pairs], device=device))
            return totals.sum()

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            margins, completions = inputs.pop("margin"), inputs["completion_mask"]
            labels = inputs["input_ids"].masked_fill(completions == 0, IGNORED)
            seen = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            outputs = model(**seen, labels=labels, use_cache=False, fused_lm_head=True)
            chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
            # Adapters have no reference model: it is the policy with them switched off.
            reference = self.ref_model if self.ref_model is not None else model
            ref_chosen, ref_rejected = self.compute_ref_log_probs(reference, inputs)
            differences = (chosen - ref_chosen) - (rejected - ref_rejected)
            if recipe.method == "sharpening_dpo":
                losses = regression_losses(differences, margins, recipe.beta)
            else:
                losses = dpo_losses(differences, recipe.beta)
            if recipe.method == "rpo":
                losses = losses - recipe.rpo_alpha * chosen / completions[:, 1:].sum(dim=1).chunk(2)[0]
            # Gradients of processes are averaged, not summed.
            processes, num_pairs = self.accelerator.num_processes, num_items_in_batch
            loss = losses.mean() if num_pairs is None else losses.sum() * processes / num_pairs
            return (loss, outputs) if return_outputs else loss

    pairs_alone = DataCollatorForPreference(tuner.tokenizer.pad_token_id)

    def with_margins(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**pairs_alone(examples), "margin": torch.tensor([pair["margin"] for pair in examples])}

    return PairTrainer(
        model=tuner.load(),
        args=config,
        processing_class=tuner.tokenizer,
        train_dataset=tuner.dataset,
        data_collator=with_margins,
        callbacks=tuner.callbacks,
        peft_config=tuner.peft_config,
    )


def dpo_losses(log_ratio_differences: Any, beta: float) -> Any:
    """-log σ(β Δ) of each pair (DPO, arXiv 2305.18290); arguments as of `regression_losses`."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * log_ratio_differences)


def regression_losses(log_ratio_differences: Any, margins: Any, beta: float) -> Any:
    """(β Δ - (r - r'))² of each pair, Δ = log π(y)/π_ref(y) - log π(y')/π_ref(y').

    The objective of Sharpening's DPO (arXiv 2412.01951), with the proxy utility for the self-reward r; with
    the verification `log_likelihood` it is that paper's. Its minimum over all policies is the reference
    reweighted by exp(r / β).

    Args:
        log_ratio_differences: Δ of each pair, shape (batch,).
        margins: r - r' of each pair, shape (batch,).
        beta: β.
    """
    return (beta * log_ratio_differences - margins) ** 2


if __name__ == "__main__":
    run_trainer(preference)
