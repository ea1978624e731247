"""The handwritten derivation, parts B and C: the matrix form and the Kronecker route to ∂L/∂W.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxnn
from jaxnn.teaching import jacobians
from jaxnn.teaching.jacobians import devec, vec

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)

# Columns of sizes 4 → 3 → 2: z_n = W_n·x_{n−1} + b_n and x_n = σ(z_n), so that N = 2.
random = np.random.default_rng(7)
X0, Y = random.normal(size=4), random.normal(size=2)
W1, W2 = random.normal(size=(3, 4)), random.normal(size=(2, 3))
B1, B2 = random.normal(size=3), random.normal(size=2)
Z1 = W1 @ X0 + B1
X1 = 1 / (1 + np.exp(-Z1))
Z2 = W2 @ X1 + B2
X2 = 1 / (1 + np.exp(-Z2))

# A weight, an input and an incoming gradient for a batch of 6 columns.
BATCH_X, BATCH_DZ = random.normal(size=(3, 6)), random.normal(size=(2, 6))


def slope(z):
    """σ'(z) by the backward of the library's sigmoid."""
    (dz,) = jaxnn.sigmoid.bwd(jaxnn.sigmoid.fwd(jnp.array(z))[1], jnp.ones(z.shape))
    return np.asarray(dz)


def linear_backward(w, x, dz):
    """∂L/∂W, ∂L/∂b and ∂L/∂x of z = W·x + b for columns, by the library's row convention."""
    params = {"w": jnp.array(w.T), "b": jnp.zeros(len(w))}
    _, residuals = jaxnn.linear.fwd(params, jnp.array(x.T))
    dparams, dx = jaxnn.linear.bwd(residuals, jnp.array(dz.T))
    return np.asarray(dparams["w"]).T, np.asarray(dparams["b"]), np.asarray(dx).T


class Grads(NamedTuple):
    """∂L/∂ of everything from the last layer back."""

    x2: np.ndarray
    z2: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    x1: np.ndarray
    z1: np.ndarray
    w1: np.ndarray
    b1: np.ndarray
    x0: np.ndarray


@pytest.fixture(scope="module")
def grads():
    """The gradients by the backward of the library's ops."""
    _, residuals = jaxnn.half_squared_error.fwd(jnp.array(X2), jnp.array(Y))
    dx, _ = jaxnn.half_squared_error.bwd(residuals, jnp.array(1.0))
    grads = [np.asarray(dx)]
    for w, x, z in ((W2, X1, Z2), (W1, X0, Z1)):
        (dz,) = jaxnn.sigmoid.bwd(jaxnn.sigmoid.fwd(jnp.array(z))[1], jnp.array(grads[-1]))
        grads += [np.asarray(dz), *linear_backward(w, x, np.asarray(dz))]
    return Grads(*grads)


def test_the_library_agrees_with_autodiff_of_the_printed_equations(grads):
    def loss(w2, b2, w1, b1, x0):
        x1 = jax.nn.sigmoid(w1 @ x0 + b1)
        x2 = jax.nn.sigmoid(w2 @ x1 + b2)
        return (x2 - Y) @ (x2 - Y) / 2

    found = jax.grad(loss, range(5))(*map(jnp.array, (W2, B2, W1, B1, X0)))
    library = grads.w2, grads.b2, grads.w1, grads.b1, grads.x0
    for leaf, expected in zip(library, found, strict=True):
        assert_close(leaf, expected)


def test_the_derivative_by_z_is_diagonal():
    jacobian = jacobians.activation_jacobian(jaxnn.sigmoid, jnp.array(Z1))
    assert_close(jacobian, np.diag(X1 * (1 - X1)))
    assert_close(jacobian, jax.jacobian(jax.nn.sigmoid)(jnp.array(Z1)))


def test_the_derivative_by_b_is_the_identity():
    found = jax.jacobian(lambda b: W1 @ X0 + b)(jnp.array(B1))
    assert jacobians.bias_jacobian(3).tolist() == found.tolist() == np.eye(3).tolist()


def test_the_derivative_by_x_is_the_transposed_weight():
    found = jacobians.input_jacobian(jnp.array(W2), layout="denominator")
    by_jax = jax.jacobian(lambda x: W2 @ x + B2)(jnp.array(X1))
    assert_close(found, W2.T)
    assert_close(found, by_jax.T)


def test_the_third_order_derivative_that_was_put_off(grads):
    found = jacobians.weight_jacobian(jnp.array(X1), 2, layout="denominator")
    for j, k, i in np.ndindex(2, 3, 2):
        assert found[j, k, i] == (i == j) * X1[k]
    assert_close(np.asarray(found) @ grads.z2, np.outer(grads.z2, X1))


