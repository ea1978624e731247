"""The laws that every op obeys, each a function from an op and its arguments to findings.

A law is called as `law(op, args, seed)`, `op` with its options bound, and returns what breaks it:
an empty list where the op obeys.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck import oracle
from jaxnn.gradcheck.oracle import is_differentiable

FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 1e-5


class Finding(NamedTuple):
    """One way in which a law is broken.

    Attributes:
        law: the name of the law.
        leaf: the path of the array at fault, such as `params['w']`; "" where it is none of them.
        error: how far it is off, relative to the truth where there is one; else `nan`.
        message: a sentence.
    """

    law: str
    leaf: str
    error: float
    message: str


def structure(op, args, seed) -> list[Finding]:
    """`bwd` gives each argument a gradient of its own tree, shapes and dtypes, or `None`."""
    grads = _gradient(op, args, random_cotangent(op, args, seed))
    if not isinstance(grads, tuple) or len(grads) != len(args):
        got = f"{len(grads)} entries" if isinstance(grads, tuple) else type(grads).__name__
        message = f"bwd must return a tuple of {len(args)}, one for each argument, and gave {got}"
        return [Finding("structure", "", np.nan, message)]
    findings = []
    for name, arg, grad in zip(op.arguments, args, grads, strict=True):
        floating = [is_differentiable(leaf) for leaf in jax.tree.leaves(arg)]
        if not any(floating):
            if grad is not None:
                findings.append(_off("structure", name, "must be None: it has no gradient"))
        elif grad is None:
            findings.append(_off("structure", name, "is None but the argument has a gradient"))
        elif jax.tree.structure(grad) != jax.tree.structure(arg):
            findings.append(
                _off(
                    "structure",
                    name,
                    f"has the tree {jax.tree.structure(grad)} but the argument has "
                    f"{jax.tree.structure(arg)}",
                )
            )
        else:
            for path, a, g in _leaves(name, arg, grad):
                if g.shape != a.shape:
                    message = f"has shape {g.shape} but the argument has {a.shape}"
                    findings.append(_off("structure", path, message))
                elif g.dtype != a.dtype:
                    message = f"has dtype {g.dtype} but the argument has {a.dtype}"
                    findings.append(_off("structure", path, message))
    return findings


def value(op, args, seed) -> list[Finding]:
    """`fwd` gives the value of the definition, and so does the op itself."""
    truth = np.asarray(oracle.value(op, args, jnp.float64))
    dtype = _dtype(args)
    theirs = np.asarray(oracle.value(op, args, dtype))
    findings = []
    for source, y in (("fwd", jax.jit(op.fwd)(*args)[0]), ("the op", jax.jit(op)(*args))):
        if y.shape != truth.shape or y.dtype != dtype:
            message = f"{source} gives {y.dtype}{y.shape} but the definition {dtype}{truth.shape}"
            findings.append(Finding("value", "", np.nan, message))
        elif message := _too_far(np.asarray(y), truth, theirs, dtype):
            message = f"the value of {source} {message}"
            findings.append(Finding("value", "", _error(np.asarray(y), truth), message))
    return findings


def gradient(op, args, seed) -> list[Finding]:
    """Each leaf of `bwd` is the gradient of the definition, for a random cotangent."""
    dy = random_cotangent(op, args, seed)
    return _compare("gradient", op, args, dy, _gradient(op, args, dy))


def export(op, args, seed) -> list[Finding]:
    """`jax.vjp` of the op itself gives the gradient of the definition."""
    dy = random_cotangent(op, args, seed)
    grads = jax.jit(lambda args, dy: jax.vjp(op, *args)[1](dy))(args, dy)
    return _compare("export", op, args, dy, grads)


def one_example(op, args, seed) -> list[Finding]:
    """A cotangent on one entry alone gives the gradient of that entry."""
    dy = random_cotangent(op, args, seed)
    if dy.size < 2:
        return []
    entry = np.random.default_rng(seed).integers(dy.size)
    dy = np.where(np.arange(dy.size).reshape(dy.shape) == entry, dy, np.zeros_like(dy))
    return _compare("one_example", op, args, dy, _gradient(op, args, dy))


def linearity(op, args, seed) -> list[Finding]:
    """`bwd` is linear in dy: bwd(0) = 0 and bwd(αg + βh) = α·bwd(g) + β·bwd(h)."""
    g, h = random_cotangent(op, args, seed), random_cotangent(op, args, seed + 1)
    zero = jax.tree.leaves(_gradient(op, args, np.zeros_like(g)))
    of_sum = jax.tree.leaves(_gradient(op, args, (0.5 * g - 2 * h).astype(g.dtype)))
    of_g, of_h = (jax.tree.leaves(_gradient(op, args, dy)) for dy in (g, h))
    findings = []
    for (path, a), d0, ds, dg, dh in zip(
        _differentiable_leaves(op, args), zero, of_sum, of_g, of_h, strict=True
    ):
        if np.any(_wide(d0) != 0):
            findings.append(_off("linearity", path, "is not zero for a cotangent of zero"))
        expected = 0.5 * _wide(dg) - 2 * _wide(dh)
        scale = np.linalg.norm(0.5 * _wide(dg)) + np.linalg.norm(2 * _wide(dh))
        error = np.linalg.norm(_wide(ds) - expected) / max(scale, np.finfo(float).tiny)
        if not error <= 16 * float(jnp.finfo(a.dtype).eps):
            message = f"d_{path} of ½g − 2h is not ½·d(g) − 2·d(h), relative error {error:.1e}"
            findings.append(Finding("linearity", path, error, message))
    return findings


def determinism(op, args, seed) -> list[Finding]:
    """The same arguments give the same bits."""
    dy = random_cotangent(op, args, seed)
    once, again = (jax.tree.leaves(_gradient(op, args, dy)) for _ in range(2))
    return [
        _off("determinism", path, "differs between two calls")
        for (path, _), a, b in zip(_differentiable_leaves(op, args), once, again, strict=True)
        if not np.array_equal(_wide(a), _wide(b), equal_nan=True)
    ]


def vmap(op, args, seed) -> list[Finding]:
    """`vmap` of the op's gradient is that of the definition's."""
    args = jax.tree.map(_three_of, args)
    y = jax.eval_shape(jax.vmap(op.definition), *args)
    dy = _short_decimals(seed, y.shape, y.dtype)
    ours, theirs = (
        jax.jit(jax.vmap(lambda args, dy, f=f: jax.vjp(f, *args)[1](dy)))(args, dy)
        for f in (op, op.definition)
    )
    return _agree("vmap", op, args, ours, theirs)


def second_order(op, args, seed) -> list[Finding]:
    """The gradient of the gradient (reverse over reverse) is that of the definition's."""
    dy = random_cotangent(op, args, seed)
    leaves, tree = jax.tree.flatten(args)
    floating = [is_differentiable(leaf) for leaf in leaves]
    variables = [leaf for leaf, floats in zip(leaves, floating, strict=True) if floats]
    probes = [_short_decimals(seed + i, v.shape, v.dtype) for i, v in enumerate(variables, 1)]

    def second(function):
        def first(variables, dy):
            given = iter(variables)
            filled = [
                next(given) if floats else leaf
                for leaf, floats in zip(leaves, floating, strict=True)
            ]
            cotangents = jax.vjp(function, *jax.tree.unflatten(tree, filled))[1](dy)
            return [
                d for d, floats in zip(jax.tree.leaves(cotangents), floating, strict=True) if floats
            ]

        return jax.jit(lambda v, dy: jax.vjp(first, v, dy)[1](probes))(variables, dy)

    findings = []
    (ours, ours_dy), (theirs, theirs_dy) = second(op), second(op.definition)
    named = [*(path for path, _ in _differentiable_leaves(op, args)), "dy"]
    scale = max(np.abs(_wide(t)).max(initial=0) for t in [*theirs, theirs_dy])
    for path, mine, true in zip(named, [*ours, ours_dy], [*theirs, theirs_dy], strict=True):
        error = np.abs(_wide(mine) - _wide(true)).max(initial=0)
        if not error <= 1e-9 * max(scale, 1):
            message = f"the second derivative with respect to {path} is off by {error:.1e}"
            findings.append(Finding("second_order", path, error, message))
    return findings


