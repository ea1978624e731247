"""The handwritten derivation, part A: the nine partial derivatives of the 2-2-1 network.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxnn

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def slope(z):
    return sigmoid(z) * (1 - sigmoid(z))


# The 2-2-1 network with the widely published "step by step" numbers, one output.
w, b = np.array([0.15, 0.20, 0.25, 0.30, 0.40, 0.45]), np.array([0.35, 0.35, 0.60])
x0, x1, y = 0.05, 0.10, 0.01
z0, z1 = w[0] * x0 + w[1] * x1 + b[0], w[2] * x0 + w[3] * x1 + b[1]
a0, a1 = sigmoid(z0), sigmoid(z1)
z2 = w[4] * a0 + w[5] * a1 + b[2]
a2 = sigmoid(z2)

# The right formulas of the notes.
DZ2 = slope(z2) * (a2 - y)
DZ1, DZ0 = w[5] * DZ2 * slope(z1), w[4] * DZ2 * slope(z0)
DERIVED = {
    "b0": DZ0,
    "b1": DZ1,
    "b2": DZ2,
    "w0": DZ0 * x0,
    "w1": DZ0 * x1,
    "w2": DZ1 * x0,
    "w3": DZ1 * x1,
    "w4": DZ2 * a0,
    "w5": DZ2 * a1,
}
GOLDEN = {
    "b0": 0.013367920422887463,
    "b1": 0.014996075488896856,
    "b2": 0.13849856162855698,
    "w0": 0.0006683960211443732,
    "w1": 0.0013367920422887463,
    "w2": 0.0007498037744448428,
    "w3": 0.0014996075488896857,
    "w4": 0.08216704056423078,
    "w5": 0.08266762784753326,
}


@cache
def by_the_library():
    """The loss and the nine partial derivatives of the same network in the row convention."""
    net = jaxnn.mlp((2, 2, 1), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    first = {"w": jnp.array([[w[0], w[2]], [w[1], w[3]]]), "b": jnp.array(b[:2])}
    second = {"w": jnp.array(w[4:, None]), "b": jnp.array(b[2:])}
    gradient = jaxnn.value_and_grad(net, jaxnn.half_squared_error)
    value, (first, _, second, _) = gradient(
        (first, (), second, ()), jnp.array([[x0, x1]]), jnp.array([[y]])
    )
    dw = [*np.ravel(first["w"], order="F"), *np.ravel(second["w"])]
    return value, named([*first["b"], *second["b"]], dw)


@cache
def by_autodiff():
    def loss(w, b):
        a0 = jax.nn.sigmoid(w[0] * x0 + w[1] * x1 + b[0])
        a1 = jax.nn.sigmoid(w[2] * x0 + w[3] * x1 + b[1])
        return (jax.nn.sigmoid(w[4] * a0 + w[5] * a1 + b[2]) - y) ** 2 / 2

    dw, db = jax.grad(loss, (0, 1))(jnp.array(w), jnp.array(b))
    return named(db, dw)


def named(db, dw):
    return {f"b{i}": d for i, d in enumerate(db)} | {f"w{j}": d for j, d in enumerate(dw)}


def test_equations_1_to_8():
    value, _ = by_the_library()
    assert_allclose([a0, a1, a2], [0.593269992, 0.596884378, 0.751365070], rtol=0, atol=5e-10)
    assert_close(value, (a2 - y) ** 2 / 2)
    assert_allclose(value, 0.274811083, rtol=0, atol=5e-10)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_nine_partial_derivatives(name):
    _, library = by_the_library()
    assert_allclose(DERIVED[name], GOLDEN[name], rtol=1e-15)
    assert_allclose(library[name], GOLDEN[name], rtol=1e-15)
    assert_close(by_autodiff()[name], GOLDEN[name])


def test_the_published_partial_derivative():
    assert_allclose(by_the_library()[1]["w4"], 0.082167041, rtol=0, atol=5e-10)


@pytest.mark.parametrize(
    "step",
    [
        lambda e: -1 / (1 + e) ** 2 * (0 - e),
        lambda e: 1 / (1 + e) * (e / (1 + e)),
        lambda e: 1 / (1 + e) * ((1 + e) / (1 + e) - 1 / (1 + e)),
        lambda e: 1 / (1 + e) * (1 - 1 / (1 + e)),
    ],
    ids=range(1, 5),
)
def test_each_step_of_the_sigmoid_derivative(step):
    z = jnp.linspace(-10, 10, 41)
    (dz,) = jaxnn.sigmoid.bwd(jaxnn.sigmoid.fwd(z)[1], jnp.ones(41))
    assert_close(step(np.exp(-np.asarray(z))), dz)


def test_003_1_the_loss_has_a_half():
    # Printed: L = (1/α)(y − a2)² with dL/da2 = a2 − y. Right: α = 2.
    _, residuals = jaxnn.half_squared_error.fwd(jnp.array([a2]), jnp.array([y]))
    (derivative,), _ = jaxnn.half_squared_error.bwd(residuals, jnp.array(1.0))
    assert_close(derivative, a2 - y)
    for alpha in (1.0, 2.0, 3.0):
        printed = jax.grad(lambda a, alpha=alpha: (y - a) ** 2 / alpha)(a2)
        assert np.isclose(printed, a2 - y) == (alpha == 2)


def test_003_3_the_second_answer_is_for_equation_3():
    # Printed: equations 1, 7, 4. Right: 1, 3, 4; those of 7 have other derivatives.
    def sum_of(inputs):
        return lambda v, w, b: v * inputs[0] + w * inputs[1] + b

    third = jax.grad(sum_of((x0, x1)), (0, 1, 2))(w[0], w[1], b[0])
    seventh = jax.grad(sum_of((a0, a1)), (0, 1, 2))(w[4], w[5], b[2])
    answered = [x0, x1, 1]
    assert_close(third, answered)
    assert not np.allclose(seventh, answered)


def test_003_4_two_names_for_one_derivative():
    # Printed: da0/dz0, dσ(z0)/dz0 with a comma. Right: da0/dz0 = dσ(z0)/dz0 = σ(z0)(1 − σ(z0)).
    da0_dz0 = jax.grad(lambda z: 1 / (1 + jnp.exp(-z)))(z0)
    (dsigma_dz0,) = jaxnn.sigmoid.bwd(jaxnn.sigmoid.fwd(jnp.array(z0))[1], jnp.array(1.0))
    assert_close([da0_dz0, dsigma_dz0], a0 * (1 - a0))


def test_003_5_the_error_is_the_derivative_by_the_output():
    # Printed: ∂L/∂z2 = a2 − y. Right: ∂L/∂a2 = a2 − y, and ∂L/∂z2 = σ'(z2)(a2 − y).
    def loss(a):
        return (a - y) ** 2 / 2

    assert_close(jax.grad(loss)(a2), a2 - y)
    by_z2 = jax.grad(lambda z: loss(jax.nn.sigmoid(z)))(z2)
    assert_close(by_z2, slope(z2) * (a2 - y))
    assert not np.isclose(by_z2, a2 - y)


def test_003_6_a1_enters_through_w5():
    # Printed: ∂L/∂z1 = w4·∂L/∂z2·σ'(z1). Right: w5.
    assert_allclose(w[4] * DZ2 * slope(z1), 0.013330, rtol=0, atol=5e-7)
    assert_allclose(w[5] * DZ2 * slope(z1), 0.014996, rtol=0, atol=5e-7)
    assert_close(by_the_library()[1]["b1"], w[5] * DZ2 * slope(z1))


def test_003_7_z1_is_the_second_unit_of_the_inputs():
    # Printed: z1 = w1·a0 + w3·a1 + b1. Right: w2·x0 + w3·x1 + b1, equation 5.
    printed = w[1] * a0 + w[3] * a1 + b[1]
    hidden = jaxnn.linear({"w": jnp.array(w[:4].reshape(2, 2).T)}, jnp.array([x0, x1]))
    assert_close(hidden[1] + b[1], z1)
    assert not np.isclose(printed, z1)


def assert_misprinted(printed, printed_digits, right, right_digits, name):
    """Both values have the digits given; the right one alone is the derivative by `name`."""
    assert float(f"{printed:.5g}") == printed_digits
    assert float(f"{right:.5g}") == right_digits
    derivative = by_the_library()[1][name]
    assert_close(right, derivative)
    assert not np.isclose(printed, derivative)


def test_003_8_the_first_weight_of_the_second_unit():
    # Printed: ∂L/∂w1 = … w5·σ'(z1)·a0. Right: ∂L/∂w2 = … x0.
    assert_misprinted(DZ1 * a0, 0.0088967, DZ1 * x0, 0.00074980, "w2")
    assert not np.isclose(DZ1 * a0, by_the_library()[1]["w1"])


def test_003_9_the_second_weight_of_the_second_unit():
    # Printed: ∂L/∂w3 = … a1. Right: … x1.
    assert_misprinted(DZ1 * a1, 0.0089509, DZ1 * x1, 0.0014996, "w3")


def test_003_10_z0_is_the_first_unit_of_the_inputs():
    # Printed: z0 = w0·a0 + w2·a1 + b0. Right: w0·x0 + w1·x1 + b0, equation 3.
    printed = w[0] * a0 + w[2] * a1 + b[0]
    hidden = jaxnn.linear({"w": jnp.array(w[:4].reshape(2, 2).T)}, jnp.array([x0, x1]))
    assert_close(hidden[0] + b[0], z0)
    assert not np.isclose(printed, z0)


def test_003_11_the_first_weight_of_the_first_unit():
    # Printed: ∂L/∂w0 = … a0. Right: … x0.
    assert_misprinted(DZ0 * a0, 0.0079308, DZ0 * x0, 0.00066840, "w0")


def test_003_12_the_second_weight_of_the_first_unit():
    # Printed: ∂L/∂w2 = … w4·σ'(z0)·a1. Right: ∂L/∂w1 = … x1.
    assert_misprinted(DZ0 * a1, 0.0079791, DZ0 * x1, 0.0013368, "w1")
    assert not np.isclose(DZ0 * a1, by_the_library()[1]["w2"])


def test_the_misprints_agree_with_each_other_for_a_network_fed_otherwise():
    """Fed with (a0, a1), w0 and w2 into unit 0, w1 and w3 into unit 1: not equations 3 and 5."""
    first = {"w": jnp.array([[w[0], w[1]], [w[2], w[3]]]), "b": jnp.array(b[:2])}
    second = {"w": jnp.array(w[4:, None]), "b": jnp.array(b[2:])}
    net = jaxnn.mlp((2, 2, 1), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    gradient = jaxnn.value_and_grad(net, jaxnn.half_squared_error)
    fed = jnp.array([[a0, a1]])
    _, (dfirst, *_) = gradient((first, (), second, ()), fed, jnp.array([[y]]))
    z0, z1 = w[0] * a0 + w[2] * a1 + b[0], w[1] * a0 + w[3] * a1 + b[1]
    z2 = w[4] * sigmoid(z0) + w[5] * sigmoid(z1) + b[2]
    dz2 = (sigmoid(z2) - y) * slope(z2)
    dz0, dz1 = dz2 * w[4] * slope(z0), dz2 * w[5] * slope(z1)
    assert_close(dfirst["w"], [[dz0 * a0, dz1 * a0], [dz0 * a1, dz1 * a1]])
