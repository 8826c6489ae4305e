"""probes: what each verifier says of gold answers, wrong answers and canaries."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from resources.stage_run import StageRun
from si_dagster.analysis.table import markdown_table
from si_dagster.core.samples import mean_or_nan
from si_dagster.stages.probes import (
    CANARY,
    GOLD,
    WRONG,
    acceptance_of,
    probe_acceptance,
    probe_items,
    probe_table,
    verified_probes,
)
from si_dagster.stages.verifications import batch_fields
from si_dagster.verification.base import Batch
from si_dagster.verification.catalogue import load_method

CARD = """Answers whose worth is known, put to every verifier: gold answers, wrong ones, and canaries.

A canary is wrong and written to be taken for right: an empty opener, an injected verdict. Ground truth is in
this: only gap_metrics, its check and the report read it; no filtered set and no checkpoint descends from it.

Reads: prompts (evaluation prompts, with references); verifier: the checkpoint that verifies.

Writes: probe_id, prompt_id, kind, probe, completion, utility, verification, method, verifier,
verification_index, proxy_utility, verdict, reply, status; one part a verification that calls a policy.
"""


def materialize(run: StageRun) -> dict[str, Any]:
    """Write the probes, ask the verifier, and count what it accepts."""
    method, prompts = load_method(run.verification.method), run.read("prompts")
    probes = probe_table(run.task, prompts, run.study.probes.num_prompts)
    batch = Batch(
        run.task,
        run.style_of("verifier"),
        probe_items(probes, prompts),
        **batch_fields(run.verification, run.seed),
    )
    shown = method.first_prompt(batch)
    if shown and run.style_of("verifier") == "chat":
        shown = run.chat_template("verifier").render(shown)
    run.context.log.info(f"first prompt as the verifier reads it:\n{shown}")
    cost = run.earlier_cost
    if run.writer.existing().is_empty():
        with run.engine_cost("verifier") as (engine, cost):
            verifier = run.node.inputs["verifier"].artifact_id
            asked = replace(batch, engine=run.spoken(engine, "verifier"))
            run.write_part(verified_probes(probes, method, asked, run.verification, verifier))
    outcome = probe_acceptance(run.writer.existing(), method.accepts_from)
    by_probe = outcome.group_by("kind", "probe").agg(pl.col("accepted").sum(), num=pl.col("accepted").count())
    return {
        **cost,
        "num_probes": outcome.height,
        **{f"{kind}_acceptance": _known(acceptance_of(kind, outcome)) for kind in (GOLD, WRONG, CANARY)},
        "table": markdown_table(
            [
                {"kind": kind, "probe": probe, "accepted": f"{accepted} of {num}" if num else "unknown"}
                for kind, probe, accepted, num in by_probe.sort("kind", "probe").iter_rows()
            ]
        ),
        "first_prompt": shown,
    }


def _known(shares: np.ndarray) -> float | None:
    mean = mean_or_nan(shares)
    return None if math.isnan(mean) else mean
