"""What a training runs on: which device there is, in which type it computes, and what is missing.

It changes no setting of a device, and it does not look for free memory.
"""

import os

from si_dagster.training.specs import Execution


class DeviceError(ValueError):
    """The device or the type that was asked for is not there; the message says what to change."""


def one_gpu_a_process(execution: Execution) -> None:
    """Let a lone process see one GPU only: two would make it a `DataParallel`, which TRL refuses.

    To be called before torch looks for devices.
    """
    if execution.num_processes == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def check_device(execution: Execution) -> str:
    """`cpu` or `cuda`.

    Raises:
        DeviceError: If a GPU is asked for and none is there, or there are fewer than processes.
    """
    if execution.device == "cpu":
        return _told_deepspeed("cpu")
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if execution.device == "cuda" and not found:
        raise DeviceError(
            f"no GPU: torch {torch.__version__} sees none; install a CUDA build of torch, look at "
            "CUDA_VISIBLE_DEVICES, or set the trainer's device to auto or cpu"
        )
    if found and found < execution.num_processes:
        raise DeviceError(
            f"{execution.num_processes} processes but {found} GPU: set the trainer's num_processes to "
            f"{found} (the batch of the study stays the same), or device to cpu"
        )
    return "cuda" if found else _told_deepspeed("cpu")


def _told_deepspeed(device: str) -> str:
    """The device; DeepSpeed, which transformers imports when it saves, warns where it has to guess."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    return device


def dtype_of(execution: Execution, device: str) -> str:
    """`bfloat16` or `float32`, the type of computation; weights are float32 either way.

    Raises:
        DeviceError: If bfloat16 is asked of a GPU that has none.
    """
    if execution.bf16 is False or (execution.bf16 is None and device == "cpu"):
        return "float32"
    import torch

    able = device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if execution.bf16 and not able:
        name = torch.cuda.get_device_name()
        raise DeviceError(f"wrong dtype: {name} computes no bfloat16; set the trainer's bf16 to false")
    return "bfloat16" if able else "float32"
