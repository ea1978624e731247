"""Difference quotients: their error against the step, beside that of the backward pass.

python -m experiments.finite_differences
"""

from argparse import Namespace
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

SIZES, EXAMPLES, DIRECTIONS = (4, 8, 2), 8, 100
NET, LOSS = jaxnn.mlp(SIZES, activation=jaxnn.tanh), jaxnn.half_squared_error
PRECISIONS = ("float32", "float64")
STEPS = np.logspace(-16, 0, 129)
COMPLEX = "complex step"


MULTIPLES = np.array([0, 1, 2, -2, -1])  # of the step; in this order f[k] is f(k·h) for any k


class Method(NamedTuple):
    """The difference quotient difference(f) / h, of order p.

    The truncated Taylor series makes an error ~ hᵖ, rounding one ~ ε/h. Their sum is least at a
    step h ~ ε^(1/(p + 1)), where it is ~ ε^(p/(p + 1)).
    """

    difference: Callable
    order: int


METHODS = {
    "forward": Method(lambda f: f[1] - f[0], 1),
    "central": Method(lambda f: (f[1] - f[-1]) / 2, 2),
    "five-point": Method(lambda f: (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / 12, 4),
}


class Problem(NamedTuple):
    """A loss along lines, f(t) = L(θ + t·d), whose derivatives at 0 are wanted.

    Every number is one of float32, so that f is the same function in every precision.

    Attributes:
        params: θ, the parameters of `NET`.
        directions: the directions d, of length 1: the tree of θ with a leading axis.
        x: the inputs of the network.
        target: what it should give.
    """

    params: Any
    directions: Any
    x: np.ndarray
    target: np.ndarray


def make_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape)

    shapes = jax.eval_shape(NET.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / 2, shapes)
    directions = jax.tree.map(lambda leaf: normal(DIRECTIONS, *leaf.shape), shapes)
    lengths = np.sqrt(sum_over_leaves(lambda d: d**2, directions))
    directions = jax.tree.map(lambda d: (d.T / lengths).T, directions)
    x, target = normal(EXAMPLES, SIZES[0]), normal(EXAMPLES, SIZES[-1])
    return cast(Problem(params, directions, x, target), "float32")


def cast(tree, dtype: str):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), tree)


def sum_over_leaves(function, *trees) -> np.ndarray:
    """The sum of function(*leaves) over all but the first axis of every leaf, (DIRECTIONS,)."""
    terms = jax.tree.leaves(jax.tree.map(function, *trees))
    return sum(term.reshape(len(term), -1).sum(axis=1) for term in terms)


@jax.jit
def on_lines(problem: Problem, t: jax.Array) -> jax.Array:
    """f at each t on each line, (len(t), DIRECTIONS), by the forward pass of jaxnn."""

    def f(t, direction):
        params = jax.tree.map(lambda p, d: p + t * d, problem.params, direction)
        return jnp.mean(LOSS(NET.apply(params, problem.x), problem.target))

    over_directions = jax.vmap(f, (None, 0))
    return jax.vmap(over_directions, (0, None))(t, problem.directions)


def formula(problem: Problem, t: np.ndarray, tanh=np.tanh) -> np.ndarray:
    """`on_lines` as a formula that takes any kind of number, also complex and decimal ones."""
    moved = jax.tree.map(
        lambda p, d: p + t.reshape(-1, *(1,) * d.ndim) * d, problem.params, problem.directions
    )
    first, second = common.linear_layers(moved)
    hidden = tanh(problem.x @ first["w"] + first["b"][..., None, :])
    error = hidden @ second["w"] + second["b"][..., None, :] - problem.target
    return (error * error).sum(axis=(-2, -1)) / (2 * EXAMPLES)


def true_derivatives(problem: Problem) -> np.ndarray:
    """f'(0) on each line, right to the last digit of float64.

    The central difference in 60 digits: with h = 10⁻²⁰ its error is ~ h² = 10⁻⁴⁰.
    """
    exact = np.frompyfunc(lambda number: Decimal(float(number)), 1, 1)
    tanh = np.frompyfunc(lambda z: 1 - 2 / ((2 * z).exp() + 1), 1, 1)
    h = Decimal("1e-20")
    with localcontext(prec=60):
        left, right = formula(jax.tree.map(exact, problem), np.array([-h, h]), tanh)
        return ((right - left) / (2 * h)).astype(float)


def by_bwd(problem: Problem) -> np.ndarray:
    """f'(0) = ⟨∂L/∂θ, d⟩ on each line; the product is in float64, to rate the gradient alone."""
    gradient = jax.jit(jaxnn.value_and_grad(NET, LOSS))
    _, grads = gradient(problem.params, problem.x, problem.target)
    grads, directions = cast((grads, problem.directions), "float64")
    return sum_over_leaves(lambda g, d: g * d, jax.tree.map(lambda g: g[None], grads), directions)


def by_differences(problem: Problem, dtype: str) -> dict[str, np.ndarray]:
    """f'(0) by each method and step, (steps, DIRECTIONS)."""
    h = STEPS.astype(dtype)
    f = np.asarray(on_lines(problem, np.outer(MULTIPLES.astype(dtype), h).ravel()))
    f = f.reshape(len(MULTIPLES), len(h), DIRECTIONS)
    return {name: method.difference(f) / h[:, None] for name, method in METHODS.items()}