def test_the_derivatives_of_the_last_layer(grads):
    diagonal = np.diag(slope(Z2))
    assert_close(grads.x2, X2 - Y)
    assert_close(grads.b2, np.eye(2) @ diagonal @ (X2 - Y))
    assert_close(grads.x1, W2.T @ diagonal @ (X2 - Y))


def test_003_2_the_last_factor_is_what_enters_the_layer(grads):
    # Printed: x_N·y⁽ʲ⁾, and q, e, m for a, ℓ, x. Right: x_{N−1}⁽ʲ⁾, one for each column of W.
    assert np.outer(grads.z2, X2 * Y).shape != W2.shape
    assert_close(np.outer(grads.z2, X1), grads.w2)


def test_003_13_the_derivative_of_a_scalar_is_a_column():
    # Printed: [1] instead of [−]. Right: a column instead of a row.
    scalar = jnp.array(W2[:1])
    assert jacobians.input_jacobian(scalar, layout="denominator").shape == (3, 1)
    assert jacobians.input_jacobian(scalar, layout="numerator").shape == (1, 3)


def test_003_14_the_rows_belong_to_z():
    # Printed: a_ij = dx⁽ⁱ⁾/dz⁽ʲ⁾. Right: dx⁽ʲ⁾/dz⁽ⁱ⁾; only on a diagonal is it the same.
    definition = jacobians.input_jacobian(jnp.array(W2), layout="denominator")
    printed = jax.jacobian(lambda x: W2 @ x)(jnp.array(X1))
    assert_close(definition, np.array([[W2[j, i] for j in range(2)] for i in range(3)]))
    assert printed.shape != definition.shape
    both = [
        jacobians.activation_jacobian(jaxnn.sigmoid, jnp.array(Z1), layout=layout).tolist()
        for layout in ("numerator", "denominator")
    ]
    assert both[0] == both[1]


def test_003_15_both_jacobians_are_square(grads):
    # Printed: m_n × m_m. Right: m_n × m_n; with m_{n−1} columns nothing would fit ∂L/∂z.
    for jacobian in (
        jacobians.activation_jacobian(jaxnn.sigmoid, jnp.array(Z2)),
        jacobians.bias_jacobian(len(Z2)),
    ):
        assert jacobian.shape == (2, 2)
        assert (jacobian @ grads.z2).shape == Z2.shape
    with pytest.raises(ValueError, match="mismatch"):
        np.ones((2, len(X1))) @ grads.z2


def test_003_16_what_enters_a_layer_is_the_layer_before():
    # Printed: z_n = W_n·x_n + b_n. Right: W_n·x_{n−1} + b_n.
    with pytest.raises(ValueError, match="mismatch"):
        W2 @ X2 + B2
    params = {"w": jnp.array(W2.T), "b": jnp.array(B2)}
    assert_close(jaxnn.linear(params, jnp.array(X1)), W2 @ X1 + B2)


def test_003_17_the_derivative_by_the_input_has_a_row_for_each_input(grads):
    # Printed: size m_n × m_{n−1}. Right: m_{n−1} × m_n by its own definition, that of Wᵀ.
    jacobian = jacobians.input_jacobian(jnp.array(W2), layout="denominator")
    assert jacobian.shape == (3, 2) == W2.T.shape != W2.shape
    assert_close(jacobian @ grads.z2, grads.x1)


def test_003_18_the_slopes_are_a_diagonal_matrix(grads):
    # Printed: σ'(z_N)(x_N − y), a column times a column. Right: diag σ'(z_N)·(x_N − y).
    with pytest.raises(ValueError, match="mismatch"):
        slope(Z2)[:, None] @ (X2 - Y)[:, None]
    assert_close(np.diag(slope(Z2)) @ (X2 - Y), grads.z2)
    assert_close(slope(Z2) * (X2 - Y), grads.z2)


def test_003_19_the_layer_before_has_no_transpose_either():
    # Printed: z_{N−1} = W_{N−1}ᵀ·x_{N−2} + b. Right: W_{N−1}·x_{N−2} + b.
    with pytest.raises(ValueError, match="mismatch"):
        W1.T @ X0
    params = {"w": jnp.array(W1.T), "b": jnp.array(B1)}
    assert_close(jaxnn.linear(params, jnp.array(X0)), W1 @ X0 + B1)


