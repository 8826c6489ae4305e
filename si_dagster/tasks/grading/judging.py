"""Tests taken apart: what the program is asked to compute, and what is compared out of its reach.

`assert f(3) == 9` becomes the call `f(3)`, which the program answers with a value, and `value == 9`, which is
evaluated here. The program sees calls only: a loop inside a test (`all(f(x) == y for x, y in z)`) is run here
and asked for call by call, and what the tests define for themselves stays here unless a call needs it, so a
function of theirs sees plain data only. Tests are trusted (they come with the data set); values are not, and
are rebuilt from plain JSON. A test in which what the program computes cannot be parted from what is expected
of it is refused, never run whole by the program.
"""

import ast
import builtins
import collections
import copy
import decimal
import fractions
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from si_dagster.tasks.grading.syntax import parsed

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


MAX_CALLS = 1000
"""Calls that the tests of one program may make."""


class UnreadableTestsError(ValueError):
    """The tests of a reference are no assertions that can be judged."""


@dataclass(frozen=True)
class Plan:
    """The calls a program must answer, in order, and for each assertion its rest.

    Attributes:
        calls: Source of each expression the program evaluates.
        rests: For each assertion, the expression over `_value_0`, `_value_1`, ... that must be true.
        here: Source of the imports, tables and functions of the tests, run on this side.
        imports: Source of the imports of the tests, run on the program's side.
        setup: Source of the other statements of the tests that the program's side runs.
    """

    calls: list[str]
    rests: list[str]
    here: str
    imports: str
    setup: str


@dataclass
class _Loop:
    """One `for` of a comprehension around a node, as the tests have it, and the index that counts it here."""

    target: ast.expr
    source: ast.expr
    conditions: list[ast.expr]
    index: str
    of_program: bool
    """It runs over what the program computes."""
    mixed: bool
    """It runs over that and over more, which the program may not see."""


