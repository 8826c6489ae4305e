"""How a self-improvement loop runs out: an exponential through its first gaps, and where that would end.

    gap_t = A r^t        J_{t+1} - J_t = c gap_t        J_inf = J_m + c A r^m / (1 - r)

The exponential gap and an update in proportion to it are the solver-verifier dynamics of arXiv 2507.00075;
the least-squares fit in steps of an iteration, and c as one share for all updates, are ours. With two or
three points it is a sketch: the interval, from resampled prompts, says how rough. It knows nothing of
thresholds that change or data that ends.
"""

from dataclasses import dataclass

import numpy as np

from si_dagster.core.intervals import MIN_RESAMPLES, Interval, percentile_interval, resampled_sums

DECAYS = np.linspace(0.0, 1.0, 401)
"""Decays r that are tried; for each of them the best A follows in closed form."""

MOST_ITERATIONS = 1000
"""A loop that is not predicted to stop before this is said to stop here."""


@dataclass(frozen=True)
class Decay:
    """Fits of many resamples at once; every array of shape (num_fits,)."""

    initial_gap: np.ndarray
    decay: np.ndarray


def fit_decay(gaps: np.ndarray) -> Decay:
    """Least squares of A r^t, t = 0, 1, ..., with r in [0, 1].

    Args:
        gaps: Shape (num_fits, num_iterations); at least two iterations.

    Raises:
        ValueError: If there are fewer than two iterations: one point has no decay.

    Examples:
        >>> fit = fit_decay(np.array([[0.4, 0.2, 0.1]]))
        >>> round(float(fit.initial_gap[0]), 6), float(fit.decay[0])
        (0.4, 0.5)
    """
    if gaps.shape[1] < 2:
        raise ValueError("a decay needs the gaps of at least two iterations")
    basis = DECAYS[:, None] ** np.arange(gaps.shape[1])  # (num_decays, num_iterations); 0^0 = 1
    norms = (basis**2).sum(axis=1)
    projections = gaps @ basis.T  # (num_fits, num_decays)
    # The residual is |gaps|² - projection²/norm, so the best decay has the largest of these.
    best = np.argmax(projections**2 / norms, axis=1)
    return Decay(projections[np.arange(len(gaps)), best] / norms[best], DECAYS[best])


@dataclass(frozen=True)
class Dynamics:
    """Fit and prediction, each with its interval.

    Attributes:
        num_fitted: Iterations the fit has seen.
        initial_gap: A.
        decay: r.
        conversion: c, the share of a gap that arrives in J.
        plateau: J the loop would end at.
        stop_iteration: First iteration whose predicted gap is not told from the bound.
        predicted_last: J predicted for the last measured iteration; NaN where the fit has seen it.
        prediction_error: Observed less predicted.
    """

    num_fitted: int
    initial_gap: Interval
    decay: Interval
    conversion: Interval
    plateau: Interval
    stop_iteration: Interval
    predicted_last: Interval
    prediction_error: Interval


def solver_verifier_dynamics(
    expected: np.ndarray,
    gaps: np.ndarray,
    num_fitted: int,
    gap_margin: float,
    min_gap: float = 0.0,
    num_resamples: int = MIN_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Dynamics:
    """Fit the first iterations of a loop and predict where it ends.

    Args:
        expected: J_x(f_t); shape (num_prompts, num_iterations), the same prompts in all, no NaN.
        gaps: gap_x of iteration t, same shape.
        num_fitted: Iterations, from the first, that the fit may see; at least 2.
        gap_margin: Estimate less lower interval end of a gap, as in the last fitted iteration: the loop
            stops where the predicted gap less this is not above `min_gap`.
        min_gap: The study's bound.
        num_resamples: At least 1000.
        confidence: In (0, 1).
        seed: Of the resamples of prompts.

    Raises:
        ValueError: If there are fewer than two iterations to fit.

    Examples:
        Gaps .4, .2 and half of each arrives: J = .3, .5, and .5 · (.2 + .1 + .05 + ...) = .2 is to come:

        >>> expected, gaps = np.array([[0.3, 0.5], [0.3, 0.5]]), np.array([[0.4, 0.2], [0.4, 0.2]])
        >>> found = solver_verifier_dynamics(expected, gaps, 2, gap_margin=0.04)
        >>> [round(i.estimate, 6) for i in (found.decay, found.conversion, found.plateau)]
        [0.5, 0.5, 0.7]

        The gap is .4 · .5^t; less .04 it is not above 0 from t = 4 on (.025):

        >>> found.stop_iteration.estimate
        4.0
    """
    num_iterations = expected.shape[1]
    sums = resampled_sums(np.hstack([expected, gaps]), num_resamples, seed) / max(len(expected), 1)
    means = np.hstack([expected, gaps]).mean(axis=0)[None, :]
    draws = _predicted(sums[:, :num_iterations], sums[:, num_iterations:], num_fitted, gap_margin, min_gap)
    found = _predicted(means[:, :num_iterations], means[:, num_iterations:], num_fitted, gap_margin, min_gap)
    return Dynamics(
        num_fitted,
        **{name: percentile_interval(float(found[name][0]), draws[name], confidence) for name in found},
    )


def _predicted(
    expected: np.ndarray, gaps: np.ndarray, num_fitted: int, gap_margin: float, min_gap: float
) -> dict[str, np.ndarray]:
    """All numbers of each resample; shapes (num_fits,)."""
    fit = fit_decay(gaps[:, :num_fitted])
    fitted = fit.initial_gap[:, None] * fit.decay[:, None] ** np.arange(num_fitted - 1)
    gained = expected[:, num_fitted - 1] - expected[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        conversion = gained / fitted.sum(axis=1)
        start = expected[:, num_fitted - 1]
        ahead = conversion * fit.initial_gap * fit.decay ** (num_fitted - 1)
        plateau = start + np.where(fit.decay < 1.0, ahead / (1.0 - fit.decay), np.nan)
        num_ahead = expected.shape[1] - num_fitted
        shares = np.where(fit.decay < 1.0, (1.0 - fit.decay**num_ahead) / (1.0 - fit.decay), float(num_ahead))
        last = start + ahead * shares if num_ahead else np.full(len(start), np.nan)
    return {
        "initial_gap": fit.initial_gap,
        "decay": fit.decay,
        "conversion": conversion,
        "plateau": plateau,
        "stop_iteration": _stops(fit, gap_margin + min_gap),
        "predicted_last": last,
        "prediction_error": expected[:, -1] - last,
    }


def _stops(fit: Decay, bound: float) -> np.ndarray:
    """First t with A r^t <= bound, at most `MOST_ITERATIONS`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.ceil(np.log(bound / fit.initial_gap) / np.log(fit.decay) - 1e-9)
    steps = np.where(fit.decay <= 0.0, 1.0, steps)
    steps = np.where(np.isfinite(steps), steps, MOST_ITERATIONS)
    return np.where(fit.initial_gap <= bound, 0.0, np.clip(steps, 0.0, MOST_ITERATIONS))
