"""Both ends of an engine that answers elsewhere: the caller's face, and how a call is answered there.

It carries no message itself: `EngineProcess` does over a pipe, `RayEngine` over a cluster.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from si_dagster.engines.base import Completion, EngineError, Prompt, SamplingParams


class RemoteEngine(ABC):
    """The calls of `Engine`, each handed on as (method, arguments)."""

    @abstractmethod
    def _call(self, method: str, *arguments: Any) -> Any:
        """The result of the engine's method; raises `EngineError` with its words."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return self._call("generate", list(prompts), sampling)

    def label_logprobs(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """See `Engine.label_logprobs`."""
        return self._call("label_logprobs", list(prompts), list(labels))

    def sequence_logprobs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine.sequence_logprobs`."""
        return self._call("sequence_logprobs", list(prompts), list(completions))


def answered(ask: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str | None, Any]:
    """What a call came to: (`None`, result), or (what to tell the caller, `None`).

    Examples:
        >>> answered(len, ["four"])
        (None, 4)
        >>> answered(int, ["four"])[0].splitlines()[0]
        "ValueError: invalid literal for int() with base 10: 'four'"
    """
    try:
        return None, ask(*arguments)
    except EngineError as error:
        return str(error), None
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}", None
