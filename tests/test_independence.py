"""The definition of an op shares no code with its forward and backward: a broken helper shows.

A check compares `forward` and `backward` with the definition. If both called the same helper, a
mistake in it would be in both, and every check would pass.
"""

import ast
import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check

PACKAGE = Path(jaxnn.__file__).parent
BACKWARD = ("forward", "backward", "backward_input", "backward_params", "tangent")


class Function(NamedTuple):
    """A function or a class at the top level of a module.

    `name` is the first part of the qualified name, so that an inner function is its outer one.
    """

    module: str
    name: str

    def __str__(self):
        return f"{self.module.rpartition('.')[2]}.{self.name}"


class Use(NamedTuple):
    """A global that some code refers to, and the attribute of it that it takes, or ""."""

    thing: object
    attribute: str


def function_of(thing, roots) -> Function | None:
    """The top-level function or class that a thing is, if it belongs to the code in question."""
    thing = inspect.unwrap(getattr(thing, "func", thing))
    if not isinstance(thing, FunctionType | type):
        return None
    name = getattr(thing, "__code__", thing)
    name = getattr(name, "co_qualname", getattr(name, "__qualname__", "")).split(".")[0]
    module = sys.modules.get(thing.__module__)
    path = Path(getattr(module, "__file__", None) or "/")
    if not any(path.is_relative_to(root) for root in roots):
        return None
    return Function(thing.__module__, name)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(Path(sys.modules[module].__file__).read_text())


def bodies(function: Function) -> list[ast.AST]:
    """The syntax trees of a function or class."""
    return [
        node
        for node in tree_of(function.module).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == function.name
    ]


