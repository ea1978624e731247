"""Jacobians as arrays: against `jax.jacobian`, and their products against the ops' backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.teaching import jacobians


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


M, N = 3, 4
W, B, X, Z, DELTA = normal(M, N), normal(M), normal(N, seed=1), normal(M, seed=2), normal(M, seed=3)
LAYOUTS = ["numerator", "denominator"]
ELEMENTWISE = [
    jaxnn.identity,
    jaxnn.sigmoid,
    jaxnn.tanh,
    jaxnn.relu,
    jaxnn.leaky_relu.bind(slope=0.2),
    jaxnn.elu.bind(alpha=0.5),
    jaxnn.softplus,
    jaxnn.silu,
    jaxnn.gelu,
    jaxnn.gelu.bind(approximate=False),
]


def z_of(w, b, x):
    """The forward pass of one example as it is written on paper."""
    return w @ x + b


def z_of_vec(v, b, x):
    return v.reshape(N, M).T @ x + b


# The piece, the function that it is the Jacobian of, and where.
PIECES = {
    **{
        f"activation {op}": (
            lambda layout, op=op: jacobians.activation_jacobian(op, Z, layout=layout),
            op.definition,
            Z,
        )
        for op in ELEMENTWISE
    },
    "softmax": (
        lambda layout: jacobians.softmax_jacobian(Z, layout=layout),
        jaxnn.softmax.definition,
        Z,
    ),
    "bias": (
        lambda layout: jacobians.bias_jacobian(M, layout=layout),
        lambda b: z_of(W, b, X),
        B,
    ),
    "input": (
        lambda layout: jacobians.input_jacobian(W, layout=layout),
        lambda x: z_of(W, B, x),
        X,
    ),
    "weight": (
        lambda layout: jacobians.weight_jacobian(X, M, layout=layout),
        lambda w: z_of(w, B, X),
        W,
    ),
    "vec weight": (
        lambda layout: jacobians.vec_weight_jacobian(X, M, layout=layout),
        lambda v: z_of_vec(v, B, X),
        jacobians.vec(W),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", PIECES)
def test_against_jax_jacobian(piece, layout):
    jacobian, function, at = PIECES[piece]
    expected = jax.jacobian(function)(at)
    if layout == "denominator":
        expected = jnp.moveaxis(expected, 0, -1)
    found = jacobian(layout)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("op", [*ELEMENTWISE, jaxnn.softmax], ids=str)
def test_the_product_with_a_gradient_is_bwd_of_the_activation(op):
    if op == jaxnn.softmax:
        jacobian = jacobians.softmax_jacobian(Z)
    else:
        jacobian = jacobians.activation_jacobian(op, Z)
    _, residuals = op.fwd(Z)
    (dz,) = op.bwd(residuals, DELTA)
    np.testing.assert_allclose(DELTA @ jacobian, dz, rtol=1e-12)


def test_the_products_with_a_gradient_are_bwd_of_linear():
    # One example in the row convention: W and every gradient of it are transposed.
    _, residuals = jaxnn.linear.fwd({"w": W.T, "b": B}, X)
    dparams, dx = jaxnn.linear.bwd(residuals, DELTA)
    contracted = {
        "numerator": lambda jacobian: jnp.tensordot(DELTA, jacobian, 1),
        "denominator": lambda jacobian: jnp.tensordot(jacobian, DELTA, 1),
    }
    for layout, contract in contracted.items():
        pieces = {piece: contract(jacobian(layout)) for piece, (jacobian, _, _) in PIECES.items()}
        np.testing.assert_allclose(pieces["bias"], dparams["b"], rtol=1e-12)
        np.testing.assert_allclose(pieces["input"], dx, rtol=1e-12)
        np.testing.assert_allclose(pieces["weight"], dparams["w"].T, rtol=1e-12)
        np.testing.assert_allclose(pieces["vec weight"], jacobians.vec(dparams["w"].T), rtol=1e-12)
    np.testing.assert_allclose(jacobians.kronecker_gradient(X, DELTA), dparams["w"].T, rtol=1e-12)


def test_the_chain_of_a_layer_reads_from_right_to_left_in_the_denominator_layout():
    _, pullback = jax.vjp(lambda w: jaxnn.sigmoid.definition(z_of(w, B, X)), W)
    (expected,) = pullback(DELTA)
    z = z_of(W, B, X)
    chain = (
        jacobians.vec_weight_jacobian(X, M, layout="denominator")
        @ jacobians.activation_jacobian(jaxnn.sigmoid, z, layout="denominator")
        @ DELTA
    )
    np.testing.assert_allclose(jacobians.devec(chain, (M, N)), expected, rtol=1e-12)


def test_the_rows_of_the_softmax_jacobian_sum_to_zero():
    np.testing.assert_allclose(jacobians.softmax_jacobian(Z).sum(axis=1), 0, atol=1e-16)


def test_vec_of_a_product_of_three():
    a, b, c = normal(2, 3), normal(3, 4, seed=1), normal(4, 5, seed=2)
    found = jnp.kron(c.T, a) @ jacobians.vec(b)
    np.testing.assert_allclose(found, jacobians.vec(a @ b @ c), rtol=1e-12)
    # By rows, the identity of `vec` is wrong and another one holds.
    by_rows = jnp.ravel(a @ b @ c)
    assert not np.allclose(jnp.kron(c.T, a) @ jnp.ravel(b), by_rows)
    np.testing.assert_allclose(jnp.kron(a, c.T) @ jnp.ravel(b), by_rows, rtol=1e-12)


def test_x_kronecker_identity_times_vec_y_is_vec_of_y_x_transposed():
    x, y = normal(2, 3), normal(4, 3, seed=1)
    found = jnp.kron(x, jnp.eye(4)) @ jacobians.vec(y)
    np.testing.assert_allclose(found, jacobians.vec(y @ x.T), rtol=1e-12)


def test_the_kronecker_route_with_numbers():
    x, delta = np.array([2, 3]), np.array([5, 7, 11])
    by_columns = jacobians.vec_weight_jacobian(x, 3, layout="denominator") @ delta
    np.testing.assert_array_equal(by_columns, [10, 14, 22, 15, 21, 33])
    np.testing.assert_array_equal(jacobians.kronecker_gradient(x, delta), np.outer(delta, x))


def test_devec_undoes_vec():
    np.testing.assert_array_equal(jacobians.vec(np.array([[1, 2], [3, 4]])), [1, 3, 2, 4])
    np.testing.assert_array_equal(jacobians.devec(jacobians.vec(W), W.shape), W)


def test_float32_stays_float32():
    x, z = X.astype("float32"), Z.astype("float32")
    for jacobian in (
        jacobians.activation_jacobian(jaxnn.gelu, z),
        jacobians.softmax_jacobian(z),
        jacobians.weight_jacobian(x, M),
        jacobians.vec_weight_jacobian(x, M),
        jacobians.kronecker_gradient(x, z),
    ):
        assert jacobian.dtype == "float32"


def test_under_jit_and_vmap():
    zs = normal(5, M)
    found = jax.jit(jax.vmap(lambda z: jacobians.activation_jacobian(jaxnn.tanh, z)))(zs)
    for z, jacobian in zip(zs, found, strict=True):
        np.testing.assert_allclose(jacobian, jacobians.activation_jacobian(jaxnn.tanh, z))


@pytest.mark.parametrize("piece", PIECES)
def test_an_unknown_layout(piece):
    jacobian, _, _ = PIECES[piece]
    words = "jacobian: layout must be 'numerator' or 'denominator', got 'rows'"
    with pytest.raises(ValueError, match=words):
        jacobian("rows")


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: jacobians.activation_jacobian(jaxnn.softmax, Z),
            "activation_jacobian: softmax is not elementwise",
        ),
        (
            lambda: jacobians.activation_jacobian(jaxnn.relu, W),
            r"activation_jacobian: z must be a vector, got shape \(3, 4\)",
        ),
        (lambda: jacobians.softmax_jacobian(W), r"softmax_jacobian: z must be a vector"),
        (lambda: jacobians.bias_jacobian(0), "bias_jacobian: m must be a positive integer, got 0"),
        (lambda: jacobians.bias_jacobian(2.0), "bias_jacobian: m must be a positive integer"),
        (lambda: jacobians.input_jacobian(X), r"input_jacobian: w must be a matrix, got shape \(4"),
        (lambda: jacobians.weight_jacobian(W, M), "weight_jacobian: x must be a vector"),
        (lambda: jacobians.weight_jacobian(X, -1), "weight_jacobian: m must be a positive integer"),
        (lambda: jacobians.vec_weight_jacobian(W, M), "vec_weight_jacobian: x must be a vector"),
        (lambda: jacobians.vec_weight_jacobian(X, 0), "vec_weight_jacobian: m must be a positive"),
        (lambda: jacobians.vec(X), r"vec: a must be a matrix, got shape \(4,\)"),
        (lambda: jacobians.devec(W, (3, 4)), "devec: v must be a vector"),
        (lambda: jacobians.devec(X, (3, 2)), r"devec: 4 numbers do not fill a matrix of shape \(3"),
        (lambda: jacobians.devec(X, (-2, -2)), "devec: 4 numbers do not fill a matrix"),
        (lambda: jacobians.kronecker_gradient(W, Z), "kronecker_gradient: x must be a vector"),
        (lambda: jacobians.kronecker_gradient(X, W), "kronecker_gradient: delta must be a vector"),
    ],
)
def test_bad_values(call, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        call()


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("activation", "z", "words"),
    [
        (jnp.tanh, Z, "activation must be an op of one argument such as jaxnn.relu"),
        (jaxnn.squared_error, Z, "activation must be an op of one argument such as jaxnn.relu"),
        (jaxnn.relu, jnp.arange(3), r"z must be floating point, got int64\[3\]"),
    ],
)
def test_bad_types(activation, z, words):
    with pytest.raises(TypeError, match=f"^activation_jacobian: {words}"):
        jacobians.activation_jacobian(activation, z)
