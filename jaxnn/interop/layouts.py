"""Conversion between the conventions in which the weights of a linear layer are stored."""

import jax
import numpy as np

from jaxnn.arrays import as_numpy, unwrapped
from jaxnn.layer import Params

CONVENTIONS = ("row", "torch", "column")


def convert_convention(params: Params, to: str, *, source: str = "row") -> Params:
    """Parameters, or their gradients, stored in another convention.

    Conventions (N examples, I inputs, O outputs):
        "row"     z = x·W + b     x (N, I)   W (I, O)   b (O,)     jaxnn
        "torch"   z = x·Wᵀ + b    x (N, I)   W (O, I)   b (O,)     torch.nn.Linear
        "column"  z = W·x + b     x (I, N)   W (O, I)   b (O, 1)   textbooks: one example, a column

    All three are the same function of the same numbers, so the gradient of a loss with respect to
    W is transposed like W, and that of b is reshaped like b:
        "row"     dW = xᵀ·dz   db = Σ over rows
        "torch"   dW = dzᵀ·x   db = Σ over rows
        "column"  dW = dz·xᵀ   db = Σ over columns

    Args:
        params: a pytree of dicts, tuples and lists. Every dict with a "w" is a linear layer, with
            or without a "b"; everything else is unchanged.
        to: the target convention, "row", "torch" or "column".
        source: the convention of `params`.

    Returns:
        The same tree. JAX arrays stay JAX arrays and NumPy arrays stay NumPy arrays, where they
        may share memory with `params`.

    Raises:
        TypeError: an array of a linear layer holds something other than numbers.
        ValueError: there is no such convention, or a linear layer does not fit that of `source`;
            the message gives its path in the tree.

    Reference: the conventions of R. B. Aeen's summary, of PyTorch and of the handwritten derivation
    of the 2-2-1 network.

    Example:
        >>> params = jaxnn.mlp((4, 3, 2)).init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, jaxnn.convert_convention(params, "column"))
        ({'b': (3, 1), 'w': (3, 4)}, (), {'b': (2, 1), 'w': (2, 3)}, ())
    """
    for name, convention in (("to", to), ("source", source)):
        if not isinstance(convention, str) or convention not in CONVENTIONS:
            raise ValueError(
                f"convert_convention: {name} must be 'row', 'torch' or 'column', got "
                f"{convention!r:.80}"
            )
    transposed = (to == "row") != (source == "row")

    def convert(path, node):
        if not _is_linear(node):
            return node
        _check(node, f"params{jax.tree_util.keystr(path)}", source)
        converted = {"w": node["w"].T if transposed else node["w"]}
        if "b" in node:
            converted["b"] = node["b"].reshape((-1, 1) if to == "column" else (-1,))
        return converted

    arrays = unwrapped("convert_convention: params", params)
    return jax.tree_util.tree_map_with_path(convert, arrays, is_leaf=_is_linear)


def _is_linear(node) -> bool:
    return isinstance(node, dict) and "w" in node


def _check(layer, path, source):
    if unknown := sorted(set(layer) - {"w", "b"}, key=str):
        raise ValueError(
            f"convert_convention: {path} has a 'w' but is not a linear layer: it has {unknown[0]!r}"
        )
    for name, array in layer.items():
        if not isinstance(array, jax.Array | np.ndarray):
            raise ValueError(
                f"convert_convention: {path}[{name!r}] must be an array, got {type(array).__name__}"
            )
        if isinstance(array, np.ndarray):
            as_numpy(f"convert_convention: {path}[{name!r}]", array)
    shape = layer["w"].shape
    if len(shape) != 2:
        raise ValueError(f"convert_convention: {path}['w'] must be a matrix, got shape {shape}")
    n_out = shape[1] if source == "row" else shape[0]
    b_shape = (n_out, 1) if source == "column" else (n_out,)
    if "b" in layer and layer["b"].shape != b_shape:
        raise ValueError(
            f"convert_convention: {path}['b'] has shape {layer['b'].shape} but {path}['w'] has "
            f"shape {shape}: with source {source!r} b must be {b_shape}"
        )
