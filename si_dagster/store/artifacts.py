"""The store: artifacts by address, each checked against its manifest before anyone reads it.

Not here: what an artifact should be made of (the study's plan), and the index across artifacts (`lineage`).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from si_dagster.store import layout
from si_dagster.store.errors import CorruptArtifact, MissingArtifact, StoreWarning
from si_dagster.store.integrity import (
    BEGIN,
    MANIFEST,
    REMEDY,
    data_files,
    file_fault,
    manifest_folders,
    read_manifest,
)
from si_dagster.store.layout import Address
from si_dagster.store.manifest import InputRef, Manifest
from si_dagster.store.schemas import FILES
from si_dagster.store.writer import Writer


@dataclass(frozen=True)
class Artifact:
    """A complete artifact; every way to its bytes checks them first.

    Attributes:
        folder: Where its files lie.
        manifest: What they should be.
    """

    folder: Path
    manifest: Manifest

    @property
    def address(self) -> Address:
        """Where it lies, as said."""
        return self.manifest.address

    @property
    def path(self) -> Path:
        """The folder, its files verified; what `from_pretrained` is given.

        Raises:
            CorruptArtifact: As `verify`.
        """
        self.verify()
        return self.folder

    @property
    def part_paths(self) -> list[Path]:
        """The Parquet parts, verified, in order.

        Raises:
            CorruptArtifact: As `verify`.
        """
        folder = self.path
        return [folder / entry.name for entry in self.manifest.files if entry.rows is not None]

    def verify(self) -> None:
        """Compare every file with the manifest; each file is hashed once a process and modification.

        Raises:
            CorruptArtifact: If a file is missing, strange, of another size or of other bytes; it names the
                file, what was expected and what was found.
        """
        for entry in self.manifest.files:
            fault = file_fault(self.folder / entry.name, entry)
            if fault is not None:
                raise CorruptArtifact(f"{self.folder / entry.name}: {fault}. {REMEDY}")
        known = {entry.name for entry in self.manifest.files}
        if strange := [name for name in data_files(self.folder) if name not in known]:
            raise CorruptArtifact(
                f"{self.folder / strange[0]}: the manifest does not know this file. Move it out of the folder"
            )

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The table, parts in order, rows of a part in the order of their natural key.

        Raises:
            CorruptArtifact: As `verify`.
        """
        return pl.read_parquet(self.part_paths, columns=list(columns) if columns else None, glob=False)

    def scan(self) -> pl.LazyFrame:
        """The table, read as far as it is asked for.

        Raises:
            CorruptArtifact: As `verify`.
        """
        return pl.scan_parquet(self.part_paths, glob=False)


class Store:
    """All artifacts below one home folder.

    Args:
        home: The folder; default `layout.default_home()`.
    """

    def __init__(self, home: Path | str | None = None):
        self.home = Path(home).absolute() if home is not None else layout.default_home()

    def folder(self, address: Address) -> Path:
        """Where an artifact lies or would lie."""
        return layout.folder(self.home, address)

    def open_writer(
        self,
        address: Address,
        recipe: Mapping[str, Any],
        fingerprint: str,
        *,
        study_snapshot: Mapping[str, Any],
        inputs: Sequence[InputRef] | None = None,
        supersede: bool = False,
    ) -> Writer:
        """Begin an artifact, or resume it where it was left.

        Args:
            address: Where.
            recipe: Dotted field -> JSON value of everything that changes the numbers.
            fingerprint: Of the recipe.
            study_snapshot: The study as it is now.
            inputs: What will be read. Given here, a resumed artifact whose inputs were made anew in
                between is refused like another recipe; else rows of two inputs could mix.
            supersede: Move what lies there under another recipe, or is complete, to `.superseded`.
                An unfinished artifact of the same recipe is resumed all the same.

        Raises:
            ArtifactBusy: If another process writes it.
            RecipeDrift: If another recipe made what lies there; it lists the fields.
            CorruptArtifact: If files lie there whose recipe cannot be told.
            SchemaError: If it was begun under other columns.
        """
        return Writer(
            self.home,
            address,
            dict(recipe),
            fingerprint,
            study=dict(study_snapshot),
            inputs=None if inputs is None else list(inputs),
            supersede=supersede,
        )

    def manifest(self, address: Address) -> Manifest | None:
        """The manifest of a complete artifact; `None` where it is missing or unfinished.

        Raises:
            CorruptArtifact: If the manifest is damaged.
        """
        return read_manifest(self.folder(address))

    def require(self, address: Address) -> Artifact:
        """A complete artifact; its files are checked when they are asked for.

        Raises:
            MissingArtifact: If it is not there or not finished; says what to materialise.
            CorruptArtifact: If the manifest is damaged, or files lie there without one.
        """
        manifest = self.manifest(address)
        if manifest is not None:
            return Artifact(self.folder(address), manifest)
        folder = self.folder(address)
        files = data_files(folder)
        begun = (folder / BEGIN).is_file()
        if files and (address.stage in FILES or not begun):
            raise CorruptArtifact(
                f"{folder}: expected {MANIFEST}, found {len(files)} files without it ({files[0]}, ...): "
                f"nobody vouches for them. {REMEDY}"
            )
        state = (
            f"was begun and holds {len(files)} whole parts, but is not finished" if begun else "is not there"
        )
        asset, cell = "/".join(address.key), " / ".join(filter(None, (address.cell, address.part)))
        raise MissingArtifact(
            f"{address.artifact_id} {state}: materialise asset {asset}"
            + (f", partition {cell}" if cell else "")
        )

    def reusable(self, address: Address, fingerprint: str, inputs: Mapping[str, str]) -> Manifest | None:
        """The manifest of what lies there, if making it again would make the same.

        Args:
            address: Where.
            fingerprint: Of the recipe as the study asks for it now.
            inputs: Artifact id -> data version of everything that would be read now.

        Returns:
            `None` if it is missing, made otherwise, made from other inputs, or damaged (with a warning).
        """
        try:
            manifest = self.manifest(address)
            if manifest is None or manifest.fingerprint != fingerprint:
                return None
            if {ref.artifact_id: ref.data_version for ref in manifest.inputs} != dict(inputs):
                return None
            Artifact(self.folder(address), manifest).verify()
        except CorruptArtifact as damage:
            warnings.warn(f"not reused: {damage}", StoreWarning, stacklevel=2)
            return None
        return manifest

    def twin(self, address: Address, fingerprint: str) -> Artifact | None:
        """A whole artifact of the same stage and recipe in another study, the first by name.

        It may be copied. Of files alone: rows are numbered by their study.
        """
        if address.stage not in FILES or address.iteration is not None:
            return None
        for file in sorted(layout.data_dir(self.home).glob(f"[!.]*/{address.stage}/*/{MANIFEST}")):
            try:
                manifest = read_manifest(file.parent)
                if manifest and manifest.fingerprint == fingerprint and manifest.address != address:
                    found = Artifact(file.parent, manifest)
                    found.verify()
                    return found
            except CorruptArtifact as damage:
                warnings.warn(f"not copied: {damage}", StoreWarning, stacklevel=2)
        return None

    def manifests(self) -> Iterator[Manifest]:
        """Every complete artifact, superseded ones left out.

        Raises:
            CorruptArtifact: If a manifest is damaged.
        """
        for folder in manifest_folders(self.home):
            if not folder.is_relative_to(layout.superseded_dir(self.home)):
                manifest = read_manifest(folder)
                if manifest is not None:
                    yield manifest
