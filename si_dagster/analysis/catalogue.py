"""The analyses of a study, what each reads, and how a name becomes a module.

An analysis is a module with `TITLE`, `CARD` and `READING` (for the UI and the report) and three functions:
`rows(data)`, the table its schema declares; `shown(rows)`, what a person reads of it; `chart(rows)`, its
picture or `None`. Modules are imported when they are asked for: the plan
needs the names alone. Nothing is computed here.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import polars as pl


@dataclass(frozen=True)
class Analysis:
    """One analysis.

    Attributes:
        name: Also its stage, its module and the last part of its asset key.
        reads: Stages of the loop.
        splits: Which splits of them.
    """

    name: str
    reads: tuple[str, ...]
    splits: tuple[str, ...] = ("eval",)

    def load(self) -> "AnalysisModule":
        """The module that makes it."""
        return cast(AnalysisModule, import_module(f"si_dagster.analysis.{self.name}"))


class AnalysisModule(Protocol):
    """What a module of an analysis holds."""

    TITLE: str
    """Heading in the report."""
    CARD: str
    """Shown in the UI."""
    READING: str
    """How to read it: a paragraph of the report."""

    def rows(self, data: Any) -> pl.DataFrame:
        """The table made from a `data.StudyData`; no rows, or no columns even, where nothing can be said."""
        ...

    def shown(self, rows: pl.DataFrame) -> list[dict[str, str]]:
        """The rows a person reads, as text."""
        ...

    def chart(self, rows: pl.DataFrame) -> Any:
        """Its picture, an altair chart; `None` where there is nothing to draw."""
        ...


ANALYSES = {
    analysis.name: analysis
    for analysis in (
        Analysis("threshold_sweep", ("generations", "utilities", "verifications"), ("train", "eval")),
        Analysis("cross_verification", ("utilities", "verifications")),
        Analysis("scaling", ("base_checkpoint", "utilities", "verifications")),
        Analysis("verifier_quality", ("utilities", "verifications")),
        Analysis("verifier_overlap", ("utilities", "verifications")),
        Analysis("diversity", ("utilities", "verifications")),
        Analysis("dynamics", ("utilities", "verifications")),
        Analysis("baselines", ("generations", "utilities", "verifications")),
        Analysis("ablations", ("utilities", "verifications")),
        Analysis("slices", ("prompts", "utilities", "verifications")),
        Analysis("other_gaps", ("utilities", "verifications")),
        Analysis("cheap_verifier", ("utilities", "verifications", "teaching_set", "student")),
        Analysis("sharpening", ("utilities", "verifications")),
    )
}
"""Name -> analysis, in the order of the report."""
