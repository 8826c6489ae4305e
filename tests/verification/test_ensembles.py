"""Ensembles of a study: what they keep, what they read, and that they move nothing that is stored."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from si_dagster.core.ensembles import agreement_scores, mean_rank_scores
from si_dagster.plan import SUMMARIES, Plan
from si_dagster.stages.weighting import weighted_scores
from si_dagster.study import Study, StudyError, parse_study

OFFSETS = np.array([0, 4, 8])


def study(ensembles: list[dict[str, Any]], **fields: Any) -> Study:
    """A study of three verifications, the last neutral about what it cannot read."""
    data = {
        "name": "s",
        "tasks": [{"name": "sudoku4"}],
        "models": [{"name": "m", "path": "somewhere"}],
        "splits": {"train": 2, "eval": 2},
        "verification": [
            "multiple_choice",
            "random",
            {"method": "log_likelihood", "name": "ll", "on_unparsed": "neutral"},
        ],
        "ensembles": ensembles,
        "weighting": {"rule": "threshold", "tau": 0.5},
    }
    return parse_study({**data, **fields}, "test")


def table(scores: list[float | None]) -> pl.DataFrame:
    """Stored verifications of two prompts with four generations each."""
    keys = [(f"p{i // 4}/{i % 4}", f"p{i // 4}", i % 4, 0) for i in range(8)]
    columns = ["generation_id", "prompt_id", "sample_index", "verification_index"]
    return pl.DataFrame(keys, schema=columns, orient="row").with_columns(
        proxy_utility=pl.Series(scores, dtype=pl.Float64)
    )


TABLES = {
    "multiple_choice": table([0.9, 0.6, 0.1, None, 0.2, 0.3, 0.4, 0.45]),
    "random": table([0.7, 0.2, 0.8, 0.9, 0.6, 0.1, 0.1, 0.1]),
    "ll": table([-1.0, -2.0, None, -3.0, -1.0, -1.0, -5.0, -4.0]),
}


def scored(ensemble: dict[str, Any], **fields: Any) -> pl.DataFrame:
    made = study([{"name": "e", **ensemble}], **fields)
    return weighted_scores(made, made.scorer_named("e"), TABLES, 0)


def test_and_keeps_what_all_keep_and_or_what_any_keeps() -> None:
    members = ["multiple_choice", "random"]
    both = scored({"combine": "and", "members": members})
    assert both["weight"].to_list() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert both["proxy_utility"].to_list() == both["weight"].to_list()
    assert both["num_unparsed"].to_list() == [0, 0, 0, 1, 0, 0, 0, 0]
    either = scored({"combine": "or", "members": members})
    assert either["weight"].to_list() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_members_have_cuts_of_their_own() -> None:
    """The median of ll is -1.5 and -2.5; the null of the first prompt stands for its mean, -2."""
    members = [{"verification": "multiple_choice", "tau": 0.3}, {"verification": "ll", "q": 0.5}]
    kept = scored({"combine": "and", "members": members})["weight"].to_list()
    # ll: -1, -2, -2, -3 has the median -2, which three reach; -1, -1, -5, -4 has -2.5.
    assert kept == [1, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("combine", "function"), [("mean_rank", mean_rank_scores), ("agreement", agreement_scores)]
)
def test_scores_are_combined_and_then_weighted_by_the_rule_of_the_study(combine, function) -> None:
    rows = scored(
        {"combine": combine, "members": ["multiple_choice", "random"]},
        weighting={"rule": "best_of_n", "k": 1},
    )
    values = [TABLES[name]["proxy_utility"].to_numpy() for name in ("multiple_choice", "random")]
    expected = function(values, OFFSETS)
    assert rows["proxy_utility"].to_list() == pytest.approx(expected.tolist())
    # The generation that multiple choice could not be read on has the best rank of all from random alone.
    assert rows["weight"].to_list()[:4] == [0, 0, 0, 1]
    assert sum(rows["weight"]) == 2


def test_members_that_verified_different_generations_are_refused() -> None:
    made = study([{"name": "e", "combine": "and", "members": ["multiple_choice", "random"]}])
    with pytest.raises(ValueError, match="verified different generations"):
        weighted_scores(made, made.scorer_named("e"), {**TABLES, "random": TABLES["random"].head(4)}, 0)


@pytest.mark.parametrize(
    ("ensemble", "told"),
    [
        ({"name": "random"}, "ensembles.0.name: 'random' is a verification"),
        ({"members": ["random", "oracle"]}, "ensembles.0.members: 'oracle' is no verification of this study"),
        ({"members": ["random"]}, "ensembles.0.members: Tuple should have at least 2 items"),
        ({"members": ["random", "random"]}, "'random' is named twice"),
        (
            {"combine": "mean_rank", "members": ["random", {"verification": "ll", "q": 0.5}]},
            "no meaning here",
        ),
        ({"members": ["random", {"verification": "ll", "q": 0.5, "tau": 1}]}, "q or tau, not both"),
    ],
)
def test_a_strange_ensemble_is_refused_by_field(ensemble: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError, match=told):
        study([{"name": "e", "combine": "and", "members": ["random", "ll"], **ensemble}])


BOTH = {"name": "both", "combine": "and", "members": ["multiple_choice", "random"]}


def test_an_ensemble_moves_nothing_that_is_stored_and_has_gaps_of_its_own() -> None:
    before, after = Plan(study([])), Plan(study([BOTH]))
    changed = {a.stage for a in before.nodes if before.fingerprint(a) != after.fingerprint(a)}
    assert changed <= set(SUMMARIES)
    new = {(a.stage, a.part) for a in set(after.nodes) - set(before.nodes)}
    assert new == {("gap_metrics", "train.both"), ("gap_metrics", "eval.both")}


def test_an_ensemble_can_weight_training_and_open_the_gate() -> None:
    plan = Plan(study([BOTH], weighting={"verification": "both"}))
    kept = next(node for address, node in plan.nodes.items() if address.stage == "filtered_set")
    assert {role for role in kept.inputs if role.startswith("verifications")} == {
        "verifications.multiple_choice",
        "verifications.random",
    }
    gap = plan.nodes[plan.deciding_gap(1, ("m", "sudoku4"))]
    assert {role for role in gap.inputs if role.startswith("previous_verifications")} == {
        "previous_verifications.multiple_choice",
        "previous_verifications.random",
    }
    assert "probes" not in gap.inputs


def test_an_oracle_in_an_ensemble_trains_only_where_the_study_says_so() -> None:
    fields = {
        "verification": ["multiple_choice", "oracle"],
        "weighting": {"verification": "e"},
    }
    ensemble = {"name": "e", "combine": "or", "members": ["multiple_choice", "oracle"]}
    with pytest.raises(ValueError, match="say `oracle: true`"):
        _ = Plan(study([ensemble], **fields)).nodes
    assert Plan(study([ensemble], **fields, oracle=True)).nodes
