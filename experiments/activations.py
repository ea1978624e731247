"""Activations: each one with its hand-written derivative, and what that is at a kink.

python -m experiments.activations
"""

from argparse import Namespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common
from jaxnn.catalogue.activations import elementwise as catalogue

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

# the options of the catalogue, except where their curve would not show the formula
SHOWN = {"leaky_relu": {"slope": 0.1}, "gelu": {"approximate": False}}
OPS = tuple(
    entry.op.bind(**SHOWN.get(entry.op.__name__, entry.benchmark.options))
    for entry in catalogue.ENTRIES
)
X = np.linspace(-10, 10, 1281)  # steps of 1/64: every kink lies on a point
BESIDE = 1e-6  # how far from a point its sides are looked at
COLUMNS = 3
REACH = 4  # the panels show |x| up to here, or more if there is a kink beyond
HEIGHT = 2  # and |y| up to here, or as far as a kink

# y and y'; Φ is the normal distribution function and φ = Φ'
FORMULAS = {
    "identity": ("x", "1"),
    "sigmoid": ("1/(1 + e⁻ˣ)", "y·(1 − y)"),
    "tanh": ("(eˣ − e⁻ˣ)/(eˣ + e⁻ˣ)", "1 − y²"),
    "softplus": ("log(1 + e^(β·x))/β", "σ(β·x)"),
    "log_sigmoid": ("log(σ(x))", "σ(−x)"),
    "squareplus": ("(x + √(x² + b))/2", "(1 + x/√(x² + b))/2"),
    "softsign": ("x/(1 + |x|)", "1/(1 + |x|)²"),
    "tanh_shrink": ("x − tanh(x)", "tanh(x)²"),
    "silu": ("x·σ(x)", "σ(x) + y·(1 − σ(x))"),
    "quick_gelu": ("x·s,  s = σ(1.702·x)", "s + 1.702·y·(1 − s)"),
    "mish": ("x·t,  t = tanh(log(1 + eˣ))", "t + x·(1 − t²)·σ(x)"),
    "gelu": ("x·Φ(x)", "Φ(x) + x·φ(x)"),
    "relu": ("max(0, x)", "1 where x > 0, else 0"),
    "leaky_relu": ("x where x > 0, else slope·x", "1 where x > 0, else slope"),
    "elu": ("x where x > 0, else α·(eˣ − 1)", "1 where x > 0, else y + α"),
    "selu": ("λ·x where x > 0, else λ·α·(eˣ − 1)", "λ where x > 0, else y + λ·α"),
    "celu": ("x where x > 0, else α·(e^(x/α) − 1)", "1 where x > 0, else y/α + 1"),
    "relu6": ("min(max(0, x), 6)", "1 where 0 < x < 6, else 0"),
    "hard_sigmoid": ("min(max(0, x + 3), 6)/6", "1/6 where |x| < 3, else 0"),
    "hard_swish": ("x·min(max(0, x + 3), 6)/6", "x/3 + 0.5 where |x| < 3, else 1[x > 0]"),
    "hard_tanh": ("min(max(low, x), high)", "1 where low ≤ x ≤ high, else 0"),
    "relu_squared": ("max(0, x)²", "2·max(0, x)"),
    "soft_shrink": ("sign(x)·max(0, |x| − θ)", "1 where |x| > θ, else 0"),
    "hard_shrink": ("x where |x| > θ, else 0", "1 where |x| > θ, else 0"),
    "threshold": ("x where x > θ, else value", "1 where x > θ, else 0"),
}
SYMBOLS = {"alpha": "α", "beta": "β", "threshold": "θ"}  # of options


class Kink(NamedTuple):
    """A jump of the derivative: its limits from the left and the right, and its value there."""

    x: float
    left: float
    right: float
    convention: float


class Curve(NamedTuple):
    """An activation on the points `X`."""

    y: np.ndarray
    derivative: np.ndarray
    kinks: list[Kink]
    difference: float  # the largest, between the derivative and that of autodiff


def derivative(op: jaxnn.Op, x: np.ndarray) -> np.ndarray:
    """The derivative of an elementwise op: its backward of dy = 1."""
    y, residuals = op.fwd(x)
    (dx,) = op.bwd(residuals, jnp.ones_like(y))
    return np.asarray(dx)


def measure(op: jaxnn.Op) -> Curve:
    """An activation and its derivative in float64, compared with autodiff of the definition."""
    with jax.enable_x64(True):
        dy, left, right = (derivative(op, X + shift) for shift in (0, -BESIDE, BESIDE))
        autodiff = np.asarray(jax.vmap(jax.grad(op.definition))(X))
        y = np.asarray(op(X))
    jumps = abs(right - left) > 1000 * BESIDE
    kinks = [Kink(*map(float, row)) for row in np.stack([X, left, right, dy], axis=1)[jumps]]
    return Curve(y, dy, kinks, float(abs(dy - autodiff).max()))


