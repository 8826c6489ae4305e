"""What an analysis reads: the stored rows of one study, laid side by side as flat arrays.

Only artifacts that are handed in can be read, and they are complete: a loop that stopped early has fewer. It
estimates nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from si_dagster.core.gap import GapEstimate, estimate_gap, gap_per_prompt
from si_dagster.core.intervals import Interval
from si_dagster.core.weighting import fill_unparsed
from si_dagster.stages.conventions import bootstrap_options
from si_dagster.stages.samples import PolicySamples, floats
from si_dagster.stages.weighting import proxy_utilities, scores_and_weights
from si_dagster.store.artifacts import Artifact
from si_dagster.store.layout import Address
from si_dagster.study import EnsembleSpec, Scorer, Study, VerificationSpec

BOUNDS = ("oracle", "random")
"""Methods that are no verifiers but the ends of any scale: ground truth, and noise."""

COMBINATIONS = ("and", "or", "mean_rank", "agreement")
"""Ensembles of all verifications, which every analysis has beside those that the study names."""

UTILITY_COLUMNS = ("prompt_id", "sample_index", "utility", "strict_utility", "extracted")
SCORE_COLUMNS = ("prompt_id", "sample_index", "verification_index", "proxy_utility")


@dataclass(frozen=True)
class ScoredSamples:
    """Generations of one policy on one split, with utilities and the scores of every verification there is.

    Attributes:
        study: The study.
        iteration: Of the policy.
        model: That generated.
        task: Of the prompts.
        policy: Utilities and answers.
        verifications: Verification name -> its stored rows.
        artifacts: Of the study, for what else an analysis reads of this cell.
    """

    study: Study
    iteration: int
    model: str
    task: str
    split: str
    policy: PolicySamples
    verifications: Mapping[str, pl.DataFrame]
    artifacts: Mapping[Address, Artifact] = field(repr=False)

    @property
    def keys(self) -> dict[str, object]:
        """The columns that say which policy a row of a table is of."""
        return {"iteration": self.iteration, "model": self.model, "task": self.task}

    @property
    def offsets(self) -> np.ndarray:
        """Shape (num_prompts + 1,)."""
        return self.policy.offsets

    @property
    def utilities(self) -> np.ndarray:
        """Shape (num_samples,); NaN where the grader failed."""
        return self.policy.utilities

    @property
    def specs(self) -> list[VerificationSpec]:
        """Verifications of the study that are stored, in its order."""
        return [spec for spec in self.study.verification if spec.name in self.verifications]

    @cached_property
    def tables(self) -> dict[str, pl.DataFrame]:
        """Verification name -> one score a generation, rows in the order of the samples."""
        return {name: proxy_utilities(rows, keep_index=False) for name, rows in self.verifications.items()}

    @cached_property
    def parsed(self) -> dict[str, np.ndarray]:
        """Verification name -> scores as they were read, NaN if unparsed; shape (num_samples,)."""
        return {spec.name: floats(self.tables[spec.name]["proxy_utility"]) for spec in self.specs}

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Verification name -> scores, unparsed ones dealt with as the study says; shape (num_samples,)."""
        return {
            spec.name: fill_unparsed(self.parsed[spec.name], self.offsets, spec.unparsed_policy)
            for spec in self.specs
        }

    @cached_property
    def ensembles(self) -> list[EnsembleSpec]:
        """Ensembles of the study, then `and`, `or`, `mean_rank` and `agreement` of all verifications it has.

        Bounds are no members of the latter, and a name that the study gives to something else is left to it.
        """
        declared = [spec for spec in self.study.ensembles if set(spec.sources) <= set(self.verifications)]
        taken = {scorer.name for scorer in self.study.scorers()}
        members = tuple({"verification": spec.name} for spec in self.specs if spec.method not in BOUNDS)
        of_all = [
            EnsembleSpec.model_validate({"name": kind, "combine": kind, "members": members})
            for kind in COMBINATIONS
            if kind not in taken and len(members) > 1
        ]
        return [*declared, *of_all]

    @property
    def scorers(self) -> list[Scorer]:
        """Verifications, then ensembles of them."""
        return [*self.specs, *self.ensembles]

    @property
    def used(self) -> Scorer | None:
        """The verification or ensemble that weights training, if all of it is stored."""
        spec = self.study.weighting_verification()
        return spec if set(spec.sources) <= set(self.verifications) else None

    def gap_per_prompt(self, weights: np.ndarray) -> np.ndarray:
        """gap_x under some weights, by the study's convention for prompts without survivors."""
        return gap_per_prompt(self.utilities, weights, self.offsets, self.study.weighting.no_survivors)

    def estimate(self, weights: np.ndarray) -> GapEstimate:
        """All of a gap under some weights, by the conventions of the study."""
        return estimate_gap(
            self.utilities,
            weights,
            self.offsets,
            no_survivors=self.study.weighting.no_survivors,
            saturated=self.study.analysis.saturated,
            **bootstrap_options(self.study),
        )

    def weights(self, spec: Scorer) -> np.ndarray:
        """Weights under the rule of the study, as for gap_metrics; shape (num_samples,)."""
        return self.scores_and_weights(spec)[1]

    def scores_and_weights(self, spec: Scorer) -> tuple[np.ndarray, np.ndarray]:
        """The scores of a verification or ensemble, and its weights; each of shape (num_samples,)."""
        return scores_and_weights(self.study, spec, self.scores, self.offsets, self.study.seed)

    def is_bound(self, spec: Scorer) -> bool:
        """Whether ground truth or noise has a part in it."""
        return any(self.study.verification_named(name).method in BOUNDS for name in spec.sources)

    def rows_of(self, stage: str, columns: list[str]) -> pl.DataFrame | None:
        """Further columns of this cell, one row a sample or prompt, sorted by their keys."""
        address = Address(self.study.name, self.iteration, stage, self.model, self.task, self.split)
        artifact = self.artifacts.get(address)
        return None if artifact is None else artifact.read(columns)

    def verification_rows(self, spec: VerificationSpec, columns: list[str]) -> pl.DataFrame | None:
        """Further columns of a verification of this cell, one row an act of checking."""
        part = f"{self.split}.{spec.name}"
        address = Address(self.study.name, self.iteration, "verifications", self.model, self.task, part)
        artifact = self.artifacts.get(address)
        return None if artifact is None else artifact.read(columns)


