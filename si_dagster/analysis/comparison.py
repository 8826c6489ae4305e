"""Several stored studies side by side, and how each differs from the first: ablations, controls, replicates.

What makes one comparable with another is not judged: the fields in which they differ are told. Policies are
matched by model, task and iteration, verifications by name. It makes no artifact: studies know nothing of
each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData, columns_of, estimated, table
from si_dagster.analysis.table import text_rows
from si_dagster.core.fingerprint import flatten
from si_dagster.core.gap import expected_utility, relative_gap_per_prompt
from si_dagster.core.intervals import difference_of_means
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.study import Scorer, Study, StudyError

READING = """Brackets are bootstrap intervals over prompts. A difference is of the two numbers as they stand
above. Prompts of the same text are paired: drawn for both studies at once; prompts that one study alone has
are resampled by themselves. Where a policy or verification of that name is not in both, there is none."""

MEASURES = {"expected_utility": "J(f_t)", "gap": "gap", "relative_gap": "relative gap"}
CELLS = ("model", "task", "verification")
UNCOMPARED = ("name", "description")


@dataclass(frozen=True)
class Policy:
    """One policy of one study on its evaluation prompts.

    Attributes:
        samples: Its generations with their scores.
        prompts: Text of each prompt; shape (num_prompts,).
    """

    samples: ScoredSamples
    prompts: np.ndarray

    @property
    def key(self) -> tuple[int, str, str]:
        """What it is matched by."""
        return (self.samples.iteration, self.samples.model, self.samples.task)

    def scorers(self) -> list[Scorer]:
        """Verifications and ensembles that the study itself names, as far as they are stored."""
        named = {scorer.name for scorer in self.samples.study.scorers()}
        return [scorer for scorer in self.samples.scorers if scorer.name in named]

    def values(self, spec: Scorer | None) -> dict[str, np.ndarray]:
        """Measure -> one value a prompt; of no verification there is J alone."""
        expected = expected_utility(self.samples.utilities, self.samples.offsets)
        if spec is None:
            return {"expected_utility": expected}
        gap = self.samples.gap_per_prompt(self.samples.weights(spec))
        relative = relative_gap_per_prompt(gap, expected, self.samples.study.analysis.saturated)
        return {"expected_utility": expected, "gap": gap, "relative_gap": relative}


def rows(studies: Sequence[StudyData]) -> pl.DataFrame:
    """A row a study, policy and verification: measures with intervals, and how they differ from the first."""
    first, *others = ({policy.key: policy for policy in _policies(data)} for data in studies)
    return table(
        [
            row
            for policies in (first, *others)
            for key, policy in policies.items()
            for spec in policy.scorers()
            for row in [_row(policy, spec, None if policies is first else first.get(key))]
        ]
    )


def _policies(data: StudyData) -> Iterator[Policy]:
    for samples in data.samples():
        stored = samples.rows_of("prompts", ["prompt_id", "prompt"])
        if stored is None:
            raise StudyError(
                f"prompts of iteration {samples.iteration} of {data.study.name!r} are not stored"
            )
        texts = dict(stored.select("prompt_id", "prompt").iter_rows())
        yield Policy(samples, np.array([texts[prompt_id] for prompt_id in samples.policy.prompt_ids]))


def _row(policy: Policy, spec: Scorer, other: Policy | None) -> dict[str, Any]:
    samples = policy.samples
    return {
        "study": samples.study.name,
        **samples.keys,
        "verification": spec.name,
        "rule": samples.study.rule_label(spec),
        **estimated(samples.estimate(samples.weights(spec)), *MEASURES),
        **_differences(policy, spec, other),
        "num_prompts": len(policy.prompts),
        "num_paired": None if other is None else len(set(policy.prompts) & set(other.prompts)),
    }


def _differences(policy: Policy, spec: Scorer, other: Policy | None) -> dict[str, float | None]:
    """Each measure less that of the other policy, as far as that has it."""
    columns = [f"{name}_difference{end}" for name in MEASURES for end in ("", "_low", "_high")]
    found: dict[str, float | None] = dict.fromkeys(columns)
    if other is None:
        return found
    namesake = next((scorer for scorer in other.scorers() if scorer.name == spec.name), None)
    ours, theirs = policy.values(spec), other.values(namesake)
    for name in ours.keys() & theirs.keys():
        interval = difference_of_means(
            ours[name],
            theirs[name],
            (policy.prompts, other.prompts),
            **bootstrap_options(other.samples.study),
        )
        found |= columns_of(f"{name}_difference", interval)
    return found


def differing_fields(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Every field in which the studies differ, with its value in each.

    Items of a list go by their names: `verification.<name>.<field>`. Where not all studies have the same
    names there, the field is the list itself and its value the names; those that all have are compared.
    """
    dumps = {study.name: study.model_dump(mode="json", exclude=set(UNCOMPARED)) for study in studies}
    everywhere = {
        field: set.intersection(*(set(_named(dump[field])) for dump in dumps.values()))
        for field, value in next(iter(dumps.values())).items()
        if _named(value)
    }
    flat = {name: flatten(_by_name(dump, everywhere)) for name, dump in dumps.items()}
    fields = sorted(set().union(*flat.values()))
    rows = [
        {"field": field, **{name: values.get(field) for name, values in flat.items()}} for field in fields
    ]
    return [row for row in rows if len({repr(row[name]) for name in flat}) > 1]


def _named(value: Any) -> dict[str, Any]:
    """Items of a list by name; nothing of any other value."""
    items = value if isinstance(value, list) else []
    return {item["name"]: item for item in items if isinstance(item, dict) and "name" in item}


def _by_name(dump: dict[str, Any], everywhere: dict[str, set[str]]) -> dict[str, Any]:
    """A study whose lists of named items are their names, and the items that all studies have."""
    lists = {field: list(_named(dump[field])) for field in everywhere}
    items = {
        f"{field}.{name}": item
        for field, names in everywhere.items()
        for name, item in _named(dump[field]).items()
        if name in names
    }
    return {**dump, **lists, **items}


def shown(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The measures of all studies, those of one policy next to each other, as text."""
    order = ["model", "task", "verification", "iteration"]
    return text_rows(
        rows.sort(order, maintain_order=True), {"iteration": "t", "study": "study", **MEASURES}, CELLS
    )


def shown_differences(rows: pl.DataFrame) -> list[dict[str, str]]:
    """The differences from the first study, as text."""
    headings = {f"{name}_difference": title for name, title in MEASURES.items()}
    found = rows.filter(pl.col("num_paired").is_not_null())
    headings = {"iteration": "t", "study": "study", **headings, "num_paired": "prompts paired"}
    order = ["model", "task", "verification", "iteration"]
    return text_rows(found.sort(order, maintain_order=True), {**headings, "num_prompts": "of"}, CELLS)
