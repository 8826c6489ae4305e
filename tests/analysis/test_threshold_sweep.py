"""The sweep: what it chooses, what it finds in noise, and which training rows it would exchange."""

import numpy as np
import polars as pl
import pytest
from analysis.made_up import drawn, noisy, scored, study

from si_dagster.analysis.threshold_sweep import QUANTILES, choosing_half, shown, sweep_rows
from si_dagster.core.gap import estimate_gap
from si_dagster.core.intervals import resampled_sums
from si_dagster.core.samples import sum_per_prompt
from si_dagster.core.weighting import quantile_weights
from si_dagster.store.schemas import TABLES

METHODS = ("multiple_choice", "log_likelihood", "random")


def three_verifiers(num_prompts: int = 300, seed: int = 0, permuted: bool = False):
    utilities = drawn(num_prompts, 8, seed)
    scores = {
        name: noisy(utilities, noise, 1000 + 3 * seed + i)
        for i, (name, noise) in enumerate(zip(METHODS, (0.7, 0.8, 1e9), strict=True))
    }
    if permuted:
        rng = np.random.default_rng(seed + 9)
        scores = {name: rng.permuted(values, axis=1) for name, values in scores.items()}
    return scored(study(METHODS), utilities, scores)


@pytest.fixture(scope="module")
def swept() -> pl.DataFrame:
    return sweep_rows(three_verifiers(), None)


def test_every_verification_and_ensemble_under_both_rules_at_every_cut(swept: pl.DataFrame) -> None:
    names = set(swept.select("kind", "verification", "rule").unique().iter_rows())
    singles = [("verification", "multiple_choice"), ("verification", "log_likelihood"), ("bound", "random")]
    assert names == {
        *((*single, rule) for single in singles for rule in ("quantile", "threshold")),
        *(("ensemble", name, rule) for name in ("and", "or") for rule in ("quantile", "threshold")),
        *(("ensemble", name, "quantile") for name in ("mean_rank", "agreement")),
    }
    assert swept.height == len(names) * len(QUANTILES)
    TABLES["threshold_sweep"].checked(TABLES["threshold_sweep"].filled(swept))
    assert swept.filter("is_chosen").height == len(names)


def test_gaps_equal_the_estimator_on_the_same_weights(swept: pl.DataFrame) -> None:
    samples = three_verifiers()
    scores = samples.scores["multiple_choice"]
    row = swept.row(
        by_predicate=(pl.col("verification") == "multiple_choice")
        & (pl.col("rule") == "quantile")
        & (pl.col("quantile") == 0.7),
        named=True,
    )
    weights = quantile_weights(scores, samples.offsets, 0.7)
    expected = estimate_gap(samples.utilities, weights, samples.offsets)
    for name in ("gap", "relative_gap", "pooled_gap", "coverage", "retained"):
        assert row[name] == pytest.approx(getattr(expected, name))
    # Two constructions of one interval: t over prompts, and the bootstrap of prompts.
    for end in ("low", "high"):
        for name in ("gap", "relative_gap"):
            assert row[f"{name}_{end}"] == pytest.approx(getattr(expected, f"{name}_{end}"), abs=0.01)


def test_intervals_of_ratios_over_all_prompts_are_those_of_the_bootstrap(swept: pl.DataFrame) -> None:
    """A global threshold keeps all of some prompts and nothing of others."""
    samples = three_verifiers()
    u, offsets = samples.utilities, samples.offsets
    for row in swept.filter(
        pl.col("verification") == "multiple_choice", pl.col("rule") == "threshold", pl.col("quantile") > 0.5
    ).iter_rows(named=True):
        kept = samples.scores["multiple_choice"] >= row["threshold"]
        columns = [sum_per_prompt(values, offsets) for values in (kept * u, kept, u, np.ones(len(u)))]
        hits, stays, right, all_samples = resampled_sums(np.column_stack(columns), 1000, 0).T
        covered = (columns[1] > 0).astype(float)
        for name, draws in (
            ("pooled_gap", hits / stays - right / all_samples),
            ("retained", stays / all_samples),
            ("coverage", resampled_sums(covered[:, None], 1000, 0)[:, 0] / len(covered)),
        ):
            ends = np.quantile(draws, [0.025, 0.975])
            assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(ends, abs=0.006), name


