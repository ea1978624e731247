"""S. Shamsi's slides "Neural Nets From Scratch": activations, cross-entropy, linear layer, MLP.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxnn

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)

POINTS = np.linspace(-10, 10, 41)

# The slides' forward example: y is the second of four classes.
y = np.array([0.0, 1.0, 0.0, 0.0])
p = np.array([0.1, 0.3, 0.5, 0.1])

# The linear layer of equation 1, and ∂L/∂Y of equation 4.
random = np.random.default_rng(2)
X, W, DY = (random.normal(size=shape) for shape in [(2, 2), (2, 3), (2, 3)])


def slope(op, at):
    """The derivative of an op of numbers, by its own backward."""
    at = jnp.array(at)
    (dx,) = op.bwd(op.fwd(at)[1], jnp.ones_like(at))
    return dx


def cross_entropy_gradient(logits, target):
    """∂L/∂x of softmax cross-entropy by the library."""
    _, residuals = jaxnn.softmax_cross_entropy.fwd(jnp.array(logits), jnp.array(target))
    return np.asarray(jaxnn.softmax_cross_entropy.bwd(residuals, jnp.array(1.0))[0])


def linear_backward(dy=DY):
    _, residuals = jaxnn.linear.fwd({"w": jnp.array(W), "b": jnp.zeros(3)}, jnp.array(X))
    return jaxnn.linear.bwd(residuals, jnp.array(dy))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "step",
    [
        lambda e: ((1 + e) * 0 - 1 * -e) / (1 + e) ** 2,
        lambda e: e / (1 + e) ** 2,
        lambda e: (1 - 1 + e) / (1 + e) ** 2,
        lambda e: (1 + e) / (1 + e) ** 2 - 1 / (1 + e) ** 2,
        lambda e: 1 / (1 + e) - 1 / (1 + e) ** 2,
        lambda e: 1 / (1 + e) * (1 - 1 / (1 + e)),
    ],
    ids=range(1, 7),
)
def test_each_step_of_the_sigmoid_derivative(step):
    assert_close(jaxnn.sigmoid(jnp.array(POINTS)), sigmoid(POINTS))
    assert_close(step(np.exp(-POINTS)), slope(jaxnn.sigmoid, POINTS))


def test_the_derivative_is_done_as_s_times_1_minus_s():
    """The form before it, e⁻ˣ/(1 + e⁻ˣ)², is ∞/∞ where the sigmoid is merely 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(np.float64(1000))
        assert np.isnan(e / (1 + e) ** 2)
    assert slope(jaxnn.sigmoid, -1000.0) == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda u, v: (v * v - u * u) / v**2,
        lambda u, v: (v**2 - u**2) / v**2,
        lambda u, v: 1 - (u / v) ** 2,
    ],
    ids=range(1, 4),
)
def test_each_step_of_the_tanh_derivative(step):
    u, v = np.exp(POINTS) - np.exp(-POINTS), np.exp(POINTS) + np.exp(-POINTS)
    assert_close(jaxnn.tanh(jnp.array(POINTS)), u / v)
    assert_close(step(u, v), slope(jaxnn.tanh, POINTS))


def test_the_printed_tanh_is_no_code():
    with np.errstate(over="ignore", invalid="ignore"):
        up, down = np.exp(np.float64(1000)), np.exp(np.float64(-1000))
        assert np.isnan((up - down) / (up + down))
    assert jaxnn.tanh(jnp.array(1000.0)) == 1
    assert slope(jaxnn.tanh, 1000.0) == 0


def test_relu_and_its_derivative_with_0_at_0():
    z = np.array([-10.0, -1e-300, 0.0, 1e-300, 10.0])
    assert jaxnn.relu(jnp.array(z)).tolist() == [0, 0, 0, 1e-300, 10]
    assert slope(jaxnn.relu, z).tolist() == [0, 0, 0, 1, 1]


def test_the_cross_entropy_that_is_not_worked_out():
    golden = 1.2039728043259361
    losses = [
        jaxnn.cross_entropy(jnp.array(p), jnp.array(y)),
        jaxnn.softmax_cross_entropy(jnp.log(jnp.array(p)), jnp.array(y)),
        jaxnn.softmax_cross_entropy(jnp.log(jnp.array(p)), jnp.array(1)),
    ]
    assert_allclose(losses, golden, rtol=1e-15)


