"""Samples made up for analyses: utilities and scores of known truth, laid out as if they had been stored."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from si_dagster.analysis.data import ScoredSamples, StudyData
from si_dagster.stages.samples import PolicySamples
from si_dagster.store.artifacts import Store
from si_dagster.store.layout import Address
from si_dagster.study import Study, parse_study


def study(methods: Sequence[str] = ("multiple_choice",), **fields: object) -> Study:
    """A study of those verification methods, each under its own name."""
    base = {
        "name": "made_up",
        "tasks": [{"name": "sudoku4"}],
        "models": [{"name": "pico", "pretrain": {}}],
        "splits": {"train": 8, "eval": 8},
        "verification": list(methods),
        "analysis": {"num_resamples": 1000},
    }
    return parse_study({**base, **fields}, "made up")


def scored(
    of: Study,
    utilities: np.ndarray,
    scores: Mapping[str, np.ndarray],
    answers: np.ndarray | None = None,
    iteration: int = 0,
    split: str = "eval",
    model: str = "pico",
) -> ScoredSamples:
    """Samples of one policy.

    Args:
        of: The study.
        utilities: NaN where the grader failed; shape (num_prompts, num_samples).
        scores: Verification name -> scores of the same shape, NaN if unparsed, or of shape
            (num_prompts, num_samples, M).
        answers: What was extracted; default: `right`, or a wrong answer of one of three kinds.
    """
    num_prompts, size = utilities.shape
    # Zero-padded, so that the order of the text is the order of the rows.
    prompt_ids = np.repeat([f"{split}-{i:05d}" for i in range(num_prompts)], size)
    sample_index = np.tile(np.arange(size), num_prompts)
    if answers is None:
        kinds = np.arange(utilities.size).reshape(utilities.shape) % 3
        answers = np.where(utilities == 1.0, "right", np.char.add("wrong-", kinds.astype(str)))
    rows = pl.DataFrame(
        {
            "prompt_id": prompt_ids,
            "sample_index": sample_index,
            "utility": utilities.reshape(-1),
            "strict_utility": utilities.reshape(-1),
            "extracted": answers.reshape(-1),
        }
    ).fill_nan(None)
    return ScoredSamples(
        of,
        iteration,
        model,
        "sudoku4",
        split,
        PolicySamples.of(rows),
        {name: _verifications(rows, values) for name, values in scores.items()},
        {},
    )


def _verifications(rows: pl.DataFrame, values: np.ndarray) -> pl.DataFrame:
    cube = values if values.ndim == 3 else values[..., None]
    flat = cube.reshape(rows.height, cube.shape[2])
    ids = rows.select("prompt_id", "sample_index").with_columns(
        generation_id=pl.format("{}/{}", "prompt_id", "sample_index")
    )
    return pl.concat(
        ids.with_columns(verification_index=pl.lit(m), proxy_utility=pl.Series(flat[:, m])).fill_nan(None)
        for m in range(cube.shape[2])
    )


def drawn(num_prompts: int, size: int, seed: int, accuracy: float | None = None) -> np.ndarray:
    """Utilities of prompts whose accuracy is uniform in (0, 1), or one number for all."""
    rng = np.random.default_rng(seed)
    chances = np.full((num_prompts, 1), accuracy) if accuracy is not None else rng.random((num_prompts, 1))
    return (rng.random((num_prompts, size)) < chances).astype(float)


def noisy(utilities: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Scores of a verifier: the utility plus normal noise; ungraded samples get noise alone."""
    rng = np.random.default_rng(seed)
    return np.nan_to_num(utilities) + noise * rng.normal(size=utilities.shape)


