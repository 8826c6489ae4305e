"""The random stream of every draw, named by what is drawn and by nothing else.

Sample j of prompt key k under seed s reads the uniforms of `uniforms(s, k, j, ...)`, whoever computes it, in
whichever batch and on whichever machine. It does not draw tokens and holds no state.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

DRAW_BYTES = 4
"""32 bits a draw: tokens rarer than 2.3e-10 are drawn with a frequency rounded to that grid."""


def uniforms(seed: int, streams: Iterable[tuple[str, int]], num_draws: int) -> np.ndarray:
    """Uniform numbers strictly between 0 and 1, one row a stream.

    The bytes of SHAKE-128 over (seed, key, index): an extendable-output function, so that a longer row begins
    with the shorter one and asking for more tokens changes no earlier draw (ours; vLLM seeds a generator for
    each request, whose draws depend on the batch).

    Args:
        seed: Root seed.
        streams: (prompt key, sample index) of each row.
        num_draws: Numbers a row.

    Returns:
        float64, shape (num_streams, num_draws), on the grid (k + 1/2) / 2^32.

    Examples:
        >>> long, short = uniforms(0, [("p1", 3)], 5), uniforms(0, [("p2", 0), ("p1", 3)], 2)
        >>> bool((long[0, :2] == short[1]).all())
        True
    """
    num_bytes = DRAW_BYTES * num_draws
    blocks = [
        hashlib.shake_128(f"{seed}\x00{index}\x00{key}".encode("utf-8", "surrogatepass")).digest(num_bytes)
        for key, index in streams
    ]
    integers = np.frombuffer(b"".join(blocks), dtype="<u4").reshape(len(blocks), num_draws)
    return (integers.astype(np.float64) + 0.5) / 2.0**32


def request_seed(seed: int, key: str) -> int:
    """Seed of the request for one prompt, for engines with a random stream of their own.

    62 bits of BLAKE2b over (seed, key). Sample j of the request takes the seed + j, as vLLM has it, so the
    seeds of two prompts do not meet.

    Examples:
        >>> request_seed(0, "p1") == request_seed(0, "p1"), request_seed(0, "p1") == request_seed(1, "p1")
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}\x00{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