def hard_inputs(op, args, seed) -> list[Finding]:
    """Finite wherever the true gradient is, and as right as autodiff of the definition."""
    dy = random_cotangent(op, args, seed)
    grads = _gradient(op, args, dy)
    findings = _compare("hard_inputs", op, args, dy, grads, only_where_finite=True)
    y, theirs = op.fwd(*args)[0], np.asarray(oracle.value(op, args, jnp.float64))
    lost = _representable(theirs, y.dtype) & ~np.isfinite(_wide(y))
    if lost.any():
        message = f"the value is not finite at index {_first(lost)}, where it should be"
        findings.append(Finding("hard_inputs", "", np.nan, message))
    return findings


def residual_bytes(op, args, seed) -> list[Finding]:
    """`fwd` keeps as many bytes as the op declares."""
    kept = jax.eval_shape(op.fwd, *args)[1]
    found = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    declared = op.residual_bytes(*args)
    if found == declared:
        return []
    message = f"fwd keeps {found} bytes but {declared} are declared"
    return [Finding("residual_bytes", "", np.nan, message)]


def temporary_memory(op, args, seed) -> list[Finding]:
    """Forward and backward compile to no more temporary memory than autodiff's."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
    dy = jax.eval_shape(op.definition, *shapes)
    ours = _temporary_bytes(lambda args, dy: _forward_backward(op, args, dy), shapes, dy)
    theirs = _temporary_bytes(lambda args, dy: _autodiff(op, args, dy), shapes, dy)
    if ours <= theirs:
        return []
    message = f"forward and backward take {ours} bytes of temporary memory, autodiff {theirs}"
    return [Finding("temporary_memory", "", ours / max(theirs, 1), message)]


LAWS: dict[str, Callable[..., list[Finding]]] = {
    law.__name__: law
    for law in (
        structure,
        value,
        gradient,
        export,
        one_example,
        linearity,
        determinism,
        vmap,
        second_order,
        hard_inputs,
        residual_bytes,
        temporary_memory,
    )
}


def random_cotangent(op, args, seed):
    """A cotangent of short decimals, none of them zero, exact in every floating-point dtype."""
    y = jax.eval_shape(op.definition, *args)
    return _short_decimals(seed, y.shape, y.dtype)


def _short_decimals(seed, shape, dtype):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 17, shape) / 8
    return np.where(random.random(shape) < 0.5, sizes, -sizes).astype(dtype)


def _forward_backward(op, args, dy):
    y, residuals = op.fwd(*args)
    return y, op.bwd(residuals, dy)


def _autodiff(op, args, dy):
    y, pullback = jax.vjp(op.definition, *args)
    return y, pullback(dy)


@partial(jax.jit, static_argnums=0)
def _gradient(op, args, dy):
    return op.bwd(op.fwd(*args)[1], dy)


def _temporary_bytes(function, *shapes) -> int:
    return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def _compare(law, op, args, dy, grads, only_where_finite=False) -> list[Finding]:
    """Each leaf against float64 autodiff, and against autodiff's own error in its dtype."""
    dtype = _dtype(args)
    truths = oracle.gradient(op, args, dy, jnp.float64)
    theirs = oracle.gradient(op, args, dy, dtype)
    mine = dict(_named_gradients(op, args, grads))
    findings = []
    named = [path for path, _ in _named_leaves(op, args)]
    for path, truth, other in zip(named, truths, theirs, strict=True):
        if truth is None:
            continue
        if path not in mine:
            findings.append(_off(law, path, "is missing"))
            continue
        grad = mine[path]
        if only_where_finite:
            representable = _representable(truth, dtype)
            lost = representable & ~np.isfinite(_wide(grad))
            if lost.any():
                findings.append(_off(law, path, f"is not finite at index {_first(lost)}"))
                continue
            grad, truth, other = (
                np.where(representable, _wide(array), 0) for array in (grad, truth, other)
            )
        if message := _too_far(grad, truth, other, dtype):
            findings.append(_off(law, path, message, _error(grad, truth)))
    return findings


