"""The handwritten notes on a linear class: forward, backward and update of y = x·W + b.

A test that begins with an erratum's number shows that what is printed is wrong and what is right.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxnn
from jaxnn.teaching import jacobians

assert_close = partial(assert_allclose, rtol=1e-12, atol=1e-13)

# The worked example of the notes.
x = np.array([[1.0, 2.0]])
W = np.array([[0.5, -1.0], [1.5, 0.0]])
B = np.array([0.1, 0.2])
PARAMS = {"w": jnp.array(W), "b": jnp.array(B)}

# A batch with distinct sizes: 5 samples k, 3 inputs i, 4 units j.
random = np.random.default_rng(1)
BATCH_X, BATCH_W, BATCH_O = (random.normal(size=shape) for shape in [(5, 3), (3, 4), (5, 4)])


def backward(x, w, grad_output):
    """dW, db and dx by the library, as NumPy arrays."""
    params = {"w": jnp.array(w), "b": jnp.zeros(w.shape[1])}
    _, residuals = jaxnn.linear.fwd(params, jnp.array(x))
    dparams, dx = jaxnn.linear.bwd(residuals, jnp.array(grad_output))
    return tuple(map(np.asarray, (dparams["w"], dparams["b"], dx)))


def test_three_layers_nested():
    random = np.random.default_rng(9)
    net = jaxnn.mlp((2, 4, 3, 2), activation=jaxnn.tanh, output=jaxnn.sigmoid)
    params = tuple(
        {"w": random.normal(size=sizes), "b": random.normal(size=sizes[1])} if sizes else ()
        for sizes in [(2, 4), (), (4, 3), (), (3, 2), ()]
    )
    first, _, second, _, third, _ = jaxnn.convert_convention(params, "column")
    o = x.T
    for layer, a in ((first, np.tanh), (second, np.tanh), (third, jax.nn.sigmoid)):
        o = a(layer["w"] @ o + layer["b"])
    params = jax.tree.map(jnp.array, params)
    assert_close(net.apply(params, jnp.array(x)), o.T)


def test_one_unit_is_a_weighted_sum():
    y = jaxnn.linear({"w": jnp.array(BATCH_W), "b": jnp.arange(4.0)}, jnp.array(BATCH_X))
    for k, j in np.ndindex(5, 4):
        f_j = sum(BATCH_W[i, j] * BATCH_X[k, i] for i in range(3)) + j
        assert_close(y[k, j], f_j)


def test_the_additive_rule():
    ops = jaxnn.sigmoid, jaxnn.tanh, jaxnn.softplus
    t = jnp.array(0.3)
    parts = [op.bwd(op.fwd(t)[1], jnp.array(1.0))[0] for op in ops]
    total = jax.grad(lambda t: sum(op.definition(t) for op in ops))(t)
    assert_close(sum(parts), total)


def test_001_1_the_chain_rule_is_not_circular():
    # Printed: d/dx f(g(h)) = d/dx f(g(h))·d/dx g(h)·d/dx h. Right: f'(g(h))·g'(h)·h'.
    f, g, h = jnp.sin, jnp.square, jnp.exp
    true = jax.grad(lambda t: f(g(h(t))))(0.3)
    inner = jax.grad(lambda t: g(h(t)))(0.3)
    assert_close(np.cos(g(h(0.3))) * 2 * h(0.3) * h(0.3), true)
    assert_allclose(true, -0.906, rtol=0, atol=5e-4)
    assert_allclose(true * inner * h(0.3), -4.458, rtol=0, atol=5e-4)


def test_001_2_the_chain_rule_is_the_gradient_of_the_composition():
    # Printed: "the gradient of the activation function". Right: of the composition.
    activation = jaxnn.sigmoid
    z = jaxnn.linear(PARAMS, jnp.array(x))
    (da,) = activation.bwd(activation.fwd(z)[1], jnp.ones((1, 2)))
    _, _, dx = backward(x, W, da)
    composition = jax.grad(lambda x: jnp.sum(jax.nn.sigmoid(x @ W + B[None])))(jnp.array(x))
    assert_close(dx, composition)
    assert not np.allclose(da, composition)


def test_001_3_x_has_one_column_for_each_input():
    # Printed: x (b, 1), w (1, o). Right: x (b, n), w (n, o).
    y = jaxnn.linear({"w": jnp.array(BATCH_W)}, jnp.array(BATCH_X))
    assert y.shape == (5, 4)
    assert np.linalg.matrix_rank(y) == 3
    one_input = jaxnn.linear({"w": jnp.array(BATCH_W[:1])}, jnp.array(BATCH_X[:, :1]))
    assert one_input.shape == (5, 4)
    assert np.linalg.matrix_rank(one_input) == 1
    with pytest.raises(ValueError, match="last axis of x"):
        jaxnn.linear({"w": jnp.array(BATCH_W[:1])}, jnp.array(BATCH_X))


def test_001_4_the_two_conventions_have_transposed_weights():
    # Printed: W·x + b and x·W + b with one W. Right: the one W is the other's transpose.
    row = jaxnn.linear(PARAMS, jnp.array(x))
    column = jaxnn.convert_convention(PARAMS, "column")
    assert_close(column["w"], W.T)
    assert_close((column["w"] @ x.T + column["b"]).T, row)
    assert not np.allclose((W @ x.T + B[:, None]).T, row)


def test_forward_example():
    assert_allclose(jaxnn.linear(PARAMS, jnp.array(x)), [[3.6, -0.8]], rtol=1e-15)


def test_update_example():
    dw, db, _ = backward(x, W, [[1.0, 2.0]])
    new = jaxnn.sgd_update(PARAMS, {"w": dw, "b": db}, 0.1)
    assert_allclose(new["w"], [[0.4, -1.2], [1.3, -0.4]], rtol=1e-15)
    assert_close(new["b"], [0.0, 0.0])


def test_weights_example():
    dw, _, _ = backward(x, W, [[1.0, 2.0]])
    assert dw.tolist() == [[1, 2], [2, 4]]


def test_the_weights_example_cannot_see_a_transpose():
    symmetric, telling = np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]])
    row, _, _ = backward(x, W, telling)
    column = jaxnn.convert_convention({"w": row}, "column")["w"]
    assert row.tolist() == [[1, 3], [2, 6]]
    assert column.tolist() == (telling.T @ x).tolist() == [[1, 2], [3, 6]]
    assert (symmetric.T @ x).tolist() == (x.T @ symmetric).tolist()


def test_the_example_in_the_column_convention():
    column = jaxnn.convert_convention(PARAMS, "column")
    assert column["w"].tolist() == [[0.5, 1.5], [-1.0, 0.0]]
    z, delta = column["w"] @ x.T + column["b"], np.array([[1.0], [2.0]])
    assert_allclose(z, [[3.6], [-0.8]], rtol=1e-15)
    dw, db, dx = backward(x, W, delta.T)
    row = jaxnn.convert_convention({"w": delta @ x, "b": delta}, "row", source="column")
    assert_close(row["w"], dw)
    assert_close(row["b"], db)
    assert_close(column["w"].T @ delta, dx.T)


def test_001_5_the_gradient_of_the_weights_has_their_own_indices():
    # Printed: ∂L/∂W_ij = Σₖ O_ik·X_jk, with O_ik = grad_output[k, i]. Right: Σₖ X_ki·O_kj.
    dw, _, _ = backward(BATCH_X, BATCH_W, BATCH_O)
    printed = np.einsum("ki,kj->ij", BATCH_O, BATCH_X)
    right = np.einsum("ki,kj->ij", BATCH_X, BATCH_O)
    assert printed.shape == (4, 3) != BATCH_W.shape
    assert_close(right, dw)
    assert_close(printed.T, dw)
    sample, _, _ = backward(BATCH_X[:1], BATCH_W, BATCH_O[:1])
    assert_close(np.multiply.outer(BATCH_X[0], BATCH_O[0]), sample)


def test_the_gradient_of_the_bias_is_right():
    _, db, _ = backward(BATCH_X, BATCH_W, BATCH_O)
    assert_close(db, [sum(BATCH_O[k, j] for k in range(5)) for j in range(4)])


def test_001_6_the_gradient_of_the_input_sums_over_the_units():
    # Printed: ∂L/∂X_j = Σₖ O_jk·W_jk over samples k. Right: ∂L/∂X_kj = Σᵢ O_ki·W_ji over units i.
    _, _, dx = backward(BATCH_X, BATCH_W, BATCH_O)
    assert_close(np.einsum("ki,ji->kj", BATCH_O, BATCH_W), dx)
    with pytest.raises(ValueError, match="operands"):
        np.einsum("kj,jk->j", BATCH_O, BATCH_W)
    square = BATCH_X[:3], BATCH_W[:, :3], BATCH_O[:3, :3]
    _, _, dx = backward(*square)
    printed = np.einsum("kj,jk->j", square[2], square[1])
    assert printed.shape == (3,) != dx.shape
    assert not np.isclose(printed, dx).any()


def test_001_7_the_bias_is_a_row():
    # Printed: b (2, 1). Right: (1, 2); NumPy broadcasts the column without a word.
    assert_close(x @ W + B[:, None], [[3.6, -0.9], [3.7, -0.8]])
    assert_close(x @ W + B[None, :], [[3.6, -0.8]])
    with pytest.raises(ValueError, match=r"b must be \(2,\)"):
        jaxnn.linear({"w": jnp.array(W), "b": jnp.array(B[:, None])}, jnp.array(x))


def test_001_8_the_bias_has_one_entry_for_each_unit():
    # Printed: b (n, 1) for n inputs and 2 units. Right: (1, 2).
    x_n, w_n2 = BATCH_X[:1], BATCH_W[:, :2]
    assert (x_n @ w_n2 + np.zeros((3, 1))).shape == (3, 2)
    assert (x_n @ w_n2 + np.zeros((1, 2))).shape == (1, 2)
    _, db, _ = backward(x_n, w_n2, BATCH_O[:1, :2])
    assert db.shape == (2,)


BIAS_OUTPUT = np.array([[0.1, -0.2], [0.3, -0.1], [0.2, 0.0]])


def test_001_9_the_gradient_of_the_bias_is_not_its_own_factor():
    # Printed: ∂L/∂θᵢ = Σₖ ∂L/∂θᵢ·O_ik. Right: Σₖ O_ik.
    _, db, _ = backward(np.ones((3, 2)), W, BIAS_OUTPUT)
    assert_close(db, BIAS_OUTPUT.sum(axis=0))
    assert not np.isclose(db * BIAS_OUTPUT.sum(axis=0), db).any()


def test_001_10_rows_of_an_array_need_commas():
    # Printed: rows such as [0.2 0.0] with nothing between. Right: commas.
    printed = "[\n [0.1 -0.2]\n [0.3 -0.1]\n [0.2 0.0]\n]"
    with pytest.raises(SyntaxError):
        compile(printed, "notes", "eval")
    right = "[[0.1, -0.2], [0.3, -0.1], [0.2, 0.0]]"
    assert np.array(eval(right)).tolist() == BIAS_OUTPUT.tolist()


def test_001_11_the_second_bias_has_a_negative_gradient():
    # Printed: [0.6, 0.3]. Right: [[0.6, −0.3]], a row because of keepdims.
    summed = np.sum(BIAS_OUTPUT, axis=0, keepdims=True)
    assert_allclose(summed, [[0.6, -0.3]], rtol=1e-15)
    assert not np.allclose(summed, [[0.6, 0.3]])
    _, db, _ = backward(np.ones((3, 2)), W, BIAS_OUTPUT)
    assert_allclose(db, [0.6, -0.3], rtol=1e-15)


def test_001_12_what_goes_on_backward_is_the_gradient_of_the_input():
    # Printed heading: "the gradient of output". Right: of the input; that of the output came in.
    _, _, dx = backward(BATCH_X, BATCH_W, BATCH_O)
    of_input = jax.grad(lambda x: jnp.sum((x @ BATCH_W) * BATCH_O))(jnp.array(BATCH_X))
    assert_close(dx, of_input)
    assert dx.shape != BATCH_O.shape


def test_001_13_the_transpose_is_an_attribute():
    # Printed: grad_output @ weight^T. Right: weight.T; in Python ^ is the exclusive or.
    grad_output, weight, T = np.array([[1.0, 2.0]]), W, W.T
    with pytest.raises(TypeError, match="bitwise_xor"):
        grad_output @ weight ^ T
    assert_close(grad_output @ weight.T, backward(x, W, grad_output)[2])


def test_001_14_the_gradient_of_the_input_in_the_example():
    # Printed: [−1.6, 1.5]. Right: 1·0.5 + 2·(−1) = −1.5, so [−1.5, 1.5].
    _, _, dx = backward(x, W, [[1.0, 2.0]])
    assert dx.tolist() == [[-1.5, 1.5]]
    assert not np.allclose(dx, [[-1.6, 1.5]])


def test_001_15_the_derivative_of_z_by_the_weights_is_of_third_order():
    # Printed: ∂z/∂W = x. Right: ∂zⱼ/∂W_ik = xᵢ·δⱼₖ; xᵀ is what is left once it is contracted.
    sample, grad_output = jnp.array(BATCH_X[0]), BATCH_O[0]
    third_order = np.asarray(jacobians.weight_jacobian(sample, 4))
    assert third_order.shape == (4, 4, 3) != sample.shape
    by_jax = jax.jacobian(lambda w: sample @ w)(jnp.array(BATCH_W))
    assert_close(np.swapaxes(third_order, 1, 2), by_jax)
    contracted = np.einsum("j,jki->ik", grad_output, third_order)
    assert_close(contracted, np.outer(sample, grad_output))
    assert_close(contracted, backward(BATCH_X[:1], BATCH_W, BATCH_O[:1])[0])
