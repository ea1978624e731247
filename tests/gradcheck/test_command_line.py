"""The command line checks what a file holds, and its exit status says how it went."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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
def run(tmp_path, capfd):
    """Run the command line on a file of this text: status, output and errors."""

    def go(text, *options, name="my_file.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        before = list(sys.path), set(sys.modules)
        status = main([str(path), *map(str, options)])
        assert sys.path == before[0]
        assert path.stem not in set(sys.modules) - before[1]
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return go


def names(out):
    """The names in the head lines of the reports, with the verdicts."""
    heads = (
        re.fullmatch(r"(\S+): (right|WRONG|not tested|could not be run)", line)
        for line in out.splitlines()
    )
    return {head[1]: head[2] for head in heads if head}


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
    heads = [f"{name}: right" for name in ("tanh", "affine", "square", "Scale")]
    assert out.splitlines() == [*heads, "4 right"]


def test_what_is_wrong_is_shown(run):
    status, out, _ = run(BAD, "--seed", "3")
    assert status == 1
    assert "affine: WRONG" in out
    assert "d_b is 0.143 × the true gradient" in out
    (again, other) = re.findall("^again: (.*)$", out, re.MULTILINE)
    assert again == other
    program, *arguments = again.split("jaxnn.gradcheck ")
    assert program == "python -m "
    assert main(shlex.split(*arguments)) == 1


@pytest.mark.parametrize("op", [False, True])
def test_examples_give_arguments_and_options(run, op):
    status, out, err = run(f"OP = {op}\n{DEFINED}")
    assert (status, err) == (0, "")
    assert names(out) == dict.fromkeys(["power", "leaky", "net", "Scale"], "right")


def test_json_is_json_whatever_the_file_prints(run):
    prints = "import os, sys\nprint('hello')\nos.system('echo shell')\n"
    inside = BAD.replace("def tanh_bwd(y, dy):", "def tanh_bwd(y, dy):\n    print('bwd')")
    status, out, err = run(prints + inside, "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert status == 1
    assert found["ok"] is False
    assert [(report["name"], report["verdict"]) for report in found["reports"]] == [
        ("tanh", "right"),
        ("affine", "WRONG"),
        ("square", "WRONG"),
        ("Scale", "right"),
    ]
    assert found["remarks"] == []
    assert "bwd" in err


def test_what_was_not_tested_is_not_right(run):
    text = "def f_forward(x): return 0 * x\ndef f_backward(dy): return 0 * dy\n"
    status, out, _ = run(f"{text}def examples(): return {{'f': 2.0}}")
    assert status == 1
    assert out.splitlines()[-1] == "1 not tested"


PAIR = "def f_forward(x): return 2 * x\ndef f_backward(dy): return 2 * dy\n"
UNKNOWABLE = "def g_forward(x): return x.of_a_kind\ndef g_backward(dy): return dy\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def (", "raised SyntaxError"),
        ("x = 1", "nothing in"),
        ("raise SystemExit('bye')", "nothing in"),
        ("from jaxnn import relu", "nothing in"),
        (
            UNKNOWABLE,
            "no arguments are known for g: write a function examples() that returns {'g': (",
        ),
        (f"{PAIR}def examples(): return 1 / 0", "examples() raised ZeroDivisionError"),
        (f"{PAIR}def examples(): return 3", "examples() must return a dict"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(run, text, words):
    status, out, err = run(text)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert words in line


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert main([str(tmp_path / "nothing.py")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_one_line_names_everything_without_arguments(run):
    other = UNKNOWABLE.replace("g_", "h_")
    status, out, err = run(GOOD + UNKNOWABLE + other)
    assert status == 0
    assert out.splitlines()[-1] == "4 right"
    (line,) = err.splitlines()
    assert "no arguments are known for g and h: " in line


@pytest.mark.parametrize(
    ("raises", "words"),
    [
        ("assert x.ndim == 3, 'three axes'", "three axes"),
        ("raise SystemExit('bye')", "bye"),
        ("raise ValueError('odd')", "odd"),
    ],
)
def test_code_that_raises_could_not_be_run(run, raises, words):
    text = f"import numpy as np\ndef f_forward(x):\n    {raises}\ndef f_backward(dy): return dy\n"
    status, out, _ = run(f"{text}def examples(): return {{'f': np.ones(3)}}")
    assert status == 1
    assert names(out) == {"f": "could not be run"}
    assert words in out


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


def test_annotations_give_shapes_and_kinds(run, monkeypatch):
    shapes = []
    text = ANNOTATED.replace("print(", "np.shapes.append((")
    monkeypatch.setattr(np, "shapes", shapes, raising=False)
    run(text.replace("keep.dtype)", "str(keep.dtype)))"))
    assert shapes[0][:7] == ((7, 5), (5, 6), (7, 3), (), (3, 4), True, np.int64)


# ---- files as they are found


LAYER = """
class Dense:
    def __init__(self, n_in, n_out):
        self.W, self.b = np.random.randn(n_in, n_out), np.zeros(n_out)
    def forward(self, x):
        self.x = x
        return x @ self.W + self.b
    def backward(self, dout):
        self.dW, self.db = self.x.T @ dout, dout.sum(0)
        return dout @ self.W.T
