"""What vLLM is started with: platform, environment, sizes, and its errors turned into advice.

Nothing here changes what is computed beyond rounding. It does not install vLLM and does not choose a policy.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from si_dagster.engines.base import CAUSE_IN_LOG, WANT_OF_MEMORY, EngineError

if TYPE_CHECKING:
    import torch

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # The engine has a process of its own already. Another of vLLM's would hold the GPU, its errors and its
    # memory figures there, and would not end with ours; on CPU two more take 8 s each to import it again.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Set where the caller's environment does not say otherwise."""

CPU_ENVIRONMENT = {
    # Eager: else one small function is compiled by itself, 15 s and nothing gained.
    "TORCHDYNAMO_DISABLE": "1",
}

CPU_BLOCK_TOKENS = 32
"""Tokens a block of the prefix cache on CPU, the least its kernels take: prompts share whole blocks."""

CPU_BATCHED_TOKENS = 8192

NUM_SEQS_BY_SIZE = ((100e6, 1024), (2e9, 512))
"""(parameters below, sequences at once): a small policy is bound by the fixed cost of a step, so more share
it. Larger ones take vLLM's default."""

ADVICE = (
    (
        WANT_OF_MEMORY.pattern,
        "not enough memory: lower gpu_memory_utilization where others use the device, lower max_num_seqs or "
        "max_num_batched_tokens, or raise tensor_parallel_size",
    ),
    (r"larger than the available KV cache", "lower max_model_len, or give kv_cache_bytes more memory"),
    (r"compute capability", "this GPU has no bfloat16: set dtype to float16 or float32"),
    (r"World size|number of available GPUs", "lower tensor_parallel_size to the GPUs there are"),
    (r"divisible by tensor parallel", "take a tensor_parallel_size that divides the attention heads"),
    (r"Failed to infer device type", "this vLLM finds no device it can use: see docs/engines.md"),
    (r"trust_remote_code|custom code", "set trust_remote_code on the model, if you have read its code"),
    (CAUSE_IN_LOG.pattern, "the cause is in the log of this engine's process"),
)
"""(pattern in a message of vLLM, what to change)."""


