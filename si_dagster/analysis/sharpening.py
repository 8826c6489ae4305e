"""Sharpening (arXiv 2412.01951): the likeliest of N answers, greedy decoding, and coverage, by iteration.

Reads a study that verifies by `log_likelihood`. Greedy decoding is a study of its own (temperature 0, one
answer), whose bases have to be of the same recipe and seed; nothing here checks that. It trains nothing.
"""

from typing import Any

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData
from si_dagster.analysis.table import interval_text
from si_dagster.core.fingerprint import derive_seed
from si_dagster.core.gap import expected_utility, reweighted_utility
from si_dagster.core.intervals import Interval, bootstrap_mean
from si_dagster.core.sharpening import inverse_likelihood_of_best
from si_dagster.core.weighting import best_of_n_weights
from si_dagster.study import Study

METHOD = "log_likelihood"
READING = """J is the expected utility on evaluation prompts, `likeliest` that of the likeliest of the N
answers by the policy's own log-likelihood (what best-of-N distillation trains on), `greedy` that of decoding
at temperature 0. 1/pi(y*) is the mean over prompts of the inverse probability of the likeliest answer found,
the coverage coefficient of arXiv 2412.01951, and its median: about how many draws find that answer. It errs
upwards."""


def rows(data: StudyData, greedy: StudyData | None = None) -> pl.DataFrame:
    """A row an iteration; columns iteration, model, task, num_prompts, n, and estimates with intervals."""
    decoded = {(s.iteration, s.model, s.task): s for s in greedy.samples("eval")} if greedy else {}
    found = [
        _row(samples, spec.name, decoded.get((samples.iteration, samples.model, samples.task)))
        for samples in data.samples("eval")
        for spec in samples.specs
        if spec.method == METHOD
    ]
    return pl.DataFrame(found, infer_schema_length=None)


def _row(samples: ScoredSamples, verification: str, greedy: ScoredSamples | None) -> dict[str, Any]:
    logprobs, offsets, study = samples.scores[verification], samples.offsets, samples.study
    best = best_of_n_weights(logprobs, offsets, 1, study.seed)
    inverse = inverse_likelihood_of_best(logprobs, offsets)
    values = {
        "expected_utility": expected_utility(samples.utilities, offsets),
        "likeliest": reweighted_utility(samples.utilities, best, offsets),
        "greedy": expected_utility(greedy.utilities, greedy.offsets) if greedy else np.full(1, np.nan),
        "inverse_likelihood": inverse,
    }
    row = {**samples.keys, "num_prompts": len(offsets) - 1, "n": int(np.diff(offsets).min())}
    for name, per_prompt in values.items():
        row |= _interval_columns(name, _mean(per_prompt, study))
    return row | {"inverse_likelihood_median": float(np.nanmedian(inverse))}


def _mean(per_prompt: np.ndarray, study: Study) -> Interval:
    seed = derive_seed(study.seed, "bootstrap")
    return bootstrap_mean(per_prompt, study.analysis.num_resamples, study.analysis.confidence, seed)


def _interval_columns(name: str, interval: Interval) -> dict[str, float | None]:
    columns = {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: None if np.isnan(value) else value for key, value in columns.items()}


def shown(found: pl.DataFrame) -> list[dict[str, str]]:
    """The rows as text."""
    headings = {
        "J": "expected_utility",
        "likeliest": "likeliest",
        "greedy": "greedy",
        "1/pi(y*)": "inverse_likelihood",
    }
    return [
        {"t": str(row["iteration"]), "model": row["model"], "task": row["task"]}
        | {heading: interval_text(row, name) for heading, name in headings.items()}
        | {"median": f"{row['inverse_likelihood_median']:.2f}"}
        for row in found.iter_rows(named=True)
    ]