def _too_far(mine, truth, theirs, dtype) -> str:
    """Words for an error that is too large, or nothing.

    In float64 the bound is 1e-10 of the leaf's norm. Below, the error may be twice that of
    autodiff in the same dtype and 4 units in the last place, and in float32 at most 1e-5.
    """
    error = _error(mine, truth)
    if dtype == jnp.float64:
        bound = FLOAT64_TOLERANCE
    else:
        bound = 2 * np.nan_to_num(_error(theirs, truth), nan=np.inf)
        bound += 4 * float(jnp.finfo(dtype).eps)
        if dtype == jnp.float32:
            bound = min(bound, FLOAT32_TOLERANCE)
    if error <= bound:
        return ""
    return f"is off by {error:.1e} of its norm, more than {bound:.1e}"


def _agree(law, op, args, ours, theirs) -> list[Finding]:
    findings = []
    true = dict(_named_gradients(op, args, theirs))
    for path, mine in _named_gradients(op, args, ours):
        error = _error(mine, true[path])
        if not error <= FLOAT64_TOLERANCE:
            findings.append(_off(law, path, f"is off by {error:.1e} of its norm", error))
    return findings


def _error(mine, truth) -> float:
    """‖mine − truth‖/‖truth‖, or ‖mine‖ where the truth is zero."""
    mine, truth = _wide(mine), _wide(truth)
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    if scale == 0:
        return 0.0
    norm = np.linalg.norm(truth / scale)
    difference = np.linalg.norm(mine / scale - truth / scale)
    return float(difference / norm) if norm else float(difference * scale)


