"""`name=value` as people write it on a command line or in a variable, the value read as YAML.

Not here: which names there are to choose from, and what a value must be; those who ask know.
"""

from typing import Any

import yaml


def assignment(written: str, what: str) -> tuple[str, Any]:
    """The name and the value of one `name=value`.

    Args:
        written: What was written.
        what: What it sets, for the message: "engine option".

    Raises:
        ValueError: If there is no name or no `=`, or the value is no YAML.

    Examples:
        >>> assignment("num_processes=2", "trainer option")
        ('num_processes', 2)
        >>> assignment("base_url=http://gpu-box:8000/v1?a=b", "engine option")
        ('base_url', 'http://gpu-box:8000/v1?a=b')
    """
    name, equals, text = written.partition("=")
    if not equals or not name:
        raise ValueError(f"{what} {written!r}: write name=value, without spaces around the =")
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{what} {name}: {text!r} is not a YAML value") from None
