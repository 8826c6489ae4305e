import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from si_dagster.store.atomic import read_json
from si_dagster.store.errors import DiskFull
from si_dagster.tasks.catalogue import load_task
from si_dagster.tasks.sudoku4 import is_solution, to_cells
from si_dagster.training.devices import DeviceError
from si_dagster.training.pico import character_tokenizer
from si_dagster.training.pretrain import (
    IGNORED,
    example_pairs,
    grouped_by_length,
    loss_curve,
    pretrain,
    token_batches,
)
from si_dagster.training.reporting import Reporter
from si_dagster.training.specs import PretrainSpec

RECIPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "warmup_steps": 1,
}


def spec_file(folder, seed=1, **recipe):
    folder.mkdir(exist_ok=True)
    spec = {
        "output_dir": str(folder / "out"),
        "task": "sudoku4",
        "seed": seed,
        "recipe": {**RECIPE, **recipe},
    }
    (folder / "out").mkdir()
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def run(folder, seed=1, **recipe):
    lines: list[str] = []
    result = pretrain(spec_file(folder, seed, **recipe), Reporter(lines.append))
    return result, lines


@pytest.mark.parametrize(("verification_fraction", "length"), [(0.0, 35), (1.0, 37)])
def test_flops_are_six_n_d(tmp_path, verification_fraction, length):
    result, _ = run(tmp_path / "a", verification_fraction=verification_fraction)
    # N = tied embedding 99 x 16, 2 layers of 4 x 16 x 16 (attention)
    # + 3 x 16 x 24 (mlp) + 2 x 16 (norms), and the last norm 16
    num_parameters = 99 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 16
    # D: ?, 16 cells, A, 16 digits, end = 35; V, 16 cells, =, 16 digits, :, verdict, end = 37
    num_tokens = 6 * 4 * length
    assert result["num_parameters"] == num_parameters
    assert result["num_tokens"] == num_tokens
    assert result["pretraining_flops"] == 6.0 * num_parameters * num_tokens


def test_what_killed_attempts_spent_is_no_part_of_the_policy(tmp_path):
    file = Path(spec_file(tmp_path / "a"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"work_dir": str(tmp_path / "work")}))
    first = pretrain(
        str(file), Reporter(print)
    )  # its folder is left as a kill leaves it, before the manifest
    spent = read_json(tmp_path / "work" / "spent.json")
    assert 0 < spent["tokens"] <= first["num_tokens"]
    second = pretrain(str(file), Reporter(print))
    assert second["pretraining_flops"] == first["pretraining_flops"] == first["flops"]
    assert second["flops"] == 6 * second["num_parameters"] * (second["num_tokens"] + spent["tokens"])
    assert second["seconds"] > spent["seconds"]


def test_a_full_disk_is_told_before_training(tmp_path, monkeypatch):
    free = int(1.1 * 4 * run(tmp_path / "a")[0]["num_parameters"])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    run(tmp_path / "fits")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free - 1))
    with pytest.raises(DiskFull, match="free some space, or move the home to a larger disk"):
        run(tmp_path / "b")
    assert not list((tmp_path / "b" / "out").iterdir())


def test_padding_is_neither_counted_nor_learned(tmp_path):
    spec = PretrainSpec.read(spec_file(tmp_path / "a", verification_fraction=0.5))
    tokenizer = character_tokenizer()
    mixed = 0
    for ids, targets in token_batches(spec, tokenizer):
        padding = ids == tokenizer.pad_token_id
        assert ((targets == IGNORED) == padding).all()
        assert (targets[~padding] == ids[~padding]).all()
        mixed += bool(padding.any())
    assert mixed


