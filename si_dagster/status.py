"""How a study stands: every artifact against what the study asks for now, and what to do next.

It reads manifests and sizes of files, not their bytes (`si-dagster doctor` hashes them), and changes nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from assets.report import stop_reason, study_metrics
from assets.stage_asset import planned
from si_dagster.analysis.catalogue import ANALYSES
from si_dagster.core.fingerprint import drift
from si_dagster.plan import SUMMARIES, Node, Plan
from si_dagster.store.artifacts import Store
from si_dagster.store.errors import CorruptArtifact, RecipeDrift, StoreError
from si_dagster.store.integrity import BEGIN
from si_dagster.store.layout import Address
from si_dagster.store.manifest import Manifest
from si_dagster.store.schemas import POLICIES
from si_dagster.study import Study

State = Literal["done", "begun", "missing", "stale", "damaged"]
SHOWN_INPUTS = 1


@dataclass
class ArtifactStatus:
    """One artifact against its plan.

    Attributes:
        address: Where it lies or would lie.
        state: `stale`: of another recipe, or made from something that is or has been made again since.
        fingerprint: Of the recipe asked for now.
        manifest: Of what lies there, where it is complete and whole.
        drift: Fields of its own recipe that differ: field, stored, study.
        reason: Why it is stale by its inputs, or damaged.
    """

    address: Address
    state: State
    fingerprint: str
    manifest: Manifest | None = None
    drift: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "artifact": self.address.artifact_id,
            "state": self.state,
            "num_rows": self.manifest.num_rows if self.manifest else None,
            "fingerprint": self.fingerprint,
            "drift": self.drift,
            "reason": self.reason,
        }


def study_status(study: Study, store: Store) -> list[ArtifactStatus]:
    """Every artifact of the loop, what is read before what reads it.

    Analyses and the report are left out: they are made anew, unasked, whenever what they read is.
    """
    plan, found = planned(study), dict[Address, ArtifactStatus]()
    for address, node in plan.nodes.items():
        if address.stage not in SUMMARIES:
            found[address] = _artifact_status(plan, store, node, found)
    return list(found.values())


def stale_inputs(study: Study, store: Store, analysis: str) -> list[str]:
    """What an analysis reads of a study and is stale, by name."""
    read = set(planned(study).analysed(ANALYSES[analysis]))
    stale = (s for s in study_status(study, store) if s.state == "stale" and s.manifest)
    return [status.address.artifact_id for status in stale if status.address in read]


def _artifact_status(
    plan: Plan, store: Store, node: Node, seen: dict[Address, ArtifactStatus]
) -> ArtifactStatus:
    status = ArtifactStatus(node.address, "missing", plan.fingerprint(node.address))
    try:
        manifest = _whole_manifest(store, node.address)
        stored = manifest.recipe if manifest else _begun_recipe(store, node.address)
    except CorruptArtifact as damage:
        status.state, status.reason = "damaged", str(damage)
        return status
    if stored is None:
        return status
    status.manifest, status.state = manifest, "done" if manifest else "begun"
    differences = drift(stored, plan.recipe(node.address))
    status.drift = [
        {"field": f, "stored": a, "study": b} for f, a, b in differences if not f.startswith("inputs.")
    ]
    changed = {f.removeprefix("inputs.") for f, _, _ in differences if f.startswith("inputs.")}
    status.reason = _reason([*_changed_inputs(node, manifest, changed, seen)])
    if status.drift or status.reason:
        status.state = "stale"
    return status


def _whole_manifest(store: Store, address: Address) -> Manifest | None:
    """The manifest, if its files are there and as long as it says.

    Raises:
        CorruptArtifact: If not; names the file.
    """
    manifest = store.manifest(address)
    for entry in manifest.files if manifest else ():
        file = store.folder(address) / entry.name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.size:
            found = "no file" if size is None else str(size)
            raise CorruptArtifact(f"{file}: expected {entry.size} bytes, found {found}")
    return manifest


def _begun_recipe(store: Store, address: Address) -> dict[str, Any] | None:
    """The recipe of an artifact that was begun; `None` where there is none."""
    file = store.folder(address) / BEGIN
    try:
        return json.loads(file.read_text(encoding="utf-8"))["recipe"] if file.is_file() else None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptArtifact(
            f"{file}: cannot be read ({error!r}); run with --supersede: the folder is moved aside whole"
        ) from error


def _changed_inputs(
    node: Node, manifest: Manifest | None, changed: set[str], seen: dict[Address, ArtifactStatus]
) -> Iterator[str]:
    """What of its inputs makes an artifact stale, by name: hashes tell a person nothing."""
    versions = {ref.role: ref.data_version for ref in manifest.inputs} if manifest else {}
    for role, source in node.inputs.items():
        now = seen[source]
        if role in changed or now.state == "stale":
            kind = "stale" if now.state == "stale" else "an earlier recipe of"
            yield f"{kind} {source.artifact_id}"
        elif now.manifest and versions.get(role, now.manifest.data_version) != now.manifest.data_version:
            yield f"an earlier version of {source.artifact_id}"
    yield from (f"{role}, which it does not read now" for role in sorted(changed - node.inputs.keys()))


def _reason(inputs: list[str]) -> str | None:
    if not inputs:
        return None
    more = f" and {len(inputs) - SHOWN_INPUTS} more" if len(inputs) > SHOWN_INPUTS else ""
    return f"made from {', '.join(inputs[:SHOWN_INPUTS])}{more}"


def refuse_other_recipe(study: Study, store: Store) -> None:
    """Before anything runs: is what is stored of this study's recipe?

    Raises:
        RecipeDrift: If not; field by field, with what it would cost and the ways out.
    """
    stale = [status for status in study_status(study, store) if status.state == "stale"]
    if not stale:
        return
    fields: dict[tuple[str, str, str], list[ArtifactStatus]] = {}
    for status in stale:
        for found in status.drift:
            key = (found["field"], json.dumps(found["stored"]), json.dumps(found["study"]))
            fields.setdefault(key, []).append(status)
    lines = [
        f"  {name}: stored {stored}, study says {asked} ({_stages(reached)})"
        for (name, stored, asked), reached in fields.items()
    ]
    lines = lines or [f"  {status.address.artifact_id}: {status.reason}" for status in stale[:SHOWN_INPUTS]]
    raise RecipeDrift(
        "\n".join(
            [
                f"what is stored of study {study.name!r} was made by another recipe:",
                *lines,
                "Nothing was changed. Restore the fields; or add name=... so that both lie side by side; or "
                f"make it again, which moves {_cost(stale)} to data/.superseded and deletes nothing",
            ]
        ),
        {name: (stored, asked) for name, stored, asked in fields},
    )


def _stages(statuses: Iterable[ArtifactStatus]) -> str:
    return ", ".join(dict.fromkeys(status.address.stage for status in statuses))


def _cost(stale: list[ArtifactStatus]) -> str:
    """`14 artifacts (1,360 rows, 2 checkpoints)`."""
    rows = sum(status.manifest.num_rows for status in stale if status.manifest)
    policies = sum(status.address.stage in POLICIES for status in stale)
    checkpoints = f", {policies} checkpoint{'s' if policies > 1 else ''}" if policies else ""
    return f"{len(stale)} artifact{'s' if len(stale) > 1 else ''} ({rows:,} rows{checkpoints})"


def next_steps(study: Study, store: Store, statuses: list[ArtifactStatus], command: str) -> list[str]:
    """How many artifacts are in which state, and what to do about it.

    Args:
        study: The study.
        store: Where it lies.
        statuses: As `study_status` gives them.
        command: How the study is run, to be repeated to the reader.
    """
    count = Counter(status.state for status in statuses)
    lines = [", ".join(f"{number} {state}" for state, number in count.most_common())]
    if count["damaged"]:
        lines.append(
            f"damaged: {command} makes it again and keeps what is whole; where the recipe itself cannot be "
            "read, with --supersede"
        )
    if count["stale"]:
        lines.append(
            f"stale: restore the fields, or {command} --supersede (moves the stale ones aside and makes them "
            "again), or add name=... so that both lie side by side"
        )
    if count["stale"] or count["damaged"]:
        return lines
    stopped = _stopped(study, store)
    if stopped:
        lines.append(f"the loop stopped: {stopped}")
    elif count["missing"] or count["begun"]:
        lines.append(f"next: {command}")
    else:
        lines.append(f"finished; next: si-dagster gap {study.name}")
    return lines


def _stopped(study: Study, store: Store) -> str | None:
    plan = planned(study)
    try:
        return stop_reason(plan, study_metrics(plan, store))
    except (StoreError, ValueError):  # nothing is measured yet
        return None