@plt.rc_context({"font.size": 8, "axes.titlesize": 8, "figure.titlesize": 10})
def draw(curves: dict[jaxnn.Op, Curve]):
    """Each activation with its derivative, and a filled dot for the convention at a kink."""
    rows = -(-len(curves) // COLUMNS)
    figure, panels = plt.subplots(rows, COLUMNS, figsize=(7.2, 1.8 * rows + 0.9), squeeze=False)
    for axes, (op, curve) in zip(panels.flat, curves.items(), strict=False):
        draw_activation(axes, op, curve)
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    dots = {"color": "C1", "marker": "o", "linestyle": ""}
    handles = (
        plt.Line2D([], [], color="C0", label="y"),
        plt.Line2D([], [], color="C1", linestyle="--", label="y', its derivative"),
        plt.Line2D([], [], **dots, label="y' chosen at a kink"),
        plt.Line2D([], [], **dots, markerfacecolor="white", label="limits of y' beside it"),
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    n_kinked = sum(bool(curve.kinks) for curve in curves.values())
    largest = f"{max(curve.difference for curve in curves.values()):.0e}".replace("-", "−")
    figure.suptitle(
        f"{n_kinked} of {len(curves)} activations have a kink, where the derivative is a choice "
        f"(filled dot).\nEvery hand-written derivative is within {largest} of autodiff's."
    )
    return figure


def draw_activation(axes, op: jaxnn.Op, curve: Curve) -> None:
    """An activation and its derivative, which is broken at the kinks, under their formulas."""
    at_kink = np.isin(X, [kink.x for kink in curve.kinks])
    slope = np.where(at_kink, np.nan, curve.derivative)
    axes.plot(X, curve.y, color="C0")
    axes.plot(X, slope, "--", color="C1")
    for kink in curve.kinks:
        dot = {"color": "C1", "marker": "o", "markersize": 5, "linestyle": ""}
        axes.plot([kink.x] * 2, [kink.left, kink.right], markerfacecolor="white", **dot)
        axes.plot(kink.x, kink.convention, **dot)
    reach = max([REACH, *(1.3 * abs(kink.x) for kink in curve.kinks)])
    height = max([HEIGHT, *abs(curve.y[at_kink])])
    shown = np.concatenate([curve.y[abs(X) <= reach], curve.derivative[abs(X) <= reach]])
    low, high = np.clip([shown.min(), shown.max()], -height, height)
    margin = 0.12 * (high - low)
    axes.set(xlim=(-reach, reach), ylim=(low - margin, high + margin))
    axes.locator_params(nbins=4)
    name = ", ".join(
        [op.__name__, *(f"{SYMBOLS.get(option, option)} = {v}" for option, v in op.options.items())]
    ).replace("-", "−")
    y, derivative = FORMULAS[op.__name__]
    axes.set_title(f"{name}\ny = {y}\ny' = {derivative}")


def run(args: Namespace) -> None:
    """Measure and draw every activation of the library."""
    curves = {op: measure(op) for op in OPS}
    result = {
        op.__name__: {
            "range": [float(curve.y.min()), float(curve.y.max())],
            "derivative_at_0": float(curve.derivative[X == 0][0]),
            "largest_derivative": float(abs(curve.derivative).max()),
            "kinks": [kink._asdict() for kink in curve.kinks],
            "difference_from_autodiff": curve.difference,
        }
        for op, curve in curves.items()
    }
    print(
        tabulate(
            [
                [
                    name,
                    " … ".join(f"{value:.4g}" for value in row["range"]),
                    row["derivative_at_0"],
                    row["largest_derivative"],
                    ", ".join(f"{kink['x']:g}" for kink in row["kinks"]) or "–",
                    f"{row['difference_from_autodiff']:.0e}",
                ]
                for name, row in result.items()
            ],
            headers=["", "y on −10 … 10", "y'(0)", "max |y'|", "kinks", "max |y' − autodiff's|"],
            floatfmt=".4g",
            colalign=("left", "right", "right", "right", "right", "right"),
        )
    )
    common.write_result(args.output, args, {"activations": result})
    common.save_pictures(args.output, activations=draw(curves))
    print(f"\nwrote result.json and the picture to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("activations", __doc__.splitlines()[0])
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    parser.run(run, args)


if __name__ == "__main__":
    main()
