"""Cheap verifications in the plan: what a student descends from, what its teacher is asked, what is wrong."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from conftest import MINI

from assets.report import sections
from resources.store import StoreResource
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.analysis.cost import artifact_costs, costs_per_accepted_row
from si_dagster.definitions import definitions
from si_dagster.plan import TRUTH_STAGES, Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.store.lineage import Catalogue
from si_dagster.store.trace import trace
from si_dagster.study import Study, StudyError, load_study

# Dagster's own Pipes client asks a context for what Dagster has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:AssetExecutionContext.run_id:DeprecationWarning")

BUDGETS = "{method: cheap, teacher: multiple_choice, budget: [0, 8, 32]}"
STUDENTS = ("cheap-of-multiple_choice-8", "cheap-of-multiple_choice-32")


def study(*verifications: str, **fields: object) -> Study:
    """The mini study with those verifications."""
    overrides = [f"verification=[{', '.join(verifications)}]", *(f"{k}={v}" for k, v in fields.items())]
    return load_study(MINI, overrides)


def address(stage: str, part: str, iteration: int = 0) -> Address:
    return Address("mini", iteration, stage, "pico", "sudoku4", part)


def test_several_budgets_are_several_verifications() -> None:
    found = study("multiple_choice", BUDGETS)
    names = [spec.name for spec in found.verification]
    assert names == ["multiple_choice", "cheap-of-multiple_choice-0", *STUDENTS]
    assert [spec.budget for spec in found.verification] == [None, 0, 8, 32]
    named = study("multiple_choice", "{method: cheap, name: tiny, teacher: multiple_choice}")
    assert (named.verification[1].name, named.verification[1].budget) == ("tiny", 256)
    # What a run keeps of its study reads as the same study.
    assert Study.model_validate(found.model_dump(mode="json", exclude_none=True)) == found


def test_a_student_is_made_once_from_its_teacher_and_its_base_and_verifies_everywhere() -> None:
    plan = Plan(study("multiple_choice", BUDGETS))
    base = Address("mini", None, "base_checkpoint", "pico", "sudoku4")
    for name in STUDENTS:
        lesson, student = address("teaching_set", f"train.{name}"), address("student", f"train.{name}")
        assert plan.nodes[lesson].inputs == {
            "prompts": address("prompts", "train"),
            "generations": address("generations", "train"),
            "verifications": address("verifications", "train.multiple_choice"),
        }
        assert plan.nodes[student].inputs == {"start_policy": base, "teaching_set": lesson}
        verified = [n for a, n in plan.nodes.items() if a.stage == "verifications" and name in (a.part or "")]
        assert len(verified) == 5  # two splits in two iterations, evaluation alone in the last
        assert {node.inputs["verifier"] for node in verified} == {student}
    untaught = address("verifications", "eval.cheap-of-multiple_choice-0", 2)
    assert plan.nodes[untaught].inputs["verifier"] == base
    seen: set[Address] = set()
    for node in plan.nodes.values():
        assert set(node.inputs.values()) <= seen, node.address
        seen.add(node.address)


def test_no_student_descends_from_ground_truth() -> None:
    plan = Plan(study("multiple_choice", BUDGETS, "oracle"))
    reached = {a.stage for stage in TRUTH_STAGES for a in plan.descendants(stage)}
    assert reached == {"verifications", "gap_metrics", "report", *ANALYSES}
    by_truth = {a.part for a in plan.descendants("utilities") if a.stage == "verifications"}
    assert by_truth == {"train.oracle", "eval.oracle"}


def test_the_oracle_teaches_only_where_the_study_says_so() -> None:
    taught = ("oracle", "{method: cheap, teacher: oracle}", "multiple_choice")
    with pytest.raises(ValueError, match=r"its teacher 'oracle' reads ground truth: say `oracle: true`"):
        _ = Plan(study(*taught, **{"weighting.verification": "multiple_choice"})).nodes
    assert {"student", "checkpoint"} <= {
        a.stage
        for a in Plan(
            study(*taught, oracle="true", **{"weighting.verification": "cheap-of-oracle"})
        ).descendants("utilities")
    }


def test_a_student_added_or_taught_otherwise_changes_no_other_artifact() -> None:
    before = Plan(study("multiple_choice"))
    after = Plan(study("multiple_choice", BUDGETS))
    changed = {a.stage for a in before.nodes if before.fingerprint(a) != after.fingerprint(a)}
    assert changed == {*ANALYSES, "report"}
    other = Plan(
        study("multiple_choice", BUDGETS.replace("8, 32]", "8, 32], student: {learning_rate: 0.01}"))
    )
    own = {a.stage for a in after.nodes if after.nodes[a].fields != other.nodes[a].fields}
    assert own == {"student"}


def test_more_iterations_leave_students_and_their_verifications_alone() -> None:
    short, long = (Plan(study("multiple_choice", BUDGETS, iterations=t)) for t in (1, 3))
    kept = [a for a in short.nodes if a.stage not in ("report", *ANALYSES)]
    assert all(short.fingerprint(a) == long.fingerprint(a) for a in kept)


def test_a_teacher_that_only_teaches_verifies_no_other_training_prompt() -> None:
    only = "{method: multiple_choice, only_teaches: true}"
    plan = Plan(study(only, BUDGETS, **{"weighting.verification": STUDENTS[1]}))
    parts = {(a.iteration, a.part) for a in plan.nodes if a.stage == "verifications" and a.part}
    dear = {(t, part) for t, part in parts if part.endswith(".multiple_choice")}
    assert dear == {(0, "train.multiple_choice"), *((t, "eval.multiple_choice") for t in (0, 1, 2))}
    assert [
        lesson["budget"]
        for lesson in plan.nodes[address("verifications", "train.multiple_choice")].fields["teaches"]
    ] == [8, 32]
    assert address("gap_metrics", "eval.multiple_choice") in plan.nodes
    assert address("gap_metrics", "train.multiple_choice") not in plan.nodes
    read = {a for node in plan.nodes.values() for a in node.inputs.values()}
    readers = [
        n.address.stage
        for n in plan.nodes.values()
        if address("verifications", "train.multiple_choice") in n.inputs.values()
    ]
    assert set(readers) == {"teaching_set"}
    assert read <= set(plan.nodes)


@pytest.mark.parametrize(
    ("verifications", "told"),
    [
        (["{method: cheap}"], "method cheap needs `teacher`"),
        (["{method: random, budget: 8}"], "budget goes with method cheap, not with random"),
        (
            ["random", "{method: cheap, teacher: cot}"],
            r"verification.1.teacher: 'cot' is none of this study; it can be one of: random",
        ),
        (
            [
                "random",
                "{method: cheap, teacher: random}",
                "{method: cheap, name: b, teacher: cheap-of-random}",
            ],
            "'cheap-of-random' is cheap itself",
        ),
        (
            ["random", "{method: cheap, teacher: random, budget: 1}"],
            "a single verification makes no comparison",
        ),
        (["{method: random, only_teaches: true}"], "no student of this study learns from 'random'"),
        (
            ["{method: random, only_teaches: true}", "{method: cheap, teacher: random}"],
            "'random' says only_teaches, so 'random' has no scores",
        ),
        (["random", "{method: cheap, teacher: random, budget: []}"], "budget: .*valid integer"),
    ],
)
def test_what_cannot_be_taught_is_refused(verifications: list[str], told: str) -> None:
    with pytest.raises(StudyError, match=told):
        study(*verifications)


def test_what_needs_training_prompts_or_whole_prompts_is_refused() -> None:
    with pytest.raises(StudyError, match="iterations: 0 has none"):
        study("multiple_choice", BUDGETS, iterations=0)
    vote = "{method: majority_vote, only_teaches: true}"
    taught = "{method: cheap, name: c, teacher: majority_vote}"
    with pytest.raises(ValueError, match="is of all responses of a prompt"):
        _ = Plan(study("random", vote, taught)).nodes


DEAR = "{name: dear, method: log_likelihood_normalised, only_teaches: true}"
TAUGHT = "{name: taught, method: cheap, teacher: dear, budget: 12, student: {max_steps: 2}}"


@pytest.fixture(scope="module")
def taught(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished home with a teacher, its student and their verifications of iteration 0 more."""
    home = tmp_path_factory.mktemp("taught") / "home"
    shutil.copytree(finished, home)
    graph = definitions([study("multiple_choice", DEAR, TAUGHT)], StoreResource(home=str(home)))
    first = [
        dg.AssetKey(["mini", "iteration_0", *asset])
        for asset in (
            ("verifications", "dear"),
            ("teaching_set", "taught"),
            ("student", "taught"),
            ("verifications", "taught"),
        )
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        cell = dg.MultiPartitionKey({"model": "pico", "task": "sudoku4"})
        job = graph.resolve_job_def("mini__all_iterations")
        assert job.execute_in_process(instance=instance, partition_key=cell, asset_selection=first).success
        graph.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["mini", "analysis", "cheap_verifier"])]
        )
    return home


