"""Comparative distillation: a student is fitted to the differences of a teacher's scores within a prompt.

    loss = mean over pairs of responses of one prompt of ((s - s') - (t - t') / scale)²

s is the student's score, log P(correct) - log P(incorrect) of the verdict labels; t the teacher's; scale the
root mean square of the teacher's differences over all pairs (ours), so that one learning rate serves scores
of any unit and a student that says nothing has loss 1. After "Comparative Knowledge Distillation" (arXiv
2311.02253), which compares samples of a data set; here responses to one prompt alone are compared (ours),
since a filter chooses among those. k scores of a prompt give k (k - 1) / 2 pairs from k
readings. It chooses no responses and asks no teacher (`stages.teaching_set`), and reads no utilities.

    python -m si_dagster.training.comparative SPEC.json
"""

import sys
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from si_dagster.engines.tokens import TokenCodec
from si_dagster.training.fine_tuning import Examples, FineTuner, fine_tune
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.specs import FineTuningSpec


def comparative(spec_file: str, report: Reporter) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result."""
    return fine_tune(FineTuningSpec.read(spec_file), report, prompt_examples, comparative_trainer)


def prompt_examples(spec: FineTuningSpec, tokenizer: Any) -> Examples:
    """An example a prompt: token ids of its responses with each label behind, and the teacher's scores.

    Responses that are too long are left out, and prompts with fewer than two left.

    Raises:
        ValueError: If the teacher's scores do not differ within any prompt.
    """
    rows = pl.read_parquet(spec.train_files, columns=["prompt_id", "question", "proxy_utility"], glob=False)
    of_prompt: dict[str, list[tuple[list[list[int]], list[int], float]]] = {}
    read = labelled(rows["question"].to_list(), spec.labels, tokenizer)
    for prompt_id, (ids, lengths), score in zip(rows["prompt_id"], read, rows["proxy_utility"], strict=True):
        responses = of_prompt.setdefault(prompt_id, [])
        if max(map(len, ids)) <= spec.distillation.max_length:
            responses.append((ids, lengths, score))
    compared = [responses for responses in of_prompt.values() if len(responses) > 1]
    scale = root_mean_square_difference([[score for *_, score in responses] for responses in compared])
    if compared and not scale:
        raise ValueError("the teacher scores all responses to each prompt alike: there is nothing to learn")
    examples = [
        {
            "input_ids": [row for ids, _, _ in responses for row in ids],
            "label_lengths": [length for _, lengths, _ in responses for length in lengths],
            "scores": [score / scale for *_, score in responses],
        }
        for responses in compared
    ]
    counts = {
        "num_rows": sum(map(len, compared)),
        "num_comparisons": sum(len(responses) * (len(responses) - 1) // 2 for responses in compared),
    }
    return Examples(examples, len(of_prompt), counts)


def labelled(
    questions: Sequence[str], labels: Sequence[str], tokenizer: Any
) -> list[tuple[list[list[int]], list[int]]]:
    """Token ids of each question with each label behind, and how many of them are the label's.

    Cut as the engines cut it, so that what is fitted is what they read.
    """
    codec = TokenCodec(tokenizer, sys.maxsize, "the student")
    read = []
    for question, ids in zip(questions, codec.encode(questions, room=0), strict=True):
        behind = [codec.continuation(question, label).tolist() for label in labels]
        read.append(([[*ids.tolist(), *label] for label in behind], [len(label) for label in behind]))
    return read


def root_mean_square_difference(scores: Sequence[Sequence[float]]) -> float:
    """Of the scores of every two responses to one prompt; 0.0 where there are none.

    Examples:
        Differences 3 and, of the second prompt, 1, 1 and 0: sqrt((9 + 1 + 1 + 0) / 4)

        >>> round(root_mean_square_difference([[1.0, 4.0], [2.0, 3.0, 3.0]]) ** 2, 6)
        2.75
    """
    differences = [a - b for of_prompt in scores for a, b in combinations(of_prompt, 2)]
    return float(np.sqrt(np.mean(np.square(differences)))) if differences else 0.0


def comparative_trainer(tuner: FineTuner) -> Any:
    """The trainer of transformers over prompts, with the loss over their pairs."""
    import torch
    from transformers import Trainer, TrainingArguments

    class ComparativeTrainer(Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            # The loss is over the pairs of the whole step already: not to be divided by its portions.
            self.loss_is_scaled_for_ga = True

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            pairs = sum(int(pairs_of(batch["prompts"]).sum()) for batch in batch_samples)
            totals: Any = self.accelerator.gather(torch.tensor([pairs], device=device))
            return totals.sum()

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            given = {name: inputs.pop(name) for name in ("label_mask", "scores", "prompts")}
            outputs = model(**inputs, use_cache=False)
            student = label_log_odds(outputs.logits, inputs["input_ids"], given["label_mask"])
            loss = comparative_loss(student, given["scores"], given["prompts"], num_items_in_batch)
            loss = loss * self.accelerator.num_processes  # gradients of processes are averaged, not summed
            return (loss, outputs) if return_outputs else loss

    return ComparativeTrainer(
        model=tuner.load(),
        args=TrainingArguments(**tuner.settings, remove_unused_columns=False),
        processing_class=tuner.tokenizer,
        train_dataset=tuner.dataset,
        data_collator=collator(tuner.tokenizer.pad_token_id),
        callbacks=tuner.callbacks,
    )


def collator(pad_token_id: int) -> Any:
    """Lays the responses of some prompts one below the other, each with either label, padded on the right."""

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        rows = [ids for example in examples for ids in example["input_ids"]]
        lengths = [length for example in examples for length in example["label_lengths"]]
        shape = (len(rows), max(map(len, rows)))
        ids, attention = torch.full(shape, pad_token_id), torch.zeros(shape, dtype=torch.long)
        label_mask = torch.zeros(shape, dtype=torch.bool)
        for line, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[line, : len(row)], attention[line, : len(row)] = torch.tensor(row), 1
            label_mask[line, len(row) - length : len(row)] = True
        sizes = torch.tensor([len(example["scores"]) for example in examples])
        return {
            "input_ids": ids,
            "attention_mask": attention,
            "label_mask": label_mask,
            "scores": torch.tensor([score for example in examples for score in example["scores"]]),
            "prompts": torch.repeat_interleave(torch.arange(len(examples)), sizes),
        }

    return collate


def label_log_odds(logits: Any, ids: Any, label_mask: Any) -> Any:
    """Log P(first label) - log P(second label) of each response, in nats; shape (responses,).

    Args:
        logits: Shape (2 x responses, length, vocabulary); the two labels of a response are neighbours.
        ids: Shape (2 x responses, length).
        label_mask: True at the tokens of labels; the same shape.
    """
    logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    of_label = (logprobs * label_mask[:, 1:]).sum(dim=1).reshape(-1, 2)
    return of_label[:, 0] - of_label[:, 1]


def pairs_of(prompts: Any) -> Any:
    """True where row and column are two responses of one prompt, each pair once; shape (rows, rows).

    Args:
        prompts: Which prompt each response is of; shape (rows,).
    """
    return (prompts[:, None] == prompts[None, :]).triu(diagonal=1)


def comparative_loss(student: Any, teacher: Any, prompts: Any, num_pairs: Any = None) -> Any:
    """Σ ((s - s') - (t - t'))² over the pairs of responses of one prompt, over the number of pairs.

    Args:
        student: s of each response; shape (responses,).
        teacher: t of each response, scaled; the same shape.
        prompts: Which prompt each is of; the same shape.
        num_pairs: Of all portions and processes of the step; default: of these responses.
    """
    pairs, excess = pairs_of(prompts), student - teacher
    squares = (excess[:, None] - excess[None, :])[pairs] ** 2
    return squares.sum() / (pairs.sum() if num_pairs is None else num_pairs)


if __name__ == "__main__":
    run_trainer(comparative)
