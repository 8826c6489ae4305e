"""What can be missing, and that the error says what to change; no half checkpoint is left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.trainer as trainer_module
from pydantic import ValidationError
from training.rows import ROWS, run, spec_file

from si_dagster.store.errors import DiskFull
from si_dagster.study import DistillationSpec, LoraSpec
from si_dagster.training.devices import DeviceError
from si_dagster.training.faults import exit_reason, explained, fault_file
from si_dagster.training.fine_tuning import deepspeed_settings
from si_dagster.training.reporting import Reporter
from si_dagster.training.sft import sft
from si_dagster.training.space import needed_bytes, num_adapters, num_parameters, own_bytes, require_space
from si_dagster.training.specs import Execution, FineTuningSpec

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_a_disk_too_small_is_told_before_training(tmp_path, base):
    file = spec_file(tmp_path / "a", base, ROWS)
    out = tmp_path / "a" / "out"
    mount = f"mount -t tmpfs -o size=20k none '{out}'"
    probe = subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no unprivileged mount namespace here: {probe.stderr.strip()}")
    train = f"{mount} && exec '{sys.executable}' -m si_dagster.training.sft '{file}'"
    command = ["unshare", "-Urm", "sh", "-c", train]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "training failed: DiskFull: training needs about 0.0" in last
    assert "SI_DAGSTER_HOME" in last
    assert "fine-tuning" not in done.stdout, "not one step was made"
    assert exit_reason(file, 1) in last


def saving_spec(folder: Path, base: Path, save_steps: int) -> tuple[str, Path]:
    """A spec with checkpoints of the trainer's own, and their folder."""
    file = spec_file(folder, base, ROWS, execution={"save_steps": save_steps, "device": "cpu"})
    own = folder / "own"
    Path(file).write_text(json.dumps(json.loads(Path(file).read_text()) | {"work_dir": str(own)}))
    return file, own


def test_the_trainers_own_checkpoints_take_what_was_estimated(tmp_path, wide, monkeypatch):
    file, own = saving_spec(tmp_path / "a", wide, save_steps=1)
    rotate, sizes = trainer_module.rotate_checkpoints, []

    def measured(**options: Any) -> None:
        sizes.append(sum(entry.stat().st_size for entry in own.rglob("*") if entry.is_file()))
        rotate(**options)

    monkeypatch.setattr(trainer_module, "rotate_checkpoints", measured)
    spec = FineTuningSpec.read(file)
    needed = needed_bytes(spec)
    sft(file, Reporter(lambda line: None))
    assert len(sizes) == 4
    # Three whole checkpoints, before the oldest goes.
    assert 0.85 * needed < max(sizes) < needed
    assert max(sizes) == pytest.approx(3 / 2 * sizes[1], rel=0.01)
    without = spec.model_copy(update={"work_dir": None})
    assert needed_bytes(without) == pytest.approx(1.1 * 4 * num_parameters(wide), rel=0.01)


