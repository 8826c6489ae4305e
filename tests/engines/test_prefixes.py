"""Reading shared beginnings once must read exactly the sequences that were asked for."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from si_dagster.engines.prefixes import SLAB_ROWS, reading_levels, shared_lengths

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(sequences, st.integers(0, 3))
def test_the_levels_spell_every_sequence(lists, held_back):
    arrays = [np.array(ids) for ids in lists]
    limits = np.maximum(0, np.array([len(ids) for ids in lists]) - 1 - held_back)
    spelled: list[list[int]] = [[]]
    before = 0
    for level in reading_levels(arrays, limits):
        spelled = [
            spelled[parent] + segment.tolist()
            for parent, segment in zip(level.parents, level.segments, strict=True)
        ]
        last, before = level, sum(len(s) for s in level.segments) + before
    assert spelled == lists
    assert before <= sum(len(ids) for ids in lists)
    assert all(
        len(ids) - len(segment) <= limit
        for ids, segment, limit in zip(lists, last.segments, limits, strict=True)
    )


def test_slabs_do_not_show():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, rng.integers(2, 6)) for _ in range(SLAB_ROWS + 100)]
    limits = np.array([len(ids) - 1 for ids in arrays])
    expected = [
        min(
            next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))),
            len(a) - 1,
            len(b) - 1,
        )
        for a, b in itertools.pairwise(arrays)
    ]
    assert shared_lengths(arrays, limits).tolist() == expected
