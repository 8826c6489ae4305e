"""The page on the findings: expectations, contrasts with their intervals, verdicts, pictures.

Every number on it comes from an `Evidence`. It judges nothing and holds no figure of its own.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from si_dagster.analysis.findings import FINDINGS, FLOPS_AXIS, MIN_SEEDS, Contrast, Evidence, Finding, verdict
from si_dagster.analysis.plots import HEIGHT, WIDTH, to_svg
from si_dagster.analysis.table import NO_SPREAD, has_no_spread, markdown_table

HEAD = """# The findings of "Mind the Gap", put to the test

`make findings` (`si-dagster findings`) pre-trains small policies from scratch, measures them and writes this
page: for each of the six findings of [arXiv 2412.02674](https://arxiv.org/abs/2412.02674) what was expected
before the run, what came out, and the verdict by a rule that was fixed beforehand
(`si_dagster/analysis/findings.py`). It runs one study a core at a time (`--workers`), goes on
where it was broken off, and writes what is stored at any time with `--only-write`.

A finding rests on contrasts. A contrast is a number of each seed; the interval is the 95% percentile
bootstrap of its mean over seeds, prompts resampled within each seed. It is supported if the interval and
every seed's estimate lie where they were expected, contradicted if all lie on the other side, and open
otherwise or with fewer than {min_seeds} seeds. All supported: reproduced. Any contradicted: refuted. Else
open at this scale. The interval covers the choice of prompts; of the seeds there are few, so that all of
them have to agree. `[no spread]` stands where all prompts of every seed have one value; it is judged as the
point it is, and hides that about 3/n of all prompts may differ from the n that were seen.

These are policies of some ten to some hundred thousand parameters on tasks made by rule. What holds here
need not hold for large models, nor the other way round.
"""


def written(evidence: Evidence, seeds: Sequence[int], images: set[str]) -> str:
    """The page as Markdown.

    Args:
        evidence: What was measured.
        seeds: Of the studies, as planned.
        images: Names of pictures there are.
    """
    judged = [(finding, finding.contrasts(evidence)) for finding in FINDINGS]
    parts = [
        HEAD.format(min_seeds=MIN_SEEDS),
        f"Seeds: {', '.join(map(str, dict.fromkeys(seeds)))}.\n",
        "| finding | verdict |\n|---|---|",
        *(f"| {f.number}. {f.title} | {_verdict(c)} |" for f, c in judged),
        "\n## The bases\n",
        markdown_table(_bases(evidence)) if evidence.measured else "Nothing is measured yet.",
        *(_section(finding, contrasts, evidence, images) for finding, contrasts in judged),
    ]
    return "\n".join(parts) + "\n"


def _verdict(contrasts: Sequence[Contrast]) -> str:
    return f"**{verdict(contrasts)}**"


def _section(finding: Finding, contrasts: Sequence[Contrast], evidence: Evidence, images: set[str]) -> str:
    name = image_name(finding)
    picture = f"\n![{finding.title}](images/{name})\n" if name in images else ""
    beside = finding.beside(evidence) if finding.beside else []
    return "\n".join(
        [
            f"\n## {finding.number}. {finding.title}\n",
            f"The paper: {finding.paper}\n",
            f"Expected: {finding.expectation}\n",
            f"Verdict: {_verdict(contrasts)}\n",
            markdown_table([_row(contrast) for contrast in contrasts]) if contrasts else "Not measured yet.",
            picture,
            f"Beside it, not judged:\n\n{markdown_table([_row(c, judged=False) for c in beside])}\n"
            if beside
            else "",
        ]
    )


def _row(contrast: Contrast, judged: bool = True) -> dict[str, str]:
    shown = {
        "contrast": contrast.claim,
        "mean over seeds": _told(contrast),
        "each seed": ", ".join(f"{seed}: {value:+.3f}" for seed, value in contrast.per_seed.items()) or "-",
    }
    expected = {"expected": f"{contrast.expected} {contrast.bound:g}", "status": contrast.status}
    return shown | (expected if judged else {})


def _told(contrast: Contrast) -> str:
    interval = contrast.interval
    if not contrast.per_seed:
        return "not measured"
    if has_no_spread(interval.low, interval.high):
        return f"{interval.estimate:+.3f} {NO_SPREAD}"
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _bases(evidence: Evidence) -> list[dict[str, str]]:
    """One row a base: size, compute, J; the mean over the seeds that were measured."""
    bases: dict[tuple[str, str], list[Any]] = {}
    for m in evidence.measured:
        if m.iteration == 0:
            bases.setdefault((m.study, m.model), []).append(m)
    return [
        {
            "study": study,
            "base": model,
            "parameters": f"{found[0].num_parameters:,}",
            FLOPS_AXIS: f"{found[0].flops:.2g}",
            "seeds": ", ".join(str(m.seed) for m in found),
            "J": ", ".join(f"{m.expected.mean():.3f}" for m in found),
        }
        for (study, model), found in bases.items()
    ]


def image_name(finding: Finding) -> str:
    """File name of a finding's picture."""
    return f"finding_{finding.number}.svg"


def pictures(evidence: Evidence) -> dict[str, str]:
    """File name -> SVG of every finding that has points."""
    found = {image_name(finding): (finding, finding.points(evidence)) for finding in FINDINGS}
    return {
        name: to_svg(point_chart(points, *finding.axes))
        for name, (finding, points) in found.items()
        if not points.is_empty()
    }


def point_chart(points: pl.DataFrame, x_title: str, y_title: str) -> Any:
    """Lines with intervals.

    Args:
        points: Columns x (number or name), series, value, low, high.
        x_title: With `FLOPs` in it, x is logarithmic.
        y_title: Of the values.
    """
    import altair as alt

    if points["x"].dtype == pl.String:
        x = alt.X("x:N", title=x_title, sort=None, axis=alt.Axis(labelAngle=0))
    elif "FLOPs" in x_title:
        x = alt.X("x:Q", title=x_title, scale=alt.Scale(type="log"), axis=alt.Axis(format="~e"))
    else:
        x = alt.X("x:Q", title=x_title)
    base = alt.Chart(points).encode(x=x, color=alt.Color("series:N", legend=alt.Legend(title=None)))
    line = base.mark_line(point=True).encode(y=alt.Y("value:Q", title=y_title))
    bars = base.mark_errorbar(thickness=2).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q")
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(strokeDash=[4, 4], color="#888").encode(y="y:Q")
    return (zero + line + bars).properties(width=int(1.4 * WIDTH), height=HEIGHT)
