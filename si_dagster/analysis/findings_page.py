"""The page on the findings: expectations, contrasts with their intervals, verdicts, pictures.

Every number on it comes from an `Evidence`. It judges nothing and holds no figure of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.findings import (
    FINDINGS,
    FLOPS_AXIS,
    MIN_SEEDS,
    MOSTLY_UNPARSED,
    NAMES,
    Contrast,
    Evidence,
    Finding,
    Measured,
    by_identity,
    unparsed_share,
    verdict,
)
from si_dagster.analysis.plots import HEIGHT, WIDTH, to_markdown
from si_dagster.analysis.table import NO_SPREAD, has_no_spread, markdown_table
from si_dagster.core.verifier_quality import verifier_quality
from si_dagster.core.weighting import summarise_weights

DODGE = 1.07
"""Factor on a logarithmic axis between series that would else hide each other."""

HEAD = """# The findings of "Mind the Gap", put to the test

`make findings` (`si-dagster findings`) pre-trains small policies from scratch, measures them and writes this
page: for each of the six findings of [arXiv 2412.02674](https://arxiv.org/abs/2412.02674) what was expected
before the run, what came out, and the verdict by a rule that was fixed beforehand
(`si_dagster/analysis/findings.py`). It runs one study a core at a time (`--workers`), goes on
where it was broken off, and writes what is stored at any time with `--only-write`.

A finding rests on contrasts. A contrast is a number of each seed; the interval is the 95% percentile
bootstrap of its mean over seeds. Prompts are resampled, and one that several seeds share is drawn for all of
them at once; Sudoku puzzles that differ in their blanks alone count as different prompts. It is supported if
the interval and every seed's estimate lie where they were expected, contradicted if all lie on the other
side, and open otherwise or with fewer than {min_seeds} seeds. All supported: reproduced. Any contradicted:
refuted. Else open at this scale. The interval covers the choice of prompts; of the seeds there are few, so
that all of them have to agree. `[no spread]` stands where all prompts of every seed have one value; it is
judged as the point it is, and hides that about 3/n of all prompts may differ from the n that were seen.

These are policies of some ten to some hundred thousand parameters on tasks made by rule. What holds here
need not hold for large models, nor the other way round.
"""

VERIFIERS_READING = """Every verifier under the rule of this page (CoT-binary keeps 1, all others the best
quarter of each prompt), on evaluation prompts: the mean over seeds, in parentheses the least and the most of
them, which is no interval, and the number of seeds where not all of them have the figure. A verifier that
cannot be read shows as unparsed, one that rejects or keeps everything in coverage and retained, one that sees
no difference in an AUROC of .5 and a TPR no higher than the FPR. TPR and FPR are the shares of right and of
wrong answers that are kept; AUROC is over all answers whose reply can be read, which rewards telling easy
prompts from hard ones, and within a prompt, which is what a gap lives on. `-`: in no seed there is what the
figure is of: for TPR a right answer, for FPR a wrong one, for AUROC one of each with replies that can be
read, in a prompt both of the same prompt.
"""


@dataclass(frozen=True)
class Section:
    """One finding with all that is told of it.

    Attributes:
        finding: Which.
        contrasts: What it is judged by.
        beside: What is shown and not judged.
        chart: Its picture, an altair chart; `None` where nothing of it is measured.
    """

    finding: Finding
    contrasts: list[Contrast]
    beside: list[Contrast]
    chart: Any

    @property
    def image(self) -> str:
        """File name of its picture."""
        return f"finding_{self.finding.number}.svg"

    @property
    def linked_picture(self) -> str:
        """The picture as Markdown that names its file."""
        return "" if self.chart is None else f"![{self.finding.title}](images/{self.image})"

    @property
    def inline_picture(self) -> str:
        """The picture as Markdown that carries its own bytes."""
        return "" if self.chart is None else to_markdown(self.chart, self.finding.title, scale=1.0)


def sections(evidence: Evidence) -> list[Section]:
    """Every finding, judged and drawn."""
    found = []
    for finding in FINDINGS:
        beside = finding.beside(evidence) if finding.beside else []
        points = finding.points(evidence)
        chart = None if points.is_empty() else point_chart(points, *finding.axes)
        found.append(Section(finding, finding.contrasts(evidence), beside, chart))
    return found


def written(evidence: Evidence, seeds: Sequence[int], judged: Sequence[Section]) -> str:
    """The page as Markdown.

    Args:
        evidence: What was measured.
        seeds: Of the studies, as planned.
        judged: As `sections` returns.
    """
    parts = [
        HEAD.format(min_seeds=MIN_SEEDS),
        f"Seeds: {', '.join(map(str, dict.fromkeys(seeds)))}.\n",
        verdict_table(judged),
        "\n## The bases\n",
        _bases_section(evidence) if evidence.measured else "Nothing is measured yet.",
        *(section(each, each.linked_picture) for each in judged),
    ]
    return "\n".join(parts) + "\n"


def verdict_table(judged: Sequence[Section]) -> str:
    """Every finding and its verdict, as a Markdown table."""
    rows = [f"| {s.finding.number}. {s.finding.title} | {_verdict(s.contrasts)} |" for s in judged]
    return "\n".join(["| finding | verdict |\n|---|---|", *rows])


def _verdict(contrasts: Sequence[Contrast]) -> str:
    return f"**{verdict(contrasts)}**"


def section(told: Section, picture: str) -> str:
    """One finding as Markdown, with its picture as Markdown."""
    finding, contrasts = told.finding, told.contrasts
    beside = markdown_table([_row(contrast, judged=False) for contrast in told.beside])
    parts = [
        f"\n## {finding.number}. {finding.title}",
        f"The paper: {finding.paper}",
        f"Expected: {finding.expectation}",
        f"Verdict: {_verdict(contrasts)}",
        markdown_table([_row(contrast) for contrast in contrasts]) if contrasts else "Not measured yet.",
        *([picture] if picture else []),
        *([f"Beside it, not judged:\n\n{beside}"] if told.beside else []),
        "Of what the paper says, not measured here:",
        "\n".join(f"- {clause}" for clause in finding.unmeasured),
    ]
    return "\n\n".join(parts)


def _row(contrast: Contrast, judged: bool = True) -> dict[str, str]:
    shown = {
        "contrast": contrast.claim,
        "mean over seeds": _told(contrast),
        "each seed": ", ".join(f"{seed}: {value:+.3f}" for seed, value in contrast.per_seed.items()) or "-",
    }
    expected = {"expected": f"{contrast.expected} {contrast.bound:g}", "status": contrast.status}
    if contrast.note:
        expected["status"] += f" ({contrast.note})"
    return shown | (expected if judged else {})


def _told(contrast: Contrast) -> str:
    interval = contrast.interval
    if not contrast.per_seed:
        return "not measured"
    if has_no_spread(interval.low, interval.high):
        return f"{interval.estimate:+.3f} {NO_SPREAD}"
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


Policies = dict[tuple[str, str, int], list[Measured]]
"""(study, model, iteration) -> the policies of all seeds that were measured."""


def _bases_section(evidence: Evidence) -> str:
    policies: Policies = {}
    for m in evidence.measured:
        policies.setdefault((m.study, m.model, m.iteration), []).append(m)
    return "\n".join(
        [
            markdown_table(_bases(policies)),
            "",
            *(f"{sentence}\n" for sentence in [*_floors(policies), *_shared(evidence)]),
            "## The verifiers\n",
            VERIFIERS_READING,
            markdown_table(_verifiers(policies)),
            *_unread(policies),
        ]
    )


def _bases(policies: Policies) -> list[dict[str, str]]:
    """One row a base: size, compute, J of each seed that was measured."""
    return [
        {
            "study": study,
            "base": model,
            "parameters": f"{found[0].num_parameters:,}",
            FLOPS_AXIS: f"{found[0].flops:.2g}",
            "seeds": ", ".join(str(m.seed) for m in found),
            "J": ", ".join(f"{m.expected.mean():.3f}" for m in found),
        }
        for (study, model, iteration), found in policies.items()
        if iteration == 0
    ]


def _floors(policies: Policies) -> list[str]:
    """A sentence a base that is never right."""
    notes = {key: by_identity(found) for key, found in policies.items() if key[2] == 0}
    return [f"{study}, base {model}: {note}." for (study, model, _), note in notes.items() if note]


def _shared(evidence: Evidence) -> list[str]:
    """A sentence a study whose seeds ask some questions in common."""
    sentences = []
    for study in dict.fromkeys(m.study for m in evidence.measured):
        asked = {m.seed: m.prompts for m in evidence.measured if m.study == study}
        num, num_distinct = sum(map(len, asked.values())), len(set().union(*asked.values()))
        if num_distinct < num:
            sentences.append(
                f"{study}: {num} prompts in {len(asked)} seeds, {num_distinct} of them different."
            )
    return sentences


def _verifiers(policies: Policies) -> list[dict[str, str]]:
    """One row a policy and method: what tells a verifier that sees no difference from one that is broken."""
    return [
        {
            "study": study,
            "policy": f"{model}, t = {iteration}" if iteration else model,
            "method": _method_name(method),
            **_told_quality([_quality(m, method) for m in found]),
        }
        for (study, model, iteration), found in policies.items()
        for method in found[0].scores
        if method != "oracle"
    ]


def _unread(policies: Policies) -> list[str]:
    """A sentence on the verifiers of which most replies cannot be read."""
    found = {
        f"{_method_name(method)} on {model} ({study})": unparsed_share(seeds, method)
        for (study, model, iteration), seeds in policies.items()
        for method in seeds[0].scores
        if iteration == 0
    }
    names = [name for name, share in found.items() if share > MOSTLY_UNPARSED]
    told = "Of these most replies cannot be read, and a prompt without a readable one has a gap of 0"
    return [f"\n{told}: a gap near 0 is no verdict on answers. {'; '.join(names)}."] if names else []


def _method_name(verification: str) -> str:
    if verification in NAMES:
        return NAMES[verification]
    return verification.replace("by_", "CoT-score by ")


def _quality(m: Measured, method: str) -> dict[str, float]:
    weights, graded = m.weights(method), ~np.isnan(m.utilities)
    quality = verifier_quality(m.utilities, m.scores[method], weights, m.offsets)
    kept = summarise_weights(weights, m.offsets)
    return {
        "unparsed": quality.num_unparsed / max(int(graded.sum()), 1),
        "coverage": kept.coverage,
        "retained": kept.retained_share,
        "TPR": quality.true_positive_rate,
        "FPR": quality.false_positive_rate,
        "AUROC": quality.auroc,
        "AUROC in a prompt": quality.auroc_per_prompt,
    }


def _told_quality(seeds: Sequence[dict[str, float]]) -> dict[str, str]:
    """Mean and range of each figure over the seeds where it exists, and how many those are if not all."""
    told = {}
    for name in seeds[0]:
        known = [quality[name] for quality in seeds if not np.isnan(quality[name])]
        if not known:
            told[name] = "-"
            continue
        notes = [f"{min(known):.3f} to {max(known):.3f}"] if min(known) < max(known) else []
        notes += [f"{len(known)} of {len(seeds)} seeds"] if len(known) < len(seeds) else []
        told[name] = f"{np.mean(known):.3f}" + (f" ({', '.join(notes)})" if notes else "")
    return told


def side_by_side(points: pl.DataFrame) -> pl.DataFrame:
    """The points with each series a little to the right of the one before, for a logarithmic axis.

    Examples:
        >>> points = pl.DataFrame({"x": [100.0, 100.0], "series": ["a", "b"]})
        >>> side_by_side(points)["x"].round(1).to_list()
        [96.7, 103.4]
    """
    place = pl.col("series").rank("dense") - (pl.col("series").n_unique() + 1) / 2
    return points.with_columns(x=pl.col("x") * DODGE**place)


def point_chart(points: pl.DataFrame, x_title: str, y_title: str) -> Any:
    """Lines with intervals.

    Args:
        points: Columns x (number or name), series, value, low, high.
        x_title: With `FLOPs` in it, x is logarithmic, and series stand side by side, `DODGE` apart.
        y_title: Of the values.
    """
    import altair as alt

    if points["x"].dtype == pl.String:
        x = alt.X("x:N", title=x_title, sort=None, axis=alt.Axis(labelAngle=0))
    elif "FLOPs" in x_title:
        points = side_by_side(points)
        ticks = alt.Axis(format="~e", values=[10.0**power for power in range(6, 30)])
        x = alt.X(
            "x:Q",
            title=f"{x_title} (series side by side)",
            scale=alt.Scale(type="log", nice=False, padding=15),
            axis=ticks,
        )
    else:
        x = alt.X("x:Q", title=x_title)
    base = alt.Chart(points).encode(x=x, color=alt.Color("series:N", legend=alt.Legend(title=None)))
    line = base.mark_line(point=True).encode(y=alt.Y("value:Q", title=y_title))
    bars = base.mark_errorbar(thickness=2).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q")
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(strokeDash=[4, 4], color="#888").encode(y="y:Q")
    return (zero + line + bars).properties(width=int(1.4 * WIDTH), height=HEIGHT)
