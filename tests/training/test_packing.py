"""Rows laid into one: the same training, and proof that they do not see each other."""

import polars as pl
import pytest
from training.rows import ROWS, largest_difference, run
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from si_dagster.training.packing import packed, refuse_leaks
from si_dagster.training.pico import character_tokenizer
from si_dagster.training.sft import collator, tokenised


def test_packed_rows_train_as_rows_apart(tmp_path, base):
    rows = [*ROWS, ("?__A", "1", 3.0), ("?44A", "", 1.0)]
    apart, weights, _ = run(tmp_path / "apart", base, rows, max_length=16)
    together, same, _ = run(tmp_path / "packed", base, rows, execution={"packing": True}, max_length=16)
    assert [loss for _, loss in together["loss_curve"]] == pytest.approx(
        [loss for _, loss in apart["loss_curve"]], rel=1e-5
    )
    assert largest_difference(weights, same) < 1e-4


def test_a_packed_batch_holds_all_rows_in_fewer_lines():
    tokenizer = character_tokenizer()
    frame = pl.DataFrame(ROWS, schema=["prompt", "completion", "weight"], orient="row")
    examples = tokenised(frame, tokenizer, 16)
    batch = collator(tokenizer.pad_token_id, pack_to=16)(examples)
    # 9 + 7 tokens fill the first line, 7 begin the second.
    assert batch["position_ids"].tolist() == [[*range(9), *range(7)], [*range(7), *[0] * 9]]
    assert "attention_mask" not in batch
    plain = collator(tokenizer.pad_token_id)(examples)
    assert (batch["labels"] >= 0).sum() == (plain["labels"] >= 0).sum() == 3 + 3 + 5


def test_capacity_is_kept_and_no_row_is_lost():
    lengths = [5, 9, 1, 4, 4, 7]
    lines = packed(lengths, 10)
    assert sorted(index for line in lines for index in line) == list(range(6))
    assert all(sum(lengths[index] for index in line) <= 10 for line in lines)
    assert lines == [[1, 2], [5], [0, 3], [4]]


def test_an_architecture_that_leaks_is_refused(base):
    refuse_leaks(AutoModelForCausalLM.from_pretrained(base))
    recurrent = MambaForCausalLM(
        MambaConfig(vocab_size=99, hidden_size=16, state_size=4, num_hidden_layers=1, use_mambapy=False)
    )
    with pytest.raises(ValueError, match="packing leaks across examples in MambaForCausalLM"):
        refuse_leaks(recurrent)