"""
TRAINING = f"""
import numpy as np
import sys, argparse
import a_library_that_is_missing as lib
{LAYER}
parser = argparse.ArgumentParser()
parser.add_argument("--slope", default=0.3)
SLOPE = parser.parse_args().slope
TABLE = {{}}
for i, name in enumerate("ab"):
    TABLE[name] = i + 1

def train(net):
    open("weights.txt", "w").write("trained")
    while True:
        pass

def leak(x):
    return np.where(x > 0, x, SLOPE * x)

def leak_prime(x):
    return np.where(x > 0, TABLE["a"], SLOPE)

net = Dense(2, 3)
train(net)
history = train(net)
data = np.loadtxt("data.csv")
name = input("name? ")
for epoch in range(10**9):
    out = net.forward(np.ones((4, 2)))
while True:
    pass
with open("log.txt", "w") as log:
    log.write("done")
sys.exit(3)
"""


def test_a_file_that_trains_is_read_without_its_training(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    status, out, err = run(TRAINING)
    assert time.monotonic() - start < 20
    assert status == 0
    assert names(out) == {"Dense": "right", "leak": "right"}
    assert "Dense(n_in=5, n_out=6), x (7, 5)" in out
    assert "line 4 (ModuleNotFoundError" in err
    assert [path.name for path in tmp_path.iterdir()] == ["my_file.py"]


def test_work_under_an_unusual_name_is_stopped(run):
    busy = "def brew():\n    while True: pass\nLIMIT = brew()\n"
    text = f"{busy}def f(x): return 2 * x\ndef f_prime(x): return 2 + 0 * x + 0 * (x > LIMIT)\n"
    start = time.monotonic()
    status, out, _ = run(text)
    assert time.monotonic() - start < 10
    assert (status, names(out)) == (2, {"f": "could not be run"})


def test_a_notebook_saved_as_a_script(run):
    magics = "get_ipython().run_line_magic('matplotlib', 'inline')\n%time x = 1\n!ls\nhelp?\n"
    status, out, _ = run(magics + PAIR)
    assert (status, names(out)) == (0, {"f": "right"})


ABSTRACT = """
from abc import ABC, abstractmethod
import numpy as np

class Base(ABC):
    @abstractmethod
    def forward(self, x): ...
    @abstractmethod
    def backward(self, dy): ...

class Other:
    def forward(self, x):
        \"\"\"Below.\"\"\"
        raise NotImplementedError
    def backward(self, dy):
        raise NotImplementedError

class Sine(Base, Other):
    def forward(self, x):
        self.x = x
        return np.sin(x)
    def backward(self, dy):
        return dy * -np.cos(self.x)
