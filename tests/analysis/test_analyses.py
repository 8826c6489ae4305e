"""Every analysis on stored samples of known truth: closed forms, bounds, and what must be nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from analysis.made_up import drawn, noisy, scored, stored, study
from verification.sums import Sums, comparing

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
from si_dagster.core.diversity import vote_shares
from si_dagster.core.ensembles import and_weights
from si_dagster.core.gap import estimate_gap
from si_dagster.core.verifier_quality import auroc_per_prompt
from si_dagster.core.weighting import quantile_weights
from si_dagster.store.layout import ANALYSES as STAGES
from si_dagster.store.schemas import TABLES
from si_dagster.tasks.base import TaskRow
from si_dagster.verification.base import Batch, Item, Judgement
from si_dagster.verification.catalogue import load_method

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
    assert set(meanings.filter(pl.col("value").is_null())["meaning"]) == {"auroc_over_chance"}
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
    meanings = ["generation_verification_gap", "best_of_n_gap", "auroc_over_chance"]
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


@pytest.mark.parametrize(("cost", "affordable"), [(1.0, 4), (10.0, None)])
def test_a_verification_is_held_against_what_its_cost_would_buy(
    cost: float, affordable: int | None, tmp_path: Path
) -> None:
    """Verifying costs what generating does: 4 of 8 generations are left, against a majority vote of all 8."""
    of, samples = two_verifiers()
    data = stored(tmp_path, of, samples, flops={"generations": 1e9, NAMES[0]: cost * 1e9})
    rows = checked("baselines", baselines.rows(data))
    found = {row["baseline"]: row for row in rows.filter(pl.col("verification") == NAMES[0]).to_dicts()}
    assert found["majority_vote"]["relative_cost"] == cost
    if affordable is None:  # not one generation could be verified for that
        assert "same_cost" not in found
        assert found["majority_vote"]["same_cost_advantage"] is None
        return
    fewer = ablations.subsampled_gap(samples, of.verification[0], affordable).gap
    same = found["same_cost"]
    assert (same["num_generations"], same["same_cost_advantage"]) == (affordable, None)
    assert same["gap"] == pytest.approx(fewer.mean())
    for name in ("majority_vote", "random_filter", "oracle_filter"):
        row = found[name]
        assert row["num_generations"] == SIZE
        assert row["same_cost_advantage"] == pytest.approx(fewer.mean() - row["gap"])
        assert row["same_cost_advantage_low"] < row["same_cost_advantage"] < row["same_cost_advantage_high"]
    # Fewer to choose from is worse, and still better than choosing by lot.
    assert found["random_filter"]["advantage"] > found["random_filter"]["same_cost_advantage"]
    assert found["random_filter"]["same_cost_advantage_low"] > 0.05
    assert "-" not in {
        row["at the same cost"]
        for row in baselines.shown(rows)
        if row["baseline"] == "majority_vote" and row["verification"] == NAMES[0]
    }
    others = rows.filter(pl.col("verification") != NAMES[0])
    assert others["same_cost_advantage"].null_count() == others.height  # of those no cost is told


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


def test_prompts_are_read_once_however_few_generations_are_drawn(tmp_path: Path) -> None:
    """Half of what is computed are prompts (60 tokens less 10 cached, 50 drawn): 8 · .5 / 1.5 = 2.67."""
    of, samples = two_verifiers()
    tokens = {"prompt_tokens": 60, "cached_tokens": 10, "completion_tokens": 50}
    data = stored(tmp_path, of, samples, flops={"generations": 1e9, NAMES[0]: 1e9}, tokens=tokens)
    rows = baselines.rows(data).filter(pl.col("baseline") == "same_cost")
    assert rows.select("verification", "num_generations").rows() == [(NAMES[0], 2)]


def test_fewer_votes_are_counted_anew_and_fewer_in_a_tournament_are_unknown(tmp_path: Path) -> None:
    """Of two answers each has one vote, or both have two: all tie, and nothing is chosen."""
    of = study(("majority_vote", "tournament", "multiple_choice"))
    u = drawn(PROMPTS, SIZE, 0)
    bare = scored(of, u, {})
    votes = vote_shares(bare.policy.answers, bare.offsets).reshape(u.shape)
    others = {name: noisy(u, 0.7, i) for i, name in enumerate(("tournament", "multiple_choice"))}
    samples = scored(of, u, {"majority_vote": votes, **others})
    flops = {"generations": 1e9, "tournament": 1e9, "multiple_choice": 1e9}
    data = stored(tmp_path, of, samples, flops=flops)
    by_n = checked("ablations", ablations.rows(data))
    levels = {name: rows["level"].to_list() for (name,), rows in by_n.group_by("verification")}
    with_matches = {name: [SIZE] for name in ("tournament", *ENSEMBLES)}
    assert levels == {"majority_vote": [2, 4, 8], "multiple_choice": [2, 4, 8], **with_matches}
    of_votes = by_n.filter(pl.col("verification") == "majority_vote").sort("level")
    assert of_votes.select("gap", "gap_low", "gap_high").row(0) == (0.0, 0.0, 0.0)
    assert of_votes["gap"][-1] == pytest.approx(samples.estimate(samples.weights(of.verification[0])).gap)
    beside = checked("baselines", baselines.rows(data))
    # Counting votes costs nothing, in an ensemble as alone.
    costs = dict(beside.select("verification", "relative_cost").unique().rows())
    asked_twice = dict.fromkeys(ENSEMBLES, 2.0)
    assert costs == {"majority_vote": 0.0, "tournament": 1.0, "multiple_choice": 1.0, **asked_twice}
    same = beside.filter(pl.col("baseline") == "same_cost").select("verification", "num_generations")
    assert dict(same.rows()) == {"majority_vote": 8, "multiple_choice": 4}


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
    assert value["auroc_over_chance"] == pytest.approx(np.nanmean(auroc) - 0.5)
    estimate = samples.estimate(samples.weights(of.verification[0]))
    assert value["generation_verification_gap"] == pytest.approx(estimate.gap)
    assert value["pooled_gap"] == pytest.approx(estimate.pooled_gap)


def test_an_ungraded_answer_takes_no_prompt_from_what_is_left_on_the_table(tmp_path: Path) -> None:
    """Prompt 0: one right of three graded, the best score on one without a grade; prompt 1: two of four."""
    u = np.array([[1.0, 0.0, np.nan, 0.0], [0.0, 0.0, 1.0, 1.0]])
    scores = np.array([[0.5, 0.1, 0.9, 0.2], [0.9, 0.1, 0.2, 0.3]])
    of = study()
    data = stored(tmp_path, of, scored(of, u, {"multiple_choice": scores}))
    value = dict(checked("other_gaps", other_gaps.rows(data)).select("meaning", "value").rows())
    # J = 1/3 and 1/2; pass@3 and pass@4 are 1; the best-scored graded answers are right and wrong.
    assert value["pass_at_n_minus_expected"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert value["best_of_n_gap"] == pytest.approx((2 / 3 - 1 / 2) / 2)
    assert value["pass_at_n_minus_selected"] == pytest.approx(1 / 2)
    # Votes: three answers of one vote each, of which one is right; two for the right one.
    assert value["majority_minus_expected"] == pytest.approx((0 + 1 / 2) / 2)
    told = checked("diversity", diversity.rows(data)).filter(pl.col("measure") == "pass_at_k").sort("k")
    assert told["num_prompts"].to_list() == [2, 2, 2, 1]


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
    inner = parts.filter(~pl.col("difficulty").is_in(["J=0", "J=1"]))
    for name in ("gap", "tpr", "fpr", "auroc_per_prompt", "mean_proxy_utility"):
        between = pl.col(f"{name}_low").lt(pl.col(name)) & pl.col(name).lt(pl.col(f"{name}_high"))
        assert inner.select(between.all()).item(), name
    told = verifier_quality.shown(rows)[0]
    assert all("[" in told[heading] for heading in ("J", "gap", "TPR", "FPR", "AUROC"))


@pytest.mark.parametrize("no_survivors", ["identity", "skip", "pooled"])
def test_the_gap_of_all_prompts_is_that_of_gap_metrics_by_any_convention(
    no_survivors: str, tmp_path: Path
) -> None:
    rule = {"rule": "threshold", "tau": 1.2, "no_survivors": no_survivors}
    of = study(("cot_score",), weighting=rule)
    u = drawn(60, SIZE, 0)
    samples = scored(of, u, {"cot_score": noisy(u, 0.7, 1)})
    rows = checked("verifier_quality", verifier_quality.rows(stored(tmp_path, of, samples)))
    whole = rows.filter(pl.col("difficulty") == "all").row(0, named=True)
    estimate = samples.estimate(samples.weights(of.verification[0]))
    # Ranges hold what `pooled` puts in fixed over resamples.
    ends = () if no_survivors == "pooled" else ("gap_low", "gap_high")
    for name in ("gap", *ends, "coverage", "expected_utility_low"):
        assert whole[name] == pytest.approx(getattr(estimate, name))
    assert whole["coverage"] < 0.9


def test_only_scores_that_are_probabilities_have_a_calibration(tmp_path: Path) -> None:
    """All marks 1, all tournaments lost or won once: in [0, 1], and no chances of anything."""
    methods = ("multiple_choice", "cot_binary", "cot_score", "tournament", "majority_vote")
    of = study(methods)
    u = drawn(20, SIZE, 0)
    scores = {name: np.ones_like(u) for name in methods} | {"tournament": (np.arange(SIZE) % 2) + 0 * u}
    rows = checked("verifier_quality", verifier_quality.rows(stored(tmp_path, of, scored(of, u, scores))))
    whole = dict(
        rows.filter(pl.col("difficulty") == "all").select("verification", "calibration_error").rows()
    )
    assert {name for name, error in whole.items() if error is not None} == {"multiple_choice", "cot_binary"}
    assert whole["multiple_choice"] == pytest.approx(1.0 - u.mean())
    assert {"mean_rank", "agreement"} < set(whole)


def matches_of(u: np.ndarray, judge: Callable[[str, str], str]) -> list[Judgement]:
    """A real tournament over answers that say whether they are right."""
    prefix = "made_up/iteration_0/pico|sudoku4/eval-"
    rows = [TaskRow(f"eval-{i:05d}", "eval", f"{i}", "") for i in range(len(u))]
    items = [
        Item(f"{prefix}{i:05d}/{j}", rows[i], f"{'right' if u[i, j] else 'wrong'} {j}")
        for i, j in np.ndindex(*u.shape)
    ]
    return load_method("tournament").verify(Batch(Sums(), "text", items, comparing(items, judge)))


def test_match_accuracy_is_counted_in_the_matches_that_were_played(tmp_path: Path) -> None:
    def right(first: str, second: str) -> str:
        return "Winner: A" if first < second else "Winner: B"  # "right" is before "wrong"

    def sometimes(first: str, second: str) -> str:
        """Reads nothing where an answer ends in 7, errs where one ends in 3."""
        if "7" in first + second:
            return "hard to say"
        return right(second, first) if "3" in first + second else right(first, second)

    u, of = drawn(40, SIZE, 2), study(("tournament", "multiple_choice"))
    found = {}
    for judge in (right, sometimes, lambda first, second: "Winner: A", lambda first, second: "?"):
        played = matches_of(u, judge)
        scores = {"tournament": np.array([float(j.proxy_utility or 0) for j in played]).reshape(u.shape)}
        samples = scored(of, u, scores | {"multiple_choice": noisy(u, 1.0, 0)})
        home = tmp_path / str(len(found))
        data = stored(home, of, samples, replies={"tournament": [j.reply for j in played]})
        rows = checked("other_gaps", other_gaps.rows(data))
        of_matches = rows.filter(pl.col("meaning") == "match_accuracy_over_chance")
        assert of_matches["verification"].to_list() == ["tournament"]  # the only judge of pairs
        found[len(found)] = of_matches.row(0, named=True)
        if judge is sometimes:
            matches = {
                (m["round"], m["A"], m["B"]): m
                for j in played
                for m in json.loads(j.reply)
                if m["by"] == "verifier"
            }
            utility = {j.generation_id: value for j, value in zip(played, u.ravel(), strict=True)}
            won = [
                utility[m["A"]] == (m["winner"] == "A")
                for m in matches.values()
                if utility[m["A"]] != utility[m["B"]]
            ]
    perfect, erring, first, unread = found.values()
    assert perfect["value"] == 0.5
    assert 0.05 < np.mean(won) - 0.5 < 0.45
    assert erring["value"] == pytest.approx(np.mean(won) - 0.5)
    assert erring["value_low"] < erring["value"] < erring["value_high"]
    assert first["value_low"] < 0.0 < first["value_high"]  # who stands first says nothing of who is right
    assert unread["value"] is None


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
    assert stranger["spearman_per_prompt_low"] < 0 < stranger["spearman_per_prompt_high"]
    # Of each prompt both keep 2 of 8: 4/8 in both, 4 - 4/8 in either, whichever prompts are drawn.
    assert {stranger[f"jaccard_by_chance{end}"] for end in ("", "_low", "_high")} == {1 / 7}


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
    for row in rows.iter_rows(named=True):
        assert all(low < value < high for _, _, value, low, high in json.loads(row["points"])), row["measure"]


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
    assert own["auroc_per_prompt_high"] < large["auroc_per_prompt_low"]  # noise of 3 and of .3


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
