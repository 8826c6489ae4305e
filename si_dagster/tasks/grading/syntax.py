"""Parsing of Python that others wrote, without their warnings.

It parses and runs nothing.
"""

import ast
import warnings


def parsed(code: str) -> ast.Module:
    """The syntax tree of a program; warnings about its style (`'\\w'`) are not ours to raise.

    Raises:
        SyntaxError: If it is no Python, or nested too deeply or written in a way no parser takes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error)) from error
