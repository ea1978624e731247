"""The targets in a file: definitions that can be checked."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxnn.gradcheck.files.loading import File
from jaxnn.gradcheck.laws.check import check
from jaxnn.gradcheck.numpy.calls import takes_residuals_first
from jaxnn.gradcheck.numpy.check_numpy import check_numpy
from jaxnn.gradcheck.numpy.naming import BACKWARD_METHODS, CONTEXT, FORWARD_METHODS
from jaxnn.gradcheck.report import Report
from jaxnn.layer import Layer
from jaxnn.op import Op

_ENDING = re.compile(
    r"(?P<stem>\w*?)_?(?:backwards?(?:_?prop(?:agation)?|_?pass)?|bwd|back|back_?prop|bprop|vjp"
    r"|prime|deriv(?:ative)?|der|grad(?:ient)?s?)(?P<more>_\w+)?",
    re.IGNORECASE,
)
_BEGINNING = re.compile(
    r"(?:backwards?|bwd|back_?prop|bprop|grad(?:ient)?|deriv(?:ative)?)_(?P<stem>\w+?)(?P<more>)"
    r"|d_?(?P<other>\w+)",
    re.IGNORECASE,
)
_FORWARDS = (
    "{}",
    "{}_forward",
    "{}_fwd",
    "forward_{}",
    "fwd_{}",
    "{}_fprop",
    "{}_forward_pass",
    "{}_forward_prop",
    "{}_forward_propagation",
    "{}_function",
    "{}_func",
    "{}_fn",
)
_LOSS = re.compile(r"\w*(loss|cost|error)", re.IGNORECASE)
_GRADIENT = re.compile(r"d[A-Z_]\w*|d[a-z]\d*|(?i:\w*grad\w*|nabla\w*|delta\w*|dl_?d\w+)")


class Target(NamedTuple):
    """A definition in a file that can be checked.

    Attributes:
        name: its name in the report.
        keys: the names under which `examples()` may give its arguments.
        check: `(*args, seed, **options) -> Report`.
        called: the function whose parameters are its arguments.
        made: the class whose instance may be the first argument, or `None`.
        in_jax: whether it works on JAX arrays.
        is_loss: whether it returns a loss with its gradients.
    """

    name: str
    keys: tuple[str, ...]
    check: Callable[..., Report]
    called: Callable
    made: type | None = None
    in_jax: bool = False
    is_loss: bool = False


def targets(file: File) -> list[Target]:
    """The targets in a file: first its own definitions, then its imports.

    These are ops, layers, functions with a custom rule, classes with a forward and a backward,
    functions with a backward of a related name, functions that return a loss and its gradients,
    and functions that `examples()` names.
    """
    things = {name: thing for name, thing in vars(file.module).items() if not name.startswith("__")}
    functions = {
        name: thing
        for name, thing in things.items()
        if inspect.isfunction(thing) and file.is_own(thing)
    }
    rules = {id(rule) for thing in things.values() for rule in _rules(thing)}
    pairs = list(_pairs(functions, rules, things))
    found = []
    for name, thing in things.items():
        found += [target for first, target in pairs if first == name]
        single = _single(file, name, thing)
        if single is not None:
            found.append(single)
    paired = {key for _, target in pairs for key in target.keys}
    for name, function in functions.items():
        named = name in file.examples and not any(name in target.keys for target in found)
        if named or (name not in paired and _returns_gradients(function)):
            run = partial(_check_numpy, function, None)
            found.append(Target(name, (name,), run, function, is_loss=True))
    return found


def _single(file, name, thing) -> Target | None:
    """The target formed by a single object, if any."""
    if isinstance(thing, Layer):
        return Target(name, (name,), partial(_check_layer, thing), thing.apply, in_jax=True)
    rule = _with_rule(thing)
    if rule is not None and file.is_own(function := _signature_of(rule)):
        return Target(name, (name,), partial(check, thing), function, in_jax=True)
    if inspect.isclass(thing) and file.is_own(thing):
        return _class(name, thing)
    return None


def _class(name, cls) -> Target | None:
    """The target formed by a class, if neither its forward nor its backward is abstract."""
    forward, backward = (
        next((method for method in methods if _has(cls, method)), None)
        for methods in (FORWARD_METHODS, BACKWARD_METHODS)
    )
    if inspect.isabstract(cls) or forward is None:
        return None
    if backward is None:
        both = getattr(cls, forward)
        if not _returns_gradients(both):
            return None
        run = partial(_check_object, cls)
        return Target(name, (name,), run, partial(both, None), cls, is_loss=True)
    forward, backward = getattr(cls, forward), getattr(cls, backward)
    if is_abstract(forward) or is_abstract(backward):
        return None
    if _is_static(cls, forward.__name__):
        called = _without_context(forward)
        return Target(name, (name,), partial(_check_numpy, forward, backward), called)
    return Target(name, (name,), partial(_check_object, cls), partial(forward, None), cls)


def is_abstract(function: Callable) -> bool:
    """Whether the body of a function is only a placeholder."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    body = getattr(tree.body[0], "body", [])
    if not isinstance(body, list):
        return False
    return all(
        isinstance(s, ast.Pass)
        or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        or (isinstance(s, ast.Raise) and s.exc is not None and "NotImpl" in ast.unparse(s.exc))
        or (isinstance(s, ast.Return) and ast.unparse(s) in ("return", "return NotImplemented"))
        for s in body
    )