def test_the_teacher_is_asked_what_the_budget_buys_and_all_is_told(taught: Path) -> None:
    store = Store(taught)
    lesson = store.require(address("teaching_set", "train.taught"))
    rows, asked = lesson.read(), store.require(address("verifications", "train.dear")).read()
    assert set(rows["generation_id"]) == set(asked.drop_nulls("proxy_utility")["generation_id"])
    assert asked.height == lesson.manifest.metadata["num_teacher_verifications"] == 12
    assert lesson.manifest.metadata["num_stored_verifications"] == 12
    assert lesson.manifest.metadata["teacher_flops"] > 0
    assert store.require(address("verifications", "eval.dear")).manifest.num_rows == 30 * 8
    joined = rows.join(asked, on="generation_id", suffix="_asked")
    assert joined["proxy_utility"].equals(joined["proxy_utility_asked"])


def test_the_student_is_a_whole_checkpoint_that_scores_everything(taught: Path) -> None:
    store = Store(taught)
    student = store.require(address("student", "train.taught"))
    student.verify()
    assert {"config.json", "model.safetensors", "tokenizer.json", "result.json"} <= {
        file.name for file in student.manifest.files
    }
    told = student.manifest.metadata
    assert (told["steps"], told["num_rows"]) == (2, 12)
    assert told["flops"] > 0
    base = store.require(Address("mini", None, "base_checkpoint", "pico", "sudoku4"))
    assert (student.path / "model.safetensors").read_bytes() != (base.path / "model.safetensors").read_bytes()
    for split, num_prompts in (("train", 40), ("eval", 30)):
        scores = store.require(address("verifications", f"{split}.taught")).read()
        assert scores.height == num_prompts * 8
        assert scores["proxy_utility"].null_count() == 0
        assert set(scores["verifier"]) == {student.address.artifact_id}


