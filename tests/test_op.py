"""The op contract: export to JAX, options, and errors in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.op import Op
from jaxnn.ops.activations.piecewise import leaky_relu_bwd, leaky_relu_definition, leaky_relu_fwd


def test_calling_an_op_is_its_fwd():
    x = jnp.linspace(-2.0, 2.0, 7)
    assert jnp.array_equal(jaxnn.gelu(x), jaxnn.gelu.fwd(x)[0])


def test_grad_runs_the_hand_written_backward():
    def wrong_bwd(residuals, dy, *, slope=0.01):
        return (jnp.full_like(dy, 42.0),)

    op = Op(
        leaky_relu_definition,
        leaky_relu_fwd,
        wrong_bwd,
        residual_bytes=lambda x, slope: 0,
        check=lambda x, slope: None,
    )
    assert jax.grad(op)(1.0) == 42.0


def test_ops_work_inside_scan_jit_vmap_and_grad():
    x = jnp.linspace(-1.0, 1.0, 5)

    def repeated(op, x):
        return jax.lax.scan(lambda x, _: (op(x), None), x, length=3)[0].sum()

    ours = jax.jit(jax.grad(lambda x: repeated(jaxnn.tanh, x)))(x)
    theirs = jax.grad(lambda x: repeated(jnp.tanh, x))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    per_example = jax.vmap(jax.grad(lambda x: repeated(jaxnn.tanh, x)))(x[:, None])
    np.testing.assert_allclose(per_example[:, 0], theirs, rtol=1e-14)


def test_forward_over_reverse_works():
    hessian = jax.hessian(lambda x: jaxnn.tanh(x).sum())(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(
        hessian, jax.hessian(lambda x: jnp.tanh(x).sum())(jnp.array([0.5, 1.0])), rtol=1e-14
    )


@pytest.mark.parametrize(
    "transform", [lambda f: jax.jvp(f, (1.0,), (1.0,)), lambda f: jax.jacfwd(f)(1.0)]
)
def test_forward_mode_points_to_the_definition(transform):
    with pytest.raises(TypeError, match=r"tanh.*forward mode.*use tanh\.definition"):
        transform(jaxnn.tanh)
    transform(jaxnn.tanh.definition)


def test_bound_options_hold_in_every_part():
    op = jaxnn.leaky_relu.bind(slope=0.5)
    x = jnp.array([-2.0, 2.0])
    assert op(x).tolist() == op.definition(x).tolist() == [-1.0, 2.0]
    (dx,) = op.bwd(op.fwd(x)[1], jnp.ones(2))
    assert dx.tolist() == jax.grad(lambda x: op(x).sum())(x).tolist() == [0.5, 1.0]
    assert op(x, slope=0.25).tolist() == [-0.5, 2.0]
    assert op == jaxnn.leaky_relu.bind(slope=0.5) != jaxnn.leaky_relu


def test_integer_arguments_get_none_and_work_under_grad():
    logits, labels = jnp.ones((7, 3)), jnp.zeros(7, jnp.int32)
    _, residuals = jaxnn.softmax_cross_entropy.fwd(logits, labels)
    assert jaxnn.softmax_cross_entropy.bwd(residuals, jnp.ones(7))[1] is None
    _, pullback = jax.vjp(jaxnn.softmax_cross_entropy, logits, labels)
    assert pullback(jnp.ones(7))[1].dtype == jax.dtypes.float0


def test_numpy_arrays_and_numbers_are_welcome():
    assert jaxnn.relu(-1.0) == 0
    assert jaxnn.relu(np.array([1.0, -1.0])).tolist() == [1.0, 0.0]
    assert jaxnn.leaky_relu(np.float32(-1), slope=np.float64(0.5)) == -0.5


def scaled_definition(x, scale=None, key=None):
    y = x if scale is None else x * scale
    return y if key is None else y + jax.random.rademacher(key, x.shape, x.dtype)


def scaled_fwd(x, scale=None, key=None):
    return scaled_definition(x, scale, key), (x, scale)


def scaled_bwd(residuals, dy):
    x, scale = residuals
    if scale is None:
        return dy, None, None
    return dy * scale, jnp.sum(dy * x), None


SCALED = Op(
    scaled_definition,
    scaled_fwd,
    scaled_bwd,
    residual_bytes=lambda x, scale, key: x.nbytes,
    check=lambda x, scale, key: None,
)


def test_optional_arguments_may_be_left_out_or_named():
    x, two = jnp.array([3.0, 4.0]), jnp.array(2.0)
    np.testing.assert_array_equal(SCALED(x), x)
    np.testing.assert_array_equal(SCALED(x, scale=two), SCALED(x, two))
    np.testing.assert_array_equal(SCALED.definition(x, scale=two), 2 * x)
    grads = jax.grad(lambda x, scale: SCALED(x, scale=scale).sum(), (0, 1))(x, two)
    assert jax.tree.map(jnp.shape, grads) == ((2,), ())
    assert grads[1] == 7
    assert SCALED.residual_bytes(x) == x.nbytes
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        jax.jit(jax.grad(lambda x: SCALED(x, key=key).sum()))(x), jnp.ones(2)
    )
    with pytest.raises(TypeError, match="takes 1 to 3 positional argument"):
        SCALED()
    with pytest.raises(TypeError, match="got scale twice"):
        SCALED(x, two, scale=two)
    check(SCALED, x, two).raise_if_failed()


def test_fwd_has_a_twin_by_definition():
    """Its value is the definition's, for autodiff to differentiate."""
    x, key = jnp.linspace(-1.0, 1.0, 5), jax.random.key(0)
    with jaxnn.definitions():
        theirs = jax.jacfwd(lambda x: jaxnn.gelu.fwd(x)[0])(x)
        y, _ = SCALED.fwd(x, key=key)
    np.testing.assert_allclose(jnp.diag(theirs), jax.grad(lambda x: jaxnn.gelu(x).sum())(x))
    np.testing.assert_array_equal(y, SCALED(x, key=key))


