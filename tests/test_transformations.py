"""Every op under every transformation of JAX: the derivatives are those of the definition."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from tests.thorough import every_op

TOLERANCE = 1e-9
DUALITY = 1e-13


def is_floating(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def numbers(seed, tree):
    """Standard normal numbers for each floating-point array."""
    random = np.random.default_rng(seed)
    return [
        jnp.asarray(random.standard_normal(leaf.shape))
        for leaf in jax.tree.leaves(tree)
        if is_floating(leaf)
    ]


def on_a_plane(function, args):
    """`s -> three numbers`, the function at x + s₀·v₀ + s₁·v₁, seen through random weights.

    Two inputs and three outputs make every Jacobian and Hessian small, and a mistake in any entry
    shows in them.
    """
    leaves, tree = jax.tree.flatten(args)
    directions = numbers(1, args), numbers(2, args)
    shapes = jax.eval_shape(function, *args)
    weights = [numbers(3 + k, shapes) for k in range(3)]

    def project(s):
        steps = iter([s[0] * v + s[1] * u for v, u in zip(*directions, strict=True)])
        moved = [leaf + next(steps) if is_floating(leaf) else leaf for leaf in leaves]
        y = jax.tree.leaves(function(*jax.tree.unflatten(tree, moved)))
        return jnp.stack(
            [sum(jnp.sum(w * a) for w, a in zip(ws, y, strict=True)) for ws in weights]
        )

    return project


V, U = jnp.array([0.3, -0.7]), jnp.array([1.1, 0.4])

DERIVATIVES = {
    "jvp": lambda f: lambda s: jax.jvp(f, (s,), (V,)),
    "linearize": lambda f: lambda s: jax.linearize(f, s)[1](V),
    "jacfwd": lambda f: jax.jacfwd(f),
    "jacrev": lambda f: jax.jacrev(f),
    "hessian": lambda f: jax.hessian(f),
    "forward over forward": lambda f: (
        lambda s: jax.jvp(lambda s: jax.jvp(f, (s,), (V,))[1], (s,), (U,))[1]
    ),
    "reverse over forward": lambda f: jax.grad(lambda s: jax.jvp(f, (s,), (V,))[1].sum()),
}


def scanned(derivative, f, s):
    return jax.lax.scan(lambda carry, s: (carry, derivative(f)(s)), None, s[None])[1]


WAYS = {
    "plain": lambda derivative, f, s: derivative(f)(s),
    "jit": lambda derivative, f, s: derivative(jax.jit(f))(s),
    "vmap": lambda derivative, f, s: first(jax.vmap(derivative(f))(jnp.stack([s, s + 1e-3]))),
    "scan": lambda derivative, f, s: first(scanned(derivative, f, s)),
    "checkpoint": lambda derivative, f, s: derivative(jax.checkpoint(f))(s),
}


def evaluated(function, *args):
    """Compiled with little optimization: each program runs once."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*args).compile(quick)(*args)


def first(tree):
    return jax.tree.map(lambda a: a[0], tree)


@pytest.mark.parametrize("entry", every_op())
def test_every_transformation(entry):
    case = entry.cases[0]
    op, args = entry.op.bind(**case.options), case.arguments(1, jnp.float64)
    s = jnp.array([0.02, -0.01])
    mine, truth = on_a_plane(op, args), on_a_plane(op.definition, args)

    def every_way(s):
        return {
            (name, way): run(derivative, mine, s)
            for name, derivative in DERIVATIVES.items()
            for way, run in WAYS.items()
        }

    def every_derivative(s):
        return {name: derivative(truth)(s) for name, derivative in DERIVATIVES.items()}

    true, wrong = evaluated(every_derivative, s), {}
    for (name, way), found in evaluated(every_way, s).items():
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(true[name]), strict=True):
            error = np.abs(a - b).max() / max(np.abs(b).max(), 1)
            if not error <= TOLERANCE:
                wrong[name, way] = float(error)
    assert not wrong


