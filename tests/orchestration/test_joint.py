"""One policy a model over all tasks of a study: what it reads, who reads it, and how it is run."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from conftest import MINI, run_cli
from training.shapes import Shape

from si_dagster.definitions import definitions
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.study import StudyError, load_study
from si_dagster.training.pico import character_tokenizer, new_policy


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file with two tasks, whose answers are made up and whose training is real."""
    folder = tmp_path_factory.mktemp("joint")
    tokenizer = character_tokenizer()
    new_policy(Shape(max_position_embeddings=512), tokenizer, seed=0).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    study = {
        "name": "joint",
        "scripted": True,
        "tasks": [{"name": "sudoku4", "options": {"num_blanks": 2}}, {"name": "arithmetic"}],
        "models": [{"name": "tiny", "path": str(folder / "policy"), "prompt_style": "pico"}],
        "splits": {"train": 6, "eval": 4},
        "generation": {"n": 4, "temperature": 1.0, "max_tokens": 60},
        "distillation": {"joint": True, "max_steps": 2, "per_device_train_batch_size": 4},
        "iterations": 1,
        "stop": {"min_gap": -1.0},
    }
    (folder / "joint.yaml").write_text(yaml.safe_dump(study))
    return folder / "joint.yaml"


def test_a_joint_checkpoint_reads_all_tasks_and_is_read_by_all(joint: Path) -> None:
    plan = Plan(load_study(joint))
    checkpoint = Address("joint", 0, "checkpoint", "tiny")
    assert plan.nodes[checkpoint].inputs == {
        "start_policy": Address("joint", None, "base_checkpoint", "tiny", "sudoku4"),
        "filtered_set.sudoku4": Address("joint", 0, "filtered_set", "tiny", "sudoku4"),
        "filtered_set.arithmetic": Address("joint", 0, "filtered_set", "tiny", "arithmetic"),
    }
    for task in ("sudoku4", "arithmetic"):
        assert plan.policy(1, ("tiny", task)) == checkpoint
        generations = plan.nodes[Address("joint", 1, "generations", "tiny", task, "eval")]
        assert generations.inputs["policy"] == checkpoint
    seen: set[Address] = set()
    for node in plan.nodes.values():
        assert set(node.inputs.values()) <= seen, node.address
        seen.add(node.address)


def test_every_cell_of_the_graph_waits_for_all_tasks(joint: Path) -> None:
    graph = definitions([load_study(joint)])
    dg.Definitions.validate_loadable(graph)
    assets = graph.resolve_asset_graph()
    cell = dg.MultiPartitionKey({"model": "tiny", "task": "arithmetic"})
    key = dg.AssetKey(["joint", "iteration_0", "checkpoint"])
    upstream = dg.AssetKey(["joint", "iteration_0", "filtered_set"])
    read = (
        assets.get(key)
        .partition_mappings[upstream]
        .get_upstream_mapped_partitions_result_for_partitions(
            assets.get(key).partitions_def.subset_with_partition_keys([cell]),
            assets.get(key).partitions_def,
            assets.get(upstream).partitions_def,
        )
    )
    tasks = {k.keys_by_dimension["task"] for k in read.partitions_subset.get_partition_keys()}
    assert tasks == {"sudoku4", "arithmetic"}


def test_the_loop_runs_iteration_by_iteration(joint: Path, tmp_path: Path) -> None:
    done = run_cli(tmp_path, "run", str(joint), "--engine", "scripted")
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(tmp_path)
    checkpoint = store.require(Address("joint", 0, "checkpoint", "tiny")).manifest
    sets = [
        store.require(Address("joint", 0, "filtered_set", "tiny", task)).manifest
        for task in ("sudoku4", "arithmetic")
    ]
    assert all(rows.num_rows for rows in sets)
    assert checkpoint.metadata["num_rows"] == sum(rows.num_rows for rows in sets)
    for task in ("sudoku4", "arithmetic"):
        measured = store.require(Address("joint", 1, "generations", "tiny", task, "eval")).manifest
        assert checkpoint.artifact_id in {reference.artifact_id for reference in measured.inputs}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["distillation.joint=true", "distillation.replay_fraction=0"],
            "no common base; give the model by `path`",
        )
    ],
)
def test_bases_that_differ_by_task_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(MINI, overrides)
