"""The op contract: export to JAX, options, and errors in words."""

import copy
import inspect
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.catalogue import ENTRIES
from jaxnn.gradcheck import check


def assert_equal(a, b):
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def assert_close(a, b, dtype):
    """Equal to two roundings of a dtype."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.linalg.norm(a - b) <= 2 * float(jnp.finfo(dtype).eps) * np.linalg.norm(b)


def test_calling_an_op_is_its_fwd():
    x = jnp.linspace(-2.0, 2.0, 7)
    assert jnp.array_equal(jaxnn.gelu(x), jaxnn.gelu.fwd(x)[0])


class SquareResiduals(NamedTuple):
    """The input."""

    x: jax.Array


def declared(slope=2.0):
    """An op x² whose backward has a slope that may be wrong."""

    @jaxnn.op
    def square(x, *, times: float = 1.0):
        """The square, y = times·x²."""
        return times * x**2

    @square.forward
    def square_fwd(x, *, times=1.0):
        return times * x * x, SquareResiduals(x)

    @square.backward
    def square_bwd(residuals, dy, *, times=1.0):
        return (slope * times * residuals.x * dy,)

    return square


def test_grad_runs_the_hand_written_backward():
    assert jax.grad(declared(42.0))(1.0) == 42.0
    assert jax.jit(jax.grad(jaxnn.serial(declared(42.0)).apply, 1))(((),), 1.0) == 42.0


def test_ops_work_inside_scan_jit_vmap_and_grad():
    x = jnp.linspace(-1.0, 1.0, 5)

    def repeated(op, x):
        return jax.lax.scan(lambda x, _: (op(x), None), x, length=3)[0].sum()

    ours = jax.jit(jax.grad(lambda x: repeated(jaxnn.tanh, x)))(x)
    theirs = jax.grad(lambda x: repeated(jnp.tanh, x))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    per_example = jax.vmap(jax.grad(lambda x: repeated(jaxnn.tanh, x)))(x[:, None])
    np.testing.assert_allclose(per_example[:, 0], theirs, rtol=1e-14)


def test_forward_mode_runs_the_transposed_backward():
    assert jax.jvp(declared(42.0), (1.0,), (2.0,))[1] == 84.0
    np.testing.assert_allclose(jax.jacfwd(declared())(3.0), 6.0)


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


class ScaledResiduals(NamedTuple):
    """The input and the scale."""

    x: jax.Array
    scale: jax.Array | None


@jaxnn.op
def scaled(x, scale=None, key=None):
    """x times a scale, plus random signs."""
    y = x if scale is None else x * scale
    return y if key is None else y + jax.random.rademacher(key, x.shape, x.dtype)


@scaled.forward
def scaled_fwd(x, scale=None, key=None):
    y = x if scale is None else scale * x
    signs = 0 if key is None else jax.random.rademacher(key, x.shape, x.dtype)
    return y + signs, ScaledResiduals(x, scale)


@scaled.backward
def scaled_bwd(residuals, dy):
    x, scale = residuals
    if scale is None:
        return dy, None, None
    return dy * scale, jnp.sum(dy * x), None


def test_optional_arguments_may_be_left_out_or_named():
    x, two = jnp.array([3.0, 4.0]), jnp.array(2.0)
    np.testing.assert_array_equal(scaled(x), x)
    np.testing.assert_array_equal(scaled(x, scale=two), scaled(x, two))
    np.testing.assert_array_equal(scaled.definition(x, scale=two), 2 * x)
    grads = jax.grad(lambda x, scale: scaled(x, scale=scale).sum(), (0, 1))(x, two)
    assert jax.tree.map(jnp.shape, grads) == ((2,), ())
    assert grads[1] == 7
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        jax.jit(jax.grad(lambda x: scaled(x, key=key).sum()))(x), jnp.ones(2)
    )
    with pytest.raises(TypeError, match=r"scaled: missing a required argument: 'x'; it is scaled"):
        scaled()
    with pytest.raises(TypeError, match="multiple values for argument 'scale'"):
        scaled(x, two, scale=two)
    check(scaled, x, two).raise_if_failed()


def test_bind_fixes_an_optional_array():
    """It is a constant like an option: the op compares, hashes, prints and pickles with it."""
    loss = jaxnn.linear_softmax_cross_entropy
    weights, labels = jnp.arange(1.0, 7.0), jnp.array([0, 1, 5, 0, 4, 2, 3])
    bound = loss.bind(class_weights=weights)
    twin = pickle.loads(pickle.dumps(bound))
    assert bound == twin != loss
    assert hash(bound) == hash(twin)
    assert repr(bound) == "linear_softmax_cross_entropy(class_weights=float64[6])"
    assert bound.required == ("params", "x", "labels")
    params = {"w": W, "b": B}
    assert_equal(bound(params, X, labels), loss(params, X, labels, weights))
    other = bound(params, X, labels, 2 * weights)  # given in the call, it wins
    assert_equal(other, loss(params, X, labels, 2 * weights))


def test_options_in_lists_are_options_in_tuples():
    x = X[None, ..., None]
    assert_equal(jaxnn.max_pool(x, window=[2, 3]), jaxnn.max_pool(x, window=(2, 3)))


def test_fwd_has_a_twin_by_definition():
    """Its value is the definition's, for autodiff to differentiate."""
    x, key = jnp.linspace(-1.0, 1.0, 5), jax.random.key(0)
    with jaxnn.definitions():
        theirs = jax.jacfwd(lambda x: jaxnn.gelu.fwd(x)[0])(x)
        y, _ = scaled.fwd(x, key=key)
    np.testing.assert_allclose(jnp.diag(theirs), jax.grad(lambda x: jaxnn.gelu(x).sum())(x))
    np.testing.assert_array_equal(y, scaled(x, key=key))


