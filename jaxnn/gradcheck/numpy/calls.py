"""How to call the backward: the meaning of each of its parameters."""

import inspect
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any, NamedTuple

from jaxnn.gradcheck.numpy.naming import (
    CACHE,
    CONTEXT,
    DERIVATIVE,
    LABELS,
    LEARNING_RATE,
    OUTPUT,
    PROBABILITIES,
    is_upstream,
)

MOST_CALLS = 24
MOST_PLANS = 5000


class Unrunnable(Exception):
    """The code cannot be run; the message says what is missing."""


class Parameter(NamedTuple):
    """A positional parameter of a function.

    Attributes:
        name: its name.
        default: its default, or `inspect.Parameter.empty`.
    """

    name: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


class Source(NamedTuple):
    """The meaning of a parameter of the backward.

    Attributes:
        kind: "dy", "argument", "named", "cache", "saved", "output", "left", "rate" or "context".
        which: the number of the output, of the saved array or of the argument, the name of a named
            argument, or the path of an array that forward stored in its object.
    """

    kind: str
    which: Any = None


Call = dict[str, Source]


def parameters(function: Callable) -> list[Parameter]:
    """The positional parameters of a function."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    return [
        Parameter(name, parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind in kinds
    ]


def keywords(function: Callable) -> set[str]:
    """The names of the arguments that a function takes by name, with "**" if it takes any."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    var_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in taken if p.kind in named} | ({"**"} if var_keyword else set())


def cotangents_taken(backward: Callable, inputs) -> int:
    """The number of parameters of a backward whose names are those of incoming gradients."""
    return sum(p.required and _is_cotangent(p.name, inputs) for p in parameters(backward))


def calls(used) -> Iterator[Call]:
    """The possible calls of a backward, the likeliest first.

    Args:
        used: the copy of the code, after its forward.

    Raises:
        Unrunnable: a parameter stands for labels that were not passed.
    """
    code = used.code
    taken = parameters(used.backward_function)
    if code.loss is None and code.forward is not None:
        for parameter in taken:
            _require_labels(code, parameter, taken)
    choices = [
        (parameter.name, choice)
        for parameter in taken
        if (choice := _choices(used, parameter, taken))
    ]
    unknown = [p.name for p in taken if p.required and p.name not in dict(choices)]
    plans = [
        (sum(cost for cost, _ in plan), call)
        for plan in islice(product(*(choice for _, choice in choices)), MOST_PLANS)
        if _is_consistent(call := {n: s for (n, _), (_, s) in zip(choices, plan, strict=True)})
    ]
    if unknown or not plans:
        clear = {name for name, choice in choices if choice[0][0] == 0}
        unclear = [p.name for p in taken if p.required and p.name not in clear]
        raise Unrunnable(
            f"the meaning of {' and '.join(unclear)} in its backward is unclear: it may take "
            "dy, the cache that forward returns, and the arguments of forward under their names"
        )
    plans.sort(key=lambda plan: plan[0])
    yield from (call for _, call in plans[:MOST_CALLS])


def values(call: Call, used, dy, rate: float) -> tuple[list, dict]:
    """The positional arguments and the options of a call.

    Args:
        call: the meaning of each parameter.
        used: the copy of the code, after its forward.
        dy: the cotangents.
        rate: the learning rate.
    """
    positional: list[Any] = []
    options: dict[str, Any] = {}
    for parameter in parameters(used.backward_function):
        if parameter.name not in call:
            continue
        value = _value(call[parameter.name], used, dy, rate)
        if parameter.required and not options:
            positional.append(value)
        else:
            options[parameter.name] = value
    taken = keywords(used.backward_function) - set(call)
    return positional, options | {n: v for n, v in used.named.items() if n in taken}


def _value(source, used, dy, rate):
    match source.kind:
        case "dy":
            return dy[source.which]
        case "argument":
            return used.args[source.which]
        case "named":
            return used.named[source.which]
        case "cache":
            return used.cache
        case "saved":
            return used.cache[source.which]
        case "output":
            return used.results[source.which]
        case "left":
            return used.left[source.which]
        case "context":
            return used.context
        case _:
            return rate


def _is_cotangent(name, inputs) -> bool:
    return is_upstream(name) and name not in inputs and not LEARNING_RATE.fullmatch(name)