@dataclass
class _Splitter(ast.NodeTransformer):
    trusted: set[str]
    names: dict[str, Any]
    helpers: set[str]
    calls: list[str] = field(default_factory=list)
    asked: list[ast.expr] = field(default_factory=list)
    scope: list[_Loop] = field(default_factory=list)

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (*_COMPREHENSIONS, ast.Lambda)) and not self._untrusted_inside(node):
            return node
        if isinstance(node, ast.Lambda):
            raise UnreadableTestsError(f"a test with `{ast.unparse(node)}` cannot be judged")
        if isinstance(node, _COMPREHENSIONS):
            return self._counted(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self._unknown(node.func.id):
            return self._asked(node)
        if isinstance(node, ast.Name) and self._unknown(node.id):
            return self._asked(node)
        return self.generic_visit(node)

    def _unknown(self, name: str) -> bool:
        return name not in self.trusted and not any(name in _stored(loop.target) for loop in self.scope)

    def _untrusted_inside(self, node: ast.AST) -> bool:
        bound = _stored(node) | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        return any(self._unknown(name) for name in _names(node) - bound)

    def _counted(self, node: ast.AST) -> ast.AST:
        """A comprehension that counts its rounds, so that each finds the answer to its own call."""
        node, depth = copy.deepcopy(node), len(self.scope)
        for generator in node.generators:  # pyright: ignore[reportAttributeAccessIssue]
            source = copy.deepcopy(generator.iter)
            iterated: Any = self.visit(generator.iter)
            of_program = self._untrusted_inside(source)
            index, target = f"_index_{len(self.scope)}", copy.deepcopy(generator.target)
            loop = _Loop(target, source, [], index, of_program, of_program and not _is_answer(iterated))
            self.scope.append(loop)
            counter = ast.Name(id=loop.index, ctx=ast.Store())
            generator.target = ast.Tuple(elts=[counter, generator.target], ctx=ast.Store())
            enumerate_ = ast.Name(id="enumerate", ctx=ast.Load())
            generator.iter = ast.Call(func=enumerate_, args=[iterated], keywords=[])
            for place, condition in enumerate(generator.ifs):
                generator.ifs[place] = self.visit(copy.deepcopy(condition))
                if not self._untrusted_inside(condition):
                    loop.conditions.append(condition)
        for part in ("key", "value", "elt"):
            if hasattr(node, part):
                setattr(node, part, self.visit(getattr(node, part)))
        del self.scope[depth:]
        return node

    def _asked(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.helpers:
            raise UnreadableTestsError(f"`{ast.unparse(node)[:200]}` would be compared by the program")
        self.asked.append(node)
        own = [loop for loop in self.scope if loop.of_program]
        if any(loop.mixed for loop in own) or (own and len(own) < len(self.scope)):
            raise UnreadableTestsError("a test that loops over values of the program and others at once")
        if own or not self.scope:
            return self._indexed(self._call(_looped(node, self.scope)))
        return self._indexed(self._unrolled(node))

    def _call(self, node: ast.expr) -> ast.expr:
        self.calls.append(ast.unparse(node))
        return ast.Name(id=f"_value_{len(self.calls) - 1}", ctx=ast.Load())

    def _indexed(self, value: ast.expr) -> ast.expr:
        for loop in self.scope:
            index = ast.Name(id=loop.index, ctx=ast.Load())
            value = ast.Subscript(value=value, slice=index, ctx=ast.Load())
        return value

    def _unrolled(self, node: ast.expr) -> ast.expr:
        """A list, nested as the loops are, of one answer a round; loops of the tests are run here."""
        used = sorted(_names(node) & set().union(*(_stored(loop.target) for loop in self.scope)))
        pairs = [ast.Constant(name) for name in used], [ast.Name(id=name, ctx=ast.Load()) for name in used]
        rounds = _looped(ast.Dict(keys=[*pairs[0]], values=[*pairs[1]]), self.scope)
        source = ast.unparse(ast.fix_missing_locations(ast.Expression(rounds)))
        try:
            bound = eval(source, dict(self.names))
        except Exception as error:
            raise UnreadableTestsError(f"`{source[:200]}` cannot be run: {error!r}") from error
        return self._answers(node, bound, len(self.scope))

    def _answers(self, node: ast.expr, bound: Any, depth: int) -> ast.expr:
        if bound is None:
            return ast.Constant(None)
        if depth:
            items = [self._answers(node, item, depth - 1) for item in bound]
            return ast.List(elts=items, ctx=ast.Load())
        if len(self.calls) >= MAX_CALLS:
            raise UnreadableTestsError(f"tests of more than {MAX_CALLS} calls")
        return self._call(
            _Filled({name: _literal(value) for name, value in bound.items()}).visit(copy.deepcopy(node))
        )


@dataclass
class _Filled(ast.NodeTransformer):
    values: dict[str, ast.expr]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


def _is_answer(node: ast.AST) -> bool:
    """Whether a node is an answer of the program and nothing beside it."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name)


def _literal(value: Any) -> ast.expr:
    """The value as source, so that the program is told this one and no other."""
    try:
        found = ast.parse(repr(value), mode="eval").body
        if ast.literal_eval(found) == value:
            return found
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        pass
    raise UnreadableTestsError(f"a test that calls the program with {str(value)[:100]} in a loop")


def _looped(node: ast.expr, loops: list[_Loop]) -> ast.expr:
    """Nested lists of what a node is in each round; `None` where a condition leaves a round out."""
    for loop in reversed(loops):
        for condition in reversed(loop.conditions):
            node = ast.IfExp(test=condition, body=node, orelse=ast.Constant(None))
        rounds = ast.comprehension(target=loop.target, iter=loop.source, ifs=[], is_async=0)
        node = ast.ListComp(elt=node, generators=[rounds])
    return node


def _stored(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


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
        UnreadableTestsError: If a test does not parse, there is no assertion, or one cannot be taken apart.

    Examples:
        >>> plan = plan_tests(["assert set(f(3)) == set([9])"])
        >>> plan.calls, plan.rests
        (['f(3)'], ['set(_value_0) == set([9])'])

        A loop is asked for call by call; what is expected stays here:

        >>> plan_tests(["assert all(f(x) == y for x, y in [(2, 4), (3, 9)])"]).calls
        ['f(2)', 'f(3)']
    """
    try:
        statements = parsed("\n".join([*imports, setup, *tests])).body
    except SyntaxError as error:
        raise UnreadableTestsError(f"the tests do not parse: {error}") from error
    imported = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name.split(".")[0] for node in imported for alias in node.names}
    modules = _modules_used(statements) - names
    imported += [ast.Import([ast.alias(name)]) for name in sorted(modules)]
    trusted = (set(dir(builtins)) | names | modules) - set(shadowed)
    others = [node for node in statements if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assert)]
    own = _own_statements(others, trusted)
    here = _source([*imported, *own])
    known: dict[str, Any] = {}
    exec(here, known)
    theirs = [node for node in others if node not in own]
    _refuse_comparing(theirs)
    helpers = {node.name for node in theirs if isinstance(node, ast.FunctionDef)}
    splitter = _Splitter(trusted | set().union(*map(_defined, own)), known, helpers)
    rests = [ast.unparse(splitter.visit(node.test)) for node in statements if isinstance(node, ast.Assert)]
    if not rests:
        raise UnreadableTestsError("the tests hold no assertion")
    told = _needed(others, theirs, set().union(*map(_names, splitter.asked)))
    return Plan(splitter.calls, rests, here, _source(imported), _source(told))


def _source(nodes: Sequence[ast.stmt]) -> str:
    return "\n".join(map(ast.unparse, nodes))


def _defined(node: ast.stmt) -> set[str]:
    return {node.name} if isinstance(node, ast.FunctionDef) else _stored(node)


def _own_statements(statements: Sequence[ast.stmt], trusted: set[str]) -> list[ast.stmt]:
    """Tables and functions the tests make for themselves out of nothing the program defines."""
    own: list[ast.stmt] = []
    known = set(trusted)
    for node in statements:
        inside = _stored(node) | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        plain = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets)
        )
        recursive = {node.name} if isinstance(node, ast.FunctionDef) else set()
        if plain and _names(node) - inside - recursive <= known:
            own.append(node)
            known |= _defined(node)
    return own


def _refuse_comparing(statements: Sequence[ast.stmt]) -> None:
    """Statements for the program may build what is tested; what compares would be its own judge."""
    for statement in statements:
        inside = [] if isinstance(statement, ast.FunctionDef | ast.ClassDef) else [ast.Compare, ast.BoolOp]
        if any(isinstance(node, (ast.Assert, *inside)) for node in ast.walk(statement)):
            raise UnreadableTestsError(f"`{ast.unparse(statement)[:200]}` would be judged by the program")


def _needed(all_of: Sequence[ast.stmt], told: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """The statements for the program: its own and what its calls name, directly or through others."""
    wanted = names | set().union(*map(_names, told))
    chosen = set(map(id, told))
    for node in reversed(all_of):
        if id(node) in chosen or _defined(node) & wanted:
            chosen.add(id(node))
            wanted |= _names(node)
    return [node for node in all_of if id(node) in chosen]


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
    exec(plan.here, names)
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
