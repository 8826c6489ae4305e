"""Disk space of a training, estimated before it begins.

An estimate: tokenizer and logs are left out, and other programs may fill the disk meanwhile; then the write
itself fails, and no checkpoint appears. Memory is not estimated.
"""

import shutil
from pathlib import Path

from si_dagster.store.errors import DiskFull
from si_dagster.training.specs import FineTuningSpec

OPTIMISER_BYTES = 12
"""A parameter in one of the trainer's own checkpoints: float32 weight and AdamW's two moments."""

KEPT = 2
"""The trainer's own checkpoints that may lie there at once."""

MARGIN = 1.1


def require_space(spec: FineTuningSpec) -> None:
    """Raise a `DiskFull` where checkpoint and the trainer's own checkpoints would not fit."""
    needed = needed_bytes(spec)
    place = next(p for p in (spec.output_dir, *spec.output_dir.parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return
    shrink = "raise the trainer's save_steps to 0 (no checkpoints to go on from), " if _saves(spec) else ""
    raise DiskFull(
        f"training needs about {needed / 1e6:,.2f} MB in {place} and {free / 1e6:,.2f} MB are free: free "
        f"some space, {shrink}or move the home to a larger disk and set SI_DAGSTER_HOME; then run again"
    )


def needed_bytes(spec: FineTuningSpec) -> int:
    """Bytes of the checkpoint, and of the trainer's own, of which two may lie there at once."""
    stored = weight_bytes(spec.model_dir)
    own = KEPT * OPTIMISER_BYTES * num_parameters(spec.model_dir) if _saves(spec) else 0
    return int(MARGIN * (stored + own))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights of a checkpoint folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def num_parameters(folder: Path) -> int:
    """Parameters of a checkpoint folder, read from the headers alone."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _saves(spec: FineTuningSpec) -> bool:
    return spec.work_dir is not None and spec.execution.save_steps > 0
