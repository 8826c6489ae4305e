"""Weights w(proxy utility) of samples, by the rule of the study: the same for training and for the gap.

Thin: it turns tables into the flat arrays of `core.weighting` and picks the rule. It never sees a utility.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from si_dagster.core import weighting
from si_dagster.core.ensembles import agreement_scores, and_weights, mean_rank_scores, or_weights
from si_dagster.core.samples import offsets_from_sorted_ids
from si_dagster.stages.samples import by_prompt, floats
from si_dagster.study import EnsembleSpec, Scorer, Study, VerificationSpec, WeightingSpec

UnparsedPolicy = weighting.UnparsedPolicy


def proxy_utilities(verifications: pl.DataFrame, keep_index: bool = True) -> pl.DataFrame:
    """One score a generation: the mean over its readable verifications, null where none is.

    Args:
        verifications: Columns prompt_id, sample_index, verification_index, perhaps generation_id, and
            proxy_utility, null where it could not be read.
        keep_index: Whether sample_index is in what is returned.

    Returns:
        The same less verification_index, with num_unparsed; sorted by prompt_id and
        sample_index.
    """
    keys = [name for name in ("generation_id", "prompt_id", "sample_index") if name in verifications.columns]
    if verifications["verification_index"].max() == 0:  # no mean to take: .2 s instead of .8 on 10^6 rows
        scores = verifications.select(
            *keys, "proxy_utility", num_unparsed=pl.col("proxy_utility").is_null().cast(pl.UInt32)
        )
    else:
        scores = verifications.group_by(keys).agg(
            pl.col("proxy_utility").mean(), num_unparsed=pl.col("proxy_utility").null_count()
        )
    return by_prompt(scores, keep_index)


def sample_weights(
    scores: pl.DataFrame, spec: WeightingSpec, on_unparsed: UnparsedPolicy, seed: int
) -> np.ndarray:
    """The weight of each sample under the study's rule.

    Args:
        scores: Columns prompt_id, proxy_utility; sorted by prompt_id.
        spec: The rule.
        on_unparsed: What stands for a score that could not be read.
        seed: For ties drawn at random.

    Returns:
        Non-negative weights, shape (num_samples,), in the order of `scores`.
    """
    offsets = offsets_from_sorted_ids(scores["prompt_id"].to_numpy())
    values = scores["proxy_utility"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return rule_weights(weighting.fill_unparsed(values, offsets, on_unparsed), offsets, spec, seed)


def rule_weights(values: np.ndarray, offsets: np.ndarray, spec: WeightingSpec, seed: int) -> np.ndarray:
    """The weights of scores as flat arrays; NaN gets weight 0.

    Args:
        values: Scores; shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        spec: The rule.
        seed: For ties drawn at random.
    """
    if spec.rule == "quantile":
        return weighting.quantile_weights(values, offsets, spec.q, spec.ties, seed)
    if spec.rule == "threshold":
        return weighting.threshold_weights(values, spec.tau)
    if spec.rule == "exponential":
        return weighting.exponential_weights(values, offsets, spec.beta)
    return weighting.best_of_n_weights(values, offsets, spec.k, seed)


def weighted_scores(
    study: Study, spec: Scorer, tables: Mapping[str, pl.DataFrame], seed: int
) -> pl.DataFrame:
    """Score and weight of every generation by a verification or an ensemble of the study.

    Args:
        study: Rule, and what stands for scores that cannot be read.
        spec: The verification or ensemble.
        tables: Name -> stored verifications, of all its `sources`; of the same generations.
        seed: For ties drawn at random.

    Returns:
        Columns as from `proxy_utilities`, and `weight`. The score of `and` and `or` is their weight.
    """
    if isinstance(spec, VerificationSpec):
        rows = proxy_utilities(tables[spec.name])
        weights = sample_weights(rows, study.weighting, spec.unparsed_policy, seed)
        return rows.with_columns(weight=pl.Series(weights, dtype=pl.Float64))
    members = [proxy_utilities(tables[name]) for name in spec.sources]
    _refuse_other_generations(spec, members)
    rows = members[0].with_columns(num_unparsed=sum(member["num_unparsed"] for member in members))
    if spec.thresholds_members:
        weights = _thresholded(study, spec, members, seed)
        scores = pl.Series(weights, dtype=pl.Float64)
        return rows.with_columns(proxy_utility=scores, weight=scores)
    scores = _combined(study, spec, members)
    rows = rows.with_columns(proxy_utility=pl.Series(scores, dtype=pl.Float64).fill_nan(None))
    weights = sample_weights(rows, study.weighting, "reject", seed)
    return rows.with_columns(weight=pl.Series(weights, dtype=pl.Float64))


def _thresholded(study: Study, spec: EnsembleSpec, members: Sequence[pl.DataFrame], seed: int) -> np.ndarray:
    """Each member cut by its own rule, then AND or OR."""
    kept = [
        sample_weights(
            rows,
            study.member_rule(member),
            study.verification_named(member.verification).unparsed_policy,
            seed,
        )
        for rows, member in zip(members, spec.members, strict=True)
    ]
    return and_weights(kept) if spec.combine == "and" else or_weights(kept)


def _combined(study: Study, spec: EnsembleSpec, members: Sequence[pl.DataFrame]) -> np.ndarray:
    """One score from the scores of all members; NaN where none could be read."""
    offsets = offsets_from_sorted_ids(members[0]["prompt_id"].to_numpy())
    scores = [
        weighting.fill_unparsed(
            floats(rows["proxy_utility"]),
            offsets,
            study.verification_named(name).unparsed_policy,
        )
        for name, rows in zip(spec.sources, members, strict=True)
    ]
    return (mean_rank_scores if spec.combine == "mean_rank" else agreement_scores)(scores, offsets)


def _refuse_other_generations(spec: EnsembleSpec, members: Sequence[pl.DataFrame]) -> None:
    keys = members[0].select("prompt_id", "sample_index")
    for name, rows in zip(spec.sources, members, strict=True):
        if not rows.select("prompt_id", "sample_index").equals(keys):
            raise ValueError(
                f"ensemble {spec.name!r}: {name} and {spec.sources[0]} verified different generations"
            )
