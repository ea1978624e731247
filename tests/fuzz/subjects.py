"""Valid calls, and the faults that can be put in each of their places."""

import contextlib
import inspect
import typing
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from jaxnn.layer import Layer
from jaxnn.op import Op
from tests.fuzz.faults import NOTHING, Fault, of_network, of_option, of_value
from tests.fuzz.judge import Answer, judge


class Subject(NamedTuple):
    """A valid call of something public.

    Attributes:
        name: what is called.
        call: `(**arguments) -> value`.
        arguments: valid arguments by name.
        faults: makes the faults of each argument; one that is missing there is left as it is.
        truth: `(**arguments) -> value` by another way, which raises for nonsense; without one only
            nonsense and other guises of the valid arguments are tried.
        words: names that a message may use, besides those of the function and its arguments.
    """

    name: str
    call: Callable[..., Any]
    arguments: dict[str, Any]
    faults: Callable[[], dict[str, list[Fault]]]
    truth: Callable[..., Any] | None = None
    words: tuple[str, ...] = ()


def users_settings():
    """JAX as users have it: 32 bits, and promotion of dtypes and ranks."""
    stack = contextlib.ExitStack()
    stack.enter_context(jax.enable_x64(False))
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    return stack


def in_float64(tree):
    """The same numbers as NumPy's arrays of 64 bits; keys as they are."""

    def widened(leaf):
        if leaf is None or isinstance(leaf, str):
            return leaf
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind in "iu":
            return jnp.asarray(array.astype(np.int64))
        if array.dtype.kind == "b":
            return jnp.asarray(array)
        return jnp.asarray(array.astype(np.float64))

    return jax.tree.map(widened, tree)


@contextlib.contextmanager
def annotations_checked():
    """With the run-time checks of annotations, which the calls themselves run without."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", False)
    try:
        with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def faults_of(function, arguments: dict, *, lists: bool = True) -> dict[str, list[Fault]]:
    """The faults of each argument, from its valid value and what the signature says of it."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is inspect.Parameter.empty
        valid = arguments.get(name, parameter.default)
        if isinstance(valid, Layer | Op):
            found[name] = list(of_network(valid, required=required))
        elif parameter.kind is not parameter.KEYWORD_ONLY and _is_tree(valid):
            nullable = parameter.default is None
            found[name] = list(of_value(valid, required=not nullable, lists=lists))
        elif isinstance(valid, jax.Array):
            found[name] = list(of_value(valid, required=required, lists=lists))
        elif name in arguments or parameter.kind is parameter.KEYWORD_ONLY:
            found[name] = list(of_option(parameter.annotation, valid, required=required))
    found["further"] = [Fault("a further argument", 1)]
    return found


def _is_tree(value) -> bool:
    leaves = jax.tree.leaves(value)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    return isinstance(value, tuple | dict | jax.Array | np.ndarray) and arrays and bool(leaves)


class Call(NamedTuple):
    """A subject with faults in it.

    Attributes:
        arguments: by name.
        nonsense: whether one of the faults is.
        same: whether all of them are the valid values in another guise.
        label: what the faults are.
    """

    arguments: dict[str, Any]
    nonsense: bool
    same: bool
    label: str


def calls_of(
    subject: Subject, random: np.random.Generator, n: int, *, share_of_nonsense: float = 0.95
) -> Iterator[Call]:
    """`n` calls with one fault or two, three in ten with two.

    Most calls are nonsense, which costs little to refuse; the others have to be computed, twice.
    """
    everything = subject.faults()
    nonsense = {place: [f for f in faults if f.nonsense] for place, faults in everything.items()}
    others = {
        place: [f for f in faults if not f.nonsense and (subject.truth or f.same)]
        for place, faults in everything.items()
    }
    for _ in range(n):
        refused = random.random() < share_of_nonsense or not any(others.values())
        usable = nonsense if refused else others
        places = [place for place, faults in usable.items() if faults]
        weights = np.array([len(usable[place]) for place in places], float)
        arguments, faults, labels = dict(subject.arguments), [], []
        two = len(places) > 1 and random.random() < 0.3
        for place in random.choice(places, 1 + two, replace=False, p=weights / weights.sum()):
            fault = usable[place][random.integers(len(usable[place]))]
            arguments[place] = fault.value
            if fault.value is NOTHING:
                del arguments[place]
            faults.append(fault)
            labels.append(f"{place} = {fault.label}")
        same = all(fault.same for fault in faults)
        yield Call(arguments, refused, same, ", ".join(labels))


def answer(subject: Subject, call: Call) -> Answer:
    """What a call gives, in the settings that users have, operation by operation."""
    truth = None
    if subject.truth is not None:
        truth = partial(subject.truth, **call.arguments)
    elif call.same:
        truth = partial(subject.call, **subject.arguments)
    words = {*subject.words, *subject.arguments, subject.name.split(" ")[0]}
    made = partial(subject.call, **call.arguments)
    with users_settings(), jax.disable_jit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = judge(made, call.nonsense, words, truth)
        if "zero-length scan is not supported in disable_jit" in found.why:
            with jax.disable_jit(False):
                found = judge(made, call.nonsense, words, truth)
        return found