def _pairs(functions, rules, things) -> Iterator[tuple[str, Target]]:
    """Functions with a backward of a related name, each with the name of the first of the two."""
    order = list(functions)
    found = []
    for name, backward in functions.items():
        if id(backward) in rules or _rule_named(_stems(name), things):
            continue
        forward = _forward_of(name, functions)
        if forward is not None:
            found.append((forward, name))
    forwards = [forward for forward, _ in found]
    for forward, name in found:
        stem = _bare(forward)
        alone = forwards.count(forward) == 1 and stem
        keys = (name, forward, *((stem,) if stem else ()))
        target = _pair(stem if alone else name, keys, functions, forward, name, things)
        yield min(forward, name, key=order.index), target


def _pair(name, keys, functions, forward, backward, things) -> Target:
    """The target formed by two functions, for `check` if the file also has their definition."""
    stem = _bare(forward)
    whole = things.get(stem) if forward.endswith("_fwd") else None
    definition = things.get(f"{stem}_definition", whole)
    forward, backward = functions[forward], functions[backward]
    if callable(definition) and takes_residuals_first(backward) and _uses_jax(backward):
        run = partial(check, (forward, backward), definition=definition)
        return Target(name, keys, run, definition, in_jax=True)
    return Target(name, keys, partial(_check_numpy, forward, backward), forward)


def _forward_of(name, functions) -> str | None:
    """The name of the function whose backward this function is, judging by its name, if any."""
    swapped = re.sub("backwards?", "forward", re.sub("Backward", "Forward", name))
    candidates = [swapped, re.sub("bwd", "fwd", name), re.sub("back_?prop", "feedforward", name)]
    for stem in _stems(name):
        candidates += [pattern.format(stem) for pattern in _FORWARDS] if stem else ["forward"]
    folded = {other.lower().replace("_", ""): other for other in reversed(functions)}
    for candidate in candidates:
        forward = folded.get(candidate.lower().replace("_", ""))
        if forward is not None and forward != name and not _is_backward(forward):
            return forward
    return None


def _stems(name) -> list[str]:
    """The names of functions whose backward may have this name."""
    stems: list[str] = []
    for pattern in (_ENDING, _BEGINNING):
        match = pattern.fullmatch(name)
        if match:
            groups = match.groupdict()
            stem, more = groups.get("stem") or groups.get("other") or "", groups["more"] or ""
            stems += [stem + more, stem] if stem else [""] * (not more)
    return list(dict.fromkeys(stems))


def _is_backward(name) -> bool:
    return _ENDING.fullmatch(name) is not None


def _bare(forward) -> str:
    """The name of a forward without the word "forward"."""
    bare = re.sub(r"_?(forward(_pass|_prop(agation)?)?|fwd|fprop)(?=_|$)", "", forward)
    return re.sub(r"^forward_|^_", "", bare)


