"""The gradient of each example, in the factored form of the backward.

The gradient of a weight is a sum over examples, and usually each term is a product of two small
arrays: dWₙ = Σₜ xₙₜ ⊗ dyₙₜ. `bwd_examples` returns the factors. Norms, squares and sums of the
gradients follow from the factors; only `whole` builds the N gradients themselves.

Every form has the N examples along the first axis of its arrays (their shapes are not checked,
because `vmap` hides axes and puts others in front). T is the number of places at which an example
uses the same weights: positions of a sequence, pixels, calls of a shared layer.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

EXAMPLES_AT_A_TIME = 8
"""The number of examples whose convolution kernels are computed at a time on a CPU.

64 images of 14×14, 16 to 32 channels, 3×3: 3.1 ms, and all 64 at once 4.0 ms, with 1.2 MB instead
of 7.6 MB (two cores of an AMD EPYC).
"""

PAIRS_UP_TO = 256
"""The most places for which `Rows` compares all pairs; it sorts larger numbers of them."""


class ExampleGradients:
    """The gradients of N examples with respect to one array of parameters."""

    def squared_norms(self) -> Float[Array, " N"]:
        """‖gₙ‖² of each example."""
        raise NotImplementedError

    def smallest(self) -> "ExampleGradients":
        """The gradients themselves if they are no larger than their factors."""
        return self

    def whole(self) -> Float[Array, "N ..."]:
        """The N gradients, each of the size of the parameters."""
        raise NotImplementedError

    def transposed(self) -> "ExampleGradients":
        """The gradients of the transposed matrix."""
        return Transposed(self)

    def plus(self, other: "ExampleGradients") -> "ExampleGradients":
        """The sums gₙ + hₙ, for parameters that are used in two places."""
        return Sum((self, other))


@dataclass_transform(frozen_default=True)
def _form(**static):
    """A dataclass that is a pytree; `static` names the fields that are not arrays."""

    def declare(cls):
        cls = dataclass(frozen=True)(cls)
        names = list(cls.__dataclass_fields__)
        meta = list(static.get("static", ()))
        return jax.tree_util.register_dataclass(cls, [n for n in names if n not in meta], meta)

    return declare


@_form(static=("n_places",))
class Whole(ExampleGradients):
    """The gradients themselves, for arrays no larger than the activations of an example.

    Attributes:
        gradients: (N, …).
        n_places: the number of places that each is a sum over.
    """

    gradients: Any
    n_places: int = 1

    def squared_norms(self):
        """Σ g² of each example."""
        return _over_all_but_first(_squares(self.gradients))

    def whole(self):
        """The gradients."""
        return self.gradients

    def transposed(self):
        """Their last two axes swapped."""
        return Whole(jnp.swapaxes(self.gradients, -2, -1), self.n_places)

    def plus(self, other):
        """The sum, whatever the form of the other."""
        return Whole(self.gradients + other.whole(), self.n_places + 1)


@_form()
class Outer(ExampleGradients):
    """gₙ = Σₜ aₙₜ ⊗ dₙₜ, the gradient of a matrix that maps a to an output with gradient d.

    With A (T, I) and D (T, O) of one example, gₙ = Aᵀ·D, and by vec(ABC) = (Cᵀ ⊗ A)·vec(B)
        ‖Aᵀ·D‖² = tr(Dᵀ·A·Aᵀ·D) = Σₜₛ (A·Aᵀ)ₜₛ·(D·Dᵀ)ₜₛ
    which for one place is ‖a‖²·‖d‖².

    Attributes:
        inputs: a (N, T, I).
        deltas: d (N, T, O).
    """

    inputs: Any
    deltas: Any

    def squared_norms(self):
        """‖a‖²·‖d‖² at one place; by the Gram matrices, or the product, whichever is smaller."""
        a, d = self.inputs, self.deltas
        if a.shape[1] == 1:
            return _over_all_but_first(_squares(a)) * _over_all_but_first(_squares(d))
        if (smallest := self.smallest()) is not self:
            return smallest.squared_norms()
        return _over_all_but_first(_gram(a, a) * _gram(d, d))

    def smallest(self):
        """Aᵀ·D if I·O numbers are no more than T·(I + O)."""
        (_, t, i), o = self.inputs.shape, self.deltas.shape[-1]
        return Whole(self.whole(), t) if t > 1 and i * o <= t * (i + o) else self

    def whole(self):
        """Aᵀ·D of each example."""
        return _contract(self.inputs, self.deltas, 1, 1)

    def transposed(self):
        """(a ⊗ d)ᵀ = d ⊗ a."""
        return Outer(self.deltas, self.inputs)

    def plus(self, other):
        """The places of one after those of the other."""
        if not isinstance(other, Outer):
            return super().plus(other)
        return jax.tree.map(lambda *both: jnp.concatenate(both, axis=1), self, other)


@_form(static=("n_rows",))
class Rows(ExampleGradients):
    """gₙ = Σₜ e(idₙₜ) ⊗ dₙₜ, the gradient of a table whose row idₙₜ is read at place t.

    It is `Outer` with the unit vectors e as inputs, which are never built:
        ‖gₙ‖² = Σₜₛ [idₜ = idₛ]·⟨dₜ, dₛ⟩

    Attributes:
        ids: (N, T); those out of range have no gradient.
        deltas: d (N, T, D).
        n_rows: the number of rows.
    """

    ids: Any
    deltas: Any
    n_rows: int

    def squared_norms(self):
        """Over all pairs of places, or over the sums of those with one id."""
        t = self.ids.shape[1]
        if t == 1:
            return _over_all_but_first(jnp.where(self._known, _squares(self.deltas), 0))
        if t <= PAIRS_UP_TO:
            deltas = jnp.where(self._known, self.deltas, 0)
            equal = self.ids[:, :, None] == self.ids[:, None, :]
            return _over_all_but_first(jnp.where(equal, _gram(deltas, deltas), 0))
        return _over_all_but_first(_squares(jax.vmap(_sums_of_equal)(self.ids, self._kept)))

    def whole(self):
        """A table for each example."""

        def table(ids, deltas):
            empty = jnp.zeros((self.n_rows, deltas.shape[-1]), deltas.dtype)
            return empty.at[ids].add(deltas, mode="drop", wrap_negative_indices=False)

        return jax.vmap(table)(self.ids, self._kept)

    def plus(self, other):
        """The places of one after those of the other."""
        if not isinstance(other, Rows):
            return super().plus(other)
        return jax.tree.map(lambda *both: jnp.concatenate(both, axis=1), self, other)

    @property
    def _known(self):
        return ((self.ids >= 0) & (self.ids < self.n_rows))[..., None]

    @property
    def _kept(self):
        return jnp.where(self._known, _wide(self.deltas), 0)


@_form(static=("met", "kernel", "transpose"))
class Patches(ExampleGradients):
    """The gradient of the kernel of a convolution, one product for each of its entries.

        gₙ[k] = Σₚ xₙ[p, k]ᵀ·dₙ[p]
    where x[p, k] is the pixel under entry k of the kernel at place p of the output. Each product is
    over the places of an example, so nothing is larger than the kernel.

    Attributes:
        image: x with its padding, (N, …, C).
        deltas: d (N, P, G, O) with G groups of channels.
        met: for each entry k in row-major order, the slices of the image that hold its pixels: the
            first index, the one after the last, and the step, along each spatial axis.
        kernel: the spatial shape of the kernel.
        transpose: whether gₙ[k] is dᵀ·x instead of xᵀ·d.
    """

    image: Any
    deltas: Any
    met: tuple
    kernel: tuple[int, ...]
    transpose: bool

    def products(self) -> Iterator[jax.Array]:
        """gₙ[k] (N, G, I, O) of each group, for each entry k in turn."""
        groups = self.deltas.shape[2]
        for met in self.met:
            pixels = self.image[:, *(slice(*cut) for cut in met)]
            pixels = pixels.reshape(*self.deltas.shape[:3], pixels.shape[-1] // groups)
            left, right = (self.deltas, pixels) if self.transpose else (pixels, self.deltas)
            yield lax.dot_general(_wide(left), _wide(right), (((1,), (1,)), ((0, 2), (0, 2))))

    def as_outer(self) -> Outer:
        """The pixels of all entries of the kernel side by side, with a copy for each entry.

        Raises:
            ValueError: there are groups, or the convolution is a transposed one.
        """
        if self.transpose or self.deltas.shape[2] > 1:
            raise ValueError(
                "a convolution with groups, or a transposed one, is not a product of two factors"
            )
        n, n_places, _, o = self.deltas.shape
        pixels = [self.image[:, *(slice(*cut) for cut in met)] for met in self.met]
        joined = jnp.concatenate([p.reshape(n, n_places, -1) for p in pixels], axis=-1)
        return Outer(joined, self.deltas.reshape(n, n_places, o))

    def squared_norms(self):
        """Σₖ ‖gₙ[k]‖²."""

        def of_some(some):
            return reduce(jnp.add, (_over_all_but_first(_squares(g)) for g in some.products()))

        return _some_at_a_time(of_some, self)

    def smallest(self):
        """A kernel for each example if it has no more numbers than the pixels and deltas."""
        (_, n_places, groups, o), channels = self.deltas.shape, self.image.shape[-1]
        of_kernel = math.prod(self.kernel) * channels * o
        fits = of_kernel <= n_places * (channels + groups * o)
        return Whole(self.whole(), n_places) if fits else self

    def whole(self):
        """A kernel for each example."""

        def of_some(some):
            return jnp.stack(list(some.products()), axis=1)

        stacked = _some_at_a_time(of_some, self)  # (N, K, G, I, O)
        n, _, g, i, o = stacked.shape
        return jnp.moveaxis(stacked, 2, 3).reshape(n, *self.kernel, i, g * o)


@_form()
class Sum(ExampleGradients):
    """gₙ + hₙ + …, of forms that cannot be merged into one.

        ‖g + h‖² = ‖g‖² + ‖h‖² + 2·⟨g, h⟩

    Attributes:
        terms: the forms.
    """

    terms: tuple

    def squared_norms(self):
        """The squares, and twice the product of each pair."""
        squares = [term.squared_norms() for term in self.terms]
        products = [2 * inner_products(*pair) for pair in combinations(self.terms, 2)]
        return reduce(jnp.add, [*squares, *products])

    def whole(self):
        """The sums."""
        return reduce(jnp.add, [term.whole() for term in self.terms])

    def plus(self, other):
        """The sum with one more term."""
        return Sum((*self.terms, other))


@_form()
class Transposed(ExampleGradients):
    """gₙᵀ, of matrices.

    Attributes:
        of: the form of gₙ.
    """

    of: Any

    def squared_norms(self):
        """The squared norms of gₙ."""
        return self.of.squared_norms()

    def whole(self):
        """gₙᵀ."""
        return jnp.swapaxes(self.of.whole(), -2, -1)

    def transposed(self):
        """gₙ."""
        return self.of


@_form()
class Stack(ExampleGradients):
    """The gradients of parameters that `stacked` holds along a leading axis of layers.

    Attributes:
        of: the form for one layer, whose arrays have the layers before the examples.
    """

    of: Any

    def squared_norms(self):
        """The sum over the layers."""
        return jnp.sum(jax.vmap(lambda form: form.squared_norms())(self.of), axis=0)

    def whole(self):
        """(N, layers, …)."""
        return jnp.moveaxis(jax.vmap(lambda form: form.whole())(self.of), 0, 1)

    def transposed(self):
        """The matrices of each layer transposed."""
        return Stack(jax.vmap(lambda form: form.transposed())(self.of))


def inner_products(g: ExampleGradients, h: ExampleGradients) -> Float[Array, " N"]:
    """⟨gₙ, hₙ⟩ of each example.

    A table that is both read by ids and multiplied with, as in tied embeddings, has
        ⟨Σₜ e(idₜ) ⊗ dₜ, Σₛ aₛ ⊗ cₛ⟩ = Σₜₛ aₛ[idₜ]·⟨dₜ, cₛ⟩
    without a table for each example.
    """
    if isinstance(g, Transposed):
        return inner_products(g.of, h.transposed())
    if isinstance(h, Transposed):
        return inner_products(g.transposed(), h.of)
    if isinstance(h, Rows):
        g, h = h, g
    if isinstance(g, Rows) and isinstance(h, Outer):
        pick = partial(jnp.take, axis=-1, mode="fill", fill_value=0)
        picked = jnp.where(g._known, jnp.swapaxes(jax.vmap(pick)(h.inputs, g.ids), 1, 2), 0)
        return _over_all_but_first(_wide(picked) * _gram(g.deltas, h.deltas))
    return _over_all_but_first(_wide(g.whole()) * h.whole())


def sum_over_places(x: jax.Array, axes: Iterable[int]) -> Whole:
    """Gradients that are sums over these axes of the contributions of all places."""
    axes = tuple(axes)
    return Whole(jnp.sum(_wide(x), axis=axes), math.prod(x.shape[a] for a in axes))


def squared_norms(forms):
    """‖gₙ‖² of each example and each array of parameters, the tree of the parameters."""
    return map_forms(lambda form: form.squared_norms(), forms)


def map_forms(function, *forms):
    """A function of each form in a tree of them."""
    return jax.tree.map(function, *forms, is_leaf=is_form)


def is_form(tree) -> bool:
    """Whether this is the form of one array's gradients, not a tree of several."""
    return isinstance(tree, ExampleGradients)


