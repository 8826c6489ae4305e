"""Pre-training of a pico policy from scratch: a plain language model on synthetic text of both roles.

The loss is over every token, so verification examples teach answers too. One pass: no example is seen
twice but by chance. On one GPU where there is one, in float32 but for torch's Muon, which orthogonalises in
bfloat16: a CPU and a GPU make two policies of one recipe, and `device` in the result says which this is. It
does not evaluate the policy; the loop measures what it can do.

    python -m si_dagster.training.pretrain SPEC.json
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from si_dagster.processes import peak_gpu_memory, peak_memory
from si_dagster.study import PretrainRecipe
from si_dagster.tasks.catalogue import load_task
from si_dagster.training.attempts import Attempts
from si_dagster.training.devices import check_device
from si_dagster.training.pico import character_tokenizer, new_policy
from si_dagster.training.reporting import Reporter, run_trainer
from si_dagster.training.space import MARGIN, WEIGHT_BYTES, require_bytes
from si_dagster.training.specs import Execution, PretrainSpec

if TYPE_CHECKING:
    import torch

IGNORED = -100
CURVE_POINTS = 50
BETAS = (0.9, 0.98)
WINDOW_BATCHES = 16


def pretrain(spec_file: str, report: Reporter) -> dict[str, Any]:
    """Train by the spec, write checkpoint and result.json, return the result.

    The result holds num_parameters N, num_tokens D (padding not counted), pretraining_flops = 6 N D
    (Kaplan et al., arXiv 2001.08361), the loss curve and the clock. `flops`, `seconds` and `gpu_seconds`
    count killed attempts too, whose steps are made again.

    Raises:
        DiskFull: If the checkpoint would not fit.
    """
    import torch
    from transformers import get_scheduler
    from transformers.utils import logging

    logging.disable_progress_bar()

    spec = PretrainSpec.read(spec_file)
    recipe = spec.recipe
    device = check_device(Execution(device=spec.device))
    tokenizer = character_tokenizer()
    model: Any = new_policy(recipe, tokenizer, spec.seed)
    model.to(device)
    require_bytes(int(MARGIN * WEIGHT_BYTES * model.num_parameters()), spec.output_dir)
    batches = token_batches(spec, tokenizer)
    optimizers = optimizers_of(model, recipe)
    schedulers = [
        get_scheduler(recipe.lr_scheduler_type, optimizer, recipe.warmup_steps, recipe.max_steps)
        for optimizer in optimizers
    ]
    model.train()
    losses: list[float] = []
    num_tokens, attempts = 0, Attempts(work_folder(spec), num_gpus=int(device == "cuda"))
    for step, (ids, targets) in enumerate(batches, 1):
        ids, targets = ids.to(device), targets.to(device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = next_token_loss(logits, targets)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in (*optimizers, *schedulers):
            stepped.step()
        losses.append(loss.item())
        num_tokens += int((targets != IGNORED).sum())
        attempts.save(num_tokens)
        report.step("pre-training", step, recipe.max_steps, float(np.mean(losses[-20:])))
    seconds, spent = attempts.seconds, attempts.total(num_tokens)
    model.save_pretrained(spec.output_dir, safe_serialization=True)
    tokenizer.save_pretrained(spec.output_dir)
    num_parameters = model.num_parameters()
    result = {
        "num_parameters": num_parameters,
        "num_tokens": num_tokens,
        "pretraining_flops": 6.0 * num_parameters * num_tokens,
        "steps": recipe.max_steps,
        "final_loss": float(np.mean(losses[-20:])),
        "flops": 6.0 * num_parameters * spent["tokens"],
        "seconds": spent["seconds"],
        "gpu_seconds": spent["gpu_seconds"],
        "steps_per_second": recipe.max_steps / seconds,
        "peak_memory_bytes": peak_memory(),
        "peak_gpu_memory_bytes": peak_gpu_memory(),
        "seed": spec.seed,
        "device": device,
        "torch": torch.__version__,
        "loss_curve": loss_curve(losses),
    }
    (spec.output_dir / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


def work_folder(spec: PretrainSpec) -> Path | None:
    """The folder of what attempts spent, made if need be."""
    if spec.work_dir is not None:
        spec.work_dir.mkdir(parents=True, exist_ok=True)
    return spec.work_dir


def optimizers_of(model: Any, recipe: PretrainRecipe) -> list["torch.optim.Optimizer"]:
    """Muon for the hidden matrices, AdamW for the rest.

    With AdamW alone a verifier of the same quality takes more than twice the steps (docs/log.md).
    """
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=BETAS, weight_decay=0.0, fused=True),
    ]


def example_pairs(spec: PretrainSpec, task: Any) -> list[tuple[str, str]]:
    """(prompt, completion) of every example in the order of training, demonstrations clean at first."""
    recipe = spec.recipe
    rng = np.random.default_rng(spec.seed)
    clean = round(recipe.max_steps * recipe.clean_fraction)
    phases = ((clean, 0.0), (recipe.max_steps - clean, recipe.demonstration_error_rate))
    size = recipe.per_device_train_batch_size
    return [
        pair
        for steps, error_rate in phases
        for pair in task.pretraining_text(rng, steps * size, recipe.verification_fraction, error_rate)
    ]


def token_batches(spec: PretrainSpec, tokenizer: Any) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
    """(token ids, targets) of every step; int64, shape (batch, length), padded on the right.

    A target is the token itself, or -100 where there is padding.
    """
    import torch

    recipe = spec.recipe
    task: Any = load_task(spec.task, spec.task_options)
    if not hasattr(task, "pretraining_text"):
        raise ValueError(f"task {spec.task!r} has no pre-training text; give this study's model a `path`")
    size = recipe.per_device_train_batch_size
    ends = tokenizer.eos_token
    encoded = tokenizer([prompt + completion + ends for prompt, completion in example_pairs(spec, task)])[
        "input_ids"
    ]
    if recipe.group_by_length:
        encoded = [encoded[i] for i in grouped_by_length([len(row) for row in encoded], size, spec.seed)]
    batches = []
    for first in range(0, len(encoded), size):
        rows = encoded[first : first + size]
        ids = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
        targets = np.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = targets[i, : len(row)] = row
        batches.append((torch.from_numpy(ids), torch.from_numpy(targets)))
    return batches


def grouped_by_length(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """An order in which examples of like length share a batch, near where they were.

    Windows of 16 batches are sorted by length and cut into batches, which are shuffled.

    Examples:
        >>> grouped_by_length([5, 1, 5, 1], 2, seed=0)
        [1, 3, 0, 2]
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for start in range(0, len(lengths), WINDOW_BATCHES * batch_size):
        window = range(start, min(start + WINDOW_BATCHES * batch_size, len(lengths)))
        ranked = sorted(window, key=lambda index: lengths[index])
        batches = [ranked[first : first + batch_size] for first in range(0, len(ranked), batch_size)]
        order += [index for place in rng.permutation(len(batches)) for index in batches[place]]
    return order


def next_token_loss(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Mean cross-entropy in nats of each token given those before it; logits (batch, length, vocabulary)."""
    import torch

    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED
    )


def loss_curve(losses: list[float]) -> list[tuple[int, float]]:
    """(step, mean loss of the steps since the point before) at up to 50 points."""
    edges = np.unique(np.linspace(0, len(losses), CURVE_POINTS + 1).astype(int))
    return [(int(last), float(np.mean(losses[first:last]))) for first, last in pairwise(edges)]


if __name__ == "__main__":
    run_trainer(pretrain)
