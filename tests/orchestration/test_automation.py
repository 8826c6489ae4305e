"""How a study moves by itself: what automation and schedule ask for, from an empty home to a finished one."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import MINI

from assets.automation import next_open_iteration
from resources.store import StoreResource
from si_dagster.definitions import definitions
from si_dagster.plan import Plan
from si_dagster.store.artifacts import Store
from si_dagster.study import load_study

# Dagster's own code warns: of the tags it puts on partitions, and of what its tester of conditions uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Parameter `include_sources`"),
]

STUDY = load_study(MINI)
CELL = ("pico", "sudoku4")


def graph(home: Path) -> dg.Definitions:
    return definitions([STUDY], StoreResource(home=str(home)))


def requested(home: Path, instance: dg.DagsterInstance) -> set[str]:
    result = dg.evaluate_automation_conditions(graph(home), instance)
    keys = [spec.key for spec in graph(home).resolve_all_asset_specs()]
    return {key.to_user_string() for key in keys if result.get_num_requested(key)}


def materialized(instance: dg.DagsterInstance, *names: str) -> None:
    for name in names:
        event = dg.AssetMaterialization(name.split("/"), partition="pico|sudoku4")
        instance.report_runless_asset_event(event)


def test_automation_begins_with_what_nothing_precedes_and_goes_on_from_there(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        first = requested(tmp_path, instance)
        assert first == {"mini/base_checkpoint", *(f"mini/iteration_{t}/prompts" for t in (0, 1, 2))}
        materialized(instance, *first)
        cursor = dg.evaluate_automation_conditions(graph(tmp_path), instance).cursor
        materialized(instance, "mini/iteration_0/prompts")
        result = dg.evaluate_automation_conditions(graph(tmp_path), instance, cursor=cursor)
        assert result.get_num_requested(dg.AssetKey(["mini", "iteration_0", "generations"])) == 1
        assert result.get_num_requested(dg.AssetKey(["mini", "iteration_1", "generations"])) == 0


def schedule_of(definitions: dg.Definitions) -> dg.ScheduleDefinition:
    return definitions.resolve_schedule_def("mini__next_iteration")


def test_schedule_and_sensor_are_off_until_somebody_turns_them_on(tmp_path: Path) -> None:
    loaded = graph(tmp_path)
    assert schedule_of(loaded).default_status == dg.DefaultScheduleStatus.STOPPED
    assert loaded.resolve_sensor_def("carry_studies_through").default_status == dg.DefaultSensorStatus.STOPPED


def evaluate(home: Path) -> Any:
    store = StoreResource(home=str(home))
    with dg.DagsterInstance.ephemeral() as instance:
        loaded = graph(home)
        context = dg.build_schedule_context(
            instance, resources={"store": store}, repository_def=loaded.get_repository_def()
        )
        return schedule_of(loaded).evaluate_tick(context)


def test_schedule_starts_the_first_iteration_of_a_new_study(tmp_path: Path) -> None:
    data = evaluate(tmp_path)
    assert data.run_requests is not None
    [request] = data.run_requests
    assert request.partition_key == "pico|sudoku4"
    assert request.asset_selection is not None
    selected = {key.to_user_string() for key in request.asset_selection}
    assert "mini/base_checkpoint" in selected
    assert "mini/iteration_0/checkpoint" in selected
    assert not [key for key in selected if "iteration_1" in key]


def test_schedule_leaves_a_finished_study_alone(finished: Path) -> None:
    data = evaluate(finished)
    assert not data.run_requests
    assert "finished or stopped" in (data.skip_message or "")


def test_the_next_open_iteration_is_the_one_with_something_missing(home: Path) -> None:
    plan, store = Plan(STUDY), Store(home)
    assert next_open_iteration(plan, store, CELL) is None
    (store.folder(plan.deciding_gap(2, CELL)) / "manifest.json").unlink()
    assert next_open_iteration(plan, store, CELL) == 2


def test_a_stopped_study_has_no_next_iteration(home: Path) -> None:
    closed = Plan(load_study(MINI, ["stop.min_gap=0.99"]))
    store = Store(home)
    assert next_open_iteration(closed, store, CELL) is None
    import shutil

    shutil.rmtree(store.folder(closed.address("generations", 1, CELL)))
    assert next_open_iteration(closed, store, CELL) is None


@pytest.mark.parametrize("kind", ["jobs", "schedules"])
def test_one_job_and_one_schedule_a_study(tmp_path: Path, kind: str) -> None:
    loaded = graph(tmp_path)
    names = {job.name for job in loaded.resolve_all_job_defs() if not job.name.startswith("__")}
    expected = {"jobs": "mini__all_iterations", "schedules": "mini__next_iteration"}[kind]
    if kind == "jobs":
        assert names == {expected}
    else:
        assert schedule_of(loaded).name == expected
