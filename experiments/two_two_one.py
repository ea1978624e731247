"""The 2-2-1 sigmoid network: its nine partial derivatives found in four ways, and its graph.

python -m experiments.two_two_one

    z0 = w0·x0 + w1·x1 + b0    a0 = σ(z0)
    z1 = w2·x0 + w3·x1 + b1    a1 = σ(z1)
    z2 = w4·a0 + w5·a1 + b2    a2 = σ(z2)    L = ½·(y − a2)²

The default numbers are those of the widely published step-by-step example, with its first output.
The formulas are those of the handwritten derivation of this network, without its slips.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common, resume
from jaxnn.layer import Params

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

# each partial derivative is a delta, δₙ = ∂L/∂zₙ, times what the parameter multiplies
FORMULAS = {
    "w0": ("δ0", "x0"),
    "w1": ("δ0", "x1"),
    "w2": ("δ1", "x0"),
    "w3": ("δ1", "x1"),
    "w4": ("δ2", "a0"),
    "w5": ("δ2", "a1"),
    "b0": ("δ0", "1"),
    "b1": ("δ1", "1"),
    "b2": ("δ2", "1"),
}
LARGEST = 100  # input, target, weight or bias
STEP = 1e-5  # of the central differences, near the cube root of float64's precision

# where the picture has its boxes, in inches, and its arrows: from, to, weight, where that stands
NODES = {
    ("x0",): (0.85, 4.4),
    ("x1",): (0.85, 1.6),
    ("z0", "a0"): (4.15, 4.4),
    ("z1", "a1"): (4.15, 1.6),
    ("z2", "a2"): (7.4, 3.1),
    ("L",): (7.4, 1.6),
    ("y",): (7.4, 0.4),
    ("b0",): (4.15, 5.6),
    ("b1",): (4.15, 0.4),
    ("b2",): (7.4, 4.4),
}
ARROWS = (
    ("x0", "z0", "w0", 0.5),
    ("x1", "z0", "w1", 0.3),
    ("x0", "z1", "w2", 0.3),
    ("x1", "z1", "w3", 0.5),
    ("z0", "z2", "w4", 0.5),
    ("z1", "z2", "w5", 0.5),
    ("z2", "L", None, None),
    ("y", "L", None, None),
    ("b0", "z0", None, None),
    ("b1", "z1", None, None),
    ("b2", "z2", None, None),
)

Numbers = dict[str, float]


def forward(p: Numbers) -> Numbers:
    """The network's equations, one number at a time, of inputs, target and parameters."""
    z0 = p["w0"] * p["x0"] + p["w1"] * p["x1"] + p["b0"]
    z1 = p["w2"] * p["x0"] + p["w3"] * p["x1"] + p["b1"]
    a0, a1 = jax.nn.sigmoid(z0), jax.nn.sigmoid(z1)
    z2 = p["w4"] * a0 + p["w5"] * a1 + p["b2"]
    a2 = jax.nn.sigmoid(z2)
    return {"z0": z0, "a0": a0, "z1": z1, "a1": a1, "z2": z2, "a2": a2, "L": (p["y"] - a2) ** 2 / 2}


def chain_rule(p: Numbers) -> tuple[Numbers, Numbers]:
    """The three deltas, with σ'(z) = a·(1 − a), and the nine partial derivatives by `FORMULAS`."""
    values = p | forward(p) | {"1": 1.0}
    a0, a1, a2 = values["a0"], values["a1"], values["a2"]
    d2 = (a2 - p["y"]) * a2 * (1 - a2)
    d1 = d2 * p["w5"] * a1 * (1 - a1)
    d0 = d2 * p["w4"] * a0 * (1 - a0)
    deltas = {"δ0": d0, "δ1": d1, "δ2": d2}
    return deltas, {k: deltas[delta] * values[factor] for k, (delta, factor) in FORMULAS.items()}


def backward(
    net: jaxnn.Layer, loss: jaxnn.Op, params: Params, x: jax.Array, y: jax.Array
) -> Numbers:
    """The gradient of everything on the graph by the library's backwards, layer by layer.

    It does what `jaxnn.value_and_grad` does, and keeps what each layer hands to the one before.
    """
    kept = []
    for layer, layer_params in zip(net.layers, params, strict=True):
        x, residuals = layer.fwd(layer_params, x)
        kept.append(residuals)
    losses, loss_residuals = loss.fwd(x, y)
    dy, dtarget = loss.bwd(loss_residuals, jnp.ones_like(losses))
    flow, grads = {"L": 1.0, "y": dtarget.item(), "a2": dy.item()}, []
    inputs = (("z2",), ("a0", "a1"), ("z0", "z1"), ("x0", "x1"))
    for layer, residuals, names in zip(net.layers[::-1], kept[::-1], inputs, strict=True):
        dparams, dy = layer.bwd(residuals, dy)
        grads.insert(0, dparams)
        flow |= zip(names, dy.ravel().tolist(), strict=True)
    return flow | from_params(grads)


