"""The lineage catalogue: one DuckDB file over all artifacts of a home, made from their manifests.

It mirrors the manifests on disk and can be made anew from them at any time, so it is an index and never
the truth. Rows stay in Parquet; the catalogue has views over them. A writer copies the published file,
changes the copy in one transaction and renames it over the old one: readers always open a whole snapshot,
block nobody, and a kill at any instant leaves the old file or the new one. Not here: incomplete artifacts,
and homes on file systems without flock.
"""

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from si_dagster.store import atomic, layout
from si_dagster.store.errors import CorruptArtifact, StoreError, StoreWarning
from si_dagster.store.integrity import manifest_folders, read_manifest
from si_dagster.store.locks import locked
from si_dagster.store.manifest import Manifest
from si_dagster.store.schemas import POLICIES, TABLES, TableStage

_WAIT_SECONDS = 120.0
PARQUET_MAGIC = b"PAR1"

_TABLES = """
CREATE TABLE catalogue (home VARCHAR);
CREATE TABLE artifacts (
    artifact_id VARCHAR, version VARCHAR, study VARCHAR, iteration BIGINT, stage VARCHAR, model VARCHAR,
    task VARCHAR, part VARCHAR, fingerprint VARCHAR, data_version VARCHAR, code_version VARCHAR,
    dagster_run_id VARCHAR, created_at TIMESTAMP, superseded_at TIMESTAMP, num_rows BIGINT, num_bytes BIGINT,
    path VARCHAR, recipe JSON, study_snapshot JSON, metadata JSON
);
CREATE TABLE edges (
    child VARCHAR, child_version VARCHAR, parent VARCHAR, parent_data_version VARCHAR,
    parent_fingerprint VARCHAR, role VARCHAR
);
CREATE TABLE files (
    artifact_id VARCHAR, version VARCHAR, path VARCHAR, num_bytes BIGINT, sha256 VARCHAR, num_rows BIGINT
);
CREATE TABLE runs (
    dagster_run_id VARCHAR, first_seen TIMESTAMP, last_seen TIMESTAMP, artifacts VARCHAR[]
);
"""

COSTS_VIEW = """
CREATE OR REPLACE VIEW costs AS SELECT
    study, iteration, stage, model, task, part, artifact_id, num_rows,
    (told->>'$.prompt_tokens')::BIGINT AS prompt_tokens,
    (told->>'$.completion_tokens')::BIGINT AS completion_tokens,
    (told->>'$.cached_tokens')::BIGINT AS cached_tokens,
    coalesce(told->>'$.engine_seconds', told->>'$.seconds')::DOUBLE AS model_seconds,
    (told->>'$.gpu_seconds')::DOUBLE AS gpu_seconds,
    coalesce(told->>'$.flops', told->>'$.pretraining_flops')::DOUBLE AS flops,
    (told->>'$.peak_memory_bytes')::BIGINT AS peak_memory_bytes,
    (told->>'$.peak_gpu_memory_bytes')::BIGINT AS peak_gpu_memory_bytes,
    (metadata->>'$.wall_seconds')::DOUBLE AS wall_seconds,
    copied_from
FROM (
    SELECT *, metadata->>'$.copied_from' AS copied_from,
        CASE WHEN copied_from IS NULL THEN metadata END AS told
    FROM artifacts WHERE superseded_at IS NULL
)
"""
"""What each artifact in force cost; see `analysis.cost`."""

