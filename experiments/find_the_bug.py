"""Find the bug: a backward pass with one mistake in it; guess, then read the diagnosis.

python -m experiments.find_the_bug --number 3
"""

import re
import sys
from argparse import Namespace

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

LEGEND = f"""\
x    the inputs, {BATCH} × {SIZES[0]}; y their classes, one-hot, {BATCH} × {SIZES[2]}
w, b the weights and biases of the two layers
z    what a layer computes before its activation; a = tanh(z) after it
p    the probabilities of the classes, softmax(z2)
d2   the gradient of the loss with respect to z2, ∂L/∂z2; d1 = ∂L/∂z1
dw1  the gradient of the loss with respect to w1, ∂L/∂w1, and so on
"""

# The names in the code of the gradients that the diagnosis calls by their places in the network.
NAMES = {
    "params[0]['w']": "dw1",
    "params[0]['b']": "db1",
    "params[2]['w']": "dw2",
    "params[2]['b']": "db2",
}

# The letters of the diagnosis, in the terms of the code.
LETTERS = {
    "δ": "δ is the gradient with respect to z: d2 at the output, d1 in the layer before.",
    "f": "f is the activation, here tanh, and f' its derivative: f'(z1) = 1 - a1**2.",
    "N": f"N is the number of examples, here {BATCH}.",
    "K": f"K is the number of outputs, here {SIZES[2]}.",
    "W": "W is the weights of a layer, here w1 or w2.",
    "η": f"η is the learning rate, here {RATE}.",
    "ŷ": "ŷ is the prediction, here p.",
}

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


def wrong_lines(number: int) -> list[int]:
    """The numbers of the lines of an exercise that are not as they should be.

    Args:
        number: from 1 to the number of exercises.
    """
    right = BACKWARD.splitlines()
    lines = source(number).splitlines()
    return [i for i, line in enumerate(lines, 1) if line not in right]


def correction(number: int) -> str:
    """The wrong lines of an exercise, and what should stand there.

    Args:
        number: from 1 to the number of exercises.
    """
    lines, right = source(number).splitlines(), BACKWARD.splitlines()
    shown = [f"{i:3}  {lines[i - 1]}" for i in wrong_lines(number)]
    missing = [f"     {line}" for line in right if line not in lines]
    ending = ["should be", *missing] if missing else ["should not be there."]
    return "\n".join([*shown, *ending])


def is_repaired(number: int, line: int, code: str) -> bool:
    """Whether all gradients of an exercise are right with another line in place of one.

    Args:
        number: from 1 to the number of exercises.
        line: the number of the line.
        code: what stands there instead; `pass` for nothing.
    """
    lines = source(number).splitlines()
    lines[line - 1] = f"    {code.strip()}"
    try:
        mine = gradients("\n".join(lines), *example())
    except Exception:  # a reader's line may raise anything
        return False
    right = gradients(BACKWARD, *example())
    return all(
        np.shape(m) == r.shape and np.allclose(m, r) for m, r in zip(mine, right, strict=True)
    )


def example(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Random parameters, inputs and classes.

    Args:
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    shapes = [(5, 6), (6,), (6, 3), (3,)]
    params = [0.6 * random.normal(size=shape) for shape in shapes]
    return params, random.normal(size=(BATCH, SIZES[0])), np.eye(3)[random.integers(0, 3, BATCH)]


def gradients(code: str, params: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple:
    """The gradients dw1, db1, dw2, db2 that a backward pass returns."""
    scope: dict = {"np": np}
    exec(code, scope)
    return scope["backward"](*params, x, y, RATE)


def answer(number: int, seed: int = 0) -> Diagnosis:
    """The diagnosis of an exercise at random parameters and data.

    Args:
        number: from 1 to the number of exercises.
        seed: of the parameters and the data.
    """
    with jax.enable_x64(True):
        params, x, y = example(seed)
        mine = gradients(source(number), params, x, y)
        return diagnose(
            jaxnn.mlp(SIZES, jaxnn.tanh),
            jaxnn.softmax_cross_entropy,
            jax.tree.map(jnp.asarray, _tree(*params)),
            jnp.asarray(x),
            jnp.asarray(y),
            _tree(*mine),
            learning_rate=RATE,
        )


def in_code(text: str) -> str:
    """A diagnosis with the names of the code for the gradients, in its table and its sentences."""
    for path, name in NAMES.items():
        text = re.sub(rf"{re.escape(path)}(?= {{2}})", name.ljust(len(path)), text)
        text = text.replace(path, name)
    return text


def letters(text: str) -> list[str]:
    """A sentence on each of the letters that a text contains."""
    return [told for letter, told in LETTERS.items() if re.search(rf"(?<!\w){letter}(?!\w)", text)]


def _tree(w1, b1, w2, b2) -> tuple:
    """Arrays in the structure of the network's parameters."""
    return {"w": w1, "b": b1}, (), {"w": w2, "b": b2}, ()


def numbered(code: str) -> str:
    """Source with line numbers."""
    return "\n".join(f"{i:3}  {line}" for i, line in enumerate(code.splitlines(), 1))


def ask(number: int) -> None:
    """Have the reader guess the line, and then what should stand there."""
    wrong, last = wrong_lines(number), len(source(number).splitlines())
    while (said := _read(f"Which line is wrong? (1 … {last}; Enter shows the answer) ")) != "":
        if said in map(str, wrong):
            print(f"Yes, line {said}.")
            break
        print(f"Line {said} is right." if said.isdecimal() else "Please give the number of a line.")
    else:
        print(f"It is line {wrong[0]}.")
        return
    while (code := _read("What should stand there? (pass for nothing; Enter shows it) ")) != "":
        if is_repaired(number, int(said), code):
            print("Yes: with this line every gradient is right.")
            return
        print("With this line, some gradient is still wrong.")


def _read(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""
    except KeyboardInterrupt:
        print()  # the question's line ends here
        raise


def run(args: Namespace) -> None:
    """Show an exercise, have the reader guess, and print the diagnosis."""
    if args.list:
        for number, (mistake, *_) in enumerate(EXERCISES, 1):
            kind = MISTAKES[mistake].name if args.answer else f"a mistake of kind {mistake[0]}"
            print(f"{number:3}  {kind}")
        return
    print(
        f"A tanh network {'-'.join(map(str, SIZES))} with softmax cross-entropy, the mean over "
        f"{BATCH} examples.\nThere is one mistake in its backward pass.\n\n"
        f"{numbered(source(args.number))}\n\n{LEGEND}"
    )
    if not args.answer:
        if not sys.stdin.isatty():
            print("The answer: --answer")
            return
        ask(args.number)
    diagnosis = in_code(str(answer(args.number)))
    print("\n".join(["", correction(args.number), "", diagnosis, "", *letters(diagnosis)]))


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
    parser.run(run, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
