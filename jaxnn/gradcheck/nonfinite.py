"""Where does the first NaN or infinity of a training step come from?"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.combinators import Serial
from jaxnn.gradcheck.laws.oracle import is_differentiable
from jaxnn.layer import Layer, OpLayer, as_layer
from jaxnn.op import Op


class NonFinite(NamedTuple):
    """The first quantity of a training step that is not finite.

    Attributes:
        quantity: what it is, such as `output`, `residual field 'y'` or `gradient leaf ['w']`.
        place: where, such as `layer 2, <op relu(x)>` (layers count from 0, as params do); "" for
            what was given: params, x and target.
        index: of the first NaN, or of the first infinity if there is no NaN.
        value: what is there.
    """

    quantity: str
    place: str
    index: tuple[int, ...]
    value: float

    def __str__(self) -> str:
        found = f"is {self.value} at index {self.index}"
        if not self.place:
            return f"{self.quantity} {found}, as it was given"
        return f"the {self.quantity} of {self.place} {found}; everything before it is finite"


def locate_nonfinite(
    net: Layer | Op, loss: Op, params: Any, x: Any, target: Any, key: jax.Array | None = None
) -> NonFinite | None:
    """The first NaN or infinity on the way forward through a network and back.

    It goes through params, x and target; the output and the residuals of each layer; the value
    and the gradient of the loss (of the mean over the batch); and back through the gradients of
    each layer. Nothing is compiled, so that each layer is seen on its own.

    Args:
        net: a layer, or an op of one argument; a `serial` is taken apart, also inside another.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters.
        x: a batch.
        target: its targets.
        key: of the random layers.

    Returns:
        What and where, or `None` if everything is finite.

    Example:
        >>> from jaxnn.gradcheck import locate_nonfinite
        >>> net = jaxnn.serial(jaxnn.relu, jaxnn.tanh)
        >>> x, target = jnp.array([[1.0, jnp.inf]]), jnp.zeros((1, 2))
        >>> print(locate_nonfinite(net, jaxnn.squared_error, ((), ()), x, target))
        x is inf at index (0, 1), as it was given
    """
    for quantity, place, array in _step(as_layer(net), loss, params, x, target, key):
        array = jnp.asarray(array)
        if is_differentiable(array) and not jnp.isfinite(array).all():
            wide = np.asarray(array).astype(np.float64)
            worst = np.isnan(wide) if np.isnan(wide).any() else np.isinf(wide)
            index = tuple(int(i) for i in np.argwhere(worst)[0])
            return NonFinite(quantity, place, index, float(wide[index]))
    return None


def _step(net, loss, params, x, target, key) -> Iterator[tuple[str, str, jax.Array]]:
    """Every array of a training step as `(quantity, place, array)`, in the order of its making."""
    for name, given in (("params", params), ("x", x), ("target", target)):
        for path, leaf in _leaves(given):
            yield name + path, "", leaf
    y, residuals = yield from _forward(net, params, x, key, "the network")
    values, loss_residuals = loss.fwd(y, target)
    yield "value", str(loss), values
    dvalues = jnp.full_like(values, 1 / max(values.size, 1))
    dy, _ = loss.bwd(loss_residuals, dvalues)
    yield "gradient", str(loss), dy
    yield from _backward(net, residuals, dy, "the network")


def _forward(layer, params, x, key, place):
    """The layer's `fwd` layer by layer; it returns what `fwd` returns."""
    if not isinstance(layer, Serial):
        y, residuals = layer.fwd(params, x, key)
        yield "output", _named(layer, place), y
        for path, leaf in _leaves(residuals):
            yield f"residual field {path.removeprefix('.')!r}", _named(layer, place), leaf
        return y, residuals
    residuals = []
    for i, (inner, inner_params) in enumerate(zip(layer.layers, params, strict=True)):
        inner_key = None if key is None else jax.random.fold_in(key, i)
        x, kept = yield from _forward(inner, inner_params, x, inner_key, _inside(place, i))
        residuals.append(kept)
    return x, tuple(residuals)


def _backward(layer, residuals, dy, place):
    """The layer's `bwd` layer by layer; it returns the gradient of the input."""
    if not isinstance(layer, Serial):
        dparams, dx = layer.bwd(residuals, dy)
        for path, leaf in _leaves(dparams):
            yield f"gradient leaf {path}", _named(layer, place), leaf
        yield "input gradient", _named(layer, place), dx
        return dx
    for i in reversed(range(len(layer.layers))):
        dy = yield from _backward(layer.layers[i], residuals[i], dy, _inside(place, i))
    return dy


def _inside(place, i) -> str:
    return f"layer {i}" if place == "the network" else f"{place}.{i}"


def _named(layer, place) -> str:
    return f"{place}, {layer.op}," if isinstance(layer, OpLayer) else place


def _leaves(tree):
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