def stored(
    home: Path,
    of: Study,
    *policies: ScoredSamples,
    slices: Sequence[dict] = (),
    asked: str = "",
    flops: Mapping[str, float] | None = None,
    replies: Mapping[str, Sequence[str]] | None = None,
    tokens: Mapping[str, int] | None = None,
) -> StudyData:
    """The samples in a real store, and what an analysis reads of it.

    Args:
        home: Of the store.
        of: The study.
        policies: Its samples.
        slices: Of the prompts, in order; without it no prompts are stored.
        asked: Begins the text of every prompt.
        flops: Stage `generations` or verification -> what its making tells that it cost.
        replies: Verification -> reply of each sample, in order.
        tokens: What the making of generations tells of them, where it tells its cost.
    """
    flops, replies = flops or {}, replies or {}
    store = Store(home)
    for samples in policies:
        cell = (of.name, samples.iteration)
        of_cell = (samples.model, samples.task)
        prefix = f"{of.name}/iteration_{samples.iteration}/{samples.model}|{samples.task}/"
        keys = (
            samples.policy.rows.select("prompt_id")
            .with_columns(sample_index=pl.int_range(pl.len()).over("prompt_id"))
            .with_columns(
                generation_id=pl.format(prefix + "{}/{}", "prompt_id", "sample_index"),
                split=pl.lit(samples.split),
            )
        )
        utilities = pl.concat([keys, samples.policy.rows.drop("prompt_id")], how="horizontal").with_columns(
            status=pl.when(pl.col("utility").is_null())
            .then(pl.lit("grader_error"))
            .otherwise(pl.lit("scored")),
            rule=pl.lit("made up"),
            detail=pl.lit(None, dtype=pl.String),
        )
        _write(store, Address(*cell, "utilities", *of_cell, samples.split), utilities)
        for spec in samples.specs:
            told = keys.with_columns(
                reply=pl.Series(replies.get(spec.name, [None] * keys.height), dtype=pl.String)
            )
            rows = (
                samples.verifications[spec.name]
                .drop("generation_id")
                .join(told, on=["prompt_id", "sample_index"])
            )
            named = rows.with_columns(
                verification_id=pl.format(
                    "{}/{}/{}", "generation_id", pl.lit(spec.name), "verification_index"
                ),
                verification=pl.lit(spec.name),
                method=pl.lit(spec.method),
                verifier=pl.lit("made/up"),
                verdict=pl.lit(None, dtype=pl.String),
                status=pl.when(pl.col("proxy_utility").is_null())
                .then(pl.lit("unparsed"))
                .otherwise(pl.lit("scored")),
            )
            part = f"{samples.split}.{spec.name}"
            cost = {"flops": flops[spec.name]} if spec.name in flops else {}
            _write(store, Address(*cell, "verifications", *of_cell, part), named, cost)
        if "generations" in flops:
            drawn = keys.with_columns(
                completion=pl.lit(""),
                finish_reason=pl.lit("stop"),
                num_tokens=pl.lit(1),
                logprob=pl.lit(None, dtype=pl.Float64),
            )
            cost = {"flops": flops["generations"], **(tokens or {})}
            _write(store, Address(*cell, "generations", *of_cell, samples.split), drawn, cost)
        if slices:
            ids = samples.policy.prompt_ids
            prompts = pl.DataFrame(
                {"prompt_id": ids, "position": range(len(ids)), "slices": [json.dumps(row) for row in slices]}
            ).with_columns(
                split=pl.lit(samples.split),
                prompt=pl.format("{}{}", pl.lit(asked), "prompt_id"),
                **{c: pl.lit("") for c in ("question", "reference")},
            )
            _write(store, Address(*cell, "prompts", *of_cell, samples.split), prompts)
    return StudyData(of, {m.address: store.require(m.address) for m in store.manifests()})


def _write(
    store: Store, address: Address, rows: pl.DataFrame, cost: Mapping[str, float] | None = None
) -> None:
    with store.open_writer(address, {"made": "up"}, "made up", study_snapshot={}) as writer:
        writer.write_part(rows)
        writer.commit(metadata=dict(cost or {}), dagster_run_id="test", code_version="1")
