"""The history of one row or policy, from the prompt it answers back to the base checkpoint.

Reads the catalogue for who was made from what, in the very versions that were read, and the Parquet parts
of just those artifacts for the rows. Not here: artifacts that no catalogue knows (record or rebuild first),
and the correctness of the bytes (`Artifact.verify`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from si_dagster.store import layout
from si_dagster.store.errors import AddressError, UnknownId
from si_dagster.store.lineage import Catalogue, parquet_relation
from si_dagster.store.schemas import POLICIES, TABLES

Row = dict[str, Any]

_JSON = ("recipe", "metadata", "study_snapshot")
_NEAREST = 3


def trace(home: Path | str | None, identifier: str) -> Row:
    """Everything that led to a row or a policy, as plain JSON values.

    Args:
        home: The home folder.
        identifier: A generation_id, training_row_id, verification_id or artifact id.

    Returns:
        `kind` and `id`; for rows `prompt`, `generation`, `utility` (`None` where ungraded), `verifications`,
        `training_rows` (with the checkpoints each trained, `as_duplicate_of` where an identical completion
        stands for it; of a pair both generations) and `study`; for artifacts `artifact`, `inputs` and
        `used_by`. Always `history`: every policy it descends from, newest first, the base checkpoint last,
        each with what it was made from.

    Raises:
        UnknownId: If nothing has this id; names the nearest ids.
        StoreError: If there is no catalogue.
    """
    catalogue = Catalogue(home)
    with catalogue.connect() as connection:
        return _Tracer(catalogue.home, connection).trace(identifier)


class _Tracer:
    """One trace over one snapshot of the catalogue."""

    def __init__(self, home: Path, connection: duckdb.DuckDBPyConnection):
        self._home = home
        self._connection = connection

    def trace(self, identifier: str) -> Row:
        found = (
            self._training_row(identifier)
            or self._artifact(identifier)
            or self._generation(identifier)
            or self._verification(identifier)
        )
        if found is None:
            nearest = self._nearest(identifier)
            hint = f"the nearest are {', '.join(nearest)}" if nearest else "the catalogue is empty"
            message = f"nothing complete and recorded has the id {identifier!r}: {hint}"
            raise UnknownId(message, nearest)
        return found

    # The kinds of ids

    def _artifact(self, identifier: str) -> Row | None:
        versions = self._cards("artifact_id = ?", [identifier])
        if not versions:
            return None
        card = versions[0]
        kind = "checkpoint" if card["stage"] in POLICIES else "artifact"
        return {
            "kind": kind,
            "id": identifier,
            "artifact": card,
            "inputs": [{"role": role, **parent} for role, parent in self._parents(card)],
            "used_by": [
                {"role": role, "artifact_id": child["artifact_id"]} for role, child in self._children(card)
            ],
            "history": self._history([card]),
        }

    def _generation(self, identifier: str) -> Row | None:
        try:
            key = layout.parse_generation_id(identifier)
        except AddressError:
            return None
        where = "study = ? AND iteration = ? AND stage = 'generations' AND model = ? AND task = ?"
        cell = [key.address.study, key.address.iteration, key.address.model, key.address.task]
        for card in self._cards(where, cell):
            for row in self._rows(card, "generation_id", identifier):
                return self._generation_history(card, row)
        return None

    def _generation_history(self, card: Row, row: Row) -> Row:
        identifier = row["generation_id"]
        prompts = [
            p for _, parent in self._parents(card, "prompts") for p in self._of(parent, "prompt_id", row)
        ]
        utilities = [
            u for _, child in self._children(card, "utilities") for u in self._of(child, "generation_id", row)
        ]
        policies = [parent for _, parent in self._parents(card) if parent["stage"] in POLICIES]
        return {
            "kind": "generation",
            "id": identifier,
            "prompt": next(iter(prompts), None),
            "generation": {**row, "artifact": _without_snapshot(card)},
            "utility": next(iter(utilities), None),
            "verifications": list(self._verifications(card, identifier)),
            "training_rows": list(self._training_rows(card, row)),
            "study": card["study_snapshot"],
            "history": self._history(policies),
        }

    def _verification(self, identifier: str) -> Row | None:
        generation, _, _ = identifier.rpartition("/")[0].rpartition("/")
        history = self._generation(generation) if generation else None
        for row in history["verifications"] if history else ():
            if row["verification_id"] == identifier:
                return {**(history or {}), "kind": "verification", "id": identifier, "verification": row}
        return None

    def _training_row(self, identifier: str) -> Row | None:
        try:
            _, generation = layout.parse_training_row_id(identifier)
        except AddressError:
            return None
        history = self._generation(generation)
        for row in history["training_rows"] if history else ():
            if row["training_row_id"] == identifier:
                return {**(history or {}), "kind": "training_row", "id": identifier, "training_row": row}
        return None

    # Rows

    def _verifications(self, generations: Row, identifier: str) -> Iterator[Row]:
        for _, child in self._children(generations, "verifications"):
            for row in self._rows(child, "generation_id", identifier):
                verifiers = [p for _, p in self._parents(child) if p["stage"] in POLICIES]
                yield {**row, "artifact": child, "verifier_policy": next(iter(verifiers), None)}

    def _training_rows(self, generations: Row, row: Row) -> Iterator[Row]:
        for _, child in self._children(generations, "filtered_set"):
            found = self._rows(child, "generation_id", row["generation_id"])
            twins = () if found else self._rows(child, "prompt_id", row["prompt_id"])
            stand_ins = [twin for twin in twins if twin["completion"] == row["completion"]]
            against = self._rows(child, "rejected_generation_id", row["generation_id"])
            trained = [c["artifact_id"] for _, c in self._children(child) if c["stage"] in POLICIES]
            for training_row in [*(found or ([] if against else stand_ins)), *against]:
                own = training_row in found or training_row in against
                stands_for = None if own else training_row["generation_id"]
                yield {
                    **training_row,
                    "as_duplicate_of": stands_for,
                    "artifact": child,
                    "checkpoints": trained,
                }

    def _of(self, card: Row, column: str, row: Row) -> list[Row]:
        return [{**found, "artifact": card} for found in self._rows(card, column, row[column])]

    def _rows(self, card: Row, column: str, value: str) -> list[Row]:
        """Rows of one artifact by one column, straight from its parts."""
        sql = "SELECT path FROM files WHERE artifact_id = ? AND version = ? AND num_rows > 0 ORDER BY path"
        listed = self._dicts(sql, [card["artifact_id"], card["version"]])
        paths = [str(self._home / file["path"]) for file in listed if (self._home / file["path"]).exists()]
        if not paths:
            return []
        columns = ", ".join(TABLES[card["stage"]].dtypes)
        relation = parquet_relation("?", TABLES[card["stage"]])
        return self._dicts(f"SELECT {columns} FROM {relation} WHERE {column} = ?", [paths, value])

    # Artifacts

    def _history(self, start: list[Row]) -> list[Row]:
        """Every policy `start` descends from, each with the artifacts between it and the ones before it."""
        queue, entries = list(start), {}
        while queue:
            card = queue.pop()
            key = _key(card)
            if key in entries:
                continue
            between, policies = self._up_to_policies(card)
            if card["stage"] in POLICIES:
                ancestors = [policy["artifact_id"] for policy in policies]
                entries[key] = {"policy": card, "made_from": between, "descends_from": ancestors}
            queue.extend(policies)
        return sorted(entries.values(), key=lambda entry: _age(entry["policy"]))

    def _up_to_policies(self, card: Row) -> tuple[list[Row], list[Row]]:
        """The ancestors that are no policies, and the first policies above them."""
        queue, between, policies = [card], {}, {}
        while queue:
            for role, parent in self._parents(queue.pop(0)):
                found = policies if parent["stage"] in POLICIES else between
                if _key(parent) in found:
                    continue
                found[_key(parent)] = {"role": role, **parent}
                if found is between:
                    queue.append(parent)
        return list(between.values()), list(policies.values())

    def _parents(self, card: Row, stage: str | None = None) -> list[tuple[str, Row]]:
        """(role, card) of what an artifact was made from, in the versions that were read."""
        sql = "SELECT * FROM edges WHERE child = ? AND child_version = ? ORDER BY role, parent"
        edges = self._dicts(sql, [card["artifact_id"], card["version"]])
        parents = [(edge["role"], self._version_read(edge)) for edge in edges]
        return [(role, parent) for role, parent in parents if stage is None or parent["stage"] == stage]

    def _version_read(self, edge: Row) -> Row:
        where = "artifact_id = ? AND data_version = ?"
        found = self._cards(where, [edge["parent"], edge["parent_data_version"]])
        if found:
            return _without_snapshot(found[0])
        address = layout.Address.parse(edge["parent"])
        return {
            "artifact_id": edge["parent"],
            "version": None,
            "stage": address.stage,
            "iteration": address.iteration,
            "data_version": edge["parent_data_version"],
            "fingerprint": edge["parent_fingerprint"],
            "missing": "this version is not on disk any more",
        }

    def _children(self, card: Row, stage: str | None = None) -> list[tuple[str, Row]]:
        """(role, card) of what was made from this version of an artifact and is in force."""
        sql = (
            "SELECT e.role, e.child, e.child_version FROM edges e JOIN artifacts a "
            "ON a.artifact_id = e.child AND a.version = e.child_version WHERE e.parent = ? "
            "AND e.parent_data_version = ? AND a.superseded_at IS NULL AND (? IS NULL OR a.stage = ?) "
            "ORDER BY e.child, e.role"
        )
        edges = self._dicts(sql, [card["artifact_id"], card["data_version"], stage, stage])
        where = "artifact_id = ? AND version = ?"
        cards = [self._cards(where, [edge["child"], edge["child_version"]])[0] for edge in edges]
        return [(edge["role"], _without_snapshot(child)) for edge, child in zip(edges, cards, strict=True)]

    def _cards(self, where: str, parameters: list[Any]) -> list[Row]:
        """Artifacts as the catalogue knows them, those in force first."""
        sql = f"SELECT * FROM artifacts WHERE {where} ORDER BY superseded_at DESC NULLS FIRST, artifact_id"
        return [_plain(row) for row in self._dicts(sql, parameters)]

    def _dicts(self, sql: str, parameters: list[Any]) -> list[Row]:
        cursor = self._connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _nearest(self, identifier: str) -> list[str]:
        """Ids at the least edit distance, among those of the same kind where the kind can be told."""
        sources = ["SELECT artifact_id AS id FROM artifacts"]
        if "::" in identifier:
            sources.append("SELECT training_row_id FROM filtered_sets")
        elif "|" in identifier:
            sources.append("SELECT generation_id FROM generations")
            sources.append("SELECT verification_id FROM verifications")
        sql = f"SELECT id FROM ({' UNION '.join(sources)}) ORDER BY levenshtein(id, ?), id LIMIT {_NEAREST}"
        return [row["id"] for row in self._dicts(sql, [identifier])]


def _plain(row: Row) -> Row:
    """A row of the catalogue in JSON values."""
    times = {name: row[name].isoformat() + "Z" for name in ("created_at", "superseded_at") if row[name]}
    return {**row, **times, **{name: json.loads(row[name]) for name in _JSON}}


def _without_snapshot(card: Row) -> Row:
    return {name: value for name, value in card.items() if name != "study_snapshot"}


def _key(card: Row) -> tuple[str, str]:
    return card["artifact_id"], card["data_version"]


def _age(card: Row) -> tuple[int, str]:
    """Newest first: by iteration, base checkpoints last."""
    iteration = card["iteration"]
    return (1 if iteration is None else -iteration, card["artifact_id"])
