"""Disk space of a training, estimated before it begins.

An estimate: tokenizer and logs are left out, and other programs may fill the disk meanwhile; then the write
itself fails, and no checkpoint appears. Memory is not estimated.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from si_dagster.store.errors import DiskFull
from si_dagster.training.specs import FineTuningSpec

PLAIN_BYTES = 12
"""A trained parameter in one of the trainer's own checkpoints: float32 weight and AdamW's two moments."""

DEEPSPEED_BYTES = 20
"""The same with DeepSpeed, which writes the weight three times: as an ordinary file, as the optimiser's and,
but for ZeRO-3, as the engine's."""

KEPT = 2
"""The trainer's own checkpoints that stay: the one before until the next is whole. The next is written before
the oldest goes, so one more lies there meanwhile."""

WEIGHT_BYTES = 4
"""A parameter of a checkpoint in float32, as pre-training leaves it."""

MARGIN = 1.1


def require_space(spec: FineTuningSpec) -> None:
    """Raise a `DiskFull` where what is yet to be written would not fit."""
    shrink = "set the trainer's save_steps to 0 (no checkpoints to go on from), " if _saves(spec) else ""
    require_bytes(needed_bytes(spec) - bytes_there(spec), spec.output_dir, shrink)


def require_bytes(needed: int, folder: Path, shrink: str = "") -> None:
    """Raise a `DiskFull` where so many bytes do not fit into a folder; `shrink` says how to need fewer."""
    place = next(p for p in (folder, *folder.parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return
    raise DiskFull(
        f"training needs about {needed / 1e6:,.2f} MB in {place} and {free / 1e6:,.2f} MB are free: free "
        f"some space, {shrink}or move the home to a larger disk and set SI_DAGSTER_HOME; then run again"
    )


def needed_bytes(spec: FineTuningSpec) -> int:
    """Bytes that lie there at most: what stays, and one more of the trainer's own, or the checkpoint."""
    stored, own = weight_bytes(spec.model_dir), own_bytes(spec)
    return int(MARGIN * (KEPT * own + max(own, stored)))


def bytes_there(spec: FineTuningSpec) -> int:
    """Bytes of the trainer's own checkpoints that a killed run left, which are counted among the needed.

    Training goes on from them or removes them. 0 where no more are written: then they stay beside the
    checkpoint.
    """
    if spec.work_dir is None or not _saves(spec):
        return 0
    files = (file for folder in spec.work_dir.glob("checkpoint-*") for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def own_bytes(spec: FineTuningSpec) -> int:
    """Bytes of one of the trainer's own checkpoints; 0 where it makes none."""
    if not _saves(spec):
        return 0
    each = DEEPSPEED_BYTES if spec.execution.deepspeed else PLAIN_BYTES
    lora = spec.distillation.lora
    return each * (num_parameters(spec.model_dir) if lora is None else num_adapters(spec.model_dir, lora.r))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights of a checkpoint folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def num_parameters(folder: Path) -> int:
    """Parameters of a checkpoint folder, read from the headers alone."""
    return sum(map(math.prod, _shapes(folder)))


def num_adapters(folder: Path, rank: int) -> int:
    """Parameters of adapters of that rank at every matrix of a checkpoint folder, embeddings among them."""
    return sum(rank * sum(shape) for shape in _shapes(folder) if len(shape) == 2)


def _shapes(folder: Path) -> Iterator[list[int]]:
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                yield file.get_slice(name).get_shape()


def _saves(spec: FineTuningSpec) -> bool:
    return spec.work_dir is not None and spec.execution.save_steps > 0