def test_the_gradient_of_the_example():
    assert_allclose(cross_entropy_gradient(np.log(p), y), [0.1, -0.7, 0.5, 0.1], rtol=1e-15)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, c, a: -np.sum(y * np.log(np.exp(x) / np.exp(x).sum())),
        lambda x, c, a: -y[c] * np.log(np.exp(x[c]) / np.exp(x).sum()),
        lambda x, c, a: -(y[c] * np.log(np.exp(x[c])) - y[c] * np.log(np.exp(x).sum())),
        lambda x, c, a: -y[c] * x[c] + y[c] * np.log(np.exp(x).sum()),
        lambda x, c, a: -y[c] * x[c] + y[c] * (a + np.log(np.exp(x - a).sum())),
        lambda x, c, a: -x[c] + a + np.log(np.exp(x - a).sum()),
    ],
    ids=range(1, 7),
)
def test_each_step_of_the_softmax_cross_entropy(step):
    x = np.array([1.5, -0.5, 3.0, 0.25])
    loss = jaxnn.softmax_cross_entropy(jnp.array(x), jnp.array(y))
    assert_close([step(x, 1, a) for a in (0.0, x.max(), -7.0)], loss)


def test_the_shift_keeps_large_logits_finite():
    x = np.array([1000.0, 999.0, 0.0, -1000.0])
    with np.errstate(over="ignore"):
        assert np.log(np.exp(x).sum()) == np.inf
    shifted = -x[1] + x.max() + np.log(np.exp(x - x.max()).sum())
    assert_close(jaxnn.softmax_cross_entropy(jnp.array(x), jnp.array(y)), shifted)


def test_the_gradient_is_softmax_minus_y():
    x = np.array([1.5, -0.5, 3.0, 0.25])
    softmax = np.exp(x) / np.exp(x).sum()
    by_jax = jax.grad(lambda x: -jnp.sum(y * jnp.log(jnp.exp(x) / jnp.exp(x).sum())))(jnp.array(x))
    assert_close(cross_entropy_gradient(x, y), softmax - y)
    assert_close(by_jax, softmax - y)


def test_002_1_the_targets_must_sum_to_1():
    # Printed: Σ yᵢ·log Σ eˣ becomes log Σ eˣ. Right: only where Σy = 1; else p·Σy − y.
    weighted = np.array([0.0, 2.0, 0.5, 0.0])
    gradient = cross_entropy_gradient(np.log(p), weighted)
    by_jax = jax.grad(lambda x: -jnp.sum(weighted * jax.nn.log_softmax(x)))(jnp.log(jnp.array(p)))
    assert_close(gradient, by_jax)
    assert_close(gradient, p * weighted.sum() - weighted)
    assert not np.allclose(gradient, p - weighted)


def test_002_2_the_sigma_is_a_softmax():
    # Printed: ∂L/∂xⱼ = −yⱼ + σ(xⱼ). Right: −yⱼ + softmax(x)ⱼ, a function of every x.
    x = np.log(p)
    assert not np.allclose(sigmoid(x) - y, cross_entropy_gradient(x, y))
    moved = x + np.array([1.0, 0.0, 0.0, 0.0])
    assert sigmoid(moved)[1] == sigmoid(x)[1]
    change = cross_entropy_gradient(moved, y)[1] - cross_entropy_gradient(x, y)[1]
    assert_close(change, 0.3 / (0.1 * np.e + 0.9) - 0.3)


def test_002_3_m_and_k_are_one_number_of_classes():
    # Printed: sums up to M, later up to K. Right: one K, the length of y and of x.
    with pytest.raises(ValueError, match="shape"):
        jaxnn.softmax_cross_entropy(jnp.log(jnp.array(p)), jnp.array(y[:3]))
    assert cross_entropy_gradient(np.log(p), y).shape == y.shape


def test_002_7_the_form_with_the_true_class_is_for_one_hot_targets():
    # Printed: −y_c·x_c + y_c·log Σ eˣ, then y_c = 1. Right: for one-hot y only.
    x, soft = np.log(p), np.array([0.25, 0.75, 0.0, 0.0])
    for target, equal in ((y, True), (soft, False)):
        c = target.argmax()
        printed = -target[c] * x[c] + target[c] * np.log(np.exp(x).sum())
        loss = jaxnn.softmax_cross_entropy(jnp.array(x), jnp.array(target))
        assert np.isclose(printed, loss) == equal


def test_equations_1_to_3():
    expected = [[sum(X[i, k] * W[k, j] for k in range(2)) for j in range(3)] for i in range(2)]
    assert_close(jaxnn.linear({"w": jnp.array(W)}, jnp.array(X)), expected)