"""


def test_abstract_classes_are_skipped(run):
    status, out, err = run(ABSTRACT)
    assert (status, names(out), err) == (1, {"Sine": "WRONG"}, "")


def test_files_beside_it_count_and_share_their_modules(run, tmp_path):
    (tmp_path / "shapes.py").write_text(f"import numpy as np\n{LAYER}\nwhile True:\n    pass\n")
    (tmp_path / "given.py").write_text(
        "import numpy as np\nfrom shapes import Dense\nfrom my_file import Twice\n"
        "x = np.ones((5, 2))\n"
        "def examples(): return {'Dense': (Dense(2, 4), x), 'Twice': (Twice(), x), 'no': 1}\n"
    )
    text = "from math import sin\nfrom shapes import Dense\nclass Twice(Dense):\n"
    text += "    def __init__(self): Dense.__init__(self, 2, 3)\n"
    status, out, err = run(text, "--examples", tmp_path / "given.py")
    assert (status, names(out)) == (0, {"Dense": "right", "Twice": "right"})
    assert "examples() names no, but" in err


def test_a_package_with_relative_imports(run, tmp_path):
    inside = tmp_path / "nets" / "blocks"
    inside.mkdir(parents=True)
    (tmp_path / "nets" / "helpers.py").write_text("def double(x): return 2 * x\n")
    text = "from ..helpers import double\ndef f(x): return double(x)\n"
    text += "def f_backward(dy): return double(dy)\n"
    status, out, _ = run(text, name="nets/blocks/inner.py")
    assert (status, names(out)) == (0, {"f": "right"})


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("f_fwd", "f_bwd"),
        ("f_forward", "f_backward"),
        ("forward_f", "backward_f"),
        ("f", "f_backward"),
        ("f", "f_bwd"),
        ("f", "f_prime"),
        ("f", "f_derivative"),
        ("f", "f_deriv"),
        ("f", "d_f"),
        ("f", "df"),
        ("f", "f_grad"),
        ("f", "grad_f"),
        ("f_forward_naive", "f_backward_naive"),
        ("forward", "backward"),
        ("forward_propagation", "backward_propagation"),
    ],
)
def test_the_usual_names_of_pairs(run, forward, backward):
    status, out, _ = run(f"def {forward}(x): return 3 * x\ndef {backward}(dy): return 3 * dy\n")
    assert (status, list(names(out).values())) == (0, ["right"])


@pytest.mark.parametrize("forward", ["forward_pass", "fprop", "call", "__call__", "compute"])
@pytest.mark.parametrize("backward", ["backward_pass", "bprop", "backprop", "gradient"])
def test_the_usual_names_of_methods(run, forward, backward):
    text = f"class C:\n    def {forward}(self, x): return 3 * x\n"
    status, out, _ = run(f"{text}    def {backward}(self, dy): return 3 * dy\n")
    assert (status, names(out)) == (0, {"C": "right"})


GUESSED = """
import numpy as np

def rows_forward(x, w, b): return x @ w + b, (x, w)
def rows_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)

def keeps_forward(x, w, b): return x @ w + b, (x, w)
def keeps_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0, keepdims=True)

def columns_forward(A, W, b): return W @ A + b, (A, W)
def columns_backward(dZ, cache):
    A, W = cache
    return W.T @ dZ, dZ @ A.T, dZ.sum(axis=1, keepdims=True)

def step_forward(x, prev_h, Wx, Wh, b):
    h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return h, (x, prev_h, Wx, Wh, h)
def step_backward(dh, cache):
    x, prev_h, Wx, Wh, h = cache
    d = dh * (1 - h * h)
    return d @ Wx.T, d @ Wh.T, x.T @ d, prev_h.T @ d, d.sum(0)

