"""One function at one set of arguments, and what is asked about it, computed once."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck import differences
from jaxnn.gradcheck.laws import oracle
from jaxnn.gradcheck.laws.adapters import Subject
from jaxnn.gradcheck.laws.oracle import is_differentiable


class Trial:
    """One function at one set of arguments, with what the laws ask about it.

    Attributes:
        subject: the function.
        args: its arguments.
        seed: of the cotangents.
        plain: whether plain calls are tried as well as compiled ones.
        notes: what a law has to say besides its findings.
    """

    def __init__(self, subject: Subject, args: tuple, seed: int = 0, plain: bool = True):
        self.subject, self.args, self.seed = subject, args, seed
        self.plain = plain or not self.traceable
        self.notes: list[str] = []
        self._truths: dict = {}

    @cached_property
    def leaves(self) -> list[tuple[str, jax.Array]]:
        """`(path, array)` for each array of the arguments."""
        return [
            (name + jax.tree_util.keystr(path), leaf)
            for name, arg in zip(self.subject.arguments, self.args, strict=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
        ]

    @property
    def variables(self) -> list[tuple[str, jax.Array]]:
        """Those of the leaves that have a gradient."""
        return [(path, leaf) for path, leaf in self.leaves if is_differentiable(leaf)]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes of the arguments' axes, in words; those of plain arrays first."""
        plain_first = sorted(self.leaves, key=lambda named: "[" in named[0])
        return {
            f"the size of axis {axis} of {path}": size
            for path, leaf in plain_first
            for axis, size in enumerate(leaf.shape)
        }

    @cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the variables."""
        return self.variables[0][1].dtype

    @cached_property
    def traceable(self) -> bool:
        """Whether JAX can trace the definition."""
        try:
            jax.eval_shape(self.subject.definition, *self.args)
        except jax.errors.JAXTypeError:
            return False
        return True

    def shape_of_definition(self):
        """The shape of the definition's value, or a tree of them."""
        if self.traceable:
            y = jax.eval_shape(self.subject.definition, *self.args)
        else:
            y = self.subject.definition(*self.args)
        return jax.tree.map(np.shape, y)

    def forward(self):
        """What `fwd` returns: of a plain call, or the shapes and dtypes where none is tried."""
        if self.plain:
            return self.subject.fwd(*self.args)
        return jax.eval_shape(self.subject.fwd, *self.args)

    @cached_property
    def call(self):
        """Value and gradients: of plain calls, or of compiled ones where no plain one is tried."""
        if not self.plain:
            return compiled(self.subject, self.args, self.dy)
        y, residuals = self.subject.fwd(*self.args)
        return y, self.subject.bwd(residuals, self.cotangent(y, self.seed))

    @cached_property
    def dy(self):
        """A random cotangent."""
        y = self.call[0] if self.plain else self.forward()[0]
        return self.cotangent(y, self.seed)

    def cotangent(self, y, seed):
        """A random cotangent of `y`, an array of the kind that the function works with."""
        dy = short_decimals(y, seed)
        return jax.tree.map(jnp.asarray, dy) if self.traceable else dy

    @cached_property
    def pulled_back(self):
        """Value and gradients of the function that `jax.grad` is given."""
        y, grads = _pulled_back(self.subject, self.args, self.dy)
        return y, self.of_variables(grads)

    def gradients(self, dy) -> list:
        """The gradient of each variable, as `bwd` has it."""
        if not self.traceable:
            _, residuals = self.subject.fwd(*self.args)
            return self.of_variables(self.subject.bwd(residuals, dy))
        return self.of_variables(compiled(self.subject, self.args, dy)[1])

    def of_variables(self, grads) -> list:
        """The entries of what `bwd` returned that belong to variables."""
        entries = []
        for arg, grad in zip(self.args, grads, strict=True):
            leaves = jax.tree.leaves(arg)
            given = jax.tree.leaves(grad) if grad is not None else [None] * len(leaves)
            entries += [g for a, g in zip(leaves, given, strict=True) if is_differentiable(a)]
        return entries

    def truth(self, dy, dtype=jnp.float64):
        """Value and gradients of the variables by autodiff of the definition in a dtype."""
        key = (*(np.asarray(d).tobytes() for d in jax.tree.leaves(dy)), np.dtype(dtype))
        if key not in self._truths:
            if self.traceable:
                y, grads = oracle.value_and_gradient(self.subject.definition, self.args, dy, dtype)
            else:
                args = [np.asarray(a) for a in oracle.cast(self.args, jnp.float64)]
                y = np.asarray(self.subject.definition(*args))
                grads, _ = differences.gradient(self.subject.definition, args, np.asarray(dy))
            self._truths[key] = y, [g for g in grads if g is not None]
        return self._truths[key]


def short_decimals(like, seed):
    """Random numbers like an array (or a tree of them): multiples of 1/8, none of them zero.

    They are exact in every floating-point dtype and short to print.
    """
    leaves, tree = jax.tree.flatten(like)
    random = np.random.default_rng(seed)
    numbers = []
    for leaf in leaves:
        sizes = random.integers(1, 17, np.shape(leaf)) / 8
        signs = np.where(random.random(np.shape(leaf)) < 0.5, 1, -1)
        numbers.append(np.asarray(sizes * signs).astype(leaf.dtype))
    return jax.tree.unflatten(tree, numbers)


@partial(jax.jit, static_argnums=0)
def compiled(subject: Subject, args: tuple, dy):
    """Value and gradients of a call under `jit`."""
    y, residuals = subject.fwd(*args)
    return y, subject.bwd(residuals, dy)


@partial(jax.jit, static_argnums=0)
def _pulled_back(subject, args, dy):
    y, pullback = jax.vjp(subject.exported, *args)
    return y, pullback(dy)