COSTS_PER_ACCEPTED_ROW_VIEW = """
CREATE OR REPLACE VIEW costs_per_accepted_row AS
WITH kept AS (
    SELECT study, iteration, model, task, num_rows AS num_training_rows
    FROM costs WHERE stage = 'filtered_set' AND num_rows > 0
)
SELECT study, iteration, model, task, num_training_rows,
    sum(prompt_tokens) / num_training_rows AS prompt_tokens,
    sum(completion_tokens) / num_training_rows AS completion_tokens,
    sum(cached_tokens) / num_training_rows AS cached_tokens,
    sum(model_seconds) / num_training_rows AS model_seconds,
    sum(gpu_seconds) / num_training_rows AS gpu_seconds,
    sum(flops) / num_training_rows AS flops,
    sum(wall_seconds) / num_training_rows AS wall_seconds
FROM costs JOIN kept USING (study, iteration, model, task)
WHERE stage IN ('prompts', 'generations', 'utilities', 'verifications', 'student', 'filtered_set')
    AND split_part(coalesce(part, 'train'), '.', 1) = 'train'
GROUP BY study, iteration, model, task, num_training_rows
"""
"""As `analysis.cost.costs_per_accepted_row`."""

_RUNS = """
DELETE FROM runs;
INSERT INTO runs
SELECT dagster_run_id, min(created_at), max(created_at), list(artifact_id ORDER BY created_at, artifact_id)
FROM artifacts WHERE dagster_run_id IS NOT NULL GROUP BY dagster_run_id;
"""

NATIVE_TABLES = ("artifacts", "edges", "files", "runs", "metrics")
"""Tables stored in the file itself; the others are views."""

