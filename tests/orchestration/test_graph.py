"""The graph of a study: its keys, its edges, and what never descends from ground truth."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.stage_asset import planned
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.definitions import definitions
from si_dagster.plan import TRUTH_STAGES, Plan, asset_path
from si_dagster.store.layout import Address
from si_dagster.study import Study, load_study, parse_study
from si_dagster.tasks.base import TaskDataError
from si_dagster.tasks.sudoku4 import Sudoku4

ROOT = Path(__file__).parents[2]
QUICKSTART = load_study(ROOT / "studies" / "quickstart.yaml")
MINI = ROOT / "tests" / "cases" / "mini.yaml"
EDGES = ROOT / "tests" / "cases" / "quickstart_edges.txt"


@pytest.fixture(scope="module")
def graph() -> dg.Definitions:
    return definitions([QUICKSTART])


def edge_lines(graph: dg.Definitions) -> list[str]:
    """`upstream -> downstream (edge)` for every dependency, as Dagster sees it."""
    lines = []
    for spec in graph.resolve_all_asset_specs():
        for dep in spec.deps:
            kind = dep.metadata.get("si/edge", "input") if dep.metadata else "input"
            lines.append(f"{dep.asset_key.to_user_string()} -> {spec.key.to_user_string()} ({kind})")
    return sorted(lines)


def test_definitions_are_loadable(graph: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(graph)


def test_edges_equal_the_committed_ones(graph: dg.Definitions) -> None:
    of_the_loop = [line for line in edge_lines(graph) if "/analysis/" not in line]
    assert of_the_loop == EDGES.read_text().splitlines()


def test_analyses_lead_to_the_report_alone(graph: dg.Definitions) -> None:
    lines = [line for line in edge_lines(graph) if line.startswith("quickstart/analysis/")]
    assert sorted(lines) == sorted(
        f"quickstart/analysis/{name} -> quickstart/report (input)" for name in ANALYSES
    )


def test_analyses_stand_behind_the_gaps_which_descend_from_all_they_read(graph: dg.Definitions) -> None:
    """One edge an iteration in the graph; the plan, and so the lineage, has every artifact that is read."""
    plan, graph_lines = Plan(QUICKSTART), edge_lines(graph)
    gaps = {f"quickstart/iteration_{t}/gap_metrics" for t in range(QUICKSTART.iterations + 1)}
    behind = set().union(*(data_ancestors(graph_lines, gap) for gap in gaps))
    for name in ANALYSES:
        own = f"quickstart/analysis/{name}"
        lines = [line for line in graph_lines if f"-> {own} " in line]
        assert lines == [f"{gap} -> {own} (summary)" for gap in sorted(gaps)]
        read = plan.nodes[Address("quickstart", None, name)].inputs.values()
        assert {"/".join(asset_path(source)) for source in read} <= behind


def test_keys_are_unrolled_and_grouped_by_iteration(graph: dg.Definitions) -> None:
    groups = {spec.key.to_user_string(): spec.group_name for spec in graph.resolve_all_asset_specs()}
    assert groups["quickstart/iteration_0/generations"] == "quickstart__iteration_0"
    assert groups["quickstart/iteration_1/checkpoint"] == "quickstart__iteration_1"
    assert groups["quickstart/base_checkpoint"] == "quickstart__base"
    assert groups["quickstart/analysis/threshold_sweep"] == "quickstart__analysis"
    assert groups["quickstart/report"] == "quickstart__report"


def data_ancestors(lines: list[str], key: str) -> set[str]:
    """Everything a key descends from along edges that carry data."""
    parents: dict[str, set[str]] = {}
    for line in lines:
        upstream, _, rest = line.partition(" -> ")
        downstream, _, kind = rest.partition(" (")
        if kind == "input)":
            parents.setdefault(downstream, set()).add(upstream)
    found, frontier = set(), [key]
    while frontier:
        for parent in parents.get(frontier.pop(), set()) - found:
            found.add(parent)
            frontier.append(parent)
    return found


def test_no_filtered_set_or_checkpoint_descends_from_ground_truth(graph: dg.Definitions) -> None:
    lines = edge_lines(graph)
    keys = {line.partition(" -> ")[2].partition(" (")[0] for line in lines}
    learned = [key for key in keys if key.endswith(("/filtered_set", "/checkpoint"))]
    assert len(learned) == 2 * QUICKSTART.iterations
    for key in learned:
        ancestors = data_ancestors(lines, key)
        assert "quickstart/base_checkpoint" in ancestors
        assert not [a for a in ancestors if set(a.split("/")[1:]) & set(TRUTH_STAGES)], key


def test_in_no_study_without_an_oracle_does_a_policy_descend_from_ground_truth() -> None:
    """Every study of the repository, and one with an oracle that does not train."""
    paths = sorted((ROOT / "studies").rglob("*.yaml"))
    studies = [load_study(path) for path in paths]
    studies.append(load_study(MINI, ["verification=[multiple_choice, oracle]"]))
    looked_at = [study for study in studies if not study.oracle]
    assert len(looked_at) > 5
    for study in looked_at:
        lines = edge_lines(definitions([study]))
        for key in {line.partition(" -> ")[2].partition(" (")[0] for line in lines}:
            if key.endswith(("/filtered_set", "/checkpoint")) or "/student/" in key:
                ancestors = data_ancestors(lines, key)
                assert not [a for a in ancestors if set(a.split("/")[1:]) & set(TRUTH_STAGES)], key


def test_an_oracle_that_trains_is_seen_in_the_graph() -> None:
    study = load_study(MINI, ["verification=[oracle]", "oracle=true"])
    lines = edge_lines(definitions([study]))
    assert "mini/iteration_0/utilities" in data_ancestors(lines, "mini/iteration_0/filtered_set")


def test_stages_that_load_a_policy_share_a_pool(graph: dg.Definitions) -> None:
    pools = {a.key.path[-1]: a.op.pool for a in graph.assets or [] if isinstance(a, dg.AssetsDefinition)}
    asked = {"base_checkpoint", "generations", "multiple_choice", "probes", "checkpoint"}
    assert {name for name, pool in pools.items() if pool == "accelerator"} == asked
    assert {pool for name, pool in pools.items() if name not in asked} == {None}


def test_the_only_gates_lead_from_a_gap_to_generations_and_probes_after_it(graph: dg.Definitions) -> None:
    gates = [line for line in edge_lines(graph) if line.endswith("(gate)")]
    assert gates == [
        f"quickstart/iteration_{t}/gap_metrics -> quickstart/iteration_{t + 1}/{stage} (gate)"
        for t in range(QUICKSTART.iterations)
        for stage in ("generations", "probes")
    ]


def test_the_plan_agrees_that_ground_truth_reaches_no_policy() -> None:
    plan = Plan(QUICKSTART)
    reached = {address.stage for address in plan.descendants("utilities")}
    assert reached == {"gap_metrics", "report", *ANALYSES}


def test_every_asset_shows_card_owner_kinds_code_version_and_columns(graph: dg.Definitions) -> None:
    for spec in graph.resolve_all_asset_specs():
        assert "Reads:" in (spec.description or ""), spec.key
        assert "Writes:" in (spec.description or ""), spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.code_version, spec.key
        if spec.key.path[2:3] in (["prompts"], ["verifications"], ["filtered_set"], ["gap_metrics"]):
            assert spec.metadata["dagster/column_schema"].columns


def test_more_iterations_leave_earlier_artifacts_alone() -> None:
    """A finished study can be carried on: nothing of its first iterations changes its fingerprint."""
    short, long = (
        Plan(load_study(ROOT / "studies" / "quickstart.yaml", [f"iterations={t}"])) for t in (2, 3)
    )
    kept = [a for a in short.nodes if a.stage not in ("report", *ANALYSES)]
    assert kept
    for address in kept:
        assert short.fingerprint(address) == long.fingerprint(address), address


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("generation.temperature=0.5", {"generations"}),
        ("verification.0.num_verifications=2", {"verifications", "probes"}),
        ("weighting.q=0.5", {"filtered_set", "gap_metrics", *ANALYSES}),
        ("weighting.beta=9", set()),  # not a parameter of the quantile rule
        ("distillation.learning_rate=0.002", {"checkpoint"}),
        ("analysis.confidence=0.9", {"gap_metrics", *ANALYSES}),
        ("stop.min_gap=0.1", set()),  # decides whether, not what
        ("description=other", set()),
    ],
)
def test_an_override_changes_its_own_stage_and_what_descends_from_it(
    override: str, changed: set[str]
) -> None:
    before = Plan(QUICKSTART)
    after = Plan(load_study(ROOT / "studies" / "quickstart.yaml", [override]))
    own = {a.stage for a in before.nodes if before.nodes[a].fields != after.nodes[a].fields}
    assert own == changed
    descendants = set().union(*(before.descendants(stage) for stage in changed)) if changed else set()
    for address in before.nodes:
        differs = before.fingerprint(address) != after.fingerprint(address)
        assert differs == (address.stage in changed or address in descendants), address


def test_the_code_location_loads_quickly_and_without_torch(tmp_path: Path) -> None:
    """Imports only; a time is printed by the benchmark, here heavy libraries are refused by name."""
    program = (
        "import sys; from si_dagster.definitions import defs; defs();"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'deepspeed', 'datasets', 'altair'};"
        "bad = heavy & set(sys.modules);"
        "assert not bad, bad"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"SI_DAGSTER_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def custom_study(folder: Path, **splits: object) -> Study:
    """A study on a local file in that folder."""
    options = {
        "path": str(folder / "rows.jsonl"),
        "grader": "number",
        "columns": {"question": "q", "reference": "a"},
    }
    data = {
        "name": "local",
        "tasks": [{"name": "custom", "options": options}],
        "models": [{"name": "pico", "pretrain": {}, "prompt_style": "text"}],
        "splits": {"train": 4, "eval": 2, **splits},
    }
    return parse_study(data, "local.yaml")


def write_rows(folder: Path, last: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = [f'{{"q": "How much are {i} and {i} together?", "a": "{2 * i}"}}' for i in range(20)]
    (folder / "rows.jsonl").write_text("\n".join([*rows, f'{{"q": "And now?", "a": "{last}"}}']))


def test_local_data_counts_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    """An edited file makes prompts stale; the same bytes elsewhere do not."""
    write_rows(tmp_path / "here", last=1)
    write_rows(tmp_path / "there", last=1)
    here, there = (planned(custom_study(tmp_path / place)) for place in ("here", "there"))
    prompts = next(a for a in here.nodes if a.stage == "prompts")
    assert {a: here.fingerprint(a) for a in here.nodes} == {a: there.fingerprint(a) for a in there.nodes}
    write_rows(tmp_path / "there", last=22)
    edited = planned(custom_study(tmp_path / "there"))
    assert edited.fingerprint(prompts) != here.fingerprint(prompts)
    changed = [
        key for key in here.recipe(prompts) if here.recipe(prompts)[key] != edited.recipe(prompts)[key]
    ]
    assert changed == ["task.options.data_digest"]
    (tmp_path / "there" / "rows.jsonl").unlink()
    with pytest.raises(TaskDataError, match=r"no file .*rows\.jsonl"):
        planned(custom_study(tmp_path / "there"))


def test_training_prompts_are_dealt_by_iteration_unless_the_study_keeps_them(tmp_path: Path) -> None:
    write_rows(tmp_path, last=1)
    for fresh, kept in ((True, False), (False, True)):
        plan = planned(custom_study(tmp_path, fresh_train=fresh))
        first, second = (
            plan.fingerprint(plan.address("prompts", t, ("pico", "custom"), "train")) for t in (0, 1)
        )
        assert (first == second) == kept


def test_an_update_starts_from_the_previous_policy_unless_the_study_says_base() -> None:
    def starts(word: str) -> list[str]:
        plan = Plan(load_study(MINI, [f"distillation.start_from={word}", "iterations=3"]))
        made = (plan.address("checkpoint", t, ("pico", "sudoku4")) for t in range(3))
        return [plan.nodes[address].inputs["start_policy"].stage for address in made]

    assert starts("previous") == ["base_checkpoint", "checkpoint", "checkpoint"]
    assert starts("base") == ["base_checkpoint"] * 3


def test_every_verification_is_an_asset_and_a_second_one_moves_no_key() -> None:
    one, two = (
        definitions([load_study(MINI, [f"verification={names}"])])
        for names in ("[multiple_choice]", "[multiple_choice, {method: random, verifier: base}]")
    )
    keys = [{s.key.to_user_string() for s in graph.resolve_all_asset_specs()} for graph in (one, two)]
    assert keys[1] - keys[0] == {f"mini/iteration_{t}/verifications/random-by-base" for t in (0, 1, 2)}
    assert keys[0] <= keys[1]
    cards = {spec.key.path[-1]: spec.description or "" for spec in two.resolve_all_asset_specs()}
    assert "method random, verifier base" in cards["random-by-base"]
    versions = [{s.key: s.code_version for s in graph.resolve_all_asset_specs()} for graph in (one, two)]
    moved = {key.path[-1] for key in versions[0] if versions[0][key] != versions[1][key]}
    assert moved == {"gap_metrics", *ANALYSES}  # hold a part more, or read one


def test_a_new_grader_makes_what_is_graded_stale_and_nothing_that_was_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Plan(QUICKSTART)
    kept = {address: before.fingerprint(address) for address in before.nodes}
    monkeypatch.setattr(Sudoku4, "grader_version", "raised")
    after = Plan(QUICKSTART)
    stale = {address for address in after.nodes if after.fingerprint(address) != kept[address]}
    utilities = {address for address in after.nodes if address.stage == "utilities"}
    assert utilities | after.descendants("utilities") <= stale
    learned = {"generations", "verifications", "filtered_set", "checkpoint", "prompts"}
    assert not {address.stage for address in stale} & learned
