"""`assert_gradient` chooses the checker by what it is given, and raises unless all is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import GradientMismatch, assert_gradient

X = np.array([0.5, -2.0, 3.0])


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, dy: (3 * x * x * dy,))


class Square:
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        self.x = x
        return x**2

    def backward(self, dy):
        return self.factor * self.x * dy


def square(x):
    return x**2


def square_fwd(x):
    return x**2, x


def square_bwd(x, dy):
    return (2 * x * dy,)


def square_backward(dy, x):
    return 2 * x * dy


def square_half(dy, x):
    return x * dy


def squares_and_gradient(x):
    return (x**2).sum(), 2 * x


@pytest.mark.parametrize(
    ("target", "args", "options", "library"),
    [
        (jaxnn.tanh, (jnp.asarray(X),), {}, "check"),
        (jaxnn.serial(jaxnn.tanh), (((),), jnp.ones((2, 3))), {}, "check"),
        (cube, (jnp.asarray(X, jnp.float32),), {}, "check"),
        ((square_fwd, square_bwd), (jnp.asarray(X),), {"definition": square}, "check"),
        (square_fwd, (square_bwd, jnp.asarray(X)), {"definition": square}, "check"),
        (Square(2), (X,), {"seed": 5}, "check_numpy"),
        (square, (square_backward, X), {}, "check_numpy"),
        ((square, square_backward), (X,), {}, "check_numpy"),
        (squares_and_gradient, (X,), {}, "check_numpy"),
    ],
)
def test_the_checker_is_chosen_by_the_target(monkeypatch, target, args, options, library):
    called = []
    for name in ("check", "check_numpy"):
        function = getattr(jaxnn.gradcheck.assertion, name)
        monkeypatch.setattr(
            jaxnn.gradcheck.assertion,
            name,
            lambda *a, name=name, function=function, **k: called.append(name) or function(*a, **k),
        )
    report = assert_gradient(target, *args, **options)
    assert report.ok
    assert called == [library]


@pytest.mark.parametrize(
    "args", [(Square(1), X), (square, square_half, X), ((square, square_half), X)]
)
def test_a_wrong_gradient_fails_with_the_report(args):
    with pytest.raises(GradientMismatch, match=r"0\.5 × the true gradient"):
        assert_gradient(*args)


def test_what_was_not_tested_fails():
    with pytest.raises(GradientMismatch, match="not tested"):
        assert_gradient(Square(2), np.zeros(3))