_SQL_TYPES = {"string": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
_CELL = ("study", "iteration", "model", "task")


class Catalogue:
    """The catalogue of one home.

    Args:
        home: The home folder.
    """

    def __init__(self, home: Path | str | None = None):
        self.home = Path(home).absolute() if home is not None else layout.default_home()
        self.path = self.home / "lineage.duckdb"

    def record(self, manifest: Manifest) -> None:
        """Take a committed artifact in, and with it every other that is on disk and not yet known.

        Recording twice is the same as once.

        Raises:
            StoreError: If the manifest is not on disk.
        """
        on_disk = read_manifest(layout.folder(self.home, manifest.address))
        if on_disk is None:
            raise StoreError(f"{manifest.artifact_id} has no manifest on disk: commit it before recording it")
        self.sync(changed=[manifest.artifact_id])

    def sync(self, changed: Iterable[str] = ()) -> None:
        """Make the catalogue mirror the manifests on disk.

        A damaged manifest is left out and a damaged catalogue made anew, each with a warning.

        Args:
            changed: Artifact ids whose manifest is read again even where one is known at that place.

        Raises:
            DiskFull: If there is no space; the published file is as it was.
            ArtifactBusy: If another process does not finish within two minutes.
        """
        with locked(self.home / ".lock-lineage.duckdb", "the lineage catalogue", _WAIT_SECONDS):
            self._mirror(set(changed))

    @retry(
        retry=retry_if_exception(lambda error: _has_vanished(error)),
        stop=stop_after_attempt(10),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def _mirror(self, changed: set[str], anew: bool = False) -> None:
        """Once more where another study's run has moved aside what was about to be read."""
        self._remove_leftovers()
        known = None if anew else self._known()
        if known is None:
            self._publish(_Difference(self.home, gone=[], new=self._locations()), None)
        elif difference := self._difference(known, changed):
            self._publish(difference, self.path)

    def rebuild(self) -> Path:
        """Make the catalogue anew from manifests and Parquet, replacing the old one in one step."""
        with locked(self.home / ".lock-lineage.duckdb", "the lineage catalogue", _WAIT_SECONDS):
            self._mirror(set(), anew=True)
        return self.path

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A read-only connection to the newest snapshot; close it, and connect again to see what came since.

        Raises:
            StoreError: If there is none yet, or the home was moved since it was made.
        """
        if not self.path.exists():
            raise StoreError(f"{self.path} is not there: materialise something, or rebuild the catalogue")
        connection = self._open_published()
        home = _recorded_home(connection)
        if home != str(self.home):
            connection.close()
            raise StoreError(
                f"{self.path} was made for {home}, and its views read there: rebuild the catalogue"
            )
        return connection

    def query(self, sql: str, parameters: list[Any] | None = None) -> pl.DataFrame:
        """The answer to one SQL query over the newest snapshot."""
        with self.connect() as connection:
            return pl.DataFrame(connection.sql(sql, params=parameters or []).to_arrow_table())

    def _remove_leftovers(self) -> None:
        for path in self.home.glob(f"{atomic.TEMPORARY}*lineage.duckdb*"):
            path.unlink(missing_ok=True)

    def _locations(self) -> list[str]:
        return sorted(str(folder.relative_to(self.home)) for folder in manifest_folders(self.home))

    def _difference(self, known: dict[str, str], changed: set[str]) -> "_Difference":
        on_disk = set(self._locations())
        new, gone = on_disk - known.keys(), known.keys() - on_disk
        # A manifest at a known place changes only when the old one was moved away.
        changed |= {_artifact_id(path) for path in new}
        again = [path for path in on_disk & known.keys() if _artifact_id(path) in changed]
        altered = [path for path in again if _version(self.home / path) != known[path]]
        return _Difference(self.home, gone=[*gone, *altered], new=[*new, *altered])

    def _known(self) -> dict[str, str] | None:
        """Place -> version of what is published; `None` where that is missing or of another home."""
        if not self.path.exists():
            return None
        try:
            connection = self._open_published()
        except CorruptArtifact as damage:
            # An index that can be made anew must not stop a run.
            warnings.warn(f"made anew: {damage}", StoreWarning, stacklevel=2)
            os.replace(self.path, self.path.with_name("lineage.duckdb.corrupt"))
            return None
        with connection:
            if _recorded_home(connection) != str(self.home):
                return None
            return dict(connection.execute("SELECT path, version FROM artifacts").fetchall())

    def _open_published(self) -> duckdb.DuckDBPyConnection:
        # Attached to a memory database: DuckDB would hand out a database of the same path that this
        # process still has open, and that may be an older snapshot.
        connection = duckdb.connect()
        try:
            _attach(connection, self.path, "READ_ONLY")
        except duckdb.Error as error:
            connection.close()
            raise CorruptArtifact(f"{self.path} cannot be opened ({error}): rebuild the catalogue") from error
        return connection

    def _publish(self, difference: "_Difference", base: Path | None) -> None:
        temporary = self.home / f"{atomic.TEMPORARY}{os.getpid()}-lineage.duckdb"
        try:
            with atomic.explain_full(self.path):
                if base is not None and base.exists():
                    shutil.copyfile(base, temporary)
                _apply(difference, self.home, temporary)
                atomic.fsync_file(temporary)
                os.replace(temporary, self.path)
                atomic.fsync_folder(self.home)
        finally:
            self._remove_leftovers()


class _Difference:
    """What the catalogue lacks: places whose manifest is gone, and places that are new."""

    def __init__(self, home: Path, gone: list[str], new: list[str]):
        self.home = home
        self.gone = gone
        read = ((path, _readable_manifest(home / path)) for path in sorted(new))
        self.new = [(path, manifest) for path, manifest in read if manifest is not None]

    def __bool__(self) -> bool:
        return bool(self.gone or self.new)

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the change; tables first, where the file is new."""
        if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'artifacts'").fetchall():
            connection.execute(_TABLES)
            columns = ", ".join(f"{c.name} {_SQL_TYPES[c.kind]}" for c in TABLES["gap_metrics"].columns)
            connection.execute(f"CREATE TABLE metrics (artifact_id VARCHAR, version VARCHAR, {columns})")
        connection.execute("DELETE FROM catalogue")
        connection.execute("INSERT INTO catalogue VALUES (?)", [str(self.home)])
        self._delete(connection)
        self._insert(connection)

    def _delete(self, connection: duckdb.DuckDBPyConnection) -> None:
        for path in self.gone:
            which = "(SELECT artifact_id, version FROM artifacts WHERE path = ?)"
            connection.execute(f"DELETE FROM edges WHERE (child, child_version) IN {which}", [path])
            for table in ("files", "metrics"):
                connection.execute(f"DELETE FROM {table} WHERE (artifact_id, version) IN {which}", [path])
            connection.execute("DELETE FROM artifacts WHERE path = ?", [path])

    def _insert(self, connection: duckdb.DuckDBPyConnection) -> None:
        _insert_rows(connection, "artifacts", [_artifact_row(*item) for item in self.new])
        _insert_rows(connection, "edges", [row for _, manifest in self.new for row in _edge_rows(manifest)])
        _insert_rows(connection, "files", [row for item in self.new for row in _file_rows(*item)])
        for path, manifest in self.new:
            if manifest.address.stage == "gap_metrics" and not _is_superseded(path):
                self._insert_metrics(connection, path, manifest)

    def _insert_metrics(self, connection: duckdb.DuckDBPyConnection, path: str, manifest: Manifest) -> None:
        files = [self.home / path / entry.name for entry in manifest.files]
        paths = [str(file) for file in files if _is_whole(file)]
        if not paths:
            return
        connection.execute(
            "INSERT INTO metrics BY NAME SELECT ? AS artifact_id, ? AS version, * FROM read_parquet(?)",
            [manifest.artifact_id, manifest.version, paths],
        )


def _apply(difference: _Difference, home: Path, path: Path) -> None:
    """Change the private copy at `path` in one transaction, and close it without a write-ahead log."""
    try:
        with duckdb.connect() as connection:
            _attach(connection, path, "READ_WRITE")
            connection.execute("BEGIN")
            difference.apply(connection)
            connection.execute(_RUNS)
            for statement in _views(connection, home):
                connection.execute(statement)
            connection.execute("COMMIT")
            connection.execute("CHECKPOINT lineage")
            connection.execute("USE memory")
            connection.execute("DETACH lineage")
    except duckdb.Error as error:
        # By text: a full disk comes as IOException, TransactionException or FatalException.
        if any(os.strerror(code) in str(error) for code in atomic.FULL):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise
    if path.with_name(f"{path.name}.wal").exists():
        raise StoreError(
            f"{path} could not be closed without a write-ahead log: nothing was published, run again"
        )


def _recorded_home(connection: duckdb.DuckDBPyConnection) -> str | None:
    rows = connection.execute("SELECT home FROM catalogue").fetchall()
    return rows[0][0] if rows else None


def rebuild(home: Path | str | None = None) -> Path:
    """Make the catalogue of a home anew; as `Catalogue.rebuild`."""
    return Catalogue(home).rebuild()


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, mode: str) -> None:
    connection.execute("SET threads = 2")
    literal = _literal(str(path))
    connection.execute(f"ATTACH {literal} AS lineage ({mode})")
    connection.execute("USE lineage")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _has_vanished(error: BaseException) -> bool:
    """Whether a file was moved between being listed and being read."""
    no_file = isinstance(error, duckdb.IOException) and "No files found" in str(error)
    return no_file or isinstance(error, FileNotFoundError)


def _is_superseded(path: str) -> bool:
    return Path(path).parts[1] == ".superseded"


def _artifact_id(path: str) -> str:
    parts = Path(path).parts
    return "/".join(parts[3:] if _is_superseded(path) else parts[1:])


def _superseded_at(path: str) -> str | None:
    if not _is_superseded(path):
        return None
    stamp = Path(path).parts[2]  # 20261122T224925.123456Z
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:22]}"


