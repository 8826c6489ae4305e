"""Data parallelism: several engines with the same policy, each in a process of its own, prompts dealt out.

Prompts are cut into runs of neighbours, one an engine, so that those with a common beginning stay together.
A draw depends on its key alone, so the number of engines changes nothing. It does not spread engines over
machines (an OpenAI-compatible server does) and does not go on without an engine that died.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from si_dagster.engines.base import Completion, EngineError, Prompt, SamplingParams, Usage
from si_dagster.engines.process import EngineProcess
from si_dagster.processes import threads_of_each

Answer = TypeVar("Answer")

COMPUTE_HERE = ("transformers", "vllm")
"""Engines that take `num_threads`; the others ask processes elsewhere."""


class EngineReplicas:
    """`data_parallel_size` engines as one.

    Args:
        kind: A name `open_engine` knows.
        path: Checkpoint folder.
        options: Keyword arguments of each engine; `tensor_parallel_size` GPUs are set aside for each. Without
            GPUs they share the cores, unless `num_threads` says otherwise.
        data_parallel_size: How many.
        python: The Python to run them with; default: that of the kind.

    Raises:
        EngineError: If there are GPUs, but not enough, or if one engine cannot start; the others are closed.
    """

    def __init__(
        self,
        kind: str,
        path: str | Path,
        options: Mapping[str, Any],
        data_parallel_size: int,
        python: str = "",
    ) -> None:
        width = int(options.get("tensor_parallel_size", 1))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        on_cpu = str(options.get("device", "auto")).startswith("cpu")
        gpus = 0 if on_cpu else num_gpus(visible)
        check_gpus(data_parallel_size * width, gpus)
        if not gpus and kind in COMPUTE_HERE:
            options = {"num_threads": threads_of_each(data_parallel_size), **options}
        self.num_lanes = 2
        """One call under way and one that waits in the pipes, as for a single engine."""
        self._threads = ThreadPoolExecutor(self.num_lanes * data_parallel_size)
        with ExitStack() as stack:
            stack.callback(self._threads.shutdown)
            starts = [
                self._threads.submit(
                    EngineProcess, kind, path, options, python, device_environment(i, width, visible)
                )
                for i in range(data_parallel_size)
            ]
            failures = [start.exception() for start in starts]
            self._engines = [start.result() for start in starts if start.exception() is None]
            for engine in self._engines:
                stack.enter_context(closing(engine))
            for failure in failures:
                if failure is not None:
                    raise failure
            self._open = stack.pop_all()

    @property
    def is_closed(self) -> bool:
        """Whether one of them has ended, by `close` or by death: they answer together or not at all."""
        return any(engine.is_closed for engine in self._engines)

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`."""
        parts = self._dealt(len(prompts), lambda engine, part: engine.generate(prompts[part], sampling))
        return [row for part in parts for row in part]

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`."""
        parts = self._dealt(len(prompts), lambda engine, part: engine.label_logprobs(prompts[part], labels))
        return np.concatenate(parts)

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`."""
        parts = self._dealt(
            len(prompts), lambda engine, part: engine.sequence_logprobs(prompts[part], completions[part])
        )
        scores, counts = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(counts)

    def usage(self) -> Usage:
        """Tokens of all engines together; seconds of the one that worked longest."""
        each = [engine.usage() for engine in self._engines]
        on_gpus = [u.peak_gpu_memory_bytes for u in each]
        # Cost is seconds times GPUs: those of all engines, for as long as the slowest of them.
        apart = {
            "seconds": max(u.seconds for u in each),
            "num_parameters": each[0].num_parameters,
            "peak_gpu_memory_bytes": None if None in on_gpus else sum(peak or 0 for peak in on_gpus),
        }
        names = [field.name for field in fields(Usage) if field.name not in (*apart, "extra")]
        return Usage(**{name: sum(getattr(u, name) for u in each) for name in names}, **apart)

    def close(self) -> None:
        """End all engines."""
        self._open.close()

    def _dealt(self, count: int, ask: Callable[[EngineProcess, slice], Answer]) -> list[Answer]:
        """What the engines answer about their runs of prompts, in order; all have answered or failed."""
        ends = np.linspace(0, count, len(self._engines) + 1).astype(int)
        runs = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        answers = [
            self._threads.submit(ask, engine, run) for engine, run in zip(self._engines, runs, strict=True)
        ]
        failed = next((error for answer in answers if (error := answer.exception()) is not None), None)
        if failed is not None:
            raise failed
        return [answer.result() for answer in answers]


def check_gpus(wanted: int, visible: int) -> None:
    """Refuse engines of which some would compute on GPUs and the others, unasked, on the CPU.

    Raises:
        EngineError: If GPUs are visible, but fewer than wanted; says what to lower.

    Examples:
        >>> check_gpus(wanted=2, visible=1)
        Traceback (most recent call last):
        ...
        si_dagster.engines.base.EngineError: 2 GPUs are wanted and 1 is visible here: ...
    """
    if 0 < visible < wanted:
        raise EngineError(
            f"{wanted} GPUs are wanted and {visible} {'is' if visible == 1 else 'are'} visible here: lower "
            "data_parallel_size or tensor_parallel_size, look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set "
            "device to cpu"
        )


def num_gpus(visible: str | None) -> int:
    """GPUs that nvidia-smi lists, those of CUDA_VISIBLE_DEVICES where it is set; 0 without nvidia-smi."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    present = sum(line.startswith("GPU ") for line in told.splitlines())
    if visible is None:
        return present
    names = [name.strip() for name in visible.split(",")]
    return sum(int(name) < present if name.isdigit() else bool(name) and name in told for name in names)


def device_environment(index: int, width: int, visible: str | None) -> dict[str, str]:
    """The GPUs of engine `index`, `width` of those that are visible; all are where `visible` is `None`.

    Examples:
        >>> device_environment(1, 2, None), device_environment(1, 1, "4,6")
        ({'CUDA_VISIBLE_DEVICES': '2,3'}, {'CUDA_VISIBLE_DEVICES': '6'})
    """
    own = range(index * width, (index + 1) * width)
    names = [str(i) for i in own] if visible is None else visible.split(",")[own.start : own.stop]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}
