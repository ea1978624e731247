"""Planted mistakes, and the lines and changes that should be found for them."""

import inspect
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.gradcheck.repair import Trial, find_repairs
from jaxnn.gradcheck.repair.search import search as search_or_raise


def dense(x, w, b):
    a = np.tanh(x @ w + b)
    return a, (x, w, a)


def dense_mean(dy, cache):
    x, w, a = cache
    dz = dy * (1 - a**2)
    return dz @ w.T, x.T @ dz, dz.mean(axis=0)  # here


def dense_plus(dy, cache):
    x, w, a = cache
    dz = dy * (1 + a**2)  # here
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


def dense_linear(dy, cache):
    x, w, _a = cache
    dz = dy  # here
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


def dense_without_square(dy, cache):
    x, w, a = cache
    dz = dy * (1 - a)  # here
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


def dense_sigmoid(dy, cache):
    x, w, a = cache
    dz = dy * a * (1 - a)  # here
    return dz @ w.T, x.T @ dz, dz.sum(axis=0)


def dense_in_wrong_order(dy, cache):
    x, w, a = cache
    dz = dy * (1 - a**2)
    return x.T @ dz, dz @ w.T, dz.sum(axis=0)  # here


def dense_weights_of_gradient(dy, cache):
    x, w, a = cache
    dz = dy * (1 - a**2)
    dw = x.T @ dy  # here
    return dz @ w.T, dw, dz.sum(axis=0)


def dense_over_rows(dy, cache):
    x, w, a = cache
    dz = dy * (1 - a**2)
    dw = x.T @ dz / len(x)  # here
    return dz @ w.T, dw, dz.sum(axis=0)


def dense_endless(dy, cache):
    x, w, a = cache
    dz, n = dy * (1 - a**2), 0
    while n < 1:
        n = n + 1
    return dz @ w.T, x.T @ dz, -dz.sum(axis=0)  # here


class Accumulator:
    """A sum over time whose backward keeps one term."""

    def forward(self, xs, w):
        self.xs, self.w = xs, w
        return sum(np.sin(x * w) for x in xs)

    def backward(self, dy):
        dw = np.zeros_like(self.w)
        for x in self.xs:
            dw = dy * x * np.cos(x * self.w)  # here
        return dy * self.w * np.cos(self.xs * self.w), dw


@jax.custom_vjp
def gate(x, s):
    return x * jax.nn.sigmoid(s)


def gate_fwd(x, s):
    p = jax.nn.sigmoid(s)
    return x * p, (x, p)


def gate_bwd(res, g):
    x, p = res
    return g * p, g * x * p * (1 + p)  # here


gate.defvjp(gate_fwd, gate_bwd)


def power(x, rate):
    """The powers of the rows, with an exponent that is an option."""
    return np.sign(x) * np.abs(x) ** rate


def power_of_two(dy, x, rate):
    return dy * 2 * np.abs(x) ** (rate - 1)  # here


def drop(x, keep, rate):
    return x * keep / (1 - rate)


def drop_unscaled(dy, keep, rate):
    return dy * keep  # here


def gathered(table):
    return table[[0, 2, 2, 1]]


def gathered_once(dy, table):
    dtable = np.zeros_like(table)
    index = np.array([0, 2, 2, 1])
    dtable[index] += dy  # here
    return dtable


def chosen(x):
    return np.sin(x) * (x > 0.2)


def chosen_by_slot(dy, x):
    dx = np.zeros_like(x)
    rows, columns = np.indices(x.shape)
    dx[columns * 0, rows * 0] = dy * np.cos(x)
    return dx


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def softmax_diagonal(dy, p):
    return (dy * p * (1 - p),)  # here


def softmax_backward(dy, p):
    return (dy * p * (1 - p) * np.cosh(p),)  # here


def truth_of(forward, point, dy):
    """The gradients by differences."""

    def gradient(k, step=1e-4):
        found = np.zeros(point[k].shape)
        for index in np.ndindex(found.shape):

            def value(steps, index=index):
                moved = [np.array(p) for p in point]
                moved[k][index] += steps * step
                return np.sum(dy * np.asarray(forward(*moved)))

            near, far = value(1) - value(-1), value(2) - value(-2)
            found[index] = (8 * near - far) / (12 * step)
        return found

    return {f"p{k}": gradient(k) for k in range(len(point))}


def trial(forward, backward, shapes, seed=0):
    """A trial of `backward(dy, *point)` at a random point."""
    random = np.random.default_rng(seed)
    point = [random.normal(size=shape) for shape in shapes]
    y = np.asarray(forward(*point))
    dy = random.normal(size=y.shape)

    def run():
        gradients = backward(np.array(dy), *[np.array(p) for p in point])
        return y, {f"p{k}": gradient for k, gradient in enumerate(gradients)}

    return Trial(run, truth_of(forward, point, dy), forward=lambda: forward(*point))


def search(forward, backward, shapes, functions, seconds=20.0):
    first, second = (trial(forward, backward, shapes, seed) for seed in (0, 1))
    return search_or_raise(first, functions, second, seconds)


def search_dense(backward):
    return search(
        lambda *p: dense(*p)[0],
        lambda dy, *p: backward(dy, dense(*p)[1]),
        [(6, 4), (4, 3), (3,)],
        [dense, backward],
    )