def _version(folder: Path) -> str | None:
    manifest = _readable_manifest(folder)
    return manifest.version if manifest else None


def _readable_manifest(folder: Path) -> Manifest | None:
    """The manifest, unless it is gone by now or damaged: one bad artifact must not hide all others."""
    try:
        return read_manifest(folder)
    except CorruptArtifact as damage:
        warnings.warn(f"left out of the catalogue: {damage}", StoreWarning, stacklevel=2)
        return None


def _artifact_row(path: str, manifest: Manifest) -> dict[str, Any]:
    address = manifest.address
    return {
        "artifact_id": manifest.artifact_id,
        "version": manifest.version,
        "study": address.study,
        "iteration": address.iteration,
        "stage": address.stage,
        "model": address.model,
        "task": address.task,
        "part": address.part,
        "fingerprint": manifest.fingerprint,
        "data_version": manifest.data_version,
        "code_version": manifest.code_version,
        "dagster_run_id": manifest.dagster_run_id,
        "created_at": manifest.created_at.removesuffix("+00:00"),
        "superseded_at": _superseded_at(path),
        "num_rows": manifest.num_rows,
        "num_bytes": manifest.num_bytes,
        "path": path,
        "recipe": json.dumps(manifest.recipe, sort_keys=True),
        "study_snapshot": json.dumps(manifest.study, sort_keys=True),
        "metadata": json.dumps(manifest.metadata, sort_keys=True),
    }


