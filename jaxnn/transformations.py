"""An op under every transformation of JAX, from its `forward` and `backward` alone.

The tangent map of an op is the transpose of its backward: `backward` is linear in `dy`, and
⟨dy, J·ẋ⟩ = ⟨Jᵀ·dy, ẋ⟩. So forward mode needs no separate rule: a primitive represents ẏ = J·ẋ given
the residuals. When JAX transposes it (reverse mode), it is the backward; when JAX evaluates it
(forward mode), it is the backward transposed by `jax.linear_transpose`, or the op's own `tangent`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive, unmapped_aval
from jax.interpreters import ad, batching, mlir
from jax.interpreters.partial_eval import JaxprTracer

from jaxnn import calls, meshes

by_definition = jax.make_user_context(default_value=False)
transposing = jax.make_user_context(default_value=False)


def definitions():
    """A context in which every op runs its definition, so that JAX differentiates that.

    It gives the autodiff counterpart of anything built from ops. The value of `fwd` is the
    definition's too, so the training form of a network with random layers has a counterpart as
    well. The context is part of the key of every trace of JAX: `jit`, `checkpoint`, `scan` and
    `cond` trace again inside it.

    Example:
        >>> gradient = jax.jit(jax.grad(lambda x: jaxnn.gelu(x).sum()))
        >>> x = jnp.array([0.5])
        >>> with jaxnn.definitions():
        ...     by_autodiff = gradient(x)
        >>> bool(jnp.allclose(gradient(x), by_autodiff))
        True
    """
    return by_definition(True)


def call(rules: calls.Rules, args: tuple, options: dict):
    """`y`, differentiable in every mode."""
    run = partial(_differentiable, rules, tuple(options.items()))
    for array in jax.tree.leaves(args):
        if not jax.typeof(array).sharding.mesh.empty:
            return meshes.with_output_of(
                lambda *args: rules.by_definition(args, options), run, *args
            )
    return run(*args)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _differentiable(rules, options, *args):
    return _forward(rules, options, *args)[0]


@partial(_differentiable.defjvp, symbolic_zeros=True)
def _(rules, options, primals, tangents):
    linearizing = any(isinstance(t, JaxprTracer) for t in jax.tree.leaves(tangents))
    forward = _whole_forward if linearizing else _forward
    y, residuals = forward(rules, options, *primals)
    values, residual_tree = jax.tree.flatten(residuals)
    leaves, output = jax.tree.flatten(y)
    moving = [
        (position, tangent)
        for position, tangent in enumerate(jax.tree.leaves(tangents))
        if not isinstance(tangent, SymbolicZero) and jax.typeof(tangent).dtype != jax.dtypes.float0
    ]
    product = TangentMap(
        rules=rules,
        residuals=residual_tree,
        inputs=tuple(position for position, _ in moving),
        outputs=tuple(map(jax.typeof, leaves)),
    )
    dy = product.bind(values, [tangent for _, tangent in moving])
    return y, jax.tree.unflatten(output, dy)


def _forward(rules, options, *args):
    return rules.fwd(jax.tree.map(jnp.asarray, args), dict(options))  # JAX may pass Python numbers


def undifferentiated(rules: calls.Rules, args: tuple, options: dict):
    """The residuals, as constants under differentiation."""
    return _forward(rules, options, *jax.lax.stop_gradient(args))[1]


_whole_forward = jax.custom_jvp(_forward, nondiff_argnums=(0, 1))
"""The forward in one piece, for reverse mode.