def _wide(array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _dtype(args):
    return next(leaf.dtype for leaf in jax.tree.leaves(args) if is_differentiable(leaf))


def _three_of(leaf):
    return jnp.stack([leaf, leaf / 2, leaf / 4] if is_differentiable(leaf) else [leaf] * 3)


def _named_leaves(op, args):
    """`(path, leaf)` for each array of the arguments."""
    return [
        (name + jax.tree_util.keystr(path), leaf)
        for name, arg in zip(op.arguments, args, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
    ]


def _differentiable_leaves(op, args):
    return [(path, leaf) for path, leaf in _named_leaves(op, args) if is_differentiable(leaf)]


def _named_gradients(op, args, grads):
    """`(path, gradient)` for each array that has one."""
    floating = {path for path, _ in _differentiable_leaves(op, args)}
    return [
        (name + jax.tree_util.keystr(path), leaf)
        for name, grad in zip(op.arguments, grads, strict=True)
        if grad is not None
        for path, leaf in jax.tree_util.tree_leaves_with_path(grad)
        if name + jax.tree_util.keystr(path) in floating
    ]


def _leaves(name, arg, grad):
    for (path, a), g in zip(
        jax.tree_util.tree_leaves_with_path(arg), jax.tree.leaves(grad), strict=True
    ):
        yield name + jax.tree_util.keystr(path), a, g


def _off(law, path, message, error=np.nan) -> Finding:
    return Finding(law, path, error, f"d_{path} {message}")


def _representable(truth, dtype) -> np.ndarray:
    """Where the truth is finite and does not overflow in a dtype."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(truth.astype(dtype)))


def _first(mask) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
