"""Sequences that a network generates, one position at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Integer

from jaxnn.arrays import as_array, as_arrays, is_readable, require_key
from jaxnn.layer import Layer, Params, as_layer


def generate(
    net: Layer,
    params: Params,
    prompt: ArrayLike,
    n: int,
    *,
    key: jax.Array | None = None,
    temperature: ArrayLike = 1.0,
    top_k: int | None = None,
    context=None,
) -> Integer[Array, "N n"]:
    """The tokens that follow a prompt, each drawn from the network's own prediction.

    The prompt goes through the network once; after that each step computes one position, from the
    keys and values (or the recurrent states) that the layers cache: `Layer.extend`. It may be
    compiled: `jax.jit(jaxnn.generate, static_argnums=(0, 3), static_argnames=…)`.

    Shapes:
        N batch; T length of the prompt; K tokens
        prompt: integers (N, T), T at least 1
        result: integers (N, n)

    Args:
        net: from tokens (N, T) to logits (N, T, K), every layer with `extend`.
        params: its parameters.
        prompt: the tokens to continue.
        n: the number of tokens to add.
        key: the key of the draws; without one, each token is the most likely one.
        temperature: the number that divides the logits before a draw.
        top_k: optional, the number of most likely tokens to draw from.
        context: optional second input, for a net of (tokens, context) whose output is the logits.

    Raises:
        TypeError: net is not a layer, prompt is not an array of integers, key is not a random key,
            or temperature or top_k is not a number.
        ValueError: prompt is not (N, T) with at least one token, n is negative, temperature is not
            positive, or top_k is out of range.
        NotImplementedError: a layer has no `extend`.

    Example:
        >>> net = jaxnn.serial(
        ...     jaxnn.Embedding(7, 8), jaxnn.TransformerBlock(8, 2, causal=True), jaxnn.Linear(8, 7)
        ... )
        >>> params = net.init(jax.random.key(0))
        >>> prompt = jnp.array([[3, 1, 4]])
        >>> jaxnn.generate(net, params, prompt, 5).shape
        (1, 5)
    """
    net, params = as_layer(net), as_arrays("generate: params", params)
    prompt = as_array("generate: prompt", prompt)
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"generate: prompt must be integers, got {prompt.dtype}")
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"generate: prompt must be (N, T) with at least one token, got {prompt.shape}"
        )
    if type(n) is not int or not 0 <= n < 2**31:
        raise ValueError(f"generate: n must be an integer of at least 0, got {n!r:.80}")
    if key is not None:
        require_key("generate", key)
    heat = as_array("generate: temperature", temperature)
    if heat.dtype == bool or heat.shape not in ((), (len(prompt), 1)):
        raise TypeError(f"generate: temperature must be a number, got {temperature!r:.80}")
    if is_readable(heat) and not (np.isfinite(heat) & (np.asarray(heat) > 0)).all():
        raise ValueError(f"generate: temperature must be above 0, got {temperature!r:.80}")
    if top_k is not None and type(top_k) is not int:
        raise TypeError(f"generate: top_k must be an integer, got {top_k!r:.80}")
    inputs = prompt if context is None else (prompt, context)
    jax.eval_shape(net.apply, params, inputs)  # its errors name the layer
    if n == 0:
        return prompt[:, :0]

    def extend(tokens, cache):
        x = tokens if context is None else (tokens, context)
        logits, cache = net.extend(params, x, cache)
        return logits[:, -1], cache

    def drawn(logits, i):
        if key is None:
            return jnp.argmax(logits, axis=-1).astype(prompt.dtype)
        logits = _among(top_k, logits) / heat.astype(logits.dtype)
        return jax.random.categorical(jax.random.fold_in(key, i), logits).astype(prompt.dtype)

    def step(carry, i):
        token, cache = carry
        logits, cache = extend(token[:, None], cache)
        return (drawn(logits, i), cache), token

    batch, length = prompt.shape
    logits, cache = extend(prompt, net.init_cache(batch, length + n, _dtype(params)))
    carry, tokens = lax.scan(step, (drawn(logits, 0), cache), jnp.arange(1, n))
    return jnp.concatenate([tokens.T, carry[0][:, None]], axis=1)


def _among(top_k: int | None, logits):
    """The logits, −∞ except for the k largest."""
    if top_k is None:
        return logits
    if not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(
            f"generate: top_k must be an integer from 1 to {logits.shape[-1]}, got {top_k}"
        )
    least = lax.top_k(logits, top_k)[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def _dtype(params) -> jnp.dtype:
    """The dtype of the parameters."""
    found = [p.dtype for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.floating)]
    return found[0] if found else jnp.dtype(jnp.float32)