def prepared_platform(device: str, num_threads: int | None) -> "torch.device":
    """The device of the installed vLLM, with this process's environment set for it; before torch is loaded.

    Raises:
        EngineError: If vLLM is missing, finds no device, or is not built for the one asked for.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "vllm is not installed for this Python: install the extra [vllm] on a GPU machine, or "
            "run `make vllm` for its own environment on CPU (docs/engines.md)"
        )
    defaults = dict(ENVIRONMENT)
    if num_threads is not None:
        defaults |= {"OMP_NUM_THREADS": str(num_threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    _set_defaults(defaults)
    try:
        from vllm.platforms import current_platform  # pyright: ignore
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"vllm is installed but cannot be imported: {error}") from error
    found = current_platform.device_type
    if not found:
        raise EngineError(
            "no GPU is visible to this vLLM: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU build "
            "(`make vllm`) or the transformers engine"
        )
    if device.partition(":")[0] not in ("auto", found):
        raise EngineError(
            f"device {device!r}: the installed vLLM runs on {found}; set device to auto, or install the "
            f"build for {device!r} (docs/engines.md)"
        )
    if found == "cpu":
        _set_defaults(CPU_ENVIRONMENT)
    import torch

    return torch.device(found)


def _set_defaults(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Setup:
    """A checkpoint and the sizes it is served with.

    Attributes:
        path: Checkpoint folder.
        place: Device.
        dtype: Floating-point type.
        config: Text configuration of the model.
        generation_config: Of the checkpoint; only its end tokens are used.
        num_parameters: Counted in the files.
        kv_cache_bytes: Memory for keys and values; `None`: vLLM decides.
        window: Most tokens of prompt and completion.
    """

    path: str
    place: "torch.device"
    dtype: "torch.dtype"
    config: Any
    generation_config: Any
    num_parameters: int
    kv_cache_bytes: int | None
    window: int

    @classmethod
    def of(
        cls,
        path: str,
        place: "torch.device",
        dtype: str,
        kv_cache_bytes: int | None,
        max_model_len: int | None,
        trust_remote_code: bool,
    ) -> "Setup":
        """Read a checkpoint's configuration and size its window.

        Raises:
            EngineError: If the folder is no checkpoint, or the type is none.
        """
        from si_dagster.engines import checkpoints

        checkpoints.check_folder(path)
        chosen = checkpoints.chosen_dtype(dtype, place)
        config, generation_config = checkpoints.read_configs(path, trust_remote_code)
        window = int(getattr(config, "max_position_embeddings", None) or 2**20)
        if max_model_len is not None:
            window = min(window, max_model_len)
        if place.type == "cpu":
            kv_cache_bytes = kv_cache_bytes or checkpoints.CPU_CACHE_BYTES
            window = min(window, kv_cache_bytes // checkpoints.token_bytes(config, chosen))
        size = checkpoints.num_parameters(path)
        return cls(path, place, chosen, config, generation_config, size, kv_cache_bytes, window)

    @property
    def is_cpu(self) -> bool:
        """Whether vLLM computes on CPU."""
        return self.place.type == "cpu"

    def check_fit(self, tensor_parallel_size: int) -> None:
        """Refuse what vLLM cannot serve here, before minutes of start-up.

        Raises:
            EngineError: For head sizes without a CPU kernel, or more ranks than GPUs.
        """
        import torch

        if not self.is_cpu:
            there = torch.cuda.device_count()
            if tensor_parallel_size > there:
                raise EngineError(
                    f"tensor_parallel_size {tensor_parallel_size}: {there} GPUs are visible here"
                )
            return
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore

        from si_dagster.engines.checkpoints import head_size

        known = CPUAttentionBackend.get_supported_head_sizes()
        size = head_size(self.config)
        if size not in known:
            raise EngineError(
                f"{self.path}: its attention heads have size {size}, and vLLM on CPU has kernels for "
                f"{', '.join(map(str, known))} only: take fewer or wider heads, or the transformers engine"
            )

    def options(self, max_num_seqs: int | None, max_num_batched_tokens: int | None) -> dict[str, Any]:
        """Arguments of `vllm.LLM` that follow from the sizes; `None` leaves vLLM's default."""
        options: dict[str, Any] = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_num_seqs": max_num_seqs or sized_num_seqs(self.num_parameters),
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_model_len": self.window,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
        }
        if self.is_cpu:
            # A prompt read in two steps breaks seeded requests of vLLM 0.32 on CPU: its generators cannot be
            # set back. So none is cut, and a step has room for the longest.
            options |= {"block_size": CPU_BLOCK_TOKENS, "enable_chunked_prefill": False}
            options["max_num_batched_tokens"] = max(max_num_batched_tokens or CPU_BATCHED_TOKENS, self.window)
        return {name: value for name, value in options.items() if value is not None}


def sized_num_seqs(num_parameters: int) -> int | None:
    """Completions drawn at once by a policy of that size; `None`: vLLM's default.

    Examples:
        >>> [sized_num_seqs(int(size)) for size in (8e5, 5e8, 7e9)]
        [1024, 512, None]
    """
    return next((count for below, count in NUM_SEQS_BY_SIZE if num_parameters < below), None)


def opened(path: str, options: Mapping[str, Any]) -> Any:
    """A `vllm.LLM`, safetensors weights only, without defaults of the checkpoint's generation config.

    Raises:
        EngineError: If vLLM cannot start; says what to change.
    """
    try:
        from vllm import LLM  # pyright: ignore

        return LLM(
            path,
            load_format="safetensors",
            generation_config="vllm",
            enable_prefix_caching=True,
            logprobs_mode="raw_logprobs",
            **options,
        )
    except Exception as error:
        raise explained(error, f"{path}: vLLM cannot start") from error


def explained(error: Exception, what: str) -> EngineError:
    """The error with what to change, where its message is known."""
    text = f"{type(error).__name__}: {error}"
    advice = [advice for pattern, advice in ADVICE if re.search(pattern, text, re.IGNORECASE)]
    return EngineError("; ".join([f"{what}: {text}", *advice]))