def by_complex_step(problem: Problem, dtype: str) -> np.ndarray:
    """f'(0) ≈ Im f(ih) / h, which subtracts nothing, for each step, (steps, DIRECTIONS)."""
    h = STEPS.astype(dtype)
    return formula(problem, 1j * h).imag / h[:, None]


def relative_error(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The root mean square of the errors on all lines, over that of the derivatives."""
    return np.sqrt(np.mean((found - truth) ** 2, axis=-1) / np.mean(truth**2))


def measure(problem: Problem, truth: np.ndarray) -> tuple[dict, dict]:
    """For each precision: the error of each method by step, and that of the backward pass."""
    curves, floors = {}, {}
    for dtype in PRECISIONS:
        in_dtype = cast(problem, dtype)
        found = by_differences(in_dtype, dtype)
        found[COMPLEX] = by_complex_step(in_dtype, dtype)
        curves[dtype] = {name: relative_error(values, truth) for name, values in found.items()}
        floors[dtype] = float(relative_error(by_bwd(in_dtype), truth))
    return curves, floors


def summarise(errors: np.ndarray, theory: float, flat: bool) -> dict[str, float]:
    """What a curve says: its best step, the error there, and the order of the side to the right.

    A flat curve is best at its left end; its best step is the last with at most twice that error.
    """
    best = np.flatnonzero(errors <= 2 * errors[0])[-1] if flat else errors.argmin()
    side = (2 * STEPS[best] <= STEPS) & (STEPS <= 0.5)
    order, _ = np.polyfit(np.log(STEPS[side]), np.log(errors[side]), 1)
    return {
        "best_step": float(STEPS[best]),
        "theory_step": theory,
        "error": float(errors[0] if flat else errors[best]),
        "order": float(order),
    }


def summaries(curves: dict[str, np.ndarray], epsilon: float) -> dict[str, dict[str, float]]:
    theory = {name: epsilon ** (1 / (method.order + 1)) for name, method in METHODS.items()}
    theory[COMPLEX] = epsilon**0.5  # where h² falls below ε
    return {
        name: summarise(errors, theory[name], flat=name == COMPLEX)
        for name, errors in curves.items()
    }


def draw(curves: dict, floors: dict, found: dict):
    """The error of each method against the step, a panel for each precision."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 5), sharey=True)
    for axes, (dtype, errors) in zip(panels, curves.items(), strict=True):
        for name, line in zip(errors, ("-", "--", "-.", ":"), strict=True):
            axes.loglog(STEPS, errors[name], line, label=name)
        axes.axhline(floors[dtype], color="black", linewidth=1, label="hand-written backward")
        best = [found[dtype][name] for name in METHODS]
        colors = common.PALETTE[: len(best)]
        axes.scatter(
            *([summary[key] for summary in best] for key in ("best_step", "error")),
            c=colors,
            zorder=3,
        )
        axes.scatter(
            [summary["theory_step"] for summary in best],
            [0.02] * len(best),
            c=colors,
            marker="^",
            transform=axes.get_xaxis_transform(),
        )
        axes.set(title=dtype, xlabel="step h")
    panels[0].set_ylabel("relative error of the derivative")
    for marker, label in (("o", "best step"), ("^", "the same in theory, $ε^{1/(p+1)}$")):
        axes.plot([], [], marker, color="#777777", label=label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    differences, complex_step = (
        " and ".join(
            f"{min(found[dtype][name]['error'] for name in names) / floor:,.{digits}f} ({dtype})"
            for dtype, floor in floors.items()
        )
        for names, digits in ((METHODS, 0), ([COMPLEX], 1))
    )
    figure.suptitle(
        f"The best difference quotient has {differences} times the error of the backward\n"
        f"pass; the complex step, which subtracts nothing, has {complex_step} times"
    )
    return figure


def run(args: Namespace) -> None:
    """Measure every error and write everything to the output folder."""
    print(
        f"half the squared error of a {'-'.join(map(str, SIZES))} tanh network, "
        f"{EXAMPLES} examples, derivative along {DIRECTIONS} directions, seed {args.seed}"
    )
    problem = make_problem(args.seed)
    curves, floors = measure(problem, true_derivatives(problem))
    found = {dtype: summaries(curves[dtype], float(np.finfo(dtype).eps)) for dtype in PRECISIONS}

    rows = []
    for dtype, methods in found.items():
        for name, summary in methods.items():
            at_most = "≤ " if name == COMPLEX else ""
            steps = (f"{at_most}{summary[key]:.1e}" for key in ("best_step", "theory_step"))
            rows.append([name, dtype, *steps, f"{summary['error']:.1e}", f"{summary['order']:.2f}"])
        rows.append(["bwd", dtype, "", "", f"{floors[dtype]:.1e}", ""])
    headers = ["method", "precision", "best step", "in theory", "relative error", "order"]
    align = ("left", "left", *4 * ["right"])
    print(f"\n{tabulate(rows, headers, disable_numparse=True, colalign=align)}\n")

    common.write_result(
        args.output,
        args,
        {dtype: found[dtype] | {"bwd": {"error": floors[dtype]}} for dtype in PRECISIONS},
    )
    common.save_pictures(args.output, errors=draw(curves, floors, found))
    print(f"wrote result.json and the picture to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("finite_differences", __doc__.splitlines()[0])
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    with jax.enable_x64(True):
        parser.run(run, args)


if __name__ == "__main__":
    main()
