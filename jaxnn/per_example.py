"""The gradient of each example: its norm, clipped sums, the noise of the gradient.

The backward of a layer has two halves: `bwd_input`, the chain rule back to the input, and
`bwd_params`, which sums the gradients of the parameters over the batch. The deltas between them
hold the gradient of each example as a product of small factors. So the norm of each example's
gradient costs a few more products, and any weighted sum of the gradients is one more `bwd_params`.
One backward walk gives

        norms    = √Σ squared_norms(residuals, deltas)             before anything is summed
        clipped  = bwd_params(residuals, deltas, weights)          weights = clip/max(norms, clip)

where `vmap(grad)` makes N gradients of the size of the parameters. For a 784-512-512-10 network and
a batch of 128 those are 523 MiB.

The loss of an example is its losses reduced as in a batch of one: "sum" adds up those of its
positions, if it has several, and "mean" takes their mean.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_array, require_real, wrapped_like
from jaxnn.example_gradients import Whole, map_forms, squared_norms
from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import require_number
from jaxnn.options import as_option_of
from jaxnn.padded import zero_padding
from jaxnn.training.gradient import require_loss, without_padding
from jaxnn.training.reduction import Reduced, reduce, require_losses, require_reduction


class Forward(NamedTuple):
    """The forward pass through a network and its loss.

    Attributes:
        residuals: those of the network.
        prediction: its output, without the lengths of a `Padded` one.
        weights: the weights of the losses; 0 beyond those lengths.
        losses: one for each example, or for each of its positions.
        loss_residuals: those of the loss.
    """

    residuals: Any
    prediction: Any
    weights: jax.Array | None
    losses: jax.Array
    loss_residuals: Any


class Walk(NamedTuple):
    """The forward pass, and the backward pass to the deltas.

    Attributes:
        values: the loss of each example, (N,).
        residuals: those of the network.
        deltas: those of the network.
    """

    values: jax.Array
    residuals: Any
    deltas: Any


def per_example_norms(net: Layer | Op, loss: Op, reduction: str = "sum") -> Callable:
    """The loss of each example and the norm of its gradient.

        values, norms = f(params, x, target, key=None, weights=None)

    Derivation: the gradient of a batch's loss Σₙ Lₙ is Σₙ gₙ, and gₙ depends on the deltas of
    example n alone, because no example's output depends on another's. Of the parameters θₖ,
        ‖gₙ‖² = Σₖ ‖∂Lₙ/∂θₖ‖²
    where each term comes from the factors of the gradient; see `jaxnn.example_gradients`.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: the reduction of the losses of one example, as in `value_and_grad`.

    Raises:
        TypeError: net is not a layer, or loss is not an op of two arguments.
        ValueError: reduction is unknown; the examples of a batch depend on each other, as in
            `BatchNorm` or `info_nce`, or a layer does not define `bwd_examples`; later, the
            arguments do not fit.

    Reference: I. Goodfellow, "Efficient Per-Example Gradient Computations", 2015.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> norms = jaxnn.per_example.per_example_norms(net, jaxnn.softmax_cross_entropy)
        >>> x, labels = jnp.arange(8.0).reshape(2, 4), jnp.array([0, 2])
        >>> values, norms = norms(net.init(jax.random.key(0)), x, labels)
        >>> values.shape, norms.shape
        ((2,), (2,))
    """
    walk, net = walk_back(net, loss, reduction), as_layer(net)

    def norms_of_examples(params, x, target, key=None, weights=None):
        values, *halves = walk(params, x, target, key, weights)
        return values, jnp.sqrt(_total(net.squared_norms(*halves), values))

    return norms_of_examples


def per_example_grads(net: Layer | Op, loss: Op, reduction: str = "sum") -> Callable:
    """The loss of each example and its gradient, N arrays of the size of the parameters.

        values, grads = f(params, x, target, key=None, weights=None)

    It takes N times the memory of the parameters: use it if you need the gradients themselves, on a
    small batch or a small network.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: the reduction of the losses of one example, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as for `per_example_norms`.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> gradients = jaxnn.per_example.per_example_grads(net, jaxnn.softmax_cross_entropy)
        >>> params = net.init(jax.random.key(0))
        >>> values, grads = gradients(params, jnp.ones((2, 4)), jnp.array([0, 2]))
        >>> jax.tree.map(jnp.shape, grads)
        ({'b': (2, 3), 'w': (2, 4, 3)}, ())
    """
    walk, net = walk_back(net, loss, reduction), as_layer(net)

    def gradients_of_examples(params, x, target, key=None, weights=None):
        values, *halves = walk(params, x, target, key, weights)
        grads = map_forms(lambda form: form.whole(), net.bwd_examples(*halves))
        return values, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return gradients_of_examples


def value_and_clipped_grad(
    net: Layer | Op,
    loss: Op,
    clip: float,
    reduction: str = "sum",
    *,
    per_leaf: bool = False,
) -> Callable:
    """The loss of a batch and the sum of its examples' gradients, each clipped to a norm.

        value, grads = f(params, x, target, key=None, weights=None)

        grads = Σₙ gₙ·min(1, clip/‖gₙ‖)

    One backward walk gives the deltas, these give the norms, and the norms give the weights of the
    sum. With `reduction="mean"`, value and grads are divided by N; each gₙ is that of its own mean.

    Differentially private training adds noise to this sum, which changes by at most `clip` if one
    example is added. `optax.add_noise` adds the noise, and `dp_accounting` computes its privacy
    guarantee; the experiment `per_example` shows them together.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        clip: the largest norm, above 0.
        reduction: the reduction of the losses of one example, as in `value_and_grad`; all but "sum"
            also average over the examples.
        per_leaf: whether each array of the gradient is clipped by its own norm.

    Raises:
        TypeError, ValueError: as for `per_example_norms`, or clip is not a number above 0.

    Reference: M. Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> gradient = jaxnn.per_example.value_and_clipped_grad(
        ...     net, jaxnn.softmax_cross_entropy, clip=0.5
        ... )
        >>> params = net.init(jax.random.key(0))
        >>> value, grads = gradient(params, jnp.ones((1, 4)), jnp.array([1]))
        >>> print(round(float(optax.tree.norm(grads)), 3))
        0.5
    """
    gradient = clipped_fraction_and_grad(net, loss, reduction, clip, per_leaf)

    def value_and_gradient(params, x, target, key=None, weights=None):
        reduced, grads, _ = gradient(params, (), x, target, key, weights)
        return reduced.value, grads

    return value_and_gradient


def clipped_fraction_and_grad(net, loss, reduction, clip, per_leaf=False) -> Callable:
    """`value_and_clipped_grad` with the value as `Reduced`, and the state in third place."""
    require_number("clip", clip, above=0)
    per_leaf = as_option_of("value_and_clipped_grad", "per_leaf", per_leaf, bool)
    walk, net = walk_back(net, loss, reduction), as_layer(net)

    def factors(squared_norms):
        return clip / jnp.maximum(jnp.sqrt(squared_norms), clip)

    def gradient(params, state, x, target, key=None, weights=None):
        values, *halves = walk(params, x, target, key, weights)
        total = jnp.sum(at_least_float32(values))
        divisor = jnp.full_like(total, 1 if reduction == "sum" else values.size)
        made = map_forms(lambda form: form.smallest(), net.bwd_examples(*halves))
        squares = squared_norms(made) if per_leaf else _total(squared_norms(made), values)
        each = jax.tree.map(lambda s: factors(s) / divisor, squares)
        grads = _weighted_sum(made, each, net.bwd_params(*halves, each))
        return Reduced(total, divisor, values), wrapped_like(params, grads), state

    return gradient


class NoiseScale(NamedTuple):
    """The spread of the gradients of single examples; see `noise_scale`.

    Attributes:
        value: the mean loss of the batch.
        noise_scale: tr Σ/‖G‖², in examples.
        squared_norm: the estimate of ‖G‖², of all parameters.
        variance: the estimate of tr Σ, for each array of the parameters.
        signal_to_noise: ‖G‖²/tr Σ, for each array of the parameters.
    """

    value: jax.Array
    noise_scale: jax.Array
    squared_norm: jax.Array
    variance: Params
    signal_to_noise: Params


def noise_scale(net: Layer | Op, loss: Op, reduction: str = "sum") -> Callable:
    """Simple noise scale of the gradient, tr Σ/‖G‖²: the batch size at which noise equals signal.

        estimate = f(params, x, target, key=None, weights=None)      a `NoiseScale`

    G is the gradient of the expected loss of an example and Σ the covariance of a single example's
    gradient gₙ. From the N gradients of one batch, with ḡ their mean, unbiased estimates are
        tr Σ = (Σₙ ‖gₙ‖² − N·‖ḡ‖²)/(N − 1)
        ‖G‖² = ‖ḡ‖² − tr Σ/N                  because E‖ḡ‖² = ‖G‖² + tr Σ/N
    which needs neither two batch sizes nor a running average. If the batch is too small to tell G
    from the noise, the estimate of ‖G‖², and so the noise scale, may be negative.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: the reduction of the losses of one example, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as for `per_example_norms`, or the batch has fewer than two examples.

    Reference: S. McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, equation
    2.9 and appendix A.1.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> estimate = jaxnn.per_example.noise_scale(net, jaxnn.softmax_cross_entropy)
        >>> x, labels = jnp.ones((2, 4)), jnp.array([1, 1])
        >>> round(float(estimate(net.init(jax.random.key(0)), x, labels).noise_scale), 3)
        0.0
    """
    walk, net = walk_back(net, loss, reduction), as_layer(net)

    def estimate(params, x, target, key=None, weights=None):
        values, *halves = walk(params, x, target, key, weights)
        n = values.size
        if n < 2:
            raise ValueError(f"noise_scale: a variance needs at least two examples, got {n}")

        def of_leaf(squares, gradient):
            mean = jnp.sum(jnp.square(at_least_float32(gradient) / n))
            variance = jnp.maximum(jnp.sum(squares) - n * mean, 0) / (n - 1)
            return variance, mean - variance / n

        squares, gradient = net.squared_norms(*halves), net.bwd_params(*halves)
        leaves, tree = jax.tree.flatten(squares)
        variances, norms = zip(*map(of_leaf, leaves, jax.tree.leaves(gradient)), strict=True)
        variance, norm = (jax.tree.unflatten(tree, each) for each in (variances, norms))
        return NoiseScale(
            value=jnp.mean(values),
            noise_scale=sum(variances) / sum(norms),
            squared_norm=sum(norms),
            variance=variance,
            signal_to_noise=jax.tree.map(jnp.divide, norm, variance),
        )

    return estimate


def walk_back(net, loss, reduction) -> Callable:
    """`(params, x, target, key, weights) -> Walk`."""
    net = as_layer(net)
    require_loss(loss)
    require_reduction("per_example", reduction)
    if loss.mixes_examples:
        raise ValueError(
            f"{loss.__name__}: the loss of one example depends on the others in its batch, so the "
            "gradient of one example is not defined"
        )

    def walk(params, x, target, key, weights):
        ahead = forward(net, loss, params, x, target, key, weights)
        values, dlosses = _reduce_each(
            ahead.losses, ahead.prediction, target, ahead.weights, loss, reduction
        )
        dy, *_ = loss.bwd(ahead.loss_residuals, dlosses)
        deltas, _ = net.bwd_input(ahead.residuals, dy)
        return Walk(values, ahead.residuals, deltas)

    return walk


def _weighted_sum(made, weights, gradients):
    """Σₙ wₙ·gₙ, from the gradients computed for their norms, or else by the second half."""

    def of_leaf(made, gradient, weights):
        if not isinstance(made, Whole) or made.n_places == 1:
            return gradient
        summed = jnp.tensordot(weights.astype(made.gradients.dtype), made.gradients, 1)
        return summed.astype(gradient.dtype)

    if isinstance(weights, jax.Array):
        return map_forms(partial(of_leaf, weights=weights), made, gradients)
    return map_forms(of_leaf, made, gradients, weights)


def forward(net: Layer, loss: Op, params, x, target, key, weights) -> Forward:
    """The forward pass of a network and its loss, with the residuals of both."""
    x = zero_padding(x)
    y, residuals = net.fwd(params, x, key)
    prediction, weights = without_padding(y, weights)
    losses, loss_residuals = loss.fwd(prediction, target)
    require_losses(losses, x, loss.__name__)
    return Forward(residuals, prediction, weights, losses, loss_residuals)


def _reduce_each(losses, prediction, target, weights, loss, reduction):
    """The loss of each example, and its gradient with respect to each of the example's losses."""
    if weights is not None:
        weights = as_array("weights", weights)
        require_real("weights", weights)

    def of_one(one):
        losses, *others = jax.tree.map(lambda a: a[None], one)
        reduced = reduce(losses, *others, loss, reduction)
        return reduced.value, reduced.dlosses[0]

    return jax.vmap(of_one)((losses, prediction, target, weights))


def _total(squared_norms, values):
    """The sum over the arrays of the parameters, of each example."""
    return sum(jax.tree.leaves(squared_norms), jnp.zeros_like(at_least_float32(values)))