@pytest.mark.parametrize("entry", every_op())
def test_the_tangent_map_is_dual_to_the_backward(entry):
    """⟨dy, J·ẋ⟩ = ⟨Jᵀ·dy, ẋ⟩."""
    for case in entry.cases:
        op, args = entry.op.bind(**case.options), case.arguments(1, jnp.float64)
        leaves, tree = jax.tree.flatten(args)
        places = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

        def function(*moved, op=op, leaves=leaves, tree=tree, places=places):
            filled = list(leaves)
            for i, leaf in zip(places, moved, strict=True):
                filled[i] = leaf
            return jax.tree.leaves(op(*jax.tree.unflatten(tree, filled)))

        x, dx = [leaves[i] for i in places], numbers(1, args)
        y, pushed = jax.jit(lambda x, dx, f=function: jax.jvp(f, x, dx))(x, dx)
        dy = numbers(2, y)
        pulled = jax.jit(lambda x, dy, f=function: jax.vjp(f, *x)[1](dy))(x, dy)
        there, back = zip(dy, pushed, strict=True), zip(pulled, dx, strict=True)
        (there, size), (back, size_back) = map(product_and_size, (there, back))
        assert abs(there - back) <= DUALITY * max(size, size_back), case.name


def product_and_size(pairs):
    """Σ ⟨a, b⟩, and Σ ‖a‖·‖b‖, which its rounding is measured by."""
    pairs = list(pairs)
    size = sum(np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs)
    return sum(np.vdot(a, b) for a, b in pairs), size


SYMBOLIC = {  # the symbol of each axis, by the argument; other arguments have a batch of "n" first
    "rnn": {"x": "t, n, 5", "state": "n, 3", "lengths": "n"},
    "gru": {"x": "t, n, 5", "state": "n, 3", "lengths": "n"},
    "lstm": {"x": "t, n, 5", "state": "n, 3", "lengths": "n"},
    "reverse_sequences": {"x": "t, n, ...", "lengths": "n"},
    "attention": {"q": "n, t, ...", "k": "n, s, ...", "v": "n, s, ...", "bias": "n, 6, t, s"},
    "rotary_embedding": {"x": "n, t, ..."},
    "ctc_loss": {"logits": "n, t, ...", "labels": "n, ..."},
}
FIXED = {"params", "statistics", "class_weights", "key", "positions"}


def symbolic(op, args):
    """The arguments' shapes and dtypes, with symbols for the batch and the length."""
    scope = jax.export.SymbolicScope()

    def of(name, leaf):
        symbols = SYMBOLIC.get(op.__name__, {}).get(name, "n, ...")
        if name in FIXED or not leaf.ndim:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        shape = jax.export.symbolic_shape(symbols, scope=scope, like=leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return tuple(
        jax.tree.map(lambda leaf, name=name: of(name, leaf), arg)
        for name, arg in zip(op.arguments, args, strict=False)
    )


@pytest.mark.usefixtures("unannotated")  # a symbolic size is no `int`
@pytest.mark.parametrize("entry", every_op())
def test_export_with_a_symbolic_batch_and_length(entry):
    case = entry.cases[0]
    op, args = entry.op.bind(**case.options), case.arguments(1, jnp.float64)
    if entry.op.__name__ == "dropout":
        args = (args[0], jax.random.key_data(args[1]))

    def gradient(*args):
        y, residuals = op.fwd(*args)
        return y, op.bwd(residuals, jax.tree.map(jnp.ones_like, y))

    exported = jax.export.export(jax.jit(gradient))(*symbolic(op, args))
    found, truth = exported.call(*args), jax.jit(gradient)(*args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("entry", every_op())
def test_debug_flags_are_quiet_where_the_result_is_finite(entry):
    """Each operation on its own, in audit cases and hard ones, under debug_nans and debug_infs."""
    for case in entry.cases[:1] + entry.hard:
        args = case.arguments(1, jnp.float32)
        y, residuals = entry.op.fwd(*args, **case.options)
        dy = jax.tree.map(jnp.ones_like, y)
        results = jax.tree.leaves((args, y, entry.op.bwd(residuals, dy)))
        if all(np.isfinite(np.asarray(a)).all() for a in results if is_floating(a)):
            with jax.debug_nans(True), jax.debug_infs(True):
                y, residuals = entry.op.fwd(*args, **case.options)
                entry.op.bwd(residuals, dy)
