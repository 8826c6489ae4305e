"""Whether bytes at rest are the ones their manifest vouches for.

Not here: what to do about damage (`writer` sets it aside, `artifacts` refuses to read it). A file changed
within this process's life with its modification time put back is noticed only by the next process.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from si_dagster.store import layout
from si_dagster.store.atomic import sha256_file
from si_dagster.store.errors import CorruptArtifact
from si_dagster.store.manifest import FileEntry, Manifest, content_version

BEGIN = "begin.json"
MANIFEST = "manifest.json"
OWN_FILES = (BEGIN, MANIFEST)
"""Files of the store itself; no stage may have one of these names."""

_SET_ASIDE = (".corrupt", ".stale")

_verified: dict[Path, tuple[int, int, int, str]] = {}
"""File -> (modification time in ns, size, inode, sha256) as last hashed by this process."""

REMEDY = (
    "Restore it from a copy, or materialise the artifact again: what is whole is kept, what is damaged "
    "is set aside and made anew"
)


def data_files(folder: Path) -> list[str]:
    """Names of the files that are, or could be taken for, the content of an artifact, in order."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in OWN_FILES
        and not path.name.endswith(_SET_ASIDE)
    )


def file_fault(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file, or `None`."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return f"expected {entry.size} bytes, found no file"
    if stat.st_size != entry.size:
        return f"expected {entry.size} bytes, found {stat.st_size}"
    seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if _verified.get(path, ())[:3] != seen:
        _verified[path] = (*seen, sha256_file(path))
    found = _verified[path][3]
    return None if found == entry.sha256 else f"expected sha256 {entry.sha256}, found {found}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, if there is one.

    Raises:
        CorruptArtifact: If it cannot be read or its checksum is not that of its fields.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        raise CorruptArtifact(f"{path}: not a manifest ({first['loc']}: {first['msg']}). {REMEDY}") from error
    for what, expected, found in (
        ("checksum", manifest.expected_checksum(), manifest.checksum),
        ("data version", content_version(manifest.files), manifest.data_version),
    ):
        if expected != found:
            raise CorruptArtifact(
                f"{path}: expected {what} {expected}, found {found}: it was edited. {REMEDY}"
            )
    return manifest


def manifest_folders(home: Path) -> Iterator[Path]:
    """Folders that hold a manifest, superseded ones included, in no order."""
    root = layout.data_dir(home)
    for place, names, files in os.walk(root):
        folder = Path(place)
        if MANIFEST in files:
            yield folder
            names.clear()
        names[:] = [n for n in names if not n.startswith(".") or folder / n == layout.superseded_dir(home)]
