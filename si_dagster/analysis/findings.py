"""The six findings of "Mind the Gap" (arXiv 2412.02674): what is expected, and the rule that judges it.

Expectations and rules stand here, and were committed, before the studies of `studies/findings_*.yaml` were
run. A finding is a list of contrasts. A contrast is a number of each seed, with an interval that pools the
seeds: prompts are resampled, one that several seeds share in all of them at once; the mean over seeds is what
is told. It is

    supported      if the interval lies wholly where it was expected, and every seed's estimate does;
    contradicted   if the interval lies wholly on the other side, and every seed's estimate does;
    open           otherwise, and always with fewer than three seeds.

A finding is reproduced if all its contrasts are supported, refuted if any is contradicted, and open at this
scale otherwise. What it does not do: run anything (see `reproduction`), correct for the number of contrasts
(that all must hold is strict for `reproduced`, and makes `refuted` the easier verdict), or say that what
holds for policies of a few hundred thousand parameters holds for large ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
import polars as pl

from si_dagster.core import weighting
from si_dagster.core.ensembles import and_weights
from si_dagster.core.fingerprint import derive_seed
from si_dagster.core.gap import expected_utility, gap_per_prompt, relative_gap_per_prompt
from si_dagster.core.intervals import Interval, jointly_resampled_sums
from si_dagster.core.pass_at_k import pass_at_k
from si_dagster.core.samples import divide_or_nan, sum_per_prompt
from si_dagster.core.sweep import gap_by_quantile, gap_by_threshold

MIN_SEEDS = 3
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
QUANTILE = 0.75
MARGIN = 0.02
"""A gap up to here counts as none (ours). The paper says under a point, on thousands of prompts."""
LITTLE_OVERLAP = 0.5
"""Correlations below this count as little (ours); the paper's are .24 and .39."""
MOSTLY_UNPARSED = 0.5
"""A larger share of replies that cannot be read is noted beside the gap; it judges nothing (ours)."""
ITERATION = "findings_iteration"
ORACLE = "findings_oracle"
"""The same study with weights from ground truth; see `reproduction.VARIANTS`."""
QUANTILES = np.round(np.arange(0.1, 0.95, 0.1), 1)
PROBABILITIES = np.round(np.arange(0.05, 1.0, 0.05), 2)
"""Global thresholds that are tried on scores of multiple choice."""
MARKS = np.arange(1.0, 11.0)
"""The same for CoT-score."""

Side = Literal["above", "below"]
Status = Literal["supported", "contradicted", "open"]
Verdict = Literal["reproduced", "refuted", "open at this scale", "not measured"]


@dataclass(frozen=True)
class Measured:
    """One policy of one seed on the evaluation prompts of one study: what all contrasts are made from.

    Attributes:
        study: Name of the study file.
        seed: Of the study; policies of one study and seed answered the same prompts.
        iteration: Of the policy.
        model: Its family.
        num_parameters: N.
        flops: Pre-training FLOPs of its base, 6 N D.
        prompts: Ids; the same question has the same id in every seed; shape (num_prompts,).
        offsets: Shape (num_prompts + 1,).
        utilities: Shape (num_samples,).
        scores: Verification -> scores, NaN if unparsed; shape (num_samples,).
    """

    study: str
    seed: int
    iteration: int
    model: str
    num_parameters: int
    flops: float
    prompts: np.ndarray
    offsets: np.ndarray
    utilities: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def expected(self) -> np.ndarray:
        """J_x; shape (num_prompts,)."""
        return expected_utility(self.utilities, self.offsets)

    def weights(self, verification: str) -> np.ndarray:
        """The paper's rule for a method: CoT-binary keeps 1, all others the best quarter of each prompt."""
        if verification == "cot_binary":
            return weighting.threshold_weights(self.scores[verification], 1.0)
        return weighting.quantile_weights(self.scores[verification], self.offsets, QUANTILE)

    def gap(self, verification: str) -> np.ndarray:
        """Gap of each prompt; shape (num_prompts,)."""
        return gap_per_prompt(self.utilities, self.weights(verification), self.offsets)

    def relative_gap(self, verification: str) -> np.ndarray:
        """Relative gap of each prompt, NaN where J_x = 1; shape (num_prompts,)."""
        return relative_gap_per_prompt(self.gap(verification), self.expected)


@dataclass(frozen=True)
class Contrast:
    """A number on which a finding rests.

    Attributes:
        claim: What it is, in words.
        expected: On which side of `bound` it should lie.
        bound: 0, or a margin.
        per_seed: Seed -> estimate.
        interval: Of the mean over seeds.
        note: What a reader has to know beside the status; judges nothing.
    """

    claim: str
    expected: Side
    bound: float
    per_seed: dict[int, float]
    interval: Interval
    note: str = ""

    @property
    def status(self) -> Status:
        """What the interval and the seeds say, by the rule of this module."""
        if len(self.per_seed) < MIN_SEEDS:
            return "open"
        values = np.array([self.interval.low, self.interval.high, *self.per_seed.values()]) - self.bound
        if self.expected == "below":
            values = -values
        if (values > 0).all():
            return "supported"
        return "contradicted" if (values < 0).all() else "open"