def test_003_20_every_layer_adds_its_own_slopes(grads):
    # Printed: σ'(z_{N−1})·W_Nᵀ·∂L/∂x_N. Right: diag σ'(z_{N−1})·W_Nᵀ·diag σ'(z_N)·∂L/∂x_N.
    printed = np.diag(slope(Z1)) @ W2.T @ grads.x2
    assert_close(np.diag(slope(Z1)) @ W2.T @ np.diag(slope(Z2)) @ grads.x2, grads.z1)
    assert (np.sign(printed) != np.sign(grads.z1)).any()


def test_the_pattern(grads):
    first, second = np.diag(slope(Z1)), np.diag(slope(Z2))
    assert_close(W1.T @ first @ W2.T @ second @ grads.x2, grads.x0)
    assert_close(grads.b1, grads.z1)


def test_the_pattern_finished(grads):
    delta2 = slope(Z2) * (X2 - Y)
    delta1 = slope(Z1) * (W2.T @ delta2)
    expected = Grads(
        X2 - Y,
        *(delta2, np.outer(delta2, X1), delta2, W2.T @ delta2),
        *(delta1, np.outer(delta1, X0), delta1, W1.T @ delta1),
    )
    for found, leaf in zip(grads, expected, strict=True):
        assert_close(found, leaf)


def test_the_pattern_in_the_numerator_layout_is_transposed_and_reversed(grads):
    row = grads.x2[None, :] @ np.diag(slope(Z2))
    assert_close(row @ jacobians.input_jacobian(jnp.array(W2)), grads.x1[None, :])