def pool_forward(x, pool_param):
    s = pool_param["stride"] * pool_param["pool_height"]
    n, c, h, w = x.shape
    return x.reshape(n, c, h // s, s, w // s, s).mean((3, 5)), (s, x.shape)
def pool_backward(dout, cache):
    s, shape = cache
    return np.repeat(np.repeat(dout, s, 2), s, 3) / s**2

def softmax_loss(x, y):
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    n = np.arange(len(y))
    loss = -np.log(p[n, y]).mean()
    dx = p.copy()
    dx[n, y] -= 1
    return loss, dx / len(y)

def binary_entropy(p, y): return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
def binary_entropy_grad(p, y): return (p - y) / (p * (1 - p)) / p.size

class Stack:
    def __init__(self, sizes, bend):
        self.W1, self.W2 = (np.random.randn(*s) for s in zip(sizes, sizes[1:]))
        self.bend = bend
    def forward(self, x):
        self.x, self.a = x, self.bend(x @ self.W1)
        return self.a @ self.W2
    def backward(self, dy):
        da = dy @ self.W2.T * (1 - self.a**2)
        self.dW1, self.dW2 = self.x.T @ da, self.a.T @ dy
        return da @ self.W1.T

def build():
    return Stack([784, 100, 10], np.tanh)
"""


def test_arguments_are_guessed_by_trying_shapes(run):
    status, out, err = run(GUESSED)
    assert (status, err) == (0, "")
    wanted = ["rows", "keeps", "columns", "step", "pool", "softmax_loss", "binary_entropy", "Stack"]
    assert names(out) == dict.fromkeys(wanted, "right")
    assert "arguments guessed: A (5, 7), W (6, 5), b (6, 1)" in out
    assert "arguments guessed: x (7, 5), y (7,) of integers" in out
    assert "arguments guessed: x (7, 5), w (5, 6), b (1, 6)" in out
    assert "at x (7, 5), w (5, 6), b (6,) it is wrong" in out


FROM_LABELS = """
import numpy as np

def model_forward(X, params):
    hidden = np.tanh(params["W1"] @ X + params["b1"])
    P = 1 / (1 + np.exp(-params["W2"] @ hidden - params["b2"]))
    return P, (P, hidden)

def logistic_cost(P, Y):
    return -np.mean(np.sum(Y * np.log(P) + (1 - Y) * np.log(1 - P), axis=0))

def model_backward(params, cache, X, Y):
    P, hidden = cache
    dz = (P - Y) / Y.shape[1]
    dh = params["W2"].T @ dz * (1 - hidden**2)
    return {"dW2": dz @ hidden.T, "db2": dz.sum(1, keepdims=True),
            "dW1": dh @ X.T, "db1": dh.sum(1, keepdims=True)}

class Regression:
    def __init__(self, inputs, outputs):
        self.W = np.random.randn(inputs, outputs)
    def forward(self, x):
        self.x, self.p = x, x @ self.W
        return self.p
    def squared_error(self, p, y):
        return 0.5 * np.sum((p - y) ** 2)
    def backward(self, x, y):
        self.dW = self.x.T @ (self.p - y)

def perceptron(w, b, X, Y):
    P = 1 / (1 + np.exp(-w.T @ X - b))
    cost = -np.mean(Y * np.log(P) + (1 - Y) * np.log(1 - P))
    dw, db = X @ (P - Y).T / X.shape[1], np.mean(P - Y)
    return {"dw": dw, "db": db}, cost
"""


def test_the_loss_is_found_in_the_same_file(run):
    _, out, err = run(FROM_LABELS)
    assert names(out) == dict.fromkeys(["model", "Regression", "perceptron"], "right"), err
    assert "loss=logistic_cost, Y (6, 7) one-hot" in out
    assert "loss=squared_error, y (7, 6)" in out
    _, out, _ = run(FROM_LABELS.replace("(1 - hidden**2)", "(1 - hidden)"))
    assert names(out)["model"] == "WRONG"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("x.T @ dout, dout.sum(axis=0)", "x.T @ dout, dout.sum()"),
        (
            "return dout @ w.T, x.T @ dout, dout.sum(axis=0)",
            "return dout @ w, x.T @ dout, dout.sum(0)",
        ),
        ("return dout @ w.T, x.T @ dout, dout.sum(axis=0)", "return dout @ w.T, x.T @ dout, dout"),
    ],
)
def test_a_guess_hides_no_mistake(run, right, wrong):
    text = GUESSED[: GUESSED.index("def keeps_forward")]
    assert right in text
    status, out, _ = run(text.replace(right, wrong))
    assert (status, names(out)) == (1, {"rows": "WRONG"})


HOMEWORK = """
import numpy as np

class Net:
    def __init__(self, d_in, d_hidden, d_out):
        self.W1, self.b1 = np.random.randn(d_in, d_hidden), np.zeros(d_hidden)
        self.W2 = np.random.randn(d_hidden, d_out)
    def forward(self, X):
        self.X = X
        self.a = np.tanh(X @ self.W1 + self.b1)
        e = np.exp(self.a @ self.W2)
        self.p = e / e.sum(axis=1, keepdims=True)
        return self.p
    def loss(self, X, y):
        self.forward(X)
        return -np.log(self.p[np.arange(len(y)), y]).mean()
    def backward(self, y):
        dz = self.p.copy()
        dz[np.arange(len(y)), y] -= 1
        dz /= len(y)
        self.dW2 = self.a.T @ dz
        dz = dz @ self.W2.T * (1 - self.a**2)
        self.dW1, self.db1 = self.X.T @ dz, dz.sum(axis=0)
"""


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {
            "def loss(self, X, y)": "def cost(self, inputs, y)",
            "self.forward(X)": "self.forward(inputs)",
        },
        {"def loss(self, X, y)": "def loss(self, y)", "self.forward(X)": "pass"},
        {"loss(self, X, y)": "loss(self, p, y)", "self.forward(X)": "pass", "(self.p[": "(p["},
        {
            "loss(self, X, y)": "loss(self, y)",
            "self.forward(X)": "pass",
            "return self.p\n": "pass\n",
        },
    ],
    ids=["runs forward", "under another name", "reads output", "takes output", "stores output"],
)
def test_a_loss_that_is_a_method(run, loss):
    text = HOMEWORK
    for old, new in loss.items():
        text = text.replace(old, new)
    status, out, _ = run(text)
    assert (status, names(out)) == (0, {"Net": "right"})
    assert "Net(d_in=5, d_hidden=4, d_out=6), X (7, 5), loss=" in out
    assert "y (7,) of integers" in out
    status, out, _ = run(text.replace("1 - self.a**2", "1 - self.a"))
    assert (status, names(out)) == (1, {"Net": "WRONG"})
    assert re.findall(r"(\w+) +float64\S+ +\S+ +(right|WRONG)", out) == [
        ("W1", "WRONG"),
        ("b1", "WRONG"),
        ("W2", "right"),
    ]


def test_a_loss_that_reads_the_parameters(run):
    text = FROM_LABELS[FROM_LABELS.index("class") : FROM_LABELS.index("def perceptron")]
    text = "import numpy as np\n" + text.replace("(self, p, y)", "(self, x, y)")
    status, out, _ = run(text.replace("(p - y)", "(x @ self.W - y)"))
    assert (status, names(out)) == (0, {"Regression": "right"})
    text = FROM_LABELS[FROM_LABELS.index("class") : FROM_LABELS.index("def perceptron")]
    text = "import numpy as np\n" + text.replace("** 2)", "** 2) + np.sum(self.W**2)")
    status, out, _ = run(text)
    assert (status, names(out)) == (1, {"Regression": "WRONG"})
    status, out, _ = run(text.replace("(self.p - y)", "(self.p - y) + 2 * self.W"))
    assert (status, names(out)) == (0, {"Regression": "right"})


def test_no_size_is_chosen_for_the_sake_of_a_loss(run):
    text = HOMEWORK.replace("def loss(self, X, y)", "def loss(self, data, y)")
    text = text.replace(
        "self.forward(X)", "e = np.exp(np.tanh(data @ self.W1 + self.b1) @ self.W2)"
    )
    text = text.replace("-np.log(self.p[", "-np.log((e / e.sum(1, keepdims=True))[")
    status, out, _ = run(text)
    assert (status, names(out)) == (2, {"Net": "could not be run"})


def test_a_loss_that_calls_the_forward_of_another_object(run):
    text = HOMEWORK.replace(
        "def loss(self, X, y)", "criterion = Loss()\n    def loss(self, out, y)"
    )
    text = text.replace("self.forward(X)", "return self.criterion.forward(out, y)")
    loss = "    def forward(self, p, y): return -np.log(p[np.arange(len(y)), y]).mean()\n"
    _, out, _ = run(text.replace("class Net:", f"class Loss:\n{loss}class Net:"))
    assert names(out)["Net"] == "right"


def test_a_loss_that_is_wrong_at_one_shape_is_wrong(run):
    text = """
class MSE:
    def forward(self, pred, target):
        self.pred, self.target = pred, target
        return ((pred - target) ** 2).mean()
    def backward(self):
        return 2 * (self.pred - self.target) / len(self.target)
"""
    status, out, _ = run(text)
    assert (status, names(out)) == (1, {"MSE": "WRONG"})
    assert "d_pred is 5 ×" in out
    status, out, _ = run(text.replace("len(self.target)", "self.target.size"))
    assert (status, names(out)) == (0, {"MSE": "right"})
    text = GUESSED[GUESSED.index("def binary_entropy") : GUESSED.index("class Stack")]
    status, out, _ = run("import numpy as np\n" + text.replace("p.size", "len(p)"))
    assert (status, names(out)) == (1, {"binary_entropy": "WRONG"})


def test_a_guessed_eps_is_not_negligible(run):
    text = """
import jax, jax.numpy as jnp
from functools import partial

@partial(jax.custom_vjp, nondiff_argnums=(1,))
def smooth_abs(x, eps):
    return jnp.sqrt(x**2 + eps**2)

def fwd(x, eps):
    y = smooth_abs(x, eps)
    return y, (x, y)

def bwd(eps, res, dy):
    x, y = res
    return (dy * x / y,)

smooth_abs.defvjp(fwd, bwd)
"""
    status, out, _ = run(text)
    assert (status, names(out)) == (0, {"smooth_abs": "right"})
    status, out, _ = run(text.replace("x / y", "y / x"))
    assert (status, names(out)) == (1, {"smooth_abs": "WRONG"})