def _edge_rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "child": manifest.artifact_id,
            "child_version": manifest.version,
            "parent": ref.artifact_id,
            "parent_data_version": ref.data_version,
            "parent_fingerprint": ref.fingerprint,
            "role": ref.role,
        }
        for ref in manifest.inputs
    ]


def _file_rows(path: str, manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "artifact_id": manifest.artifact_id,
            "version": manifest.version,
            "path": f"{path}/{entry.name}",
            "num_bytes": entry.size,
            "sha256": entry.sha256,
            "num_rows": entry.rows,
        }
        for entry in manifest.files
    ]


def _insert_rows(connection: duckdb.DuckDBPyConnection, table: str, rows: list[Mapping[str, Any]]) -> None:
    if not rows:
        return
    connection.register("incoming", pl.DataFrame(rows, infer_schema_length=None).to_arrow())
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _views(connection: duckdb.DuckDBPyConnection, home: Path) -> list[str]:
    """Statements that make all views over the artifacts the catalogue now knows."""
    views = [_rows_view(connection, home, table) for table in TABLES.values() if table.view != "metrics"]
    return [*views, _training_rows_view(connection, home), COSTS_VIEW, COSTS_PER_ACCEPTED_ROW_VIEW]


def _rows_view(connection: duckdb.DuckDBPyConnection, home: Path, table: TableStage) -> str:
    """All rows of one stage that are in force, with the cell they belong to in front."""
    paths = connection.execute(
        "SELECT f.path FROM files f JOIN artifacts a USING (artifact_id, version) "
        "WHERE a.stage = ? AND a.superseded_at IS NULL AND f.num_rows > 0 ORDER BY f.path",
        [table.name],
    ).fetchall()
    paths = [path for (path,) in paths if _is_whole(home / path)]
    columns = ", ".join(f"r.{column.name}" for column in table.columns)
    # An analysis is of all cells, so its own columns say which a row is of.
    cell = ", ".join(f"a.{name}" for name in _CELL if name not in table.dtypes)
    if not paths:
        typed = ", ".join(f"NULL::{_SQL_TYPES[column.kind]} AS {column.name}" for column in table.columns)
        return (
            f"CREATE OR REPLACE VIEW {table.view} AS SELECT {cell}, a.artifact_id, {columns} "
            f"FROM artifacts a, (SELECT {typed}) r WHERE false"
        )
    return (
        f"CREATE OR REPLACE VIEW {table.view} AS SELECT {cell}, a.artifact_id, {columns} "
        f"FROM {_read_parquet(home, paths, table)} r "
        f"JOIN files f ON f.path = substr(r.file_path, {len(str(home)) + 2}) "
        "JOIN artifacts a ON a.artifact_id = f.artifact_id AND a.version = f.version"
    )


