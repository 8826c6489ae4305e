"""Tournaments: who remains after k rounds, byes, lots, and what a preference for a position does."""

import json
from collections import Counter
from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verification.sums import Sums, comparing, items_of

from si_dagster.verification.base import Batch
from si_dagster.verification.catalogue import load_method


def larger(first: str, second: str) -> str:
    return f"Compare.\nWinner: {'A' if int(first) >= int(second) else 'B'}"


def played(engine, items, seed=0, num_verifications=1, name="tournament", **fields):
    return load_method(name).verify(Batch(Sums(), "text", items, engine, seed, num_verifications, **fields))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 40), st.integers(0, 9))
def test_half_remain_after_each_round_and_the_best_wins(size: int, seed: int) -> None:
    items = items_of([str(i) for i in range(size)])
    scores = [j.proxy_utility for j in played(comparing(items, larger), items, seed)]
    remaining = size
    for k in range(1, ceil(log2(size)) + 1 if size > 1 else 1):
        remaining = ceil(remaining / 2)
        assert sum(score >= k for score in scores) == remaining  # N / 2^k where N is a power of two
    assert max(scores) == scores[-1] == (ceil(log2(size)) if size > 1 else 0)


def test_thirty_two_answers() -> None:
    items = items_of([str(i) for i in range(32)])
    scores = [j.proxy_utility for j in played(comparing(items, larger), items)]
    assert Counter(scores) == {0: 16, 1: 8, 2: 4, 3: 2, 5: 1, 4: 1}


def test_an_odd_count_plays_one_match_less_and_nobody_rests_twice_in_a_row() -> None:
    items = items_of([str(i) for i in range(7)])
    judgements = played(comparing(items, larger), items)
    rounds = {j.generation_id: {match["round"] for match in json.loads(j.reply)} for j in judgements}
    matches = Counter(r for played_in in rounds.values() for r in played_in)
    assert matches == {1: 6, 2: 4, 3: 2}  # players; 7 -> 4 -> 2 -> 1, one rests in round 1
    five = items_of([str(i) for i in range(5)])
    for seed in range(20):
        for j in played(comparing(five, larger), five, seed):
            played_in = {match["round"] for match in json.loads(j.reply)}
            survived = int(j.proxy_utility)
            assert not any({r, r + 1}.isdisjoint(played_in) for r in range(1, survived))


def test_prompts_do_not_meet() -> None:
    items = items_of(["5", "6"], ["1", "2"])
    judgements = played(comparing(items, larger), items)
    assert [j.proxy_utility for j in judgements] == [0, 1, 0, 1]
    assert [j.verdict for j in judgements][:2] == ["survived 0 of 1", "survived 1 of 1"]


def test_unreadable_matches_are_drawn_by_lot_and_score_null() -> None:
    items = items_of([str(i) for i in range(8)])
    judgements = played(comparing(items, lambda a, b: "both are fine"), items)
    assert {j.status for j in judgements} == {"unparsed"}
    assert {j.proxy_utility for j in judgements} == {None}
    winners = {
        next(m["winner"] for m in json.loads(played(comparing(items, lambda a, b: "?"), items, s)[0].reply))
        for s in range(20)
    }
    assert winners == {"A", "B"}


def test_one_readable_match_is_enough_for_a_score() -> None:
    """7 is read wherever it plays; matches without it are unreadable."""
    items = items_of([str(i) for i in range(8)])

    def only_seven(first: str, second: str) -> str:
        return larger(first, second) if "7" in (first, second) else "no idea"

    judgements = played(comparing(items, only_seven), items, seed=2)
    assert judgements[7].proxy_utility == 3.0
    scored = [j for j in judgements if j.status == "scored"]
    assert len(scored) == 4  # 7 and the three it beat


def test_equal_answers_are_not_asked_about() -> None:
    items = items_of(["4"] * 8)
    engine = comparing(items, larger)
    scores = [j.proxy_utility for j in played(engine, items)]
    assert engine.usage().prompt_tokens == 0
    assert Counter(scores) == {0: 4, 1: 2, 2: 1, 3: 1}


