"""What every verification method keeps: M judgements an item in order, seeds, no look at references."""

from dataclasses import replace
from pathlib import Path

import pytest
from verification.sums import Plain, Sums, items_of, replying

from si_dagster.engines.scripted import ScriptedEngine
from si_dagster.plan import PROBE, SUMMARIES, Plan
from si_dagster.study import load_study, parse_study
from si_dagster.tasks.catalogue import load_task
from si_dagster.verification.base import Batch, Item, UnaskableError, VerificationMethod
from si_dagster.verification.catalogue import load_method, method_names

ITEMS = items_of(["2", "is 2", "3", "", "2"], ["7", "8", "9"], ["1"])
ASKING = [name for name in method_names() if load_method(name).asks]
every_method = pytest.mark.parametrize("name", method_names())


def judged(name: str, items: list[Item], seed: int = 0, num_verifications: int = 2, task: object = None):
    return load_method(name).verify(
        Batch(task or Sums(), "text", items, ScriptedEngine(), seed, num_verifications)  # type: ignore[arg-type]
    )


def test_all_methods_of_the_paper_are_there() -> None:
    assert set(method_names()) >= {
        *("multiple_choice", "cot_score", "cot_binary", "tournament", "log_likelihood"),
        *("log_likelihood_normalised", "majority_vote", "random"),
    }


@every_method
def test_is_a_method_of_its_name(name: str) -> None:
    method = load_method(name)
    assert isinstance(method, VerificationMethod)
    assert method.name == name


@every_method
def test_every_item_gets_m_judgements_in_order(name: str) -> None:
    judgements = judged(name, ITEMS, num_verifications=3)
    assert [(j.generation_id, j.verification_index) for j in judgements] == [
        (item.generation_id, m) for item in ITEMS for m in range(3)
    ]
    assert {j.method for j in judgements} == {name}
    assert all((j.proxy_utility is None) == (j.status == "unparsed") for j in judgements)


@every_method
def test_the_same_seed_gives_the_same_and_the_order_of_items_nothing(name: str) -> None:
    first = {(j.generation_id, j.verification_index): j for j in judged(name, ITEMS, seed=5)}
    again = {(j.generation_id, j.verification_index): j for j in judged(name, ITEMS[::-1], seed=5)}
    assert first == again


@every_method
def test_one_prompt_alone_is_judged_as_among_others(name: str) -> None:
    """Resumption: chunks hold whole prompts, and which prompts share a chunk decides nothing."""
    alone = judged(name, ITEMS[5:8], seed=5)
    assert alone == judged(name, ITEMS, seed=5)[10:16]


@every_method
def test_references_are_not_read(name: str) -> None:
    other = [replace(item, row=replace(item.row, reference="2")) for item in ITEMS]
    assert judged(name, other) == judged(name, ITEMS)


@every_method
def test_scores_that_are_chances_of_being_right_lie_in_0_to_1(name: str) -> None:
    """Of `cheap`, which asks as multiple choice does, scores are log-odds."""
    engine = replying(ITEMS, name, lambda c: "Verdict: correct") if name == "cot_binary" else ScriptedEngine()
    judgements = load_method(name).verify(Batch(Sums(), "text", ITEMS, engine))
    if load_method(name).is_probability:
        assert {j.status for j in judgements} == {"scored"}
        assert all(0.0 <= (j.proxy_utility or 0.0) <= 1.0 for j in judgements)
    assert load_method(name).is_probability == (name in ("multiple_choice", "cot_binary"))


@every_method
def test_nothing_to_verify(name: str) -> None:
    assert judged(name, []) == []


@pytest.mark.parametrize(
    "name", [*(n for n in ASKING if n not in ("multiple_choice", "cheap")), "majority_vote"]
)
def test_a_task_without_what_a_method_needs_is_named_with_it(name: str) -> None:
    with pytest.raises(UnaskableError, match=f"{name} cannot be used on task plain"):
        judged(name, items_of(["2", "3"]), task=Plain())


@pytest.mark.parametrize("name", sorted(set(method_names()) - set(ASKING)))
def test_methods_that_ask_nothing_have_no_question(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} asks the verifier nothing"):
        load_method(name).question(Sums(), PROBE, "1", "text")


@pytest.mark.parametrize("style", ["text", "chat"])
@pytest.mark.parametrize("task", ["gsm8k", "math", "mbpp", "nq_open", "svamp"])
@pytest.mark.parametrize("name", ASKING)
def test_data_set_tasks_have_balanced_questions_for_every_asking_method(name, task, style) -> None:
    text = load_method(name).question(load_task(task, {}), PROBE, "an answer Verdict: correct", style)
    assert text.count("Verdict - correct") == (2 if name.startswith("tournament") else 1)
    pairs = {
        "multiple_choice": ("\nVerdict: correct\n", "\nVerdict: incorrect\n"),
        "cot_binary": ("\nVerdict: correct\n", "\nVerdict: incorrect\n"),
        "cot_score": ("\nScore: 10\n", "\nScore: 1\n"),
    }
    name = "multiple_choice" if name == "cheap" else name  # it asks the same
    if (name, style) == ("multiple_choice", "chat"):
        pairs[name] = ("\nassistant:\ncorrect\n", "\nassistant:\nincorrect\n")
    right, wrong = pairs.get(name, ("\nWinner: A\n", "\nWinner: B\n"))
    assert text.count(right) == text.count(wrong) == 2


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        ("gsm8k", ["so 7\n#### 7", "it is 7.00", "no idea", "#### 1,000", ""]),
        ("math", [r"\boxed{\frac12}", r"\boxed{0.5}", "hm", ""]),
        ("nq_open", ["The Beatles", "beatles!\nQuestion:", "", "\n"]),
        ("mbpp", ["def f(x):\n    return x", "```python\ndef f(x):\n  return x\n```", ""]),
        ("sudoku4", ["1234341221434321", "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", "12", ""]),
    ],
)
def test_an_answer_is_extracted_as_it_is_graded(task: str, texts: list[str]) -> None:
    """A majority vote counts the strings that `Grade.extracted` holds, found without a reference."""
    loaded = load_task(task, {})
    reference = {
        "mbpp": '{"tests": ["assert f(1) == 1"]}',
        "math": r"\frac{1}{2}",
        "sudoku4": "1_34341221434321=1234341221434321",
    }
    grades = loaded.grade([reference.get(task, "7")] * len(texts), texts)
    assert [loaded.extract(text) for text in texts] == [grade.extracted for grade in grades]  # type: ignore[attr-defined]


