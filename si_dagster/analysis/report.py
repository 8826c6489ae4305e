"""The report of a study: one HTML page that stands alone, no scripts, nothing fetched.

It shows what the metrics say and how to read them; an effect whose interval holds 0 is called that. It
draws no conclusion over several studies.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from si_dagster.analysis.plots import iteration_chart, to_svg
from si_dagster.analysis.table import NO_SPREAD_READING, VERIFIERS, has_no_spread, shown_rows, tells_no_spread

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .3rem .6rem; text-align: left }
tr { border-bottom: 1px solid #ddd } pre { background: #f6f6f6; padding: 1rem; overflow: auto }
svg, img { max-width: 100%; height: auto }
table { display: block; overflow-x: auto }
"""

OPEN_ROWS = 30
"""Longer tables of analyses and costs are folded."""

READING = """
J(f_t) is the expected utility of the policy of iteration t on held-out prompts; the gap, J(f_t[w]) - J(f_t),
what reweighting by its own verification would gain. The update error is J(f_t-1[w]) - J(f_t): what
distillation lost of it (negative: it did better). Brackets are {confidence:.0%} intervals from a cluster
bootstrap over prompts; differences between iterations are paired by prompt. Coverage is the share of prompts
on which the verifier kept at least one sample, retained the share of samples it kept.
"""

VERIFIERS_READING = """
Right and wrong kept are the shares of right and of wrong answers with a positive weight. Gold accepted is the
share of gold answers that the verifier calls right, canaries accepted that of wrong answers made to pass for
right (empty openers, injected verdicts); for methods whose scores only rank, a canary is accepted where it
would be kept before the gold answer.
"""


@dataclass(frozen=True)
class Section:
    """One analysis on the page.

    Attributes:
        title: Its heading.
        reading: How to read it.
        image: Data URI of its picture; empty where it has none.
        rows: What is shown of its table.
    """

    title: str
    reading: str
    image: str
    rows: list[dict[str, str]]


def findings(metrics: pl.DataFrame) -> list[str]:
    """One sentence for every base gap and every improvement, with its interval and what it allows to say."""
    rows = metrics.filter(pl.col("split") == "eval").sort("model", "task", "iteration", "verification")
    sentences = []
    for row in rows.iter_rows(named=True):
        where = f"{row['model']} on {row['task']}, iteration {row['iteration']}"
        sentences.append(_sentence(f"{where}: gap by {row['verification']}", row, "gap"))
        if row["improvement"] is not None and row["update_error"] is not None:
            sentences.append(_sentence(f"{where}: J gained over the iteration before", row, "improvement"))
    return sentences


def _sentence(subject: str, row: dict[str, Any], name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return f"{subject}: not measured."
    if has_no_spread(low, high):
        return f"{subject} is {value:+.3f} however prompts are resampled: no interval, so nothing is told."
    verdict = "above 0" if low > 0 else "below 0" if high < 0 else "not told from 0"
    return f"{subject} is {value:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}."


def html_report(
    study: dict[str, Any],
    metrics: pl.DataFrame,
    stopped: str | None,
    costs: Mapping[str, list[dict[str, str]]],
    sections: Sequence[Section] = (),
) -> str:
    """The page.

    Args:
        study: The study as plain data.
        metrics: Columns as the schema of `gap_metrics`; whatever iterations there are.
        stopped: Why the loop ended before its last iteration, if it did.
        costs: Title -> table, as `cost.cost_tables` and `cost.artifact_table` make them.
        sections: The analyses there are.
    """
    confidence = study["analysis"]["confidence"]
    parts = [
        f"<h1>{html.escape(study['name'])}</h1><p>{html.escape(study['description'])}</p>",
        f"<p><b>The loop stopped: {html.escape(stopped)}</b></p>" if stopped else "",
        to_svg(iteration_chart(metrics)),
        "<h2>Held-out prompts</h2>" + _table(shown_rows(metrics, "eval")),
        f"<p>{html.escape(READING.format(confidence=confidence))}</p>",
        "<h2>What the intervals allow to say</h2><ul>",
        *[f"<li>{html.escape(sentence)}</li>" for sentence in findings(metrics)],
        "</ul><h2>Training prompts</h2>" + _table(shown_rows(metrics, "train")),
        "<h2>Verifiers</h2>" + _table(shown_rows(metrics, "eval", VERIFIERS)),
        f"<p>{html.escape(VERIFIERS_READING)}</p>",
        *map(_section, sections),
        "<h2>Cost</h2>",
        *[f"<h3>{html.escape(title)}</h3>{_folded(rows)}" for title, rows in costs.items()],
        f"<h2>The study</h2><pre>{html.escape(yaml.safe_dump(study, sort_keys=False))}</pre>",
    ]
    title = html.escape(study["name"])
    head = f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return head + "\n".join(parts)


def _section(section: Section) -> str:
    image = f"<img alt='{html.escape(section.title)}' src='{section.image}'>" if section.image else ""
    reading = html.escape(" ".join(section.reading.split()))
    return f"<h2>{html.escape(section.title)}</h2>{image}<p>{reading}</p>{_folded(section.rows)}"


def _folded(rows: list[dict[str, str]]) -> str:
    if len(rows) <= OPEN_ROWS:
        return _table(rows)
    return f"<details><summary>{len(rows)} rows</summary>{_table(rows)}</details>"


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    note = f"<p>{html.escape(NO_SPREAD_READING)}</p>" if tells_no_spread(rows) else ""
    return f"<table><tr>{head}</tr>{body}</table>{note}"