def by_grad(p: Numbers) -> Numbers:
    """The nine partial derivatives by `jax.grad` of the equations."""
    return jax.grad(lambda q: forward(p | q)["L"])({name: p[name] for name in FORMULAS})


def by_differences(p: Numbers) -> Numbers:
    """(L(q + h) − L(q − h))/2h for each parameter q."""

    def loss(name, h):
        return forward(p | {name: p[name] + h})["L"]

    return {name: (loss(name, STEP) - loss(name, -STEP)) / (2 * STEP) for name in FORMULAS}


def to_params(p: Numbers) -> Params:
    """The nine numbers as parameters of `jaxnn.mlp((2, 2, 1))`: a column of w for each unit."""
    hidden = {
        "w": jnp.array([[p["w0"], p["w2"]], [p["w1"], p["w3"]]]),
        "b": jnp.array([p["b0"], p["b1"]]),
    }
    output = {"w": jnp.array([[p["w4"]], [p["w5"]]]), "b": jnp.array([p["b2"]])}
    return hidden, (), output, ()


def from_params(params: Params) -> Numbers:
    """The inverse of `to_params`."""
    hidden, output = common.linear_layers(params)
    leaves = hidden["w"].T, output["w"], hidden["b"], output["b"]
    numbers = np.concatenate([leaf.ravel() for leaf in leaves])
    return dict(zip(FORMULAS, numbers.tolist(), strict=True))


def relative_difference(a: float, b: float) -> float:
    """|a − b| over the larger of |a| and |b|."""
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def draw_graph(values: Numbers, grads: Numbers):
    """The network with each value, and below it its gradient, on the nodes and the edges."""
    figure = plt.figure(figsize=(8.4, 6.5))
    axes = figure.add_subplot(xlim=(0, 8.25), ylim=(0, 6), aspect="equal")
    axes.set_axis_off()
    places = {names[0]: np.array(place) for names, place in NODES.items()}
    boxes = {
        names[0]: _write(axes, places[names[0]], values, grads, names, 1.56, edgecolor="black")
        for names in NODES
    }
    for start, end, weight, where in ARROWS:
        style = {"arrowstyle": "-|>", "color": "#888888", "shrinkA": 0, "shrinkB": 0}
        ends = {"patchA": boxes[start], "patchB": boxes[end]}
        axes.annotate("", places[end], places[start], arrowprops=style | ends, zorder=0)
        if weight:
            place = (1 - where) * places[start] + where * places[end]
            _write(axes, place, values, grads, (weight,), 1.4, edgecolor="none")
    hidden, output = (
        math.hypot(*(grads[name] for name in FORMULAS if FORMULAS[name][0] in deltas))
        for deltas in (("δ0", "δ1"), ("δ2",))
    )
    key = (
        "bold: a value of the forward pass",
        "below it: the gradient ∂L/∂(value)",
        "L = ½·(y − a2)²",
    )
    axes.text(5.6, 5.5, "\n".join(key), va="center", linespacing=1.4)
    change = "shrinks" if hidden < output else "does not shrink"
    figure.suptitle(
        f"The gradient {change} on its way back:\n"
        f"its norm is {output:#.2g} in the output layer, "
        f"{hidden:#.2g} in the hidden layer".replace("-", "−")
    )
    return figure


def _write(axes, place, values, grads, names, width, **edge):
    """A box with the value and the gradient of each name."""
    lines = []
    for name in names:
        if name[0] == "a":
            lines.append((f"{name} = σ(z{name[1]})", "black", "normal"))
        lines.append((f"{name} = {values[name]:.5g}", "C0", "bold"))
        lines.append((f"∂L/∂{name} = {grads[name]:#.4g}", "C1", "normal"))
    x, y = place
    step = 0.2
    height = step * len(lines) + 0.08
    style = {"size": 9.5, "ha": "center", "va": "center"}
    for i, (text, colour, weight) in enumerate(lines):
        above = y + step * ((len(lines) - 1) / 2 - i)
        axes.text(x, above, text.replace("-", "−"), color=colour, weight=weight, **style)
    corner = x - width / 2, y - height / 2
    return axes.add_patch(plt.Rectangle(corner, width, height, facecolor="white", **edge))


