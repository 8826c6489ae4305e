"""Which natural keys an artifact holds already: eight bytes a row, so that tens of millions fit.

A key is known by a hash of 64 bits, and two keys may share one: what is said to be seen has to be looked up.
What is said to be new is new.
"""

import numpy as np
import polars as pl


class KeyHashes:
    """Hashes of keys in sorted runs, each longer than the next, so that looking up and adding stay cheap.

    Examples:
        >>> known = KeyHashes()
        >>> known.add(pl.DataFrame({"key": ["a", "b"]}))
        >>> known.seen(pl.DataFrame({"key": ["b", "c"]})).tolist()
        [True, False]
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, keys: pl.DataFrame) -> None:
        """Remember the keys, one a row."""
        run = np.sort(_hashes(keys))
        while self._runs and len(self._runs[-1]) <= len(run):
            # Stable: two sorted runs are merged in one pass.
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)

    def seen(self, keys: pl.DataFrame) -> np.ndarray:
        """Of each row, whether its key may have been added; `False` is certain."""
        hashes = _hashes(keys)
        found = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            place = np.searchsorted(run, hashes)
            found |= run[np.minimum(place, len(run) - 1)] == hashes
        return found


def _hashes(keys: pl.DataFrame) -> np.ndarray:
    return keys.hash_rows().to_numpy()
