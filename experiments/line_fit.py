"""A line through real data: the closed form against SGD, and the Taylor test of the gradient.

python -m experiments.line_fit
"""

from argparse import Namespace

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jaxnn
from experiments import common, resume
from jaxnn.layer import Params

datasets = common.require("sklearn.datasets")
tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

START = {"w": np.array([[1.7]]), "b": np.array([1.0])}  # far enough to see the path
DECAY = 1 / 300  # the last learning rate over the first
STEPS = np.logspace(-5, -2, 13)  # of the Taylor test
BMI, PROGRESSION = "body mass index (kg/m²)", "progression of diabetes after one year (score)"


def load() -> tuple[np.ndarray, np.ndarray]:
    """Body mass index and progression of diabetes of 442 patients, each (442, 1)."""
    data = datasets.load_diabetes(scaled=False)
    return data.data[:, [data.feature_names.index("bmi")]], data.target[:, None]


def standardise(array: np.ndarray) -> np.ndarray:
    return (array - array.mean()) / array.std()


def in_units_of_data(w, b, x: np.ndarray, y: np.ndarray):
    """The line of the standardised data as one of the data itself.

    From (ŷ − ȳ)/σ_y = w·(x − x̄)/σ_x + b, the slope is w·σ_y/σ_x and the intercept
    ȳ + σ_y·b − slope·x̄.
    """
    slope = w * y.std() / x.std()
    return slope, y.mean() + y.std() * b - slope * x.mean()


