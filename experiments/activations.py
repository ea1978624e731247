"""Activations: each one with its hand-written derivative, and what that is at a kink.

python -m experiments.activations
"""

import textwrap
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

OPS = tuple(entry.op.bind(**entry.benchmark.options) for entry in catalogue.ENTRIES)
X = np.linspace(-10, 10, 1281)  # steps of 1/64: every kink lies on a point
BESIDE = 1e-6  # how far from a point its sides are looked at
COLUMNS = 3
STEEPEST = 3  # the largest slope that the axis of all derivatives makes room for


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


@plt.rc_context({"font.size": 8, "axes.titlesize": 7, "figure.titlesize": 10})
def draw(curves: dict[jaxnn.Op, Curve]):
    """Each activation above its derivative, with a filled dot for the convention at a kink."""
    rows = -(-len(curves) // COLUMNS)
    figure, panels = plt.subplots(
        2 * rows, COLUMNS, figsize=(6.4, 1.35 * rows + 0.9), sharex=True, squeeze=False
    )
    for panel in panels.flat:
        panel.set_axis_off()
    slopes = [curve.derivative for curve in curves.values()]
    slopes += [kink[1:] for curve in curves.values() for kink in curve.kinks]
    slopes = [some for some in slopes if max(np.abs(some)) <= STEEPEST]  # others leave the picture
    limits = min(map(min, slopes)) - 0.4, max(map(max, slopes)) + 0.4
    pairs = zip(panels[::2].flat, panels[1::2].flat, strict=True)
    for (above, below), (op, curve) in zip(pairs, curves.items(), strict=False):
        draw_activation(above, op, curve)
        draw_derivative(below, curve, limits)
    dots = {"color": "C1", "marker": "o", "linestyle": ""}
    handles = (
        plt.Line2D([], [], color="C0", label="y"),
        plt.Line2D([], [], color="C1", linestyle="--", label="y', its derivative"),
        plt.Line2D([], [], **dots, label="y' chosen at a kink"),
        plt.Line2D([], [], **dots, markerfacecolor="white", label="limits beside it"),
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    n_kinked = sum(bool(curve.kinks) for curve in curves.values())
    largest = max(curve.difference for curve in curves.values())
    figure.suptitle(
        f"{n_kinked} of {len(curves)} activations have a kink, where the derivative is a choice "
        f"(filled dot).\nEvery hand-written derivative is within {largest:.0e} of autodiff's."
    )
    return figure


def draw_activation(axes, op: jaxnn.Op, curve: Curve) -> None:
    """The activation, under its name and formula."""
    options = "".join(
        f", {name}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{value}"
        for name, value in op.options.items()
    )
    name = f"{op.__name__}{options}".replace("-", "−")
    formula = op.__doc__.splitlines()[0].removesuffix(".").partition(", ")[2].partition(": ")[0]
    axes.set_axis_on()
    axes.plot(X, curve.y, color="C0")
    axes.set_title("\n".join(textwrap.fill(line, 28) for line in (name, formula)))
    axes.set_ylabel("y")


def draw_derivative(axes, curve: Curve, limits: tuple[float, float]) -> None:
    """The derivative, broken at its kinks."""
    at_kink = np.isin(X, [kink.x for kink in curve.kinks])
    axes.set_axis_on()
    axes.plot(X, np.where(at_kink, np.nan, curve.derivative), "--", color="C1")
    for kink in curve.kinks:
        dot = {"color": "C1", "marker": "o", "markersize": 5, "linestyle": ""}
        axes.plot([kink.x] * 2, [kink.left, kink.right], markerfacecolor="white", **dot)
        axes.plot(kink.x, kink.convention, **dot)
    axes.tick_params(labelbottom=True)
    axes.set_xticks((-10, 0, 10), ("−10", "x = 0", "10"))
    axes.set(yticks=(0, 1), ylim=limits, ylabel="y'")


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
    print(f"\nwrote result.json and activations.png to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("activations", __doc__.splitlines()[0])
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    run(args)


if __name__ == "__main__":
    main()
