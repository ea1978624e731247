"""The summary of R. B. Aeen: a chain of three stages, and the line of least squares.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxnn
from jaxnn.gradcheck import check_numpy

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)

random = np.random.default_rng(0)
X, W, B = (jnp.array(random.normal(size=shape)) for shape in [(5, 3), (3, 4), (4,)])
T = jnp.array(np.eye(4)[[2, 0, 3, 1, 1]])
PARAMS = {"w": W, "b": B}

x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0, 7.0, 10.0])
W1, W0 = 2.3, 0.5
N = len(x)


def stages():
    """The loss's, the softmax's and the linear layer's backward, one after the other."""
    z, linear_residuals = jaxnn.linear.fwd(PARAMS, X)
    p, softmax_residuals = jaxnn.softmax.fwd(z)
    _, loss_residuals = jaxnn.cross_entropy.fwd(p, T)
    dp, _ = jaxnn.cross_entropy.bwd(loss_residuals, jnp.full(len(X), 1 / len(X)))
    (dz,) = jaxnn.softmax.bwd(softmax_residuals, dp)
    dparams, dx = jaxnn.linear.bwd(linear_residuals, dz)
    return p, dp, dz, dparams, dx


def cost(w0, w1):
    """J of equation 11, and its gradient by the library."""
    params = {"w": jnp.array([[w1]]), "b": jnp.array([w0])}
    gradient = jaxnn.value_and_grad(jaxnn.Linear(1, 1), jaxnn.squared_error, reduction="sum")
    value, grads = gradient(params, jnp.array(x)[:, None], jnp.array(y)[:, None])
    return float(value), float(grads["b"][0]), float(grads["w"][0, 0])


def slope(op, at):
    """The derivative of an op at one number, by its own backward."""
    (dx,) = op.bwd(op.fwd(jnp.array(at))[1], jnp.array(1.0))
    return dx


def test_equations_1_and_2_are_the_gradient_in_three_stages():
    def loss(params, x):
        return -jnp.mean(jnp.sum(T * jax.nn.log_softmax(x @ params["w"] + params["b"][None]), 1))

    *_, dparams, dx = stages()
    expected_dparams, expected_dx = jax.grad(loss, (0, 1))(PARAMS, X)
    assert_close(dparams["w"], expected_dparams["w"])
    assert_close(dparams["b"], expected_dparams["b"])
    assert_close(dx, expected_dx)


def test_stage_1_which_is_left_blank():
    p, dp, *_ = stages()
    assert_close(dp, -T / (len(X) * p))


def test_stage_2_for_each_row_is_the_softmax_jacobian():
    p, dp, dz, *_ = stages()
    for p_n, dp_n, dz_n in zip(*map(np.asarray, (p, dp, dz)), strict=True):
        assert_close(dz_n, (np.diag(p_n) - np.outer(p_n, p_n)) @ dp_n)
        assert_close(dz_n, p_n * (dp_n - p_n @ dp_n))


def test_stages_1_and_2_together_are_p_minus_t():
    p, _, dz, *_ = stages()
    assert_close(dz, (p - T) / len(X))
    _, residuals = jaxnn.softmax_cross_entropy.fwd(jaxnn.linear(PARAMS, X), T)
    fused, _ = jaxnn.softmax_cross_entropy.bwd(residuals, jnp.full(len(X), 1 / len(X)))
    assert_close(dz, fused)


def test_stage_3_multiplies_with_the_transposed_input():
    *_, dz, dparams, dx = stages()
    assert_close(dparams["w"], X.T @ dz)
    assert_close(dparams["b"], dz.sum(axis=0))
    assert_close(dx, dz @ W.T)


def test_the_abstract_layer_filled_in():
    class Layer:
        def __call__(self, inp):
            return self.forward(inp)

    class Linear(Layer):
        def __init__(self, w, b):
            self.w, self.b = w, b

        def forward(self, inp):
            self.inp = inp
            return inp @ self.w + self.b

        def backward(self, up_grad):
            self.dw, self.db = self.inp.T @ up_grad, up_grad.sum(axis=0)
            return up_grad @ self.w.T

        def step(self, lr):
            self.w, self.b = self.w - lr * self.dw, self.b - lr * self.db

    layer = Linear(np.array(W), np.array(B))
    assert check_numpy(layer, np.array(X)).ok
    p, _, dz, dparams, _ = stages()
    assert_close(jax.nn.softmax(layer(np.array(X))), p)
    layer.backward(np.array(dz))
    layer.step(0.1)
    stepped = jaxnn.sgd_update(PARAMS, dparams, 0.1)
    assert_close(layer.w, stepped["w"])
    assert_close(layer.b, stepped["b"])