def test_room_that_checkpoints_take_already_is_not_asked_for_again(tmp_path, wide, monkeypatch):
    file, own = saving_spec(tmp_path / "a", wide, save_steps=2)
    sft(file, Reporter(lambda line: None))  # four steps, and two checkpoints are left
    there = sum(entry.stat().st_size for entry in own.glob("checkpoint-*/**/*") if entry.is_file())
    spec = FineTuningSpec.read(file)
    assert there > 2 * own_bytes(spec)

    def run_again(spec: FineTuningSpec, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
        require_space(spec)

    run_again(spec, free=needed_bytes(spec) - there)
    with pytest.raises(DiskFull, match="set the trainer's save_steps to 0"):
        run_again(spec, free=needed_bytes(spec) - there - 1)
    # Where no more are written, they stay as they are beside the checkpoint.
    ending = spec.model_copy(update={"execution": Execution(device="cpu")})
    with pytest.raises(DiskFull, match="free some space, or move the home"):
        run_again(ending, free=needed_bytes(ending) - 1)


def test_adapters_make_small_checkpoints_of_their_own(tmp_path, base):
    # Tied embeddings 99 x 16; per block 4 x 16 x 16 and 3 x 16 x 24 and 2 norms; a last norm.
    assert num_parameters(base) == 99 * 16 + 2 * (4 * 256 + 3 * 384 + 32) + 16
    assert num_adapters(base, 2) == 2 * ((99 + 16) + 2 * (4 * 32 + 3 * 40))
    for execution, each in (({}, 12), ({"deepspeed": "zero1"}, 20)):
        folder = tmp_path / execution.get("deepspeed", "plain")
        spec = FineTuningSpec.read(spec_file(folder, base, ROWS, execution={"save_steps": 5, **execution}))
        spec = spec.model_copy(update={"work_dir": tmp_path})
        assert own_bytes(spec) == each * num_parameters(base)
        adapted = spec.distillation.model_copy(update={"lora": LoraSpec(r=2)})
        assert own_bytes(spec.model_copy(update={"distillation": adapted})) == each * num_adapters(base, 2)


@WITHOUT_GPU
def test_a_missing_gpu_is_told(tmp_path, base):
    with pytest.raises(DeviceError, match=r"no GPU: .* set the trainer's device to auto or cpu"):
        run(tmp_path / "a", base, ROWS, execution={"device": "cuda"})


def test_a_loss_that_is_no_number_leaves_no_checkpoint(tmp_path, base):
    with pytest.raises(ValueError, match=r"the loss of step \d+ is nan: lower distillation\.learning_rate"):
        run(tmp_path / "a", base, ROWS, learning_rate=1e30, max_steps=20)
    assert not list((tmp_path / "a" / "out").iterdir())


def test_memory_that_ran_out_is_told_with_what_to_change():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    message = explained(refused.value)
    assert message.startswith("out of memory: lower the trainer's micro_batch_size")
    assert "you tried to allocate" in message


def test_types_that_do_not_meet_are_told():
    with pytest.raises(RuntimeError) as refused:
        torch.ones(2, 2) @ torch.ones(2, 2, dtype=torch.bfloat16)
    assert explained(refused.value).startswith("wrong dtype: ")


def test_a_silent_end_is_told_by_its_signal(tmp_path):
    spec = tmp_path / "spec.json"
    assert exit_reason(spec, -9).startswith("killed by SIGKILL, as a machine does that runs out of memory")
    assert "exit code 3" in exit_reason(spec, 3)
    assert fault_file(spec).name == "spec.fault.json"


def test_processes_that_cannot_share_a_step_are_refused():
    recipe = DistillationSpec(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"16 rows .* 3 processes cannot share evenly"):
        Execution(num_processes=3).portions(recipe)
    for processes in (1, 2, 4, 8, 16):
        for most in (None, 1, 3, 5, 100):
            size, times = Execution(num_processes=processes, micro_batch_size=most).portions(recipe)
            assert size * times * processes == 16
            assert size <= (most or 8)


@pytest.mark.parametrize(
    ("execution", "distillation", "message"),
    [
        ({"deepspeed": "zero9"}, {}, "neither one of zero1, zero2, zero3 nor a file"),
        ({"deepspeed": "zero3"}, {"lora": {}}, "use deepspeed zero1 or zero2"),
        ({"deepspeed": "zero3", "packing": True}, {}, "set the trainer's packing to false"),
        ({"gpus": 4}, {}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, base, execution, distillation, message):
    file = spec_file(tmp_path / "a", base, ROWS, execution=execution, **distillation)
    with pytest.raises(ValidationError, match=message):
        FineTuningSpec.read(file)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bf16": {"enabled": True}}, "bf16 holds the weights in 16 bits"),
        ({"bfloat16": {"enabled": True}}, "bfloat16 holds the weights in 16 bits"),
        ({"fp16": {"enabled": True}}, "fp16 holds the weights in 16 bits"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast is for the trainer"),
        ({"communication_data_type": "BF16"}, "communication_data_type bf16 rounds the gradients"),
        ({"communication_data_type": "fp16"}, "communication_data_type fp16 rounds the gradients"),
    ],
)
def test_a_configuration_that_chooses_coarser_types_is_refused(tmp_path, base, fields, message):
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 2}, **fields}))
    file = spec_file(tmp_path / "a", base, ROWS, execution={"deepspeed": str(config)})
    with pytest.raises(ValidationError, match=f"deepspeed: {message}.* out of .*mine.json"):
        FineTuningSpec.read(file)


def test_a_configuration_is_filled_up_with_what_the_study_needs(tmp_path, base):
    config = tmp_path / "mine.json"
    given = {
        "zero_optimization": {"stage": 3, "overlap_comm": False},
        "communication_data_type": "fp32",
        **{section: {"enabled": "auto"} for section in ("bf16", "bfloat16", "fp16")},
    }
    config.write_text(json.dumps(given))
    spec = FineTuningSpec.read(spec_file(tmp_path / "a", base, ROWS, execution={"deepspeed": str(config)}))
    gathers = {"stage3_gather_16bit_weights_on_model_save": True}
    zero = {"stage": 3, "overlap_comm": False, **gathers}
    filled = {"zero_optimization": zero, "gradient_clipping": "auto"}
    assert spec.shards_weights
    assert deepspeed_settings(spec.execution, "float32") == {"communication_data_type": "fp32", **filled}

    # An older name of the setting, which DeepSpeed refuses beside the new one; and clipping that is given.
    older = {"stage": 3, "stage3_gather_fp16_weights_on_model_save": False}
    config.write_text(json.dumps({"zero_optimization": older, "gradient_clipping": 0.5}))
    assert deepspeed_settings(spec.execution, "float32") == {
        "zero_optimization": {"stage": 3, **gathers},
        "gradient_clipping": 0.5,
    }
    config.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": "auto"}))
    assert deepspeed_settings(spec.execution, "float32") == json.loads(config.read_text())
