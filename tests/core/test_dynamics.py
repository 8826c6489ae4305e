"""The exponential: exact on exact data, and right about simulated loops as often as it says."""

import numpy as np
import pytest

from si_dagster.core.dynamics import MOST_ITERATIONS, fit_decay, solver_verifier_dynamics


def loop(num_prompts: int, num_iterations: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """J_0 = .3, gap_t = .3 · .5^t, half of each gap arrives: J_inf = .3 + .5 · .3 / .5 = .6."""
    rng = np.random.default_rng(seed)
    gaps = 0.3 * 0.5 ** np.arange(num_iterations)
    expected = 0.3 + 0.5 * np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    difficulty = rng.normal(0, noise, size=(num_prompts, 1))
    shape = (num_prompts, num_iterations)
    return (
        expected + difficulty + rng.normal(0, noise, shape),
        gaps + rng.normal(0, noise, shape),
    )


def test_an_exact_exponential_is_found_whatever_is_fitted() -> None:
    for num_fitted in (2, 3, 5):
        found = solver_verifier_dynamics(*loop(4, 6, 0.0), num_fitted, gap_margin=0.02)
        estimates = [i.estimate for i in (found.initial_gap, found.decay, found.conversion, found.plateau)]
        assert estimates == pytest.approx([0.3, 0.5, 0.5, 0.6])
        assert found.prediction_error.estimate == pytest.approx(0.0, abs=1e-12)
        assert found.stop_iteration.estimate == 4  # .3 · .5^4 = .01875


def test_three_iterations_predict_the_plateau_within_their_interval() -> None:
    held = 0
    for seed in range(40):
        found = solver_verifier_dynamics(*loop(400, 6, 0.2, seed), 3, gap_margin=0.02)
        held += found.plateau.low <= 0.6 <= found.plateau.high
        assert found.prediction_error.low <= found.prediction_error.estimate <= found.prediction_error.high
    assert held >= 33  # .95 · 40 = 38, standard deviation 1.4; percentile intervals run narrow


def test_a_gap_that_does_not_fall_has_no_plateau_and_no_end() -> None:
    expected, gaps = np.tile([0.1, 0.2, 0.3], (3, 1)), np.full((3, 3), 0.1)
    found = solver_verifier_dynamics(expected, gaps, 3, gap_margin=0.02)
    assert found.decay.estimate == 1.0
    assert np.isnan(found.plateau.estimate)
    assert found.stop_iteration.estimate == MOST_ITERATIONS


def test_a_closed_gap_stops_at_once_and_one_point_is_refused() -> None:
    expected, gaps = np.tile([0.5, 0.5], (3, 1)), np.full((3, 2), 0.01)
    assert solver_verifier_dynamics(expected, gaps, 2, gap_margin=0.02).stop_iteration.estimate == 0
    assert np.isnan(solver_verifier_dynamics(expected, gaps, 2, gap_margin=0.02).predicted_last.estimate)
    with pytest.raises(ValueError, match="two iterations"):
        fit_decay(np.ones((1, 1)))


def test_a_gap_gone_after_one_iteration_decays_to_nothing() -> None:
    fit = fit_decay(np.array([[0.4, 0.0, 0.0], [0.4, -0.1, 0.0]]))
    assert fit.decay.tolist() == [0.0, 0.0]
    assert fit.initial_gap == pytest.approx([0.4, 0.4])
