"""The gap table: one row an iteration, model, task, split and verification, for people and for programs.

It selects and rounds for display; programs get full precision. It computes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

GAP_COLUMNS = (
    "study",
    "seed",
    "iteration",
    "model",
    "task",
    "split",
    "verification",
    "method",
    "verifier",
    "rule",
    "expected_utility",
    "expected_utility_low",
    "expected_utility_high",
    "reweighted_utility",
    "gap",
    "gap_low",
    "gap_high",
    "relative_gap",
    "relative_gap_low",
    "relative_gap_high",
    "relative_gap_ratio_of_means",
    "relative_gap_trimmed",
    "pooled_gap",
    "coverage",
    "retained",
    "effective_sample_size",
    "pass_at_1",
    "pass_at_8",
    "pass_at_32",
    "pass_at_k",
    "maj_at_8",
    "improvement",
    "improvement_low",
    "improvement_high",
    "improvement_over_base",
    "improvement_over_base_low",
    "improvement_over_base_high",
    "update_error",
    "update_error_low",
    "update_error_high",
    "tpr",
    "fpr",
    "auroc",
    "auroc_per_prompt",
    "gold_acceptance",
    "gold_acceptance_low",
    "gold_acceptance_high",
    "canary_acceptance",
    "canary_acceptance_low",
    "canary_acceptance_high",
    "strict_expected_utility",
    "distinct_answers",
    "answer_entropy",
    "num_prompts",
    "num_samples",
    "num_missing",
    "num_unparsed",
)

SHOWN = {
    "iteration": "t",
    "expected_utility": "J(f_t)",
    "gap": "gap",
    "relative_gap": "relative gap",
    "improvement": "J(f_t) - J(f_t-1)",
    "update_error": "update error",
    "pass_at_8": "pass@8",
    "coverage": "coverage",
    "retained": "retained",
}
"""Column -> heading of the table a person reads."""

VERIFIERS = {
    "iteration": "t",
    "verification": "verification",
    "gap": "gap",
    "tpr": "right kept",
    "fpr": "wrong kept",
    "auroc_per_prompt": "AUROC in a prompt",
    "gold_acceptance": "gold accepted",
    "canary_acceptance": "canaries accepted",
}
"""The same of the table of verifiers."""


ROUNDING = 1e-12
"""An interval narrower than this is a point: sums are rounded."""

NO_SPREAD = "[no spread]"
NO_SPREAD_READING = """[no spread]: every resample of the prompts gives this very value, for a mean because
all prompts have it. That is not certainty. Of n prompts that are all alike, fewer than 1 - .05^(1/n) of all
prompts differ, about 3/n (95%): of 30 at most 9.5%, of 300 at most 1%."""
"""What stands below a table with such a value: Clopper and Pearson's bound of no case in n, one-sided."""


def tells_no_spread(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether `NO_SPREAD_READING` belongs below these rows."""
    return any(value.endswith(NO_SPREAD) for row in rows for value in row.values())


def gap_rows(metrics: pl.DataFrame) -> list[dict[str, Any]]:
    """All rows at full precision, in reading order; `pass_at_k` as an object k -> pass@k."""
    order = ["study", "model", "task", "split", "iteration", "verification"]
    rows = metrics.sort(order).select(GAP_COLUMNS).iter_rows(named=True)
    return [{**row, "pass_at_k": json.loads(row["pass_at_k"])} for row in rows]


def shown_rows(
    metrics: pl.DataFrame, split: str = "eval", columns: Mapping[str, str] = SHOWN
) -> list[dict[str, str]]:
    """Rows of one split as text, intervals in brackets, `-` where a value does not exist.

    Several studies, models, tasks or verifications get columns of their own.
    """
    cells = [name for name in ("study", "model", "task", "verification") if metrics[name].n_unique() > 1]
    headings = {**{name: name for name in cells}, **columns}
    rows = [row for row in gap_rows(metrics) if row["split"] == split]
    return [{heading: interval_text(row, name) for name, heading in headings.items()} for row in rows]


def interval_text(row: dict[str, Any], name: str) -> str:
    """A value of a row as text, with its interval where it has one; `-` where it does not exist.

    Examples:
        >>> interval_text({"gap": 0.1, "gap_low": 0.05, "gap_high": 0.15}, "gap")
        '0.100 [0.050, 0.150]'

        Every prompt rejected, so every gap_x is 0 and so is every resample: that is no interval.

        >>> interval_text({"gap": 0.0, "gap_low": 0.0, "gap_high": 0.0}, "gap")
        '0.000 [no spread]'
    """
    value = row[name]
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} {NO_SPREAD if has_no_spread(low, high) else f'[{low:.3f}, {high:.3f}]'}"


def has_no_spread(low: float, high: float) -> bool:
    """Whether an interval is a point, up to the rounding of sums."""
    return high - low < ROUNDING


def text_rows(
    rows: pl.DataFrame, headings: dict[str, str], cells: Sequence[str] = ("model", "task")
) -> list[dict[str, str]]:
    """Columns of a table as text under their headings, with those of `cells` that differ in front.

    Columns that are not there, in a table from before they came, are left out.

    Examples:
        >>> rows = pl.DataFrame({"model": ["a", "b"], "gap": [0.1, None]})
        >>> text_rows(rows, {"gap": "gap", "num_samples": "samples"}, cells=["model"])
        [{'model': 'a', 'gap': '0.100'}, {'model': 'b', 'gap': '-'}]
    """
    if rows.is_empty():
        return []
    several = {name: name for name in cells if rows[name].n_unique() > 1}
    wanted = {**several, **{name: heading for name, heading in headings.items() if name in rows.columns}}
    return [
        {heading: interval_text(row, name) for name, heading in wanted.items()}
        for row in rows.iter_rows(named=True)
    ]


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table.

    Examples:
        >>> print(markdown_table([{"t": "0", "gap": "+.1 [a|b]"}]))
        | t | gap |
        |---|---|
        | 0 | +.1 [a\\|b] |
    """
    if not rows:
        return "(no rows)"
    lines = [" | ".join(rows[0]), "|".join("---" for _ in rows[0])]
    lines += [" | ".join(_cell(value) for value in row.values()) for row in rows]
    return "\n".join([f"| {lines[0]} |", f"|{lines[1]}|", *(f"| {line} |" for line in lines[2:])])


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", "⏎")