def test_the_parts_must_take_the_same_options():
    def fwd(x, *, slope=0.2):
        return leaky_relu_fwd(x, slope=slope)

    with pytest.raises(TypeError, match=r"fwd takes the options .*0\.2.*0\.01"):
        Op(
            leaky_relu_definition,
            fwd,
            leaky_relu_bwd,
            residual_bytes=lambda x, slope: 0,
            check=lambda x, slope: None,
        )


def test_help_reads_like_the_notes(capsys):
    help(jaxnn.linear)
    shown = capsys.readouterr().out
    assert "dW = xᵀ·dy" in shown
    assert "Keeps x" in shown


W, B, X = jnp.ones((5, 6)), jnp.ones(6), jnp.ones((7, 5))
BAD = [
    (lambda: jaxnn.relu(jnp.arange(3)), TypeError, "relu: x must be floating point, got int64"),
    (lambda: jaxnn.relu("a"), TypeError, "relu: x must hold arrays, got str"),
    (lambda: jaxnn.dropout(X, jax.random.key(0)), TypeError, "dropout needs the option rate="),
    (
        lambda: jaxnn.relu(X, X),
        TypeError,
        r"relu takes 1 positional argument\(s\), \(x\), and got 2",
    ),
    (lambda: jaxnn.relu(X, slope=1), TypeError, "relu has no option 'slope'; its options: none"),
    (lambda: jaxnn.relu(X.astype(complex)), TypeError, "floating point, got complex"),
    (lambda: jaxnn.leaky_relu(X, slope=B), TypeError, "option 'slope' must be a plain Python"),
    (lambda: jaxnn.leaky_relu(X, slope=-1), ValueError, "option slope must be at least 0, got -1"),
    (lambda: jaxnn.elu(X, alpha=0.0), ValueError, "option alpha must be above 0"),
    (lambda: jaxnn.elu(X, alpha="1"), TypeError, "option alpha must be a number"),
    (lambda: jaxnn.gelu(X, approximate=1), TypeError, "approximate must be True or False"),
    (lambda: jaxnn.softmax(X, axis=2), ValueError, r"axis is 2 but x has shape \(7, 5\)"),
    (lambda: jaxnn.softmax(X, axis=None), TypeError, "axis must be an integer"),
    (lambda: jaxnn.softmax(X[:, :0]), ValueError, "axis -1 of x is empty"),
    (lambda: jaxnn.linear({"w": W}, X[:, :4]), ValueError, "last axis of x must be 5"),
    (lambda: jaxnn.linear({"w": W, "b": X}, X), ValueError, r"b must be \(6,\)"),
    (lambda: jaxnn.linear({"b": B}, X), ValueError, "params has no 'w'"),
    (lambda: jaxnn.linear({"w": W, "c": B}, X), ValueError, "a key 'c' that is not used"),
    (lambda: jaxnn.linear((W, B), X), TypeError, "params must be a dict"),
    (lambda: jaxnn.linear({"w": B}, X), ValueError, r"must be \(inputs, outputs\)"),
    (
        lambda: jaxnn.linear({"w": W.astype(jnp.float32)}, X),
        TypeError,
        r"params\['w'\] is float32, x is float64; convert them to one dtype",
    ),
    (
        lambda: jaxnn.squared_error(X[:, :1], X[:, 0]),
        ValueError,
        r"prediction has shape \(7, 1\), target has shape \(7,\).*nothing is broadcast",
    ),
    (lambda: jaxnn.squared_error(1.0, 1.0), ValueError, "prediction is a single number"),
    (lambda: jaxnn.squared_error(X, jnp.ones((7, 5), int)), TypeError, "target must be floating"),
    (lambda: jaxnn.huber_loss(X, X, delta=0), ValueError, "option delta must be above 0"),
    (
        lambda: jaxnn.softmax_cross_entropy(X, jnp.array([0, 1, 2, 3, 4, 5, 0])),
        ValueError,
        "label 5 is out of range; with 5 classes the labels are 0 … 4",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, jnp.array([0, 1, -1, 3, 4, 0, 0])),
        ValueError,
        "label -1 is out of range",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, jnp.zeros((7, 1), int)),
        ValueError,
        r"integer labels have shape \(7, 1\); there must be one for each row",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, jnp.zeros(7)),
        TypeError,
        "labels must be integers, got float64",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, X, ignore_label=0),
        ValueError,
        "ignore_label needs integer labels",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, jnp.zeros(7, int), label_smoothing=1.5),
        ValueError,
        "label_smoothing must be at least 0 and at most 1, got 1.5",
    ),
    (lambda: jaxnn.cross_entropy(X[:, :0], jnp.zeros(7, int)), ValueError, "without any class"),
    (
        lambda: jaxnn.relu.bwd(jaxnn.relu.fwd(X)[1], B),
        ValueError,
        r"relu: dy has shape \(6,\) but the output has shape \(7, 5\)",
    ),
    (
        lambda: jaxnn.linear.bwd(jaxnn.linear.fwd({"w": W}, X)[1], X),
        ValueError,
        r"linear: dy has shape \(7, 5\) but the output has shape \(7, 6\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_loud_under_jit(label):
    labels = jnp.array([0, label, 2])
    for loss in (jaxnn.softmax_cross_entropy, jaxnn.cross_entropy):
        losses, pullback = jax.vjp(jax.jit(loss), jnp.full((3, 3), 1 / 3), labels)
        assert jnp.isnan(losses).tolist() == [False, True, False]
        dp, _ = pullback(jnp.ones(3))
        assert jnp.isnan(dp).any(axis=1).tolist() == [False, True, False]


def test_labels_of_a_small_integer_type():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(7, 300)))
    labels = np.array([0, 255, 3, 4, 200, 17, 99])
    wide = jaxnn.softmax_cross_entropy(logits, labels)
    narrow = jaxnn.softmax_cross_entropy(logits, labels.astype(np.uint8))
    assert jnp.array_equal(wide, narrow)
