"""Identity of an artifact: a hash of everything that changes its numbers, and seeds derived from names.

Pure functions over plain data. It does not decide which fields belong to an artifact (the plan does) and
does not read files.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FINGERPRINT_DIGITS = 16
"""Hex digits kept of the SHA-256: 64 bits, a collision among 10^6 artifacts has odds of 3e-8."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no white space, no NaN.

    Examples:
        >>> canonical_json({"b": 1, "a": (1.0, None)})
        '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """The fingerprint of a recipe: the first 16 hex digits of the SHA-256 of its canonical JSON.

    Examples:
        The order of fields does not matter, their values do:

        >>> fingerprint({"n": 4, "seed": 0}) == fingerprint({"seed": 0, "n": 4})
        True
        >>> fingerprint({"n": 4}) == fingerprint({"n": 5})
        False
    """
    return digest(canonical_json(recipe))[:FINGERPRINT_DIGITS]


def digest(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed named by its parts, so that every use of randomness has a stream of its own.

    Examples:
        >>> derive_seed(0, "generation", 1) == derive_seed(0, "generation", 1)
        True
        >>> derive_seed(0, "generation", 1) == derive_seed(0, "generation", 2)
        False
    """
    return int(digest(canonical_json(list(parts)))[:8], 16) & 0x7FFFFFFF


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names; lists stay values.

    Examples:
        >>> flatten({"generation": {"n": 4, "stop": ["x"]}, "seed": 0})
        {'generation.n': 4, 'generation.stop': ['x'], 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def drift(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields in which two recipes differ, as (field, stored, wanted); a missing field counts as `None`.

    Examples:
        >>> drift({"n": 4, "seed": 0}, {"n": 8, "seed": 0})
        [('n', 4, 8)]
    """
    names = sorted({*stored, *wanted})
    return [(n, stored.get(n), wanted.get(n)) for n in names if stored.get(n) != wanted.get(n)]
