import shutil
import time

import pytest

from si_dagster.store import layout, lineage
from si_dagster.store.errors import CorruptArtifact, StoreError, StoreWarning
from si_dagster.store.lineage import NATIVE_TABLES, Catalogue, rebuild
from si_dagster.store.schemas import CATALOGUE_TABLES

VIEWS = ("prompts", "generations", "utilities", "verifications", "filtered_sets", "training_rows")


def content(catalogue: Catalogue) -> dict[str, list[tuple]]:
    return {
        name: catalogue.query(f"SELECT * FROM {name} ORDER BY ALL").rows()
        for name in (*NATIVE_TABLES, *VIEWS)
    }


@pytest.fixture
def catalogue(maker) -> Catalogue:
    maker.two_iterations()
    return Catalogue(maker.home)


def test_sql_reaches_across_iterations(catalogue):
    by_iteration = catalogue.query(
        "SELECT g.iteration, g.model, g.task, avg(u.utility) AS j, count(*) AS n "
        "FROM generations g JOIN utilities u USING (generation_id) GROUP BY ALL ORDER BY ALL"
    )
    assert by_iteration.rows() == [(0, "s", "facts", 0.5, 12), (1, "s", "facts", 0.5, 12)]
    gaps = catalogue.query("SELECT iteration, gap FROM metrics ORDER BY iteration").rows()
    assert gaps == [(0, 0.5), (1, 0.25)]
    trained = catalogue.query(
        "SELECT checkpoint, count(*), sum(weight) FROM training_rows GROUP BY ALL ORDER BY ALL"
    )
    assert trained.rows() == [
        ("pico/iteration_0/checkpoint/s|facts", 3, 6.0),
        ("pico/iteration_1/checkpoint/s|facts", 3, 6.0),
    ]


@pytest.mark.parametrize("name", CATALOGUE_TABLES)
def test_the_document_names_the_columns_there_are(catalogue, name):
    told = [column for names in CATALOGUE_TABLES[name][1] for column in names.split(", ")]
    assert told == catalogue.query(f"SELECT column_name FROM (DESCRIBE {name})")["column_name"].to_list()


def test_edges_name_the_version_that_was_read(catalogue):
    broken = catalogue.query(
        "SELECT e.* FROM edges e LEFT JOIN artifacts a ON a.artifact_id = e.parent "
        "AND a.data_version = e.parent_data_version WHERE a.artifact_id IS NULL"
    )
    assert broken.is_empty()
    # 7 stages an iteration but the base: prompts 0, generations 2, utilities 2, verifications 3,
    # filtered_set 3, gap_metrics 2, checkpoint 2 inputs.
    assert catalogue.query("SELECT count(*) AS n FROM edges")["n"].item() == 2 * 14


def test_a_catalogue_made_anew_equals_the_old_one(maker, catalogue):
    with pytest.raises(StoreError):
        maker.iteration(0, maker.store.manifest(maker.address("base_checkpoint", None)), "again")
    address = maker.address("generations", 1, "train")
    with maker.store.open_writer(address, {"seed": 9}, "new", study_snapshot={}, supersede=True) as writer:
        writer.write_part(maker.generations(1)[:4])
        catalogue.record(writer.commit(dagster_run_id="run-9"))
    before = content(catalogue)
    assert len(before["generations"]) == 12 + 4
    assert rebuild(maker.home) == catalogue.path
    assert content(catalogue) == before
    catalogue.path.unlink()
    catalogue.rebuild()
    assert content(catalogue) == before


def test_recording_twice_is_the_same_as_once(maker, catalogue):
    before, stamp = content(catalogue), catalogue.path.stat().st_mtime_ns
    for manifest in maker.store.manifests():
        catalogue.record(manifest)
    assert content(catalogue) == before
    assert catalogue.path.stat().st_mtime_ns == stamp, "nothing to say, so the file was left alone"


def test_one_recording_takes_in_what_a_killed_run_left_unrecorded(maker, catalogue):
    forgotten = maker.table(maker.address("generations", 7), maker.generations(7), [])
    recorded = maker.table(maker.address("utilities", 7), maker.utilities(7), [])
    catalogue.record(recorded)
    found = catalogue.query("SELECT artifact_id FROM artifacts WHERE iteration = 7 ORDER BY ALL")[
        "artifact_id"
    ]
    assert found.to_list() == [forgotten.artifact_id, recorded.artifact_id]


def test_superseded_artifacts_stay_and_are_marked_and_no_view_holds_their_rows(maker, catalogue):
    address = maker.address("filtered_set", 0)
    before = catalogue.query("SELECT * FROM training_rows ORDER BY ALL").rows()
    with maker.store.open_writer(address, {"q": 0.9}, "new", study_snapshot={}, supersede=True) as writer:
        assert catalogue.query("SELECT * FROM filtered_sets WHERE iteration = 0").is_empty()
        writer.write_part(maker.filtered_set(0)[:1])
        catalogue.record(writer.commit())
    versions = catalogue.query(
        "SELECT superseded_at IS NOT NULL AS old, num_rows, path FROM artifacts "
        "WHERE artifact_id = ? ORDER BY old",
        [address.artifact_id],
    )
    assert versions["old"].to_list() == [False, True]
    assert versions["num_rows"].to_list() == [1, 3]
    assert versions["path"][0] == f"data/{address.artifact_id}"
    assert versions["path"][1].startswith("data/.superseded/20")
    assert catalogue.query("SELECT * FROM filtered_sets WHERE iteration = 0").height == 1
    # The checkpoint is still the one that was trained on the old rows, and says so.
    assert catalogue.query("SELECT * FROM training_rows ORDER BY ALL").rows() == before


