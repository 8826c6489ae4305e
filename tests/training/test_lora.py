"""Adapters: trained, merged, and an ordinary checkpoint afterwards."""

import pytest
from safetensors.torch import load_file
from training.rows import ROWS, run

LORA = {"r": 4, "lora_alpha": 8}


def test_merged_adapters_are_an_ordinary_checkpoint(tmp_path, base):
    result, weights, _ = run(tmp_path / "a", base, ROWS, max_steps=30, lora=LORA)
    before = load_file(base / "model.safetensors")
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert not [name for name in weights if "lora" in name]
    changed = {name for name in weights if not weights[name].equal(before[name])}
    # Every linear layer of both blocks, and neither embeddings nor norms.
    assert len(changed) == 2 * 7
    assert all("proj" in name for name in changed)
    assert result["final_loss"] < result["loss_curve"][0][1] - 0.2
    assert not list((tmp_path / "a" / "out").glob("adapter*"))


def test_named_modules_alone_are_adapted(tmp_path, base):
    _, weights, _ = run(tmp_path / "a", base, ROWS, lora={**LORA, "target_modules": ["q_proj", "v_proj"]})
    before = load_file(base / "model.safetensors")
    changed = {name.split(".")[-2] for name in weights if not weights[name].equal(before[name])}
    assert changed == {"q_proj", "v_proj"}


def test_unknown_modules_are_refused(tmp_path, base):
    with pytest.raises(ValueError, match="nonesuch"):
        run(tmp_path / "a", base, ROWS, lora={**LORA, "target_modules": ["nonesuch"]})
