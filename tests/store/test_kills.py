"""SIGKILL at random instants, many times; what was acknowledged is there, once, and work resumes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from si_dagster.store.artifacts import Store
from si_dagster.store.errors import ArtifactBusy, MissingArtifact
from si_dagster.store.layout import Address
from si_dagster.store.lineage import Catalogue

NUM_KILLS = 25
CELL = ("generations", "s", "facts")


def kill_soon(zygote, pid: int, instant: random.Random, longest: float) -> bool:
    """Kill a worker at a random instant; whether it was still alive."""
    time.sleep(instant.uniform(0.0, longest))
    os.kill(pid, signal.SIGKILL)  # A worker that has ended waits as a zombie, so the id is still its own.
    return zygote.wait(pid) == signal.SIGKILL


def acknowledged(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_kills_while_writing_parts_lose_no_row_and_double_none(tmp_path, zygote):
    home, log, instant = tmp_path / "home", tmp_path / "log", random.Random(1)
    store, num_prompts = Store(home), 20_000
    address = Address("crash", 0, *CELL)
    kills = 0
    for _ in range(NUM_KILLS):
        kills += kill_soon(zygote, zygote.start("write", home, log, num_prompts), instant, 0.12)
        with pytest.raises(MissingArtifact):
            store.require(address)
    assert kills == NUM_KILLS
    with store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
        found = writer.existing(["prompt_id"])["prompt_id"].to_list()
    said = acknowledged(log)
    assert said
    assert len(found) == len(set(found))
    assert set(said) <= set(found)
    # A part that was renamed but not acknowledged is allowed: at most one a kill.
    assert len(found) - len(said) <= 10 * kills
    # The last run asks for no more than ten rows above what is there, and finishes.
    num_prompts = max(int(name.removeprefix("train-")) for name in found) + 10
    assert zygote.wait(zygote.start("write", home, log, num_prompts)) == 0
    whole = store.require(address).read(["prompt_id", "completion"])
    assert sorted(whole["prompt_id"]) == sorted(f"train-{i}" for i in range(num_prompts))
    assert all(text == name.removeprefix("train-") * 10 for name, text in whole.iter_rows())


def test_kills_while_committing_leave_artifacts_whole_or_resumable(tmp_path, zygote):
    home, log, instant = tmp_path / "home", tmp_path / "log", random.Random(2)
    store, kills, first = Store(home), 0, 0
    for _ in range(NUM_KILLS):
        kills += kill_soon(zygote, zygote.start("commit", home, log, first), instant, 0.12)
        first = len(list((home / "data").glob("crash-*"))) if (home / "data").exists() else 0
    assert kills == NUM_KILLS
    said = set(acknowledged(log))
    whole = {manifest.artifact_id for manifest in store.manifests()}
    assert said
    assert said <= whole
    for artifact_id in whole:
        store.require(Address.parse(artifact_id)).verify()
    for folder in (home / "data").glob("crash-*/iteration_0/*/s|facts"):
        finish(store, Address.parse(str(folder.relative_to(home / "data"))))


def finish(store: Store, address: Address) -> None:
    """Bring one artifact to its end, as a new run would, and see that it is what it should be."""
    with store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
        if address.stage == "generations":
            assert writer.existing().height in (0, 3)
            return
        if not writer.is_complete and writer.adopted:
            assert [entry.name for entry in writer.adopted] == [f"{n}.safetensors" for n in "abc"]
            writer.commit()
        if writer.is_complete:
            store.require(address).verify()


def test_kills_while_recording_leave_the_old_catalogue_or_the_new(tmp_path, zygote):
    home, log, instant = tmp_path / "home", tmp_path / "log", random.Random(3)
    catalogue, kills = Catalogue(home), 0
    for i in range(NUM_KILLS):
        kills += kill_soon(zygote, zygote.start("record", home, log, f"study-{i}", 1_000), instant, 0.4)
        if catalogue.path.exists():
            rows = catalogue.query("SELECT artifact_id FROM artifacts")["artifact_id"].to_list()
            assert len(rows) == len(set(rows))
            assert set(acknowledged(log)) <= set(rows)
    assert kills == NUM_KILLS
    assert acknowledged(log)
    catalogue.sync()
    on_disk = {manifest.artifact_id for manifest in Store(home).manifests()}
    recorded = catalogue.query("SELECT artifact_id FROM artifacts ORDER BY ALL")["artifact_id"].to_list()
    assert recorded == sorted(on_disk)
    assert catalogue.query("SELECT count(*) AS n FROM generations")["n"].item() == 2 * len(on_disk)
    assert not list(home.glob(".tmp-*"))


def test_two_processes_record_at_once_while_a_third_reads(tmp_path, zygote):
    home, log, num_each = tmp_path / "home", tmp_path / "log", 8
    catalogue = Catalogue(home)
    catalogue.rebuild()
    workers = [zygote.start("record", home, log, name, num_each) for name in ("left", "right")]
    counts = []
    while len(acknowledged(log)) < 2 * num_each:
        said = len(acknowledged(log))
        counts.append(catalogue.query("SELECT count(DISTINCT artifact_id) AS n FROM generations")["n"].item())
        assert counts[-1] >= said
    assert [zygote.wait(worker) for worker in workers] == [0, 0]
    assert counts == sorted(counts)
    assert len(set(counts)) > 1, "the reader saw the catalogue grow"
    by_study = catalogue.query("SELECT study, count(*) AS n FROM artifacts GROUP BY study ORDER BY study")
    assert by_study.rows() == [("left", num_each), ("right", num_each)]
    runs = catalogue.query("SELECT dagster_run_id, len(artifacts) AS n FROM runs ORDER BY ALL").rows()
    assert runs == [("run-left", num_each), ("run-right", num_each)]


def test_a_second_writer_is_told_who_holds_the_artifact_and_a_kill_frees_it(tmp_path, zygote):
    home, log = tmp_path / "home", tmp_path / "log"
    holder = zygote.start("hold", home, log)
    while not acknowledged(log):
        time.sleep(0.01)
    store, address = Store(home), Address("held", 0, "prompts")
    with pytest.raises(ArtifactBusy, match=rf"held/iteration_0/prompts .* process {holder} .* since 20\d\d-"):
        store.open_writer(address, {}, "fp", study_snapshot={})
    os.kill(holder, signal.SIGKILL)
    zygote.wait(holder)
    store.open_writer(address, {}, "fp", study_snapshot={}).close()
