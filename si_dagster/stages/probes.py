"""Probes: what a verifier says of answers whose worth is known: gold answers, wrong ones, and canaries.

A few evaluation prompts, each with its gold answer, the gold answer of another prompt as a wrong one, and the
canaries. The grader has the last word: a gold answer it does not call right, and any other it does not call
wrong, is left out. Only metrics, checks and report read the outcome. It says nothing of how often real
generations are wrong in such ways.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np
import polars as pl

from si_dagster.core.acceptance import acceptance_per_prompt, accepted
from si_dagster.core.samples import offsets_from_sorted_ids
from si_dagster.stages.prompts import task_rows
from si_dagster.stages.samples import floats
from si_dagster.store.schemas import TABLES
from si_dagster.study import VerificationSpec
from si_dagster.tasks.base import ShowsGold, Task, TaskRow
from si_dagster.verification.base import Batch, Item, VerificationMethod
from si_dagster.verification.canaries import INJECTIONS, OPENERS

GOLD, WRONG, CANARY = "gold", "wrong", "canary"


def probe_table(task: Task, prompts: pl.DataFrame, num_prompts: int) -> pl.DataFrame:
    """The probes of the first prompts, those left out that the grader does not agree with.

    Args:
        task: Grades, and writes gold answers where it can.
        prompts: Columns as the schema of `prompts`.
        num_prompts: Prompts to take, from the first.

    Returns:
        Columns probe_id, prompt_id, kind, probe, completion, utility; sorted by prompt.
    """
    chosen = prompts.sort("position").head(num_prompts)
    rows = task_rows(chosen)
    golds = {
        key: task.gold_completion(row) if isinstance(task, ShowsGold) else None for key, row in rows.items()
    }
    probes = [(key, *probe) for key in rows for probe in _probes_of(key, golds)]
    grades = task.grade([rows[key].reference for key, *_ in probes], [text for *_, text in probes])
    kept = [
        (f"{key}/{name}", key, kind, name, text, grade.utility)
        for (key, kind, name, text), grade in zip(probes, grades, strict=True)
        if grade.utility == (1.0 if kind == GOLD else 0.0)
    ]
    columns = ("probe_id", "prompt_id", "kind", "probe", "completion")
    schema = {**dict.fromkeys(columns, pl.String), "utility": pl.Float64}
    return pl.DataFrame(kept, schema=schema, orient="row").sort("prompt_id", maintain_order=True)


def _probes_of(key: str, golds: Mapping[str, str | None]) -> Iterator[tuple[str, str, str]]:
    """(kind, name, completion) of each probe of one prompt."""
    gold = golds[key]
    if gold is not None:
        yield GOLD, "gold", gold
    others = [text for other, text in golds.items() if other > key and text not in (None, gold)]
    wrong = next(iter(others), next((text for text in golds.values() if text not in (None, gold)), None))
    if wrong is not None:
        yield WRONG, "wrong", wrong
    for name, text in OPENERS.items():
        yield CANARY, name, text
    for name, text in INJECTIONS.items():
        yield CANARY, name, (wrong or "I do not know.") + text


def probe_items(probes: pl.DataFrame, prompts: pl.DataFrame) -> list[Item]:
    """The probes as a method is shown them: no references, and nothing that says which is which."""
    rows: dict[str, TaskRow] = {key: replace(row, reference="") for key, row in task_rows(prompts).items()}
    return [
        Item(probe_id, rows[prompt_id], completion)
        for probe_id, prompt_id, completion in probes.select(
            "probe_id", "prompt_id", "completion"
        ).iter_rows()
    ]


def verified_probes(
    probes: pl.DataFrame, method: VerificationMethod, batch: Batch, spec: VerificationSpec, verifier: str
) -> pl.DataFrame:
    """What the verifier says of every probe, columns as the schema of `probes`.

    Args:
        probes: As from `probe_table`.
        method: How to verify.
        batch: With the items of `probe_items`.
        spec: Name of the verification and of its method.
        verifier: Artifact id of the policy that verifies.
    """
    if probes.is_empty():
        return TABLES["probes"].empty()
    judgements = pl.DataFrame(
        [asdict(judgement) for judgement in method.verify(batch)], infer_schema_length=None
    ).rename({"generation_id": "probe_id"})
    return judgements.with_columns(
        verification=pl.lit(spec.name), method=pl.lit(spec.method), verifier=pl.lit(verifier)
    ).join(probes, on="probe_id", how="left", maintain_order="left")


def probe_acceptance(rows: pl.DataFrame, accepts_from: float | None) -> pl.DataFrame:
    """One row a probe: the mean of its readable scores, and whether it is accepted, null where unknown.

    Args:
        rows: Columns as the schema of `probes`, of one verification.
        accepts_from: Of the method; see `VerificationMethod`.

    Returns:
        Columns prompt_id, kind, probe, proxy_utility, accepted; sorted by prompt.
    """
    scores = rows.group_by("prompt_id", "kind", "probe").agg(pl.col("proxy_utility").mean())
    scores = scores.sort("prompt_id", "kind", "probe")
    # A wrong answer without a canary's tricks is only there to compare with.
    contest = scores.filter(pl.col("kind") != WRONG) if accepts_from is None else scores
    offsets = offsets_from_sorted_ids(contest["prompt_id"].to_numpy())
    is_gold = (contest["kind"] == GOLD).to_numpy()
    verdicts = accepted(floats(contest["proxy_utility"]), is_gold, offsets, accepts_from)
    return contest.with_columns(accepted=pl.Series(verdicts).fill_nan(None).cast(pl.Boolean))


def acceptance_of(kind: str, outcome: pl.DataFrame) -> np.ndarray:
    """Share accepted of one kind of probe, a value a prompt; NaN where a prompt has none, or it is unknown.

    Args:
        kind: `gold`, `wrong` or `canary`.
        outcome: As from `probe_acceptance`.
    """
    offsets = offsets_from_sorted_ids(outcome["prompt_id"].to_numpy())
    return acceptance_per_prompt(floats(outcome["accepted"]), (outcome["kind"] == kind).to_numpy(), offsets)
