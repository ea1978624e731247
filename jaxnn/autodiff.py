"""Ops and layers from any JAX function, differentiated by JAX: the one place where that happens."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.calls import weighted
from jaxnn.example_gradients import Whole
from jaxnn.layer import Layer
from jaxnn.op import Op


class PullbackResiduals(NamedTuple):
    """JAX's pullback, the function from dy to the gradients."""

    pullback: Any


class AutodiffOp(Op):
    """An op from a JAX function; see `autodiff`."""

    def __init__(self, function: Callable):
        signature = _with_options(function)
        unnameable = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]

        @functools.wraps(function)
        def definition(*args, **options):
            given = signature.bind(*args, **options).arguments
            unnamed = [given.pop(name) for name in unnameable]
            return function(*unnamed, **given)

        setattr(definition, "__signature__", signature)  # noqa: B010  functions have no such field
        definition.__name__ = getattr(function, "__name__", type(function).__name__)
        super().__init__(definition)
        self.function = function
        self.forward(functools.partial(_forward, definition))
        self.backward(_backward)

    def __eq__(self, other) -> bool:
        same = isinstance(other, AutodiffOp) and self.function == other.function
        return same and self.fixed == other.fixed

    def __hash__(self) -> int:
        return hash((self.function, tuple(self.fixed.items())))

    def __repr__(self) -> str:
        return f"autodiff({super().__repr__()})"

    def __reduce__(self):
        return _made, (self.function, self.fixed)


@dataclass(frozen=True, repr=False)
class AutodiffLayer(Layer):
    """A layer from a JAX function of parameters and an input; see `autodiff`.

    Attributes:
        op: `(params, x) -> y`.
        initialise: `(key) -> params`.
    """

    op: AutodiffOp
    initialise: Callable
    position_wise = True

    def __repr__(self) -> str:
        return repr(self.op)

    def init(self, key):
        """The parameters that the function makes."""
        return self.initialise(key)

    def apply(self, params, x, state=None):
        """`op(params, x)`."""
        return self.op(params, x)

    def fwd(self, params, x, key=None):
        """`op.fwd(params, x)`."""
        return self.op.fwd(params, x)

    def bwd(self, residuals, dy):
        """The pullback."""
        return self.op.bwd(residuals, dy)

    def bwd_input(self, residuals, dy):
        """The pullback without its first entry, which needs dy itself."""
        _, dx = self.op.bwd(residuals, dy)
        return dy, dx

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The first entry of the pullback."""
        if weights is not None:
            return weighted(self.bwd_params, residuals, deltas, weights, axis)
        dparams, _ = self.op.bwd(residuals, deltas)
        return dparams

    def bwd_examples(self, residuals, deltas, axis=0):
        """A pullback for each example, with the example's dy and 0 for the others.

        With JAX's backward this takes `vmap`: N backward passes over the batch.
        """
        n_examples = {dy.shape[axis] for dy in jax.tree.leaves(deltas)}

        def of_one(weights):
            return self.bwd_params(residuals, deltas, weights, axis)

        (n,) = n_examples
        return jax.tree.map(Whole, jax.vmap(of_one)(jnp.eye(n)))


def autodiff(function: Callable, init: Callable | None = None) -> Op | Layer:
    """An op or a layer from any JAX function, with JAX's backward.

    Functions without a hand-written backward can then be used together with ops and layers that
    have one: a function of one argument as a layer, a function
    `(prediction, target) -> one value per example` as a loss. With `init` it becomes a layer with
    parameters. Arguments with a default other than `None` become options, to fix with `bind`; those
    with the default `None` are optional arrays.

    Args:
        function: `(x, …) -> y`, or with `init`, `(params, x) -> y`; of arrays or trees of them.
        init: optional, `(key) -> params`.

    Raises:
        TypeError: function or init is not callable.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(4, 3), jaxnn.autodiff(jnp.sinh))
        >>> loss = jaxnn.autodiff(optax.softmax_cross_entropy_with_integer_labels)
        >>> gradient = jaxnn.value_and_grad(net, loss)
        >>> params = net.init(jax.random.key(0))
        >>> value, grads = gradient(params, jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1]))
        >>> scale = jaxnn.autodiff(lambda s, x: s * x, init=lambda key: jnp.ones(()))
        >>> print(scale.apply(2.0, jnp.ones(3)))
        [2. 2. 2.]
    """
    if not callable(function):
        raise TypeError(f"autodiff: expected a function, got {function!r:.80}")
    if init is not None and not callable(init):
        raise TypeError(f"autodiff: init must be a function, got {init!r:.80}")
    op = AutodiffOp(function)
    return op if init is None else AutodiffLayer(op, init)


def _forward(definition, *args, **options):
    y, pullback = jax.vjp(functools.partial(definition, **options), *args)
    return y, PullbackResiduals(pullback)


def _backward(residuals, dy, **options):
    return tuple(map(_without_float0, residuals.pullback(dy)))


def _without_float0(gradient):
    """`None` for an argument of integers, whose gradient in JAX has the dtype float0."""
    leaves = jax.tree.leaves(gradient)
    if leaves and all(leaf.dtype == jax.dtypes.float0 for leaf in leaves):
        return None
    return gradient


def _with_options(function) -> inspect.Signature:
    """The function's signature, with every argument that has a default an option."""
    parameters = []
    for p in inspect.signature(function).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.default is not p.empty and p.default is not None:
            p = p.replace(kind=p.KEYWORD_ONLY)
        parameters.append(p.replace(annotation=p.empty))
    return inspect.Signature(sorted(parameters, key=lambda p: p.kind))


def _made(function, fixed):
    return AutodiffOp(function).bind(**fixed)
