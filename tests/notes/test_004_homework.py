"""R. Kumar's "Homework 1: Backprop": Linear₁ → f → Linear₂ → g, its five steps and its tables.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import jaxnn

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)


class Column(NamedTuple):
    """The parameters as the homework has them: W¹ (d, n), b¹ (d,), W² (K, d), b² (K,)."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    @property
    def row(self):
        """The same as the library has them."""
        first, second = {"w": self.w1, "b": self.b1}, {"w": self.w2, "b": self.b2}
        params = (first, (), second, ())
        return jax.tree.map(jnp.array, jaxnn.convert_convention(params, "row", source="torch"))


def from_row(params):
    first, _, second, _ = jaxnn.convert_convention(params, "torch")
    return Column(first["w"], first["b"], second["w"], second["b"])


REGRESSION = jaxnn.mlp((2, 3, 2))
GOLDEN = Column(
    np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.5]]),
    np.array([0.5, -1.0, 0.25]),
    np.array([[1.0, -2.0, 0.5], [0.5, 1.0, -1.0]]),
    np.array([0.1, -0.2]),
)
x, y = np.array([1.0, 2.0]), np.array([-3.0, 2.0])

# A batch with distinct sizes: N 6 examples, n 3 inputs, d 5 hidden units, K 4 outputs.
N, K = 6, 4
random = np.random.default_rng(4)
NET = jaxnn.mlp((3, 5, K))
WIDE = Column(*(random.normal(size=shape) for shape in [(5, 3), (5,), (4, 5), (4,)]))
X, Y = random.normal(size=(N, 3)), random.normal(size=(N, K))


def relu(z):
    return np.maximum(z, 0)


def identity(z):
    return z


def forward(params, x, f=relu, g=identity):
    """The rows of the homework's table of the forward pass: z1, z2, z3 and ŷ."""
    z1 = params.w1 @ x + params.b1
    z2 = f(z1)
    z3 = params.w2 @ z2 + params.b2
    return z1, z2, z3, g(z3)


def gradients(net, loss, params, x, target, reduction="sum"):
    """The loss and its gradients by the library, as the homework shapes them."""
    gradient = jaxnn.value_and_grad(net, loss, reduction)
    value, grads = gradient(params.row, jnp.atleast_2d(x), jnp.atleast_2d(target))
    return float(value), Column(*map(np.asarray, from_row(grads)))


def autodiff(params, x, target, f, g, loss):
    """The same gradients by jax.grad of the printed equations, for one example."""

    def total(params):
        hidden = f(params.w1 @ x + params.b1)
        return loss(g(params.w2 @ hidden + params.b2), target)

    return jax.grad(total)(Column(*map(jnp.array, params)))


def assert_all_close(found, expected, **tolerance):
    for leaf, expected_leaf in zip(found, expected, strict=True):
        assert_close(leaf, expected_leaf, **tolerance)


def test_the_table_of_the_forward_pass():
    z1, z2, z3, prediction = forward(GOLDEN, x)
    assert z1.tolist() == [-0.5, 3.5, 0.25]
    assert z2.tolist() == [0, 3.5, 0.25]
    assert_allclose(prediction, [-6.775, 3.05], rtol=1e-15)
    assert prediction.tolist() == z3.tolist()
    assert_allclose(REGRESSION.apply(GOLDEN.row, jnp.array(x)), prediction, rtol=1e-15)


def test_the_golden_gradients():
    value, grads = gradients(REGRESSION, jaxnn.squared_error, GOLDEN, x, y)
    assert_allclose(value, 15.353125, rtol=1e-15)
    expected = Column(
        [[0, 0], [17.2, 34.4], [-5.875, -11.75]],
        [0, 17.2, -5.875],
        [[0, -26.425, -1.8875], [0, 7.35, 0.525]],
        [-7.55, 2.1],
    )
    assert_all_close(grads, expected, rtol=1e-15, atol=0)
    by_jax = autodiff(GOLDEN, x, y, jax.nn.relu, identity, lambda p, y: jnp.sum((p - y) ** 2))
    assert_all_close(grads, by_jax)


def test_004_1_the_output_has_its_own_size():
    # Printed: x and ŷ both in ℝⁿ. Right: ŷ in ℝᴷ.
    *_, prediction = forward(WIDE, X[0])
    assert prediction.shape == (K,) != X[0].shape
    with pytest.raises(ValueError, match="shape"):
        jaxnn.squared_error(jnp.array(prediction), jnp.array(X[0]))