def subjects_of_ops(entries) -> Iterator[Subject]:
    """Each op at each of its cases; the truth is its definition in float64."""
    for entry in entries:
        for case in entry.cases:
            op = entry.op
            values = case.arguments(1, jnp.float32)
            arguments = {
                name: value
                for name, value in zip(op.arguments, values, strict=False)
                if value is not None
            } | case.options
            words = [*op.arguments, *op.options]
            words += [k for v in values if isinstance(v, dict) for k in v]
            yield Subject(
                name=f"{op.__name__} ({case.name})",
                call=op,
                arguments=arguments,
                faults=partial(_faults_of_op, op, arguments),
                truth=_definition(op, case.options),
                words=tuple(words),
            )


def _faults_of_op(op, arguments):
    faults = faults_of(op, arguments, lists=False)
    if op.__name__ == "pad":  # NaN shows whether the padding is read
        faults["value"] = [f for f in faults["value"] if "nan" not in f.label]
    if op.__name__ == "triplet_margin":  # |d|^p of the definition overflows even in float64
        faults["p"] = [f for f in faults["p"] if len(f.label) < 10 and f.label != "1e+30"]
    if op.__name__ == "rotary_embedding":  # float32 has no digits of angles of 10⁸
        faults["scaling"] = [f for f in faults["scaling"] if f.label != "1e-08"]
    if op.__name__ == "poisson_nll":  # the logarithm of a negative rate is the caller's
        faults["log_input"] = [f for f in faults["log_input"] if f.nonsense]
    return faults


def subjects_of_backwards(entries) -> Iterator[Subject]:
    """The backward of each op, from the residuals of its first case."""
    for entry in entries:
        op, case = entry.op, entry.cases[0]
        values = case.arguments(1, jnp.float32)
        y = ones_like_output(partial(op, *values, **case.options))
        yield Subject(
            name=f"{op.__name__}.bwd",
            call=_backward(op, values, case.options),
            arguments={"dy": y},
            faults=lambda y=y: {"dy": of_cotangent(y)},
            words=(op.__name__,),
        )


def ones_like_output(function):
    """Ones of the shapes and dtypes that a function gives."""
    shapes = jax.eval_shape(lambda: function())
    return jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), shapes)


def _backward(op, values, options):
    @cache
    def residuals():
        return op.fwd(*values, **options)[1]

    return lambda dy: op.bwd(residuals(), dy)


def of_cotangent(y) -> list[Fault]:
    """Faults of dy, which has the shape of y and no other, in floating point."""
    shapes = jax.tree.map(np.shape, y)
    faults = []
    for fault in of_value(y, required=True, lists=False):
        try:
            fits = jax.tree.map(np.shape, fault.value) == shapes
        except Exception:
            fits = False
        faults.append(fault._replace(nonsense=fault.nonsense or not fits))
    return faults


def _definition(op, valid):
    valid = {name: valid.get(name) for name in op.options}
    drawn = "key" in op.arguments

    def truth(**arguments):
        arrays, options = [], {}
        for name, parameter in op.__signature__.parameters.items():
            value = arguments.get(name, parameter.default)
            if parameter.kind is parameter.KEYWORD_ONLY:
                value = value.item() if isinstance(value, np.generic) else value
                value = tuple(value) if isinstance(value, list) else value
                number = type(value) is int and _takes_only_floats(parameter.annotation)
                options[name] = float(value) if number else value
            else:
                arrays.append(value)
        if drawn:
            with users_settings():
                arrays = jax.tree.map(lambda leaf: jnp.asarray(_native(leaf)), tuple(arrays))
                return op.rules.by_definition(arrays, options)
        with annotations_checked():
            y = op.rules.definition(*in_float64(tuple(arrays)), **options)
        if repr({name: arguments.get(name) for name in op.options}) != repr(valid):
            _require_no_new_nan(y, arrays)
        return y

    return truth


def _native(leaf):
    swapped = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
    return leaf.astype(leaf.dtype.newbyteorder("=")) if swapped else leaf


def _takes_only_floats(annotation) -> bool:
    kinds = typing.get_args(annotation) or (annotation,)
    return float in kinds and int not in kinds


def _require_no_new_nan(y, arguments) -> None:
    """An option that makes NaN of finite numbers is nonsense."""

    def finite(tree):
        return all(
            np.isfinite(np.asarray(leaf).astype(float)).all()
            for leaf in jax.tree.leaves(tree)
            if not jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
        )

    outputs = map(np.asarray, jax.tree.leaves(y))
    if finite(arguments) and any(np.isnan(output).any() for output in outputs):
        raise ValueError("NaN of finite numbers")
