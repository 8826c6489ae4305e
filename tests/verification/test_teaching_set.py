"""What a budget is spent on: by seed, nested, comparable, and without a look at scores."""

import polars as pl
import pytest
from verification.sums import Sums

from si_dagster.stages.teaching_set import (
    chosen_generations,
    needed_by,
    num_comparisons,
    teaching_table,
)
from si_dagster.verification.catalogue import load_method


def generations(num_prompts: int = 30, size: int = 6) -> pl.DataFrame:
    """Of the first prompt all completions are equal, of the others the first two."""
    rows = [
        (f"s/iteration_0/m|t/p{i}/{j}", f"p{i}", j, "same" if i == 0 or j < 2 else f"{j}")
        for i in range(num_prompts)
        for j in range(size)
    ]
    return pl.DataFrame(rows, ["generation_id", "prompt_id", "sample_index", "completion"], orient="row")


@pytest.mark.parametrize("budget", [2, 7, 40, 10_000])
def test_a_budget_buys_comparable_responses_and_a_smaller_one_a_part_of_them(budget: int) -> None:
    rows = generations()
    chosen = chosen_generations(rows, budget, 4, seed=1)
    assert len(chosen) == len(set(chosen)) == min(budget, 29 * 4)
    picked = rows.filter(pl.col("generation_id").is_in(chosen))
    assert "p0" not in picked["prompt_id"]
    assert picked.group_by("prompt_id").len()["len"].max() <= 4
    assert picked.select("prompt_id", "completion").is_duplicated().sum() == 0
    assert chosen_generations(rows, budget // 2, 4, seed=1) == chosen[: budget // 2]


def test_the_choice_is_the_seeds_and_not_the_orders() -> None:
    rows = generations()
    again = chosen_generations(rows.sample(fraction=1, shuffle=True, seed=3), 20, 4, seed=1)
    assert again == chosen_generations(rows, 20, 4, seed=1)
    assert again != chosen_generations(rows, 20, 4, seed=2)


def test_a_teacher_of_several_students_verifies_what_any_of_them_needs() -> None:
    rows = generations()
    lessons = [{"budget": b, "responses_per_prompt": k, "seed": 1} for b, k in ((8, 4), (40, 4), (9, 2))]
    needed = set(needed_by(rows, lessons)["generation_id"])
    assert needed == {g for lesson in lessons for g in chosen_generations(rows, **lesson)}


def test_rows_hold_the_mean_score_and_the_question_and_no_unread_one() -> None:
    rows = generations(3).with_columns(split=pl.lit("train"))
    prompts = pl.DataFrame(
        [(f"p{i}", "train", i, f"{i}+1", "never look here", f"{i}+1=", "{}") for i in range(3)],
        ["prompt_id", "split", "position", "question", "reference", "prompt", "slices"],
        orient="row",
    )
    told = rows.join(pl.DataFrame({"verification_index": [0, 1]}), how="cross").with_columns(
        verification=pl.lit("dear"),
        proxy_utility=pl.when(pl.col("sample_index") != 5).then(
            pl.col("sample_index") + 1.0 * pl.col("verification_index")
        ),
    )
    chosen = rows.filter(pl.col("prompt_id") == "p1", pl.col("sample_index") > 2)
    table = teaching_table(Sums(), "text", load_method("cheap"), prompts, chosen, told)
    assert table["sample_index"].to_list() == [3, 4]
    assert table["proxy_utility"].to_list() == [3.5, 4.5]
    assert table["num_verifications"].to_list() == [2, 2]
    assert table["question"].to_list() == ["1+1: 3; multiple_choice?", "1+1: 4; multiple_choice?"]
    assert set(table["teacher"]) == {"dear"}
    assert num_comparisons(table) == 1
