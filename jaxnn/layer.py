"""The layer contract: parameters, a forward pass and a hand-written backward that compose."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from jaxnn.op import Op

Params = Any
Residuals = Any
State = Any


class Layer(NamedTuple):
    """Four pure functions of something that may have parameters.

        params        = init(key)
        y             = apply(params, x)                  inference: nothing is kept
        y, residuals  = fwd(params, x, key=None)          training: key feeds random layers
        dparams, dx   = bwd(residuals, dy)                dparams has the tree of params

    Parameters are a pytree: dicts of arrays and tuples of such dicts; a layer without parameters
    has the empty tuple. Whatever composes layers (`serial`) is a layer again.

    A layer that gathers statistics while it is trained (`BatchNorm`) has two more functions, and
    inference takes what was gathered. The state is no parameter: no gradient, optimizer or weight
    decay reaches it. A layer without state has `None` for both.

        state         = init_state()
        state         = update_state(state, residuals)    after a step of training
        y             = apply(params, x, state)
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    fwd: Callable[..., tuple[jax.Array, Residuals]]
    bwd: Callable[[Residuals, jax.Array], tuple[Params, jax.Array]]
    init_state: Callable[[], State] | None = None
    update_state: Callable[[State, Residuals], State] | None = None


class OpLayer(Layer):
    """A layer that is one op.

    Attributes:
        op: the op; its arguments are `(params, x)`, or `(x,)` where it has no parameters.
    """

    op: Op


def op_layer(op: Op, init: Callable[[jax.Array], Params]) -> OpLayer:
    """The layer of an op `(params, x) -> y`.

    Args:
        op: the op, with its options bound.
        init: `(key) -> params`.
    """

    def fwd(params, x, key=None):
        return op.fwd(params, x)

    made = OpLayer(init=init, apply=op, fwd=fwd, bwd=op.bwd)
    made.op = op
    return made


def as_layer(layer: Layer | Op) -> Layer:
    """A layer itself, or an op of one argument as a layer without parameters.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(layer, Layer):
        return layer
    if not isinstance(layer, Op):
        hint = "; call it to make a layer" if callable(layer) else ""
        raise TypeError(f"expected a Layer or an op such as jaxnn.relu, got {layer!r}{hint}")
    if len(layer.arguments) != 1:
        raise TypeError(
            f"{layer.__name__} takes ({', '.join(layer.arguments)}); only an op of one argument "
            "can stand as a layer"
        )

    def fwd(params, x, key=None):
        return layer.fwd(x)

    def bwd(residuals, dy):
        (dx,) = layer.bwd(residuals, dy)
        return (), dx

    made = OpLayer(init=lambda key: (), apply=lambda params, x: layer(x), fwd=fwd, bwd=bwd)
    made.op = layer
    return made


def run(layer: Layer, params: Params, x: ArrayLike, state: State) -> jax.Array:
    """Inference of a layer with state or without; without, the state is not looked at."""
    return layer.apply(params, x) if layer.init_state is None else layer.apply(params, x, state)