def verdict(contrasts: Sequence[Contrast]) -> Verdict:
    """The verdict on a finding.

    Examples:
        >>> good = Contrast("a", "above", 0.0, {0: 0.1, 1: 0.2, 2: 0.1}, Interval(0.13, 0.05, 0.2))
        >>> bad = Contrast("b", "below", 0.0, {0: 0.1, 1: 0.2, 2: 0.1}, Interval(0.13, 0.05, 0.2))
        >>> unsure = Contrast("c", "above", 0.0, {0: 0.1, 1: -0.2, 2: 0.1}, Interval(0.0, -0.1, 0.1))
        >>> verdict([good]), verdict([good, bad]), verdict([good, unsure]), verdict([])
        ('reproduced', 'refuted', 'open at this scale', 'not measured')
    """
    statuses = [contrast.status for contrast in contrasts]
    if not statuses:
        return "not measured"
    if "contradicted" in statuses:
        return "refuted"
    return "reproduced" if set(statuses) == {"supported"} else "open at this scale"


def not_measured(claim: str, expected: Side, bound: float) -> Contrast:
    """A contrast whose study has not run: open, so that no finding is reproduced by half of it."""
    return Contrast(claim, expected, bound, {}, Interval(np.nan, np.nan, np.nan))


Statistic = Callable[[np.ndarray], np.ndarray]
"""From sums over prompts, shape (num_resamples, num_columns), to a number each, shape (num_resamples,)."""


@dataclass(frozen=True)
class PerPrompt:
    """Values of the prompts of one seed.

    Attributes:
        prompts: Ids; shape (num_prompts,).
        values: Shape (num_prompts, num_columns).
    """

    prompts: np.ndarray
    values: np.ndarray

    @property
    def known(self) -> "PerPrompt":
        """Values with 0 for NaN, and beside them which are known."""
        return PerPrompt(self.prompts, np.hstack([np.nan_to_num(self.values), ~np.isnan(self.values)]))


Seeds = dict[int, PerPrompt]
"""Seed -> values of its prompts."""


def pooled(columns_of: Seeds, statistic: Statistic) -> tuple[dict[int, float], Interval]:
    """A statistic of each seed, and its mean over seeds with a percentile interval.

    Args:
        columns_of: Seed -> values without NaN.
        statistic: Of the sums of the columns; must not depend on how many prompts there are but through them.
    """
    per_seed = {
        seed: float(statistic(found.values.sum(axis=0)[None])[0]) for seed, found in columns_of.items()
    }
    draws = np.mean([statistic(sums) for sums in resampled(columns_of).values()], axis=0)
    return per_seed, _interval(list(per_seed.values()), draws)


def resampled(columns_of: Seeds) -> dict[int, np.ndarray]:
    """Seed -> sums of its columns in every resample; prompts that seeds share are drawn for all at once.

    Shapes are (NUM_RESAMPLES, num_columns).
    """
    tables = [(found.prompts, found.values) for found in columns_of.values()]
    sums = jointly_resampled_sums(tables, NUM_RESAMPLES, derive_seed(min(columns_of), "findings"))
    return dict(zip(columns_of, sums, strict=True))


def of_means(
    values_of: Seeds, coefficients: Sequence[float] | np.ndarray
) -> tuple[dict[int, float], Interval]:
    """`pooled` for a weighted sum of means over prompts, each over the prompts where its value is known.

    Args:
        values_of: Seed -> values, NaN if unknown.
        coefficients: One a value.

    Examples:
        Means 1 and 3 where known, 3 - 1 = 2:

        >>> found = PerPrompt(np.array(["a", "b"]), np.array([[1.0, 3.0], [1.0, np.nan]]))
        >>> of_means({0: found}, [-1.0, 1.0])[0]
        {0: 2.0}
    """
    columns_of = {seed: found.known for seed, found in values_of.items()}
    return pooled(columns_of, lambda sums: _means(sums) @ np.asarray(coefficients))


def each_mean(values_of: Seeds) -> list[Interval]:
    """The mean of every column over prompts, then seeds, with its interval; arguments as in `of_means`."""
    columns_of = {seed: found.known for seed, found in values_of.items()}
    per_seed = np.array([_means(found.values.sum(axis=0)[None])[0] for found in columns_of.values()])
    draws = np.mean([_means(sums) for sums in resampled(columns_of).values()], axis=0)
    return [_interval(per_seed[:, place].tolist(), draws[:, place]) for place in range(draws.shape[1])]


def _means(sums: np.ndarray) -> np.ndarray:
    """Means from the sums of the columns of `PerPrompt.known`."""
    count = sums.shape[1] // 2
    return divide_or_nan(sums[:, :count], sums[:, count:])


def _interval(estimates: Sequence[float], draws: np.ndarray) -> Interval:
    tail = (1.0 - CONFIDENCE) / 2.0
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [tail, 1.0 - tail]) if known.size else (np.nan, np.nan)
    return Interval(float(np.mean(estimates)), float(low), float(high))


