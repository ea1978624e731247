"""Faults: what is put in the place of a valid argument, and whether that must be refused.

Whether something is nonsense follows from its kind alone. A string, an object, a masked array or an
integer that wraps is nonsense in every array's place. Of an option, whatever its annotation does
not allow is (as `beartype`, which the library does not use, reads it; `True` and `False` are no
numbers), and so is NaN. Everything else may be accepted; then the value decides.
"""

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from beartype.door import is_bearable

import jaxnn

NOTHING = inspect.Parameter.empty


class Fault(NamedTuple):
    """Something in the place of a valid value.

    Attributes:
        label: what it is.
        value: what is passed; `NOTHING` omits the argument.
        nonsense: whether it must be refused whatever else the call holds.
        same: whether it is the valid value in another guise.
    """

    label: str
    value: Any
    nonsense: bool = True
    same: bool = False


def of_array(valid, *, required: bool, lists: bool) -> Iterator[Fault]:
    """Faults in the place of an array.

    Args:
        valid: the array.
        required: whether it may not be omitted.
        lists: whether Python lists are welcome.
    """
    yield from _no_arrays(required)
    is_key = jnp.issubdtype(valid.dtype, jax.dtypes.prng_key)
    if is_key:
        yield Fault("an integer for a key", 3)
        yield Fault("a float array for a key", jnp.ones(2))
        yield Fault("three words for a key", jnp.ones(3, jnp.uint32))
        yield Fault("two keys", jax.random.split(valid, 2))
        return
    yield Fault("a key", jax.random.key(0))
    numbers = np.asarray(valid)
    yield Fault("an object array", numbers.astype(object))
    yield Fault("an array of strings", numbers.astype(str))
    yield Fault("a masked array", np.ma.masked_array(numbers, mask=np.zeros(numbers.shape, bool)))
    yield Fault("dates", np.zeros(numbers.shape, "datetime64[s]"))
    yield Fault("records", np.zeros(numbers.shape, [("a", float)]))
    yield Fault("complex", numbers.astype(np.complex64))
    yield Fault("a shape only", jax.ShapeDtypeStruct(valid.shape, valid.dtype))
    yield Fault("a Python integer of 70 bits", 2**70)
    yield Fault("a function", np.tanh)
    yield Fault("NumPy's", numbers, nonsense=False, same=True)
    if numbers.ndim:
        yield Fault("a list", numbers.tolist(), nonsense=not lists, same=lists)
    yield from _shapes(numbers)
    if numbers.dtype.kind == "f" or numbers.dtype == jnp.bfloat16:
        yield from _floats(numbers)
    elif numbers.dtype.kind in "iu":
        yield from _integers(numbers)
    else:
        yield Fault("0 and 1", jnp.asarray(numbers.astype(np.int32)), nonsense=False)
        yield Fault("0.0 and 1.0", jnp.asarray(numbers.astype(np.float32)), nonsense=False)


def of_tree(valid, *, required: bool, lists: bool) -> Iterator[Fault]:
    """Faults in the place of a dict or a tuple of arrays, and of each array in it."""
    yield from _no_arrays(required and bool(valid))
    yield Fault("a string array", np.array(["a"]))
    if isinstance(valid, dict):
        yield Fault("a further entry", {**valid, "zzz": jnp.ones(3)})
        yield Fault("a number as a key", {**valid, 3: jnp.ones(3)})
        yield Fault("the tuple of the values", tuple(valid.values()), nonsense=bool(valid))
        entries = [(name, lambda new, name=name: {**valid, name: new}) for name in valid]
        for name in valid:
            rest = {other: value for other, value in valid.items() if other != name}
            yield Fault(f"no {name!r}", rest, nonsense=False)
    else:
        yield Fault("a further entry", (*valid, jnp.ones(3)), nonsense=False)
        named = {str(i): part for i, part in enumerate(valid)}
        yield Fault("a dict of the entries", named, nonsense=bool(valid))
        entries = [
            (str(i), lambda new, i=i: (*valid[:i], new, *valid[i + 1 :])) for i in range(len(valid))
        ]
        if valid:
            yield Fault("one entry fewer", valid[:-1], nonsense=False)
    for name, put in entries:
        part = valid[name] if isinstance(valid, dict) else valid[int(name)]
        for fault in of_value(part, required=True, lists=lists):
            if fault.value is NOTHING:
                continue
            yield fault._replace(label=f"{name}: {fault.label}", value=put(fault.value))


