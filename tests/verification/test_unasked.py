"""Methods that ask nothing: likelihoods from the policy, votes, noise."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verification.sums import Sums, items_of

from si_dagster.engines.scripted import UNKNOWN_LOGPROB, ScriptedEngine
from si_dagster.verification.base import Batch
from si_dagster.verification.catalogue import load_method, method_names
from si_dagster.verification.majority_vote import vote_shares


def scores(name, items, engine=None, seed=0, num_verifications=1):
    judgements = load_method(name).verify(
        Batch(Sums(), "text", items, engine or ScriptedEngine(), seed, num_verifications)
    )
    return [j.proxy_utility for j in judgements]


def test_log_likelihood_is_the_policys_own() -> None:
    engine = ScriptedEngine(script={"0+1=": {"1": 0.5, "one": 0.25, "2": 0.25}})
    items = items_of(["1", "one", "2", "three"])
    assert scores("log_likelihood", items, engine) == pytest.approx(
        [math.log(0.5), math.log(0.25), math.log(0.25), UNKNOWN_LOGPROB]
    )
    assert scores("log_likelihood_normalised", items, engine) == pytest.approx(
        [math.log(0.5), math.log(0.25) / 3, math.log(0.25), UNKNOWN_LOGPROB / 5]  # a token a character
    )


@pytest.mark.parametrize("name", ["log_likelihood", "log_likelihood_normalised"])
def test_an_empty_answer_has_no_likelihood_and_equal_ones_are_read_once(name: str) -> None:
    engine = ScriptedEngine()
    assert scores(name, items_of(["", "7", "7", "7"]), engine)[0] is None
    assert engine.usage().prompt_tokens == 2 * len("0+1=")
    assert engine.usage().completion_tokens == 0


def test_votes_are_counted_by_prompt_and_answer() -> None:
    items = items_of(["is 7", "7", "8", ""], ["7"])
    assert scores("majority_vote", items) == [0.5, 0.5, 0.25, None, 1.0]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(["1", "2", "3", None])), max_size=30))
def test_vote_shares_of_distinct_answers_sum_to_the_share_that_answered(ballots) -> None:
    shares = vote_shares(ballots)
    assert [share is None for share in shares] == [answer is None for _, answer in ballots]
    for prompt in "xy":
        mine = {b: s for b, s in zip(ballots, shares, strict=True) if b[0] == prompt and s is not None}
        answered = [b for b in ballots if b[0] == prompt and b[1] is not None]
        total = sum(b[0] == prompt for b in ballots)
        assert sum(mine.values()) == pytest.approx(len(answered) / total if total else 0)
        if answered:
            assert max(mine, key=lambda b: mine[b]) in [
                b for b, n in Counter(answered).items() if n == max(Counter(answered).values())
            ]


def test_random_is_uniform_seeded_and_independent_of_the_answer() -> None:
    items = items_of(*[["7", "8"] * 10] * 100)
    draws = np.array(scores("random", items, num_verifications=2)).reshape(-1, 2)
    assert draws.mean() == pytest.approx(0.5, abs=0.02)  # 4,000 draws: 4 standard errors are .018
    assert np.quantile(draws, 0.75) == pytest.approx(0.75, abs=0.03)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.1
    says_seven = np.array([item.completion == "7" for item in items])
    assert draws[says_seven].mean() == pytest.approx(draws[~says_seven].mean(), abs=0.04)
    assert scores("random", items, seed=1, num_verifications=2) != draws.ravel().tolist()


def test_the_oracle_says_the_true_utility_and_nothing_where_there_is_none() -> None:
    items = [replace(i, utility=u) for i, u in zip(items_of(["1", "2", "3"]), (1.0, 0.0, None), strict=True)]
    assert scores("oracle", items, num_verifications=2) == [1.0, 1.0, 0.0, 0.0, None, None]


def test_methods_that_call_no_verifier_need_no_engine() -> None:
    for name in method_names():
        batch = Batch(Sums(), "text", items_of(["1", "2"]))
        if load_method(name).calls_verifier:
            with pytest.raises(TypeError, match="given no engine"):
                load_method(name).verify(batch)
        else:
            assert len(load_method(name).verify(batch)) == 2
