"""Writing one artifact: begun with its recipe, grown in whole parts, finished by its manifest.

A killed writer loses at most the part it was writing; the next one resumes. Not here: deciding which rows
are still to be made (the caller compares `existing` with what it wants), and two writers on one artifact.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from si_dagster.store import atomic, layout
from si_dagster.store.errors import (
    AddressError,
    CorruptArtifact,
    RecipeDrift,
    SchemaError,
    StoreError,
    StoreWarning,
)
from si_dagster.store.integrity import BEGIN, MANIFEST, OWN_FILES, data_files, file_fault, read_manifest
from si_dagster.store.keys import KeyHashes
from si_dagster.store.layout import Address
from si_dagster.store.locks import FileLock
from si_dagster.store.manifest import FileEntry, InputRef, Manifest, content_version
from si_dagster.store.schemas import FileStage, TableStage, stage

_ADOPTING = ".adopting.json"
_STAGING = ".staging"
_PART = re.compile(r"part-([0-9]{6})\.parquet")
_ANY_PART = re.compile(r"part-([0-9]{6})\.parquet.*")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz")


def utc_now() -> str:
    """The time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Writer:
    """The one writer of an artifact, from opening to `close`; made by `Store.open_writer`.

    Attributes:
        folder: Where the artifact lies.
        manifest: Its manifest once it is complete, else `None`.
    """

    def __init__(
        self,
        home: Path,
        address: Address,
        recipe: dict[str, Any],
        fingerprint: str,
        *,
        study: dict[str, Any],
        inputs: list[InputRef] | None,
        supersede: bool,
    ):
        self.address = address
        self.folder = layout.folder(home, address)
        self.manifest: Manifest | None = None
        self._home = home
        self._stage = stage(address.stage)
        self._begin: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "artifact_id": address.artifact_id,
                    "fingerprint": fingerprint,
                    "recipe": recipe,
                    "inputs": None if inputs is None else [ref.model_dump() for ref in inputs],
                    "study": study,
                    "begun_at": utc_now(),
                }
            )
        )
        self._entries: dict[str, FileEntry] = {}
        self._keys = KeyHashes()
        """Natural keys of all parts; a join against all parts took 0.1 s a part."""
        self._refuse_nesting()
        lock = self.folder.parent / f".lock-{self.folder.name}"
        self._lock = FileLock(lock, address.artifact_id)
        try:
            self._open(supersede)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; what was written stays and can be resumed."""
        self._lock.release()

    @property
    def is_complete(self) -> bool:
        """Whether the manifest is written: there is nothing left to do."""
        return self.manifest is not None

    # Opening

    def _refuse_nesting(self) -> None:
        """One artifact never lies inside another: moving the outer would move the inner."""
        outer = self.folder.parent
        if self.address.part is not None and ((outer / BEGIN).exists() or (outer / MANIFEST).exists()):
            raise AddressError(f"{self.address.artifact_id}: {outer} is an artifact itself and has no parts")
        inner = [path.parent.name for path in self.folder.glob(f"[!.]*/{BEGIN}")]
        if inner:
            raise AddressError(f"{self.address.artifact_id} already has parts ({inner[0]}, ...)")

    def _open(self, supersede: bool) -> None:
        found = self._found(supersede)
        if found is not None:
            drift = self._drift(found)
            complete = isinstance(found, Manifest)
            if supersede and (drift or complete):
                self._supersede()
                found = None
            elif drift:
                raise RecipeDrift(self._drift_message(drift), drift)
        if found is None:
            atomic.make_folder(self.folder)
            atomic.write_json(self.folder / BEGIN, self._begin)
        atomic.remove_temporaries(self.folder)
        self._take_stock(found if isinstance(found, Manifest) else None)

    def _found(self, supersede: bool) -> Manifest | dict[str, Any] | None:
        """What lies there: a manifest, the beginning of an unfinished artifact, or nothing."""
        try:
            manifest = read_manifest(self.folder)
            if manifest is not None:
                return manifest
        except CorruptArtifact as damage:
            self._set_aside(MANIFEST, str(damage))
        try:
            return self._begun()
        except CorruptArtifact:
            if not supersede:
                raise
        self._supersede()
        return None

    def _begun(self) -> dict[str, Any] | None:
        """The recipe an unfinished artifact was begun with; `None` where nothing lies there."""
        try:
            begun = json.loads((self.folder / BEGIN).read_bytes())
            if missing := {"fingerprint", "recipe", "inputs"} - set(begun):
                raise KeyError(*missing)
            return begun
        except FileNotFoundError:
            files = data_files(self.folder)
            if not files:
                return None
            fault = f"found {', '.join(files)} without {BEGIN}"
        except (ValueError, TypeError, KeyError) as error:
            fault = f"{BEGIN} cannot be read ({error!r})"
        raise CorruptArtifact(
            f"{self.folder}: {fault}, so the recipe of these files is unknown. Run with --supersede: "
            "they are moved away whole and the artifact is made anew"
        )

    def _drift(self, found: Manifest | dict[str, Any]) -> dict[str, tuple[object, object]]:
        """Dotted field -> (stored, asked for now), where they differ; empty where it is the same artifact."""
        stored = found.model_dump(mode="json") if isinstance(found, Manifest) else found
        drift: dict[str, tuple[object, object]] = {}
        if stored["fingerprint"] != self._begin["fingerprint"]:
            drift = _differences(stored["recipe"], self._begin["recipe"])
            drift = drift or {"fingerprint": (stored["fingerprint"], self._begin["fingerprint"])}
        if stored["inputs"] is not None and self._begin["inputs"] is not None:
            drift |= _differences(_versions(stored["inputs"]), _versions(self._begin["inputs"]))
        return drift

    def _drift_message(self, drift: Mapping[str, tuple[object, object]]) -> str:
        lines = [
            f"  {field}: stored {_show(old)}, study says {_show(new)}" for field, (old, new) in drift.items()
        ]
        return "\n".join(
            [
                f"{self.address.artifact_id} was made by another recipe:",
                *lines,
                "Restore the fields, or give the study another name (name=...) so that both stay, or run "
                "with --supersede (moves the old one to data/.superseded and deletes nothing)",
            ]
        )

    def _supersede(self) -> None:
        """Move the whole folder away; killed before or after the rename, nothing is between."""
        target = self._superseded_folder()
        atomic.make_folder(target.parent)
        os.rename(self.folder, target)
        atomic.fsync_folder(target.parent)
        atomic.fsync_folder(self.folder.parent)
        self._tell_catalogue()

    def _superseded_folder(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return layout.superseded_dir(self._home) / stamp / self.address.artifact_id

    def _tell_catalogue(self) -> None:
        """The views name files, which have just moved: they must not fail until the next recording."""
        from si_dagster.store.lineage import Catalogue

        catalogue = Catalogue(self._home)
        if catalogue.path.exists():
            catalogue.sync()

    def _set_aside(self, name: str, why: str) -> None:
        """Rename a damaged file to `<name>.corrupt`, and say so."""
        warnings.warn(f"set aside as {name}.corrupt: {why}", StoreWarning, stacklevel=2)
        os.replace(self.folder / name, _free_name(self.folder / f"{name}.corrupt"))
        atomic.fsync_folder(self.folder)

    def _take_stock(self, manifest: Manifest | None) -> None:
        """Learn which files are whole; an artifact with a damaged one is no longer complete."""
        if manifest is not None and self._still_whole(manifest):
            self.manifest = manifest
            self._entries = {entry.name: entry for entry in manifest.files}
            self._clean_up()
            return
        if isinstance(self._stage, TableStage):
            self._take_stock_of_parts(self._stage)
        else:
            self._finish_adoption()

    def _still_whole(self, manifest: Manifest) -> bool:
        faults = {e.name: file_fault(self.folder / e.name, e) for e in manifest.files}
        damaged = {name: fault for name, fault in faults.items() if fault is not None}
        if not damaged:
            return True
        for name, fault in damaged.items():
            if (self.folder / name).exists():
                self._set_aside(name, f"{self.folder / name}: {fault}")
        target = self._superseded_folder()
        atomic.make_folder(target)
        os.rename(self.folder / MANIFEST, target / MANIFEST)
        atomic.fsync_folder(target)
        atomic.fsync_folder(self.folder)
        self._tell_catalogue()
        return False

    # Tables

    def _take_stock_of_parts(self, table: TableStage) -> None:
        from pyarrow import ArrowException

        for name in data_files(self.folder):
            if _PART.fullmatch(name) is None:
                raise CorruptArtifact(
                    f"{self.folder / name}: not a part of this artifact. Move it out of the folder"
                )
            try:
                entry, keys = _inspect_part(self.folder / name, table)
            except (OSError, ArrowException) as error:
                self._set_aside(
                    name, f"{self.folder / name} cannot be read ({error}); its rows are made again"
                )
                continue
            if self._stored(keys):
                self._set_aside(name, f"{self.folder / name} repeats rows of other parts")
                continue
            self._entries[name] = entry
            self._keys.add(keys)

    def _stored(self, keys: pl.DataFrame) -> list[tuple[object, ...]]:
        """Those of the keys that are in a part; parts are read only where hashes meet."""
        seen = keys.filter(self._keys.seen(keys))
        if seen.is_empty():
            return []
        stored = self.existing(keys.columns)
        return seen.join(stored, on=keys.columns, how="semi", nulls_equal=True).rows()

    def existing(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of the parts that are whole; what is missing from them is still to be made.

        Raises:
            StoreError: If the stage is not a table.
        """
        table = self._table()
        names = list(columns) if columns else list(table.dtypes)
        if not self._entries:
            return table.empty().select(names)
        paths = [self.folder / name for name in sorted(self._entries)]
        return pl.read_parquet(paths, columns=names, glob=False).select(names)

    def write_part(self, frame: pl.DataFrame) -> FileEntry | None:
        """Add rows as one part; when this returns they are on disk for good.

        Returns:
            The part, or `None` for no rows.

        Raises:
            SchemaError: If the frame breaks the schema, or repeats a natural key of this artifact.
            DiskFull: If there is no space; the parts before are whole.
            StoreError: If the artifact is complete.
        """
        self._refuse_if_complete()
        table = self._table()
        frame = table.checked(frame)
        if frame.is_empty():
            return None
        keys = frame.select(table.key)
        if twice := self._stored(keys):
            first = ", ".join(map(str, twice[0]))
            raise SchemaError(
                f"{self.address.artifact_id}: {len(twice)} rows are already there, e.g. {first}; "
                "write only what `existing` does not hold"
            )
        entry = self._put(frame)
        self._keys.add(keys)
        return entry

    def _put(self, frame: pl.DataFrame) -> FileEntry:
        name = f"part-{self._next_number():06d}.parquet"
        written = atomic.write_parquet(self.folder / name, frame)
        entry = FileEntry(name=name, size=written.size, sha256=written.sha256, rows=frame.height)
        self._entries[name] = entry
        return entry

    def _next_number(self) -> int:
        # Above parts set aside too: a name is never used for two contents.
        matches = (_ANY_PART.fullmatch(path.name) for path in self.folder.iterdir())
        return max((int(match[1]) for match in matches if match), default=-1) + 1

    def _table(self) -> TableStage:
        if not isinstance(self._stage, TableStage):
            raise StoreError(
                f"stage {self.address.stage!r} holds files, not rows: use staging_dir and adopt_folder"
            )
        return self._stage

    def _refuse_if_complete(self) -> None:
        if self.manifest is not None:
            raise StoreError(
                f"{self.address.artifact_id} is complete since {self.manifest.created_at}: reuse it, or open "
                "it with supersede=True to make it anew"
            )

    # Folders of files

    @property
    def staging_dir(self) -> Path:
        """A folder for another program to write in; kept when killed, removed by `commit`."""
        staging = self.folder / _STAGING
        atomic.make_folder(staging)
        return staging

    @property
    def adopted(self) -> list[FileEntry]:
        """Files in place and whole; after a kill between adopting and committing only `commit` is left."""
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def adopt_folder(self, path: Path) -> list[FileEntry]:
        """Make the files of a folder the content of the artifact: hashed, durable, moved into place.

        A folder below `staging_dir` is moved, any other is copied. Hidden files are left alone.

        Raises:
            StoreError: If it holds no files, a folder, a link, or a type the stage does not allow; pickles
                are refused because loading one runs code.
            DiskFull: If there is no space.
        """
        self._refuse_if_complete()
        files = self._files_stage()
        sources = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
        if not sources:
            raise StoreError(f"{path} holds no files to adopt")
        for source in sources:
            _refuse_unsafe(source, files)
        if not path.resolve().is_relative_to(self.staging_dir.resolve()):
            path = self._copy_to_staging(sources)
        for source in sources:
            if (path / source.name).is_symlink():
                raise StoreError(f"{path / source.name} is a link: write the file itself")
        entries = [_durable_entry(path / source.name) for source in sources]
        plan = {"source": str(path.relative_to(self.folder)), "files": [e.model_dump() for e in entries]}
        atomic.write_json(self.folder / _ADOPTING, plan)
        self._move_into_place(path, entries)
        return self.adopted

    def _files_stage(self) -> FileStage:
        if not isinstance(self._stage, FileStage):
            raise StoreError(f"stage {self.address.stage!r} holds rows, not files: use write_part")
        return self._stage

    def _copy_to_staging(self, sources: Sequence[Path]) -> Path:
        target = self.staging_dir / ".copy"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        with atomic.explain_full(target):
            for source in sources:
                shutil.copyfile(source, target / source.name)
        return target

    def _move_into_place(self, path: Path, entries: Sequence[FileEntry]) -> None:
        wanted = {entry.name for entry in entries}
        for name in data_files(self.folder):
            if name not in wanted:
                os.replace(self.folder / name, _free_name(self.folder / f"{name}.stale"))
        for entry in entries:
            if (path / entry.name).exists():
                os.replace(path / entry.name, self.folder / entry.name)
        atomic.fsync_folder(self.folder)
        self._entries = {entry.name: entry for entry in entries}

    def _finish_adoption(self) -> None:
        """Complete the moves of a killed adoption, if every file is still as it was hashed."""
        try:
            plan = json.loads((self.folder / _ADOPTING).read_bytes())
        except FileNotFoundError:
            return
        entries = [FileEntry(**entry) for entry in plan["files"]]
        source = self.folder / plan["source"]
        places = (source, self.folder)
        if all(any(file_fault(place / e.name, e) is None for place in places) for e in entries):
            self._move_into_place(source, entries)

    def _clean_up(self) -> None:
        """Remove the work files of the other program; they are no data, the manifest vouches for those."""
        (self.folder / _ADOPTING).unlink(missing_ok=True)
        shutil.rmtree(self.folder / _STAGING, ignore_errors=True)

    # Finishing

    def commit(
        self,
        inputs: Sequence[InputRef] | None = None,
        metadata: Mapping[str, Any] | None = None,
        dagster_run_id: str | None = None,
        code_version: str = "",
    ) -> Manifest:
        """Write the manifest: from here on the artifact exists. Committing a complete one changes nothing.

        Args:
            inputs: What was read; default: as given on opening.
            metadata: Numbers of the making.
            dagster_run_id: The run that completes it.
            code_version: Of the stage's code.

        Raises:
            StoreError: If a folder of files has adopted none.
            DiskFull: If there is no space; the parts are whole.
        """
        if self.manifest is not None:
            return self.manifest
        self._complete_content()
        entries = self.adopted
        references = (
            inputs if inputs is not None else [InputRef(**ref) for ref in self._begin["inputs"] or []]
        )
        manifest = Manifest(
            artifact_id=self.address.artifact_id,
            fingerprint=self._begin["fingerprint"],
            recipe=self._begin["recipe"],
            inputs=list(references),
            files=entries,
            num_rows=sum(entry.rows or 0 for entry in entries),
            data_version=content_version(entries),
            code_version=code_version,
            study=self._begin["study"],
            dagster_run_id=dagster_run_id,
            created_at=utc_now(),
            metadata=dict(metadata or {}),
        ).sealed()
        atomic.write_json(self.folder / MANIFEST, manifest.model_dump(mode="json"))
        self.manifest = manifest
        self._clean_up()
        return manifest

    def _complete_content(self) -> None:
        if self._entries:
            return
        if isinstance(self._stage, FileStage):
            raise StoreError(f"{self.address.artifact_id} has no files: call adopt_folder before commit")
        self._put(self._stage.empty())


