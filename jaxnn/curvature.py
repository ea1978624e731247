"""Curvature of the loss: the diagonal of the Gauss–Newton matrix, Kronecker factors, moments.

The Gauss–Newton matrix of a batch is G = Σₙ Jₙᵀ·Hₙ·Jₙ with the Jacobian Jₙ of the prediction and
the Hessian Hₙ of the loss with respect to the prediction. With a root, Hₙ = Σ_c sₙ_c·sₙ_cᵀ,

        G = Σₙ Σ_c (Jₙᵀ·sₙ_c)·(Jₙᵀ·sₙ_c)ᵀ

and Jₙᵀ·sₙ_c is the gradient of example n if the backward starts from the column sₙ_c instead of dy.
So curvature is the walk of `jaxnn.per_example` with C columns: the deltas have one more axis, and
the gradients have the same factors.

With `samples`, random combinations of the columns replace them: sₙ = Σ_c ε_c·sₙ_c with independent
signs ε has E[sₙ·sₙᵀ] = Hₙ, so one column gives an unbiased estimate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.arrays import require_key
from jaxnn.example_gradients import (
    ExampleGradients,
    Outer,
    Patches,
    Stack,
    Whole,
    map_forms,
)
from jaxnn.layer import Layer, Params, as_layer, require_sizes
from jaxnn.op import Op
from jaxnn.ops._common.numerics import contract
from jaxnn.per_example import forward, walk_back
from jaxnn.training.gradient import require_loss
from jaxnn.training.reduction import reduce, require_reduction


class Kronecker(NamedTuple):
    """The factors of A ⊗ B, which approximates the block of one array of parameters.

    Attributes:
        a: the factor of the inputs, (I, I); (1, 1) for a vector of parameters.
        b: the factor of the outputs, (O, O).
    """

    a: jax.Array
    b: jax.Array


class Moments(NamedTuple):
    """The moments of the examples' gradients, entry by entry; see `gradient_moments`.

    Attributes:
        mean: (1/N)·Σ gₙ.
        second: (1/N)·Σ gₙ².
        variance: (Σ gₙ² − N·mean²)/(N − 1).
    """

    mean: Params
    second: Params
    variance: Params


class Columns(NamedTuple):
    """The gradients for each column of the root.

    Attributes:
        first: the gradients for the first column.
        all: the gradients for all columns; each array has the columns along a leading axis.
        n_examples: N.
    """

    first: Any
    all: Any
    n_examples: int


def diag_ggn(
    net: Layer | Op, loss: Op, reduction: str = "mean", *, samples: int | None = None
) -> Callable:
    """The diagonal of the Gauss–Newton matrix of a batch's loss, a tree like the parameters.

        diagonal = f(params, x, target, key=None, weights=None)

    Derivation: the entry of G for one parameter θ is Σₙ Σ_c (∂⟨sₙ_c, ŷₙ⟩/∂θ)², the sum of squares
    of the gradients of the columns. For a linear layer at one place, (x ⊗ d)² = x² ⊗ d², so
        diag = Σₙ xₙ² ⊗ Σ_c dₙ_c²
    which is one product, whatever the number of columns.

    Args:
        net: a layer, or an op of one argument.
        loss: an op with a `hessian_root`, such as `softmax_cross_entropy` or `squared_error`.
        reduction: the reduction of the losses of the batch, as in `value_and_grad`.
        samples: optional, the number of random columns that replace those of the root.

    Raises:
        TypeError: net is not a layer, or loss is not an op of two arguments.
        ValueError: reduction is unknown; the loss has no `hessian_root`; samples is not a positive
            integer; later, an example has several losses and there are no samples, or there are
            samples and there is no key.

    Reference: F. Dangel, F. Kunstner and P. Hennig, "BackPACK: Packing more into Backprop", 2020,
    section 2.3 and appendix A.2.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(2, 1, use_bias=False))
        >>> diagonal = jaxnn.curvature.diag_ggn(net, jaxnn.half_squared_error, "sum")
        >>> params, x = net.init(jax.random.key(0)), jnp.array([[1.0, 2.0], [3.0, 0.0]])
        >>> print(diagonal(params, x, jnp.zeros((2, 1)))[0]["w"].ravel())
        [10.  4.]
    """
    columns = _columns(net, loss, reduction, samples)

    def diagonal(params, x, target, key=None, weights=None):
        found = columns(params, x, target, key, weights)
        squares = map_forms(_sum_of_squares, found.first, found.all)
        return jax.tree.map(lambda s, p: s.astype(p.dtype), squares, params)

    return diagonal


def kronecker_factors(
    net: Layer | Op, loss: Op, reduction: str = "mean", *, samples: int | None = None
) -> Callable:
    """Two factors for each array of the parameters, whose product approximates its block of G.

        factors = f(params, x, target, key=None, weights=None)      a tree of `Kronecker`

    Derivation: the gradient of a matrix W for one column is x ⊗ d, so by
    (x ⊗ d)·(x ⊗ d)ᵀ = (x·xᵀ) ⊗ (d·dᵀ) its block of G is Σₙ (xₙ·xₙᵀ) ⊗ (Σ_c dₙ_c·dₙ_cᵀ). The factors
    are the mean of the first and the sum of the second,
        A = (1/N)·Σₙ Σₜ xₙₜ·xₙₜᵀ        B = (1/T)·Σₙ Σ_c Σₜ dₙ_cₜ·dₙ_cₜᵀ
    which is exact for one example at one place. Without samples these are the factors of KFLR, with
    them those of KFAC. The block of a vector of parameters is exact, with A = 1.

    Args:
        net: a layer, or an op of one argument, without an embedding.
        loss: an op with a `hessian_root`.
        reduction: the reduction of the losses of the batch, as in `value_and_grad`.
        samples: optional, the number of random columns that replace those of the root.

    Raises:
        TypeError, ValueError: as for `diag_ggn`; or a layer's gradient is not a product of two
            factors.

    Reference: J. Martens and R. Grosse, "Optimizing Neural Networks with Kronecker-factored
    Approximate Curvature", 2015, section 3; A. Botev, H. Ritter and D. Barber, "Practical
    Gauss-Newton Optimisation for Deep Learning", 2017 (KFLR); R. Grosse and J. Martens, "A
    Kronecker-factored Approximate Fisher Matrix for Convolution Layers", 2016, for several places.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(2, 3))
        >>> factors = jaxnn.curvature.kronecker_factors(net, jaxnn.softmax_cross_entropy)
        >>> params = net.init(jax.random.key(0))
        >>> found = factors(params, jnp.ones((4, 2)), jnp.array([0, 1, 2, 0]))
        >>> found[0]["w"].a.shape, found[0]["w"].b.shape, found[0]["b"].b.shape
        ((2, 2), (3, 3), (3, 3))
    """
    columns = _columns(net, loss, reduction, samples)

    def factors(params, x, target, key=None, weights=None):
        found = columns(params, x, target, key, weights)
        return map_forms(partial(_factors, found.n_examples), found.first, found.all)

    return factors


def gradient_moments(net: Layer | Op, loss: Op, reduction: str = "sum") -> Callable:
    """The mean, the second moment and the variance of the examples' gradients, entry by entry.

        moments = f(params, x, target, key=None, weights=None)      `Moments` of trees

    From the factors: Σₙ (xₙ ⊗ dₙ)² = Σₙ xₙ² ⊗ dₙ² for a linear layer at one place.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: the reduction of the losses of one example, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as for `jaxnn.per_example.per_example_norms`, or the batch has fewer
            than two examples.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(1, 1, use_bias=False))
        >>> moments = jaxnn.curvature.gradient_moments(net, jaxnn.half_squared_error)
        >>> x, y = jnp.array([[1.0], [1.0]]), jnp.array([[-1.0], [-3.0]])
        >>> print(moments(({"w": jnp.zeros((1, 1))},), x, y).variance[0]["w"])
        [[2.]]
    """
    walk, net = walk_back(net, loss, reduction), as_layer(net)

    def moments(params, x, target, key=None, weights=None):
        values, *halves = walk(params, x, target, key, weights)
        n = values.size
        if n < 2:
            raise ValueError(f"gradient_moments: a variance needs at least two examples, got {n}")
        forms = net.bwd_examples(*halves)
        one_column = jax.tree.map(lambda a: a[None], forms)
        squares = map_forms(_sum_of_squares, forms, one_column)
        mean = jax.tree.map(lambda g: g / n, net.bwd_params(*halves))
        second = jax.tree.map(lambda s, m: (s / n).astype(m.dtype), squares, mean)
        variance = jax.tree.map(lambda s, m: (s - m**2) * (n / (n - 1)), second, mean)
        return Moments(mean, second, variance)

    return moments


def _columns(net, loss, reduction, samples) -> Callable:
    """`(params, x, target, key, weights) -> Columns`."""
    net = as_layer(net)
    require_loss(loss)
    require_reduction("curvature", reduction)
    if samples is not None:
        require_sizes("curvature", samples=samples)
    if loss.rules.hessian_root is None:
        raise ValueError(f"{loss.__name__} has no hessian_root, which the curvature needs")

    def columns(params, x, target, key, weights):
        residuals, prediction, weights, losses, loss_residuals = forward(
            net, loss, params, x, target, key, weights
        )
        reduced = reduce(losses, prediction, target, weights, loss, reduction)
        roots = loss_residuals.call.of(loss.rules.hessian_root)(loss_residuals)
        scale = jnp.broadcast_to(jnp.sqrt(reduced.dlosses)[..., None], roots.shape)
        roots = (roots * scale.astype(roots.dtype)).astype(prediction.dtype)
        if samples is not None:
            roots = _sampled(roots, key, samples)
        elif losses.ndim > 1:
            raise ValueError(
                f"{loss.__name__} gave losses of shape {losses.shape}, several for each example, "
                "for which the exact root has too many columns; pass samples"
            )
        deltas, _ = jax.vmap(net.bwd_input, (None, 0))(residuals, roots)
        first = net.bwd_examples(residuals, jax.tree.map(lambda d: d[0], deltas))
        of_all = jax.vmap(net.bwd_examples, (None, 0))(residuals, deltas)
        return Columns(first, of_all, losses.shape[0])

    return columns


def _sampled(roots, key, samples):
    """Random combinations of the columns, with independent signs for each loss."""
    if key is None:
        raise ValueError("curvature: samples need a key")
    require_key("curvature", key)
    key = jax.random.fold_in(key, 0x5A)  # not the key of the network's random layers
    signs = jax.random.rademacher(key, (samples, *roots.shape[:-1]), roots.dtype)
    return jnp.einsum("sc...,c...k->s...k", signs, roots) / jnp.sqrt(
        jnp.asarray(samples, roots.dtype)
    )


def _sum_of_squares(first: ExampleGradients, columns: Any):
    """Σₙ Σ_c gₙ_c², entry by entry."""
    if isinstance(first, Stack):
        by_layer = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), columns.of)
        return jax.vmap(_sum_of_squares)(first.of, by_layer)
    if isinstance(first, Whole):
        return jnp.sum(columns.gradients**2, axis=(0, 1))
    if isinstance(first, Outer) and first.inputs.shape[1] == 1:
        return contract(first.inputs[:, 0] ** 2, jnp.sum(columns.deltas[:, :, 0] ** 2, 0), [0], [0])

    def add(total, of_example):
        gradients = jax.vmap(lambda form: form.whole())(of_example)
        return total + jnp.sum(gradients**2, axis=(0, 1)), None

    by_example = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0)[:, :, None], columns)
    shape = jax.eval_shape(lambda form: form.whole(), first)
    total, _ = lax.scan(add, jnp.zeros(shape.shape[1:], shape.dtype), by_example)
    return total


def _factors(n_examples: int, first: ExampleGradients, columns: Any) -> Kronecker:
    """A and B of one array of the parameters."""
    if isinstance(first, Stack):
        by_layer = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), columns.of)
        return jax.vmap(partial(_factors, n_examples))(first.of, by_layer)
    if isinstance(first, Whole):
        vectors = columns.gradients.reshape(*columns.gradients.shape[:2], -1)
        b = contract(vectors, vectors, [0, 1], [0, 1])
        return Kronecker(jnp.ones((1, 1), b.dtype), b)
    if isinstance(first, Patches):
        first, columns = first.as_outer(), jax.vmap(Patches.as_outer)(columns)
    if not isinstance(first, Outer):
        raise ValueError(
            f"kronecker_factors: the gradient of an array is {type(first).__name__}, not a product "
            "of an input and an output"
        )
    a = contract(first.inputs, first.inputs, [0, 1], [0, 1]) / n_examples
    b = contract(columns.deltas, columns.deltas, [0, 1, 2], [0, 1, 2])
    return Kronecker(a, b / first.inputs.shape[1])
