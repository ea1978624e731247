"""Images made larger against JAX and NumPy; channels first; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.ops.images import pad, upsample


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def gradient(op, x, dy, **options):
    return jax.jit(lambda x, dy: op.bwd(op.fwd(x, **options)[1], dy)[0])(x, dy)


def value(function, x, **options):
    return jax.jit(lambda x: function(x, **options))(x)


@pytest.mark.parametrize(
    ("shape", "factor"), [((5,), 2), ((1,), 4), ((3, 4), [2, 3]), ((2, 3, 2), (1, 4, 3))]
)
def test_upsample_is_that_of_jax_image(shape, factor):
    x = random(0, 2, *shape, 3)
    for method in ("nearest", "linear"):
        options = {"factor": factor, "method": method}
        y = value(upsample, x, **options)

        @jax.jit
        def resized(x, dy, method=method):
            y, pullback = jax.vjp(lambda x: jax.image.resize(x, dy.shape, method), x)
            return y, pullback(dy)[0]

        dy = random(1, *y.shape)
        true, dx = resized(x, dy)
        np.testing.assert_allclose(y, true, atol=1e-12)
        np.testing.assert_allclose(value(upsample.definition, x, **options), true, atol=1e-12)
        np.testing.assert_allclose(gradient(upsample, x, dy, **options), dx, atol=1e-12)


def test_an_infinity_reaches_its_neighbours_alone():
    x = jnp.array([1.0, jnp.inf, 3.0, 5.0]).reshape(1, 4, 1)
    for factor in (2, 3):
        y = value(upsample, x, factor=factor, method="linear").ravel()
        assert np.isfinite(y).tolist() == [
            *(i // factor != 1 and abs((i + 0.5) / factor - 1.5) >= 1 for i in range(4 * factor))
        ]
        assert y[factor + factor // 2] == jnp.inf
    dx = gradient(upsample, x, jnp.ones((1, 8, 1)), factor=2, method="linear")
    np.testing.assert_allclose(dx, jnp.full((1, 4, 1), 2.0))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric", "wrap"])
def test_pad_is_that_of_numpy(mode):
    """Value and gradient; both sides copied from the same entries, and none."""
    x, is_constant = random(0, 2, 4, 5, 3), mode == "constant"
    for widths in (((3, 3), (1, 0)), ((0, 2), (3, 4)), ((0, 0), (0, 0))):
        pairs = ((0, 0), *widths, (0, 0))
        true = np.pad(
            np.asarray(x), pairs, mode, **({"constant_values": 7.0} if is_constant else {})
        )
        options = {"widths": widths, "mode": mode} | ({"value": 7.0} if is_constant else {})
        np.testing.assert_array_equal(value(pad, x, **options), true)
        np.testing.assert_array_equal(value(pad.definition, x, **options), true)
        # Which entry of x each entry of y is a copy of; −1 for none.
        numbers = np.arange(x.size).reshape(x.shape)
        origins = np.pad(numbers, pairs, mode, **({"constant_values": -1} if is_constant else {}))
        dy = random(1, *true.shape)
        dx = np.zeros(x.size + 1)
        np.add.at(dx, origins.ravel(), np.ravel(dy))
        np.testing.assert_allclose(np.ravel(gradient(pad, x, dy, **options)), dx[:-1], atol=1e-12)


def test_pad_by_other_names_and_by_negative_widths():
    x = random(0, 2, 4, 3)
    for name, other in (("replicate", "edge"), ("circular", "wrap")):
        np.testing.assert_array_equal(
            pad(x, widths=[2], mode=name), pad(x, widths=((2, 2),), mode=other)
        )
    y = pad(x, widths=((-1, 2),))
    np.testing.assert_array_equal(y, jnp.concatenate([x[:, 1:], jnp.zeros((2, 2, 3))], 1))
    np.testing.assert_array_equal(gradient(pad, x, y, widths=((-1, 2),))[:, 0], 0)


def test_a_padding_of_nan_has_no_gradient():
    x = random(0, 2, 4, 3)
    y = pad(x, widths=1, value=float("nan"))
    assert jnp.isnan(y[:, [0, -1]]).all()
    np.testing.assert_array_equal(gradient(pad, x, pad(x, widths=1), widths=1), x)


@pytest.mark.usefixtures("unannotated")
def test_channels_first():
    """A network whose output has space, and one whose output has none; a layer with a state."""
    x = random(0, 5, 3, 6, 8)
    net = jaxnn.serial(
        jaxnn.Conv(3, 4, (3, 3)), jaxnn.BatchNorm(4), jaxnn.relu, jaxnn.upsample.bind(factor=2)
    )
    layer = jaxnn.channels_first(net)
    params, state = layer.init(jax.random.key(0)), layer.init_state()
    assert layer.stateful
    y, residuals = jax.jit(layer.fwd)(params, x)
    assert y.shape == (5, 4, 12, 16)
    state = layer.update_state(state, residuals)
    inside = jax.jit(net.apply)(params, jnp.moveaxis(x, 1, -1), state)
    found = jax.jit(layer.apply)(params, x, state)
    np.testing.assert_allclose(found, jnp.moveaxis(inside, -1, 1), rtol=1e-12)
    head = jaxnn.channels_first(
        jaxnn.serial(jaxnn.Conv(3, 4, (3, 3)), jaxnn.global_max_pool, jaxnn.Linear(4, 2))
    )
    params = head.init(jax.random.key(0))
    report = check(head, params, x, laws=("value", "gradient"))
    report.raise_if_failed()
    assert jax.eval_shape(head.apply, params, x).shape == (5, 2)
    words = r"channels_first: x must be an array \(N, C, …\), got shape \(5,\)"
    with pytest.raises(ValueError, match=words):
        head.apply(params, x[:, 0, 0, 0])
    with pytest.raises(TypeError, match="expected a Layer or an op"):
        jaxnn.channels_first(jnp.tanh)


X = jnp.ones((3, 5, 4, 6))
BAD = [
    (lambda: upsample(X[0, 0], factor=2), ValueError, "must have at least three axes"),
    (lambda: upsample(X, factor=0), ValueError, "option factor must be positive"),
    (lambda: upsample(X, factor=1.5), TypeError, "option factor must be an integer"),
    (lambda: upsample(X, factor=2, method="cubic"), ValueError, "must be 'nearest' or 'linear'"),
    (lambda: upsample(X, factor=2, method="trilinear"), ValueError, "with 2 axes between"),
    (lambda: upsample(X.astype(int), factor=2), TypeError, "x must be floating point"),
    (lambda: pad(X, widths=1, mode="mirror"), ValueError, "option mode must be one of 'constant'"),
    (lambda: pad(X, widths=(1,)), ValueError, "a tuple of 2 integers or pairs"),
    (lambda: pad(X, widths=1.0), ValueError, "option widths must be an integer"),
    (lambda: pad(X, widths=1, value="0"), TypeError, "option value must be a number"),
    (lambda: pad(X, widths=-3), ValueError, r"removes \(-3, -3\) of the 5 entries along axis 1"),
    (lambda: pad(X, widths=-1, mode="edge"), ValueError, "must not be negative with mode 'edge'"),
    (lambda: pad(X, widths=4, mode="reflect"), ValueError, "'reflect' it can be at most 3"),
    (lambda: pad(X, widths=5, mode="circular"), ValueError, "'circular' it can be at most 4"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
