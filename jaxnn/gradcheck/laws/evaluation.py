"""A function at one set of arguments: its values and gradients, each computed once."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import cast, is_differentiable, short_decimals
from jaxnn.gradcheck.differences import gradient_by_differences
from jaxnn.gradcheck.laws import oracle
from jaxnn.gradcheck.laws.adapters import Checked


class Evaluation:
    """A function at one set of arguments, with the values and gradients that the laws compare.

    Attributes:
        checked: the function.
        args: its arguments.
        seed: of the cotangents.
        plain: whether plain calls are tried besides compiled ones.
        notes: remarks of the laws, besides their findings.
    """

    def __init__(self, checked: Checked, args: tuple, seed: int = 0, plain: bool = True):
        self.checked, self.args, self.seed = checked, args, seed
        self.plain = plain or not self.traceable
        self.notes: list[str] = []
        self._truths: dict = {}

    @cached_property
    def leaves(self) -> list[tuple[str, jax.Array]]:
        """`(path, array)` for each array of the arguments."""
        return [
            (name + jax.tree_util.keystr(path), leaf)
            for name, arg in zip(self.checked.arguments, self.args, strict=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
        ]

    @cached_property
    def variables(self) -> list[tuple[str, jax.Array]]:
        """Those of the leaves that have a gradient."""
        return [(path, leaf) for path, leaf in self.leaves if is_differentiable(leaf)]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes of the arguments' axes by their meaning; those of plain arrays come first."""
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
            jax.eval_shape(self.checked.definition, *self.args)
        except jax.errors.JAXTypeError:
            return False
        return True

    def shape_of_definition(self):
        """The shape of the definition's value, or a tree of them."""
        if self.traceable:
            y = jax.eval_shape(self.checked.definition, *self.args)
        else:
            y = self.checked.definition(*self.args)
        return jax.tree.map(np.shape, y)

    def forward(self):
        """The result of `fwd` in a plain call, or its shapes and dtypes if none is tried."""
        if self.plain:
            return self.checked.fwd(*self.args)
        return jax.eval_shape(self.checked.fwd, *self.args)

    @cached_property
    def call(self):
        """Value and gradients, of plain calls or, if none is tried, of compiled ones."""
        if not self.plain:
            return compiled(self.checked, self.args, self.dy)
        y, residuals = self.checked.fwd(*self.args)
        return y, self.checked.bwd(residuals, self.cotangent(y, self.seed))

    @cached_property
    def dy(self):
        """A random cotangent."""
        y = self.call[0] if self.plain else self.forward()[0]
        return self.cotangent(y, self.seed)

    def cotangent(self, y, seed):
        """A random cotangent of `y`, of the kind of array that the function works with."""
        dy = short_decimals(y, seed)
        return jax.tree.map(jnp.asarray, dy) if self.traceable else dy

    def gradients(self, dy) -> list:
        """The gradient of each variable by `bwd`."""
        if not self.traceable:
            _, residuals = self.checked.fwd(*self.args)
            return self.of_variables(self.checked.bwd(residuals, dy))
        return self.of_variables(compiled(self.checked, self.args, dy)[1])

    def of_variables(self, grads) -> list:
        """The entries of the tuple returned by `bwd` that belong to variables."""
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
                y, grads = oracle.value_and_gradient(self.checked.definition, self.args, dy, dtype)
            else:
                args = [np.asarray(a) for a in cast(self.args, jnp.float64)]
                y = np.asarray(self.checked.definition(*args))
                grads, _ = gradient_by_differences(self.checked.definition, args, np.asarray(dy))
            self._truths[key] = y, [g for g in grads if g is not None]
        return self._truths[key]


@partial(jax.jit, static_argnums=0)
def compiled(checked: Checked, args: tuple, dy):
    """Value and gradients of a call under `jit`."""
    y, residuals = checked.fwd(*args)
    return y, checked.bwd(residuals, dy)


def in_variables(function, args):
    """A function of the arguments as one of the list of the variables, and that list."""
    leaves, tree = jax.tree.flatten(args)

    def of_list(variables):
        given = iter(variables)
        filled = [next(given) if is_differentiable(leaf) else leaf for leaf in leaves]
        return function(*jax.tree.unflatten(tree, filled))

    return of_list, [leaf for leaf in leaves if is_differentiable(leaf)]
