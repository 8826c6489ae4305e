"""The manifest: what an artifact is, what made it and what it was made from; written last.

Not here: checking files against it (`artifacts`) and finding manifests (`lineage`).
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from si_dagster.store.layout import Address

FORMAT = 1


class _Plain(BaseModel):
    """Frozen plain data; an unknown field is an error, so an old reader never drops what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputRef(_Plain):
    """One artifact that was read, in the very version that was read."""

    role: str
    """What it was read as: `prompts`, `policy`, `verifier`, `filtered_set`, ..."""
    artifact_id: str
    fingerprint: str
    data_version: str


class FileEntry(_Plain):
    """One file of an artifact."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    rows: int | None = None
    """Rows of a Parquet part; `None` for other files."""


class Manifest(_Plain):
    """Everything known about a complete artifact."""

    format: int = FORMAT
    artifact_id: str
    """The address as text; `address` reads it."""
    fingerprint: str
    """Of the recipe; made by the caller."""
    recipe: dict[str, Any]
    """Dotted field -> value of everything that changes the numbers."""
    inputs: list[InputRef]
    files: list[FileEntry]
    num_rows: int
    data_version: str
    """Hash over names and sha256 of the files: equal content, equal version."""
    code_version: str
    study: dict[str, Any]
    """The study as it was when this was made."""
    dagster_run_id: str | None = None
    """The run that completed it; an artifact resumed by a second run names the second."""
    created_at: str
    """UTC, ISO 8601."""
    metadata: dict[str, Any]
    """Numbers of the making: tokens, seconds, counts."""
    checksum: str = ""
    """The sha256 over all other fields: an edited manifest vouches for nothing."""

    @property
    def address(self) -> Address:
        """Where it lies."""
        return Address.parse(self.artifact_id)

    @property
    def version(self) -> str:
        """16 hex digits that tell this making of the artifact from any other at the same address."""
        return self.checksum[:16]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    def as_input(self, role: str) -> InputRef:
        """This artifact as an input of another."""
        return InputRef(
            role=role,
            artifact_id=self.artifact_id,
            fingerprint=self.fingerprint,
            data_version=self.data_version,
        )

    def sealed(self) -> "Manifest":
        """The same manifest with its checksum."""
        return self.model_copy(update={"checksum": self.expected_checksum()})

    def expected_checksum(self) -> str:
        """The checksum its fields ask for."""
        fields = self.model_dump(mode="json", exclude={"checksum"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def content_version(files: list[FileEntry]) -> str:
    """The data version of a set of files: a hash over their hashes, and over names that mean something.

    A part of a table has a number for a name, which says nothing of its rows: a damaged part that was made
    again under another number is the same data. Cuts into parts count: it speaks of bytes at rest.

    Examples:
        >>> parts = [FileEntry(name=f"part-00000{n}.parquet", size=1, sha256="ab", rows=2) for n in (0, 7)]
        >>> content_version(parts[:1]) == content_version(parts[1:])
        True
        >>> content_version([FileEntry(name="a", size=1, sha256="ab")])[:12]
        '285061360040'
    """
    lines = sorted(f"{file.name if file.rows is None else 'part'} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
