"""The origin of the first NaN or infinity in a training step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_arrays, require_key
from jaxnn.combinators import Serial
from jaxnn.gradcheck.arrays import first_index, is_differentiable, wide
from jaxnn.layer import BuiltLayer, Layer, OpLayer, as_layer
from jaxnn.op import Op
from jaxnn.padded import values_of
from jaxnn.training.gradient import require_loss


class NonFinite(NamedTuple):
    """The first quantity of a training step that is not finite.

    Attributes:
        quantity: its role, such as `output`, `residual field 'y'` or `gradient leaf ['w']`.
        place: the layer, such as `layer 2, relu` (counted from 0, as in params), or "" for the
            arguments params, x and target.
        index: the index of the first NaN, or of the first infinity if there is no NaN.
        value: the number at that index.
    """

    quantity: str
    place: str
    index: tuple[int, ...]  # type: ignore[assignment]  # shadows `tuple.index`
    value: float

    def __str__(self) -> str:
        found = f"is {self.value} at index {self.index}"
        if not self.place:
            return f"{self.quantity} {found}, as it was given"
        return f"the {self.quantity} of {self.place} {found}; everything before it is finite"


def locate_nonfinite(
    net: Layer | Op, loss: Op, params: Any, x: Any, target: Any, key: jax.Array | None = None
) -> NonFinite | None:
    """Find the first NaN or infinity on the way forward through a network and back.

    The search visits params, x and target, then the output and the residuals of each layer, the
    value and the gradient of the loss (of its mean over the batch), and the gradients of each layer
    on the way back. Nothing is compiled, so each layer is inspected separately.

    Args:
        net: a layer, or an op of one argument; nested `serial`s are taken apart.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters.
        x: a batch.
        target: its targets.
        key: the random key, for a network with random layers.

    Returns:
        The quantity and its place, or `None` if everything is finite.

    Raises:
        TypeError: `net` is not a layer, `loss` is not an op of two arguments, `key` is not a random
            key, or another argument contains anything but arrays.

    Example:
        >>> from jaxnn.gradcheck import locate_nonfinite
        >>> net = jaxnn.serial(jaxnn.relu, jaxnn.tanh)
        >>> x, target = jnp.array([[1.0, jnp.inf]]), jnp.zeros((1, 2))
        >>> print(locate_nonfinite(net, jaxnn.squared_error, ((), ()), x, target))
        x is inf at index (0, 1), as it was given
    """
    net = as_layer(net)
    require_loss(loss)
    if key is not None:
        require_key("locate_nonfinite", key)
    params, x, target = (
        as_arrays(f"locate_nonfinite: {name}", tree)
        for name, tree in (("params", params), ("x", x), ("target", target))
    )
    for quantity, place, array in _step(net, loss, params, x, target, key):
        array = jnp.asarray(array)
        if is_differentiable(array) and not jnp.isfinite(array).all():
            numbers = wide(array)
            worst = np.isnan(numbers) if np.isnan(numbers).any() else np.isinf(numbers)
            index = first_index(worst)
            return NonFinite(quantity, place, index, float(numbers[index]))
    return None


def _step(net, loss, params, x, target, key) -> Iterator[tuple[str, str, jax.Array]]:
    """Every array of a training step as `(quantity, place, array)`, in the order of computation."""
    for name, given in (("params", params), ("x", x), ("target", target)):
        for path, leaf in _leaves(given):
            yield name + path, "", leaf
    y, residuals = yield from _forward(net, params, x, key, "the network")
    values, loss_residuals = loss.fwd(values_of(y), target)
    yield "value", str(loss), values
    dvalues = jnp.full_like(values, 1 / max(values.size, 1))
    dy, *_ = loss.bwd(loss_residuals, dvalues)
    for path, leaf in _leaves(dy):
        yield f"gradient{path}", str(loss), leaf
    yield from _backward(net, residuals, dy, "the network")


def _forward(layer, params, x, key, place):
    """The layer's `fwd`, layer by layer, with the same return value."""
    layer = _without_shell(layer)
    if not isinstance(layer, Serial):
        y, residuals = layer.fwd(params, x, key)
        for path, leaf in _leaves(y):
            yield f"output{path}", _place_of(layer, place), leaf
        for path, leaf in _leaves(residuals):
            yield f"residual field {path.removeprefix('.')!r}", _place_of(layer, place), leaf
        return y, residuals
    layer.require_one_for_each("params", params)
    residuals = []
    for i, (inner, inner_params) in enumerate(zip(layer.layers, params, strict=True)):
        inner_key = None if key is None else jax.random.fold_in(key, i)
        x, saved = yield from _forward(inner, inner_params, x, inner_key, _inside(place, i))
        residuals.append(saved)
    return x, tuple(residuals)


def _backward(layer, residuals, dy, place):
    """The layer's `bwd`, layer by layer; it returns the gradient of the input."""
    layer = _without_shell(layer)
    if not isinstance(layer, Serial):
        dparams, dx = layer.bwd(residuals, dy)
        for path, leaf in _leaves(dparams):
            yield f"gradient leaf {path}", _place_of(layer, place), leaf
        for path, leaf in _leaves(dx):
            yield f"input gradient{path}", _place_of(layer, place), leaf
        return dx
    for i in reversed(range(len(layer.layers))):
        dy = yield from _backward(layer.layers[i], residuals[i], dy, _inside(place, i))
    return dy


def _without_shell(layer) -> Layer:
    """The network inside a layer that is built from others."""
    while isinstance(layer, BuiltLayer):
        layer = layer.net
    return layer


def _inside(place, i) -> str:
    return f"layer {i}" if place == "the network" else f"{place}.{i}"


def _place_of(layer, place) -> str:
    return f"{place}, {layer.op}," if isinstance(layer, OpLayer) else place


def _leaves(tree):
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