def test_an_open_reader_keeps_its_snapshot(maker, catalogue):
    with catalogue.connect() as reader:
        count = "SELECT count(*) FROM artifacts"
        before = reader.execute(count).fetchall()
        catalogue.record(maker.table(maker.address("generations", 5), maker.generations(5), []))
        assert reader.execute(count).fetchall() == before
        with catalogue.connect() as second:
            assert second.execute(count).fetchall() == [(before[0][0] + 1,)]


def test_readers_cannot_write(catalogue):
    with catalogue.connect() as reader, pytest.raises(Exception, match="read-only"):
        reader.execute("DELETE FROM artifacts")


def test_a_moved_home_is_noticed_and_made_right(maker, catalogue, tmp_path):
    before = content(catalogue)
    shutil.move(maker.home, tmp_path / "elsewhere")
    moved = Catalogue(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"was made for .*/home, and its views read there: rebuild"):
        moved.connect()
    moved.sync()
    assert content(moved) == before


def test_a_damaged_catalogue_or_manifest_stops_no_recording(maker, catalogue):
    before = content(catalogue)
    catalogue.path.write_bytes(b"not a database" * 1000)
    with pytest.warns(StoreWarning, match="made anew: .*lineage.duckdb cannot be opened"):
        catalogue.sync()
    assert content(catalogue) == before
    assert (maker.home / "lineage.duckdb.corrupt").exists()
    bad = maker.table(maker.address("generations", 8), maker.generations(8), [])
    path = maker.store.folder(bad.address) / "manifest.json"
    path.write_text(path.read_text().replace('"num_rows": 12', '"num_rows": 13'))
    good = maker.table(maker.address("generations", 9), maker.generations(9), [])
    with pytest.warns(StoreWarning, match="left out of the catalogue: .*it was edited"):
        catalogue.record(good)
    late = catalogue.query("SELECT iteration FROM artifacts WHERE iteration > 7")["iteration"]
    assert late.to_list() == [9]


def test_a_damaged_or_missing_catalogue_says_how_to_make_it(catalogue):
    catalogue.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptArtifact, match=r"cannot be opened .*: rebuild the catalogue"):
        catalogue.connect()
    before = content(Catalogue(catalogue.home)) if catalogue.rebuild() else {}
    assert len(before["artifacts"]) == 15
    catalogue.path.unlink()
    with pytest.raises(StoreError, match="is not there: materialise something, or rebuild"):
        catalogue.connect()


def test_what_is_not_on_disk_cannot_be_recorded(maker, catalogue):
    manifest = maker.table(maker.address("generations", 5), maker.generations(5), [])
    shutil.rmtree(maker.store.folder(manifest.address))
    with pytest.raises(StoreError, match="has no manifest on disk"):
        catalogue.record(manifest)


def test_a_point_query_over_many_rows(maker, capsys):
    maker.num_prompts = 25_000
    frame = maker.generations(0)
    for part in range(4):
        address = maker.address("generations", 0, f"p{part}")
        maker.table(address, frame[part * 25_000 : (part + 1) * 25_000], [])
    catalogue = Catalogue(maker.home)
    catalogue.sync()
    identifier = layout.generation_id(maker.address("generations", 0), "train-17321", 2)
    with catalogue.connect() as reader:
        started = time.perf_counter()
        rows = reader.execute(
            "SELECT completion FROM generations WHERE generation_id = ?", [identifier]
        ).fetchall()
        seconds = time.perf_counter() - started
    assert rows == [("17321",)]
    with capsys.disabled():
        print(f"\none generation of {frame.height:,} by id: {seconds * 1e3:.1f} ms")


def test_half_a_file_hides_no_other_and_is_told(maker, catalogue):
    address = maker.address("filtered_set", 0)
    (part,) = maker.store.require(address).part_paths
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.warns(StoreWarning, match=f"left out of the catalogue: {part}"):
        catalogue.rebuild()
    iterations = catalogue.query("SELECT DISTINCT iteration FROM filtered_sets").rows()
    assert iterations == [(1,)]
    assert catalogue.query("SELECT count(*) AS n FROM generations")["n"].item() == 24


def test_what_another_run_moves_aside_while_it_is_read_is_listed_again(maker, catalogue, monkeypatch):
    """The very moment is chosen: a view is about to be made over a file that has just gone."""
    moved, whole = [], lineage._is_whole

    def moves_after_the_look(path):
        found = whole(path)
        if "utilities" in str(path) and not moved:
            moved.append(path.parent)
            shutil.move(path.parent, maker.home / "elsewhere")
        return found

    monkeypatch.setattr(lineage, "_is_whole", moves_after_the_look)
    catalogue.path.unlink()
    catalogue.sync()
    assert moved
    assert catalogue.query("SELECT count(*) FROM utilities").item() == 12