# The factor c of Δ2 = c·(Ŷ − Y) in each way to put the squared error of a batch.
FACTORS = {
    "sum": (jaxnn.squared_error, "sum", 1, 2),
    "mean over the batch": (jaxnn.squared_error, "mean", 1, 2 / N),
    "mean over batch and outputs": (jaxnn.squared_error, "mean", 1 / K, 2 / (N * K)),
    "half the sum": (jaxnn.half_squared_error, "sum", 1, 1),
}


@pytest.mark.parametrize("way", FACTORS)
def test_004_2_each_squared_error_has_its_own_factor(way):
    # Printed: ‖ŷ − y‖² and (1/n)·Σ‖ŷ − y‖², n the input size. Right: choose one; n is no count.
    loss, reduction, scale, c = FACTORS[way]
    value, grads = gradients(NET, loss, WIDE, X, Y, reduction)
    error = np.array([forward(WIDE, x_n)[-1] for x_n in X]) - Y
    assert_close(scale * value, c / 2 * np.sum(error**2))
    assert_close(scale * grads.b2, (c * error).sum(axis=0))
    by_input_size = 2 / X.shape[1] * error.sum(axis=0)
    assert not np.allclose(scale * grads.b2, by_input_size)


def test_004_3_what_comes_forward_is_an_output_and_no_logit():
    # Printed: "feed forward to get the logits". Right: outputs; z3 is a logit only before σ.
    *_, z3, probabilities = forward(WIDE, X[0], g=jax.nn.sigmoid)
    target = jnp.array([1.0, 0.0, 0.0, 1.0])
    loss = jaxnn.binary_cross_entropy(probabilities, target)
    assert_close(jaxnn.sigmoid_cross_entropy(jnp.array(z3), target), loss)
    assert not np.isclose(jaxnn.sigmoid_cross_entropy(probabilities, target), loss)


def test_004_4_two_notations_for_one_network():
    # Printed: h, W_h, b_h, W_y, b_y, k beside z2, W¹, b¹, W², b², K. Right: one of them.
    w_h, b_h, w_y, b_y = WIDE
    h = relu(w_h @ X[0] + b_h)
    prediction = w_y @ h + b_y
    _, z2, _, by_table = forward(WIDE, X[0])
    assert_close(h, z2)
    assert_close(prediction, by_table)
    assert_close(NET.apply(WIDE.row, jnp.array(X[0])), by_table)
    assert w_y.shape[0] == len(prediction) == K


def test_004_5_each_example_has_its_own_class():
    # Printed: ℓ(ŷⁱ, cᵢ) = −log(ŷ[c]). Right: −log ŷ⁽ⁱ⁾[cᵢ].
    classes = np.array([3, 0, 2, 1, 1, 0])
    probabilities = np.asarray(jaxnn.softmax(jnp.array(Y)))
    printed = -np.log(probabilities[classes])
    right = -np.log([probabilities[i, c] for i, c in enumerate(classes)])
    losses = jaxnn.cross_entropy(jnp.array(probabilities), jnp.array(classes))
    assert printed.shape == (N, K) != losses.shape
    assert_close(losses, right)


def test_equation_5_is_the_mean_over_the_batch():
    classes = jnp.array([3, 0, 2, 1, 1, 0])
    value, _ = jaxnn.value_and_grad(jaxnn.softmax, jaxnn.cross_entropy)((), jnp.array(Y), classes)
    losses = -np.log(np.asarray(jaxnn.softmax(jnp.array(Y)))[np.arange(N), classes])
    assert_close(value, losses.sum() / N)


def test_004_6_the_cost_can_be_zero():
    # Printed: J in ℝ⁺. Right: J ≥ 0, and 0 is reached.
    targets = np.array([forward(WIDE, x_n)[-1] for x_n in X])
    value, grads = gradients(NET, jaxnn.squared_error, WIDE, X, targets)
    assert_allclose(value, 0, atol=1e-25)
    assert jaxnn.squared_error(jnp.array(y), jnp.array(y)) == 0
    assert all(np.allclose(leaf, 0) for leaf in grads)


def test_004_7_the_derivative_of_the_output_by_the_weights_is_of_third_order():
    # Printed: (8), (9) with ∂ŷ/∂W as a factor. Right: a tensor; contracted it leaves z2·∂ℓ/∂ŷ.
    _, z2, _, prediction = forward(WIDE, X[0])
    dl_dy = 2 * (prediction - Y[0])[None, :]
    dy_dw = np.asarray(jax.jacobian(lambda w: w @ z2 + WIDE.b2)(jnp.array(WIDE.w2)))
    assert dy_dw.shape == (K, K, 5)
    _, grads = gradients(NET, jaxnn.squared_error, WIDE, X[0], Y[0])
    assert_close(np.tensordot(dl_dy[0], dy_dw, 1), grads.w2)
    assert_close(z2[:, None] @ dl_dy, grads.w2.T)