def draw_descent(losses: list[float], learning_rate: float):
    """The loss at each step of gradient descent."""
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(losses)
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="step of gradient descent", ylabel="loss L = ½·(y − a2)²")
    axes.set_title(
        f"{len(losses) - 1:,} steps at learning rate {learning_rate:g} "
        f"take the loss from {losses[0]:.3g} to {losses[-1]:.3g}"
    )
    return figure


def run(args: argparse.Namespace) -> None:
    """Differentiate, descend and write everything to the output folder."""
    given = (*args.x, args.y, *args.weights, *args.biases)
    p = dict(zip(("x0", "x1", "y", *FORMULAS), given, strict=True))
    net = jaxnn.mlp((2, 2, 1), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    loss, params = jaxnn.half_squared_error, to_params(p)
    data = jnp.array([args.x]), jnp.array([[args.y]])

    values = p | {name: float(value) for name, value in forward(p).items()}
    deltas, by_formula = chain_rule(p)
    grads = backward(net, loss, params, *data)
    partials = {
        "chain rule": {name: float(d) for name, d in by_formula.items()},
        "bwd": {name: grads[name] for name in FORMULAS},
        "jax.grad": {name: float(d) for name, d in by_grad(p).items()},
        "differences": {name: float(d) for name, d in by_differences(p).items()},
    }
    relative = {
        way: {name: relative_difference(d, partials["bwd"][name]) for name, d in found.items()}
        for way, found in partials.items()
        if way != "bwd"
    }

    print("  ".join(f"{name} = {values[name]:.9f}" for name in ("a0", "a1", "a2", "L")))
    print(
        "  ".join(f"{name} = {delta:.9f}" for name, delta in deltas.items()), " where δₙ = ∂L/∂zₙ\n"
    )
    rows = [
        [
            *(f"∂L/∂{name}", f"{delta}·{factor}"),
            *(f"{found[name]:.9e}" for found in partials.values()),
            *(f"{found[name]:.0e}" for found in relative.values()),
        ]
        for name, (delta, factor) in FORMULAS.items()
    ]
    headers = ["", "formula", *partials, *(f"{way}\nto bwd" for way in relative)]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))

    training = common.fit(
        net,
        loss,
        params,
        data,
        epochs=args.steps,
        batch_size=1,
        learning_rate=args.learning_rate,
        checkpoint=resume.folder(args, "network"),
        checkpoint_seconds=resume.SECONDS,
    )
    losses = [*training.history["loss"], jaxnn.evaluate(net, loss, training, data)["loss"]]
    rate, norm = args.learning_rate, math.hypot(*partials["bwd"].values())
    output = jaxnn.predict(net, training, data[0]).item()
    print(
        f"\nthe first step at learning rate {rate:g} lowers L by {losses[0] - losses[1]:.5g}; "
        f"the gradient promises about η·‖∇L‖² = {rate * norm**2:.5g}\n"
        f"after {args.steps:,} steps L = {losses[-1]:.3g} and a2 = {output:.6f} (y = {args.y:g})"
    )
    common.write_result(
        args.output,
        args,
        {
            "values": values,
            "partials": partials,
            "relative_difference_to_bwd": relative,
            "gradients": grads,
            "loss": losses,
        },
    )
    common.save_pictures(
        args.output,
        graph=draw_graph(values, grads),
        descent=draw_descent(losses, args.learning_rate),
    )
    print(f"wrote result.json and the pictures to {args.output}")


def moderate_float(text: str) -> float:
    """An argument that is a number small enough for the network not to overflow."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in -{LARGEST} … {LARGEST}")
    return number


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("two_two_one", __doc__.splitlines()[0], random=False, trains=True)

    def add(option, default, names, description):
        shown = " ".join(map(str, default))
        parser.add_argument(
            option,
            nargs=len(default),
            type=moderate_float,
            default=default,
            metavar=names,
            help=f"{description} (default: {shown})",
        )

    add("--x", [0.05, 0.10], ("X0", "X1"), "inputs")
    add(
        "--weights",
        [0.15, 0.20, 0.25, 0.30, 0.40, 0.45],
        ("W0", "W1", "W2", "W3", "W4", "W5"),
        "weights",
    )
    add("--biases", [0.35, 0.35, 0.60], ("B0", "B1", "B2"), "biases")
    parser.add_argument(
        "--y", type=moderate_float, default=0.01, help="target (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        default=0.5,
        metavar="RATE",
        help="of gradient descent (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=common.positive_int,
        default=1000,
        metavar="N",
        help="of gradient descent (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    with jax.enable_x64(True):
        parser.run(run, args)


if __name__ == "__main__":
    main()
