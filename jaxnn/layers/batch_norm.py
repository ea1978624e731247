"""The batch norm layer, with running statistics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import jax.numpy as jnp

from jaxnn.layers.normalisation import ONES, ZEROS, NormalisationLayer
from jaxnn.ops._common.validation import require_number
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.padded import Padded, values_of, with_values


@dataclass(frozen=True, repr=False)
class BatchNorm(NormalisationLayer):
    """Batch norm of n channels, with params {"scale": (n,), "bias": (n,)} and a state.

    Training normalises by the mean and the variance of the batch (`batch_norm`), inference by the
    running ones in the state (`batch_norm_inference`): {"mean": (n,), "var": (n,)}, initially 0 and
    1. With m the momentum and N the number of entries of a channel in the batch, each step does

        mean ← m·mean + (1 − m)·(mean of the batch)
        var  ← m·var  + (1 − m)·(variance of the batch)·N/(N − 1)

    N/(N − 1) makes the variance an unbiased estimate, as in PyTorch, so that small batches do not
    shrink it. A batch with a single number says nothing about the variance and does not change it.
    With `unbiased=False` the variance of the batch is used without N/(N − 1), as in Flax and Keras.
    (m is the momentum of Flax and Keras; PyTorch's is 1 − m.)

    The padding of a `Padded` enters neither the statistics of the batch nor the running ones. `fwd`
    also takes a mask, as `batch_norm` does: `fwd(params, x, where=where)`.

    Args:
        n: the number of channels.
        momentum: m, 0 … 1; the statistics are those of about the last 1/(1 − m) batches.
        eps: ε, above 0.
        unbiased: whether the running variance is multiplied by N/(N − 1).
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: whether params has a "scale".
        use_bias: whether params has a "bias".

    Raises:
        ValueError: n is not a positive integer, or momentum or eps is out of range; later, `apply`
            is given no state.

    Reference: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 2.

    Example:
        >>> layer = jaxnn.BatchNorm(1, momentum=0.5)
        >>> y, residuals = layer.fwd(layer.init(jax.random.key(0)), jnp.array([[1.0], [3.0]]))
        >>> layer.update_state(layer.init_state(), residuals)
        {'mean': Array([1.], dtype=float32), 'var': Array([1.5], dtype=float32)}
    """

    n: int
    momentum: float = field(default=0.9, kw_only=True)
    eps: float = field(default=1e-5, kw_only=True)
    unbiased: bool = field(default=True, kw_only=True)
    scale_init: Callable = field(default=ONES, kw_only=True)
    bias_init: Callable = field(default=ZEROS, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    def require_options(self) -> None:
        """Raise unless the momentum is a fraction."""
        require_number("momentum", self.momentum, at_least=0, at_most=1)

    @property
    def stateful(self) -> bool:
        """It has running statistics."""
        return True

    @cached_property
    def op(self):
        """`batch_norm`, the training form, with the layer's ε."""
        return batch_norm.bind(eps=self.eps)

    def apply(self, params, x, state=None):
        """`batch_norm_inference` with the running statistics."""
        if state is None:
            raise ValueError(
                "BatchNorm: inference needs the running statistics: apply(params, x, state), with "
                "the state that training returned"
            )
        return with_values(x, batch_norm_inference(params, state, values_of(x), eps=self.eps))

    def fwd(self, params, x, key=None, where=None):
        """`batch_norm`, of the entries that a mask selects if there is one."""
        values = values_of(x)
        if where is None and isinstance(x, Padded) and x.lengths is not None:
            where = x.valid.reshape(x.valid.shape + (1,) * (values.ndim - 2))
        y, residuals = self.op.fwd(params, values, where)
        return with_values(x, y), residuals

    def init_state(self):
        """Mean 0 and variance 1."""
        return {"mean": jnp.zeros(self.n), "var": jnp.ones(self.n)}

    def update_state(self, state, residuals):
        """The running statistics after this batch."""
        n, m = residuals.counts, self.momentum
        if type(n) is int and n == 0:
            return state
        n = jnp.broadcast_to(n, (self.n,)).astype(residuals.var.dtype)
        unbiased = n / jnp.maximum(n - 1, 1) if self.unbiased else jnp.ones_like(n)
        of_batch = {
            "mean": (n > 0, residuals.batch_mean),
            "var": (n > (1 if self.unbiased else 0), residuals.var * unbiased),
        }
        return state | {
            name: jnp.where(known, m * state[name] + (1 - m) * new, state[name]).astype(
                state[name].dtype
            )
            for name, (known, new) in of_batch.items()
        }