def test_004_8_the_update_of_every_parameter():
    # Printed: step 5 without a formula. Right: θ ← θ − η·∂J/∂θ.
    before, grads = gradients(NET, jaxnn.squared_error, WIDE, X, Y, "mean")
    updated = from_row(jaxnn.sgd_update(WIDE.row, grads.row, 0.01))
    assert_all_close(updated, [theta - 0.01 * d for theta, d in zip(WIDE, grads, strict=True)])
    after, _ = gradients(NET, jaxnn.squared_error, updated, X, Y, "mean")
    assert after < before


@pytest.mark.parametrize("zeroing", ["first", "after the forward pass", "after the loss"])
def test_the_five_steps_with_the_gradients_zeroed_anywhere_before_the_backward(zeroing):
    loss = jaxnn.squared_error
    kept = jax.tree.map(jnp.ones_like, WIDE.row)
    if zeroing == "first":
        kept = jax.tree.map(jnp.zeros_like, kept)
    prediction, net_residuals = NET.fwd(WIDE.row, jnp.array(X))
    if zeroing == "after the forward pass":
        kept = jax.tree.map(jnp.zeros_like, kept)
    _, loss_residuals = loss.fwd(prediction, jnp.array(Y))
    if zeroing == "after the loss":
        kept = jax.tree.map(jnp.zeros_like, kept)
    d_prediction, _ = loss.bwd(loss_residuals, jnp.full(N, 1 / N))
    grads, _ = NET.bwd(net_residuals, d_prediction)
    kept = jax.tree.map(jnp.add, kept, grads)
    by_hand = jaxnn.sgd_update(WIDE.row, kept, 0.01)
    optimizer = optax.sgd(0.01)
    step = jaxnn.train_step(NET, loss, optimizer)
    stepped, *_ = step(WIDE.row, optimizer.init(WIDE.row), jnp.array(X), jnp.array(Y))
    assert_all_close(jax.tree.leaves(by_hand), jax.tree.leaves(stepped))


def test_004_9_the_last_activation_takes_what_linear_2_gave():
    # Printed: input W²h + b_y, output g(W²h + b²). Right: z3 = W²z2 + b² in both cells.
    _, h, z3, prediction = forward(WIDE, X[0], g=jax.nn.sigmoid)
    b_y = WIDE.b2 + 1
    assert not np.allclose(jax.nn.sigmoid(WIDE.w2 @ h + b_y), prediction)
    assert_close(jax.nn.sigmoid(z3), prediction)
    assert_close(z3, NET.apply(WIDE.row, jnp.array(X[0])))


def test_004_10_a_regression_is_compared_with_its_target():
    # Printed: the loss takes (Ŷ, c) with c a class. Right: (ŷ, y) gives ‖ŷ − y‖².
    *_, prediction = forward(WIDE, X[0])
    with pytest.raises(ValueError, match="target"):
        jaxnn.squared_error(jnp.array(prediction), jnp.array(2))
    loss = jaxnn.squared_error(jnp.array(prediction), jnp.array(Y[0]))
    assert_close(loss, np.linalg.norm(prediction - Y[0]) ** 2)


def test_004_11_the_empty_table_in_the_numerator_layout():
    # Printed: four empty cells. Right: these, the gradient of a scalar being a row.
    z1, z2, _, prediction = forward(WIDE, X[0])
    dl_dy, dy_dz3 = 2 * (prediction - Y[0])[None, :], np.eye(K)
    dz2_dz1 = np.diag((z1 > 0).astype(float))
    to_z3 = dl_dy @ dy_dz3
    to_z1 = to_z3 @ WIDE.w2 @ dz2_dz1
    cells = Column(X[0][:, None] @ to_z1, to_z1, z2[:, None] @ to_z3, to_z3)
    assert [cell.shape for cell in cells] == [(3, 5), (1, 5), (5, K), (1, K)]
    _, grads = gradients(NET, jaxnn.squared_error, WIDE, X[0], Y[0])
    assert_all_close(cells, [np.atleast_2d(d.T) for d in grads])


def test_004_11_the_empty_table_as_columns():
    # Printed: four empty cells. Right: δ·(what came in)ᵀ, with δ1 = D·W²ᵀ·δ2.
    z1, z2, _, prediction = forward(WIDE, X[0])
    delta2 = 2 * (prediction - Y[0])
    delta1 = np.diag((z1 > 0).astype(float)) @ WIDE.w2.T @ delta2
    cells = Column(np.outer(delta1, X[0]), delta1, np.outer(delta2, z2), delta2)
    _, grads = gradients(NET, jaxnn.squared_error, WIDE, X[0], Y[0])
    assert_all_close(cells, grads)