def _choices(used, parameter, taken) -> list[tuple[float, Source]]:
    """The possible meanings of a parameter, with costs: 0 if its name says so."""
    code, cache, outputs = used.code, used.cache, len(used.results)
    name, inputs = parameter.name, code.names
    derivative = bool(DERIVATIVE.fullmatch(code.backward_name))
    if name in code.named:
        return [(0.0, Source("named", name))]
    if LEARNING_RATE.fullmatch(name) and name not in inputs:
        return [(0.0, Source("rate"))]
    if CONTEXT.fullmatch(name) and code.context:
        return [(0.0, Source("context"))]
    upstream = [(0.0, Source("dy", i)) for i in range(outputs)]
    if name in inputs:
        same = [(0.0, Source("argument", inputs.index(name)))]
        alone = parameter.required and sum(p.required for p in taken) == 1 and not derivative
        return same + [(1.0, s) for _, s in upstream] if alone and code.instance else same
    if not parameter.required:
        is_option = isinstance(parameter.default, bool) or any(
            name == other.name for other in parameters(code.forward)
        )
        return upstream if _is_cotangent(name, inputs) and not is_option else []
    folded = [i for i, other in enumerate(inputs) if other.lower() == name.lower()]
    if folded:
        return [(0.0, Source("argument", folded[0]))]
    has_cache = cache is not None
    if has_cache and CACHE.fullmatch(name):
        return [(0.0, Source("cache"))]
    if _is_cotangent(name, inputs) and not derivative:
        found = upstream + _predictions(used)
    elif _is_cotangent(name, inputs):
        found = [*upstream, *_inputs(code, 2.0)]
    elif OUTPUT.fullmatch(name) or PROBABILITIES.fullmatch(name):
        found = [(0.2, Source("output", 0)), *_others(code, upstream, cache, derivative)]
    else:
        found = _others(code, upstream, cache, derivative)
        if derivative:
            found.append((0.6, Source("output", 0)))
        else:
            found.append((3.0, Source("output", 0)))
    if isinstance(cache, tuple):
        found += [(1.5 + 0.01 * i, Source("saved", i)) for i in range(len(cache))]
    return found


def _others(code, upstream, cache, derivative) -> list[tuple[float, Source]]:
    found = [(2.5 if derivative else 0.5, s) for _, s in upstream]
    if cache is not None:
        found.append((1.0, Source("cache")))
    return found + _inputs(code, 0.5 if derivative else 2.0)


def _predictions(used) -> list[tuple[float, Source]]:
    """The arrays at which a loss may be differentiated: its arguments, and its stored outputs."""
    if not any(LABELS.fullmatch(name) for name in used.code.names):
        return []
    left = [(2.5 + 0.01 * i, Source("left", path)) for i, path in enumerate(used.left)]
    return _inputs(used.code, 2.0) + left


def _inputs(code, cost) -> list[tuple[float, Source]]:
    return [(cost + 0.01 * i, Source("argument", i)) for i in range(len(code.args))]


def _is_consistent(call: Call) -> bool:
    """Whether no two parameters have the same meaning, and the saved arrays are in order."""
    if len(set(call.values())) < len(call):
        return False
    for kind in ("saved", "dy"):
        order = [source.which for source in call.values() if source.kind == kind]
        if order != sorted(order):
            return False
    kinds = [source.kind for source in call.values()]
    return not ("cache" in kinds and "saved" in kinds)


def _require_labels(code, parameter, taken) -> None:
    """Refuse a parameter with the name of labels if the forward takes no labels."""
    name = parameter.name
    known = name in code.named or name.lower() in (n.lower() for n in code.names)
    if not parameter.required or known or not LABELS.fullmatch(name):
        return
    beside = [p for p in taken if p.required and p.name != name]
    if OUTPUT.fullmatch(name) and not _is_method_of_labels(code, beside):
        return
    raise Unrunnable(
        f"its backward takes the labels {name}, but its forward does not compute a loss: pass "
        f"the loss that it differentiates as loss=…, and the labels by name, {name}=…"
    )


def _is_method_of_labels(code, beside) -> bool:
    """Whether y, a name of outputs and of labels, means labels next to these other parameters.

    It does in a method, unless that is a derivative in terms of its output, and in a function
    that takes no gradient as well.
    """
    if code.instance is not None:
        return bool(beside) or not DERIVATIVE.fullmatch(code.backward_name)
    return bool(beside) and not any(is_upstream(p.name) for p in beside)


def takes_residuals_first(backward: Callable) -> bool:
    """Whether a backward has the signature `bwd(residuals, dy)`, as for `jax.custom_vjp`."""
    names = [parameter.name for parameter in parameters(backward)]
    return len(names) == 2 and not is_upstream(names[0])
