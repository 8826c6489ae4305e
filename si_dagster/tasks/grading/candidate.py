"""The untrusted end of the sandbox: runs one program and tells the values of the calls it is asked for.

The chamber holds this text and calls `main` in a process that is nobody and has nothing, so it imports the
standard library only. What it says is not believed: it never learns what a test expects, so the one way to
pass is to return the right values.
"""

import os
import sys

MAX_ITEMS = 100_000
_ITERATION = (
    (list, list.__iter__),
    (tuple, tuple.__iter__),
    (set, set.__iter__),
    (frozenset, frozenset.__iter__),
)


def main(job, descriptor):
    """Run the code of a job, answer each of its calls on the descriptor, and end the process."""
    sys.set_int_max_str_digits(0)
    say = _speaker(descriptor, job["nonce"])
    module = type(sys)("candidate")
    sys.modules["candidate"] = module
    calls = [compile(call, "<call>", "eval") for call in job["calls"]]
    try:
        for part in (job["imports"], job["code"], job["setup"]):
            exec(compile(part, "<candidate>", "exec"), module.__dict__)
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {str(error)[:200]}"})
        os._exit(0)
    for call in calls:
        try:
            say({"value": encode(eval(call, module.__dict__), 0)})
        except BaseException as error:
            say({"error": f"{type(error).__name__}: {str(error)[:200]}"})
    os._exit(0)


def _speaker(descriptor, nonce):
    write, spell = os.write, ascii  # bound before the program can replace them

    def say(message):
        data = f"{nonce} {spell(message)}\n".encode()
        while data:
            data = data[write(descriptor, data) :]

    return say


def encode(value, depth):
    """A value as lists and strings, by the raw content of its built-in base; an own `__eq__` is lost."""
    if depth > 50:
        raise ValueError("nested deeper than 50")
    if value is None or isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    for kind, items_of in _ITERATION:
        if isinstance(value, kind):
            return [kind.__name__, [encode(item, depth + 1) for item in items_of(value)]]  # pyright: ignore
    if isinstance(value, dict):
        pairs = [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]
        return ["dict", pairs]
    if isinstance(value, range):
        return ["range", [value.start, value.stop, value.step]]
    return _encode_other(value, depth)


def _encode_other(value, depth):
    kind = type(value)
    if kind.__module__ == "collections" and kind.__name__ == "deque":
        return ["deque", [encode(item, depth + 1) for item in value]]
    if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
        items = []
        for item in value:
            items.append(encode(item, depth + 1))
            if len(items) > MAX_ITEMS:
                raise ValueError(f"an iterator of more than {MAX_ITEMS} items")
        return ["iterator", items]
    if kind.__module__ == "builtins" and kind.__name__ in ("dict_keys", "dict_values", "dict_items"):
        return ["iterator", [encode(item, depth + 1) for item in value]]
    if kind.__module__ in ("decimal", "fractions", "datetime"):
        return ["text", kind.__module__, kind.__name__, str(value)]
    return ["other", bool(value)]
