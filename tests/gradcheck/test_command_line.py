"""The command line checks what a file holds, and its exit status says how it went."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnn.gradcheck.__main__ import main

ROOT = Path(__file__).parents[2]

GOOD = """
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def tanh(x: Float[Array, "N I"]):
    return jnp.tanh(x)

def tanh_fwd(x):
    y = jnp.tanh(x)
    return y, y

def tanh_bwd(y, dy):
    return ((1 - y * y) * dy,)


def affine_forward(x: Float[Array, "N I"], w: Float[Array, "I O"], b: Float[Array, "O"]):
    return x @ w + b, (x, w)

def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


@jax.custom_vjp
def square(x: Float[Array, "..."]):
    return x * x

def square_fwd(x):
    return x * x, x

def square_bwd(x, dy):
    return (2 * x * dy,)

square.defvjp(square_fwd, square_bwd)


class Scale:
    def __init__(self, s=None):
        self.s = np.arange(1.0, 6.0) if s is None else s

    def forward(self, x: Float[np.ndarray, "N 5"]):
        self.x = x
        return x * self.s

    def backward(self, g):
        self.ds = (self.x * g).sum(0)
        return g * self.s
"""

BAD = GOOD.replace("2 * x * dy", "x * dy").replace("dout.sum(0)", "dout.mean(0)")

DEFINED = """
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import jaxnn

def power_forward(x, exponent):
    return x**exponent, x

def power_backward(dy, x, exponent=2):
    return exponent * x ** (exponent - 1) * dy

class Nothing(NamedTuple):
    pass

if OP:
    @jaxnn.op
    def leaky(x):
        return x * 2

    @leaky.forward
    def leaky_fwd(x):
        return x * 2, Nothing()

    @leaky.backward
    def leaky_bwd(residuals, dy):
        return (2 * dy,)
else:
    def leaky_definition(x, *, slope=0.1):
        return jnp.where(x > 0, x, slope * x)

    def leaky_forward(x, *, slope=0.1):
        return leaky_definition(x, slope=slope), x

    def leaky_backward(residuals, dy, *, slope=0.1):
        return (jnp.where(residuals > 0, dy, slope * dy),)

net = jaxnn.serial(jaxnn.tanh, jaxnn.softmax)

class Scale:
    def __init__(self, s):
        self.s = s
    def __call__(self, x):
        self.x = x
        return x * self.s
    def backward(self, g):
        self.mine = (self.x * g).sum(0)
        return g * self.s

def examples():
    x = np.linspace(-1, 1.1, 6).reshape(2, 3)
    return {
        "leaky": x if OP else ((x,), {"slope": 0.3}),
        "power": ((x,), {"exponent": 3}),
        "net": x,
        "Scale": ((Scale(x[0]), x), {"grads": {"s": "mine"}}),
    }
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line on a file of this text: status, output and errors."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "checked_my_file", None)

    def go(text, *options):
        path = tmp_path / "my_file.py"
        path.write_text(text)
        try:
            status = main([str(path), *options])
        except SystemExit as left:
            status = left.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return go


@pytest.mark.parametrize(
    ("text", "status", "last"), [(GOOD, 0, "4 right"), (BAD, 1, "2 right, 2 WRONG")]
)
def test_the_program(tmp_path, text, status, last):
    path = tmp_path / "my_file.py"
    path.write_text(text)
    command = [sys.executable, "-m", "jaxnn.gradcheck", path]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == status, finished.stderr
    assert finished.stdout.splitlines()[-1] == last


def test_everything_in_a_file_is_found(run):
    status, out, err = run(GOOD)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "tanh: right",
        "affine: right",
        "square: right",
        "Scale: right",
        "4 right",
    ]


def test_what_is_wrong_is_shown(run):
    status, out, _ = run(BAD, "--seed", "3")
    assert status == 1
    assert "affine: WRONG" in out
    assert "d_b is 0.143 × the true gradient" in out
    assert "check_numpy(affine_forward, affine_backward, *args, seed=3)" in out


@pytest.mark.parametrize("op", [False, True])
def test_examples_give_arguments_and_options(run, op):
    status, out, err = run(f"OP = {op}\n{DEFINED}")
    assert (status, err) == (0, "")
    names = ["power", "leaky", "net", "Scale"]
    assert out.splitlines() == [*(f"{name}: right" for name in names), "4 right"]


def test_json(run):
    status, out, _ = run(BAD, "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert status == 1
    assert found["ok"] is False
    assert [(report["name"], report["ok"]) for report in found["reports"]] == [
        ("tanh", True),
        ("affine", False),
        ("square", False),
        ("Scale", True),
    ]
    assert found["unusable"] == []


def test_what_was_not_tested_is_not_right(run):
    text = "def f_forward(x): return 0 * x\ndef f_backward(dy): return 0 * dy\n"
    status, out, _ = run(f"{text}def examples(): return {{'f': 2.0}}")
    assert status == 1
    assert out.splitlines()[-1] == "1 not tested"


MADE_WITH_ARGUMENTS = """
class C:
    def __init__(self, s): self.s = s
    def forward(self, x): return x * self.s
    def backward(self, dy): return dy * self.s

def examples(): return {"C": 2.0}
"""
PAIR = "def f_forward(x): return 2 * x\ndef f_backward(dy): return 2 * dy\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("raise SystemExit('bye')", "raised SystemExit: bye"),
        ("def (", "raised SyntaxError"),
        ("x = 1", "nothing in"),
        ("from jaxnn import relu", "nothing in"),
        (PAIR, "no arguments are known for f: have examples() return {'f': (its arguments, …)}"),
        (PAIR.replace("(x)", "(x: 'undefined')"), "the annotations of f"),
        (f"{PAIR}def examples(): return 1 / 0", "examples() raised ZeroDivisionError"),
        (f"{PAIR}def examples(): return 3", "examples() must return a dict"),
        (MADE_WITH_ARGUMENTS, "C: TypeError: C.__init__() missing 1 required"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(run, text, words):
    status, _, err = run(text)
    assert status == 2
    (line,) = err.splitlines()
    assert words in line


def test_a_file_that_is_not_there(run, tmp_path):
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "nothing.py")])
    assert left.value.code == 2


def test_the_rest_is_checked_where_one_has_no_arguments(run):
    status, out, err = run(GOOD + PAIR)
    assert status == 2
    assert out.splitlines()[-1] == "4 right"
    assert len(err.splitlines()) == 1


ANNOTATED = """
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped
import numpy as np

def f_forward(x: Float[Array, "N I"], w: Float32[Array, "I *O"], n: Int[Array, "N 3"],
              keep: Bool[Array, ""], rest: Float[Array, "... _"], option=None):
    print(x.shape, w.shape, n.shape, keep.shape, rest.shape, n.min() >= 0, n.dtype, keep.dtype)
    return 2 * x

def f_backward(dy, cache=None):
    return 2 * dy
"""


def test_annotations_give_shapes_and_kinds(run):
    _, out, _ = run(ANNOTATED)
    assert out.splitlines()[0] == "(7, 5) (5, 6) (7, 3) () (3, 4) True int64 bool"


def test_a_computed_axis_is_not_guessed(run):
    status, _, err = run(ANNOTATED.replace("N 3", "N+1"))
    assert status == 2
    assert "no arguments are known for f" in err