def marked_line(function):
    """The line of a function that its comment marks."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if "# here" in line)


@pytest.mark.parametrize(
    ("backward", "after", "reason"),
    [
        (dense_mean, "dz.sum(axis=0)", "a mean is used instead of a sum"),
        (dense_plus, "1 - a**2", "the sign of this term is wrong"),
        (dense_without_square, "1 - a**2", "the square of a is missing"),
        (dense_sigmoid, "dy * (1 - a**2)", "(1 - a**2) belongs here, not a * (1 - a)"),
        (dense_linear, "dy * (1 - _a**2)", "the derivative of tanh, (1 - _a**2), is missing"),
        (dense_in_wrong_order, "(dz @ w.T, x.T @ dz, dz.sum(axis=0))", "in the wrong order"),
        (dense_weights_of_gradient, "x.T @ dz", "dz belongs here, not dy"),
        (dense_over_rows, "x.T @ dz", "the division by len(x) does not belong here"),
        (dense_endless, "dz.sum(axis=0)", "the sign is wrong"),
    ],
)
def test_the_line_and_the_change_are_found(backward, after, reason):
    found = search_dense(backward)
    (repair,) = found.repairs
    assert (repair.file, repair.line) == ("test_repair.py", marked_line(backward))
    assert not found.alternatives
    assert repair.after == after
    assert reason in repair.reason


RATE, KEEP = 2.5, np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("forward", "backward", "shape", "after", "reason"),
    [
        (
            lambda x: power(x, RATE),
            lambda dy, x: [power_of_two(dy, x, RATE)],
            (4,),
            "dy * rate",
            "rate belongs here, not 2",
        ),
        (
            lambda x: drop(x, KEEP, 0.2),
            lambda dy, x: [drop_unscaled(dy, KEEP, 0.2)],
            (2, 3),
            "dy * keep / (1 - rate)",
            "the division by 1 - rate is missing",
        ),
        (
            gathered,
            lambda dy, table: [gathered_once(dy, table)],
            (3, 2),
            "np.add.at(dtable, index, dy)",
            "occurs several times",
        ),
        (
            softmax,
            lambda dy, x: softmax_diagonal(dy, softmax(x)),
            (5, 3),
            "p * (dy - (p * dy).sum(axis=-1, keepdims=True))",
            "only the diagonal of the Jacobian",
        ),
    ],
)
def test_options_indices_and_jacobians_are_repaired(forward, backward, shape, after, reason):
    planted = {
        function.__name__: function
        for function in (power_of_two, drop_unscaled, gathered_once, softmax_diagonal)
    }
    (name,) = planted.keys() & set(backward.__code__.co_names)
    found = search(forward, backward, [shape], [planted[name]])
    assert [r.line for r in found.repairs] == [marked_line(planted[name])]
    assert found.repairs[0].after == after
    assert reason in found.repairs[0].reason


def test_a_choice_of_entries_is_not_blamed_on_the_zeros():
    found = search(chosen, lambda dy, x: [chosen_by_slot(dy, x)], [(4, 3)], [chosen_by_slot])
    assert not found.repairs
    assert all("zeros_like" not in suspect.before for suspect in found.suspects)


def test_a_loop_that_overwrites_is_found():
    layer = Accumulator()

    def backward(dy, xs, w):
        layer.forward(xs, w)
        return layer.backward(dy)

    found = search(
        lambda xs, w: Accumulator().forward(xs, w),
        backward,
        [(5, 3), (3,)],
        [Accumulator.forward, Accumulator.backward],
    )
    assert [r.line for r in found.repairs] == [marked_line(Accumulator.backward)]
    assert found.repairs[0].leaves == ("p1",)
    assert "accumulated" in str(found)


def test_a_backward_in_jax_is_repaired():
    with jax.enable_x64(True), jax.disable_jit():
        found = search(
            gate,
            lambda dy, *p: jax.vjp(gate, *map(jnp.asarray, p))[1](jnp.asarray(dy)),
            [(4,), (4,)],
            [gate_fwd, gate_bwd],
        )
    assert [r.line for r in found.repairs] == [marked_line(gate_bwd)]
    assert found.repairs[0].after == "1 - p"


def test_a_statement_beyond_repair_is_suspected():
    found = search(
        softmax,
        lambda dy, x: softmax_backward(dy, softmax(x)),
        [(5, 3)],
        [softmax, softmax_backward],
    )
    assert not found.repairs
    assert found.complete
    assert [s.line for s in found.suspects] == [marked_line(softmax_backward)]


def test_right_code_needs_no_repair_and_code_is_put_back():
    before = dense_plus.__code__
    search_dense(dense_plus)
    assert dense_plus.__code__ is before
    right = Trial(lambda: (None, {"x": np.ones(3)}), {"x": np.ones(3)})
    assert find_repairs(right, []).repairs == ()


def endless():
    while True:
        pass


@pytest.mark.parametrize("run", [lambda: 1 / 0, lambda: (None, {}), endless])
def test_code_that_cannot_run_raises_nothing_and_cannot_hang(run):
    start = time.perf_counter()
    trial = Trial(run, {"x": np.ones(3)})
    found = find_repairs(trial, [], seconds=0.5)
    assert not found.repairs
    assert time.perf_counter() - start < 20