def slope_coefficients(x: Sequence[float]) -> np.ndarray:
    """What the values at x are multiplied by to give the least-squares slope.

    Examples:
        >>> slope_coefficients([0.0, 1.0, 2.0]).tolist()
        [-0.5, 0.0, 0.5]
    """
    centred = np.asarray(x) - np.mean(x)
    return centred / (centred**2).sum()


def share_on_a_line(x: Sequence[float], values: np.ndarray) -> np.ndarray:
    """R² of a least-squares line through each row; NaN where a row is constant.

    Args:
        x: Shape (num_points,).
        values: Shape (num_rows, num_points).

    Examples:
        On the line, and symmetric about the middle, which no line tells anything of:

        >>> share_on_a_line([0.0, 1.0, 2.0], np.array([[1.0, 3.0, 5.0], [0.0, 1.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    away = np.asarray(x) - np.mean(x)
    spread = values - values.mean(axis=1, keepdims=True)
    return divide_or_nan((spread @ away) ** 2, (away**2).sum() * (spread**2).sum(axis=1))


def pearson_statistic(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation from the sums n, x, y, xy, xx, yy; the columns of `pearson_columns`."""
    n, x, y, xy, xx, yy = sums.T
    return divide_or_nan(xy - x * y / n, np.sqrt((xx - x**2 / n) * (yy - y**2 / n)))