def test_lineage_leads_from_scores_to_the_teachers_rows_and_the_base(taught: Path) -> None:
    found = trace(taught, address("student", "train.taught").artifact_id)
    assert found["kind"] == "checkpoint"
    assert found["history"][-1]["policy"]["artifact_id"] == "mini/base_checkpoint/pico|sudoku4"
    lesson = next(source for source in found["inputs"] if source["role"] == "teaching_set")
    sources = [s["artifact_id"] for s in trace(taught, lesson["artifact_id"])["inputs"]]
    assert address("verifications", "train.dear").artifact_id in sources
    rows = Catalogue(taught).query("select generation_id, proxy_utility from teaching_sets")
    assert rows.height == 12


def test_a_training_row_bears_its_student_in_sql_as_in_python(taught: Path) -> None:
    plan, store = Plan(study("multiple_choice", DEAR, TAUGHT)), Store(taught)
    costs = artifact_costs(m for a in plan.nodes if (m := store.manifest(a)) is not None)
    told = costs_per_accepted_row(costs)
    asked = Catalogue(taught).query("from costs_per_accepted_row order by iteration").drop("study").to_dicts()
    assert asked == [pytest.approx({name: row[name] for name in asked[0]}) for row in told]
    (student,) = [cost for cost in costs if cost["stage"] == "student"]
    by_others = costs_per_accepted_row([cost for cost in costs if cost is not student])
    assert told[0]["flops"] - by_others[0]["flops"] == pytest.approx(
        student["flops"] / told[0]["num_training_rows"]
    )


def test_agreement_is_in_the_report_with_its_plot(taught: Path) -> None:
    store, plan = Store(taught), Plan(study("multiple_choice", DEAR, TAUGHT))
    (row,) = store.require(Address("mini", None, "cheap_verifier")).read().to_dicts()
    assert (row["verification"], row["teacher"], row["budget"], row["iteration"]) == ("taught", "dear", 12, 0)
    assert 0 <= row["pair_agreement_low"] <= row["pair_agreement"] <= row["pair_agreement_high"] <= 1
    assert row["training_flops"] > 0
    assert row["relative_cost"] > 0
    (section,) = [s for s in sections(plan, store) if s.title == "Cheap verifiers"]
    assert section.image.startswith("data:image/png")
    assert "taught" in json.dumps(section.rows)
