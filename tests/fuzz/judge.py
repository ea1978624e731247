"""What an answer of the library to a call is: right, worded, unworded or silent.

    right      the value is that of the truth, see `Subject.truth`, to the accuracy of its dtype
    worded     `TypeError` or `ValueError` of one line that names the function or an argument, and
               that the library raised itself
    unworded   any other exception: another type, of several lines, about nothing that the caller
               wrote, or with the sentence of JAX or NumPy
    silent     a value where the call is nonsense, or a value that is not that of the truth

Where the truth has a NaN, so has the value, though not always in the same entries: of the zeros
that padding and masks stand for, a definition may multiply one with a NaN that the op never reads,
or the other way round. Numbers are compared where both have them.

A call is nonsense if one of its faults is (`faults.py` says so of each), if the truth itself
refuses it, or if an option makes NaN of finite numbers.
"""

import re
import traceback
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RIGHT, WORDED, UNWORDED, SILENT = "right", "worded", "unworded", "silent"
TOLERANCES = {"float32": 2e-4, "float64": 2e-4, "float16": 2e-2, "bfloat16": 1e-1}
HARNESS = "/tests/fuzz/"


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        kind: one of the four.
        why: what was raised, or how the value differs.
    """

    kind: str
    why: str = ""


def judge(call, nonsense: bool, words: set[str], truth) -> Answer:
    """The kind of answer that a call gives.

    Args:
        call: the call, without arguments.
        nonsense: whether the library should refuse it, whatever it computes.
        words: the names of the function and its arguments.
        truth: the call's right value, computed only if the library gives a value; it raises if
            there is none.
    """
    try:
        value = call()
    except Exception as error:
        fault = _fault_of(error, words)
        sentence = f"{type(error).__name__}: {error}"
        return Answer(UNWORDED, f"{fault}: {sentence}") if fault else Answer(WORDED, sentence)
    if nonsense:
        return Answer(SILENT, f"accepted; gives {_described(value)}")
    if truth is None:
        return Answer(RIGHT)
    try:
        right = truth()
    except Exception as error:
        why = f"gives {_described(value)}; the truth: {type(error).__name__}: {error}"
        return Answer(SILENT, why[:400])
    difference = _difference(value, right)
    return Answer(SILENT, difference) if difference else Answer(RIGHT)


def _fault_of(error: Exception, words: set[str]) -> str:
    """What is wrong with an exception as a sentence for a user; empty if nothing is."""
    message = str(error)
    if type(error) not in (TypeError, ValueError):
        return "type"
    if not message or "\n" in message:
        return "lines"
    if len(message) > 700:
        return "long"
    if re.search(r"missing \d+ required|unexpected keyword argument", message):
        return ""  # Python's own sentence
    if not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) for word in words):
        return "names nothing"
    root, seen = error, set()
    while (cause := root.__cause__ or root.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        root = cause
    for raised in {id(e): e for e in (error, root)}.values():
        frames = traceback.extract_tb(raised.__traceback__)
        file = frames[-1].filename if frames else HARNESS
        own = "/jaxnn/" in file or HARNESS in file or file.endswith("inspect.py")
        if not own and _is_handed_on(str(raised), message):
            return "foreign"
    return ""


def _is_handed_on(foreign: str, message: str) -> bool:
    """Whether a message is that of another library, and not one with that in brackets."""
    return bool(foreign) and foreign in message and f"({foreign})" not in message


def _difference(value, right) -> str:
    values, tree = jax.tree.flatten(value)
    rights, right_tree = jax.tree.flatten(right)
    if tree != right_tree:
        return f"gives the tree {tree}, not {right_tree}"
    for got, wanted in zip(values, rights, strict=True):
        if got is wanted:
            continue
        if not isinstance(got, jax.Array | np.ndarray | np.generic | float | int | bool):
            if got != wanted:
                return f"gives {got!r}, not {wanted!r}"
            continue
        if jnp.issubdtype(getattr(got, "dtype", float), jax.dtypes.prng_key):
            continue
        found = _difference_of_arrays(got, np.asarray(wanted))
        if found:
            return found
    return ""


def _difference_of_arrays(got, wanted) -> str:
    if np.shape(got) != wanted.shape:
        return f"gives shape {np.shape(got)}, not {wanted.shape}"
    kind = str(np.asarray(got).dtype)
    got, wanted = np.asarray(got).astype(float), wanted.astype(float)
    largest = 3.4e38 if kind not in TOLERANCES else float(jnp.finfo(kind).max)
    compared = ~(np.abs(wanted) > largest / 10)  # beyond it, rounding to infinity is right
    if np.isnan(got)[compared].any() != np.isnan(wanted)[compared].any():
        return f"gives {_few(got)}, not {_few(wanted)}"
    compared &= np.isfinite(wanted) & ~np.isnan(got)
    scale = np.abs(wanted[compared]).max(initial=0)
    error = np.abs(got - wanted)[compared].max(initial=0)
    if error > TOLERANCES.get(kind, 0) * (scale + 1e-3):
        return f"gives {_few(got)}, not {_few(wanted)}"
    return ""


def _few(array) -> str:
    return f"{array.ravel()[:4].tolist()} {array.shape}"


def _described(value: Any) -> str:
    leaves = [
        f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "shape") else repr(leaf)[:60]
        for leaf in jax.tree.leaves(value)
    ]
    return ", ".join(leaves[:4])