def test_seeds_shuffle_and_verifications_are_tournaments_of_their_own() -> None:
    items = items_of([str(i) for i in range(16)])
    engine = comparing(items, larger)
    first, second = ([j.proxy_utility for j in played(engine, items, seed)] for seed in (0, 1))
    assert first != second
    by_index = [
        [j.proxy_utility for j in played(engine, items, 0, 3) if j.verification_index == m] for m in range(3)
    ]
    assert by_index[0] == first
    assert by_index[1] != by_index[0]
    assert all(sum(scores) == 15 for scores in by_index)  # 8 + 4 + 2 + 1 survivals


@pytest.mark.parametrize(("name", "times_asked"), [("tournament", 1), ("tournament_swapped", 2)])
def test_a_match_is_asked_once_or_in_both_orders(name: str, times_asked: int) -> None:
    items = items_of(["1", "2"])
    engine = comparing(items, larger)
    judgements = played(engine, items, name=name)
    assert engine.usage().prompt_tokens == times_asked * len("0+1: A 1, B 2?")
    assert [j.proxy_utility for j in judgements] == [0, 1]


def deciders(judgements) -> set[str]:
    return {match["by"] for j in judgements for match in json.loads(j.reply)}


def test_swapping_exposes_a_preference_for_a_position_and_still_scores() -> None:
    """Every reply was read, so nothing is unparsed; the lots that decide are stored as what they are."""
    items = items_of([str(i) for i in range(8)])
    engine = comparing(items, lambda first, second: "Winner: A")
    assert deciders(played(engine, items)) == {"verifier"}
    swapped = played(engine, items, name="tournament_swapped")
    assert deciders(swapped) == {"disagreement"}
    assert {j.status for j in swapped} == {"scored"}
    assert Counter(j.proxy_utility for j in swapped) == {0: 4, 1: 2, 2: 1, 3: 1}


def test_a_swapped_match_is_unparsed_only_where_no_reply_could_be_read() -> None:
    items = items_of([str(i) for i in range(8)])
    mute = comparing(items, lambda first, second: "Winner: a tie")
    swapped = played(mute, items, name="tournament_swapped")
    assert {j.status for j in swapped} == {"unparsed"}
    assert deciders(swapped) == {"lot"}
    # Read in one order alone: the other one's silence contradicts nothing.
    half = comparing(items, lambda a, b: "Winner: A" if int(a) > int(b) else "Hm.")
    swapped = played(half, items, name="tournament_swapped")
    assert deciders(swapped) == {"verifier"}
    assert swapped[7].proxy_utility == 3.0


def test_unreadable_matches_are_asked_again() -> None:
    items = items_of([str(i) for i in range(16)])

    def engine_of(share: float):
        engine = comparing(items, larger)
        script = engine._script
        return type(engine)(
            script={p: {next(iter(replies)): 1 - share, "?": share} for p, replies in script.items()}
        )

    fields = {"sampling": {"temperature": 1.0}}
    lots = [
        sum(
            match["by"] == "lot"
            for j in played(engine_of(0.5), items, 0, 20, num_resamples=times, **fields)
            for match in json.loads(j.reply)
        )
        / (2 * 15 * 20)  # two players of 15 matches in each of 20 tournaments
        for times in (0, 3)
    ]
    assert lots == pytest.approx([0.5, 0.0625], abs=0.12)
    assert lots[1] < lots[0] / 3


def test_the_first_prompt_is_the_first_match() -> None:
    items = items_of(["1", "2"])
    shown = load_method("tournament").first_prompt(Batch(Sums(), "text", items))
    assert shown in ("0+1: A 1, B 2?", "0+1: A 2, B 1?")
    assert load_method("tournament").first_prompt(Batch(Sums(), "text", items[:1])) is None
