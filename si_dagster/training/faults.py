"""What a training failed of, in words that say what to change.

By the types and texts of torch 2.13; an error it does not know is told as it is.
"""

import json
import signal
from pathlib import Path

OUT_OF_MEMORY = (
    "out of memory: lower the trainer's micro_batch_size (the batch of the study stays the same), turn its "
    "gradient_checkpointing on, take deepspeed zero2 or zero3, or train adapters (distillation.lora)"
)
WRONG_DTYPE = (
    "wrong dtype: this device or model does not compute in bfloat16; set the trainer's bf16 to false"
)
NO_GPU = "no GPU can be used: look at CUDA_VISIBLE_DEVICES and the driver, or set the trainer's device to cpu"

_SIGNS = {
    "out of memory": OUT_OF_MEMORY,
    "can't allocate memory": OUT_OF_MEMORY,
    "cannot allocate memory": OUT_OF_MEMORY,
    "bad_alloc": OUT_OF_MEMORY,
    "not implemented for 'half'": WRONG_DTYPE,
    "not implemented for 'bfloat16'": WRONG_DTYPE,
    "have the same dtype": WRONG_DTYPE,
    "bf16/gpu": WRONG_DTYPE,
    "no cuda gpus are available": NO_GPU,
    "not compiled with cuda": NO_GPU,
    "cuda driver": NO_GPU,
}


def explained(error: BaseException) -> str:
    """One line: what happened, what to change where that is known, and the library's own words.

    Examples:
        >>> explained(ValueError("too\\n long"))
        'ValueError: too long'
        >>> explained(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")).partition(":")[0]
        'out of memory'
    """
    words = " ".join(str(error).split())
    own = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, MemoryError):
        return f"{OUT_OF_MEMORY} ({own})"
    advice = next((advice for sign, advice in _SIGNS.items() if sign in words.lower()), None)
    return f"{advice} ({own})" if advice else own


def fault_file(spec_file: str | Path) -> Path:
    """Where a failing process leaves its explanation."""
    return Path(spec_file).with_suffix(".fault.json")


def leave_word(spec_file: str | Path, error: BaseException) -> str:
    """Write the explanation beside the spec, unless another process of this training was first."""
    message = explained(error)
    file = fault_file(spec_file)
    if file.parent.is_dir() and not file.exists():
        file.write_text(json.dumps({"message": message}), encoding="utf-8")
    return message


def exit_reason(spec_file: str | Path, exit_code: int | None) -> str:
    """Why a training process ended: by its own word, by signal, or by exit code alone."""
    file = fault_file(spec_file)
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["message"]
    if exit_code is not None and -exit_code in (signal.SIGKILL, signal.SIGBUS):
        name = signal.Signals(-exit_code).name
        return f"killed by {name}, as a machine does that runs out of memory; if nobody did: {OUT_OF_MEMORY}"
    return f"ended with exit code {exit_code} and no word; its last lines are in the log of this step"