def estimated(estimate: GapEstimate, *names: str) -> dict[str, float]:
    """Columns of an estimate with their intervals: `name`, `name_low`, `name_high`."""
    return {
        f"{name}{end}": getattr(estimate, f"{name}{end}") for name in names for end in ("", "_low", "_high")
    }


def columns_of(name: str, interval: Interval) -> dict[str, float]:
    """An interval as the columns `name`, `name_low`, `name_high`."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table, NaN as null: a number that does not exist is unknown."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None)) if rows else frame


class StudyData:
    """The stored rows of one study.

    Args:
        study: The study.
        artifacts: Address -> complete artifact: all that may be read.
    """

    def __init__(self, study: Study, artifacts: Mapping[Address, Artifact]) -> None:
        self.study, self.artifacts = study, artifacts

    def samples(
        self, split: str = "eval", columns: Sequence[str] = UTILITY_COLUMNS
    ) -> Iterator[ScoredSamples]:
        """Every policy that has utilities and at least one verification, by cell, then iteration.

        Args:
            split: Of the prompts.
            columns: Of utilities; a million answers take as long to read as all that a sweep computes.
        """
        for model, task in self.study.cells():
            for iteration in range(self.study.iterations + 1):
                found = self._samples(iteration, model, task, split, columns)
                if found is not None:
                    yield found

    def told(self, address: Address, name: str) -> float | None:
        """A number that the making of an artifact told, if it is there."""
        artifact = self.artifacts.get(address)
        value = None if artifact is None else artifact.manifest.metadata.get(name)
        return float(value) if isinstance(value, int | float) else None

    def _samples(
        self, iteration: int, model: str, task: str, split: str, columns: Sequence[str]
    ) -> ScoredSamples | None:
        cell = (self.study.name, iteration)
        utilities = self.artifacts.get(Address(*cell, "utilities", model, task, split))
        verifications = {
            spec.name: artifact.read(SCORE_COLUMNS)
            for spec in self.study.verification
            if (
                artifact := self.artifacts.get(
                    Address(*cell, "verifications", model, task, f"{split}.{spec.name}")
                )
            )
        }
        if utilities is None or not verifications:
            return None
        policy = PolicySamples.of(utilities.read(columns))
        return ScoredSamples(self.study, iteration, model, task, split, policy, verifications, self.artifacts)
