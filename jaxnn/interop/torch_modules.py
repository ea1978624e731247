"""The rules by which the arrays of jaxnn's layers and the tensors of PyTorch's modules correspond.

Each rule works both ways. The shapes that tensors must have follow from those of the arrays.
"""

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnn.interop.recurrent import joined_biases, two_biases
from jaxnn.layer import Layer
from jaxnn.layers.activations import PReLU
from jaxnn.layers.attention import MultiHeadAttention, TransformerBlock
from jaxnn.layers.batch_norm import BatchNorm
from jaxnn.layers.convolution import Conv, ConvTranspose
from jaxnn.layers.embedding import Embedding
from jaxnn.layers.linear import Linear
from jaxnn.layers.normalisation import NormalisationLayer
from jaxnn.layers.recurrent import Bidirectional, RecurrentLayer
from jaxnn.ops.recurrent.gru import gru
from jaxnn.tied import Path

Name = str | dict[str, str] | tuple[str, int | None]
"""The value of `names` for a layer: a prefix, the prefixes of the parts of an attention, or the
prefix of a recurrent layer and its number."""


class Stored(NamedTuple):
    """How the tensors are stored.

    Attributes:
        tensors: their names; none if they are to be written.
        conv1d: patterns of the linear layers whose weight is (I, O).
    """

    tensors: Collection[str]
    conv1d: tuple[str, ...]

    def inputs_first(self, prefix: str) -> bool:
        """Whether the weight of a linear layer is (I, O)."""
        return any(matches(prefix, pattern) for pattern in self.conv1d)


def _same(*arrays):
    return arrays


def _transposed(*arrays):
    return tuple(a.T for a in arrays)


class Rule(NamedTuple):
    """The conversion between some arrays of a layer and some tensors of a module.

    Attributes:
        arrays: the paths of the arrays in the params.
        tensors: the full names of the tensors.
        read: from the tensors to the tuple of the arrays.
        write: from the arrays to the tuple of the tensors.
        linear: the prefix of the linear layer whose weight it is, if that is (O, I).
        shapes: the shapes of the tensors.
        layer: the layer's name in messages.
    """

    arrays: tuple[Path, ...]
    tensors: tuple[str, ...]
    read: Callable = _same
    write: Callable = _same
    linear: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    layer: str = ""


def _linear(layer, prefix: str, stored: Stored, inside: Path = ()) -> list[Rule]:
    weight = Rule(((*inside, "w"),), (_joined(prefix, "weight"),))
    if not stored.inputs_first(prefix):
        weight = weight._replace(read=_transposed, write=_transposed, linear=prefix)
    return [
        weight,
        Rule(((*inside, "b"),), (_joined(prefix, "bias"),)),
    ]


def _conv(layer, prefix: str, stored: Stored) -> list[Rule]:
    """(O, I/G, *kernel) ↔ (*kernel, I/G, O)."""
    n = len(layer.kernel)
    read, write = (*range(2, n + 2), 1, 0), (n + 1, n, *range(n))
    return [
        Rule(
            (("w",),),
            (_joined(prefix, "weight"),),
            lambda w: (w.transpose(read),),
            lambda w: (w.transpose(write),),
        ),
        Rule((("b",),), (_joined(prefix, "bias"),)),
    ]


def _conv_transpose(layer, prefix: str, stored: Stored) -> list[Rule]:
    """(G·I/G, O/G, *kernel) ↔ (*kernel, I/G, G·O/G), with the kernel flipped."""
    n, groups = len(layer.kernel), layer.groups
    n_in, n_out = layer.n_in // groups, layer.n_out // groups
    flip = (slice(None, None, -1),) * n

    def read(w):
        w = w.reshape(groups, n_in, n_out, *layer.kernel)
        w = w.transpose(*range(3, n + 3), 1, 0, 2)[flip]
        return (w.reshape(layer.w_shape),)

    def write(w):
        w = w.reshape(*layer.kernel, n_in, groups, n_out)[flip]
        w = w.transpose(n + 1, n, n + 2, *range(n))
        return (w.reshape(layer.n_in, n_out, *layer.kernel),)

    return [
        Rule((("w",),), (_joined(prefix, "weight"),), read, write),
        Rule((("b",),), (_joined(prefix, "bias"),)),
    ]


def _norm(layer, prefix: str, stored: Stored) -> list[Rule]:
    return [
        Rule((("scale",),), (_joined(prefix, "weight"),)),
        Rule((("bias",),), (_joined(prefix, "bias"),)),
    ]


def _running_statistics(layer, prefix: str, stored: Stored) -> list[Rule]:
    return [Rule(((name,),), (_joined(prefix, f"running_{name}"),)) for name in ("mean", "var")]


def _embedding(layer, prefix: str, stored: Stored) -> list[Rule]:
    return [Rule((("w",),), (_joined(prefix, "weight"),))]


def _prelu(layer, prefix: str, stored: Stored) -> list[Rule]:
    """One slope is (1,) in PyTorch and () in jaxnn."""
    shape = () if layer.n is None else (layer.n,)
    return [
        Rule(
            (("slope",),),
            (_joined(prefix, "weight"),),
            lambda slope: (slope.reshape(shape),),
            lambda slope: (slope.reshape(-1),),
        )
    ]


