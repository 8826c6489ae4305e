import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from si_dagster.store.errors import (
    AddressError,
    CorruptArtifact,
    MissingArtifact,
    RecipeDrift,
    SchemaError,
    StoreError,
    StoreWarning,
)
from si_dagster.store.layout import Address
from si_dagster.store.manifest import InputRef

RECIPE = {"generation.temperature": 0.7, "generation.n": 8, "seed": 0}


def open_draws(maker, recipe=RECIPE, iteration=0, **options):
    address = maker.address("generations", iteration)
    return maker.store.open_writer(
        address, recipe, json.dumps(recipe), study_snapshot={"name": "pico"}, **options
    )


def flip_byte(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def test_what_is_written_in_parts_is_read_as_one_table(maker):
    frame = maker.generations(0)
    with open_draws(maker) as writer:
        writer.write_part(frame[:5])
        writer.write_part(frame[5:])
        assert writer.write_part(frame[:0]) is None
        manifest = writer.commit(metadata={"tokens": 24}, dagster_run_id="r", code_version="3")
    artifact = maker.store.require(maker.address("generations", 0))
    assert artifact.read().sort("generation_id").equals(frame.sort("generation_id"))
    assert artifact.scan().select(pl.len()).collect().item() == 12
    assert artifact.read(["prompt_id"]).columns == ["prompt_id"]
    assert manifest == maker.store.manifest(maker.address("generations", 0))
    assert [(file.name, file.rows) for file in manifest.files] == [
        ("part-000000.parquet", 5),
        ("part-000001.parquet", 7),
    ]
    assert manifest.num_rows == 12
    assert manifest.recipe == RECIPE
    assert manifest.metadata == {"tokens": 24}


def test_an_artifact_without_rows_is_complete_and_empty(maker):
    with open_draws(maker) as writer:
        writer.commit()
    assert maker.store.require(maker.address("generations", 0)).read().equals(maker.generations(0).clear())


def test_equal_rows_have_an_equal_data_version_and_other_rows_another(maker):
    first = maker.table(maker.address("utilities", 0), maker.utilities(0), [])
    again = maker.table(maker.address("utilities", 0, study="copy"), maker.utilities(0), [], run="other")
    other = maker.table(maker.address("utilities", 1), maker.utilities(1), [])
    assert first.data_version == again.data_version != other.data_version


def test_a_row_is_never_written_twice(maker):
    frame = maker.generations(0)
    with open_draws(maker) as writer:
        writer.write_part(frame[:5])
        with pytest.raises(SchemaError, match=r"1 rows are already there, e\.g\. pico/.*train-1/0"):
            writer.write_part(frame[4:])
    with open_draws(maker) as writer:
        assert writer.existing().equals(frame[:5])
        with pytest.raises(SchemaError, match="already there"):
            writer.write_part(frame[:1])
        writer.write_part(frame[5:])
        writer.commit()
        with pytest.raises(StoreError, match="is complete since"):
            writer.write_part(maker.generations(1))


def test_committing_again_changes_nothing(maker):
    with open_draws(maker) as writer:
        writer.write_part(maker.generations(0))
        manifest = writer.commit(dagster_run_id="first")
    with open_draws(maker) as writer:
        assert writer.is_complete
        assert writer.commit(dagster_run_id="second") == manifest


def test_drift_is_shown_field_by_field_with_the_ways_out(maker):
    with open_draws(maker) as writer:
        writer.write_part(maker.generations(0)[:3])
    changed = {"generation.temperature": 1.0, "generation.n": 8, "generation.top_p": 0.9}
    with pytest.raises(RecipeDrift) as drift:
        open_draws(maker, changed)
    assert str(drift.value).splitlines() == [
        "pico/iteration_0/generations/s|facts was made by another recipe:",
        "  generation.temperature: stored 0.7, study says 1.0",
        "  generation.top_p: stored nothing, study says 0.9",
        "  seed: stored 0, study says nothing",
        "Restore the fields, or give the study another name (name=...) so that both stay, or run "
        "with --supersede (moves the old one to data/.superseded and deletes nothing)",
    ]
    assert drift.value.fields["generation.temperature"] == (0.7, 1.0)
    with open_draws(maker) as writer:
        assert writer.existing().height == 3


def test_inputs_made_anew_are_drift_too(maker):
    before = InputRef(
        role="policy", artifact_id="pico/base_checkpoint/s|facts", fingerprint="f", data_version="a" * 64
    )
    after = before.model_copy(update={"data_version": "b" * 64})
    open_draws(maker, inputs=[before]).close()
    open_draws(maker, inputs=[before]).close()
    with pytest.raises(
        RecipeDrift, match=r"inputs.policy: stored .*at aaaaaaaaaaaa\", study says .*at bbbbbbbbbbbb"
    ):
        open_draws(maker, inputs=[after])


def test_superseding_moves_the_old_one_whole_and_starts_anew(maker):
    with open_draws(maker) as writer:
        writer.write_part(maker.generations(0)[:3])
    with open_draws(maker, {"seed": 1}, supersede=True) as writer:
        assert writer.existing().is_empty()
        writer.write_part(maker.generations(0)[3:])
    with open_draws(maker, {"seed": 1}, supersede=True) as writer:
        assert writer.existing().height == 9, "an unfinished artifact of the same recipe is resumed"
    (old,) = (maker.home / "data" / ".superseded").glob("*/pico/iteration_0/generations/s|facts")
    assert json.loads((old / "begin.json").read_text())["recipe"] == RECIPE
    assert pl.read_parquet(old / "part-000000.parquet").height == 3


def test_a_damaged_part_of_an_unfinished_artifact_is_set_aside_and_made_again(maker):
    frame = maker.generations(0)
    for damage in ("cut", "flip", "copy"):
        iteration = ["cut", "flip", "copy"].index(damage)
        with open_draws(maker, iteration=iteration) as writer:
            writer.write_part(frame[:5])
            writer.write_part(frame[5:10])
            part = writer.folder / "part-000001.parquet"
        if damage == "cut":
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
        elif damage == "flip":
            flip_byte(part, 60)
        else:
            part.write_bytes((writer.folder / "part-000000.parquet").read_bytes())
        with pytest.warns(StoreWarning, match=r"set aside as part-000001.parquet.corrupt"):
            writer = open_draws(maker, iteration=iteration)
        with writer:
            assert writer.existing().equals(frame[:5])
            assert writer.write_part(frame[5:]).name == "part-000002.parquet"
            writer.commit()
        assert (writer.folder / "part-000001.parquet.corrupt").exists()
        artifact = maker.store.require(maker.address("generations", iteration))
        assert artifact.read().equals(frame)


@pytest.mark.parametrize("stage", ["table", "checkpoint"])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_damage_to_a_complete_artifact_is_met_before_anyone_reads_it(maker, stage, damage):
    address = maker.address("generations" if stage == "table" else "checkpoint", 0)
    if stage == "table":
        manifest = maker.table(address, maker.generations(0), [])
    else:
        manifest = maker.checkpoint(address, [], b"weights" * 100)
    store, inputs = maker.store, {}
    assert store.reusable(address, manifest.fingerprint, inputs) == manifest
    artifact = store.require(address)
    name = manifest.files[-1].name
    path = artifact.path / name
    size = path.stat().st_size
    if damage == "flip":
        flip_byte(path)
        found = r"expected sha256 \w{64}, found \w{64}"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: size // 2])
        found = f"expected {size} bytes, found {size // 2}"
    else:
        path.rename(path.with_name(".away"))
        found = f"expected {size} bytes, found no file"
    with pytest.raises(CorruptArtifact, match=rf"{name}: {found}\. Restore it from a copy, or materialise"):
        _ = artifact.path
    if stage == "table":
        with pytest.raises(CorruptArtifact, match=found):
            artifact.read()
        with pytest.raises(CorruptArtifact, match=found):
            artifact.scan()
    with pytest.warns(StoreWarning, match="not reused"):
        assert store.reusable(address, manifest.fingerprint, inputs) is None


def test_a_damaged_complete_table_is_resumed_from_its_whole_parts(maker):
    frame = maker.generations(0)
    with open_draws(maker) as writer:
        writer.write_part(frame[:5])
        writer.write_part(frame[5:])
        before = writer.commit()
    flip_byte(writer.folder / "part-000001.parquet")
    with pytest.warns(StoreWarning, match="expected sha256"):
        writer = open_draws(maker)
    with writer:
        assert not writer.is_complete
        assert writer.existing().equals(frame[:5])
        writer.write_part(frame[5:])
        after = writer.commit()
    assert maker.store.require(after.address).read().equals(frame)
    (kept,) = (maker.home / "data" / ".superseded").glob(
        "*/pico/iteration_0/generations/s|facts/manifest.json"
    )
    assert json.loads(kept.read_text())["checksum"] == before.checksum


def test_an_edited_manifest_vouches_for_nothing(maker):
    address = maker.address("generations", 0)
    maker.table(address, maker.generations(0), [], seed=0)
    path = maker.store.folder(address) / "manifest.json"
    original = path.read_text()
    path.write_text(original.replace('"seconds": 1.5', '"seconds": 1.4'))
    with pytest.raises(
        CorruptArtifact, match=r"manifest.json: expected checksum \w+, found \w+: it was edited"
    ):
        maker.store.require(address)
    path.write_text(original[:-20])
    with pytest.raises(CorruptArtifact, match=r"manifest.json: not a manifest"):
        maker.store.require(address)
    with pytest.warns(StoreWarning, match=r"manifest.json.corrupt"):
        writer = maker.store.open_writer(address, {"seed": 0}, '{"seed": 0}', study_snapshot={})
    with writer:
        assert writer.existing().height == 12
        writer.commit()
    assert maker.store.require(address).read().height == 12


def test_what_is_missing_says_what_to_materialise(maker):
    address = maker.address("generations", 2, "eval")
    with pytest.raises(
        MissingArtifact,
        match=r"is not there: materialise asset pico/iteration_2/generations, partition s\|facts / eval",
    ):
        maker.store.require(address)
    with open_draws(maker) as writer:
        writer.write_part(maker.generations(0)[:3])
    with pytest.raises(MissingArtifact, match="was begun and holds 1 whole parts, but is not finished"):
        maker.store.require(maker.address("generations", 0))


def test_files_nobody_vouches_for_are_not_read(maker):
    manifest = maker.checkpoint(maker.address("checkpoint", 0), [], b"w" * 99)
    folder = maker.store.folder(manifest.address)
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(
        CorruptArtifact, match=r"generation_config.json: the manifest does not know this file"
    ):
        _ = maker.store.require(manifest.address).path
    (folder / "generation_config.json").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"expected manifest.json, found 2 files without it"):
        maker.store.require(manifest.address)
    (folder / "begin.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"without begin.json, so the recipe of these files is unknown"):
        maker.checkpoint(manifest.address, [], b"w" * 99)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pytorch_model.bin", b"\x80\x04", "is a pickle or raw array, refused"),
        ("optimizer.pt", b"PK", "is a pickle or raw array, refused"),
        ("modeling.py", b"import os", "cannot be adopted: stage 'checkpoint' takes .safetensors .json"),
        ("manifest.json", b"{}", "cannot be adopted"),
        ("model.safetensors", b"\x80\x04\x95pickle in disguise", "is not safetensors"),
    ],
)
def test_a_checkpoint_takes_no_file_that_can_carry_code(maker, tmp_path, name, content, message):
    with maker.store.open_writer(maker.address("checkpoint", 0), {}, "fp", study_snapshot={}) as writer:
        (writer.staging_dir / "config.json").write_text("{}")
        (writer.staging_dir / name).write_bytes(content)
        with pytest.raises(StoreError, match=message):
            writer.adopt_folder(writer.staging_dir)
        with pytest.raises(StoreError, match="has no files: call adopt_folder"):
            writer.commit()
        (writer.staging_dir / name).unlink()
        (writer.staging_dir / "nested").mkdir()
        with pytest.raises(StoreError, match="nested is not a file: give the folder that directly holds"):
            writer.adopt_folder(writer.staging_dir)


