"""Tests taken apart: what the program is asked to compute, and what is compared out of its reach.

`assert f(3) == 9` becomes the call `f(3)`, which the program answers with a value, and `value == 9`, which is
evaluated here. The program sees calls only. Tests are trusted (they come with the data set); values are not,
and are rebuilt from plain JSON. A call inside a comprehension of a test is asked for with its comprehension.
"""

import ast
import builtins
import collections
import decimal
import fractions
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from si_dagster.tasks.grading.syntax import parsed

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)


class UnreadableTestsError(ValueError):
    """The tests of a reference are no assertions that can be judged."""


@dataclass(frozen=True)
class Plan:
    """The calls a program must answer, in order, and for each assertion its rest.

    Attributes:
        calls: Source of each expression the program evaluates.
        rests: For each assertion, the expression over `_value_0`, `_value_1`, ... that must be true.
        imports: Source of the imports of the tests, for both sides.
        setup: Source of the other statements of the tests, which the program's side runs.
    """

    calls: list[str]
    rests: list[str]
    imports: str
    setup: str


@dataclass
class _Splitter(ast.NodeTransformer):
    trusted: set[str]
    calls: list[str] = field(default_factory=list)

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _COMPREHENSIONS) and self._untrusted_inside(node):
            return self._asked(node)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id not in self.trusted
        ):
            return self._asked(node)
        if isinstance(node, ast.Name) and node.id not in self.trusted:
            return self._asked(node)
        return self.generic_visit(node) if not isinstance(node, _COMPREHENSIONS) else node

    def _untrusted_inside(self, node: ast.AST) -> bool:
        bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return bool(names - bound - self.trusted)

    def _asked(self, node: ast.AST) -> ast.Name:
        self.calls.append(ast.unparse(node))
        return ast.Name(id=f"_value_{len(self.calls) - 1}", ctx=ast.Load())


def plan_tests(
    tests: Sequence[str], setup: str = "", imports: Sequence[str] = (), shadowed: Sequence[str] = ()
) -> Plan:
    """Split assertions into calls and rests.

    Args:
        tests: Source of the assertions.
        setup: Statements before them, which may use what the program defines.
        imports: Import statements of the tests.
        shadowed: Built-in names that the task asks the program to define, e.g. `sum`; all others keep
            their meaning whatever the program defines.

    Raises:
        UnreadableTestsError: If a test does not parse or there is no assertion.

    Examples:
        >>> plan = plan_tests(["assert set(f(3)) == set([9])"])
        >>> plan.calls, plan.rests
        (['f(3)'], ['set(_value_0) == set([9])'])
    """
    try:
        statements = parsed("\n".join([*imports, setup, *tests])).body
    except SyntaxError as error:
        raise UnreadableTestsError(f"the tests do not parse: {error}") from error
    imported = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name.split(".")[0] for node in imported for alias in node.names}
    modules = _modules_used(statements) - names
    imported += [ast.Import([ast.alias(name)]) for name in sorted(modules)]
    splitter = _Splitter((set(dir(builtins)) | names | modules) - set(shadowed))
    rests = [ast.unparse(splitter.visit(node.test)) for node in statements if isinstance(node, ast.Assert)]
    if not rests:
        raise UnreadableTestsError("the tests hold no assertion")
    others = [node for node in statements if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assert)]
    return Plan(splitter.calls, rests, *("\n".join(map(ast.unparse, nodes)) for nodes in (imported, others)))


def _modules_used(statements: list[ast.stmt]) -> set[str]:
    """Standard modules that tests use as `sys.getsizeof(...)` and leave to the program to import."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    roots = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return (roots & sys.stdlib_module_names) - stored


def entry_points(tests: Sequence[str]) -> set[str]:
    """Names of functions and classes the tests call that are not built in."""
    try:
        tree = parsed("\n".join(tests))
    except SyntaxError:
        return set()
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return called - set(dir(builtins))


def judge(plan: Plan, values: Sequence[Any]) -> str | None:
    """`None` where every assertion holds, else which one does not; values as `decode` rebuilds them."""
    names: dict[str, Any] = {f"_value_{index}": value for index, value in enumerate(values)}
    exec(plan.imports, names)
    for number, rest in enumerate(plan.rests, 1):
        try:
            holds = bool(eval(rest, names))
        except Exception as error:
            return f"assertion {number}: {type(error).__name__}: {str(error)[:200]}"
        if not holds:
            return f"assertion {number} does not hold"
    return None


class Unknown:
    """A value of a type that is not plain data: equal to nothing, itself included, but true or false."""

    def __init__(self, truth: bool = False) -> None:
        self.truth = truth

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        return False

    def __bool__(self) -> bool:
        return self.truth


def decode(data: list[Any]) -> Any:
    """The value that `candidate.encode` described; anything malformed is an `Unknown`.

    >>> decode(["list", [["int", "0x5"], ["str", "a"]]])
    [5, 'a']
    """
    try:
        return _decode(data)
    except (TypeError, ValueError, KeyError, IndexError, RecursionError, ArithmeticError):
        return Unknown()


_CONTAINERS: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "iterator": iter,
}


def _decode(data: list[Any]) -> Any:
    kind, *rest = data
    if kind == "bool":
        return None if rest[0] is None else bool(rest[0])
    if kind == "int":
        return int(rest[0], 16)
    if kind in ("float", "complex"):
        numbers = [float.fromhex(part) for part in rest]
        return complex(*numbers) if kind == "complex" else numbers[0]
    if kind == "str":
        return str(rest[0])
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "dict":
        return {_decode(key): _decode(value) for key, value in rest[0]}
    if kind == "range":
        return range(*rest[0])
    if kind == "text":
        return {"Decimal": decimal.Decimal, "Fraction": fractions.Fraction}[rest[1]](rest[2])
    if kind in _CONTAINERS:
        return _CONTAINERS[kind]([_decode(item) for item in rest[0]])
    return Unknown(rest[0] is True)
