"""The multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from jaxnn.combinators import Serial, serial
from jaxnn.layer import Layer
from jaxnn.layers.linear import Linear
from jaxnn.op import Op
from jaxnn.ops.activations.piecewise import relu
from jaxnn.ops.activations.smooth import identity


def mlp(
    sizes: Sequence[int],
    activation: Layer | Op = relu,
    output: Layer | Op = identity,
) -> Serial:
    """Multilayer perceptron: Linear → activation → … → Linear → output.

    Args:
        sizes: the numbers of units (inputs, hidden …, outputs), at least two.
        activation: the activation after each linear layer but the last.
        output: the activation after the last one.

    Raises:
        ValueError: there are fewer than two sizes, or one is not a positive integer.

    Example:
        >>> net = jaxnn.mlp((64, 128, 10))
        >>> sum(p.size for p in jax.tree.leaves(net.init(jax.random.key(0))))
        9610
    """
    if not isinstance(sizes, tuple | list) or len(sizes) < 2:
        raise ValueError(
            f"mlp: sizes must be a tuple that holds inputs and outputs, got {sizes!r:.80}"
        )
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [Linear(n_in, n_out), activation]
    return serial(*layers[:-1], output)
