import json

import pytest

from si_dagster.store.errors import UnknownId
from si_dagster.store.lineage import Catalogue
from si_dagster.store.trace import trace

DRAW = "pico/iteration_1/s|facts/train-2/0"
BASE = "pico/base_checkpoint/s|facts"
FIRST = "pico/iteration_0/checkpoint/s|facts"
SECOND = "pico/iteration_1/checkpoint/s|facts"


@pytest.fixture
def home(maker):
    maker.two_iterations()
    return maker.home


def test_a_generation_leads_back_to_the_base_checkpoint(home):
    found = trace(home, DRAW)
    assert found["kind"] == "generation"
    assert found["prompt"]["question"] == "what is 2?"
    assert found["generation"]["completion"] == "2"
    assert found["utility"]["utility"] == 1.0
    assert [(v["verification_id"], v["proxy_utility"]) for v in found["verifications"]] == [
        (f"{DRAW}/mc/0", 0.9)
    ]
    assert found["verifications"][0]["verifier_policy"]["artifact_id"] == FIRST
    (row,) = found["training_rows"]
    assert (row["weight"], row["checkpoints"], row["as_duplicate_of"]) == (2.0, [SECOND], None)
    assert found["study"] == {"name": "pico"}
    policies = [entry["policy"] for entry in found["history"]]
    assert [policy["artifact_id"] for policy in policies] == [FIRST, BASE]
    assert [policy["dagster_run_id"] for policy in policies] == ["run-0", "run-base"]
    assert policies[0]["recipe"] == {"lr": 0.001}
    assert policies[0]["code_version"] == "1"
    made_from = {card["stage"] for card in found["history"][0]["made_from"]}
    assert made_from == {"filtered_set", "prompts", "generations", "verifications"}
    assert found["history"][0]["descends_from"] == [BASE]
    assert found["history"][1]["made_from"] == []
    json.dumps(found)


def test_a_generation_that_was_not_kept_trained_nothing(home):
    found = trace(home, "pico/iteration_1/s|facts/train-2/1")
    assert found["utility"]["utility"] == 0.0
    assert found["training_rows"] == []


def test_a_collapsed_duplicate_names_the_row_that_stands_for_it(home):
    (row,) = trace(home, "pico/iteration_1/s|facts/train-2/2")["training_rows"]
    assert row["as_duplicate_of"] == DRAW
    assert row["checkpoints"] == [SECOND]


def test_training_rows_and_verifications_are_ids_too(home):
    training_row = f"pico/iteration_1/filtered_set/s|facts::{DRAW}"
    found = trace(home, training_row)
    assert (found["kind"], found["id"], found["training_row"]["weight"]) == (
        "training_row",
        training_row,
        2.0,
    )
    assert found["generation"]["generation_id"] == DRAW
    found = trace(home, f"{DRAW}/mc/0")
    assert (found["kind"], found["verification"]["method"]) == ("verification", "multiple_choice")


def test_a_checkpoint_tells_all_iterations_before_it(home):
    found = trace(home, SECOND)
    assert found["kind"] == "checkpoint"
    assert [entry["policy"]["artifact_id"] for entry in found["history"]] == [SECOND, FIRST, BASE]
    assert [parent["role"] for parent in found["inputs"]] == ["filtered_set", "start_policy"]
    assert found["used_by"] == []
    used = {use["artifact_id"] for use in trace(home, FIRST)["used_by"]}
    assert used == {
        SECOND,
        "pico/iteration_1/generations/s|facts/train",
        "pico/iteration_1/verifications/s|facts/train.mc",
    }
    assert trace(home, "pico/iteration_0/filtered_set/s|facts")["kind"] == "artifact"


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("pico/iteration_1/s|facts/train-2/9", "pico/iteration_1/s|facts/train-2/0"),
        ("pico/iteration_1/s|fact/train-2/0", DRAW),
        (f"{DRAW}/cot/0", f"{DRAW}/mc/0"),
        ("pico/iteration_1/filtered_set/s|facts::nonsense", "pico/iteration_1/filtered_set/s|facts"),
        ("pico/base_checkpoint/s", BASE),
        ("nonsense", None),
    ],
)
def test_an_unknown_id_is_answered_with_the_nearest(home, unknown, nearest):
    with pytest.raises(UnknownId, match="nothing complete and recorded has the id") as error:
        trace(home, unknown)
    assert len(error.value.nearest) == 3
    assert nearest is None or nearest in error.value.nearest
    assert error.value.nearest[0] in str(error.value)


def test_a_trace_follows_the_versions_that_were_read_though_superseded_since(maker, home):
    address = maker.address("filtered_set", 0)
    with maker.store.open_writer(address, {"q": 0.9}, "new", study_snapshot={}, supersede=True) as writer:
        writer.write_part(maker.filtered_set(0)[:1])
        Catalogue(home).record(writer.commit())
    (entry, _) = trace(home, FIRST)["history"]
    (card,) = [card for card in entry["made_from"] if card["stage"] == "filtered_set"]
    assert card["num_rows"] == 3
    assert card["superseded_at"]