def of_value(valid, *, required: bool, lists: bool) -> Iterator[Fault]:
    """Faults in the place of an array or a tree of them."""
    if isinstance(valid, jax.Array | np.ndarray):
        yield from of_array(valid, required=required, lists=lists)
    elif isinstance(valid, dict | tuple):
        yield from of_tree(valid, required=required, lists=lists)


def of_option(annotation, valid, *, required: bool, sequences: bool = False) -> Iterator[Fault]:
    """Faults in the place of a plain Python value.

    Args:
        annotation: what the signature says of it.
        valid: the valid value.
        required: whether it may not be omitted.
        sequences: whether lists do where tuples are annotated.
    """
    if required:
        yield Fault("omitted", NOTHING)
    for value in OPTIONS:
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, list):
            plain = tuple(plain)
        if callable(valid) and callable(value):
            continue  # what is wrong with a function is its author's to say
        fits = is_allowed(plain, annotation)
        not_finite = any(isinstance(v, float) and v != v for v in _flat(plain))
        yield Fault(f"{value!r:.40}", value, nonsense=not fits or not_finite)


def of_network(valid, *, required: bool = True) -> Iterator[Fault]:
    """Faults in the place of a layer, or of an op as a layer or as a loss."""
    if required:
        yield Fault("omitted", NOTHING)
    other = jaxnn.Linear(3, 3) if len(getattr(valid, "required", ())) == 2 else jaxnn.squared_error
    for value in (None, "relu", np.tanh, jaxnn.Linear, object(), other, 3, [], (), jnp.ones(2)):
        yield Fault(f"{value!r:.40}", value)
    yield Fault("a list with it", [valid])


def is_allowed(value, annotation) -> bool:
    """Whether an annotation allows a value; `True` and `False` are no numbers here."""
    if annotation in (inspect.Parameter.empty, Any):
        return True
    if isinstance(value, bool):
        return any(a is bool for a in (annotation, *typing.get_args(annotation)))
    if isinstance(value, tuple) and any(isinstance(v, bool) for v in _flat(value)):
        return False
    if isinstance(value, int) and is_bearable(float(value), annotation):
        return True  # integers are numbers
    try:
        return is_bearable(value, annotation)
    except TypeError:  # an array without axes, asked for its length
        return False


OPTIONS: Sequence[Any] = (
    None,
    True,
    False,
    *(0, 1, -1, 2, 3, 5, 7, 2**40, -(2**40), 2**70),
    *(0.5, 1.5, -0.5, 1e-8, 1e30, float("nan"), float("inf"), -float("inf")),
    *("no", "", "SAME", "VALID", "mean", "tanh", b"no"),
    *((), (1,), (2, 2), (0, 1), (-1, -2), (1, 2, 3, 4, 5, 6), (True,), (1.5, 2.0), ("a",), (None,)),
    *([1], [2, 2], {}, {1}, {"a": 1}, frozenset({1})),
    *(np.int64(2), np.float32(0.5), np.bool_(True), np.str_("no"), np.float64("nan")),
    *(np.ones(2), np.array(1), jnp.ones(()), 1j, object(), abs, int, range(2), slice(2)),
)


