import json

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from training.rows import ROWS, largest_difference, run, spec_file
from transformers.models.llama.modeling_llama import LlamaMLP

from si_dagster.tasks.sudoku4 import side_of
from si_dagster.training.pico import character_tokenizer
from si_dagster.training.sft import IGNORED, collator, tokenised, training_rows, weighted_loss
from si_dagster.training.specs import FineTuningSpec


def test_weighted_loss_by_hand():
    # Two symbols; row 1: completion of one token with p = 1/2, row 2: of two tokens with p = 1/4 each.
    quarter = torch.tensor([1.0, 3.0]).log()
    logits = torch.stack([torch.zeros(3, 2), quarter.repeat(3, 1)])
    labels = torch.tensor([[IGNORED, IGNORED, 0], [IGNORED, 0, 0]])
    weights = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    # (1 x ln 2 + 2 x 2 ln 4) / (1 x 1 + 2 x 2) = 9 ln 2 / 5
    assert weighted_loss(logits, labels, weights).item() == pytest.approx(9 * 0.6931472 / 5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 1000))
def test_a_weight_is_a_number_of_copies_in_the_loss(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), 6, 5, generator=generator)
    labels = torch.randint(5, (len(counts), 6), generator=generator)
    labels[:, :2] = IGNORED
    labels[0, -2:] = IGNORED
    copies = torch.tensor(counts)
    weighted = weighted_loss(logits, labels, copies.float()[:, None].expand(-1, 6))
    replicated = weighted_loss(
        logits.repeat_interleave(copies, 0), labels.repeat_interleave(copies, 0), torch.ones(sum(counts), 6)
    )
    assert weighted.item() == pytest.approx(replicated.item(), rel=1e-5)


def test_weight_two_trains_as_the_row_given_twice(tmp_path, base):
    doubled = [(*ROWS[0][:2], 2.0), *ROWS[1:]]
    _, weighted, _ = run(tmp_path / "w", base, doubled)
    _, replicated, _ = run(tmp_path / "r", base, [ROWS[0], *ROWS])
    _, plain, _ = run(tmp_path / "p", base, ROWS)
    assert largest_difference(weighted, replicated) < 1e-4
    assert largest_difference(weighted, plain) > 1e-3


def test_scale_of_all_weights_and_rows_of_weight_zero_change_nothing(tmp_path, base):
    _, plain, _ = run(tmp_path / "p", base, ROWS)
    _, scaled, _ = run(tmp_path / "s", base, [(*row[:2], 5.0) for row in ROWS])
    _, padded, _ = run(tmp_path / "z", base, [*ROWS, ("?4_A", "4444", 0.0)])
    assert largest_difference(plain, scaled) < 1e-4
    assert largest_difference(plain, padded) < 1e-4


def test_accumulated_batches_train_as_one_large_batch(tmp_path, base):
    rows = [("?1_A", "12", 1.0), ("?_2A", "34", 1.0), ("?3_A", "14", 1.0), ("?_4A", "41", 1.0)]
    # Completions of equal length: the mean of two halves is the mean of all.
    large, at_once, _ = run(tmp_path / "one", base, rows)
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    accumulated, in_halves, _ = run(tmp_path / "two", base, rows, **halves)
    assert accumulated["loss_curve"][0] == pytest.approx(large["loss_curve"][0], rel=1e-5)
    assert largest_difference(at_once, in_halves) < 1e-4


def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(tmp_path, base, monkeypatch):
    forward, calls = LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda mlp, x: (calls.append(1), forward(mlp, x))[1])
    weights, times = [], []
    for name, is_on in (("off", False), ("on", True)):
        execution = {"device": "cpu", "gradient_checkpointing": is_on}
        weights.append(run(tmp_path / name, base, ROWS, execution=execution)[1])
        times.append(len(calls))
        calls.clear()
    assert times[1] == 2 * times[0] > 0
    assert largest_difference(*weights) < 1e-6


def test_bfloat16_computes_coarsely_and_keeps_weights_in_the_type_of_the_base(tmp_path, base):
    plain, coarse = (
        run(tmp_path / str(bf16), base, ROWS, execution={"device": "cpu", "bf16": bf16})
        for bf16 in (False, True)
    )
    assert coarse[0]["loss_curve"] != plain[0]["loss_curve"]
    assert coarse[0]["final_loss"] == pytest.approx(plain[0]["final_loss"], rel=0.02)
    assert {tensor.dtype for tensor in coarse[1].values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in coarse[1].values())