def test_residuals_remember_the_options_of_fwd():
    x = jnp.arange(12.0).reshape(4, 3)
    _, residuals = jaxnn.softmax.fwd(x, axis=0)
    np.testing.assert_array_equal(
        jaxnn.softmax.bwd(residuals, x)[0], jax.vjp(lambda x: jaxnn.softmax(x, axis=0), x)[1](x)[0]
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_a_cotangent_of_another_shape_is_refused_by_every_op(entry):
    case = entry.cases[0]
    y, residuals = jax.eval_shape(
        lambda *args: entry.op.fwd(*args, **case.options), *case.arguments(1, jnp.float32)
    )
    dy = jax.tree.map(lambda a: jax.ShapeDtypeStruct((*a.shape, 9), a.dtype), y)
    words = rf"{entry.op.__name__}: dy has shape .* but the output has shape .*; they must be equal"
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(entry.op.bwd, residuals, dy)


@pytest.mark.parametrize(
    ("saved", "kind"), [(lambda x: (x,), "tuple"), (lambda x: {"x": x}, "dict")]
)
def test_residuals_must_be_named(saved, kind):
    @jaxnn.op
    def square(x):
        return x * x

    square.forward(lambda x: (x * x, saved(x)))
    square.backward(lambda residuals, dy: (2 * residuals[0] * dy,))
    sentence = f"square: the residuals that its forward returns must be a NamedTuple, got {kind}"
    with pytest.raises(TypeError, match=sentence):
        jax.grad(lambda x: square(x).sum())(jnp.ones((3, 2)))


def test_an_op_is_its_documented_function():
    assert inspect.getsource(jaxnn.softmax).startswith("@op\ndef softmax(x: Logits")
    assert jaxnn.softmax.__doc__ == jaxnn.softmax.__wrapped__.__doc__
    assert inspect.signature(jaxnn.leaky_relu.bind(slope=0.5)).parameters["slope"].default == 0.5
    assert inspect.unwrap(jaxnn.linear).__module__ == "jaxnn.ops.linear"


@pytest.mark.parametrize(
    "op", [jaxnn.softmax, jaxnn.leaky_relu.bind(slope=0.5), jaxnn.dropout.bind(rate=0.25)], ids=repr
)
def test_ops_and_residuals_are_pickled_and_copied(op):
    assert pickle.loads(pickle.dumps(op)) == copy.deepcopy(op) == op
    x = jnp.arange(3.0)
    y, residuals = jaxnn.tanh.fwd(x)
    again = pickle.loads(pickle.dumps(jax.device_get(residuals)))
    np.testing.assert_array_equal(jaxnn.tanh.bwd(again, y)[0], jaxnn.tanh.bwd(residuals, y)[0])


def test_definitions_are_never_stale():
    """Wherever JAX has traced before, with a backward that is wrong on purpose."""
    wrong, x = declared(42.0), jnp.array(1.0)
    ways = {
        "jit": jax.jit(lambda x: wrong(x)),
        "checkpoint": jax.checkpoint(lambda x: wrong(x)),
        "scan": lambda x: jax.lax.scan(lambda c, _: (wrong(c), None), x, length=1)[0],
        "cond": lambda x: jax.lax.cond(x > 0, wrong, lambda x: 0 * x, x),
        "jit of grad": jax.jit(lambda x: wrong(x)),
    }
    for name, way in ways.items():
        assert jax.grad(way)(x) == 42.0, name
        with jaxnn.definitions():
            assert jax.grad(way)(x) == 2.0, name
        assert jax.grad(way)(x) == 42.0, name


def test_a_sentence_ends_the_traceback():
    with pytest.raises(ValueError, match="the last axis of x must be 5") as caught:
        jax.jit(jax.grad(lambda x: jaxnn.linear({"w": W}, x).sum()))(X[:, :4])
    assert caught.value.__cause__ is None or "Jax" in type(caught.value.__cause__).__name__
    assert caught.value.__suppress_context__


def test_help_reads_like_the_notes(capsys):
    help(jaxnn.linear)
    shown = capsys.readouterr().out
    assert "dW = xᵀ·dy" in shown
    assert "Saves x" in shown


pytestmark = pytest.mark.smoke
W, B, X = jnp.ones((5, 6)), jnp.ones(6), jnp.ones((7, 5))
BAD = [
    (lambda: jaxnn.relu(jnp.arange(3)), TypeError, "relu: x must be floating point, got int64"),
    (lambda: jaxnn.relu("a"), TypeError, "relu: x must be an array, got a str"),
    (lambda: jaxnn.relu([1.0, 2.0]), TypeError, "got a list; wrap it in jnp.asarray"),
    (
        lambda: jaxnn.dropout(X, None, rate=0.5),
        TypeError,
        "dropout: key must be an array, got None",
    ),
    (
        lambda: jaxnn.softmax_cross_entropy(X, [0] * 7),
        TypeError,
        "target must be an array, got a list",
    ),
    (
        lambda: jaxnn.max_pool(X[None, ..., None], window={2}),
        TypeError,
        "option 'window' must be hashable, such as a tuple, but is a set",
    ),
    (lambda: jaxnn.linear({"w": "a"}, X), TypeError, r"linear: params must hold arrays, got str"),
    (
        lambda: jaxnn.dropout(X, jax.random.key(0)),
        TypeError,
        "dropout: missing a required .*argument: 'rate'",
    ),
    (
        lambda: jaxnn.relu(X, X),
        TypeError,
        "relu: too many positional arguments; it is relu",
    ),
    (
        lambda: jaxnn.relu(X, slope=1),
        TypeError,
        r"relu: got an unexpected keyword argument 'slope'; it is relu\(x\)",
    ),
    (lambda: jaxnn.relu(X.astype(complex)), TypeError, "floating point, got complex"),
    (lambda: jaxnn.leaky_relu(X, slope=B), TypeError, "option 'slope' must be a plain Python"),
    (lambda: jaxnn.leaky_relu(X, slope=-1), ValueError, "option slope must be at least 0, got -1"),
    (lambda: jaxnn.elu(X, alpha=0.0), ValueError, "option alpha must be above 0"),
    (lambda: jaxnn.elu(X, alpha="1"), TypeError, "option alpha must be a number"),
    (lambda: jaxnn.gelu(X, approximate=1), TypeError, "approximate must be True or False"),
    (lambda: jaxnn.softmax(X, axis=2), ValueError, r"axis is 2 but x has shape \(7, 5\)"),
    (lambda: jaxnn.softmax(X, axis=None), TypeError, "axis must be an integer"),
    (lambda: jaxnn.linear({"w": W}, X[:, :4]), ValueError, "last axis of x must be 5"),
    (lambda: jaxnn.linear({"w": W, "b": X}, X), ValueError, r"b must be \(6,\)"),
    (lambda: jaxnn.linear({"b": B}, X), ValueError, "params has no 'w'"),
    (lambda: jaxnn.linear({"w": W, "c": B}, X), ValueError, "a key 'c' that is not used"),
    (lambda: jaxnn.linear((W, B), X), TypeError, "params must be a dict"),
    (lambda: jaxnn.linear({"w": B}, X), ValueError, r"must be \(inputs, outputs\)"),
    (
        lambda: jax.jit(lambda v: jaxnn.linear_softmax_cross_entropy.bind(class_weights=v))(B),
        TypeError,
        "bind fixes an array whose numbers are known, and class_weights is traced",
    ),
    (
        lambda: jaxnn.linear_softmax_cross_entropy.bind(labels=B),
        TypeError,
        "there is no option 'labels'",
    ),
    (
        lambda: jaxnn.squared_error(X[:, :1], X[:, 0]),
        ValueError,
        r"prediction has shape \(7, 1\), target has shape \(7,\).*nothing is broadcast",
    ),
    (lambda: jaxnn.squared_error(1.0, 1.0), ValueError, "prediction is a single number"),
    (lambda: jaxnn.squared_error(X, X.astype(complex)), TypeError, "target must be"),
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
    (lambda: jaxnn.cross_entropy(X[:, :0], jnp.zeros(7, int)), ValueError, "with no class"),
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


SOME = np.random.default_rng(0).standard_normal((5, 7, 5))
MIXED = {
    "linear": ({"w": W, "b": B}, jnp.asarray(SOME[0])),
    "rms_norm": ({"scale": jnp.arange(1.0, 6.0)}, jnp.asarray(SOME[1])),
    "squared_error": (jnp.asarray(SOME[2]), jnp.asarray(SOME[3])),
    "attention": tuple(jnp.asarray(a.reshape(1, 7, 1, 5)) for a in SOME[2:]),
}


@pytest.mark.parametrize("narrow", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", MIXED)
def test_arguments_of_several_dtypes(name, narrow):
    """y has the dtype of the activations, each gradient its argument's; nothing else is rounded."""
    op, args = getattr(jaxnn, name), MIXED[name]
    position = 0 if not isinstance(args[0], dict) else 1
    x = args[position].astype(narrow)
    mixed = (*args[:position], x, *args[position + 1 :])
    wide = (*args[:position], x.astype(jnp.float64), *args[position + 1 :])
    y, residuals = op.fwd(*mixed)
    truth = op(*wide)
    dy = jnp.linspace(-1.0, 2.0, y.size).reshape(y.shape).astype(narrow)
    gradients = op.bwd(residuals, dy)
    assert y.dtype == narrow
    assert_equal(y, truth.astype(narrow))
    y_definition, pull = jax.vjp(op.definition, *mixed)
    assert_equal(y_definition, y)
    for argument, got, by_autodiff in zip(mixed, gradients, pull(dy), strict=False):
        expected = jax.tree.map(lambda a: a.dtype, argument)
        assert jax.tree.map(lambda a: a.dtype, got) == expected
        jax.tree.map(lambda a, b: assert_close(a, b, narrow), got, by_autodiff)
    if name != "squared_error":  # which saves the difference instead
        assert any(leaf is x for leaf in jax.tree.leaves(residuals))
    _, tangent = jax.jvp(op, mixed, mixed)
    assert tangent.dtype == narrow


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
