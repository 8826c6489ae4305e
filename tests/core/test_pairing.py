import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from si_dagster.core.pairing import accepted_rejected_pairs, any_pairs

SAMPLES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 0.9, float("nan")]), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=24,
)


def layout(samples, size=6):
    scores, codes, accepted = (np.array(column) for column in zip(*samples, strict=True))
    offsets = np.append(np.arange(0, len(samples), size), len(samples))
    return scores, codes, accepted, offsets


@settings(deadline=None)
@given(SAMPLES, st.integers(0, 5))
def test_a_pair_is_of_one_prompt_better_first_and_of_two_texts(samples, seed):
    scores, codes, accepted, offsets = layout(samples)
    chosen, rejected = accepted_rejected_pairs(accepted, ~accepted, scores, codes, offsets, seed)
    assert (chosen // 6 == rejected // 6).all()
    assert accepted[chosen].all()
    assert not accepted[rejected].any()
    assert (scores[chosen] > scores[rejected]).all()
    assert (codes[chosen] != codes[rejected]).all()
    assert len(set(chosen.tolist())) == len(chosen)


@settings(deadline=None)
@given(SAMPLES, st.integers(0, 5))
def test_every_accepted_sample_with_a_partner_is_in_a_pair(samples, seed):
    scores, codes, accepted, offsets = layout(samples)
    chosen, _ = accepted_rejected_pairs(accepted, ~accepted, scores, codes, offsets, seed)
    for i in np.flatnonzero(accepted):
        others = [j for j in range(len(scores)) if j // 6 == i // 6 and not accepted[j]]
        possible = any(scores[j] < scores[i] and codes[j] != codes[i] for j in others)
        assert (i in chosen) == possible


@settings(deadline=None)
@given(SAMPLES, st.integers(0, 5))
def test_any_pairs_are_disjoint_and_of_scored_samples(samples, seed):
    scores, codes, _, offsets = layout(samples)
    better, other = any_pairs(scores, codes, offsets, seed)
    used = np.concatenate([better, other])
    assert len(set(used.tolist())) == len(used)
    assert not np.isnan(scores[used]).any()
    assert (scores[better] >= scores[other]).all()
    assert (codes[better] != codes[other]).all()
    assert (better // 6 == other // 6).all()


def test_rejected_samples_are_used_evenly():
    scores = np.array([0.9] * 4 + [0.1] * 2)
    accepted = scores > 0.5
    _, rejected = accepted_rejected_pairs(accepted, ~accepted, scores, np.arange(6), np.array([0, 6]), seed=3)
    assert sorted(rejected.tolist()) == [4, 4, 5, 5]
