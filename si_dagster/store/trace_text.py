"""A trace as a person reads it: the row, what was said of it, and the policies it comes from, newest first.

Plots, snapshots of studies and long texts are left out or cut; `trace` has everything. It looks nothing up.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

SHOWN_CHARACTERS = 400
"""Of a prompt or completion; the end stays too, where few-shot prompts have their question."""


def told(found: Row) -> list[str]:
    """The lines of one trace, as `si_dagster.store.trace.trace` returns it."""
    if "artifact" not in found:
        return [*_row(found), *_history(found["history"])]
    told_already = found["artifact"]["version"]
    older = [entry for entry in found["history"] if entry["policy"]["version"] != told_already]
    return [*_artifact(found), *_history(older)]


def _artifact(found: Row) -> Iterator[str]:
    yield f"{found['kind']} {found['id']}"
    yield from _card(found["artifact"], named=False)
    for parent in found["inputs"]:
        yield f"  reads {parent['role']}: {_name(parent)}"
    yield from (f"  read by {use['artifact_id']} as {use['role']}" for use in found["used_by"])


def _row(found: Row) -> Iterator[str]:
    if found["kind"] == "training_row":
        yield from _training_row(found["training_row"])
    elif found["kind"] == "verification":
        yield f"verification {found['id']}"
        yield from _verification(found["verification"])
    yield from _generation(found)
    for verification in found["verifications"]:
        if verification != found.get("verification"):
            yield f"verification {verification['verification_id']}"
            yield from _verification(verification)
    for row in found["training_rows"]:
        if row != found.get("training_row"):
            yield from _training_row(row)
    if not found["training_rows"]:
        yield "training row: none; it was not kept, or is of a split that trains nothing"


def _training_row(row: Row) -> Iterator[str]:
    yield f"training row {row['training_row_id']}"
    score = _number(row["proxy_utility"])
    duplicates = f", for {row['num_duplicates']} identical completions" if row["num_duplicates"] > 1 else ""
    yield f"  weight {_number(row['weight'])}, proxy utility {score}{duplicates}"
    if row["as_duplicate_of"]:
        yield f"  stands for this generation too: {row['as_duplicate_of']} has the same completion"
    yield f"  trained {', '.join(row['checkpoints']) or 'nothing yet'}"
    yield from _card(row["artifact"])


def _generation(found: Row) -> Iterator[str]:
    row, prompt, utility = found["generation"], found["prompt"], found["utility"]
    yield f"generation {row['generation_id']}"
    yield (
        f"  draw {row['sample_index']}: {row['num_tokens']} tokens, ended by {row['finish_reason']}, "
        f"log-probability {_number(row['logprob'])}"
    )
    if prompt is not None:
        yield from _text("prompt", prompt["prompt"])
    yield from _text("completion", row["completion"])
    if prompt is not None:
        yield from _text("reference", prompt["reference"])
    if utility is None:
        yield "  utility: not graded"
    else:
        extracted = utility["extracted"]
        yield f"  utility {_number(utility['utility'])} ({utility['status']}, extracted {extracted!r})"
    yield from _card(row["artifact"])


def _verification(row: Row) -> Iterator[str]:
    verdict = "" if row["verdict"] is None else f"verdict {row['verdict']}, "
    yield f"  {verdict}proxy utility {_number(row['proxy_utility'])} ({row['status']}) by {row['verifier']}"
    if row["reply"] is not None:
        yield from _text("reply", row["reply"])
    yield from _card(row["artifact"])


def _history(history: list[Row]) -> Iterator[str]:
    yield "policies it comes from, newest first:" if history else "it comes from no other policy"
    for entry in history:
        yield f"policy {entry['policy']['artifact_id']}"
        yield from _card(entry["policy"], named=False)
        for parent in entry["made_from"]:
            yield f"  made from {_name(parent)}"
        yield from (f"  descends from {ancestor}" for ancestor in entry["descends_from"])


def _card(card: Row, named: bool = True) -> Iterator[str]:
    """Where an artifact lies, when, by which code and run it was made, and by what configuration."""
    made = f"  in {_name(card)}" if named else " "
    if card["version"] is not None:
        run, code = card["dagster_run_id"] or "-", card["code_version"] or "-"
        made += f"{':' if named else ''} made {card['created_at'][:19]}Z, Dagster run {run}, "
        made += f"code version {code}, fingerprint {card['fingerprint']}"
    yield made
    config = _config(card.get("recipe") or {})
    if config:
        yield f"  config: {config}"


def _config(recipe: Row) -> str:
    """The fields of a recipe, grouped by what they belong to; what it was made from is told beside it.

    Examples:
        >>> _config({"code_version": "1", "inputs.policy": "ab", "weighting.q": 0.5, "seed": 3})
        'weighting(q=0.5), seed=3'
    """
    groups: dict[str, list[str]] = {}
    for name, value in recipe.items():
        parent, _, field = name.rpartition(".")
        if name != "code_version" and parent != "inputs":
            groups.setdefault(parent, []).append(f"{field}={value}")
    return ", ".join(
        f"{parent}({', '.join(fields)})" if parent else ", ".join(fields) for parent, fields in groups.items()
    )


def _name(card: Row) -> str:
    rows = f" ({card['num_rows']} rows)" if card.get("num_rows") else ""
    aside = ", superseded since" if card.get("superseded_at") else ""
    return f"{card['artifact_id']}{rows}{aside}" + (f", {card['missing']}" if "missing" in card else "")


def _text(label: str, text: str) -> Iterator[str]:
    """One line, or a block below the label; the middle of a long one left out."""
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n[... {left_out} characters left out; --json has them ...]\n{text[-half:]}"
    lines = text.splitlines() or [""]
    if len(lines) == 1:
        yield f"  {label}: {lines[0]}"
        return
    yield f"  {label}:"
    yield from (f"    | {line}" for line in lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
