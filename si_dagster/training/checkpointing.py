"""The trainer's own checkpoints: which of them is whole, so that a killed training goes on from it.

They hold optimiser and random state beside weights, belong to one training and go with it. The checkpoint
that a training leaves is made elsewhere (`fine_tuning`).
"""

import json
from pathlib import Path

from si_dagster.store.atomic import fsync_file, fsync_folder, sha256_file, write_json
from si_dagster.training.reporting import Reporter

VOUCHER = "whole.json"


def vouch_for(folder: Path, is_first: bool) -> None:
    """Note size and hash of every file, once every process has written its own; by the first process."""
    _wait_for_everyone()
    if not is_first:
        return
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        fsync_file(file)
    fsync_folder(folder)
    noted = {str(file.relative_to(folder)): [file.stat().st_size, sha256_file(file)] for file in files}
    write_json(folder / VOUCHER, noted)


def newest_whole(work: Path, report: Reporter) -> str | None:
    """The newest checkpoint of a training whose files are all as they were noted; `None` without one."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda folder: -int(folder.name.partition("-")[2]))
    for folder in folders:
        if is_whole(folder):
            report.tell(f"going on from {folder.name}, which a killed training left whole")
            return str(folder)
    return None


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is vouched for and every byte is as it was."""
    voucher = folder / VOUCHER
    if not voucher.is_file():
        return False
    noted = json.loads(voucher.read_text(encoding="utf-8"))
    return all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == size
        and sha256_file(folder / name) == digest
        for name, (size, digest) in noted.items()
    )


def _wait_for_everyone() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