@pytest.mark.parametrize("i", range(2))
@pytest.mark.parametrize("j", range(2))
def test_equations_7_to_14_and_22(i, j):
    """∂Y/∂x_ij holds row j of W in its row i, and ∂L/∂x_ij is its inner product with ∂L/∂Y."""
    dy_dx = np.asarray(jax.jacobian(lambda x: x @ W)(jnp.array(X)))[:, :, i, j]
    assert dy_dx[i].tolist() == W[j].tolist()
    assert dy_dx[1 - i].tolist() == [0, 0, 0]
    _, dx = linear_backward()
    assert_close(dx[i, j], np.sum(DY * dy_dx))


def test_equations_23_and_24():
    _, dx = linear_backward()
    assert_close(dx, DY @ W.T)


def test_002_4_the_chain_rule_is_no_matrix_product():
    # Printed: ∂L/∂Y·∂Y/∂X. Right: a sum over both indices of Y, the Frobenius inner product.
    dy_dx = np.asarray(jax.jacobian(lambda x: x @ W)(jnp.array(X)))
    assert dy_dx.shape == (2, 3, 2, 2)
    for factor in (dy_dx, dy_dx[:, :, 0, 0]):
        with pytest.raises(ValueError, match="mismatch"):
            DY @ factor
    _, dx = linear_backward()
    assert_close(np.tensordot(DY, dy_dx, 2), dx)


def test_002_5_equations_15_to_21_which_are_missing():
    # Printed: (14), then (22). Right: the second row of X goes as the first did.
    _, dx = linear_backward()
    second = DY[1]
    dy_dx21, dy_dx22 = np.array([[0, 0, 0], W[0]]), np.array([[0, 0, 0], W[1]])
    by_jax = np.asarray(jax.jacobian(lambda x: x @ W)(jnp.array(X)))
    assert_close(by_jax[:, :, 1, 0], dy_dx21)
    assert_close(by_jax[:, :, 1, 1], dy_dx22)
    assert_close([np.sum(DY * dy_dx21), np.sum(DY * dy_dx22)], dx[1])
    assert_close([second @ W[0], second @ W[1]], dx[1])
    assert not np.allclose(dx[1], dx[0])


def test_002_6_the_gradients_of_the_weights_and_the_bias():
    # Printed: (5) promises ∂L/∂W, and nothing follows. Right: Xᵀ·∂L/∂Y, and 1ᵀ·∂L/∂Y for a bias.
    dparams, _ = linear_backward()
    by_jax = jax.grad(lambda w, b: jnp.sum((X @ w + b[None]) * DY), (0, 1))
    dw, db = by_jax(jnp.array(W), jnp.zeros(3))
    for found in (dw, X.T @ DY):
        assert_close(dparams["w"], found)
    for found in (db, np.ones(2) @ DY):
        assert_close(dparams["b"], found)
    dy_dw12 = np.asarray(jax.jacobian(lambda w: X @ w)(jnp.array(W)))[:, :, 0, 1]
    assert_close(dy_dw12, np.outer(X[:, 0], [0, 1, 0]))


def test_mlp_forward_and_mlp_backward_of_which_only_the_headings_are_left():
    random = np.random.default_rng(9)
    sizes = (6, 5, 4, 3)
    net = jaxnn.mlp(sizes)
    layers = [(random.normal(size=io), random.normal(size=io[1])) for io in pairwise(sizes)]
    x, classes = random.normal(size=(7, 6)), np.array([0, 2, 1, 1, 0, 2, 2])

    a, kept = x, []
    for n, (w, b) in enumerate(layers, start=1):
        z = a @ w + b
        kept.append((a, z))
        a = z if n == len(layers) else np.maximum(z, 0)
    log_p = a - np.log(np.exp(a).sum(axis=1, keepdims=True))
    target = np.eye(3)[classes]
    loss = -np.mean(np.sum(target * log_p, axis=1))

    delta, grads = np.exp(log_p) - target, []
    for (w, _), (a, z) in zip(reversed(layers), reversed(kept), strict=True):
        if grads:
            delta = delta * (z > 0)
        grads.insert(0, (a.T @ delta / 7, delta.sum(axis=0) / 7))
        delta = delta @ w.T

    params = [part for w, b in layers for part in ({"w": jnp.array(w), "b": jnp.array(b)}, ())]
    gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
    value, found = gradient(params, jnp.array(x), jnp.array(classes))
    assert_close(value, loss)
    for layer, (dw, db) in zip(found[::2], grads, strict=True):
        assert_close(layer["w"], dw)
        assert_close(layer["b"], db)