def test_the_pattern_for_a_batch_of_rows():
    random = np.random.default_rng(9)
    net = jaxnn.mlp((4, 3, 2), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    torch = ({"w": W1, "b": B1}, (), {"w": W2, "b": B2}, ())
    params = jax.tree.map(jnp.array, jaxnn.convert_convention(torch, "row", source="torch"))
    x0, target = random.normal(size=(5, 4)), random.normal(size=(5, 2))
    z1 = x0 @ W1.T + B1
    x1 = 1 / (1 + np.exp(-z1))
    z2 = x1 @ W2.T + B2
    delta2 = slope(z2) * (1 / (1 + np.exp(-z2)) - target)
    delta1 = slope(z1) * (delta2 @ W2)
    gradient = jaxnn.value_and_grad(net, jaxnn.half_squared_error, reduction="sum")
    _, (first, _, second, _) = gradient(params, jnp.array(x0), jnp.array(target))
    for layer, x, delta in ((first, x0, delta1), (second, x1, delta2)):
        assert_close(layer["w"], x.T @ delta)
        assert_close(layer["b"], np.ones(5) @ delta)


def test_003_21_a_weight_reaches_its_own_output_alone_if_the_activation_is_elementwise():
    # Printed: the effect of w⁽ⁱʲ⁾ is on x_N⁽ⁱ⁾ only. Right: not so with a softmax.
    for activation, alone in ((jaxnn.sigmoid, True), (jaxnn.softmax, False)):
        effects = jax.jacobian(lambda w, f=activation: f(w @ X1 + B2))(jnp.array(W2))
        elsewhere = np.array([effects[0, 1], effects[1, 0]])
        assert (elsewhere == 0).all() == alone
        assert np.all(effects[0, 0] != 0)


def test_003_22_the_gradient_of_the_weight_is_an_outer_product(grads):
    # Printed: a column of ones times the row β. Right: α·βᵀ.
    assert_close(grads.z2[:, None] @ X1[None, :], grads.w2)
    printed = np.ones((2, 1)) @ X1[None, :]
    assert printed[0].tolist() == printed[1].tolist()
    assert not np.allclose(printed, grads.w2)


def test_vec_puts_column_under_column():
    a = np.array([[1, 2], [3, 4]])
    assert vec(a).tolist() == [1, 3, 2, 4]
    assert devec(vec(a), (2, 2)).tolist() == a.tolist()


def test_the_vec_of_a_product():
    random = np.random.default_rng(9)
    a, b, c = (random.normal(size=shape) for shape in [(2, 3), (3, 4), (4, 5)])
    assert_close(np.kron(c.T, a) @ vec(b), vec(a @ b @ c))
    assert not np.allclose(np.kron(c.T, a) @ b.ravel(), (a @ b @ c).ravel())
    assert_close(np.kron(a, c.T) @ b.ravel(), (a @ b @ c).ravel())


def test_z_by_the_kronecker_product():
    jacobian = jacobians.vec_weight_jacobian(jnp.array(X1), 2)
    assert_close(jacobian, np.kron(X1[None, :], np.eye(2)))
    assert jacobian.shape == (2, 2 * 3)
    assert_close(jacobian @ vec(W2) + B2, Z2)


def test_003_23_the_chain_to_the_weight_goes_through_the_output(grads):
    # Printed: … × ∂x_{N−1}/∂z_N × ∂L/∂x_{N−1}. Right: (∂z_N/∂w_N)(∂x_N/∂z_N)(∂L/∂x_N).
    by_weight = np.asarray(jacobians.vec_weight_jacobian(jnp.array(X1), 2)).T
    assert by_weight.shape == (2 * 3, 2)
    diagonal = np.diag(slope(Z2))
    with pytest.raises(ValueError, match="mismatch"):
        by_weight @ diagonal @ X1
    assert_close(devec(by_weight @ diagonal @ (X2 - Y), W2.shape), grads.w2)


def test_003_24_the_transpose_goes_into_the_kronecker_product(grads):
    # Printed: (x_{N−1}ᵀ ⊗ I)·… Right: (x_{N−1}ᵀ ⊗ I)ᵀ = x_{N−1} ⊗ I.
    printed = np.kron(X1[None, :], np.eye(2))
    right = jacobians.vec_weight_jacobian(jnp.array(X1), 2, layout="denominator")
    with pytest.raises(ValueError, match="mismatch"):
        printed @ grads.z2
    assert_close(right, np.kron(X1[:, None], np.eye(2)))
    assert_close(right, printed.T)
    assert_close(jacobians.kronecker_gradient(jnp.array(X1), jnp.array(grads.z2)), grads.w2)


# The example of the notes: two inputs, three outputs.
x, y = np.array([2.0, 3.0]), np.array([5.0, 7.0, 11.0])


def test_003_25_the_kronecker_product_of_a_column_is_a_stack():
    # Printed: [[0, 0], [0, 1]] ⊗ I = diag(x0, x1, x1). Right: x ⊗ I = [x0·I; x1·I], 6 × 3.
    right = jacobians.vec_weight_jacobian(jnp.array(x), 3, layout="denominator")
    assert right.tolist() == np.vstack([2 * np.eye(3), 3 * np.eye(3)]).tolist()
    assert np.kron([[0, 0], [0, 1]], np.eye(3)).shape == (6, 6)
    assert np.diag([x[0], x[1], x[1]]).shape == (3, 3)


def test_003_26_the_product_has_six_entries():
    # Printed: a 3 × 2 matrix times y, ten entries. Right: six, vec(y·xᵀ).
    outer = np.outer(y, x)
    with pytest.raises(ValueError, match="mismatch"):
        outer @ y
    right = np.kron(x[:, None], np.eye(3)) @ y
    assert right.tolist() == vec(outer).tolist() == [10, 14, 22, 15, 21, 33]
    found = jacobians.kronecker_gradient(jnp.array(x), jnp.array(y))
    assert found.tolist() == outer.tolist()


def test_003_27_devec_is_of_the_whole_product():
    # Printed: devec(X ⊗ I)·Y = Y·Xᵀ. Right: devec((X ⊗ I)·Y) = Y·Xᵀ.
    product = np.kron(x[:, None], np.eye(3))
    with pytest.raises(ValueError, match="fill"):
        devec(vec(product), (3, 2))
    assert devec(product @ y, (3, 2)).tolist() == np.outer(y, x).tolist()


def test_the_general_claim_that_needs_a_proof():
    """vec(I·Y·Xᵀ) = ((Xᵀ)ᵀ ⊗ I)·vec(Y), the identity of vec with A = I, B = Y and C = Xᵀ."""
    random = np.random.default_rng(9)
    many_x, many_y = random.normal(size=(4, 5)), random.normal(size=(3, 5))
    left = np.kron(many_x, np.eye(3)) @ vec(many_y)
    assert_close(left, vec(many_y @ many_x.T))


def test_the_summary_for_a_batch():
    dw, _, dx = linear_backward(W2, BATCH_X, BATCH_DZ)
    assert_close(dw, BATCH_DZ @ BATCH_X.T)
    assert_close(dx, W2.T @ BATCH_DZ)


def test_003_28_the_gradient_of_the_bias_is_summed_over_the_batch(grads):
    # Printed: ∂L/∂b = ∂L/∂Z. Right: (∂L/∂Z)·1, which is the same for one column.
    _, db, _ = linear_backward(W2, BATCH_X, BATCH_DZ)
    assert db.shape != BATCH_DZ.shape
    assert_close(db, BATCH_DZ @ np.ones(6))
    assert_close(grads.b2, grads.z2)