@pytest.mark.parametrize("convention", ["row", "torch"])
def test_004_11_the_empty_table_for_a_batch(convention):
    # Printed: four empty cells. Right: Xᵀ·Δ with W (in, out), Δᵀ·X with W (out, in).
    first, _, second, _ = jaxnn.convert_convention(WIDE.row, convention)
    w2 = np.asarray(second["w"])
    z1, z2, _, prediction = map(np.array, zip(*(forward(WIDE, x_n) for x_n in X), strict=True))
    delta2 = 2 / N * (prediction - Y)
    delta1 = (delta2 @ (w2.T if convention == "row" else w2)) * (z1 > 0)
    expected = [(X, delta1), (z2, delta2)]
    gradient = jaxnn.value_and_grad(NET, jaxnn.squared_error)
    _, grads = gradient(WIDE.row, jnp.array(X), jnp.array(Y))
    grads = jaxnn.convert_convention(grads, convention)
    for layer, given, (a, delta) in zip(grads[::2], (first, second), expected, strict=True):
        dw = a.T @ delta if convention == "row" else delta.T @ a
        assert dw.shape == given["w"].shape
        assert_close(layer["w"], dw)
        assert_close(layer["b"], delta.sum(axis=0))


def logistic(params, x):
    """z1, z2, ŷ of the network with f = g = σ."""
    z1, z2, _, prediction = forward(params, x, f=jax.nn.sigmoid, g=jax.nn.sigmoid)
    return z1, np.asarray(z2), np.asarray(prediction)


def sigmoid_table(params, x, delta2):
    """The gradients of a network with a sigmoid hidden layer, from δ2."""
    _, z2, _ = logistic(params, x)
    delta1 = np.diag(z2 * (1 - z2)) @ params.w2.T @ delta2
    return Column(np.outer(delta1, x), delta1, np.outer(delta2, z2), delta2)


def test_1_3_a_two_sigmoids_and_the_squared_error():
    net = jaxnn.mlp((3, 5, K), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    _, _, prediction = logistic(WIDE, X[0])
    delta2 = 2 * (prediction - Y[0]) * prediction * (1 - prediction)
    _, grads = gradients(net, jaxnn.squared_error, WIDE, X[0], Y[0])
    assert_all_close(grads, sigmoid_table(WIDE, X[0], delta2))
    sigmoid = jax.nn.sigmoid
    by_jax = autodiff(WIDE, X[0], Y[0], sigmoid, sigmoid, lambda p, y: jnp.sum((p - y) ** 2))
    assert_all_close(grads, by_jax)


def test_1_3_b_two_sigmoids_and_the_binary_cross_entropy():
    net = jaxnn.mlp((2, 3, 2), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    target = np.array([1.0, 0.0])
    _, _, prediction = logistic(GOLDEN, x)
    assert_allclose(prediction, [0.23455871, 0.59803436], rtol=0, atol=5e-9)
    value, grads = gradients(net, jaxnn.binary_cross_entropy, GOLDEN, x, target)
    mean = Column(*(leaf / 2 for leaf in grads))
    assert_allclose(value / 2, 1.180719022753372, rtol=1e-15)
    assert_allclose(mean.b2, [-0.38272065, 0.29901718], rtol=0, atol=5e-9)
    assert_allclose(mean.b1, [-0.0548057, 0.03028706, -0.12069862], rtol=0, atol=5e-9)
    assert_all_close(mean, sigmoid_table(GOLDEN, x, (prediction - target) / 2))
    _, residuals = jaxnn.binary_cross_entropy.fwd(jnp.array(prediction), jnp.array(target))
    dl_dy, _ = jaxnn.binary_cross_entropy.bwd(residuals, jnp.array(0.5))
    assert_close(dl_dy, (prediction - target) / (prediction * (1 - prediction)) / 2)


def test_1_3_c_the_relu_does_not_shrink_the_gradient():
    z = np.linspace(-10, 10, 2001)
    slopes = {
        op: np.asarray(op.bwd(op.fwd(jnp.array(z))[1], jnp.ones(len(z)))[0])
        for op in (jaxnn.sigmoid, jaxnn.relu)
    }
    assert slopes[jaxnn.sigmoid].max() == 0.25
    assert set(slopes[jaxnn.relu][z > 0]) == {1.0}
