"""The trainer's own checkpoints: which of them is whole, so that a killed training goes on from it.

They hold optimiser and random state beside weights, belong to one training and go with it. The optimiser lies
in them as DeepSpeed and the number of processes have it (`Execution.optimizer_layout`); none is converted to
another layout. The checkpoint that a training leaves is made elsewhere (`fine_tuning`).
"""

import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

from si_dagster.store.atomic import fsync_file, fsync_folder, read_json, sha256_file, write_json
from si_dagster.training.reporting import Reporter

VOUCHER = "whole.json"


def vouch_for(folder: Path, layout: str, is_first: bool) -> None:
    """Note the layout, and size and hash of every file, once all processes have written; by the first."""
    _wait_for_everyone()
    if not is_first:
        return
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        fsync_file(file)
    fsync_folder(folder)
    noted = {str(file.relative_to(folder)): [file.stat().st_size, sha256_file(file)] for file in files}
    write_json(folder / VOUCHER, {"layout": layout, "files": noted})


def newest_whole(work: Path, layout: str, report: Reporter) -> str | None:
    """The newest checkpoint of a training that is of this layout and whose files are as they were noted.

    `None` without one. One of another layout is passed over, and told: from DeepSpeed's, one without it
    would take the weights alone and begin its optimiser anew, without a word; the other way round it would
    fail.
    """
    for folder in _newest_first(work):
        if not is_whole(folder):
            continue
        if (noted := layout_of(folder)) == layout:
            report.tell(f"going on from {folder.name}, which a killed training left whole")
            return str(folder)
        report.tell(f"{folder.name} is passed over: written {noted}, it cannot be gone on from {layout}")
    return None


def remove_newer(work: Path, chosen: str | None, is_first: bool) -> None:
    """Remove the checkpoints that were passed over, once all processes have looked; by the first.

    The trainer would write its own into their folders, and what they hold besides would be vouched for too.
    """
    _wait_for_everyone()
    if not is_first:
        return
    for folder in takewhile(lambda folder: str(folder) != chosen, _newest_first(work)):
        shutil.rmtree(folder)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is vouched for and every byte is as it was."""
    noted = _voucher(folder).get("files")
    return bool(noted) and all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == size
        and sha256_file(folder / name) == digest
        for name, (size, digest) in noted.items()
    )


def layout_of(folder: Path) -> str | None:
    """The layout that a checkpoint was vouched for in."""
    return _voucher(folder).get("layout")


def _voucher(folder: Path) -> dict[str, Any]:
    return read_json(folder / VOUCHER)


def _newest_first(work: Path) -> list[Path]:
    return sorted(work.glob("checkpoint-*"), key=lambda folder: -int(folder.name.partition("-")[2]))


def _wait_for_everyone() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
