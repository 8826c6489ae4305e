"""math-verify in a process of its own: decides pairs of answers that need evaluation.

Run by `WorkerPool` as a module. It sees normal forms only, never completions, and keeps no time: the
process is killed from outside or by its own CPU clock.
"""

import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from si_dagster.tasks.grading.comparison import compare
from si_dagster.tasks.grading.worker_pool import serve


class UnreadableReferenceError(ValueError):
    """math-verify cannot read the gold answer, so no verdict on any answer to it means anything."""


def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Import math-verify and return the function that compares one pair."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    configs = [LatexExtractionConfig()]

    @lru_cache(maxsize=4096)
    def read(text: str) -> list[Any]:
        return parse(f"${_latex(text)}$", configs, "no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]

    def judge(reference: str, answer: str) -> bool:
        gold, given = read(reference), read(answer)
        if not gold:
            raise UnreadableReferenceError(f"math-verify cannot read the reference {reference!r}")
        return bool(given) and verify(
            gold, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )

    def work(item: dict[str, Any]) -> dict[str, Any]:
        outcome = compare(item["reference"], item["answer"], judge)
        return {"equal": outcome.equal, "tier": outcome.tier}

    return work


def _latex(text: str) -> str:
    """Normal forms drop the percent backslash and keep plain function names; math-verify wants LaTeX."""
    text = text.replace("%", r"\%")
    return re.sub(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|pi)(?![A-Za-z])", r"\\\1 ", text)


if __name__ == "__main__":
    serve(prepare, float(sys.argv[1]))
