"""Every analysis on stored samples of known truth: closed forms, bounds, and what must be nothing."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from analysis.made_up import drawn, noisy, scored, stored, study

from si_dagster.analysis import (
    ablations,
    baselines,
    cross_verification,
    diversity,
    dynamics,
    other_gaps,
    scaling,
    slices,
    verifier_overlap,
    verifier_quality,
)
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.report import findings
from si_dagster.analysis.table import tells_no_spread
from si_dagster.core.ensembles import and_weights
from si_dagster.core.gap import estimate_gap
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.core.weighting import quantile_weights
from si_dagster.store.layout import ANALYSES as STAGES
from si_dagster.store.schemas import TABLES

NAMES = ("multiple_choice", "log_likelihood")
PROMPTS, SIZE = 200, 8


def two_verifiers(seed: int = 0, utilities: np.ndarray | None = None, permuted: bool = False):
    of = study(NAMES)
    u = drawn(PROMPTS, SIZE, seed) if utilities is None else utilities
    scores = {name: noisy(u, 0.7, 100 + 10 * seed + i) for i, name in enumerate(NAMES)}
    if permuted:
        rng = np.random.default_rng(seed)
        scores = {name: rng.permuted(values, axis=1) for name, values in scores.items()}
    return of, scored(of, u, scores)


def checked(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """As it would be stored."""
    table = TABLES[name].checked(TABLES[name].filled(rows))
    module = ANALYSES[name].load()
    assert (module.chart(table) is not None) == (table.height > 0) or name == "verifier_quality"
    assert bool(module.shown(table)) == (table.height > 0)
    return table


def test_catalogue_stages_and_tables_name_the_same_analyses() -> None:
    assert tuple(ANALYSES) == STAGES
    assert set(STAGES) <= set(TABLES)
    for analysis in ANALYSES.values():
        assert {"Reads:", "Writes:"} <= set(analysis.load().CARD.split())


def test_every_analysis_of_nothing_is_an_empty_table(tmp_path: Path) -> None:
    data = stored(tmp_path, study(NAMES))
    for name, analysis in ANALYSES.items():
        assert TABLES[name].checked(TABLES[name].filled(analysis.load().rows(data))).is_empty()


def test_junk_generations_score_nothing_anywhere(tmp_path: Path) -> None:
    """Wrong by construction: no answer is right, so no filter, oracle included, gains anything."""
    data = stored(tmp_path, *two_verifiers(utilities=np.zeros((60, SIZE))))
    assert set(checked("baselines", baselines.rows(data))["gap"]) == {0.0}
    meanings = checked("other_gaps", other_gaps.rows(data))
    # No pair of a right and a wrong answer exists: unknown, not chance.
    assert set(meanings["value"]) == {0.0, None}
    assert meanings.filter(pl.col("value").is_null())["meaning"].unique().to_list() == [
        "pairwise_accuracy_over_chance"
    ]
    crossed = checked("cross_verification", cross_verification.rows(data))
    assert set(crossed["gap"]) == {0.0}
    # Nothing varies, so there is no interval, which is not the same as certainty.
    told = cross_verification.shown(crossed)
    assert {row["gap"] for row in told} == {"0.000 [no spread]"}
    assert tells_no_spread(told)
    metrics = crossed.with_columns(split=pl.lit("eval"), improvement=None, update_error=None)
    assert all("no interval" in sentence for sentence in findings(metrics))


def test_permuted_scores_have_intervals_over_zero(tmp_path: Path) -> None:
    """24 intervals of 95%: more than four that miss 0 happen once in two hundred times; so for ensembles."""
    meanings = ["generation_verification_gap", "best_of_n_gap", "pairwise_accuracy_over_chance"]
    over = 0
    for seed in range(4):
        data = stored(tmp_path / str(seed), *two_verifiers(seed, permuted=True))
        rows = other_gaps.rows(data).filter(pl.col("meaning").is_in(meanings))
        assert rows.height == 6 * 3
        over += rows.filter(pl.col("value_low") < 0, pl.col("value_high") > 0).height
    assert over >= 20 * 3


def test_baselines_are_what_their_names_say(tmp_path: Path) -> None:
    of, samples = two_verifiers()
    rows = checked("baselines", baselines.rows(stored(tmp_path, of, samples)))
    found = {
        row["baseline"]: row
        for row in rows.filter(pl.col("verification") == "multiple_choice").iter_rows(named=True)
    }
    expected = samples.utilities.reshape(PROMPTS, SIZE).mean(axis=1)
    # Oracle: 1 - J wherever anything is right, 0 elsewhere.
    assert found["oracle_filter"]["gap"] == pytest.approx(np.where(expected > 0, 1 - expected, 0).mean())
    assert found["oracle_filter"]["is_oracle"]
    assert found["oracle_filter"]["advantage_high"] < 0
    assert abs(found["random_filter"]["gap"]) < 0.01
    assert found["random_filter"]["advantage_low"] > 0.1
    assert "same_cost" not in found  # no cost is told of made-up rows
    assert found["majority_vote"]["relative_cost"] is None


def test_majority_keeps_all_of_a_tie_and_never_none() -> None:
    answers = np.array([["a", "a", "b", "b", "c"], [None, None, None, "x", "y"]])
    filtered = baselines.majority_filter(scored(study(), np.zeros((2, 5)), {}, answers=answers))
    assert filtered.reshape(2, 5).tolist() == [[1, 1, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_all_generations_are_the_last_ablation_and_fewer_choose_worse(tmp_path: Path) -> None:
    of, samples = two_verifiers()
    rows = checked("ablations", ablations.rows(stored(tmp_path, of, samples)))
    of_n = rows.filter(pl.col("verification") == "multiple_choice", pl.col("factor") == "n").sort("level")
    assert of_n["level"].to_list() == [2, 4, 8]
    assert of_n["num_subsamples"].to_list() == [4, 2, 1]
    full = samples.estimate(samples.weights(of.verification[0]))
    assert of_n["gap"][-1] == pytest.approx(full.gap)
    assert of_n["relative_gap"][-1] == pytest.approx(full.relative_gap)
    assert of_n["gap"].is_sorted()


def test_more_verifications_make_a_wider_gap(tmp_path: Path) -> None:
    """Noise 2 of one verification, 1 of the mean of four."""
    of = study([{"method": "cot_binary", "num_verifications": 4}])
    u = drawn(PROMPTS, SIZE, 1)
    scores = np.stack([noisy(u, 2.0, 50 + m) for m in range(4)], axis=2)
    rows = checked("ablations", ablations.rows(stored(tmp_path, of, scored(of, u, {"cot_binary": scores}))))
    of_m = rows.filter(pl.col("factor") == "M").sort("level")
    assert of_m["level"].to_list() == [1, 2, 4]
    assert of_m["num_subsamples"].to_list() == [4, 2, 1]
    assert of_m["gap"][0] + 0.03 < of_m["gap"][-1]


ENSEMBLES = ("and", "or", "mean_rank", "agreement")


def test_ensembles_stand_beside_their_members_in_every_analysis_of_methods(tmp_path: Path) -> None:
    """Two verifiers of independent noise: each number of an ensemble is that of its weights."""
    u = drawn(100, SIZE, 0)
    own = {"name": "both", "combine": "and", "members": [{"verification": n, "q": 0.5} for n in NAMES]}
    of = study([*NAMES, "random"], ensembles=[own])
    names = (*NAMES, "random")
    samples = scored(of, u, {name: noisy(u, 0.7, 100 + i) for i, name in enumerate(names)})
    columns = [{"level": i % 2} for i in range(100)]
    data = stored(tmp_path, of, samples, slices=columns)
    everywhere = {*names, "both", *ENSEMBLES}
    for module in (cross_verification, verifier_quality, ablations, slices, other_gaps):
        rows = checked(module.__name__.rpartition(".")[2], module.rows(data))
        assert set(rows["verification"]) == everywhere, module
    swept = ANALYSES["threshold_sweep"].load().rows(data)
    assert set(swept["verification"]) == everywhere
    beside = checked("baselines", baselines.rows(data))
    assert set(beside["verification"]) == everywhere - {"random"}
    pairs = checked("verifier_overlap", verifier_overlap.rows(data))
    assert pairs.height == 3 + 3 * 5  # verifications with each other, and with every ensemble
    gaps = dict(cross_verification.rows(data).select("verification", "gap").rows())
    best = [samples.scores[name] for name in NAMES]
    kept = and_weights([quantile_weights(scores, samples.offsets, 0.5) for scores in best])
    assert gaps["both"] == pytest.approx(samples.estimate(kept).gap)
    assert gaps["mean_rank"] > max(gaps[name] for name in NAMES)
    by_n = ablations.rows(data).filter(pl.col("verification") == "mean_rank").sort("level")["gap"].to_list()
    assert by_n[-1] == pytest.approx(gaps["mean_rank"])
    assert by_n[0] < by_n[-1]
    lone = scored(study(), u, {"multiple_choice": best[0].reshape(u.shape)})
    assert lone.ensembles == []  # of one there is none


def test_slices_put_together_are_the_whole(tmp_path: Path) -> None:
    of, samples = two_verifiers()
    columns = [{"level": 1 + i % 3, "clues": i, "note": f"n{i}"} for i in range(PROMPTS)]
    rows = checked("slices", slices.rows(stored(tmp_path, of, samples, slices=columns)))
    assert set(rows["column"]) == {"level", "clues"}  # a note a prompt is no slice
    for column, num_values in (("level", 3), ("clues", 4)):
        part = rows.filter(pl.col("column") == column, pl.col("verification") == "multiple_choice")
        assert part.height == num_values
        assert part["num_prompts"].sum() == PROMPTS
        whole = (part["gap"] * part["num_prompts"]).sum() / PROMPTS
        assert whole == pytest.approx(samples.estimate(samples.weights(of.verification[0])).gap)


def test_a_slice_is_the_estimate_on_its_prompts_alone(tmp_path: Path) -> None:
    of, samples = two_verifiers()
    columns = [{"level": "easy" if i < 50 else "hard"} for i in range(PROMPTS)]
    row = slices.rows(stored(tmp_path, of, samples, slices=columns)).row(0, named=True)
    weights = samples.weights(of.verification[0])[: 50 * SIZE]
    alone = estimate_gap(samples.utilities[: 50 * SIZE], weights, samples.offsets[:51])
    assert (row["value"], row["num_prompts"]) == ("easy", 50)
    assert row["gap"] == pytest.approx(alone.gap)
    assert row["relative_gap"] == pytest.approx(alone.relative_gap)


def test_other_gaps_by_their_definitions(tmp_path: Path) -> None:
    of, samples = two_verifiers()
    rows = checked("other_gaps", other_gaps.rows(stored(tmp_path, of, samples)))
    value = {
        row["meaning"]: row["value"]
        for row in rows.filter(pl.col("verification") == "multiple_choice").iter_rows(named=True)
    }
    u = samples.utilities.reshape(PROMPTS, SIZE)
    best = np.take_along_axis(
        u, samples.scores["multiple_choice"].reshape(PROMPTS, SIZE).argmax(axis=1)[:, None], axis=1
    )
    assert value["best_of_n_gap"] == pytest.approx(best.mean() - u.mean())
    assert value["pass_at_n_minus_expected"] == pytest.approx(u.max(axis=1).mean() - u.mean())
    assert value["pass_at_n_minus_selected"] == pytest.approx(u.max(axis=1).mean() - best.mean())
    auroc = auroc_per_prompt(samples.utilities, samples.scores["multiple_choice"], samples.offsets)
    assert value["pairwise_accuracy_over_chance"] == pytest.approx(np.nanmean(auroc) - 0.5)
    estimate = samples.estimate(samples.weights(of.verification[0]))
    assert value["generation_verification_gap"] == pytest.approx(estimate.gap)
    assert value["pooled_gap"] == pytest.approx(estimate.pooled_gap)


def test_difficulty_takes_the_gap_apart_and_saturated_prompts_have_none(tmp_path: Path) -> None:
    u = drawn(PROMPTS, SIZE, 0)
    u[:20], u[20:40] = 0.0, 1.0
    of, samples = two_verifiers(utilities=u)
    rows = checked("verifier_quality", verifier_quality.rows(stored(tmp_path, of, samples)))
    mine = rows.filter(pl.col("verification") == "multiple_choice").sort("difficulty_rank")
    assert mine["difficulty"].to_list() == [
        *("all", "J=0", "0<J<0.25", "0.25<=J<0.5", "0.5<=J<0.75", "0.75<=J<1", "J=1")
    ]
    parts = mine.filter(pl.col("difficulty") != "all")
    assert parts["num_prompts"].sum() == PROMPTS
    assert parts.filter(pl.col("difficulty").is_in(["J=0", "J=1"]))["gap"].to_list() == [0.0, 0.0]
    assert (parts["gap"] * parts["num_prompts"]).sum() / PROMPTS == pytest.approx(mine["gap"][0])
    assert mine["calibration_error"].is_null().all()  # scores leave [0, 1]


def test_overlap_of_a_verifier_with_itself_and_with_a_stranger(tmp_path: Path) -> None:
    of = study(("multiple_choice", "log_likelihood", "random"))
    u = drawn(PROMPTS, SIZE, 0)
    scores = noisy(u, 0.5, 1)
    strange = np.random.default_rng(5).random(u.shape)
    samples = scored(of, u, {"multiple_choice": scores, "log_likelihood": 2 * scores, "random": strange})
    rows = checked("verifier_overlap", verifier_overlap.rows(stored(tmp_path, of, samples)))
    by_pair = {(row["verification"], row["other"]): row for row in rows.iter_rows(named=True)}
    same, stranger = by_pair["multiple_choice", "log_likelihood"], by_pair["multiple_choice", "random"]
    assert [
        same[name] for name in ("pearson", "spearman", "spearman_per_prompt", "jaccard")
    ] == pytest.approx([1.0] * 4)
    assert stranger["pearson_low"] < 0 < stranger["pearson_high"]
    assert stranger["jaccard_low"] < stranger["jaccard_by_chance"] < stranger["jaccard_high"]


def iterations(accuracies: list[np.ndarray]):
    """One policy an iteration, with given utilities, on the same prompts."""
    of = study(("multiple_choice",), iterations=max(len(accuracies) - 1, 1))
    return of, [
        scored(of, u, {"multiple_choice": noisy(u, 0.5, 7 * t)}, iteration=t)
        for t, u in enumerate(accuracies)
    ]


def test_a_policy_that_gains_at_one_and_loses_at_many_crosses_and_is_told(tmp_path: Path) -> None:
    """Base: .4 on every prompt. Later: always right on .55 of the prompts, never on the others."""
    sure = np.repeat((np.arange(300) < 165)[:, None], 8, axis=1).astype(float)
    of, policies = iterations([drawn(300, 8, 1, accuracy=0.4), sure])
    rows = checked("diversity", diversity.rows(stored(tmp_path, of, *policies)))
    at_k = {
        row["k"]: row
        for row in rows.filter(pl.col("iteration") == 1, pl.col("measure") == "pass_at_k").iter_rows(
            named=True
        )
    }
    assert at_k[1]["over_base_low"] > 0  # .55 against .4
    assert at_k[8]["over_base_high"] < 0  # .55 against 1 - .6^8 = .98
    # 1 - .6^k passes .55 between k = 1 (.4) and k = 2 (.64).
    crossing = rows.filter(pl.col("measure") == "crossing_k").row(0, named=True)
    assert (crossing["value"], crossing["value_high"]) == (2.0, 2.0)
    told = diversity.collapsed(rows)
    assert len(told) == 2
    assert "pass@8" in told[0] + told[1]
    assert "answer_entropy" in told[0] + told[1]


def test_an_unchanged_policy_has_not_collapsed(tmp_path: Path) -> None:
    of, policies = iterations([drawn(200, 8, 1, accuracy=0.4), drawn(200, 8, 2, accuracy=0.4)])
    rows = checked("diversity", diversity.rows(stored(tmp_path, of, *policies)))
    assert diversity.collapsed(rows) == []
    assert rows.filter(pl.col("iteration") == 0)["over_base"].is_null().all()


def test_dynamics_of_a_loop_that_runs_out(tmp_path: Path) -> None:
    """Prompts near 0 or 1 leave less gap in every iteration; the last is predicted from the first three."""
    rng = np.random.default_rng(0)
    chances = np.full((400, 1), 0.4)
    policies = []
    for _ in range(5):
        policies.append((rng.random((400, 8)) < chances).astype(float))
        chances = chances + 0.3 * (1 - chances)
    of, samples = iterations(policies)
    row = checked("dynamics", dynamics.rows(stored(tmp_path, of, *samples))).row(0, named=True)
    assert (row["num_fitted"], row["last_iteration"]) == (3, 4)
    assert row["initial_gap"] == pytest.approx(
        samples[0].estimate(samples[0].weights(of.verification[0])).gap, abs=0.05
    )
    assert 0.5 < row["decay"] < 1.0
    assert row["predicted_last_low"] < row["observed_last"] + 0.05
    assert row["observed_last"] == pytest.approx(samples[4].utilities.mean())
    assert row["prediction_error"] == pytest.approx(row["observed_last"] - row["predicted_last"])


def test_dynamics_need_two_iterations_on_the_same_prompts(tmp_path: Path) -> None:
    of, samples = iterations([drawn(20, 8, 0)])
    assert dynamics.rows(stored(tmp_path / "one", of, *samples)).is_empty()
    of, samples = iterations([drawn(20, 8, 0), drawn(21, 8, 0)])
    assert dynamics.rows(stored(tmp_path / "two", of, *samples)).is_empty()


def test_scaling_finds_the_slope_that_is_there_and_leaves_out_models_without_flops(tmp_path: Path) -> None:
    """Verifiers whose noise falls with FLOPs, on policies that are all right half of the time."""
    models = [
        {"name": f"m{i}", "path": f"m{i}", "family": "made", "pretraining_flops": 10.0 ** (18 + i)}
        for i in range(4)
    ]
    of = study(("multiple_choice",), models=[*models, {"name": "unknown", "path": "u"}])
    policies = []
    for i in range(5):
        u = drawn(PROMPTS, SIZE, i, accuracy=0.5)
        scores = {"multiple_choice": noisy(u, 2.0 / 2**i, 30 + i)}
        policies.append(scored(of, u, scores, model=f"m{i}" if i < 4 else "unknown"))
    rows = checked("scaling", scaling.rows(stored(tmp_path, of, *policies)))
    assert set(rows["measure"]) == {"gap", "relative_gap", "tpr", "fpr"}
    by = {row["measure"]: row for row in rows.iter_rows(named=True)}
    assert by["gap"]["num_models"] == 4
    assert by["gap"]["slope_low"] > 0.03
    assert by["gap"]["kendall_tau"] == 1.0
    assert by["fpr"]["slope"] < 0
    assert (by["gap"]["min_log10_flops"], by["gap"]["max_log10_flops"]) == (18.0, 21.0)


def test_cross_verification_pairs_another_verifier_with_oneself(tmp_path: Path) -> None:
    of = study(
        ["multiple_choice", {"method": "multiple_choice", "verifier": "large"}],
        models=[{"name": "pico", "pretrain": {}}, {"name": "large", "pretrain": {}}],
    )
    u = drawn(PROMPTS, SIZE, 0)
    scores = {"multiple_choice": noisy(u, 3.0, 1), "multiple_choice-by-large": noisy(u, 0.3, 2)}
    rows = checked("cross_verification", cross_verification.rows(stored(tmp_path, of, scored(of, u, scores))))
    assert rows.filter(pl.col("verifier") == "ensemble")["over_self"].null_count() == 4
    single = rows.filter(pl.col("verifier") != "ensemble")
    own, large = single.sort("verifier", descending=True).iter_rows(named=True)
    assert (own["verifier"], large["verifier"]) == ("self", "large")
    assert own["over_self"] is None
    assert large["over_self"] == pytest.approx(large["gap"] - own["gap"])
    assert large["over_self_low"] > 0.1


def test_a_loop_weighted_by_an_ensemble_has_its_dynamics_and_training_rows(tmp_path: Path) -> None:
    of = study(
        NAMES,
        iterations=1,
        ensembles=[{"name": "both", "combine": "and", "members": list(NAMES)}],
        weighting={"verification": "both", "rule": "quantile", "q": 0.5},
    )
    policies = []
    for iteration in range(2):
        u = drawn(60, SIZE, iteration)
        scores = {name: noisy(u, 0.7, 20 * iteration + i) for i, name in enumerate(NAMES)}
        policies += [
            scored(of, u, scores, iteration=iteration, split=split)
            for split in ("eval", "train")
            if split == "eval" or iteration == 0
        ]
    data = stored(tmp_path, of, *policies)
    assert checked("dynamics", dynamics.rows(data))["verification"].to_list() == ["both"]
    swept = ANALYSES["threshold_sweep"].load().rows(data)
    same = swept.filter(
        pl.col("iteration") == 0,
        pl.col("verification") == "and",
        pl.col("rule") == "quantile",
        pl.col("quantile") == 0.5,
    )
    assert same.select("rows_entering", "rows_leaving").rows() == [(0, 0)]
    assert same["rows_staying"][0] > 0