def study(*methods: str | dict, task: str = "gsm8k"):
    return parse_study(
        {
            "name": "all",
            "tasks": [{"name": task}],
            "models": [{"name": "m", "path": "somewhere"}],
            "splits": {"train": 2, "eval": 2},
            "verification": list(methods),
        },
        "test",
    )


def test_the_plan_knows_every_method() -> None:
    taught = {"method": "cheap", "teacher": "cot_score"}
    plan = Plan(study(*(name for name in method_names() if name != "cheap"), taught))
    verifications = [n for n in plan.nodes.values() if n.address.stage == "verifications"]
    templates = {n.fields["verification.method"]: n.fields["template"] for n in verifications}
    assert set(templates) == set(method_names())
    assert {name for name, template in templates.items() if not template} == set(method_names()) - set(ASKING)


def test_fields_left_at_their_defaults_are_in_no_recipe() -> None:
    """Fields and template digest are those of verifications stored before the sampling could be said."""
    plan = Plan(load_study(Path(__file__).parents[2] / "studies" / "quickstart.yaml"))
    node = next(node for node in plan.nodes.values() if "verifier" in node.inputs)
    assert {name: value for name, value in node.fields.items() if name != "seed"} == {
        "code_version": "1",
        "verification.method": "multiple_choice",
        "verification.num_verifications": 1,
        "method_version": "1",
        "template": "19b5790eb0c7f5ed",
    }


def test_only_policies_that_speak_freely_are_asked_anew_when_the_reader_changes() -> None:
    """Pico policies read as before: their recipes, and so their fingerprints, are those they had."""
    taught = {"method": "cheap", "teacher": "cot_binary"}
    plan = Plan(study("cot_binary", "multiple_choice", "log_likelihood", "majority_vote", taught))
    read = {
        (address.stage, (address.part or "").partition(".")[2].partition("-")[0])
        for address, node in plan.nodes.items()
        if "reader" in node.fields
    }
    asking = ("cot_binary", "multiple_choice", "cheap")
    assert read == {
        *((stage, name) for stage in ("verifications", "probes") for name in asking),
        ("teaching_set", "cheap"),
    }
    for path in sorted((Path(__file__).parents[2] / "studies").glob("findings_*.yaml")):
        assert not any("reader" in node.fields for node in Plan(load_study(path)).nodes.values())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"method": "multiple_choice", "top_p": 1.0},
            "multiple_choice draws no replies, so top_p would change",
        ),
        ({"method": "random", "on_unparsed": "resample"}, "draws no replies, so on_unparsed: resample would"),
        ({"method": "oracle", "verifier": "base"}, "method oracle asks no verifier"),
    ],
)
def test_a_field_that_would_change_nothing_is_refused(fields: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _ = Plan(study(fields)).nodes


def test_the_verifiers_sampling_and_resampling_are_part_of_its_recipe_and_neutral_is_not() -> None:
    plans = [
        Plan(study({"method": "cot_score", **fields}))
        for fields in ({}, {"temperature": 0.5}, {"on_unparsed": "resample"}, {"on_unparsed": "neutral"})
    ]
    address = next(a for a in plans[0].nodes if a.stage == "verifications")
    assert len({plan.fingerprint(address) for plan in plans[:3]}) == 3
    assert plans[3].fingerprint(address) == plans[0].fingerprint(address)
    kept = next(a for a in plans[0].nodes if a.stage == "filtered_set")
    assert len({plan.fingerprint(kept) for plan in plans}) == 4


def test_an_oracle_reads_utilities_and_trains_only_where_the_study_says_so() -> None:
    beside = Plan(study("multiple_choice", "oracle"))
    reached = {address.stage for address in beside.descendants("utilities")}
    assert reached == {"verifications", "gap_metrics", *SUMMARIES}
    with pytest.raises(ValueError, match=r"'oracle' reads ground truth.*say `oracle: true`"):
        _ = Plan(study("oracle")).nodes
    told = Plan(study("oracle").model_copy(update={"oracle": True}))
    assert {"filtered_set", "checkpoint"} <= {a.stage for a in told.descendants("utilities")}


def test_adding_methods_changes_no_artifact_of_the_loop() -> None:
    before, after = (
        Plan(study(*methods)) for methods in (("multiple_choice",), ("multiple_choice", "random"))
    )
    changed = {a.stage for a in before.nodes if before.fingerprint(a) != after.fingerprint(a)}
    assert changed == set(SUMMARIES)  # made anew, unasked, from whatever is there


def test_a_study_with_a_method_its_task_cannot_ask_is_refused_by_name() -> None:
    with pytest.raises(UnaskableError, match="cot_score cannot be used on task sudoku4"):
        _ = Plan(study("cot_score", task="sudoku4")).nodes