When JAX linearizes, it partially evaluates the forward, and then hoists from each loop all values
that do not depend on its carry: zeros of the size of all the logits of a chunk become an array that
is stored. A function with a custom rule is kept whole. Elsewhere, such as in `checkpoint`, JAX
should see the inside of the forward.
"""


@_whole_forward.defjvp
def _(rules, options, primals, tangents):
    return jax.jvp(partial(_forward, rules, options), primals, tangents)


class TangentMap(NamedTuple):
    """The linear map from some tangents of an op's arguments to those of its output.

    Attributes:
        rules: the op's rules.
        residuals: the structure of its residuals.
        inputs: the positions of the tangents among the arrays of all the arguments.
        outputs: the types of the arrays of the output.
        batches: for each `vmap` around it, from the inside, the axis of each residual.
    """

    rules: calls.Rules
    residuals: Any
    inputs: tuple[int, ...]
    outputs: tuple
    batches: tuple = ()

    def bind(self, residuals: list, tangents: list) -> list:
        """The tangents of the output."""
        return tangent_p.bind(*residuals, *tangents, product=self)

    def push(self, residuals: tuple, tangents: tuple) -> list:
        """The same as ordinary operations: the op's own rule, or the transposed backward."""
        if self.rules.tangent is not None:
            push = self._own_tangent
            for axes in self.batches:
                push = jax.vmap(push, in_axes=(axes, 0))
            return push(residuals, tangents)
        with transposing(True):
            transpose = jax.linear_transpose(partial(self.pull, residuals), self.outputs)
        return list(*transpose(tangents))

    def pull(self, residuals: tuple, dy: tuple) -> tuple:
        """The gradients of the inputs, by the backward."""
        pull = self._gradients
        for axes in self.batches:
            pull = jax.vmap(pull, in_axes=(axes, 0))
        return pull(residuals, dy)

    def _gradients(self, residuals, dy):
        residuals = jax.tree.unflatten(self.residuals, residuals)
        dy = jax.tree.unflatten(residuals.call.output, dy)
        gradients = self.rules.bwd(residuals, dy)
        by_position = calls.by_position(residuals.call, gradients)
        return tuple(by_position[position] for position in self.inputs)

    def _own_tangent(self, residuals, tangents):
        residuals = jax.tree.unflatten(self.residuals, residuals)
        given = [None] * residuals.call.arguments.num_leaves
        for position, tangent in zip(self.inputs, tangents, strict=True):
            given[position] = tangent
        given = jax.tree.unflatten(residuals.call.arguments, given)
        given += (None,) * (self.rules.n_arguments - len(given))
        dy = residuals.call.of(self.rules.tangent)(residuals, given)
        return [
            d.astype(kind.dtype) for d, kind in zip(jax.tree.leaves(dy), self.outputs, strict=True)
        ]


tangent_p = Primitive("op_tangent")
tangent_p.multiple_results = True


def _push(*arrays, product):
    n = product.residuals.num_leaves
    return product.push(arrays[:n], arrays[n:])


def _transpose(dy, *arrays, product):
    """Reverse mode: the hand-written backward itself."""
    n = product.residuals.num_leaves
    gradients = product.pull(arrays[:n], tuple(map(ad.instantiate_zeros, dy)))
    return [None] * n + [
        gradient if ad.is_undefined_primal(tangent) else None
        for gradient, tangent in zip(gradients, arrays[n:], strict=True)
    ]


def _jvp(primals, tangents, *, product):
    """Second order: linear in the tangents, and ordinary operations on the residuals."""
    n = product.residuals.num_leaves
    residuals, inputs = list(primals[:n]), primals[n:]
    dy = product.bind(residuals, list(inputs))
    terms = []
    if any(type(t) is not ad.Zero for t in tangents[n:]):
        terms.append(product.bind(residuals, list(map(ad.instantiate_zeros, tangents[n:]))))
    moving = [i for i, t in enumerate(tangents[:n]) if type(t) is not ad.Zero]
    if moving:

        def push(*moved):
            filled = list(residuals)
            for i, value in zip(moving, moved, strict=True):
                filled[i] = value
            return product.push(tuple(filled), inputs)

        _, term = jax.jvp(push, [residuals[i] for i in moving], [tangents[i] for i in moving])
        terms.append(term)
    return dy, [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]


def _batch(arrays, axes, *, product):
    n = product.residuals.num_leaves
    size = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    arrays = [
        batching.bdim_at_front(a, i, size) if k >= n or i is not None else a
        for k, (a, i) in enumerate(zip(arrays, axes, strict=True))
    ]
    mapped = tuple(None if i is None else 0 for i in axes[:n])
    batched = product._replace(
        outputs=tuple(unmapped_aval(size, 0, kind) for kind in product.outputs),
        batches=(*product.batches, mapped),
    )
    dy = batched.bind(arrays[:n], arrays[n:])
    return dy, [0] * len(dy)


tangent_p.def_impl(jax.jit(_push, static_argnames="product"))
tangent_p.def_abstract_eval(lambda *arrays, product: product.outputs)
mlir.register_lowering(tangent_p, mlir.lower_fun(_push, multiple_results=True))
ad.primitive_transposes[tangent_p] = _transpose
ad.primitive_jvps[tangent_p] = _jvp
batching.primitive_batchers[tangent_p] = _batch
