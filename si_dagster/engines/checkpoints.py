"""Opening a checkpoint with transformers: where it may lie, on which device, in which type.

Safetensors only, since a pickle runs code when it is read; code of the checkpoint only where the caller
vouches for it. It does not download on its own
account: a name that is not a folder is handed to transformers, which asks the hub as its settings allow.
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from si_dagster.engines.base import WANT_OF_MEMORY, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_CACHE_BYTES = 2**30
"""Memory for keys and values on CPU."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def chosen_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        EngineError: If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]}; set device to auto or "
            "cpu, or install a CUDA build of torch and look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        ) from error
    return place


def chosen_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The floating-point type of that name; `auto` is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        EngineError: If torch has no floating-point type of that name.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise EngineError(f"dtype {dtype!r} is none of auto, float32, bfloat16, float16")
    return chosen


def load_checkpoint(
    path: str, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Model (in evaluation mode, on the device) and tokenizer of a checkpoint.

    Raises:
        EngineError: If the folder is missing, holds no safetensors or cannot be read by transformers.
    """
    check_folder(path)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
        return model.to(device).eval(), tokenizer  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or WANT_OF_MEMORY.search(str(error)):
            raise EngineError(
                f"{path}: the weights do not fit the memory of {device}: set dtype to bfloat16, or take a "
                f"larger machine, or the vllm engine with tensor_parallel_size ({error})"
            ) from error
        raise EngineError(f"{path}: transformers cannot load it: {type(error).__name__}: {error}") from error


def read_configs(path: str, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Text configuration and generation configuration of a checkpoint, without its weights.

    Raises:
        EngineError: If transformers cannot read them.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config()
        try:
            return config, GenerationConfig.from_pretrained(path)
        except OSError:
            return config, GenerationConfig.from_model_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{path}: transformers cannot read its configuration: {error}") from error


def num_parameters(path: str) -> int:
    """Numbers in the safetensors files of a folder, tied ones once; 0 for the name of a hub model."""
    from safetensors import safe_open

    total = 0
    for file in Path(path).glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def head_size(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_size(config) * dtype.itemsize


def check_folder(path: str) -> None:
    """Refuse a path that is neither a checkpoint folder nor shaped like a hub name (owner/model).

    Raises:
        EngineError: With the file that is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        if HUB_NAME.fullmatch(path) and not folder.parent.is_dir():
            return
        raise EngineError(f"{path}: no such checkpoint folder")
    if not (folder / "config.json").is_file():
        raise EngineError(f"{path}: no config.json, so this is no checkpoint folder")
    if not any(folder.glob("*.safetensors")):
        raise EngineError(f"{path}: no *.safetensors; save the weights with safe_serialization=True")
