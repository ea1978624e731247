"""Find the bug: a backward pass with one mistake in it; guess, then read the diagnosis.

python -m experiments.find_the_bug --number 3
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common
from jaxnn.gradcheck import MISTAKES, Diagnosis, diagnose

SIZES, BATCH, RATE = (5, 6, 3), 7, 0.1

BACKWARD = """\
def backward(w1, b1, w2, b2, x, y, learning_rate):
    n = len(x)
    z1 = x @ w1 + b1
    a1 = np.tanh(z1)
    z2 = a1 @ w2 + b2
    e = np.exp(z2 - z2.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    d2 = (p - y) / n
    dw2 = a1.T @ d2
    db2 = d2.sum(axis=0)
    d1 = (d2 @ w2.T) * (1 - a1**2)
    dw1 = x.T @ d1
    db1 = d1.sum(axis=0)
    return dw1, db1, dw2, db2
"""

# The mistake, the right line, and what stands in its place.
EXERCISES = (
    ("C2", "d2 = (p - y) / n", "d2 = p - y"),
    ("C1", "d2 = (p - y) / n", "d2 = (y - p) / n"),
    ("A1", "d1 = (d2 @ w2.T) * (1 - a1**2)", "d1 = d2 @ w2.T"),
    ("S2", "db2 = d2.sum(axis=0)", "db2 = d2"),
    ("C3", "db1 = d1.sum(axis=0)", "db1 = d1.mean(axis=0)"),
    ("A2", "(1 - a1**2)", "(1 - z1**2)"),
    ("D1", "dw2 = a1.T @ d2", "dw2 = z1.T @ d2"),
    ("L2", "d2 = (p - y) / n", "d2 = p * ((p - y) - (p * (p - y)).sum(axis=1, keepdims=True)) / n"),
    ("S1", "dw1 = x.T @ d1", "dw1 = d1.T @ x"),
    ("A3", "(1 - a1**2)", "a1"),
    ("L1", "d2 = (p - y) / n", "d2 = (-y / p) * p * (1 - p) / n"),
    ("D2", "d1 = (d2 @ w2.T)", "w2 = w2 - learning_rate * dw2\n    d1 = (d2 @ w2.T)"),
    (
        "L3",
        "d2 = (p - y) / n",
        "q = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)\n    d2 = (q - y) / n",
    ),
    ("D5", "d2 = (p - y) / n", "d2 = np.where(np.arange(n)[:, None] == n - 1, p - y, 0) / n"),
    ("S3", "db1 = d1.sum(axis=0)", "db1 = d1.sum(axis=1)"),
    ("L5", "d2 = (p - y) / n", "d2 = (p - 1) / n"),
)


def source(number: int) -> str:
    """The backward pass of an exercise, with its mistake.

    Args:
        number: from 1 to the number of exercises.
    """
    _, right, wrong = EXERCISES[number - 1]
    return BACKWARD.replace(right, wrong)


def answer(number: int, seed: int = 0) -> Diagnosis:
    """The diagnosis of an exercise at random parameters and data.

    Args:
        number: from 1 to the number of exercises.
        seed: of the parameters and the data.
    """
    with jax.enable_x64(True):
        random = np.random.default_rng(seed)
        shapes = [(5, 6), (6,), (6, 3), (3,)]
        w1, b1, w2, b2 = (0.6 * random.normal(size=shape) for shape in shapes)
        x, y = random.normal(size=(BATCH, SIZES[0])), np.eye(3)[random.integers(0, 3, BATCH)]
        scope = {"np": np}
        exec(source(number), scope)
        dw1, db1, dw2, db2 = scope["backward"](w1, b1, w2, b2, x, y, RATE)
        params = jax.tree.map(jnp.asarray, ({"w": w1, "b": b1}, (), {"w": w2, "b": b2}, ()))
        return diagnose(
            jaxnn.mlp(SIZES, jaxnn.tanh),
            jaxnn.softmax_cross_entropy,
            params,
            jnp.asarray(x),
            jnp.asarray(y),
            ({"w": dw1, "b": db1}, (), {"w": dw2, "b": db2}, ()),
            learning_rate=RATE,
        )


def numbered(code: str) -> str:
    """Source with line numbers."""
    return "\n".join(f"{i:3}  {line}" for i, line in enumerate(code.splitlines(), 1))


def main(arguments: list[str] | None = None) -> None:
    description = __doc__.splitlines()[0]
    parser = common.Parser("find_the_bug", description, writes=False, random=False)
    parser.add_argument("--list", action="store_true", help="list the exercises and leave")
    parser.add_argument(
        "--number",
        type=common.integer(1, len(EXERCISES)),
        default=1,
        metavar="N",
        help=f"which exercise, 1 … {len(EXERCISES)} (default: %(default)s)",
    )
    parser.add_argument("--answer", action="store_true", help="print the diagnosis at once")
    args = parser.parse_args(arguments)
    if args.list:
        for number, (mistake, *_) in enumerate(EXERCISES, 1):
            kind = MISTAKES[mistake].name if args.answer else f"a mistake of kind {mistake[0]}"
            print(f"{number:3}  {kind}")
        return
    print(
        f"A tanh network {'-'.join(map(str, SIZES))} with softmax cross-entropy, the mean over "
        f"{BATCH} examples.\nOne line of its backward pass is wrong. Which one, and why?\n\n"
        f"{numbered(source(args.number))}\n"
    )
    if not args.answer:
        if not sys.stdin.isatty():
            print("The answer: --answer")
            return
        input("Press Enter for the diagnosis. ")
    print(answer(args.number))


if __name__ == "__main__":
    main()