def test_a_link_is_not_adopted(maker, tmp_path):
    (tmp_path / "secret.txt").write_text("outside")
    with maker.store.open_writer(maker.address("checkpoint", 0), {}, "fp", study_snapshot={}) as writer:
        (writer.staging_dir / "vocab.txt").symlink_to(tmp_path / "secret.txt")
        with pytest.raises(StoreError, match="is a link"):
            writer.adopt_folder(writer.staging_dir)


def test_a_folder_from_elsewhere_is_copied_and_staging_goes_with_the_commit(maker, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text('{"a": 1}')
    with maker.store.open_writer(
        maker.address("base_checkpoint", None), {}, "fp", study_snapshot={}
    ) as writer:
        writer.adopt_folder(tmp_path / "elsewhere")
        writer.commit()
    assert (tmp_path / "elsewhere" / "config.json").exists()
    folder = maker.store.require(maker.address("base_checkpoint", None)).path
    assert sorted(path.name for path in folder.iterdir()) == ["begin.json", "config.json", "manifest.json"]


def test_files_of_an_earlier_adoption_do_not_mix_with_the_new(maker):
    with maker.store.open_writer(maker.address("checkpoint", 0), {}, "fp", study_snapshot={}) as writer:
        (writer.staging_dir / "old.json").write_text("{}")
        writer.adopt_folder(writer.staging_dir)
    with maker.store.open_writer(maker.address("checkpoint", 0), {}, "fp", study_snapshot={}) as writer:
        assert [entry.name for entry in writer.adopted] == ["old.json"], "only commit was left to do"
        (writer.staging_dir / "new.json").write_text("{}")
        writer.adopt_folder(writer.staging_dir)
        manifest = writer.commit()
    assert [file.name for file in manifest.files] == ["new.json"]
    assert (writer.folder / "old.json.stale").exists()
    maker.store.require(manifest.address).verify()


def test_reuse_asks_for_the_same_recipe_and_the_same_inputs(maker):
    base = maker.checkpoint(maker.address("base_checkpoint", None), [], b"w" * 99)
    drawn = maker.table(maker.address("generations", 0), maker.generations(0), [base.as_input("policy")])
    read = {base.artifact_id: base.data_version}
    assert maker.store.reusable(drawn.address, drawn.fingerprint, read) == drawn
    assert maker.store.reusable(drawn.address, "other", read) is None
    assert maker.store.reusable(drawn.address, drawn.fingerprint, {base.artifact_id: "other"}) is None
    assert maker.store.reusable(drawn.address, drawn.fingerprint, {}) is None
    assert maker.store.reusable(maker.address("generations", 1), drawn.fingerprint, read) is None


def test_a_twin_is_of_another_study_the_same_recipe_and_whole(maker):
    own, other = (maker.address("base_checkpoint", None, study=study) for study in ("mine", "theirs"))
    assert maker.store.twin(own, "fp") is None
    maker.checkpoint(own, [], b"mine")
    assert maker.store.twin(own, "fp") is None, "it is no twin of its own"
    theirs = maker.checkpoint(other, [], b"theirs")
    found = maker.store.twin(own, "fp")
    assert found is not None
    assert found.manifest == theirs
    assert maker.store.twin(own, "another recipe") is None
    (found.folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.warns(StoreWarning, match="not copied"):
        assert maker.store.twin(own, "fp") is None


def test_one_artifact_never_lies_inside_another(maker):
    def begin(part):
        address = maker.address("generations", 0, part)
        maker.store.open_writer(address, {}, "fp", study_snapshot={}).close()

    begin("eval")
    begin("train")
    with pytest.raises(AddressError, match="already has parts"):
        begin(None)
    with open_draws(maker, iteration=1):
        pass
    with pytest.raises(AddressError, match="is an artifact itself and has no parts"):
        maker.store.open_writer(maker.address("generations", 1, "eval"), {}, "fp", study_snapshot={})


def test_rows_and_files_are_not_confused(maker):
    with open_draws(maker) as writer, pytest.raises(StoreError, match="holds rows, not files"):
        writer.adopt_folder(maker.home)
    with (
        maker.store.open_writer(maker.address("checkpoint", 0), {}, "fp", study_snapshot={}) as writer,
        pytest.raises(StoreError, match="holds files, not rows"),
    ):
        writer.write_part(maker.generations(0))


def test_columns_declared_anew_do_not_mix_with_the_old(maker):
    with open_draws(maker) as writer:
        maker.generations(0).drop("logprob").write_parquet(writer.folder / "part-000000.parquet")
    with pytest.raises(SchemaError, match=r"was written with columns .* declared are now .*logprob"):
        open_draws(maker)


def test_a_report_lies_without_a_cell(maker):
    address = Address("pico", None, "report")
    with maker.store.open_writer(address, {}, "fp", study_snapshot={}) as writer:
        (writer.staging_dir / "report.md").write_text("# Gap")
        writer.adopt_folder(writer.staging_dir)
        writer.commit()
    assert (maker.store.require(address).path / "report.md").read_text() == "# Gap"
    assert maker.store.folder(address) == maker.home / "data" / "pico" / "report"


def test_the_store_opens_without_torch_dagster_or_duckdb():
    code = (
        "import sys, si_dagster.store.artifacts; "
        "print([m for m in ('torch', 'dagster', 'duckdb', 'transformers') if m in sys.modules])"
    )
    repository = Path(__file__).resolve().parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