def places(x: jax.Array, axis: int, n_features: int = 1) -> jax.Array:
    """An array with the examples first, the other axes merged into one, and its features last.

    Args:
        x: any array.
        axis: the axis of the examples.
        n_features: the number of axes at the end that are features.

    Raises:
        ValueError: it has no axis of examples there.
    """
    require_examples_axis(x.ndim - n_features, axis)
    moved = jnp.moveaxis(x, axis, 0)
    features = moved.shape[moved.ndim - n_features :]
    n_places = 1
    for size in moved.shape[1 : moved.ndim - n_features]:
        n_places *= size
    return moved.reshape(moved.shape[0], n_places, *features)


def require_examples_first(examples_axis: int) -> None:
    """Raise unless the examples are along the first axis, as in an op with spatial axes.

    Raises:
        ValueError: they do not.
    """
    if examples_axis != 0:
        raise ValueError(
            "the gradient of each example needs the examples along axis 0, the batch axis of this "
            f"op, not along axis {examples_axis}"
        )


def require_examples_axis(n_batch_axes: int, axis: int) -> None:
    """Raise unless the axis of the examples is one of the axes of the batch.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= axis < n_batch_axes:
        raise ValueError(
            f"the gradient of each example needs the examples along axis {axis}, but there are "
            f"only {n_batch_axes} axes of examples and places"
        )


def _sums(dtype):
    return jnp.float32 if dtype.itemsize < 4 else dtype


def _wide(x):
    return x.astype(_sums(x.dtype))


def _squares(x):
    return _wide(x) ** 2


def _over_all_but_first(x):
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _contract(a, b, a_axis, b_axis):
    """The product of two arrays (N, …, …) over these axes, example by example."""
    return lax.dot_general(_wide(a), _wide(b), (((a_axis,), (b_axis,)), ((0,), (0,))))


def _some_at_a_time(function, form):
    """A function of a form, on a CPU applied to a few of its examples at a time."""

    def at_once(form):
        return function(form)

    def in_parts(form):
        return lax.map(
            lambda one: function(jax.tree.map(lambda a: a[None], one))[0],
            form,
            batch_size=EXAMPLES_AT_A_TIME,
        )

    return lax.platform_dependent(form, cpu=in_parts, default=at_once)


def _gram(a, b):
    """A·Bᵀ of each example, (N, T, T)."""
    return _contract(a, b, 2, 2)


def _sums_of_equal(ids, deltas):
    """The sum of the deltas of each id that occurs, in the first rows of an array like deltas."""
    order = jnp.argsort(ids)
    ids, deltas = ids[order], deltas[order]
    new = jnp.concatenate([jnp.zeros(1, bool), ids[1:] != ids[:-1]])
    place = jnp.cumsum(new, dtype=jnp.int32)
    return jax.ops.segment_sum(deltas, place, ids.size, indices_are_sorted=True)