def _flat(value):
    if isinstance(value, tuple):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _no_arrays(required: bool) -> Iterator[Fault]:
    yield Fault("None", None, nonsense=required)
    if required:
        yield Fault("omitted", NOTHING)
    yield Fault("a string", "numbers")
    yield Fault("bytes", b"numbers")
    yield Fault("an object", object())
    yield Fault("a set", {1.0})
    yield Fault("an empty dict", {}, nonsense=False)
    yield Fault("an empty tuple", (), nonsense=False)
    yield Fault("an empty list", [], nonsense=False)
    yield Fault("a ragged list", [[1.0, 2.0], [3.0]])
    yield Fault("a dict of strings", {"w": "w"})
    yield Fault("a module", np)
    yield Fault("a type", jax.Array)
    yield Fault("a number", 1.5, nonsense=False)
    yield Fault("an integer", 1, nonsense=False)
    yield Fault("True", True, nonsense=False)
    yield Fault("NaN", float("nan"), nonsense=False)
    yield Fault("2⁴⁰", 2**40, nonsense=False)


def _shapes(numbers) -> Iterator[Fault]:
    changed: list[tuple[str, Callable[[], Any]]] = [
        ("an axis more", lambda: numbers[None]),
        ("an axis more at the end", lambda: numbers[..., None]),
        ("one number", lambda: numbers.ravel()[0]),
        ("one axis", lambda: numbers.ravel()),
        ("the transpose", lambda: numbers.T),
        ("two axes more", lambda: numbers[None, None]),
    ]
    for axis in range(numbers.ndim):
        changed += [
            (f"axis {axis} gone", lambda axis=axis: numbers.take(0, axis)),
            (
                f"axis {axis} shorter",
                lambda axis=axis: numbers.take(range(numbers.shape[axis] - 1), axis),
            ),
            (f"axis {axis} doubled", lambda axis=axis: np.concatenate([numbers] * 2, axis)),
            (f"axis {axis} of size 1", lambda axis=axis: numbers.take([0], axis)),
            (f"axis {axis} empty", lambda axis=axis: numbers.take(range(0), axis)),
        ]
    for label, change in changed:
        try:
            yield Fault(label, jnp.asarray(change()), nonsense=False)
        except (IndexError, ValueError):
            continue


def _floats(numbers) -> Iterator[Fault]:
    def with_first(value):
        changed = numbers.copy()
        if changed.size:
            changed.ravel()[0] = value
        return jnp.asarray(changed)

    yield Fault("integers", jnp.asarray(np.round(numbers).astype(np.int32)), nonsense=False)
    yield Fault("booleans", jnp.asarray(numbers > 0), nonsense=False)
    yield Fault("float16", jnp.asarray(numbers.astype(np.float16)), nonsense=False)
    yield Fault("bfloat16", jnp.asarray(numbers).astype(jnp.bfloat16), nonsense=False)
    yield Fault("NumPy's float64", numbers.astype(np.float64), nonsense=False, same=True)
    yield Fault("a NaN", with_first(np.nan), nonsense=False)
    yield Fault("a zero", with_first(0.0), nonsense=False)
    yield Fault("negative", jnp.asarray(-np.abs(numbers)), nonsense=False)
    yield Fault("thousandfold", jnp.asarray(1000 * numbers), nonsense=False)
    yield Fault("with strides", numbers.T.copy().T, nonsense=False, same=True)
    yield Fault("long double", numbers.astype(np.longdouble))
    yield Fault("of the other byte order", numbers.astype(">f4"), nonsense=False, same=True)


def _integers(numbers) -> Iterator[Fault]:
    wrapped = numbers.astype(np.int64)
    yield Fault("integers that wrap", wrapped + 2**32)
    yield Fault("unsigned integers that wrap", (wrapped + 2**32).astype(np.uint64))
    yield Fault("integers of 70 bits", wrapped.astype(object) + 2**70)
    if (numbers >= 0).all():
        yield Fault("int8", jnp.asarray(numbers.astype(np.int8)), nonsense=False, same=True)
        yield Fault("uint8", jnp.asarray(numbers.astype(np.uint8)), nonsense=False, same=True)
    yield Fault("NumPy's int64", wrapped, nonsense=False, same=True)
    yield Fault("floats", jnp.asarray(numbers.astype(np.float32)), nonsense=False)
    yield Fault("too large", jnp.asarray(numbers + 1000), nonsense=False)
    yield Fault("negative", jnp.asarray(-1 - numbers), nonsense=False)
    yield Fault("booleans", jnp.asarray(numbers > 0), nonsense=False)
