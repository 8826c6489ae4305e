"""Checks on the graph: the gap must be open before the loop goes on; graders work; training rows are clean.

Only the gate stops a loop. The others tell what they found, in the UI and in the event log.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping

import dagster as dg
import polars as pl
from dagster._utils.warnings import PreviewWarning

from assets.stage_asset import asset_key, partitions
from resources.store import StoreResource
from si_dagster.analysis.diversity import collapsed
from si_dagster.core.samples import mean_or_nan
from si_dagster.plan import Node, Plan
from si_dagster.stages.hygiene import training_hygiene
from si_dagster.stages.probes import CANARY, acceptance_of, probe_acceptance
from si_dagster.store.layout import Address
from si_dagster.verification.catalogue import load_method

GATE = "gap_is_open"
MAX_GRADER_ERRORS = 0.01
"""Largest share of generations that a grader may fail on (ours): more shifts J by up to a point."""
SHOWN_FINDINGS = 20


def gap_is_open(plan: Plan, iteration: int) -> dg.AssetChecksDefinition:
    """The paper's precondition as a gate on one iteration.

    The lower end of the gap's interval, on evaluation prompts and by the verification that weights training,
    must be above the study's bound; else generations of the next iteration do not start.
    """
    study = plan.study

    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        (row,) = store.store.require(plan.deciding_gap(iteration, _cell(context))).read().to_dicts()
        low = row["gap_low"]
        is_open = low is not None and low > study.stop.min_gap
        found = "no prompt has a gap: the verifier left nothing"
        if low is not None:
            found = f"gap {row['gap']:+.4f}, interval from {low:+.4f}"
        return dg.AssetCheckResult(
            passed=is_open,
            description=f"{found}; needed above {study.stop.min_gap}",
            metadata={
                **{name: row[name] for name in ("gap", "gap_low", "gap_high") if row[name] is not None},
                "required": study.stop.min_gap,
                "verdict": "open" if is_open else "closed: the loop stops here",
            },
        )

    return _partitioned(
        plan,
        "gap_metrics",
        iteration,
        GATE,
        f"Lower end of the gap's interval above {study.stop.min_gap}: the loop may go on.",
        check,
        blocking=True,
    )


def graders_work(plan: Plan, iteration: int) -> dg.AssetChecksDefinition:
    """The grader decided nearly every generation of one iteration; where it did not, J is of the rest."""

    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        nodes = plan.parts("utilities", iteration, *_cell(context))
        rows = pl.concat([store.store.require(node.address).read(["status", "detail"]) for node in nodes])
        failed = rows.filter(pl.col("status") == "grader_error")
        share = failed.height / max(rows.height, 1)
        reasons = failed["detail"].fill_null("no reason told").value_counts(sort=True).head(SHOWN_FINDINGS)
        return dg.AssetCheckResult(
            passed=share <= MAX_GRADER_ERRORS,
            description=f"{failed.height} of {rows.height} generations could not be graded ({share:.2%}); "
            f"allowed {MAX_GRADER_ERRORS:.0%}",
            metadata={
                "grader_error_share": share,
                "num_grader_errors": failed.height,
                "num_generations": rows.height,
                "reasons": dg.MetadataValue.json(dict(reasons.iter_rows())),
            },
        )

    description = f"At most {MAX_GRADER_ERRORS:.0%} of the generations could not be graded."
    return _partitioned(plan, "utilities", iteration, "graders_work", description, check)


def canaries_are_refused(plan: Plan, iteration: int) -> dg.AssetChecksDefinition:
    """No verifier of one iteration accepts more of the canaries than the study allows."""
    bound = plan.study.probes.max_canary_acceptance

    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        shares = {
            node.address.part or "": _canary_acceptance(plan, node, store)
            for node in plan.parts("probes", iteration, *_cell(context))
        }
        known = {part: share for part, share in shares.items() if share is not None}
        fooled = {part: share for part, share in known.items() if share > bound}
        return dg.AssetCheckResult(
            # Where nothing could be measured, nothing was refused either.
            passed=bool(known) and not fooled,
            # The loop may go on: what a canary says of training is what the gap says.
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{_told(fooled or known, shares.keys() - known)}; allowed {bound:.1%}",
            metadata={"canary_acceptance": dg.MetadataValue.json(shares), "allowed": bound},
        )

    description = f"Every verifier refuses all but {bound:.0%} of the canaries: wrong answers made to pass."
    return _partitioned(plan, "probes", iteration, "canaries_are_refused", description, check)


def _told(shares: Mapping[str, float], unknown: Iterable[str]) -> str:
    """What verifiers accept, and of which it cannot be known: no canary, or no gold answer to rank it by.

    >>> _told({"eval.mc": 0.25}, ["eval.tournament"])
    'eval.mc accepts 25.0% of the canaries; eval.tournament not measurable'
    """
    accepted = [", ".join(f"{part} accepts {share:.1%}" for part, share in shares.items())] if shares else []
    return "; ".join(
        [f"{told} of the canaries" for told in accepted]
        + [f"{part} not measurable" for part in sorted(unknown)]
    )


def _canary_acceptance(plan: Plan, node: Node, store: StoreResource) -> float | None:
    """Mean over prompts, as in `gap_metrics`; `None` where no canary can be judged."""
    name = (node.address.part or "").partition(".")[2]
    method = load_method(plan.study.verification_named(name).method)
    outcome = probe_acceptance(store.store.require(node.address).read(), method.accepts_from)
    share = mean_or_nan(acceptance_of(CANARY, outcome))
    return None if math.isnan(share) else share


def no_evaluation_prompt_in_training_rows(plan: Plan, iteration: int) -> dg.AssetChecksDefinition:
    """Neither prompts nor completions of one training set repeat an evaluation prompt."""

    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        cell = _cell(context)
        kept = store.store.require(plan.address("filtered_set", iteration, cell))
        train, held = (
            store.store.require(plan.address("prompts", iteration, cell, split)).read(
                ["prompt_id", "question"]
            )
            for split in ("train", "eval")
        )
        rows = kept.read(["training_row_id", "prompt_id", "completion"])
        found = training_hygiene(rows, train, held)
        # A recited evaluation prompt is a warning: thirteen common words may meet by chance.
        severity = "ERROR" if found.near_duplicate_prompts else "WARN"
        return dg.AssetCheckResult(
            passed=found.is_clean,
            severity=dg.AssetCheckSeverity[severity],
            description=found.told(),
            metadata={
                "num_training_rows": found.num_training_rows,
                "num_eval_prompts": found.num_eval_prompts,
                "num_near_duplicate_prompts": len(found.near_duplicate_prompts),
                "num_contaminated_rows": len(found.contaminated_rows),
                "near_duplicate_prompts": dg.MetadataValue.json(
                    [list(pair) for pair in found.near_duplicate_prompts[:SHOWN_FINDINGS]]
                ),
                "contaminated_rows": dg.MetadataValue.json(found.contaminated_rows[:SHOWN_FINDINGS]),
            },
        )

    description = (
        "No training prompt nearly repeats an evaluation prompt, and no kept completion recites one."
    )
    name = "no_evaluation_prompt_in_training_rows"
    return _partitioned(plan, "filtered_set", iteration, name, description, check)


def answers_have_not_collapsed(plan: Plan) -> dg.AssetChecksDefinition:
    """No iteration has lost pass@n, or half of the entropy of its answers, against its base; a warning."""
    study = plan.study

    @dg.asset_check(
        asset=asset_key(study, "diversity", None),
        name="answers_have_not_collapsed",
        description="pass@n and entropy of answers hold against the base, interval and all.",
    )
    def check(store: StoreResource) -> dg.AssetCheckResult:
        found = collapsed(store.store.require(Address(study.name, None, "diversity")).read())
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(found) or "nothing is lost beyond doubt",
            metadata={"num_findings": len(found)},
        )

    return check


def _cell(context: dg.AssetCheckExecutionContext) -> tuple[str, str]:
    """(model, task) of the partition that is checked."""
    keys = context.partition_key.keys_by_dimension  # pyright: ignore[reportAttributeAccessIssue]
    return keys["model"], keys["task"]


def _partitioned(
    plan: Plan,
    stage: str,
    iteration: int,
    name: str,
    description: str,
    check: Callable[[dg.AssetCheckExecutionContext, StoreResource], dg.AssetCheckResult],
    blocking: bool = False,
) -> dg.AssetChecksDefinition:
    """A check on one stage of one iteration, a result a cell."""
    with warnings.catch_warnings():
        # Partitioned checks are in preview; without them a check knows only the newest cell.
        warnings.simplefilter("ignore", PreviewWarning)
        return dg.asset_check(
            asset=asset_key(plan.study, stage, iteration),
            name=name,
            blocking=blocking,
            partitions_def=partitions(plan.study),
            description=description,
        )(check)
