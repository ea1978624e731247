"""Layers that normalise: layer, RMS, group and batch norm."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, op_layer
from jaxnn.ops._common.validation import require_number
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.ops.normalisation import group_norm, layer_norm, require_groups, rms_norm

ONES, ZEROS = jax.nn.initializers.ones, jax.nn.initializers.zeros


def LayerNorm(
    n: int,
    *,
    eps: float = 1e-5,
    scale_init: Callable = ONES,
    bias_init: Callable = ZEROS,
    use_scale: bool = True,
    use_bias: bool = True,
) -> Layer:
    """Layer norm of the last axis, with params {"scale": (n,), "bias": (n,)}; see `layer_norm`.

    Args:
        n: the size of the last axis.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: without it params has no "scale".
        use_bias: without it params has no "bias".

    Raises:
        ValueError: n is not a positive integer, or eps is not above 0.

    Example:
        >>> layer = jaxnn.LayerNorm(3)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([1.0, 2.0, 3.0]))
        >>> [round(float(feature), 2) for feature in y]
        [-1.22, 0.0, 1.22]
    """
    init = _init("LayerNorm", n, eps, use_scale and scale_init, use_bias and bias_init)
    return op_layer(layer_norm.bind(eps=eps), init)


def RMSNorm(
    n: int, *, eps: float = 1e-5, scale_init: Callable = ONES, use_scale: bool = True
) -> Layer:
    """RMS norm of the last axis, with params {"scale": (n,)}; see `rms_norm`.

    Args:
        n: the size of the last axis.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        use_scale: without it params is empty.

    Raises:
        ValueError: n is not a positive integer, or eps is not above 0.

    Example:
        >>> layer = jaxnn.RMSNorm(2)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([1.0, 7.0]))
        >>> [round(float(feature), 2) for feature in y]
        [0.2, 1.4]
    """
    return op_layer(rms_norm.bind(eps=eps), _init("RMSNorm", n, eps, use_scale and scale_init))


def GroupNorm(
    groups: int,
    n: int,
    *,
    eps: float = 1e-5,
    scale_init: Callable = ONES,
    bias_init: Callable = ZEROS,
    use_scale: bool = True,
    use_bias: bool = True,
) -> Layer:
    """Group norm of n channels, with params {"scale": (n,), "bias": (n,)}; see `group_norm`.

    Args:
        groups: the number of groups.
        n: the number of channels.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: without it params has no "scale".
        use_bias: without it params has no "bias".

    Raises:
        TypeError: groups is not an integer.
        ValueError: n is not a positive integer, groups does not divide it, or eps is not above 0.

    Example:
        >>> layer = jaxnn.GroupNorm(2, 4)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([[1.0, 3.0, 10.0, 30.0]]))
        >>> [round(float(channel), 2) for channel in y[0]]
        [-1.0, 1.0, -1.0, 1.0]
    """
    init = _init("GroupNorm", n, eps, use_scale and scale_init, use_bias and bias_init)
    require_groups("GroupNorm", groups, n)
    return op_layer(group_norm.bind(groups=groups, eps=eps), init)


def BatchNorm(
    n: int,
    *,
    momentum: float = 0.9,
    eps: float = 1e-5,
    scale_init: Callable = ONES,
    bias_init: Callable = ZEROS,
    use_scale: bool = True,
    use_bias: bool = True,
) -> Layer:
    """Batch norm of n channels, with params {"scale": (n,), "bias": (n,)} and a state.

    Training normalises by the mean and the variance of the batch (`batch_norm`), inference by the
    running ones in the state (`batch_norm_inference`): {"mean": (n,), "var": (n,)}, 0 and 1 at
    first. With m the momentum and N the numbers that a channel has in the batch, each step does

        mean ← m·mean + (1 − m)·(mean of the batch)
        var  ← m·var  + (1 − m)·(variance of the batch)·N/(N − 1)

    N/(N − 1) makes the variance an unbiased estimate, so that small batches do not shrink it. A
    single number tells nothing about the variance and leaves it as it is.

    Args:
        n: the number of channels.
        momentum: m, 0 … 1; the statistics are those of about the last 1/(1 − m) batches.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: without it params has no "scale".
        use_bias: without it params has no "bias".

    Raises:
        ValueError: n is not a positive integer, or momentum or eps is out of range; later, `apply`
            is given no state.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 2.

    Example:
        >>> layer = jaxnn.BatchNorm(1, momentum=0.5)
        >>> y, residuals = layer.fwd(layer.init(jax.random.key(0)), jnp.array([[1.0], [3.0]]))
        >>> layer.update_state(layer.init_state(), residuals)
        {'mean': Array([1.], dtype=float32), 'var': Array([1.5], dtype=float32)}
    """
    init = _init("BatchNorm", n, eps, use_scale and scale_init, use_bias and bias_init)
    require_number("BatchNorm", "momentum", momentum, at_least=0, at_most=1)
    training, inference = batch_norm.bind(eps=eps), batch_norm_inference.bind(eps=eps)

    def apply(params, x, state=None):
        if state is None:
            raise ValueError(
                "BatchNorm: inference needs the running statistics: apply(params, x, state), with "
                "the state that training returned"
            )
        return inference(params, state, x)

    def fwd(params, x, key=None):
        return training.fwd(params, x)

    def update_state(state, residuals):
        count = math.prod(residuals.x.shape[:-1])
        of_batch = {}
        if count > 0:
            of_batch["mean"] = residuals.batch_mean
        if count > 1:
            of_batch["var"] = residuals.var * (count / (count - 1))
        return state | {
            name: momentum * state[name] + (1 - momentum) * new.astype(state[name].dtype)
            for name, new in of_batch.items()
        }

    return Layer(
        init=init,
        apply=apply,
        fwd=fwd,
        bwd=training.bwd,
        init_state=lambda: {"mean": jnp.zeros(n), "var": jnp.ones(n)},
        update_state=update_state,
    )


def _init(layer, n, eps, scale_init, bias_init=None) -> Callable:
    """`init` of a layer with those of scale and bias that there are."""
    if type(n) is not int or n < 1:
        raise ValueError(f"{layer}: n must be a positive integer, got {n!r}")
    require_number(layer, "eps", eps, above=0)

    def init(key):
        makers = {"scale": scale_init, "bias": bias_init}
        keys = jax.random.split(key)
        return {
            name: make(k, (n,))
            for (name, make), k in zip(makers.items(), keys, strict=True)
            if make
        }

    return init