def nodes(node):
    """Every node within, but those of decorators and annotations."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST):
                yield from nodes(inner)


def locals_of(body) -> set[str]:
    stored = {n.id for n in nodes(body) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    arguments = {n.arg for n in nodes(body) if isinstance(n, ast.arg)}
    inner = {n.name for n in nodes(body) if isinstance(n, ast.FunctionDef) and n is not body}
    return stored | arguments | inner


def uses(function: Function) -> list[Use]:
    """The globals that a function refers to."""
    scope, found = vars(sys.modules[function.module]), []
    for body in bodies(function):
        own = locals_of(body) if isinstance(body, ast.FunctionDef) else set()
        attributes = {
            id(n.value): n.attr
            for n in nodes(body)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        }
        for n in nodes(body):
            if isinstance(n, ast.Name) and n.id in scope and n.id not in own:
                found.append(Use(scope[n.id], attributes.get(id(n), "")))
    return found


def decorators_of(function: Function) -> list:
    """What decorates a function, but for the declaration that makes it an op or a rule of one."""
    scope, found = vars(sys.modules[function.module]), []
    for body in bodies(function):
        is_op = isinstance(scope[function.name], jaxnn.Op)
        for decorator in body.decorator_list[is_op:]:
            names = [n for n in ast.walk(decorator) if isinstance(n, ast.Name)]
            found += [scope[n.id] for n in names if n.id in scope]
    return [thing for thing in found if not isinstance(thing, jaxnn.Op)]


class Reached(NamedTuple):
    """The functions that some code calls, directly or not, each with the chain of calls to it."""

    functions: dict[Function, str]
    offences: list[str]


def reached_from(things, roots, *, is_definition: bool) -> Reached:
    """Follow the calls of these functions through the code in question."""
    functions, offences, waiting = {}, [], []

    def visit(thing, chain):
        function = function_of(thing, roots)
        if function is not None and function not in functions:
            functions[function] = f"{chain} → {function}" if chain else str(function)
            waiting.append(function)

    for thing in things:
        visit(thing, "")
    while waiting:
        function = waiting.pop()
        chain = functions[function]
        for decorator in decorators_of(function):
            visit(decorator, chain)
        for thing, attribute in uses(function):
            if isinstance(thing, ModuleType):
                if hasattr(thing, attribute):
                    visit(getattr(thing, attribute), chain)
            elif not isinstance(thing, jaxnn.Op):
                visit(thing, chain)
            elif is_definition and attribute == "definition":
                visit(thing.rules.definition, chain)
            elif is_definition:
                call = f"{thing.__name__}.{attribute}" if attribute else thing.__name__
                offences.append(f"the definition calls {call}, by hand, not .definition: {chain}")
            elif attribute == "definition":
                offences.append(f"the backward calls {thing.__name__}.definition: {chain}")
            else:
                for rule in BACKWARD:
                    visit(getattr(thing.rules, rule), chain)
    return Reached(functions, offences)


def offences(op: jaxnn.Op, roots=(PACKAGE,)) -> list[str]:
    """Every way in which the definition of an op and its backward share code."""
    ours = [rule for name in BACKWARD if (rule := getattr(op.rules, name)) is not None]
    definition = reached_from([op.rules.definition], roots, is_definition=True)
    backward = reached_from(ours, roots, is_definition=False)
    shared = [
        f"both call {function}: {definition.functions[function]} and {backward.functions[function]}"
        for function in definition.functions
        if function in backward.functions
    ]
    return [*definition.offences, *backward.offences, *shared]


OPS = [thing for thing in vars(jaxnn).values() if isinstance(thing, jaxnn.Op)]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_the_definition_shares_no_code_with_the_backward(op):
    found = offences(op)
    assert not found, "\n".join([op.__name__, *found])


PLANTED = '''
"""An op whose definition is not independent."""
from functools import wraps
from typing import NamedTuple

import jax.numpy as jnp

import jaxnn
from jaxnn import tanh

class Residuals(NamedTuple):
    x: object

def factor():
    return 3.0

def scale(x):
    return factor() * x

def alone(x):
    return x

def decorated(function):
    @wraps(function)
    def inner(*args):
        return function(*args)
    return inner

def rescaled(x):
    return [scale(v) for v in [x]][0]

@jaxnn.op
def independent(x):
    return jnp.tanh(alone(x))

@independent.forward
def independent_fwd(x):
    alone = scale
    return alone(x), Residuals(x)

@independent.backward
@decorated
def independent_bwd(residuals, dy):
    return (scale(dy),)

@jaxnn.op
def shares_a_helper(x):
    return rescaled(x)

@shares_a_helper.forward
def shares_fwd(x):
    return x, Residuals(x)

@shares_a_helper.backward
def shares_bwd(residuals, dy):
    def inner(dy):
        return dy * factor()
    return (inner(dy),)

@jaxnn.op
@decorated
def shares_a_decorator(x):
    return tanh.definition(x)

shares_a_decorator.forward(shares_fwd)
shares_a_decorator.backward(independent_bwd)

@jaxnn.op
def calls_an_op(x):
    return tanh(x)

calls_an_op.forward(shares_fwd)

@calls_an_op.backward
def calls_an_op_bwd(residuals, dy):
    return (tanh.definition(dy),)
'''


@pytest.fixture
def planted(tmp_path, monkeypatch):
    path = tmp_path / "planted_ops.py"
    path.write_text(PLANTED)
    spec = importlib.util.spec_from_file_location("planted_ops", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "planted_ops", module)
    spec.loader.exec_module(module)
    yield lambda name: offences(getattr(module, name), (tmp_path,))
    tree_of.cache_clear()


def test_shared_code_is_found(planted):
    assert planted("independent") == []
    assert planted("shares_a_helper") == [
        "both call planted_ops.factor: planted_ops.shares_a_helper → planted_ops.rescaled → "
        "planted_ops.scale → planted_ops.factor and planted_ops.shares_bwd → planted_ops.factor"
    ]
    assert planted("shares_a_decorator") == [
        "both call planted_ops.decorated: planted_ops.shares_a_decorator → planted_ops.decorated "
        "and planted_ops.independent_bwd → planted_ops.decorated"
    ]
    assert [words.split(":")[0] for words in planted("calls_an_op")] == [
        "the definition calls tanh, by hand, not .definition",
        "the backward calls tanh.definition",
    ]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def tripled(function):
    return lambda *args, **options: jax.tree.map(lambda a: 3 * a, function(*args, **options))


def exchanged(function):
    return lambda *args, **options: tuple(reversed(function(*args, **options)))


def doubled(function):
    return lambda *args, **options: 2 * function(*args, **options)


def shifted(function):
    return lambda *args, **options: jnp.roll(function(*args, **options), 1, axis=-1)


def one_padding_less(function):
    def windows(*args, **options):
        return tuple(
            w._replace(before=w.before - 1, after=w.after + 1) for w in function(*args, **options)
        )

    return windows


BROKEN = {
    "attention": (
        "attention",
        "_scale",
        tripled,
        lambda: [normal(i, 3, 5, 4, 6) for i in range(3)],
    ),
    "rotary_embedding": ("rotary", "_cos_sin", exchanged, lambda: [normal(0, 3, 5, 4, 6)]),
    "linear": (
        "linear",
        "contract",
        doubled,
        lambda: [{"w": normal(0, 5, 6), "b": normal(1, 6)}, normal(2, 7, 5)],
    ),
    "softmax_cross_entropy": (
        "losses.softmax_cross_entropy",
        "one_hot",
        shifted,
        lambda: [normal(0, 7, 5), jnp.arange(7) % 5],
    ),
    "conv": (
        "convolution",
        "windows_along",
        one_padding_less,
        lambda: [{"w": normal(0, 3, 4, 6)}, normal(1, 5, 7, 4)],
    ),
}


@pytest.fixture
def fresh_traces():
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_helper_is_seen(name, monkeypatch, fresh_traces):
    """A helper of both forward and backward, broken, gives a consistent pair that is wrong."""
    module, helper, mistake, arguments = BROKEN[name]
    module = sys.modules[f"jaxnn.ops.{module}"]
    args, laws = arguments(), ("value", "gradient")
    assert check(getattr(jaxnn, name), *args, laws=laws).ok
    monkeypatch.setattr(module, helper, mistake(getattr(module, helper)))
    jax.clear_caches()
    assert not check(getattr(jaxnn, name), *args, laws=laws).ok