def test_two_verifiers_together_beat_either_alone(swept: pl.DataFrame) -> None:
    scoring = {
        row["verification"]: row["scoring_gap"]
        for row in swept.filter("is_chosen", pl.col("rule") == "quantile").iter_rows(named=True)
    }
    assert scoring["mean_rank"] > max(scoring["multiple_choice"], scoring["log_likelihood"])
    assert abs(scoring["random"]) < 0.05


def test_real_gaps_survive_holm_and_noise_does_not(swept: pl.DataFrame) -> None:
    tested = swept.filter(pl.col("kind") != "bound")
    assert tested["num_tests"].unique().to_list() == [tested.height]
    assert tested.filter("is_chosen")["p_holm"].max() < 0.001
    assert swept.filter(pl.col("kind") == "bound")["p_holm"].null_count() == 18
    assert (tested["p_holm"] >= tested["p_value"]).all()


def test_permuted_scores_find_nothing_after_holm_in_any_of_eight_studies() -> None:
    """Wrong by construction; unadjusted, most of the eight families of 72 tests hold a p below .05."""
    plain, adjusted = 0, 0
    for seed in range(8):
        rows = sweep_rows(three_verifiers(100, seed=100 + seed, permuted=True), None)
        plain += rows.filter(pl.col("kind") != "bound")["p_value"].min() < 0.05
        adjusted += rows["p_holm"].min() < 0.05
    assert plain >= 4
    assert adjusted <= 1


def test_the_gap_where_it_was_chosen_flatters_noise() -> None:
    chosen, scored_on = [], []
    for seed in range(12):
        rows = sweep_rows(three_verifiers(40, seed=200 + seed, permuted=True), None).filter("is_chosen")
        chosen.append(rows["choosing_gap"].mean())
        scored_on.append(rows["scoring_gap"].mean())
    assert np.mean(chosen) > 0.03
    assert abs(np.mean(scored_on)) < 0.03


def test_halves_are_halves_and_the_same_in_every_iteration() -> None:
    half = choosing_half(101, seed=4)
    assert half.sum() == 50
    np.testing.assert_array_equal(half, choosing_half(101, seed=4))
    assert (half != choosing_half(101, seed=5)).any()


@pytest.mark.parametrize("on_unparsed", ["reject", "neutral"])
def test_scoring_prompts_have_no_part_in_where_a_threshold_lies(on_unparsed: str) -> None:
    of = study([{"method": "multiple_choice", "on_unparsed": on_unparsed}, "log_likelihood"])
    utilities, scores = drawn(60, 8, 3), noisy(drawn(60, 8, 3), 0.7, 4)
    half = choosing_half(60, of.seed)
    scores[np.flatnonzero(half)[:3]] = np.nan  # of these nothing was read

    def chosen_of(values: np.ndarray) -> pl.DataFrame:
        both = {"multiple_choice": values, "log_likelihood": noisy(utilities, 0.7, 5)}
        return sweep_rows(scored(of, utilities, both), None).filter(pl.col("rule") == "threshold")

    before = chosen_of(scores)
    taus = np.quantile(scores[half][~np.isnan(scores[half])], QUANTILES, method="inverted_cdf")
    of_one = before.filter(pl.col("verification") == "multiple_choice")
    np.testing.assert_allclose(of_one["threshold"].to_numpy(), taus)
    moved = np.where(half[:, None], scores, scores + 5.0)
    after = chosen_of(moved)
    for column in ("threshold", "choosing_gap", "is_chosen"):
        assert after[column].to_list() == before[column].to_list()
    assert after["scoring_gap"].to_list() != before["scoring_gap"].to_list()


def test_under_pooled_neither_half_knows_the_utilities_of_the_other() -> None:
    of = study(weighting={"rule": "threshold", "tau": 0.0, "no_survivors": "pooled"})
    utilities, half = drawn(60, 8, 3), choosing_half(60, of.seed)[:, None]
    scores = {"multiple_choice": noisy(utilities, 0.7, 4)}
    before, others, own = (
        sweep_rows(scored(of, np.where(flipped, 1.0 - utilities, utilities), scores), None)
        for flipped in (np.zeros_like(half), ~half, half)
    )
    assert before["coverage"].min() < 0.9
    on_choosing, on_scoring = ["choosing_gap", "is_chosen"], ["scoring_gap", "scoring_gap_high", "p_value"]
    assert others.select(on_choosing).equals(before.select(on_choosing))
    assert not others.select(on_scoring).equals(before.select(on_scoring))
    assert own.select(on_scoring).equals(before.select(on_scoring))
    assert not own.select(on_choosing).equals(before.select(on_choosing))


