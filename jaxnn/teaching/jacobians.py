"""The Jacobians of a network's pieces as explicit arrays: to learn from and to test with.

No op builds them: each `bwd` is the product of its Jacobian with the incoming gradient, written so
that the array itself is never needed. Here they follow the convention in which they are derived on
paper: one example, a column,

    z = W·x + b,   a = σ(z)        x (n,)   W (m, n)   b, z, a (m,)

Two layouts are in use for ∂z/∂x. In the numerator layout, that of `jax.jacobian`, the rows index
z and the chain rule reads ∂L/∂x = ∂L/∂z·∂z/∂x, a row. In the denominator layout the rows index x
and the chain rule reads from right to left, ∂L/∂x = ∂z/∂x·∂L/∂z, a column. Each is the other's
transpose.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from jaxnn.arrays import as_array
from jaxnn.layer import require_sizes
from jaxnn.op import Op
from jaxnn.ops._common.validation import describe
from jaxnn.ops.activations.softmax import softmax

LAYOUTS = ("numerator", "denominator")
Vector = Num[ArrayLike, " n"]
Matrix = Num[ArrayLike, "m n"]


def activation_jacobian(
    activation: Op, z: Vector, *, layout: str = "numerator"
) -> Float[Array, "n n"]:
    """∂a/∂z = diag(σ'(z)) of an elementwise activation a = σ(z); symmetric.

    Derivation:
        aᵢ = σ(zᵢ) depends on no other zⱼ, so ∂aᵢ/∂zⱼ = σ'(zᵢ)·δᵢⱼ
    Its product with a gradient is σ'(z) ⊙ da, which `activation.bwd` computes; σ'(zᵢ) is taken from
    it, as `bwd` of the single number zᵢ with da = 1.

    Shapes:
        z: (n,)
        ∂a/∂z: (n, n) in both layouts

    Raises:
        TypeError: activation is not an op of one argument, or z is not floating point.
        ValueError: activation is not elementwise, z is not a vector, or there is no such layout.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.activation_jacobian(jaxnn.relu, jnp.array([3.0, -2.0])))
        [[1. 0.]
         [0. 0.]]
    """
    if not isinstance(activation, Op) or len(activation.required) != 1:
        raise TypeError(
            f"activation_jacobian: activation must be an op of one argument such as jaxnn.relu, "
            f"got {activation!r}"
        )
    z = _array("activation_jacobian", "z", z, ndim=1)
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise TypeError(f"activation_jacobian: z must be floating point, got {describe(z)}")

    def slope(z):
        a, residuals = activation.fwd(z)
        dz, *_ = activation.bwd(residuals, jnp.ones_like(a))
        return dz

    try:
        slopes = jax.vmap(slope)(z)
    except ValueError as error:
        raise ValueError(
            f"activation_jacobian: {activation.__name__} is not elementwise: {error}"
        ) from error
    return _lay_out("activation_jacobian", jnp.diag(slopes), layout)


def softmax_jacobian(z: Vector, *, layout: str = "numerator") -> Float[Array, "n n"]:
    """∂p/∂z = diag(p) − p·pᵀ of p = softmax(z); symmetric.

    Derivation, with pᵢ = e^(zᵢ)/S and S = Σₖ e^(zₖ), so that ∂S/∂zⱼ = e^(zⱼ):
        ∂pᵢ/∂zⱼ = δᵢⱼ·e^(zᵢ)/S − e^(zᵢ)·e^(zⱼ)/S² = pᵢ·δᵢⱼ − pᵢ·pⱼ
    Its rows sum to zero: the probabilities always sum to 1.

    Shapes:
        z: (n,)
        ∂p/∂z: (n, n) in both layouts

    Raises:
        TypeError: z is not floating point.
        ValueError: z is not a vector or is empty, or there is no such layout.

    Reference: R. B. Aeen's summary, stage 2 (the activation derivative).

    Example:
        >>> print(jaxnn.jacobians.softmax_jacobian(jnp.zeros(2)))
        [[ 0.25 -0.25]
         [-0.25  0.25]]
    """
    z = _array("softmax_jacobian", "z", z, ndim=1)
    if z.size == 0:
        raise ValueError("softmax_jacobian: z is empty")
    p = softmax(z)
    return _lay_out("softmax_jacobian", jnp.diag(p) - jnp.outer(p, p), layout)


def bias_jacobian(m: int, *, layout: str = "numerator") -> Float[Array, "m m"]:
    """∂z/∂b = I of z = W·x + b; symmetric.

    Derivation:
        zᵢ = Σₖ Wᵢₖ·xₖ + bᵢ, so ∂zᵢ/∂bⱼ = δᵢⱼ
    Hence ∂L/∂b = ∂L/∂z for one example, and its sum over the examples of a batch.

    Args:
        m: the number of outputs.
        layout: "numerator" or "denominator".

    Shapes:
        ∂z/∂b: (m, m) in both layouts

    Raises:
        ValueError: m is not a positive integer, or there is no such layout.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.bias_jacobian(2))
        [[1. 0.]
         [0. 1.]]
    """
    _require_size("bias_jacobian", m)
    return _lay_out("bias_jacobian", jnp.eye(m), layout)


def input_jacobian(w: Matrix, *, layout: str = "numerator") -> Num[Array, "..."]:
    """∂z/∂x of z = W·x + b: W in the numerator layout, Wᵀ in the denominator layout.

    Derivation:
        zᵢ = Σₖ Wᵢₖ·xₖ + bᵢ, so ∂zᵢ/∂xⱼ = Wᵢⱼ
    Hence ∂L/∂x = Wᵀ·∂L/∂z, as columns.

    Shapes:
        w: (m, n)
        ∂z/∂x: (m, n), or (n, m) in the denominator layout

    Raises:
        ValueError: w is not a matrix, or there is no such layout.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> w = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> print(jaxnn.jacobians.input_jacobian(w, layout="denominator"))
        [[1. 4.]
         [2. 5.]
         [3. 6.]]
    """
    return _lay_out("input_jacobian", _array("input_jacobian", "w", w, ndim=2), layout)


def weight_jacobian(x: Vector, m: int, *, layout: str = "numerator") -> Num[Array, "..."]:
    """∂z/∂W of z = W·x + b, an array with three axes: ∂zᵢ/∂Wⱼₖ = δᵢⱼ·xₖ.

    Derivation:
        zᵢ = Σₖ Wᵢₖ·xₖ + bᵢ holds the weights of row i alone, each times its input
    Contracted with δ = ∂L/∂z it is an outer product:
        ∂L/∂Wⱼₖ = Σᵢ δᵢ·δᵢⱼ·xₖ = δⱼ·xₖ,   that is   ∂L/∂W = δ·xᵀ

    Args:
        x: the input.
        m: the number of outputs.
        layout: "numerator" or "denominator".

    Shapes:
        x: (n,)
        ∂z/∂W: (m, m, n) with axes i, j, k, or (m, n, m) with axes j, k, i in the denominator layout

    Raises:
        ValueError: x is not a vector, m is not a positive integer, or there is no such layout.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.weight_jacobian(jnp.array([5.0, 7.0]), 2))
        [[[5. 7.]
          [0. 0.]]
        <BLANKLINE>
         [[0. 0.]
          [5. 7.]]]
    """
    x = _array("weight_jacobian", "x", x, ndim=1)
    _require_size("weight_jacobian", m)
    jacobian = jnp.eye(m, dtype=x.dtype)[:, :, None] * x[None, None, :]
    return _lay_out("weight_jacobian", jacobian, layout)


def vec(a: Matrix) -> Num[Array, " mn"]:
    """The columns of a matrix, one under the other.

    With it a product of matrices is linear in the middle one by an explicit matrix, where ⊗ is
    the Kronecker product `jnp.kron`:
        vec(A·B·C) = (Cᵀ ⊗ A)·vec(B)
    Derivation: column l of A·B·C is Σₖ Cₖₗ·A·(column k of B), and block (l, k) of Cᵀ ⊗ A is Cₖₗ·A.

    It is `ravel` by columns. For `ravel` by rows, the default of NumPy and JAX, the identity is a
    different one: ravel(A·B·C) = (A ⊗ Cᵀ)·ravel(B).

    Shapes:
        a: (m, n)
        vec(a): (m·n,)

    Raises:
        ValueError: a is not a matrix.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.vec(jnp.array([[1, 2, 3], [4, 5, 6]])))
        [1 4 2 5 3 6]
    """
    return jnp.ravel(_array("vec", "a", a, ndim=2), order="F")


def devec(v: Num[ArrayLike, " mn"], shape: tuple[int, int]) -> Num[Array, "m n"]:
    """The matrix of this shape whose columns, one under the other, are `v`: the inverse of `vec`.

    Args:
        v: the columns.
        shape: (m, n).

    Shapes:
        v: (m·n,)
        devec(v): (m, n)

    Raises:
        ValueError: v is not a vector, or does not fill the shape.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.devec(jnp.array([1, 4, 2, 5, 3, 6]), (2, 3)))
        [[1 2 3]
         [4 5 6]]
    """
    v = _array("devec", "v", v, ndim=1)
    sizes = isinstance(shape, tuple | list) and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or len(shape) != 2 or prod(shape) != v.size:
        raise ValueError(f"devec: {v.size} numbers do not fill a matrix of shape {shape!r:.80}")
    return jnp.reshape(v, shape, order="F")


def vec_weight_jacobian(x: Vector, m: int, *, layout: str = "numerator") -> Num[Array, "..."]:
    """∂z/∂vec(W) of z = W·x + b: xᵀ ⊗ I, or x ⊗ I in the denominator layout.

    Derivation, from the identity of `vec` with A = I, B = W and C = x:
        z − b = vec(I·W·x) = (xᵀ ⊗ I)·vec(W)
    It is `weight_jacobian` with its axes j and k merged into one, by columns. By rows, for
    `ravel(W)`, it would be I ⊗ xᵀ.

    Args:
        x: the input.
        m: the number of outputs.
        layout: "numerator" or "denominator".

    Shapes:
        x: (n,)
        ∂z/∂vec(W): (m, m·n), or (m·n, m) in the denominator layout

    Raises:
        ValueError: x is not a vector, m is not a positive integer, or there is no such layout.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> print(jaxnn.jacobians.vec_weight_jacobian(jnp.array([5.0, 7.0]), 2))
        [[5. 0. 7. 0.]
         [0. 5. 0. 7.]]
    """
    x = _array("vec_weight_jacobian", "x", x, ndim=1)
    _require_size("vec_weight_jacobian", m)
    jacobian = jnp.kron(x[None, :], jnp.eye(m, dtype=x.dtype))
    return _lay_out("vec_weight_jacobian", jacobian, layout)


def kronecker_gradient(x: Vector, delta: Num[ArrayLike, " m"]) -> Num[Array, "m n"]:
    """∂L/∂W = δ·xᵀ of z = W·x + b by the Kronecker route, with δ = ∂L/∂z.

    Derivation, from the chain rule in the denominator layout:
        vec(∂L/∂W) = ∂z/∂vec(W)·∂L/∂z = (x ⊗ I)·δ = vec(δ·xᵀ)
    The last step is the identity of `vec` with A = I, B = δ and C = xᵀ. The matrix x ⊗ I has m
    times as many entries as the result, so this route only serves to check the identity.

    Args:
        x: the input.
        delta: the gradient of the loss with respect to z.

    Shapes:
        x: (n,)
        δ: (m,)
        ∂L/∂W: (m, n)

    Raises:
        ValueError: x or delta is not a vector, or delta is empty.

    Reference: the handwritten derivation of the 2-2-1 network, matrix form.

    Example:
        >>> x, delta = jnp.array([2.0, 3.0]), jnp.array([5.0, 7.0, 11.0])
        >>> print(jaxnn.jacobians.kronecker_gradient(x, delta))
        [[10. 15.]
         [14. 21.]
         [22. 33.]]
    """
    x = _array("kronecker_gradient", "x", x, ndim=1)
    delta = _array("kronecker_gradient", "delta", delta, ndim=1)
    m, n = delta.size, x.size
    if m == 0:
        raise ValueError("kronecker_gradient: delta is empty")
    return devec(vec_weight_jacobian(x, m, layout="denominator") @ delta, (m, n))


def _lay_out(function, jacobian, layout):
    """A Jacobian of the numerator layout in the requested layout."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(
            f"{function}: layout must be 'numerator' or 'denominator', got {layout!r:.80}"
        )
    if layout == "numerator":
        return jacobian
    return jnp.moveaxis(jacobian, 0, -1)  # the axis of the output goes last


def _array(function, name, value, ndim) -> Array:
    array = as_array(f"{function}: {name}", value)
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(f"{function}: {name} must hold numbers, got {describe(array)}")
    if array.ndim != ndim:
        kind = {1: "a vector", 2: "a matrix"}[ndim]
        raise ValueError(f"{function}: {name} must be {kind}, got shape {array.shape}")
    return array


def _require_size(function, m):
    require_sizes(function, m=m)