def test_grouping_by_length_moves_examples_and_loses_none(tmp_path):
    recipe = {"verification_fraction": 0.5, "per_device_train_batch_size": 8, "max_steps": 20}
    plain, grouped = (
        token_batches(
            PretrainSpec.read(spec_file(tmp_path / str(by), **recipe, group_by_length=by)),
            character_tokenizer(),
        )
        for by in (False, True)
    )

    def examples(batches):
        return sorted(tuple(row[row != IGNORED].tolist()) for _, targets in batches for row in targets)

    assert examples(plain) == examples(grouped)
    slots = [sum(ids.numel() for ids, _ in batches) for batches in (plain, grouped)]
    assert slots[1] < slots[0]  # of 35 and 37 tokens, mixed or apart
    first = grouped_by_length([1, 2] * 16, 4, seed=3)
    assert first == grouped_by_length([1, 2] * 16, 4, seed=3) != grouped_by_length([1, 2] * 16, 4, seed=4)


def test_checkpoint_and_result_lie_in_the_output_folder_alone(tmp_path):
    result, lines = run(tmp_path / "a")
    out = tmp_path / "a" / "out"
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"spec.json", "out"}
    assert (out / "model.safetensors").exists()
    assert not list(out.glob("*.bin"))
    model = AutoModelForCausalLM.from_pretrained(out, use_safetensors=True)
    assert model.num_parameters() == result["num_parameters"]
    assert AutoTokenizer.from_pretrained(out).eos_token_id == model.generation_config.eos_token_id
    assert lines[-1].startswith("pre-training: 6/6 steps (100%), loss ")


def test_seed_decides_the_weights(tmp_path):
    first, same, other = (run(tmp_path / n, seed)[0] for n, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["loss_curve"] == same["loss_curve"] != other["loss_curve"]


def test_it_runs_where_it_is_told_to(tmp_path):
    file = Path(spec_file(tmp_path / "a"))
    spec = json.loads(file.read_text())
    file.write_text(json.dumps(spec | {"device": "cpu"}))
    told = pretrain(str(file), Reporter(print))
    assert (told["device"], told["gpu_seconds"], told["peak_gpu_memory_bytes"]) == ("cpu", 0.0, 0)
    file.write_text(json.dumps(spec | {"device": "cuda"}))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no GPU"):
            pretrain(str(file), Reporter(print))
        return
    on_gpu = pretrain(str(file), Reporter(print))
    assert on_gpu["device"] == "cuda"
    assert on_gpu["gpu_seconds"] > 0
    assert on_gpu["peak_gpu_memory_bytes"] > 0
    assert on_gpu["final_loss"] == pytest.approx(told["final_loss"], rel=1e-3)


def test_it_learns(tmp_path):
    result, _ = run(tmp_path / "a", max_steps=60, per_device_train_batch_size=16, learning_rate=1e-2)
    # From ln 99 = 4.6 to less than ln 5 + 1: that there are five symbols, and where
    assert result["loss_curve"][0][1] > 4.0
    assert result["final_loss"] < 2.6


def test_a_task_without_text_is_refused(tmp_path):
    file = spec_file(tmp_path / "a")
    spec = json.loads(Path(file).read_text()) | {"task": "gsm8k"}
    Path(file).write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="no pre-training text"):
        pretrain(file, Reporter(print))


def test_loss_curve_is_the_mean_of_each_stretch():
    assert loss_curve([3.0, 1.0]) == [(1, 3.0), (2, 1.0)]
    curve = loss_curve([float(i) for i in range(100)])
    assert len(curve) == 50
    assert curve[:2] == [(2, 0.5), (4, 2.5)]


@pytest.mark.parametrize("clean_fraction", [0.0, 0.75, 1.0])
def test_demonstrations_err_only_after_the_clean_steps(tmp_path, clean_fraction):
    recipe = {
        "max_steps": 100,
        "clean_fraction": clean_fraction,
        "demonstration_error_rate": 0.5,
        "verification_fraction": 0.0,
    }
    spec = PretrainSpec.read(spec_file(tmp_path / "a", **recipe))
    pairs = example_pairs(spec, load_task("sudoku4", {}))
    assert len(pairs) == 400
    right = is_solution(to_cells([p[1:17] for p, _ in pairs]), to_cells([answer for _, answer in pairs]))
    clean = round(400 * clean_fraction)
    assert right[:clean].all()
    if clean < 400:  # half of 100 to 400 examples, a few corruptions being solutions again
        assert 0.35 < right[clean:].mean() < 0.75
