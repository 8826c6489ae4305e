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
    members = [proxy_utilities(tables[name]) for name in spec.sources]
    _refuse_other_generations(spec, members)
    offsets = offsets_from_sorted_ids(members[0]["prompt_id"].to_numpy())
    filled = {
        name: weighting.fill_unparsed(
            floats(rows["proxy_utility"]), offsets, study.verification_named(name).unparsed_policy
        )
        for name, rows in zip(spec.sources, members, strict=True)
    }
    scores, weights = scores_and_weights(study, spec, filled, offsets, seed)
    rows = members[0].with_columns(weight=pl.Series(weights, dtype=pl.Float64))
    if isinstance(spec, VerificationSpec):
        return rows
    return rows.with_columns(
        proxy_utility=pl.Series(scores, dtype=pl.Float64).fill_nan(None),
        num_unparsed=sum(member["num_unparsed"] for member in members),
    )


def scores_and_weights(
    study: Study, spec: Scorer, scores: Mapping[str, np.ndarray], offsets: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Score and weight of every sample by a verification or an ensemble, as flat arrays.

    Args:
        study: Its rules.
        spec: The verification or ensemble.
        scores: Of each of its `sources`, what could not be read filled; each of shape (num_samples,).
        offsets: Shape (num_prompts + 1,).
        seed: For ties drawn at random.

    Returns:
        Two arrays of shape (num_samples,); the score of `and` and `or` is their weight.
    """
    if isinstance(spec, EnsembleSpec) and spec.thresholds_members:
        kept = [
            rule_weights(scores[member.verification], offsets, study.member_rule(member), seed)
            for member in spec.members
        ]
        weights = and_weights(kept) if spec.combine == "and" else or_weights(kept)
        return weights, weights
    if isinstance(spec, EnsembleSpec):
        combine = mean_rank_scores if spec.combine == "mean_rank" else agreement_scores
        values = combine([scores[name] for name in spec.sources], offsets)
    else:
        values = scores[spec.name]
    return values, rule_weights(values, offsets, study.weighting, seed)


def _refuse_other_generations(spec: Scorer, members: Sequence[pl.DataFrame]) -> None:
    keys = members[0].select("prompt_id", "sample_index")
    for name, rows in zip(spec.sources, members, strict=True):
        if not rows.select("prompt_id", "sample_index").equals(keys):
            raise ValueError(
                f"ensemble {spec.name!r}: {name} and {spec.sources[0]} verified different generations"
            )
