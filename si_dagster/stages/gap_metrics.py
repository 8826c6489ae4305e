"""Gap metrics: what the verification of one iteration would gain, and what the update before it gained.

Estimators live in `core`; this only lays the tables side by side. It chooses no threshold: the rule of the
study is applied to every verification as it stands.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from si_dagster.core import gap, update
from si_dagster.core.diversity import answer_entropy, distinct_answers
from si_dagster.core.intervals import Interval, bootstrap_mean
from si_dagster.core.pass_at_k import majority_at_k, pass_at_k
from si_dagster.core.samples import mean_or_nan
from si_dagster.core.verifier_quality import verifier_quality
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.stages.probes import CANARY, GOLD, acceptance_of, probe_acceptance
from si_dagster.stages.samples import PolicySamples, floats
from si_dagster.stages.weighting import weighted_scores
from si_dagster.study import Scorer, Study, VerificationSpec
from si_dagster.verification.catalogue import load_method

MAJORITY_K = 8


@dataclass(frozen=True)
class IterationTables:
    """What one row of metrics is made from.

    Attributes:
        utilities: Of the current policy; columns as the schema of `utilities`.
        verifications: Name -> rows of the same generations, of all verifications the score is made from.
        previous_utilities: Of the policy before, on the same prompts; `None` in iteration 0.
        previous_verifications: Those that weighted the training of the current policy; `None` in iteration 0
            and where another verification did.
        base_utilities: Of the base policy; `None` in iteration 0.
        probes: The same verifier's verdicts on gold answers and canaries; `None` where there are none.
    """

    utilities: pl.DataFrame
    verifications: Mapping[str, pl.DataFrame]
    previous_utilities: pl.DataFrame | None = None
    previous_verifications: Mapping[str, pl.DataFrame] | None = None
    base_utilities: pl.DataFrame | None = None
    probes: pl.DataFrame | None = None


def gap_metric_row(study: Study, spec: Scorer, tables: IterationTables) -> dict[str, Any]:
    """The metrics of one verification or ensemble; columns as the schema of `gap_metrics`, less its keys.

    The update error is told in the row of the verification that weights training, and is null in the others:
    only its reweighted policy was distilled.
    """
    samples = PolicySamples.of(tables.utilities)
    row = (
        _policy_metrics(study, samples)
        | _paired_metrics(study, samples, tables)
        | _verification_metrics(study, spec, samples, tables.verifications)
        | _update_metrics(study, spec, samples, tables)
        | _acceptance_metrics(study, spec, tables.probes)
    )
    return {name: _null_if_nan(value) for name, value in row.items()}


def _policy_metrics(study: Study, samples: PolicySamples) -> dict[str, Any]:
    """Metrics of the generator alone."""
    u, offsets = samples.utilities, samples.offsets
    n = int(np.diff(offsets).min())
    at_k = {k: mean_or_nan(pass_at_k(u, offsets, k)) for k in {*study.pass_at_k(), 1, 8, 32} if k <= n}
    k = MAJORITY_K
    majority = mean_or_nan(majority_at_k(samples.answers, u, offsets, k, seed=study.seed)) if n >= k else None
    return {
        **{f"pass_at_{k}": at_k.get(k) for k in (1, 8, 32)},
        "pass_at_k": json.dumps({str(k): at_k[k] for k in study.pass_at_k() if k in at_k}),
        f"maj_at_{k}": majority,
        "strict_expected_utility": mean_or_nan(gap.expected_utility(samples.strict, offsets)),
        "distinct_answers": float(distinct_answers(samples.answers, offsets).mean()),
        "answer_entropy": mean_or_nan(answer_entropy(samples.answers, offsets)),
    }


def _acceptance_metrics(study: Study, spec: Scorer, probes: pl.DataFrame | None) -> dict[str, Any]:
    """Shares of gold answers and canaries that the verifier accepts; of an ensemble none are known."""
    metrics: dict[str, Any] = {}
    outcome = None
    if probes is not None and isinstance(spec, VerificationSpec):
        outcome = probe_acceptance(probes, load_method(spec.method).accepts_from)
    for kind in (GOLD, CANARY):
        shares = np.array([np.nan]) if outcome is None else acceptance_of(kind, outcome)
        interval = None if np.isnan(shares).all() else bootstrap_mean(shares, **bootstrap_options(study))
        metrics |= _interval_columns(f"{kind}_acceptance", interval)
    return metrics


def _verification_metrics(
    study: Study, spec: Scorer, samples: PolicySamples, verifications: Mapping[str, pl.DataFrame]
) -> dict[str, Any]:
    scores = weighted_scores(study, spec, verifications, study.seed)
    weights = scores["weight"].to_numpy()
    estimate = gap.estimate_gap(
        samples.utilities,
        weights,
        samples.offsets,
        no_survivors=study.weighting.no_survivors,
        saturated=study.analysis.saturated,
        **bootstrap_options(study),
    )
    quality = verifier_quality(samples.utilities, floats(scores["proxy_utility"]), weights, samples.offsets)
    return {
        "verification": spec.name,
        "method": spec.method if isinstance(spec, VerificationSpec) else spec.combine,
        "verifier": " + ".join(dict.fromkeys(verifications[name]["verifier"][0] for name in spec.sources)),
        "rule": study.rule_label(spec),
        **asdict(estimate),
        "tpr": quality.true_positive_rate,
        "fpr": quality.false_positive_rate,
        "auroc": quality.auroc,
        "auroc_per_prompt": quality.auroc_per_prompt,
        "num_unparsed": sum(rows["proxy_utility"].null_count() for rows in verifications.values()),
    }


def _paired_metrics(study: Study, samples: PolicySamples, tables: IterationTables) -> dict[str, Any]:
    """J differences to the policy before and to the base, over the same prompts."""
    metrics: dict[str, Any] = {}
    for name, before in (
        ("improvement", tables.previous_utilities),
        ("improvement_over_base", tables.base_utilities),
    ):
        interval = None
        if before is not None:
            old = _same_prompts(PolicySamples.of(before), samples)
            interval = update.improvement(_expected(old), _expected(samples), **bootstrap_options(study))
        metrics |= _interval_columns(name, interval)
    return metrics


def _update_metrics(
    study: Study, spec: Scorer, samples: PolicySamples, tables: IterationTables
) -> dict[str, Any]:
    """Signed error of the update that led here: J(f_{t-1}[w]) - J(f_t)."""
    if tables.previous_utilities is None or tables.previous_verifications is None:
        return _interval_columns("update_error", None)
    old = _same_prompts(PolicySamples.of(tables.previous_utilities), samples)
    scores = weighted_scores(study, spec, tables.previous_verifications, study.seed)
    weights = scores["weight"].to_numpy()
    reweighted = gap.fill_no_survivors(
        gap.reweighted_utility(old.utilities, weights, old.offsets),
        _expected(old),
        gap.pooled_reweighted_utility(old.utilities, weights),
        study.weighting.no_survivors,
    )
    interval = update.update_error(reweighted, _expected(samples), **bootstrap_options(study))
    return _interval_columns("update_error", interval)


def _expected(samples: PolicySamples) -> np.ndarray:
    return gap.expected_utility(samples.utilities, samples.offsets)


def _same_prompts(old: PolicySamples, new: PolicySamples) -> PolicySamples:
    if not np.array_equal(old.prompt_ids, new.prompt_ids):
        raise ValueError(
            "paired comparison needs the same evaluation prompts in both iterations; "
            f"found {len(old.prompt_ids)} and {len(new.prompt_ids)}, not all the same"
        )
    return old


def _interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _null_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
