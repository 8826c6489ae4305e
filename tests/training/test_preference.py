"""DPO, RPO and preference regression on a tiny policy: what is minimised, and what comes of it."""

import json
import math

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from training.rows import largest_difference
from transformers import AutoModelForCausalLM, AutoTokenizer

from si_dagster.training.preference import dpo_losses, preference, regression_losses
from si_dagster.training.reporting import Reporter

PAIRS = [("?1_A", "12", "34", 0.9, 0.2), ("?_2A", "34", "12", 0.8, 0.7), ("?3_A", "1432", "1", 0.5, 0.1)]
SCHEMA = ["prompt", "completion", "rejected_completion", "proxy_utility", "rejected_proxy_utility"]


def run(folder, base, method, pairs=PAIRS, execution=None, **distillation):
    """The result of training, and its folder."""
    (folder / "out").mkdir(parents=True)
    pl.DataFrame(pairs, schema=SCHEMA, orient="row").write_parquet(folder / "pairs.parquet")
    given = {
        "learning_rate": 1e-2,
        "max_steps": 40,
        "per_device_train_batch_size": len(pairs),
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e6,
    }
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": 1,
        "model_dir": str(base),
        "train_files": [str(folder / "pairs.parquet")],
        "distillation": {"method": method, **given, **distillation},
        "execution": execution or {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    lines: list[str] = []
    return preference(str(folder / "spec.json"), Reporter(lines.append)), folder / "out"


def log_likelihoods(folder, column):
    """log π(y|x), end token included, of each pair's accepted (1) or rejected (2) completion."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for pair in PAIRS:
        prompt, ids = tokenizer(pair[0]).input_ids, tokenizer(pair[column]).input_ids
        ids = [*ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
    return torch.stack(found)


def margins(folder, base):
    """Δ of each pair: how much more the log-likelihood of the accepted rose than that of the rejected."""
    accepted, rejected = (log_likelihoods(folder, c) - log_likelihoods(base, c) for c in (1, 2))
    return accepted - rejected


def test_dpo_begins_at_ln_2_and_prefers_the_accepted(tmp_path, base):
    result, folder = run(tmp_path, base, "dpo")
    # The policy is its own reference at first: -log sigmoid(0) = ln 2.
    assert result["loss_curve"][0][1] == pytest.approx(math.log(2), abs=1e-5)
    assert result["final_loss"] < 0.4
    assert (margins(folder, base) > 1).all()
    assert (result["num_rows"], result["num_dropped_rows"]) == (3, 0)


def test_rpo_adds_the_likelihood_of_the_accepted(tmp_path, base):
    alone, dpo = run(tmp_path / "dpo", base, "dpo")
    both, rpo = run(tmp_path / "rpo", base, "rpo", rpo_alpha=2.0)
    # ln 2 and twice the mean of -log π(y) / |y|; the accepted completions have 3, 3 and 5 tokens.
    nll = (-log_likelihoods(base, 1) / torch.tensor([3, 3, 5])).mean()
    assert both["loss_curve"][0][1] == pytest.approx(math.log(2) + 2 * nll.item(), rel=1e-4)
    assert (log_likelihoods(rpo, 1) > log_likelihoods(dpo, 1)).all()
    assert alone["loss_curve"][0][1] != both["loss_curve"][0][1]


def test_regression_reaches_the_score_differences(tmp_path, base):
    result, folder = run(tmp_path, base, "sharpening_dpo", beta=0.5, max_steps=250, learning_rate=3e-3)
    differences = torch.tensor([0.7, 0.1, 0.4])
    # At first Δ = 0: the loss is the mean square of r - r' = (.49 + .01 + .16) / 3.
    assert result["loss_curve"][0][1] <= 0.22 + 1e-4
    assert result["final_loss"] < 1e-3
    assert torch.allclose(0.5 * margins(folder, base), differences, atol=0.05)


@pytest.mark.parametrize("method", ["dpo", "rpo", "sharpening_dpo"])
def test_portions_of_a_step_change_nothing(tmp_path, base, method):
    """Nor where the last step is cut unevenly: 7 pairs in steps of 4 are 4 and 3, in portions of 2 and 1."""
    pairs = [(f"?{i}A", str(i) * (1 + i % 4), str(9 - i), 0.5 + i / 20, 0.4) for i in range(7)]
    recipe = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    whole, portions = (
        run(tmp_path / str(most), base, method, pairs, {"device": "cpu", "micro_batch_size": most}, **recipe)
        for most in (4, 2)
    )
    assert whole[0]["steps"] == portions[0]["steps"] == 4
    losses = [[loss for _, loss in result["loss_curve"]] for result, _ in (whole, portions)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    first, second = (load_file(folder / "model.safetensors") for _, folder in (whole, portions))
    assert largest_difference(first, second) < 1e-4


def test_losses_by_hand():
    differences = torch.tensor([2.0, -1.0])
    # -ln σ(.5 x 2) = ln(1 + e^-1) and -ln σ(.5 x -1) = ln(1 + e^.5)
    assert dpo_losses(differences, beta=0.5).tolist() == pytest.approx([0.3132617, 0.9740770])
    # (.5 x 2 - .5)² and (.5 x -1 - 0)²
    assert regression_losses(differences, torch.tensor([0.5, 0.0]), beta=0.5).tolist() == [0.25, 0.25]


def test_pairs_with_a_side_too_long_are_left_out(tmp_path, base):
    result, _ = run(tmp_path, base, "dpo", max_length=8, max_steps=2)
    assert (result["num_rows"], result["num_dropped_rows"]) == (3, 1)  # 4 + 4 + 1 tokens


@pytest.mark.parametrize("method", ["dpo", "rpo", "sharpening_dpo"])
def test_the_reference_reads_every_token_too(tmp_path, base, method):
    """Sides are padded to the longest: 4 + 4 + 1 tokens of "?3_A", "1432" and the end."""
    result, _ = run(tmp_path, base, method, max_steps=2)
    assert result["flops"] == (6 + 2) * result["num_parameters"] * 2 * (2 * 3 * 9)