def test_equations_3_to_7_are_one_neuron():
    neuron = jaxnn.mlp((3, 1), output=jaxnn.sigmoid)
    params = ({"w": W[:, :1], "b": B[:1]}, ())
    for n, x_n in enumerate(np.asarray(X)):
        expected = 1 / (1 + np.exp(-(np.asarray(W)[:, 0] @ x_n + B[0])))
        assert_close(neuron.apply(params, X)[n, 0], expected)


def test_000_1_z_is_no_function_of_the_affine_value():
    # Printed: ŷ(z(Xw + b)). Right: ŷ(z) with z = Xw + b; the affine map is not applied twice.
    z = jaxnn.linear(PARAMS, X)
    with pytest.raises(ValueError, match="last axis of x"):
        jaxnn.linear(PARAMS, z)
    square = {"w": W[:, :3], "b": B[:3]}
    once = np.asarray(X) @ np.asarray(square["w"]) + np.asarray(square["b"])
    assert_close(jaxnn.linear(square, X), once)
    assert not np.allclose(jaxnn.linear(square, jaxnn.linear(square, X)), once)


def test_000_2_the_chain_is_a_composition_and_no_product_of_arrays():
    # Printed: ∂L/∂ŷ × ∂ŷ/∂z × ∂z/∂W. Right: Xᵀ·[(∂L/∂ŷ)·J] row by row.
    _, dp, _, dparams, _ = stages()
    z = jaxnn.linear(PARAMS, X)
    dp_dz = np.asarray(jax.jacobian(jax.nn.softmax)(z))
    dz_dw = np.asarray(jax.jacobian(lambda w: X @ w)(W))
    with pytest.raises(ValueError, match="mismatch"):
        np.asarray(dp) @ dp_dz @ dz_dw
    composed = np.tensordot(np.tensordot(np.asarray(dp), dp_dz, 2), dz_dw, 2)
    assert_close(dparams["w"], composed)


def test_000_3_the_loss_hands_down_the_gradient_of_its_prediction():
    # Printed: ∂L/∂û. Right: ∂L/∂ŷ; of another variable, such as z, stage 2 makes something else.
    p, dp, dz, *_ = stages()
    assert_close(dp, jax.grad(lambda p: -jnp.mean(jnp.sum(T * jnp.log(p), 1)))(p))
    _, residuals = jaxnn.softmax.fwd(jaxnn.linear(PARAMS, X))
    assert_close(jaxnn.softmax.bwd(residuals, dp)[0], dz)
    assert not np.allclose(jaxnn.softmax.bwd(residuals, dz)[0], dz)


def test_equation_8_is_the_squared_error():
    error = jaxnn.squared_error(jnp.array([[1.5]]), jnp.array([[4.0]]))
    assert error.tolist() == [(4 - 1.5) ** 2]


def test_000_4_a_cost_needs_the_square():
    # Printed: SSE = Σ(y − h). Right: Σ(y − h)².
    residual = y - W0 - W1 * x
    assert_close(residual.sum(), 0)
    lower = [np.sum(y - w0 - W1 * x) for w0 in (1e3, 1e6)]
    assert_close(lower, [-N * (1e3 - W0), -N * (1e6 - W0)])
    value, *_ = cost(W0, W1)
    assert_close([value, np.sum(residual**2)], 0.3)


def test_000_5_both_terms_of_the_line_are_subtracted():
    # Printed: Σ(y − w0 + w1·x)². Right: Σ(y − w0 − w1·x)².
    value, *_ = cost(0.7, 1.9)
    assert_close(value, np.sum((y - 0.7 - 1.9 * x) ** 2))
    assert not np.isclose(value, np.sum((y - 0.7 + 1.9 * x) ** 2))