def pearson_columns(a: np.ndarray, b: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """What `pearson_statistic` needs of each prompt, samples without both scores left out."""
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = np.where(known, a, 0.0), np.where(known, b, 0.0)
    return np.stack([sum_per_prompt(v, offsets) for v in (known * 1.0, a, b, a * b, a * a, b * b)], axis=1)


@dataclass(frozen=True)
class Evidence:
    """All that was measured; only seeds of which every planned base is there take part in a contrast.

    Attributes:
        measured: In any order.
        planned: Study -> names of its bases.
    """

    measured: tuple[Measured, ...]
    planned: dict[str, frozenset[str]]

    def seeds(self, study: str, iteration: int = 0) -> dict[int, list[Measured]]:
        """Seed -> its policies of one iteration, by FLOPs; seeds that lack any model are left out."""
        found = sorted(
            (m for m in self.measured if m.study == study and m.iteration == iteration),
            key=lambda m: (m.seed, m.flops),
        )
        by_seed = {seed: list(group) for seed, group in groupby(found, key=lambda m: m.seed)}
        models = self.planned.get(study, frozenset())
        return {seed: group for seed, group in by_seed.items() if {m.model for m in group} == models}

    def last_iteration(self, study: str) -> int:
        """The last iteration that any seed reached."""
        return max((m.iteration for m in self.measured if m.study == study), default=0)


Values = Callable[[Sequence[Measured]], Sequence[np.ndarray]]
"""From the policies of one seed, which answered the same prompts, to columns of shape (num_prompts,)."""


def _columns(seeds: Mapping[int, Sequence[Measured]], values: Values) -> Seeds:
    return {
        seed: PerPrompt(policies[0].prompts, np.stack(values(policies), axis=1))
        for seed, policies in seeds.items()
    }


def _log_flops(seeds: dict[int, list[Measured]]) -> list[float]:
    """log10 FLOPs of each base; D differs by tenths of a percent between seeds: the mean."""
    return np.mean([[np.log10(m.flops) for m in policies] for policies in seeds.values()], axis=0).tolist()


def scaling(evidence: Evidence) -> list[Contrast]:
    """Finding 1."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []
    slopes = slope_coefficients(_log_flops(seeds))
    relative = _columns(seeds, _relative_gaps("cot_score"))
    smallest = _columns(seeds, lambda policies: [policies[0].gap(method) for method in METHODS])
    return [
        Contrast(
            "slope of the relative gap under CoT-score on log10 FLOPs",
            "above",
            0.0,
            *of_means(relative, slopes),
        ),
        Contrast(
            "gap of the smallest base, mean over the four methods",
            "below",
            MARGIN,
            *of_means(smallest, [0.25] * 4),
            by_convention([policies[0] for policies in seeds.values()]),
        ),
        *_cleaner_law(seeds),
    ]


def _relative_gaps(method: str) -> "Values":
    return lambda policies: [m.relative_gap(method) for m in policies]


def _cleaner_law(seeds: dict[int, list[Measured]]) -> list[Contrast]:
    """How much closer to a line in log FLOPs the relative gap under CoT-score is than what has no law."""
    x = _log_flops(seeds)
    law = _relative_gaps("cot_score")
    lawless: dict[str, Values] = {
        "the absolute gap": lambda policies: [m.gap("cot_score") for m in policies],
        "the relative gap under MC": _relative_gaps("multiple_choice"),
        "the relative gap under tournament": _relative_gaps("tournament"),
    }

    def advantage(sums: np.ndarray) -> np.ndarray:
        means = _means(sums)
        return share_on_a_line(x, means[:, : len(x)]) - share_on_a_line(x, means[:, len(x) :])

    contrasts = []
    for name, values in lawless.items():
        both = _columns(seeds, lambda p, values=values: [*law(p), *values(p)])
        columns = {seed: found.known for seed, found in both.items()}
        claim = f"R² of the relative gap under CoT-score on log10 FLOPs, less that of {name}"
        contrasts.append(Contrast(claim, "above", 0.0, *pooled(columns, advantage)))
    return contrasts


def other_slopes(evidence: Evidence) -> list[Contrast]:
    """Beside finding 1: where the paper saw no law."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []
    slopes = slope_coefficients(_log_flops(seeds))
    values: dict[str, Callable[[Measured, str], np.ndarray]] = {
        "relative gap": Measured.relative_gap,
        "gap": Measured.gap,
    }
    return [
        Contrast(
            f"slope of the {name} under {NAMES[method]} on log10 FLOPs",
            "above",
            0.0,
            *of_means(_columns(seeds, lambda p, v=method, of=of: [of(m, v) for m in p]), slopes),
        )
        for name, of in values.items()
        for method in METHODS
        if (name, method) != ("relative gap", "cot_score")
    ]


def cross_verification(evidence: Evidence) -> list[Contrast]:
    """Finding 2."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []
    models = [m.model for m in next(iter(seeds.values()))]
    gaps = _columns(seeds, lambda policies: [m.gap(f"by_{v}") for m in policies for v in models])
    slopes, share = slope_coefficients(_log_flops(seeds)), np.full(len(models), 1.0 / len(models))
    return [
        Contrast(
            "slope of the gap on the verifier's log10 FLOPs, mean over generators",
            "above",
            0.0,
            *of_means(gaps, np.outer(share, slopes).ravel().tolist()),
        ),
        Contrast(
            "slope of the gap on the generator's log10 FLOPs, mean over verifiers",
            "below",
            0.0,
            *of_means(gaps, np.outer(slopes, share).ravel().tolist()),
        ),
    ]


def by_identity(of_seeds: Sequence[Measured]) -> str:
    """A note where J = 0 in some seed: no answer is right, so whatever is kept of them has J = 0 too."""
    floor = [str(m.seed) for m in of_seeds if not np.nansum(m.utilities)]
    if not floor:
        return ""
    where = "" if len(floor) == len(of_seeds) else f" in seed {', '.join(floor)}"
    return f"J = 0{where}: the gap is 0 by identity, whatever the verifier"


def unparsed_share(of_seeds: Sequence[Measured], method: str) -> float:
    """Share of the samples that have no score by a method, mean over seeds."""
    return float(np.mean([np.isnan(m.scores[method]).mean() for m in of_seeds]))


def by_convention(of_seeds: Sequence[Measured]) -> str:
    """A note on methods of which most replies cannot be read: their gap near 0 is no verdict on answers."""
    shares = {NAMES[method]: unparsed_share(of_seeds, method) for method in METHODS}
    unread = [f"{name} {share:.1%}" for name, share in shares.items() if share > MOSTLY_UNPARSED]
    told = "a prompt without one that can be has a gap of 0 by convention"
    return f"replies that cannot be read: {', '.join(unread)}; {told}" if unread else ""


def no_gap_for_facts(evidence: Evidence) -> list[Contrast]:
    """Finding 3."""
    contrasts = []
    facts, sudoku = evidence.seeds("findings_facts"), evidence.seeds("findings_sudoku4")
    for place, first in enumerate(next(iter(facts.values()), [])):
        for method in ("multiple_choice", "cot_score"):
            gaps = _columns(facts, lambda p, i=place, v=method: [p[i].gap(v)])
            claim = f"facts: gap of base {first.model} under {NAMES[method]}"
            note = by_identity([policies[place] for policies in facts.values()])
            contrasts.append(Contrast(claim, "below", MARGIN, *of_means(gaps, [1.0]), note))
    bases = next(iter(sudoku.values()), [])
    for place, base in enumerate(bases):
        side: Side = "above" if base is bases[-1] else "below"
        gaps = _columns(sudoku, lambda p, i=place: [p[i].gap("multiple_choice")])
        claim = f"Sudoku: gap of base {base.model} under MC"
        note = by_identity([policies[place] for policies in sudoku.values()])
        contrasts.append(Contrast(claim, side, MARGIN, *of_means(gaps, [1.0]), note))
    if bool(facts) != bool(sudoku):
        contrasts.append(not_measured("Sudoku" if facts else "facts", "below", MARGIN))
    return contrasts


def iteration(evidence: Evidence) -> list[Contrast]:
    """Finding 4."""
    last = evidence.last_iteration(ITERATION)
    pairs = _first_and_last(evidence, ITERATION)
    if not pairs:
        return []
    k = min(int(np.diff(m.offsets).min()) for pair in pairs.values() for m in pair)

    def pass_at(num: int) -> Callable[[Measured], np.ndarray]:
        return lambda m: pass_at_k(m.utilities, m.offsets, num)

    final = _columns(pairs, lambda pair: [pair[1].gap("multiple_choice")])
    return [
        Contrast(
            f"change of the gap over {last} updates",
            "below",
            0.0,
            *_change(pairs, lambda m: m.gap("multiple_choice")),
        ),
        Contrast(f"gap after {last} updates", "below", MARGIN, *of_means(final, [1.0])),
        Contrast("change of pass@1", "above", 0.0, *_change(pairs, pass_at(1))),
        Contrast(f"change of pass@{k}", "below", 0.0, *_change(pairs, pass_at(k))),
        *_diversity_under_truth(pairs, _first_and_last(evidence, ORACLE), k),
    ]


Pairs = dict[int, tuple[Measured, Measured]]
"""Seed -> the base and the policy after the last update."""


def _first_and_last(evidence: Evidence, study: str) -> Pairs:
    last = evidence.last_iteration(ITERATION)
    base, after = evidence.seeds(study), evidence.seeds(study, last)
    return {seed: (base[seed][0], after[seed][0]) for seed in base.keys() & after.keys()} if last else {}


def _change(pairs: Pairs, of: Callable[[Measured], np.ndarray]) -> tuple[dict[int, float], Interval]:
    return of_means(_columns(pairs, lambda pair: [of(m) for m in pair]), [-1.0, 1.0])


def _diversity_under_truth(pairs: Pairs, by_truth: Pairs, k: int) -> list[Contrast]:
    """The control: the same updates on what ground truth lets through."""
    claims: tuple[tuple[str, Side, float], ...] = (
        (f"filtered by ground truth: change of pass@{k}", "above", -MARGIN),
        (f"pass@{k} after the updates, by ground truth less by the policy's verdicts", "above", 0.0),
    )
    both = pairs.keys() & by_truth.keys()
    if not both:
        return [not_measured(*claim) for claim in claims]

    def pass_at(m: Measured) -> np.ndarray:
        return pass_at_k(m.utilities, m.offsets, k)

    arms = {seed: (pairs[seed][1], by_truth[seed][1]) for seed in sorted(both)}
    return [Contrast(*claims[0], *_change(by_truth, pass_at)), Contrast(*claims[1], *_change(arms, pass_at))]


def beyond_reweighting(evidence: Evidence) -> list[Contrast]:
    """Beside finding 4: an update can gain what no filter could, such as the format of an answer."""
    policies = [evidence.seeds(ITERATION, t) for t in range(evidence.last_iteration(ITERATION) + 1)]
    return [
        Contrast(f"J(f_{t}) - J(f_{t - 1}[w])", "above", 0.0, *_update_gain(before, after))
        for t, (before, after) in enumerate(pairwise(policies), 1)
        if before.keys() & after.keys()
    ]


def _update_gain(
    before: dict[int, list[Measured]], after: dict[int, list[Measured]]
) -> tuple[dict[int, float], Interval]:
    pairs = {seed: (before[seed][0], after[seed][0]) for seed in sorted(before.keys() & after.keys())}
    values = _columns(pairs, lambda p: [p[0].expected, p[0].gap("multiple_choice"), p[1].expected])
    return of_means(values, [-1.0, -1.0, 1.0])


def threshold_shape(evidence: Evidence) -> list[Contrast]:
    """Finding 5."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []

    def at(method: str, *quantiles: float) -> Seeds:
        return _columns(seeds, lambda p: _curve(p[-1], method, np.array(quantiles)))

    def rounds(*taus: float) -> Seeds:
        return _columns(seeds, lambda p: _cuts(p[-1], "tournament", np.array(taus)))

    bend = [-0.5, 1.0, -0.5]
    return [
        Contrast(
            "MC: gap at q = .5 less the mean of .1 and .9",
            "above",
            0.0,
            *of_means(at("multiple_choice", 0.1, 0.5, 0.9), bend),
        ),
        Contrast(
            "tournament: gap after 2 rounds less the mean of 1 and 3",
            "above",
            0.0,
            *of_means(rounds(1, 2, 3), bend),
        ),
        Contrast(
            "CoT-score: gap at q = .9 less that at .1",
            "above",
            0.0,
            *of_means(at("cot_score", 0.1, 0.9), [-1.0, 1.0]),
        ),
        _loss_between_sizes(seeds, Cut("multiple_choice", "threshold")),
        _loss_between_tasks(evidence, Cut("multiple_choice", "threshold")),
    ]


def other_transfers(evidence: Evidence) -> list[Contrast]:
    """Beside finding 5: a quantile is a share of each prompt's answers, a CoT-score a mark from 1 to 10."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []
    return [
        _loss_between_sizes(seeds, Cut("multiple_choice", "quantile")),
        _loss_between_tasks(evidence, Cut("multiple_choice", "quantile")),
        _loss_between_sizes(seeds, Cut("cot_score", "threshold")),
        _loss_between_sizes(seeds, Cut("cot_score", "quantile")),
    ]


@dataclass(frozen=True)
class Cut:
    """A way to cut the scores of one method, of which the best is sought on one half of the prompts."""

    method: str
    rule: Literal["threshold", "quantile"]

    @property
    def label(self) -> str:
        """As claims say it."""
        return f"{NAMES[self.method]} {self.rule}"

    def gaps(self, m: Measured) -> np.ndarray:
        """Gap at every cut; shape (num_prompts, num_cuts)."""
        if self.rule == "quantile":
            return np.stack(_curve(m, self.method, QUANTILES), axis=1)
        taus = MARKS if self.method == "cot_score" else PROBABILITIES
        return np.stack(_cuts(m, self.method, taus), axis=1)

    def loss(self, home: Measured, donor: Measured) -> np.ndarray:
        """Gap at the cut chosen at home less that at the donor's, NaN but on prompts that chose neither.

        Both choose on one half of their prompts, dealt by lot from the seed. Shape (num_prompts,).
        """
        gaps, chooses = self.gaps(home), _choosing_half(home)
        theirs = self.best(self.gaps(donor), _choosing_half(donor))
        return np.where(chooses, np.nan, gaps[:, self.best(gaps, chooses)] - gaps[:, theirs])

    @staticmethod
    def best(gaps: np.ndarray, chooses: np.ndarray) -> int:
        """The cut with the largest mean gap on the choosing prompts, the lowest of equals."""
        return int(np.nanmean(gaps[chooses], axis=0).argmax())


def _choosing_half(m: Measured) -> np.ndarray:
    """Half of the prompts by lot, the same for policies of one seed that answered equally many."""
    num_prompts = len(m.offsets) - 1
    order = np.random.default_rng(derive_seed(m.seed, "findings", "halves")).permutation(num_prompts)
    return order < num_prompts // 2


def _loss_between_sizes(seeds: dict[int, list[Measured]], cut: Cut) -> Contrast:
    """The two largest bases lend each other theirs: the smaller ones have no gap that a cut could lose."""
    losses = _columns(seeds, lambda p: [cut.loss(p[-1], p[-2]), cut.loss(p[-2], p[-1])])
    claim = f"gap lost by a {cut.label} chosen on the other size (two largest bases)"
    return Contrast(claim, "below", MARGIN, *of_means(losses, [0.5, 0.5]))


def _loss_between_tasks(evidence: Evidence, cut: Cut) -> Contrast:
    """The largest bases of arithmetic and Sudoku lend each other theirs; facts have no gap to lose."""
    sums, grids = evidence.seeds("findings_arithmetic"), evidence.seeds("findings_sudoku4")
    both = sorted(sums.keys() & grids.keys())
    claim = f"gap lost by a {cut.label} chosen on the other task (arithmetic, Sudoku; largest bases)"
    if not both:
        return not_measured(claim, "above", MARGIN)
    losses = {
        seed: PerPrompt(
            np.concatenate([sums[seed][-1].prompts, grids[seed][-1].prompts]),
            _side_by_side(
                cut.loss(sums[seed][-1], grids[seed][-1]), cut.loss(grids[seed][-1], sums[seed][-1])
            ),
        )
        for seed in both
    }
    return Contrast(claim, "above", MARGIN, *of_means(losses, [0.5, 0.5]))


def _side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Values of unlike prompts as two columns of one table, NaN where a row is a prompt of the other."""
    columns = np.full((len(first) + len(second), 2), np.nan)
    columns[: len(first), 0], columns[len(first) :, 1] = first, second
    return columns


def overlap(evidence: Evidence) -> list[Contrast]:
    """Finding 6."""
    seeds = evidence.seeds("findings_arithmetic")
    if not seeds:
        return []
    contrasts = []
    for other in ("cot_binary", "cot_score"):
        columns = _columns(seeds, lambda p, v=other: _pearson(p[-1], v))
        claim = f"Pearson correlation of MC and {NAMES[other]}"
        contrasts.append(Contrast(claim, "below", LITTLE_OVERLAP, *pooled(columns, pearson_statistic)))
    for alone in ("multiple_choice", "cot_binary"):
        gaps = _columns(seeds, lambda p, v=alone: [_and_gap(p[-1]), p[-1].gap(v)])
        claim = f"gap of MC AND CoT-binary less that of {NAMES[alone]} alone"
        contrasts.append(Contrast(claim, "above", 0.0, *of_means(gaps, [1.0, -1.0])))
    return contrasts


def _pearson(m: Measured, other: str) -> list[np.ndarray]:
    return list(pearson_columns(m.scores["multiple_choice"], m.scores[other], m.offsets).T)


def _and_gap(m: Measured) -> np.ndarray:
    both = and_weights([m.weights("multiple_choice"), m.weights("cot_binary")])
    return gap_per_prompt(m.utilities, both, m.offsets)


def _curve(m: Measured, method: str, quantiles: np.ndarray) -> list[np.ndarray]:
    """Gap of each prompt at each quantile."""
    return list(gap_by_quantile(m.utilities, m.scores[method], m.offsets, quantiles).gap_per_prompt.T)


def _cuts(m: Measured, method: str, taus: np.ndarray) -> list[np.ndarray]:
    """Gap of each prompt at each global threshold."""
    return list(gap_by_threshold(m.utilities, m.scores[method], m.offsets, taus).gap_per_prompt.T)


NAMES = {
    "cot_score": "CoT-score",
    "cot_binary": "CoT-binary",
    "multiple_choice": "MC",
    "tournament": "tournament",
}
METHODS = tuple(NAMES)


def _points(x: Iterable[float | str], series: str, columns_of: Seeds) -> list[dict[str, float | str]]:
    """One point a value, with its interval; columns in the order of x."""
    return [
        {"x": at, "series": series, "value": found.estimate, "low": found.low, "high": found.high}
        for at, found in zip(x, each_mean(columns_of), strict=True)
    ]


def scaling_points(evidence: Evidence) -> pl.DataFrame:
    """Relative gap by pre-training FLOPs, a series a method."""
    seeds = evidence.seeds("findings_arithmetic")
    rows = []
    for method in METHODS if seeds else ():
        columns = _columns(seeds, lambda policies, v=method: [m.relative_gap(v) for m in policies])
        rows += _points([10**x for x in _log_flops(seeds)], NAMES[method], columns)
    return pl.DataFrame(rows)


def cross_points(evidence: Evidence) -> pl.DataFrame:
    """Gap by verifier, a series a generator."""
    seeds = evidence.seeds("findings_arithmetic")
    rows = []
    for place, generator in enumerate(next(iter(seeds.values()), [])):
        columns = _columns(seeds, lambda p, i=place: [p[i].gap(f"by_{v.model}") for v in p])
        rows += _points([10**x for x in _log_flops(seeds)], f"generator {generator.model}", columns)
    return pl.DataFrame(rows)


def facts_points(evidence: Evidence) -> pl.DataFrame:
    """Gap under multiple choice by pre-training FLOPs, a series a task."""
    rows = []
    for study, task in (("findings_facts", "facts"), ("findings_sudoku4", "sudoku4")):
        if seeds := evidence.seeds(study):
            columns = _columns(seeds, lambda policies: [m.gap("multiple_choice") for m in policies])
            rows += _points([10**x for x in _log_flops(seeds)], task, columns)
    return pl.DataFrame(rows)


def iteration_points(evidence: Evidence) -> pl.DataFrame:
    """Gap and pass@k by iteration."""
    rows = []
    for study, by in ((ITERATION, ""), (ORACLE, " by ground truth")):
        for t in range(evidence.last_iteration(study) + 1):
            seeds = evidence.seeds(study, t)
            if not seeds:
                continue
            k = min(int(np.diff(p[0].offsets).min()) for p in seeds.values())
            series: dict[str, Values] = {
                f"pass@1{by}": lambda p: [p[0].expected],
                f"pass@{k}{by}": lambda p, k=k: [pass_at_k(p[0].utilities, p[0].offsets, k)],
            }
            if study == ITERATION:
                series["gap (MC)"] = lambda p: [p[0].gap("multiple_choice")]
            for name, values in series.items():
                rows += _points([float(t)], name, _columns(seeds, values))
    return pl.DataFrame(rows)


def threshold_points(evidence: Evidence) -> pl.DataFrame:
    """Gap of the largest base by the per-prompt quantile, a series a method."""
    seeds = evidence.seeds("findings_arithmetic")
    rows = []
    for method in METHODS if seeds else ():
        columns = _columns(seeds, lambda p, v=method: _curve(p[-1], v, QUANTILES))
        rows += _points(QUANTILES.tolist(), NAMES[method], columns)
    return pl.DataFrame(rows)


def overlap_points(evidence: Evidence) -> pl.DataFrame:
    """Gap of the largest base under MC, CoT-binary and both."""
    seeds = evidence.seeds("findings_arithmetic")
    values: dict[str, Values] = {
        "MC": lambda p: [p[-1].gap("multiple_choice")],
        "CoT-binary": lambda p: [p[-1].gap("cot_binary")],
        "MC AND CoT-binary": lambda p: [_and_gap(p[-1])],
    }
    rows = []
    for name, of in values.items() if seeds else ():
        rows += _points([name], "largest base", _columns(seeds, of))
    return pl.DataFrame(rows)


@dataclass(frozen=True)
class Finding:
    """One finding of the paper and how it is put to the test.

    Attributes:
        number: As in docs.
        title: In a few words.
        paper: What the paper found.
        expectation: What we expected here before the run, and why.
        contrasts: What it is judged by.
        points: What its picture shows; columns x, series, value, low, high.
        axes: Titles of the picture's axes; x of FLOPs is logarithmic.
        unmeasured: What the paper says besides and nothing here puts to the test.
        beside: Contrasts that are shown and not judged.
    """

    number: int
    title: str
    paper: str
    expectation: str
    contrasts: Callable[[Evidence], list[Contrast]]
    points: Callable[[Evidence], pl.DataFrame]
    axes: tuple[str, str]
    unmeasured: tuple[str, ...]
    beside: Callable[[Evidence], list[Contrast]] | None = None


FLOPS_AXIS = "pre-training FLOPs"

FINDINGS = (
    Finding(
        1,
        "The relative gap under CoT-score rises with pre-training compute",
        "The relative gap under CoT-score rises with log pre-training FLOPs within a family; the absolute"
        " gap, MC and tournament show no clean law. Small models have no gap under nearly all verifiers.",
        "Reproduced, since checking a sum here takes the same skill as working it out: a base that cannot"
        " add has nothing to check with, and two independent tries agree on right answers rather than on "
        "wrong ones. That no other measure follows a line as closely: open, since all methods are learned"
        " from the same text, and four points are few to tell one curve from another. [Written for"
        " four bases; there are five now.]",
        scaling,
        scaling_points,
        (FLOPS_AXIS, "relative gap"),
        (
            "a line for each family: there is one family here, and its bases differ in size and in length of "
            "training",
            "the law on any other task than arithmetic",
            "small models have no gap under nearly all verifiers: judged of the smallest base alone, and of "
            "the mean over the four methods",
        ),
        other_slopes,
    ),
    Finding(
        2,
        "The gap grows with the verifier and shrinks as the generator grows",
        "In cross-verification the gap rises with the verifier's capability and falls with the generator's.",
        "The first half reproduced; the second less surely: a generator that is always wrong leaves no "
        "gap to any verifier, so the smallest bases may have smaller gaps than the middle ones.",
        cross_verification,
        cross_points,
        ("the verifier's pre-training FLOPs", "gap (CoT-score)"),
        (
            "the same under any other method than CoT-score, and on any other task than arithmetic",
            "generators and verifiers of different families",
        ),
    ),
    Finding(
        3,
        "No gap in factual questions; in Sudoku only for large models",
        "Natural Questions: a gap under one point or negative at every size. Sudoku: a gap only in the "
        "largest models.",
        "Open for facts: a policy that half knows a fact may tell its surer answers from its guesses, "
        "which is a gap the paper did not see. Sudoku as in the paper: a small base verifies no better "
        "than chance.",
        no_gap_for_facts,
        facts_points,
        (FLOPS_AXIS, "gap (MC)"),
        (
            "under one point: the margin here is two, for a few hundred prompts a seed",
            "CoT-binary and tournament on facts; every method but MC on Sudoku",
            "sizes between, and the largest: three bases stand for each task",
        ),
    ),
    Finding(
        4,
        "The gap closes in two or three iterations, and pass@k falls for large k",
        "Rejection sampling closes the gap to about 0 in two or three rounds; pass@k rises for small k "
        "and falls for large k, which it does not where ground truth filters.",
        "Not a blind guess: the base is the quickstart's, whose gap fell from .44 to .10 in two updates "
        "on seed 0 (other sampling). So the gap falls and J rises, but does not reach 0 in three updates;"
        " pass@32 falls a little.",
        iteration,
        iteration_points,
        ("iteration", "gap, pass@k"),
        (
            "whatever the size: one base was iterated",
            "preference optimisation (RPO) in place of rejection sampling",
            "a fixed large verifier, with which the paper saw diversity lost too: here the policy verifies "
            "itself",
            "J(f_1) above J(f_0[w]) by learning the format of answers alone, told by strict against flexible "
            "utilities: a grid has one format, so that the two coincide here",
        ),
        beyond_reweighting,
    ),
    Finding(
        5,
        "The gap is concave in the threshold for MC and tournament, increasing for CoT-score",
        "As the threshold rises the gap under MC and tournament first grows, then shrinks; under "
        "CoT-score it grows throughout. The best threshold transfers between sizes, not between tasks.",
        "CoT-score increasing: reproduced. Concavity: open, since a good verifier's best answer is the "
        "best cut. Thresholds transfer between sizes: reproduced. Not between tasks: rather refuted, since"
        " all bases learned the letters of MC from equally many right and wrong examples, so that a "
        "probability means the same in both tasks.",
        threshold_shape,
        threshold_points,
        ("per-prompt quantile", "gap"),
        (
            "the shape at any other size than the largest base, and on any other task than arithmetic",
            "growing throughout, or first growing and then shrinking: judged at two or three cuts, not along "
            "the curve",
            "thresholds of tournament, and of CoT-score between tasks",
        ),
        other_transfers,
    ),
    Finding(
        6,
        "Verifiers overlap little, and combining them helps",
        "Scores of different methods correlate weakly (Pearson MC-CoT-B .24, MC-CoT-S .39); AND of two "
        "verifiers that each have a gap has a larger one.",
        "AND better than either alone: reproduced. Little overlap: less sure, since one small policy "
        "trained on clean text may make the same mistakes under every method.",
        overlap,
        overlap_points,
        ("verifier", "gap"),
        (
            "other pairs and sizes: judged of MC with CoT-binary and CoT-score, on answers of the largest "
            "base",
            "AND of MC and CoT-score, or of three verifiers",
        ),
    ),
)
