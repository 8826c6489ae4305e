"""Preference methods through the loop: pairs from verifications, and both sides in the lineage."""

import json
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from conftest import MINI, run_cli

from si_dagster.plan import Plan
from si_dagster.stages.filtered_set import filtered_table
from si_dagster.stages.samples import floats
from si_dagster.stages.weighting import proxy_utilities, rule_weights
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.study import StudyError, WeightingSpec, load_study

SMALL = (
    "models.0.pretrain.max_steps=100",
    "splits.train=12",
    "splits.eval=4",
    "generation.n=6",
    "distillation.replay_fraction=0",
    "distillation.method=dpo",
    "distillation.max_steps=2",
    "iterations=2",
    "distillation.replay_iterations=-1",
)
PROCESSES = ("--trainer-option", "num_processes=2", "--trainer-option", "device=cpu")


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the mini study distilled by DPO in two processes, replaying earlier pairs."""
    home = tmp_path_factory.mktemp("paired")
    done = run_cli(home, "run", str(MINI), "name=paired", *SMALL, *PROCESSES)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def test_pairs_are_of_one_prompt_and_scored_apart(paired: Path) -> None:
    rows = Store(paired).require(Address("paired", 0, "filtered_set", "pico", "sudoku4")).read()
    assert rows.height
    assert (rows["proxy_utility"] > rows["rejected_proxy_utility"]).all()
    assert (rows["completion"] != rows["rejected_completion"]).all()
    accepted, rejected = (
        rows[column].str.replace(r"/[0-9]+$", "") for column in ("generation_id", "rejected_generation_id")
    )
    assert (accepted == rejected).all()


def test_both_generations_of_a_pair_lead_to_the_checkpoint(paired: Path) -> None:
    with duckdb.connect(str(paired / "lineage.duckdb"), read_only=True) as lineage:
        found = lineage.sql(
            "select generation_id, rejected_generation_id from training_rows "
            "where checkpoint = 'paired/iteration_0/checkpoint/pico|sudoku4' limit 1"
        ).fetchall()
    ((accepted, rejected),) = found
    for generation in (accepted, rejected):
        traced = json.loads(run_cli(paired, "trace", generation, "--json").stdout)
        (row,) = [r for r in traced["training_rows"] if r["rejected_generation_id"] == rejected]
        assert row["generation_id"] == accepted
        assert "paired/iteration_0/checkpoint/pico|sudoku4" in row["checkpoints"]
        assert row["as_duplicate_of"] is None


def test_earlier_pairs_are_replayed_and_are_inputs(paired: Path) -> None:
    store = Store(paired)
    sets = [store.require(Address("paired", t, "filtered_set", "pico", "sudoku4")) for t in (0, 1)]
    checkpoint = store.require(Address("paired", 1, "checkpoint", "pico", "sudoku4")).manifest
    assert checkpoint.metadata["num_rows"] == sum(rows.manifest.num_rows for rows in sets)
    assert {reference.role for reference in checkpoint.inputs} == {
        "filtered_set",
        "start_policy",
        "replay.0",
    }


def test_no_field_of_preference_methods_is_in_the_recipe_of_supervised_ones() -> None:
    plain = Plan(load_study(MINI))
    touched = Plan(load_study(MINI, ["distillation.beta=0.7", "distillation.rpo_alpha=3"]))
    for address in plain.nodes:
        assert plain.fingerprint(address) == touched.fingerprint(address)
    checkpoint = plain.nodes[Address("mini", 0, "checkpoint", "pico", "sudoku4")]
    assert not {name for name in checkpoint.fields if "lora" in name or "beta" in name or "replay_it" in name}


def test_what_a_loss_is_a_mean_over_is_in_the_recipe_where_it_was_another_once() -> None:
    address = Address("mini", 0, "checkpoint", "pico", "sudoku4")
    pairs = ["distillation.replay_fraction=0", "weighting.rule=threshold"]
    accumulated = "distillation.gradient_accumulation_steps=2"
    added = {
        (): {},
        (accumulated,): {"loss_is_over": "all tokens of a step"},
        (*pairs, "distillation.method=dpo"): {},
        (*pairs, "distillation.method=dpo", accumulated): {"loss_is_over": "all pairs of a step"},
        (*pairs, "distillation.method=rpo"): {
            "likelihood_is_over": "the tokens of each pair, then the pairs"
        },
    }
    for overrides, expected in added.items():
        fields = Plan(load_study(MINI, list(overrides))).nodes[address].fields
        assert {name: value for name, value in fields.items() if name.endswith("is_over")} == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.method=dpo", "weighting.rule=exponential"], "exponential rejects none"),
        (["distillation.method=rpo"], "learns from pairs, and pre-training text has none"),
    ],
)
def test_what_gives_no_pairs_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(MINI, overrides)


def table(pairing, **weighting):
    """The filtered set of one prompt with six generations, the last cut short and the fifth unread."""
    ids = [f"s/iteration_0/m|t/p/{i}" for i in range(6)]
    scores = [0.9, 0.8, 0.1, 0.2, None, 0.0]
    generations = pl.DataFrame(
        {
            "generation_id": ids,
            "completion": ["a", "b", "c", "a", "e", "f"],
            "finish_reason": ["stop"] * 5 + ["length"],
        }
    )
    verifications = pl.DataFrame(
        {
            "generation_id": ids,
            "prompt_id": "p",
            "sample_index": range(6),
            "proxy_utility": scores,
            "verification_index": 0,
        }
    )
    prompts = pl.DataFrame({"prompt_id": ["p"], "prompt": ["?"]})
    spec = WeightingSpec(**{"rule": "threshold", "tau": 0.5, **weighting})
    address = Address("s", 0, "filtered_set", "m", "t")
    scored = proxy_utilities(verifications)
    weights = rule_weights(floats(scored["proxy_utility"]), np.array([0, 6]), spec, 0)
    scored = scored.with_columns(weight=pl.Series(weights))
    rows, _ = filtered_table(prompts, generations, scored, spec, 0, address, pairing)
    return list(rows.select("completion", "rejected_completion").iter_rows())


def test_unread_and_cut_generations_are_in_no_pair() -> None:
    # Of the rejected only c and the second a have a score; a is no partner for a.
    assert table("accepted_rejected") == [("a", "c"), ("b", "a")]
    used = {text for pair in table("any") for text in pair}
    assert not used & {"e", "f"}


def test_a_cap_takes_accepted_samples_out_and_makes_them_no_rejected_ones() -> None:
    assert table("accepted_rejected", max_per_prompt=1) in ([("a", "c")], [("b", "a")], [("b", "c")])