def mean_squared_error(w, b, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each of the lines w·x + b, whatever the shape of w and b."""
    w, b = np.asarray(w)[..., None], np.asarray(b)[..., None]
    return np.mean((w * x.ravel() + b - y.ravel()) ** 2, axis=-1)


def descend(args: Namespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SGD on the standardised data: w and b before the training and after each epoch, (epochs, 2).

    The learning rate decays by the same factor at each step. With a constant one the noise of the
    minibatches would keep w and b at a distance from the closed form.
    """
    u, v = standardise(x), standardise(y)
    steps = args.epochs * -(-len(x) // args.batch_size)
    folder = resume.folder(args, "line")
    recorder = resume.Recorder(folder, lambda training: _numbers(training.params))
    training = common.fit(
        jaxnn.Linear(1, 1),
        jaxnn.squared_error,
        START,
        (u, v),
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=optax.sgd(optax.exponential_decay(args.learning_rate, steps, DECAY)),
        seed=args.seed,
        callbacks=recorder,
        checkpoint=folder,
        checkpoint_seconds=resume.SECONDS,
    )
    return np.array([_numbers(START), *recorder.epochs(training)])


def _numbers(params: Params) -> tuple[float, float]:
    """w and b."""
    return params["w"].item(), params["b"].item()


def taylor_remainders(gradient, seed: int) -> dict[str, np.ndarray]:
    """|L(θ + h·d) − L(θ) − h·⟨g, d⟩| at each step h, d a random direction of length 1.

    It falls as h² where g is the gradient of L at θ, and only as h with any other g.

    Args:
        gradient: `params -> (L, g)`.
        seed: of the direction.
    """
    theta, unravel = ravel_pytree(START)
    direction = np.random.default_rng(seed).normal(size=theta.size)
    direction /= np.linalg.norm(direction)
    value, grads = gradient(unravel(theta))
    changes = np.array([gradient(unravel(theta + h * direction))[0] - value for h in STEPS])
    slope = ravel_pytree(grads)[0] @ direction
    return {
        "bwd": abs(changes - STEPS * slope),
        "bwd without the factor 2": abs(changes - STEPS * slope / 2),
    }


def order(remainders: np.ndarray) -> float:
    """The slope of the remainder against the step, both logarithmic."""
    return float(np.polyfit(np.log(STEPS), np.log(remainders), 1)[0])


def describe_line(w: float, b: float, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    mse = float(mean_squared_error(w, b, x, y))
    return {"w": float(w), "b": float(b), "sse": mse * len(y), "r2": 1 - mse / y.var()}


def draw_lines(x: np.ndarray, y: np.ndarray, lines: dict, worst: float):
    """The data and the two lines."""
    figure, axes = plt.subplots(figsize=(7, 4.4))
    axes.plot(x, y, "o", color="#999999", markersize=3.5, markeredgewidth=0, label="a patient")
    ends = np.array([x.min(), x.max()])
    for (name, line), width, style in zip(lines.items(), (4, 1.6), ("-", "--"), strict=True):
        sign = "−" if line["b"] < 0 else "+"
        label = f"{name}: ŷ = {line['w']:.3f}·x {sign} {abs(line['b']):.2f}"
        axes.plot(ends, line["w"] * ends + line["b"], style, linewidth=width, label=label)
    axes.set(xlabel=BMI, ylabel=PROGRESSION, ylim=(0, 430))  # room for the legend
    axes.set_title(
        f"SGD ends within {worst:.0e} (relative) of the closed form's w and b;\n"
        f"the line explains {lines['closed form']['r2']:.0%} of the variance".replace("-", "−")
    )
    axes.legend(loc="upper left")
    return figure


def draw_surface(x: np.ndarray, y: np.ndarray, path: np.ndarray):
    """The loss as contours and the path on it, in standardised units and in those of the data."""
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 4.75))
    levels = [0.7, 1, 2, 4, 8, 16]
    data_path = np.stack(in_units_of_data(*path.T, x, y), axis=-1)
    views = {
        "standardised data": (standardise(x), standardise(y), path),
        "units of the data": (x, y, data_path),
    }
    for axes, (name, (x, y, path)) in zip(panels, views.items(), strict=True):
        design = np.hstack([x, np.ones_like(x)])
        optimum = np.linalg.lstsq(design, y)[0].ravel()
        reach = 1.2 * np.abs(path[0] - optimum)
        w, b = np.linspace(optimum - reach, optimum + reach, 401).T
        loss = mean_squared_error(*np.meshgrid(w, b), x, y) / y.var()
        axes.contour(w, b, loss, levels, colors="#777777", linewidths=1, linestyles="-")
        axes.plot(*path.T, ".-", color="C1", label="SGD by epoch")
        axes.plot(*path[0], "s", color="black", label="start")
        axes.plot(*path[-1], "*", color="C0", markersize=11, label="end")
        axes.plot(*optimum, "o", color="black", fillstyle="none", ms=14, label="closed form")
        axes.grid(False)
        axes.set_title(f"{name}: condition number {np.linalg.cond(design.T @ design):,.0f}")
    panels[0].set(xlabel="slope w", ylabel="intercept b", aspect="equal")
    panels[1].set(xlabel="slope w (score per kg/m²)", ylabel="intercept b (score)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4)
    figure.suptitle(
        "Standardising the data turns the narrow valley of the loss into a round bowl;\n"
        f"contours, from the inside: {', '.join(map(str, levels))} times the variance of y"
    )
    return figure


def draw_taylor(remainders: dict[str, np.ndarray]):
    """The Taylor remainder against the step."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for (name, values), style in zip(remainders.items(), ("o-", "s--"), strict=True):
        axes.loglog(STEPS, values, style, label=f"g = {name}")
    axes.set(xlabel="step h", ylabel="|L(θ + h·d) − L(θ) − h·⟨g, d⟩|")
    right, wrong = map(order, remainders.values())
    axes.set_title(
        f"Taylor test: order {right:.2f} with the right gradient, {wrong:.2f} with a wrong one"
    )
    axes.legend()
    return figure


def run(args: Namespace, x: np.ndarray, y: np.ndarray) -> None:
    """Fit by both ways, test the gradient and write everything to the output folder."""
    print(
        f"diabetes: {len(x)} patients, {BMI} → {PROGRESSION}\n"
        f"SGD on standardised x and y, learning rate {args.learning_rate:g} decaying to "
        f"{args.learning_rate * DECAY:.1g}, batches of {args.batch_size}, epochs {args.epochs}, "
        f"seed {args.seed}; its line is given in the units of the data"
    )
    path = descend(args, x, y)
    exact = jaxnn.least_squares(x, y)
    lines = {
        "closed form": describe_line(exact["w"].item(), exact["b"].item(), x, y),
        "SGD": describe_line(*in_units_of_data(*path[-1], x, y), x, y),
    }
    relative_error = {
        leaf: abs(lines["SGD"][leaf] / lines["closed form"][leaf] - 1) for leaf in "wb"
    }
    gradient = jax.jit(jaxnn.value_and_grad(jaxnn.Linear(1, 1), jaxnn.squared_error))
    remainders = taylor_remainders(
        lambda params: gradient(params, standardise(x), standardise(y)), args.seed
    )
    orders = {name: order(values) for name, values in remainders.items()}

    rows = [[name, *(f"{value:.8g}" for value in line.values())] for name, line in lines.items()]
    rows.append(["relative error", *(f"{relative_error[leaf]:.1e}" for leaf in "wb")])
    headers = ["", "w", "b", "SSE", "R²"]
    print(f"\n{tabulate(rows, headers, disable_numparse=True, stralign='right')}\n")
    print("Taylor remainder of the loss")
    for name, value in orders.items():
        print(f"  g = {name}: order {value:.2f}")

    common.write_result(
        args.output,
        args,
        {
            "closed_form": lines["closed form"],
            "sgd": lines["SGD"],
            "relative_error": relative_error,
            "taylor_order": orders,
        },
    )
    common.save_pictures(
        args.output,
        lines=draw_lines(x, y, lines, max(relative_error.values())),
        surface=draw_surface(x, y, path),
        taylor=draw_taylor(remainders),
    )
    print(f"\nwrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("line_fit", __doc__.splitlines()[0], trains=True)
    parser.add_argument(
        "--epochs", type=common.positive_int, metavar="N", default=500, help="default: %(default)s"
    )
    parser.add_argument(
        "--batch-size",
        type=common.positive_int,
        metavar="N",
        default=34,
        help="default: %(default)s, which divides the 442 patients",
    )
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        metavar="RATE",
        default=0.02,
        help=f"of the first step; the last one's is {1 / DECAY:.0f} times smaller "
        "(default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    x, y = load()
    parser.check_batch_size(args.batch_size, len(x), "patients")
    with jax.enable_x64(True):
        parser.run(run, args, x, y)


if __name__ == "__main__":
    main()