def test_two_prompts_with_equal_gaps_survive_no_adjustment() -> None:
    """Tau = 1 keeps the right one of two answers of 5 + 2 prompts, and nothing of the other 33."""
    of = study(weighting={"rule": "threshold", "tau": 0.0, "no_survivors": "skip"})
    half = choosing_half(40, of.seed)
    scores = np.zeros((40, 2))
    scores[[*np.flatnonzero(half)[:5], *np.flatnonzero(~half)[:2]], 0] = 1.0
    rows = sweep_rows(scored(of, np.tile([1.0, 0.0], (40, 1)), {"multiple_choice": scores}), None)
    row = rows.filter(pl.col("threshold") == 1.0).row(0, named=True)
    assert (row["scoring_gap"], row["num_scoring_prompts"]) == (0.5, 2)
    assert (row["p_value"], row["p_holm"]) == (None, None)
    assert rows["p_holm"].min() > 0.05


@pytest.mark.parametrize(("no_survivors", "saturated"), [("skip", "zero"), ("pooled", "skip")])
def test_gaps_follow_the_conventions_of_the_study(no_survivors: str, saturated: str) -> None:
    """Scores that reject whole prompts, and prompts that are all right."""
    rule = {"rule": "threshold", "tau": 0.0, "no_survivors": no_survivors}
    of = study(weighting=rule, analysis={"num_resamples": 1000, "saturated": saturated})
    utilities = drawn(80, 4, 5)
    samples = scored(of, utilities, {"multiple_choice": noisy(utilities, 0.7, 6)})
    rows = sweep_rows(samples, None).filter(pl.col("rule") == "threshold")
    for row in rows.iter_rows(named=True):
        kept = (samples.scores["multiple_choice"] >= row["threshold"]).astype(float)
        estimate = samples.estimate(kept)
        for name in ("gap", "relative_gap", "pooled_gap", "coverage", "retained"):
            assert row[name] == pytest.approx(getattr(estimate, name)), (row["quantile"], name)
    assert rows["coverage"].min() < 0.9


def test_training_rows_that_enter_and_leave() -> None:
    """Scores 1..10 of one prompt, the study keeps the upper quarter: 8, 9, 10 (position 6.75)."""
    of = study(("multiple_choice",), weighting={"rule": "quantile", "q": 0.75})
    scores = {"multiple_choice": np.arange(1.0, 11.0)[None, :]}
    utilities = (np.arange(10) % 2).astype(float)[None, :]
    train = scored(of, utilities, scores, split="train")
    # Two evaluation prompts: on one of them tau is a quantile.
    held_out = scored(
        of, np.tile(utilities, (2, 1)), {"multiple_choice": np.tile(np.arange(1.0, 11.0), (2, 1))}
    )
    rows = sweep_rows(held_out, train)

    def exchanged(rule: str, quantile: float) -> tuple[int, int, int]:
        row = rows.row(by_predicate=(pl.col("rule") == rule) & (pl.col("quantile") == quantile), named=True)
        return row["rows_entering"], row["rows_leaving"], row["rows_staying"]

    assert exchanged("quantile", 0.9) == (0, 2, 1)  # position 8.1: 10 alone
    assert exchanged("quantile", 0.5) == (2, 0, 3)  # position 4.5: 6..10
    assert exchanged("threshold", 0.3) == (5, 0, 3)  # tau = 3: 3..10


def test_no_survivors_ties_saturated_and_ungraded_prompts_pass_through() -> None:
    """All rejected (unparsed), all tied, all right, and one not graded at all."""
    utilities = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1], [np.nan] * 4])
    scores = np.array([[np.nan] * 4, [0.5] * 4, [0.1, 0.2, 0.3, 0.4], [1.0, 2, 3, 4]])
    rows = sweep_rows(scored(study(), utilities, {"multiple_choice": scores}), None)
    at_half = rows.filter((pl.col("rule") == "quantile") & (pl.col("quantile") == 0.5)).row(0, named=True)
    assert at_half["gap"] == 0.0
    assert at_half["coverage"] == pytest.approx(2 / 3)  # of the three prompts that were graded
    assert at_half["retained"] == pytest.approx((0 + 4 + 2) / 12)
    assert at_half["relative_gap"] == 0.0


def test_only_chosen_cuts_are_shown_as_text(swept: pl.DataFrame) -> None:
    table = shown(swept)
    assert len(table) == swept.filter("is_chosen").height
    assert {"verification", "rule", "chosen cut", "p (Holm)", "prompts there"} <= set(table[0])