def _rule_named(stems, things) -> bool:
    """Whether an op or a function with a custom rule has one of these names."""
    return any(isinstance(things.get(stem), Op | jax.custom_vjp) for stem in stems)


def _rules(thing) -> Iterator[Any]:
    """The functions that form the rule of a function with a custom rule."""
    rule = _with_rule(thing)
    yield from (getattr(rule, part, None) for part in ("fun", "fwd", "bwd") if rule is not None)


def _with_rule(thing) -> Any:
    """The op or function with a custom rule, unwrapped if necessary."""
    while thing is not None and not inspect.isclass(thing):
        if isinstance(thing, Op | jax.custom_vjp) or type(thing).__name__ == "filter_custom_vjp":
            return thing
        code = getattr(thing, "__code__", None)
        if code is not None and code.co_qualname.startswith("custom_gradient."):
            return thing
        thing = getattr(thing, "__wrapped__", None)
    return None


def _uses_jax(function) -> bool:
    """Whether the module of a function has imported JAX."""
    modules = (getattr(value, "__name__", "") for value in function.__globals__.values())
    return any(
        name == "jax" or name.startswith("jax.") for name in modules if isinstance(name, str)
    )


def _signature_of(rule) -> Callable:
    """The function that has the signature of a function with a custom rule."""
    return next((f for name in ("fun", "fn") if (f := getattr(rule, name, None))), rule)


def _returns_gradients(function) -> bool:
    """Whether a function returns gradients before or after a loss, judging by names."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    returned = [node.value for node in _own_nodes(tree.body[0]) if isinstance(node, ast.Return)]
    return bool(returned) and all(
        isinstance(value, ast.Tuple)
        and len(value.elts) > 1
        and any(_names_a_gradient(rest) != _names_a_gradient(value.elts[0]) for rest in value.elts)
        and (not _names_a_gradient(value.elts[0]) or _names_a_loss(value.elts[-1]))
        for value in returned
    )


def _own_nodes(function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own_nodes(node)


def _names_a_loss(node) -> bool:
    """Whether an expression is a variable with the name of a loss."""
    return isinstance(node, ast.Name) and _LOSS.fullmatch(node.id) is not None


def _names_a_gradient(node) -> bool:
    """Whether an expression reads a variable with the name of a gradient."""
    return any(isinstance(n, ast.Name) and _GRADIENT.fullmatch(n.id) for n in ast.walk(node))


def _has(cls, method) -> bool:
    """Whether a class defines a method; `__call__` counts only if the class itself defines it."""
    return any(inspect.isroutine(vars(base).get(method)) for base in cls.__mro__[:-1])


def _is_static(cls, method) -> bool:
    return isinstance(inspect.getattr_static(cls, method, None), staticmethod)


def _without_context(function) -> Callable:
    """A function without its first parameter, if that is a context object."""
    first = next(iter(inspect.signature(function).parameters), "")
    return partial(function, None) if CONTEXT.fullmatch(first) else function


def _check_layer(layer, *args, seed, **options) -> Report:
    """Check a layer at `params, x`, or at `x` alone with its initial parameters."""
    if len(args) == 1:
        args = (layer.init(jax.random.key(seed)), *args)
    return check(layer, *args, seed=seed, **options)


def _check_object(cls, *args, seed, **options) -> Report:
    """Check the object given as the first argument, or one constructed without arguments."""
    if not args or not isinstance(args[0], cls):
        args = (cls(), *args)
    return check_numpy(args[0], None, *args[1:], seed=seed, **options)


def _check_numpy(forward, backward, *args, seed, **options) -> Report:
    """Check functions, each with the options that it accepts."""
    known = inspect.signature(check_numpy).parameters
    mine = {name: value for name, value in options.items() if name in known or "loss" in options}
    theirs = {name: value for name, value in options.items() if name not in mine}
    if theirs:
        forward, backward = (_with_options(f, theirs) for f in (forward, backward))
    return check_numpy(forward, backward, *args, seed=seed, **mine)


def _with_options(function, options) -> Callable | None:
    if function is None:
        return None
    takes = inspect.signature(function).parameters
    return partial(function, **{name: options[name] for name in takes if name in options})