def test_000_6_the_two_equations_are_conditions_for_the_minimum():
    # Printed: "Assumptions". Right: conditions, sufficient because J is convex.
    assert cost(0.0, 0.0)[1:] == (-50.0, -148.0)
    value, *gradient = cost(W0, W1)
    assert_close(gradient, 0)
    hessian = jax.jacobian(jax.grad(lambda w: jnp.sum((y - w[0] - w[1] * x) ** 2)))(jnp.zeros(2))
    assert_close(hessian, 2 * np.array([[N, x.sum()], [x.sum(), (x**2).sum()]]))
    assert_close(np.linalg.det(hessian), 4 * (N * (x**2).sum() - x.sum() ** 2))
    assert np.linalg.eigvalsh(hessian).min() > 0
    assert all(cost(W0 + step, W1 - step)[0] > value for step in (-1, -1e-3, 1e-3, 1))


@pytest.mark.parametrize(("w0", "w1"), [(0.0, 0.0), (0.7, 1.9), (W0, W1)])
def test_equations_13_and_14_are_right(w0, w1):
    residual = y - w0 - w1 * x
    expected = [-2 * residual.sum(), -2 * (x * residual).sum()]
    assert_close(cost(w0, w1)[1:], expected)


def test_000_7_only_the_sum_of_the_three_sums_is_zero():
    # Printed: Σy = 0 and Σ(−w0) = 0 and Σ(−w1·x) = 0. Right: their sum is 0.
    sums = np.array([y.sum(), -N * W0, -W1 * x.sum()])
    assert np.all(sums != 0)
    assert_close(sums.sum(), 0)


def test_000_8_the_sums_keep_their_signs_and_their_factors():
    # Printed: Σ(−w0) = n·w0, X = Σ(−w1·x). Right: Σw0 = N·w0, X = Σx, Y = Σy.
    assert np.sum(np.full(N, -W0)) == -N * W0 != N * W0
    assert_close(y.sum() - N * W0 - W1 * x.sum(), 0)
    printed_x = np.sum(-W1 * x)
    assert not np.isclose(y.sum() - N * W0 - W1 * printed_x, 0)


def test_000_9_the_intercept_has_no_free_index():
    # Printed: w0 = (Y − w1·x⁽ⁱ⁾)/n. Right: w0 = (Y − w1·X)/N = ȳ − w1·x̄.
    printed = (y.sum() - W1 * x) / N
    assert len(set(printed)) == N
    assert not np.isclose(printed, W0).any()
    assert_close([(y.sum() - W1 * x.sum()) / N, y.mean() - W1 * x.mean()], W0)


def test_000_10_the_chain_rule_has_one_inner_derivative():
    # Printed: f∘g(x)' = f(g(x))'·g(x)'. Right: (f∘g)'(x) = f'(g(x))·g'(x).
    f, g = jaxnn.sigmoid, jaxnn.tanh
    true = jax.grad(lambda t: f.definition(g.definition(t)))(0.3)
    assert_close(slope(f, g(jnp.array(0.3))) * slope(g, 0.3), true)
    assert not np.isclose(true * slope(g, 0.3), true)


def test_the_slope_that_is_missing():
    fitted = jaxnn.least_squares(jnp.array(x)[:, None], jnp.array(y)[:, None])
    sums = N * np.sum(x * y) - x.sum() * y.sum(), N * np.sum(x**2) - x.sum() ** 2
    centred = x - x.mean()
    assert_allclose(sums[0] / sums[1], W1, rtol=1e-15)
    assert_allclose(np.sum(centred * (y - y.mean())) / np.sum(centred**2), W1, rtol=1e-15)
    assert_close(fitted["w"], [[W1]])
    assert_close(fitted["b"], [W0])


def test_the_normal_equations():
    random = np.random.default_rng(9)
    inputs, targets = jnp.array(X), jnp.array(random.normal(size=(5, 2)))
    fitted = jaxnn.least_squares(inputs, targets)
    design = np.column_stack([np.ones(5), inputs])
    solution = np.linalg.solve(design.T @ design, design.T @ np.asarray(targets))
    assert_close(fitted["b"], solution[0])
    assert_close(fitted["w"], solution[1:])


def test_the_slope_is_unique_unless_all_x_are_equal():
    with pytest.raises(ValueError, match="equal"):
        jaxnn.least_squares(jnp.ones((4, 1)), jnp.array(y)[:, None])