def test_loss_is_over_completion_and_end_token_alone(base):
    tokenizer = character_tokenizer()
    frame = pl.DataFrame(ROWS, schema=["prompt", "completion", "weight"], orient="row")
    batch = collator(tokenizer.pad_token_id)(tokenised(frame, tokenizer, 64))
    for (prompt, completion, _), ids, labels in zip(ROWS, batch["input_ids"], batch["labels"], strict=True):
        learned = labels[labels != IGNORED]
        assert learned.tolist() == [*tokenizer(completion).input_ids, tokenizer.eos_token_id]
        assert (labels[: len(prompt)] == IGNORED).all()
        assert tokenizer.decode(ids[: len(prompt)]) == prompt
    assert batch["attention_mask"].sum(1).tolist() == [7, 7, 9]  # 4 + 2 + 1 and 4 + 4 + 1


def test_rows_longer_than_max_length_are_left_out_and_counted(tmp_path, base):
    tokenizer = character_tokenizer()
    frame = pl.DataFrame(ROWS, schema=["prompt", "completion", "weight"], orient="row")
    assert [len(row["input_ids"]) for row in tokenised(frame, tokenizer, 8)] == [7, 7]
    result, weights, _ = run(tmp_path / "long", base, ROWS, max_length=8)
    _, without, _ = run(tmp_path / "without", base, ROWS[:2])
    assert (result["num_rows"], result["num_dropped_rows"]) == (3, 1)
    assert largest_difference(weights, without) < 1e-4


def test_a_set_of_which_no_row_fits_is_refused(tmp_path, base):
    rows = [("?1_A" * 3, "12", 1.0), ("?" * 20, "1", 1.0)]  # 15 and 22 tokens with their end
    with pytest.raises(ValueError, match=r"all 2 rows are longer than distillation\.max_length = 14 tokens"):
        run(tmp_path / "a", base, rows, max_length=14)


def test_replay_rows_are_verifications_off_the_evaluation_side(tmp_path, base):
    spec = FineTuningSpec.read(spec_file(tmp_path / "a", base, ROWS * 100, replay_fraction=0.4))
    rows = training_rows(spec)
    replay = rows.filter(pl.col("source") == "replay")
    assert replay.height == 200  # 300 x .4 / .6
    assert set(replay["weight"]) == {1.0}
    assert set(replay["completion"]) == {"Y", "N"}
    assert {side_of(prompt[1:17]) for prompt in replay["prompt"]} == {"pretrain"}
    assert rows.equals(training_rows(spec))


def test_replay_of_a_task_without_text_is_refused(tmp_path, base):
    spec = FineTuningSpec.read(spec_file(tmp_path / "a", base, ROWS, replay_fraction=0.4))
    with pytest.raises(ValueError, match="no pre-training text"):
        training_rows(spec.model_copy(update={"task": "gsm8k"}))


def test_rows_are_learned_and_the_result_says_how(tmp_path, base):
    result, _, lines = run(tmp_path / "a", base, ROWS, max_steps=60)
    assert result["loss_curve"][0][1] > 4.0  # ln 99 = 4.6: an untrained policy
    assert result["final_loss"] < 0.5
    assert (result["num_rows"], result["num_replay_rows"], result["steps"]) == (3, 0, 60)
    assert json.loads((tmp_path / "a" / "out" / "result.json").read_text())["seed"] == 1
    assert lines[-1].startswith("fine-tuning: 60/60 steps (100%), loss ")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"spec.json", "train.parquet", "out"}


def test_seed_decides_the_order(tmp_path, base):
    rows = [(f"?{i}A", str(i % 4), 1.0) for i in range(12)]
    runs = [
        run(tmp_path / n, base, rows, s, per_device_train_batch_size=2)
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert largest_difference(runs[0][1], runs[1][1]) == 0.0
    assert largest_difference(runs[0][1], runs[2][1]) > 0.0


def test_pickled_weights_are_refused(tmp_path, base):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in base.iterdir():
        if file.suffix == ".json":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(base / "model.safetensors"), pickled / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        run(tmp_path / "a", pickled, ROWS)