def _training_rows_view(connection: duckdb.DuckDBPyConnection, home: Path) -> str:
    """Which generation trained which checkpoint in force, with its weight.

    The rows are those of the very version that was read, though the filtered set be superseded since.
    """
    columns = (
        "checkpoint, checkpoint_version, training_row_id, generation_id, rejected_generation_id, weight, "
        "filtered_set"
    )
    paths = _trained_on(connection, home)
    if not paths:
        typed = f"{'NULL::VARCHAR, ' * 5}NULL::DOUBLE, NULL::VARCHAR"
        return f"CREATE OR REPLACE VIEW training_rows({columns}) AS SELECT {typed} WHERE false"
    return (
        f"CREATE OR REPLACE VIEW training_rows({columns}) AS SELECT c.artifact_id, c.version, "
        "r.training_row_id, r.generation_id, r.rejected_generation_id, r.weight, s.artifact_id "
        f"FROM {_read_parquet(home, paths, TABLES['filtered_set'])} r "
        f"JOIN files f ON f.path = substr(r.file_path, {len(str(home)) + 2}) "
        "JOIN artifacts s ON s.artifact_id = f.artifact_id AND s.version = f.version "
        "JOIN edges e ON e.parent = s.artifact_id AND e.parent_data_version = s.data_version "
        "JOIN artifacts c ON c.artifact_id = e.child AND c.version = e.child_version "
        f"WHERE c.stage IN {POLICIES} AND c.superseded_at IS NULL"
    )


def _trained_on(connection: duckdb.DuckDBPyConnection, home: Path) -> list[str]:
    """Files of every filtered set a policy in force was trained on; of equal versions only one."""
    rows = connection.execute(
        "SELECT f.path, s.artifact_id, s.data_version, s.version FROM artifacts s "
        "JOIN files f ON f.artifact_id = s.artifact_id AND f.version = s.version "
        "WHERE s.stage = 'filtered_set' AND f.num_rows > 0 AND EXISTS (SELECT 1 FROM edges e "
        "JOIN artifacts c ON c.artifact_id = e.child AND c.version = e.child_version "
        f"WHERE c.superseded_at IS NULL AND c.stage IN {POLICIES} "
        "AND e.parent = s.artifact_id AND e.parent_data_version = s.data_version) "
        "ORDER BY s.superseded_at DESC NULLS FIRST, f.path"
    ).fetchall()
    chosen: dict[tuple[str, str], str] = {}
    # A damaged artifact that was made again leaves a superseded manifest without files.
    return [
        path
        for path, artifact_id, data_version, version in rows
        if _is_whole(home / path) and chosen.setdefault((artifact_id, data_version), version) == version
    ]


def _is_whole(path: Path) -> bool:
    """Whether a file has both ends of a Parquet file; one damaged file must not hide all others."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(PARQUET_MAGIC))
            file.seek(-len(PARQUET_MAGIC), os.SEEK_END)
            if begins == file.read() == PARQUET_MAGIC:
                return True
    except OSError:
        return False
    warnings.warn(f"left out of the catalogue: {path}: not a whole Parquet file", StoreWarning, stacklevel=2)
    return False


def _read_parquet(home: Path, paths: Iterable[str], table: TableStage) -> str:
    """A relation of files of the home, with their absolute path in column `file_path`."""
    listed = ", ".join(_literal(str(home / path)) for path in paths)
    return parquet_relation(f"[{listed}]", table, ", filename = 'file_path', hive_partitioning = false")


def parquet_relation(files: str, table: TableStage, options: str = "") -> str:
    """Parquet parts of one stage as SQL; columns that a part from before lacks read as null."""
    added = [column for column in table.columns if column.added]
    if not added:
        return f"read_parquet({files}{options})"
    typed = ", ".join(f"NULL::{_SQL_TYPES[column.kind]} AS {column.name}" for column in added)
    return (
        f"(SELECT * FROM read_parquet({files}{options}, union_by_name = true) "
        f"UNION ALL BY NAME SELECT * FROM (SELECT {typed}) WHERE false)"
    )
