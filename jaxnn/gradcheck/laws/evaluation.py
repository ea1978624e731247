"""A function at one set of arguments: its values and gradients, each computed once."""

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxnn.gradcheck.arrays import (
    cast,
    eps,
    error_where_representable,
    is_differentiable,
    relative_or_absolute_error,
    short_decimals,
    wide,
)
from jaxnn.gradcheck.differences import gradient_by_differences
from jaxnn.gradcheck.laws import oracle
from jaxnn.gradcheck.laws.checked import Checked
from jaxnn.gradcheck.laws.compilation import jit
from jaxnn.gradcheck.laws.oracle import Truth
from jaxnn.gradcheck.laws.program import Program, program_of

FLOAT0 = jax.dtypes.float0
EXACT = 1e-5
COARSE_STEP, EXACT_STEP = 1e-3, 1e-8


class Values(NamedTuple):
    """Values and gradients in the dtypes of the function: a list of leaves each."""

    y: list
    grads: list


class Evaluation:
    """A function at one set of arguments, with the values and gradients that the laws compare.

    Attributes:
        checked: the function.
        args: its arguments.
        seed: the seed of the cotangents.
        plain: whether calls without `jit` are tried in addition to compiled ones.
        size: the size of the cotangents.
        notes: remarks of the laws, in addition to their findings.
        missing: the paths of the variables for which the backward returns `None`.
    """

    def __init__(
        self, checked: Checked, args: tuple, seed: int = 0, plain: bool = True, size: float = 1.0
    ):
        self.checked, self.args, self.seed, self.size = checked, args, seed, size
        self.plain = plain or not self.traceable
        self.notes: list[str] = []
        self.missing: set[str] = set()
        self._left_out: set[str] = set()
        self._known: dict[tuple, tuple] = {}

    @cached_property
    def leaves(self) -> list[tuple[str, jax.Array]]:
        """`(path, array)` for each array of the arguments."""
        return [
            (name + jax.tree_util.keystr(path), leaf)
            for name, arg in zip(self.checked.arguments, self.args, strict=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
        ]

    @property
    def variables(self) -> list[tuple[str, jax.Array]]:
        """The leaves that have a gradient, without the excluded ones."""
        return [
            (path, leaf)
            for path, leaf in self.leaves
            if is_differentiable(leaf) and path not in self._left_out
        ]

    def leave_out(self, paths: Iterable[str]) -> None:
        """Exclude leaves from further comparisons; an argument excludes all of its leaves."""
        paths = set(paths)
        self._left_out |= {p for p, _ in self.leaves if p in paths or p.split("[")[0] in paths}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes of the arguments' axes by their meaning, those of plain arrays first."""
        plain_first = sorted(self.leaves, key=lambda named: "[" in named[0])
        return {
            f"the size of axis {axis} of {path}": size
            for path, leaf in plain_first
            for axis, size in enumerate(leaf.shape)
        }

    @cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the least precise variable."""
        return max((leaf.dtype for _, leaf in self.leaves if is_differentiable(leaf)), key=eps)

    @cached_property
    def resolution(self) -> float:
        """The machine epsilon of the coarsest dtype in the computation."""
        return max(eps(self.dtype), self.definition.resolution if self.traceable else 0.0)

    @cached_property
    def traceable(self) -> bool:
        """Whether JAX can trace the definition; NumPy code cannot be."""
        try:
            jax.eval_shape(self.checked.definition, *self.args)
        except jax.errors.JAXTypeError:
            return False
        except Exception:  # the law `runs` reports it
            return True
        return True

    @cached_property
    def definition(self) -> Program:
        """The function whose gradient is the true one, as a program."""
        return self._program(self.checked.definition, self.args)

    @cached_property
    def primal(self) -> Program:
        """The function that defines the value, as a program."""
        if self.checked.primal is None:
            return self.definition
        return self._program(self.checked.primal, self.args)

    @cached_property
    def given(self) -> Program | None:
        """The backward as a program of the arguments and dy, or `None` if JAX cannot trace it."""

        def function(args, dy):
            return self.of_variables(_forward_and_backward(self.checked, args, self.filled(dy)))

        try:
            return self._program(function, (self.args, self.floating(self.dy)))
        except Exception:
            return None

    def _program(self, function, args) -> Program:
        return program_of(function, args, self.checked.any_dtype)

    def shapes(self, function: Callable) -> Any:
        """The shape of a function's value, or a tree of them."""
        y = jax.eval_shape(function, *self.args) if self.traceable else function(*self.args)
        return jax.tree.map(np.shape, y)

    def forward(self):
        """The result of `fwd` without `jit`, or only its shapes and dtypes if that is not tried."""
        if self.plain:
            return self.checked.fwd(*self.args)
        found = []

        def value(*args):
            found.append(self.checked.fwd(*args))
            return found[0][0]

        y = jax.eval_shape(value, *self.args)
        return (y, *found[0][1:]) if isinstance(found[0], tuple) else found[0]

    @cached_property
    def call(self):
        """Value and gradients without `jit` or, if that is not tried, compiled."""
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
        """A random cotangent of `y`, of the array type that the function uses."""
        array = jnp.asarray if self.traceable else np.asarray

        def of_leaf(leaf, numbers):
            if is_differentiable(leaf):
                return array((self.size * numbers).astype(leaf.dtype))
            return np.zeros(np.shape(leaf), FLOAT0)

        return jax.tree.map(of_leaf, y, short_decimals(y, seed))

    def gradients(self, dy) -> list:
        """The gradient of each variable by `bwd`, computed once for each cotangent."""
        return self.of_variables(self._once(self.backward, dy))

    def backward(self, dy):
        """The result of `bwd`, compiled if JAX can trace it."""
        if self.compiles:
            return compiled(self.checked, self.args, dy)[1]
        return as_jax_reads(_forward_and_backward(self.checked, self.args, dy), self.args)

    @cached_property
    def compiles(self) -> bool:
        """Whether JAX can trace and run the backward under `jit`."""
        if not self.traceable:
            return False
        try:
            compiled(self.checked, self.args, self.dy)
        except Exception:
            self.notes.append("jax.jit cannot trace the backward, so it runs uncompiled")
            return False
        return True

    def of_variables(self, grads) -> list:
        """The entries of the result of `bwd` that belong to variables."""
        entries = []
        for name, arg, grad in zip(self.checked.arguments, self.args, grads, strict=True):
            given = dict(named_leaves(name, filled(grad, arg)))
            entries += [
                given[name + jax.tree_util.keystr(path)]
                for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
                if is_differentiable(leaf)
                and name + jax.tree_util.keystr(path) not in self._left_out
            ]
        return entries

    def truth(self, dy) -> Truth:
        """Values in float64, and the true gradients of the variables."""
        true = self._once(self._true if self.traceable else self._by_differences, dy)
        return self._of_compared(true)

    def rival(self, dy) -> Values | None:
        """Values and gradients by autodiff in the function's own dtypes, if it applies."""
        return self._of_compared(self._once(self._rival, dy))

    def rival_errors(self, dy) -> list[float] | None:
        """The errors of those gradients."""
        return self._once(self._rival_errors, dy)

    def true_gradient(self, dy) -> list[np.ndarray]:
        """The true gradients of the variables for another cotangent, in float64."""
        return self.truth(dy).grads

    def given_gradient(self, dy) -> list[np.ndarray]:
        """The gradients of the variables by the backward, computed in float64 if possible."""
        if self.given is not None:
            try:
                leaves = [*self.wide_leaves, *jax.tree.leaves(cast(self.floating(dy), np.float64))]
                return [*map(np.asarray, self.given.wide_value(leaves))]
            except Exception:
                pass
        return [*map(wide, self.gradients(dy))]

    def slopes_beside(self, dy, which: int, places) -> np.ndarray:
        """The slopes of ⟨dy, definition⟩ to the left and right of some entries of a leaf."""
        dys = jax.tree.leaves(cast(dy, np.float64))
        noisy = max(self.truth(dy).errors, default=0) > EXACT_STEP
        step = COARSE_STEP if noisy else oracle.ONE_SIDED_STEP
        return oracle.one_sided_slopes(self.definition, self.wide_leaves, dys, which, places, step)

    def most_places(self, dy, which: int, evaluations: int) -> int:
        """The number of entries of a leaf whose evaluations fit in the time limit."""
        dys = jax.tree.leaves(cast(dy, np.float64))
        return oracle.most_places(self.definition, self.wide_leaves, dys, which, evaluations)

    @cached_property
    def forward_is_exact(self) -> bool:
        """Whether `fwd`, computed in float64, has the value of the function."""
        try:
            forward = self._program(lambda *args: self.checked.fwd(*args)[0], self.args)
            mine = forward.wide_value(self.wide_leaves)
            pairs = zip(mine, self.primal.wide_value(self.wide_leaves), strict=True)
            return all(relative_or_absolute_error(a, b) <= EXACT for a, b in pairs)
        except Exception:
            return False

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The variables in float64, by their paths."""
        return {path: wide(leaf) for path, leaf in self.variables}

    @cached_property
    def others(self) -> dict[str, np.ndarray]:
        """The integers and booleans among the arguments, by their paths."""
        return {
            path: np.asarray(leaf)
            for path, leaf in self.leaves
            if not is_differentiable(leaf) and not _is_extended(leaf)
        }

    @cached_property
    def wide_leaves(self) -> list:
        """The leaves of the arguments in float64."""
        with jax.enable_x64(True):
            leaves = jax.tree.leaves(cast(self.args, np.float64))
            return [jnp.asarray(leaf) if is_differentiable(leaf) else leaf for leaf in leaves]

    def _once(self, function, dy):
        """A function of a cotangent, computed once for each."""
        key = (function.__name__, *map(id, jax.tree.leaves(dy)))
        if key not in self._known:
            self._known[key] = function(dy), dy  # dy is kept alive, so its id stays valid
        return self._known[key][0]

    def _rival(self, dy) -> Values | None:
        try:
            leaves = jax.tree.leaves(self.args)
            return Values(*self.definition.pulled_back(leaves, jax.tree.leaves(dy)))
        except Exception:
            return None

    def _rival_errors(self, dy) -> list[float] | None:
        rival, true = self.rival(dy), self.truth(dy)
        if rival is None:
            return None
        wholes = self.truth(self.dy).grads
        return [
            error_where_representable(r, t, leaf.dtype, whole)
            for (_, leaf), r, t, whole in zip(
                self.variables, rival.grads, true.grads, wholes, strict=True
            )
        ]

    def _true(self, dy) -> Truth:
        dys = jax.tree.leaves(cast(dy, np.float64))
        return oracle.truth(self.definition, self.wide_leaves, dys, trusted=self.checked.trusted)

    def _by_differences(self, dy) -> Truth:
        """The truth about code that JAX cannot trace."""
        leaves, tree = jax.tree.flatten(cast(self.args, np.float64))

        def value(*leaves):
            return jax.tree.leaves(self.checked.definition(*jax.tree.unflatten(tree, leaves)))

        def flat(*leaves):
            return np.concatenate([np.ravel(leaf) for leaf in value(*leaves)])

        dys = np.concatenate([np.ravel(wide(d)) for d in jax.tree.leaves(dy)])
        grads, error = gradient_by_differences(flat, [*map(np.asarray, leaves)], dys)
        found = [g for g in grads if g is not None]
        return Truth([*map(np.asarray, value(*leaves))], found, [error] * len(found))

    def _of_compared(self, found):
        """The same values without the gradients of the excluded leaves."""
        if found is None or not self._left_out:
            return found
        all_paths = [path for path, leaf in self.leaves if is_differentiable(leaf)]
        kept = [i for i, path in enumerate(all_paths) if path not in self._left_out]
        chosen = {"grads": [found.grads[i] for i in kept]}
        if isinstance(found, Truth):
            chosen["errors"] = [found.errors[i] for i in kept]
        return found._replace(**chosen)

    def floating(self, dy) -> list:
        """The floating-point leaves of a cotangent."""
        return [d for d in jax.tree.leaves(dy) if is_differentiable(d)]

    def filled(self, floating):
        """The whole cotangent with these floating-point leaves."""
        given = iter(floating)
        return jax.tree.map(lambda d: next(given) if is_differentiable(d) else d, self.dy)


def filled(grad, arg):
    """A gradient with zeros for each `None` and each symbolic zero, as JAX reads them.

    If its structure differs from the argument's, it is returned unchanged.
    """

    def zeros(leaf):
        dtype = leaf.dtype if is_differentiable(leaf) else FLOAT0
        return np.zeros(np.shape(leaf), dtype)

    def replaced(part, subtree):
        if part is None:
            return jax.tree.map(zeros, subtree)
        if isinstance(part, SymbolicZero):
            return zeros(part)
        return part

    try:
        return jax.tree.map(replaced, grad, arg, is_leaf=lambda part: part is None)
    except (ValueError, TypeError):
        return grad


def as_jax_reads(grads, args):
    """The result of a backward as JAX reads it: a list counts as a tuple, and `None` as zero."""
    if not isinstance(grads, tuple | list) or len(grads) != len(args):
        return grads
    return tuple(map(filled, grads, args))


def named_leaves(name: str, tree) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in named]


def _forward_and_backward(checked, args, dy):
    _, residuals = checked.fwd(*args)
    return checked.bwd(residuals, dy)


@partial(jit, static_argnums=0)
def compiled(checked: Checked, args: tuple, dy):
    """Value and gradients of a call under `jit`."""
    y, residuals = checked.fwd(*args)
    return y, as_jax_reads(checked.bwd(residuals, dy), args)


def in_variables(function, args):
    """Turn a function of the arguments into one of the list of variables, and return both."""
    leaves, tree = jax.tree.flatten(args)

    def of_list(variables):
        given = iter(variables)
        filled = [next(given) if is_differentiable(leaf) else leaf for leaf in leaves]
        return function(*jax.tree.unflatten(tree, filled))

    return of_list, [leaf for leaf in leaves if is_differentiable(leaf)]


def _is_extended(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
