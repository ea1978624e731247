"""What other libraries have in the place of an op, called as the op is called."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import jaxnn

try:
    import flax.linen as nn
except ModuleNotFoundError:  # an extra; its counterparts are then omitted
    nn = None


def native(op: jaxnn.Op) -> Callable | None:
    """The counterpart of an op in `jax.nn`, optax or Flax; `None` if none is known or installed."""
    name = op.__name__
    found = _OF_JAX.get(name) or _OF_OPTAX.get(name) or (_OF_FLAX.get(name) if nn else None)
    return None if found is None else _without_omitted(found)


def _without_omitted(function: Callable) -> Callable:
    """A function called without the trailing optional arguments that are `None`."""

    def called(*args, **options):
        while args and args[-1] is None:
            args = args[:-1]
        return function(*args, **options)

    return called


def _attention(q, k, v, *omitted, causal):
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal)


def _summed(loss: Callable) -> Callable:
    """A loss of each component, summed over them as jaxnn's are."""
    return lambda *args: jnp.sum(loss(*args), axis=-1)


def _ctc(logits, labels, *omitted):
    return optax.ctc_loss(
        logits, jnp.zeros(logits.shape[:-1]), labels, jnp.zeros(labels.shape, logits.dtype)
    )


def _linear(params, x):
    return nn.Dense(params["w"].shape[-1]).apply(_weights(params), x)


def _conv(params, x):
    *kernel, _, n_out = params["w"].shape
    return nn.Conv(n_out, kernel).apply(_weights(params), x)


def _embedding(params, ids):
    return nn.Embed(*params["w"].shape).apply({"params": {"embedding": params["w"]}}, ids)


def _weights(params):
    return {"params": {"kernel": params["w"], "bias": params["b"]}}


def _layer_norm(params, x):
    return nn.LayerNorm(epsilon=1e-5).apply({"params": params}, x)


def _rms_norm(params, x):
    return nn.RMSNorm(epsilon=1e-5).apply({"params": params}, x)


def _group_norm(params, x, *, groups):
    return nn.GroupNorm(groups, epsilon=1e-5).apply({"params": params}, x)


def _batch_norm(params, x):
    zeros = jnp.zeros(x.shape[-1])
    y, _ = nn.BatchNorm(use_running_average=False, epsilon=1e-5).apply(
        {"params": params, "batch_stats": {"mean": zeros, "var": zeros}}, x, mutable="batch_stats"
    )
    return y


def _batch_norm_inference(params, statistics, x):
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(
        {"params": params, "batch_stats": statistics}, x
    )


def _dropout(x, key, *, rate):
    return nn.Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": key})


def _max_pool(x, *, window):
    return nn.max_pool(x, (window, window), (window, window))


def _avg_pool(x, *, window):
    return nn.avg_pool(x, (window, window), (window, window))


def _recurrent(op: jaxnn.Op, cell: str) -> Callable:
    def whole_sequence(params, x, *omitted):
        layer = nn.RNN(getattr(nn, cell)(params["u"].shape[0]), time_major=True, return_carry=True)
        arrays = {"cell": jaxnn.recurrent_to_flax(op, params)}
        final, y = layer.apply({"params": arrays}, x)
        return y, final[::-1] if op == jaxnn.lstm else final

    return whole_sequence


_OF_JAX = {
    "identity": jax.nn.identity,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jax.nn.tanh,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "relu6": jax.nn.relu6,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "glu": jax.nn.glu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "attention": _attention,
}

_OF_OPTAX = {
    "squared_error": _summed(optax.squared_error),
    "half_squared_error": _summed(optax.l2_loss),
    "huber_loss": _summed(optax.huber_loss),
    "log_cosh": _summed(optax.log_cosh),
    "sigmoid_cross_entropy": _summed(optax.sigmoid_binary_cross_entropy),
    "softmax_cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
    "multiclass_hinge": optax.losses.multiclass_hinge_loss,
    "kl_divergence": optax.kl_divergence,
    "cosine_distance": optax.cosine_distance,
    "ctc_loss": _ctc,
}

_OF_FLAX = {
    "linear": _linear,
    "conv": _conv,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "batch_norm_inference": _batch_norm_inference,
    "dropout": _dropout,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "rnn": _recurrent(jaxnn.rnn, "SimpleCell"),
    "gru": _recurrent(jaxnn.gru, "GRUCell"),
    "lstm": _recurrent(jaxnn.lstm, "OptimizedLSTMCell"),
}
