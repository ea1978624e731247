"""One array in two places of a network's parameters."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxnn.arrays import is_array
from jaxnn.combinators import Around
from jaxnn.example_gradients import map_forms
from jaxnn.layer import Layer, Params, as_layer, bwd_params_of
from jaxnn.op import Op

Path = tuple[int | str, ...]


@dataclass(frozen=True, repr=False)
class Tied(Around):
    """A network in which one array of the parameters is used in two places; see `tied`.

    Attributes:
        layer: the network.
        path: the place where the array is not stored.
        to: the place where it is stored.
        transpose: whether its two axes are swapped there.
    """

    layer: Layer
    path: Path
    to: Path
    transpose: bool = field(default=False, kw_only=True)

    def init(self, key):
        """The parameters of the network without the tied ones."""
        params = self.layer.init(key)
        tied, source = (_found(params, path) for path in (self.path, self.to))
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (tied, self._moved(source))]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"tied: the parameters at {self.path} have shape {shapes[0]}, and those at "
                f"{self.to}{', transposed,' if self.transpose else ''} have shape {shapes[1]}"
            )
        return _changed(params, self.path, None)

    def apply(self, params, x, state=None):
        """The output of the network."""
        return self.layer.apply(self.params_of_layer(params), x, state)

    def fwd(self, params, x, key=None):
        """The output of the network, and its residuals."""
        return self.layer.fwd(self.params_of_layer(params), x, key)

    def bwd_input(self, residuals, dy):
        """The deltas and dx of the network."""
        return self.layer.bwd_input(residuals, dy)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the network's parameters, those of the two places added up."""
        if weights is not None and not is_array(weights):
            weights = _changed(weights, self.path, _found(weights, self.to))
        dparams = bwd_params_of(self.layer, residuals, deltas, weights, axis)
        source, tied = _found(dparams, self.to), self._moved(_found(dparams, self.path))
        dparams = _changed(dparams, self.to, jax.tree.map(jnp.add, source, tied))
        return _changed(dparams, self.path, None)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The same, example by example."""
        gradients = self.layer.bwd_examples(residuals, deltas, axis)
        source, tied = _found(gradients, self.to), _found(gradients, self.path)
        if self.transpose:
            tied = map_forms(lambda g: g.transposed(), tied)
        both = map_forms(lambda g, h: g.plus(h), source, tied)
        return _changed(_changed(gradients, self.to, both), self.path, None)

    def extend(self, params, x, cache):
        """The output of the network for the next positions."""
        return self.layer.extend(self.params_of_layer(params), x, cache)

    def params_of_layer(self, params: Params) -> Params:
        """The parameters of the network, with the array in both places."""
        return _changed(params, self.path, self._moved(_found(params, self.to)))

    def _moved(self, tree):
        return jax.tree.map(jnp.transpose, tree) if self.transpose else tree

    def __repr__(self) -> str:
        option = ", transpose=True" if self.transpose else ""
        return f"Tied({self.layer!r}, {self.path!r}, {self.to!r}{option})"


def tied(layer: Layer | Op, path: Path, to: Path, *, transpose: bool = False) -> Tied:
    """A network whose parameters at one path are those at another: they are stored once.

    Use it for tied embeddings, tied autoencoders, and layers repeated with the same parameters. A
    path is the tuple of keys to an array or a subtree of the parameters, such as `(0, "w")` for "w"
    of the first layer of a `serial`. Backward, because the array is used in both places:
        d(array) = gradient at `to` + gradient at `path`, transposed if the array is

    Args:
        layer: the network.
        path: the place where the parameters are replaced; they are not stored there.
        to: the place where they are stored.
        transpose: whether the replacement is the transpose.

    Raises:
        TypeError: layer is not a layer, path or to is not a tuple of keys, or transpose is not a
            flag.
        ValueError: there is nothing at a path, or, in `init`, the shapes differ.

    Reference: O. Press and L. Wolf, "Using the Output Embedding to Improve Language Models", 2017.

    Example:
        >>> net = jaxnn.serial(jaxnn.Embedding(100, 16), jaxnn.Linear(16, 100, use_bias=False))
        >>> net = jaxnn.tied(net, (1, "w"), to=(0, "w"), transpose=True)
        >>> params = net.init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, params)
        ({'w': (100, 16)}, {})
        >>> net.apply(params, jnp.array([[3, 1, 4]])).shape
        (1, 3, 100)
    """
    layer = as_layer(layer)
    initial = jax.eval_shape(layer.init, jax.random.key(0))
    for name, where in (("path", path), ("to", to)):
        is_path = isinstance(where, tuple | list) and all(type(key) in (int, str) for key in where)
        if not is_path or not where:
            raise TypeError(f"tied: {name} must be a tuple of keys, got {where!r:.80}")
        _found(initial, where)
    return Tied(layer, tuple(path), tuple(to), transpose=transpose)


def _found(params, path: Path):
    """The subtree at a path."""
    for key in path:
        try:
            params = params[key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"tied: the parameters have no {path!r}") from None
    return params


def _changed(params, path: tuple, new):
    """The tree with a new subtree at a path; for `None`, no key in a dict and () in a tuple."""
    key, *rest = path
    if rest:
        new = _changed(params[key], tuple(rest), new)
    if not isinstance(params, dict if isinstance(key, str) else (dict, tuple, list)):
        kind = type(params).__name__
        raise ValueError(f"tied: params must have a place for {key!r}, got a {kind}")
    if isinstance(params, dict):
        others = {k: v for k, v in params.items() if k != key}
        return others if new is None else others | {key: new}
    key %= len(params)
    return (*params[:key], () if new is None else new, *params[key + 1 :])