def _inspect_part(path: Path, table: TableStage) -> tuple[FileEntry, pl.DataFrame]:
    """Read a part whole, page checksums included, and keep its keys."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        if names != list(table.dtypes):
            raise SchemaError(
                f"{path} was written with columns {', '.join(names)}; declared are now "
                f"{', '.join(table.dtypes)}. Run with --supersede to make it anew"
            )
        frames = [pl.DataFrame(batch.select(list(table.key))) for batch in file.iter_batches()]
        keys = pl.concat([table.empty().select(table.key), *frames])
        num_rows = file.metadata.num_rows
    if len(keys) != num_rows:
        raise OSError(f"holds {len(keys)} rows, its footer says {num_rows}")
    size, sha256 = path.stat().st_size, atomic.sha256_file(path)
    return FileEntry(name=path.name, size=size, sha256=sha256, rows=num_rows), keys


def _refuse_unsafe(path: Path, files: FileStage) -> None:
    allowed = f"stage {files.name!r} takes {' '.join(files.suffixes)}"
    if not path.is_file():
        raise StoreError(f"{path} is not a file: give the folder that directly holds the files; {allowed}")
    if path.suffix in _PICKLES and path.suffix not in files.suffixes:
        raise StoreError(
            f"{path} is a pickle or raw array, refused because loading one can run code: {allowed}"
        )
    if (
        path.suffix not in files.suffixes
        or path.name in OWN_FILES
        or layout.NAME.fullmatch(path.name) is None
    ):
        raise StoreError(f"{path} cannot be adopted: {allowed}")
    if path.suffix == ".safetensors" and not _is_safetensors(path):
        raise StoreError(f"{path} is not safetensors: its first bytes are no header")


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like safetensors: header length (8 bytes, little endian), then a JSON object."""
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and int.from_bytes(head[:8], "little") < path.stat().st_size and head[8:] == b"{"


def _durable_entry(path: Path) -> FileEntry:
    with atomic.explain_full(path):
        atomic.fsync_file(path)
    return FileEntry(name=path.name, size=path.stat().st_size, sha256=atomic.sha256_file(path))


def _free_name(path: Path) -> Path:
    """The path itself, or with a number before its last suffix where that is taken."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def _versions(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"inputs.{ref['role']}": f"{ref['artifact_id']} at {ref['data_version'][:12]}" for ref in inputs}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Field -> (old, new) where they differ, in order; `...` stands for a field that is not there."""
    fields = sorted({*old, *new})
    return {f: (old.get(f, ...), new.get(f, ...)) for f in fields if old.get(f, ...) != new.get(f, ...)}


def _show(value: object) -> str:
    return "nothing" if value is ... else json.dumps(value, ensure_ascii=False)