def _recurrent(layer, name: str | tuple, stored: Stored) -> list[Rule]:
    prefix, n = (name, 0) if isinstance(name, str) else name
    ending = "" if n is None else f"_l{n}" + ("_reverse" if layer.reverse else "")
    weight_ih, weight_hh, bias_ih, bias_hh = (
        _joined(prefix, tensor + ending)
        for tensor in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    biases = ("b", "b_u") if gru.is_same_as(layer.op) else ("b",)

    def read(b_w, b_u):
        joined = joined_biases(layer.op, jnp.asarray(b_w), jnp.asarray(b_u))
        return tuple(joined[key] for key in biases)

    def write(*arrays):
        return two_biases(layer.op, dict(zip(biases, arrays, strict=True)))

    return [
        Rule((("w",),), (weight_ih,), _transposed, _transposed),
        Rule((("u",),), (weight_hh,), _transposed, _transposed),
        Rule(tuple((key,) for key in biases), (bias_ih, bias_hh), read, write),
    ]


SEPARATE_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
PARTS_OF_ATTENTION = (
    SEPARATE_PROJECTIONS | {"o": "out_proj"},
    SEPARATE_PROJECTIONS | {"o": "o_proj"},
    {"qkv": "c_attn", "o": "c_proj"},
)


def _attention(layer, name: str | dict, stored: Stored) -> list[Rule]:
    widths = tuple(layer.widths.values())
    if isinstance(name, str):
        for parts in PARTS_OF_ATTENTION:
            prefixes = {key: _joined(name, part) for key, part in parts.items()}
            if all(_joined(prefix, "weight") in stored.tensors for prefix in prefixes.values()):
                return _attention(layer, prefixes, stored)
        of_torch = _linear(layer, _joined(name, "out_proj"), stored, ("o",))
        of_torch += [_packed("b", _joined(name, "in_proj_bias"), widths, transposed=False)]
        if layer.context_dim in (None, layer.dim):
            weight = _packed("w", _joined(name, "in_proj_weight"), widths, transposed=True)
            return [weight, *of_torch]
        for key in "qkv":
            tensor = _joined(name, f"{key}_proj_weight")
            of_torch += [Rule(((key, "w"),), (tensor,), _transposed, _transposed)]
        return of_torch
    rules = []
    for part, prefix in name.items():
        if part == "qkv":
            transposed = not stored.inputs_first(prefix)
            weight = _packed("w", _joined(prefix, "weight"), widths, transposed=transposed)
            rules += [weight._replace(linear=prefix if transposed else "")]
            rules += [_packed("b", _joined(prefix, "bias"), widths, transposed=False)]
        else:
            rules += _linear(layer, prefix, stored, (part,))
    return rules


def _packed(array: str, tensor: str, widths: tuple[int, ...], *, transposed: bool) -> Rule:
    """The weights, or biases, of queries, keys and values in one tensor."""
    ends = list(accumulate(widths))[:-1]

    def read(packed):
        return tuple(np.split(packed.T if transposed else packed, ends, axis=-1))

    def write(*arrays):
        packed = jnp.concatenate(arrays, axis=-1)
        return (packed.T if transposed else packed,)

    return Rule(tuple((key, array) for key in "qkv"), (tensor,), read, write)


def _parts_of_bidirectional(layer, name: Name) -> dict[Path, Name]:
    return {(0,): name, (1,): name}


def _parts_of_block(layer, prefix: str) -> dict[Path, Name]:
    """The parts of torch.nn.TransformerEncoderLayer or TransformerDecoderLayer."""
    parts: dict[Path, str] = {
        (0, 0): "norm1",
        (0, 1): "self_attn",
        (1, 0): "norm2",
        (1, 1): "linear1",
        (1, 3): "linear2",
    }
    if layer.cross:
        parts = {
            (0, 0, 0): "norm1",
            (0, 0, 1): "self_attn",
            (1, 0, 1, 0, 0): "norm2",
            (1, 0, 1, 1): "multihead_attn",
            (2, 0, 0): "norm3",
            (2, 0, 1): "linear1",
            (2, 0, 3): "linear2",
        }
    return {path: _joined(prefix, part) for path, part in parts.items()}


PARTS: dict[type, Callable[..., dict[Path, Name]]] = {
    Bidirectional: _parts_of_bidirectional,
    TransformerBlock: _parts_of_block,
}
"""For each class, the names of the layers inside a layer, as a function of the layer's name."""

RULES: dict[type, Callable[..., list[Rule]]] = {
    Linear: _linear,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    NormalisationLayer: _norm,
    Embedding: _embedding,
    PReLU: _prelu,
    RecurrentLayer: _recurrent,
    MultiHeadAttention: _attention,
}
"""For each class, the rules of a layer, as a function of its name and its tensors' storage."""

STATE_RULES: dict[type, Callable[..., list[Rule]]] = {BatchNorm: _running_statistics}
"""The same for its state."""


def require_name(caller: str, name, make: Callable, path: Path, layer: Layer) -> None:
    """Raise unless a name is of the type that the rules of its layer need."""
    fits, needed = isinstance(name, str), "a prefix"
    if make in (_recurrent, _parts_of_bidirectional):
        needed = "a prefix, or a pair of a prefix and the number of the layer"
        fits |= isinstance(name, tuple) and [type(part) for part in name] in (
            [str, int],
            [str, type(None)],
        )
    if make is _attention:
        needed = "a prefix, or a dict of prefixes for q, k, v and o, or for qkv and o"
        fits |= isinstance(name, dict) and sorted(name) in (["k", "o", "q", "v"], ["o", "qkv"])
    if not fits:
        raise TypeError(
            f"{caller}: names[{path}], for the {type(layer).__name__}, must be {needed}, got "
            f"{name!r}"
        )


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a name, or its end after a dot."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
