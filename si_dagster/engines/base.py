"""The engine contract: who turns prompts into completions and log-probabilities.

An engine holds exactly one policy. It does not know studies, iterations, tasks or Dagster, and it
does not write files: callers cut the work into chunks and store what comes back.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn; the names and meanings of vLLM's `SamplingParams`.

    Attributes:
        n: Completions a prompt.
        temperature: 0.0 is greedy decoding.
        top_p: Nucleus mass, after temperature.
        top_k: -1 for all tokens.
        max_tokens: Longest completion in tokens; one that reaches it has finish reason `length`.
        stop: Strings that end a completion; not part of its text.
        seed: Root seed. The draw of sample j of prompt key k depends on (seed, k, j) alone, so
            batching, order and resumption change nothing (up to float rounding of the forward pass).
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt and the key its random stream is derived from."""

    key: str
    text: str


@dataclass(frozen=True)
class Completion:
    """One draw.

    Attributes:
        text: Decoded completion, without stop string and special tokens.
        num_tokens: Sampled tokens, the end-of-sequence token included.
        logprob: Sum over sampled tokens of log pi(token | prefix) under the policy itself
            (temperature 1, no truncation), in nats.
        finish_reason: `stop` (end token or stop string) or `length`.
    """

    text: str
    num_tokens: int
    logprob: float
    finish_reason: FinishReason


@dataclass
class Usage:
    """What an engine has done since it started; counters only grow."""

    prompt_tokens: int = 0
    """Tokens of what was asked: prompts, and the labels and completions scored behind them.

    A prompt that is sent again, as for each label of several tokens, counts again.
    """
    completion_tokens: int = 0
    """Tokens drawn."""
    cached_tokens: int = 0
    """Of the prompt tokens, those whose keys and values were shared instead of computed again."""
    seconds: float = 0.0
    """Wall seconds inside engine calls, start-up not counted."""
    num_parameters: int = 0
    num_gpus: int = 0
    """Accelerators the policy is spread over; 0 on a CPU."""
    peak_memory_bytes: int = 0
    """Largest resident size of the engine process so far; told by the process it runs in, else 0."""
    peak_gpu_memory_bytes: int | None = 0
    """Most that torch held on the GPUs of that process; `None` where others hold it, as vLLM's ranks do."""
    extra: dict[str, float] = field(default_factory=dict)

    def with_peaks(self, peak_memory_bytes: int, peak_gpu_memory_bytes: int | None) -> Self:
        """The same with other peaks, where those are higher; one that is not known stays so.

        Examples:
            >>> Usage(peak_memory_bytes=5).with_peaks(3, 2).peak_memory_bytes
            5
        """
        return replace(
            self,
            peak_memory_bytes=max(self.peak_memory_bytes, peak_memory_bytes),
            peak_gpu_memory_bytes=highest((self.peak_gpu_memory_bytes, peak_gpu_memory_bytes)),
        )

    def read(self, num_tokens: int, cached: int = 0) -> None:
        """Count tokens that were asked, and those of them that need not be computed."""
        self.prompt_tokens += num_tokens
        self.cached_tokens += min(cached, num_tokens)


def highest(peaks: Iterable[int | None]) -> int | None:
    """The highest of some peaks, of which each must be known.

    Examples:
        >>> highest([3, 5]), highest([3, None])
        (5, None)
    """
    known = list(peaks)
    return None if None in known else max(peak for peak in known if peak is not None)


@runtime_checkable
class Engine(Protocol):
    """One policy, ready to answer."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in the order of the prompts."""
        ...

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Log-probability of each label as the continuation of each prompt.

        Summed over all tokens of the label. Shared token prefixes of neighbouring prompts are
        computed once: callers order prompts so that those with a common beginning are adjacent.

        Returns:
            Nats, float64, shape (num_prompts, num_labels).
        """
        ...

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Summed log-probability of each completion given its prompt, and its number of tokens.

        Returns:
            Nats float64 and counts int64, each of shape (num_prompts,).
        """
        ...

    def usage(self) -> Usage:
        """Counters since the engine started."""
        ...

    def close(self) -> None:
        """Give memory and process back; calling it twice is harmless."""
        ...


def num_lanes(engine: Engine | None) -> int:
    """Calls that an engine is given at once: its attribute `num_lanes`, or 1 (also without an engine).

    An engine with several lanes is called from as many threads; which lane answers changes nothing.
    """
    return getattr(engine, "num_lanes", 1)


WANT_OF_MEMORY = re.compile(
    "out of memory|can(no|')t allocate memory|bad_alloc|MemoryError|failed to map segment"
    r"|No available memory for the cache|is less than desired|died unexpectedly \(exit code: -9\)",
    re.IGNORECASE,
)
"""How torch, the C++ runtime, Python, the loader and vLLM say that there is no more memory."""

CAUSE_IN_LOG = re.compile("root cause|Executor failed|RuntimeError: cancelled", re.IGNORECASE)
"""How vLLM says that a process of its own has failed; only the log tells why."""


class EngineError(RuntimeError):
    """An engine could not start or died; the message says what to change."""
