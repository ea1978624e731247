"""Pooling: against plain loops, at ties, NaN and infinity; changes of shape; bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import jaxnn
from jaxnn.ops.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from jaxnn.ops.shape import flatten, reshape


def column(*numbers):
    """One sequence of one channel."""
    return jnp.array(numbers, jnp.float32).reshape(1, -1, 1)


def gradient(op, x, dy, **options):
    return value_and_gradient(op, x, dy, **options)[1]


def value_and_gradient(op, x, dy, **options):
    @jax.jit
    def both(x, dy):
        y, residuals = op.fwd(x, **options)
        return y, op.bwd(residuals, dy)[0]

    return both(x, jnp.asarray(dy, x.dtype))


def looped(x, dy, window, stride, before, after):
    """Max and mean of the windows of a sequence and the gradients of both, entry by entry."""
    starts = range(-before, len(x) + after - window + 1, stride)
    values, d_max, d_mean = [], np.zeros_like(x), np.zeros_like(x)
    for start, d in zip(starts, dy, strict=True):
        inside = [i for i in range(start, start + window) if 0 <= i < len(x)]
        best = max(inside, key=lambda i: x[i])
        values.append((x[best], x[inside].mean()))
        d_max[best] += d
        d_mean[inside] += d / len(inside)
    return *np.transpose(values), d_max, d_mean


@settings(max_examples=10, deadline=None, derandomize=True)
@given(*(st.integers(1, n) for n in (9, 6, 6)), *(st.integers(0, 3) for _ in range(2)))
def test_pooling_agrees_with_loops(size, window, stride, before, after):
    n_windows = (size + before + after - window) // stride + 1
    start = stride * (n_windows - 1) - before
    assume(n_windows > 0 and before < window and start < size)
    random = np.random.default_rng(size)
    x, dy = random.integers(-3, 3, size).astype(float), random.normal(size=n_windows)
    truth = looped(x, dy, window, stride, before, after)
    options = {"window": window, "stride": stride, "padding": ((before, after),)}
    sequence, dys = x.reshape(1, -1, 1), dy.reshape(1, -1, 1)
    pairs = [
        value_and_gradient(op, jnp.asarray(sequence), dys, **options) for op in (max_pool, avg_pool)
    ]
    got = [found for both in zip(*pairs, strict=True) for found in both]
    for mine, true in zip(got, truth, strict=True):
        np.testing.assert_allclose(np.ravel(mine), true, atol=1e-12)


def rounded_up(x, dy, window, stride, pad):
    """The same for `ceil_mode` as PyTorch has it, with the mean over the padding as well."""
    number = -(-(len(x) + 2 * pad - window) // stride) + 1
    number -= (number - 1) * stride >= len(x) + pad
    values, d_mean, d_counted = [], np.zeros_like(x), np.zeros_like(x)
    for m, d in zip(range(number), dy, strict=False):
        start = m * stride - pad
        inside = [i for i in range(start, start + window) if 0 <= i < len(x)]
        counted = min(start + window, len(x) + pad) - start
        values.append((x[inside].max(), x[inside].mean(), x[inside].sum() / counted))
        d_mean[inside] += d / len(inside)
        d_counted[inside] += d / counted
    return *np.transpose(values), d_mean, d_counted


@pytest.mark.parametrize(
    ("size", "window", "stride", "pad"),
    [(7, 2, 2, 0), (8, 3, 2, 1), (7, 2, 3, 1), (5, 3, 5, 1), (3, 4, 2, 0), (6, 3, 3, 1)],
)
def test_windows_beyond_the_end_in_ceil_mode(size, window, stride, pad):
    random = np.random.default_rng(size)
    x, dy = random.normal(size=size), random.normal(size=9)
    options = {"window": window, "stride": stride, "padding": pad, "ceil_mode": True}
    ops = max_pool, avg_pool, avg_pool.bind(count_padding=True)
    *truth, d_mean, d_counted = rounded_up(x, dy, window, stride, pad)
    sequence, number = jnp.asarray(x).reshape(1, -1, 1), len(truth[0])
    for op, true in zip(ops, truth, strict=True):
        np.testing.assert_allclose(np.ravel(op(sequence, **options)), true, atol=1e-12)
    for op, true in zip(ops[1:], (d_mean, d_counted), strict=True):
        dx = gradient(op, sequence, dy[:number].reshape(1, -1, 1), **options)
        np.testing.assert_allclose(dx.ravel(), true, atol=1e-12)


def test_padding_in_all_its_forms():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4, 2)))
    pairs = {
        1: ((1, 1), (1, 1)),
        (0, 1): ((0, 0), (1, 1)),
        "SAME": ((0, 1), (0, 1)),
        "SAME_LOWER": ((1, 0), (1, 0)),
        ("CAUSAL", (0, 1)): ((1, 0), (0, 1)),
    }
    for op in (max_pool.bind(window=2, stride=1), avg_pool.bind(window=2, stride=1)):
        for padding, same in pairs.items():
            found = op(x, padding=list(padding) if isinstance(padding, tuple) else padding)
            np.testing.assert_array_equal(found, op(x, padding=same))


def adaptive_windows(size, number):
    """PyTorch's: from the floor of the start to the ceiling of the end."""
    ends = [-(-(m + 1) * size // number) for m in range(number)]
    return [slice(m * size // number, end) for m, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((7, 6), (5, 3)),
        ((4, 5), (6, None)),
        ((5, 3, 4), (2, 3, 5)),
        ((4,), 8),
        ((9,), 1),
        ((7,), 7),
    ],
)
def test_adaptive_pooling_against_loops(shape, size):
    random = np.random.default_rng(0)
    x = random.integers(-3, 3, (2, *shape, 3)).astype(float)  # with ties
    sizes = size if isinstance(size, tuple) else (size,)
    numbers = [s or n for s, n in zip(sizes, shape, strict=True)]
    dy = random.normal(size=(2, *numbers, 3))
    largest, mean = np.zeros_like(dy), np.zeros_like(dy)
    d_max, d_mean = np.zeros_like(x), np.zeros_like(x)
    windows = [adaptive_windows(n, k) for n, k in zip(shape, numbers, strict=True)]
    for n, *m, c in np.ndindex(*dy.shape):
        at = (n, *(each[i] for each, i in zip(windows, m, strict=True)), c)
        place = (n, *m, c)
        largest[place], mean[place] = x[at].max(), x[at].mean()
        d_mean[at] += dy[place] / x[at].size
        chosen = np.zeros_like(x[at])
        chosen.flat[x[at].argmax()] = dy[place]
        d_max[at] += chosen
    for op, y, dx in ((adaptive_max_pool, largest, d_max), (adaptive_avg_pool, mean, d_mean)):
        found = value_and_gradient(op, jnp.asarray(x), dy, size=size)
        for mine, true in zip(found, (y, dx), strict=True):
            np.testing.assert_allclose(mine, true, atol=1e-12)
        definition = jax.jit(lambda x, op=op: op.definition(x, size=size))
        np.testing.assert_allclose(definition(x), y, atol=1e-12)


def test_the_largest_of_everything():
    """The first of ties and of NaNs; −∞; the same as one window over everything."""
    tied = jnp.asarray(np.random.default_rng(0).integers(-2, 2, (5, 3, 4, 6)).astype(float))
    with_nan = tied.at[:, 1, 1].set(jnp.nan).at[:, 2].set(jnp.nan)
    dy = np.random.default_rng(1).normal(size=(5, 1, 1, 6))
    for x in (tied, with_nan, jnp.full(tied.shape, -jnp.inf)):
        y, dx = value_and_gradient(max_pool, x, dy, window=(3, 4))
        of_all = value_and_gradient(global_max_pool, x, dy[:, 0, 0])
        of_one = value_and_gradient(adaptive_max_pool, x, dy, size=1)
        np.testing.assert_array_equal(of_all[0], y[:, 0, 0])
        np.testing.assert_array_equal(of_one[0], y)
        np.testing.assert_array_equal(of_all[1], dx)
        np.testing.assert_array_equal(of_one[1], dx)


def test_a_window_knows_nothing_of_its_neighbours():
    """NaN and infinity stay in their windows, also where windows are found by other means."""
    x = column(1, 2, jnp.nan, jnp.inf, 5, 6, 7)
    for op in (adaptive_avg_pool, adaptive_max_pool):
        y = op(x, size=3)  # 1 2 nan, nan inf 5, 5 6 7
        assert np.isnan(y.ravel()).tolist() == [True, True, False]
        assert jnp.isfinite(gradient(op, x, column(1, 2, 3), size=3)).all()


def test_same_padding_and_what_the_average_is_divided_by():
    x = column(1, 2, 3, 4, 5)
    options = {"window": 4, "stride": 2, "padding": "SAME"}
    assert max_pool(x, **options).ravel().tolist() == [3, 5, 5]
    assert avg_pool(x, **options).ravel().tolist() == [2, 3.5, 4.5]
    assert avg_pool(x, count_padding=True, **options).ravel().tolist() == [1.5, 3.5, 2.25]


def test_the_stride_is_the_window_unless_given():
    x = jnp.arange(120.0).reshape(1, 6, 4, 5)
    for op in (max_pool, avg_pool):
        assert jnp.array_equal(op(x, window=(3, 2)), op(x, window=(3, 2), stride=(3, 2)))


def test_any_number_of_axes_may_be_pooled():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 6, 5)))
    y = max_pool(x, window=(2, 4, 3))
    assert jnp.array_equal(y, x.reshape(3, 2, 2, 4, 2, 3, 5).max((2, 3, 5))[:, :, None])


@pytest.mark.parametrize("function", [lambda op: op, lambda op: op.definition])
@pytest.mark.parametrize("stride", [1, 2])
def test_of_equal_numbers_the_first_counts(function, stride):
    pool = function(max_pool.bind(window=2, stride=stride))
    for places in itertools.combinations(range(4), 2):
        x = jnp.zeros(4).at[jnp.array(places)].set(1).reshape(1, 2, 2, 1)
        dx = jax.grad(lambda x: pool(x).sum())(x)
        assert dx.ravel().nonzero()[0].tolist() == [places[0]]


def test_a_nan_stays_a_nan_and_gets_the_gradient():
    x = column(1, jnp.nan, 5, jnp.nan, 2, 3)
    y = max_pool(x, window=3, stride=1)
    assert jnp.isnan(y).all()
    assert gradient(max_pool, x, jnp.ones((1, 4, 1)), window=3, stride=1).ravel().tolist() == [
        *(0, 2, 0, 2, 0, 0)
    ]
    assert jnp.isnan(avg_pool(x, window=3)).ravel().tolist() == [True, True]


def test_padding_never_wins():
    x = jnp.full((1, 3, 1), -jnp.inf)
    options = {"window": 3, "stride": 2, "padding": ((2, 2),)}
    assert jnp.isneginf(max_pool(x, **options)).all()
    dx = gradient(max_pool, x, column(1, 2, 4), **options)
    assert dx.ravel().tolist() == [3, 0, 4]


@pytest.mark.parametrize("seed", range(4))
def test_infinities_against_loops(seed):
    random = np.random.default_rng(seed)
    x, dy = random.choice([-np.inf, -np.inf, -1.0, 2.0], 9), random.normal(size=6)
    options = {"window": 3, "stride": 2, "padding": ((2, 2),)}
    values, _, d_max, _ = looped(x, dy, 3, 2, 2, 2)
    sequence = jnp.asarray(x).reshape(1, -1, 1)
    assert max_pool(sequence, **options).ravel().tolist() == values.tolist()
    dx = gradient(max_pool, sequence, dy.reshape(1, -1, 1), **options)
    np.testing.assert_allclose(dx.ravel(), d_max, atol=1e-15)


@pytest.mark.parametrize("op", [max_pool, avg_pool], ids=str)
def test_padding_makes_no_infinity_on_the_way(op):
    op = op.bind(window=3, stride=2, padding=((2, 1),))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)))

    def value_and_gradient(x):
        y, residuals = op.fwd(x)
        return y, op.bwd(residuals, y)

    with jax.debug_nans(True), jax.debug_infs(True):
        value_and_gradient(x)
        jax.jit(value_and_gradient)(x)
        with jax.disable_jit():
            value_and_gradient(x)


@pytest.mark.parametrize("op", [max_pool, avg_pool], ids=str)
def test_a_single_window_before_a_long_stride(op):
    """The padding behind it would hold a second window if the stride were the window."""
    options = {"window": 2, "stride": 5, "padding": ((0, 2),)}
    assert op(column(3, 3), **options).ravel().tolist() == [3]
    dx = gradient(op, column(3, 3), column(4), **options)
    assert dx.ravel().tolist() == ([4, 0] if op is max_pool else [2, 2])


@pytest.mark.parametrize(
    "op",
    [
        max_pool.bind(window=3, stride=2, padding=((1, 1), (0, 2))),
        avg_pool.bind(window=3, stride=2, padding=((1, 1), (0, 2))),
        avg_pool.bind(window=(2, 3), count_padding=True),
        avg_pool.bind(window=3, stride=2, ceil_mode=True),
        global_avg_pool,
        global_max_pool,
    ],
    ids=str,
)
@pytest.mark.usefixtures("unannotated")  # a symbolic size is no int
def test_a_batch_and_images_of_symbolic_size(op):
    @jax.jit
    def value_and_gradient(x):
        y, pullback = jax.vjp(op, x)
        return y, pullback(jnp.cos(y))

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 7, 3)))
    shape = jax.export.symbolic_shape("n, h, w, 3", constraints=["h >= 3", "w >= 3"])
    exported = jax.export.export(value_and_gradient)(jax.ShapeDtypeStruct(shape, x.dtype))
    for mine, true in zip(
        jax.tree.leaves(exported.call(x)), jax.tree.leaves(value_and_gradient(x)), strict=True
    ):
        np.testing.assert_allclose(mine, true, atol=1e-12)


def test_what_no_window_holds_has_gradient_zero():
    for op in (max_pool, avg_pool):
        dx = gradient(op, column(1, 2, 3, 4, 5), column(1, 1), window=1, stride=3)
        assert dx.ravel().tolist() == [1, 0, 0, 1, 0]


def test_sums_of_half_precision_are_in_float32():
    x = jnp.ones((1, 300, 1), jnp.bfloat16)
    assert jax.jit(avg_pool.bind(window=300))(x) == 1
    assert global_avg_pool(x) == 1


def test_a_network_of_bound_ops():
    images = reshape.bind(shape=(-1, 6, 4, 1))
    net = jaxnn.serial(images, max_pool.bind(window=2), avg_pool.bind(window=(3, 1)), flatten)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 24)))
    y, residuals = net.fwd(net.init(jax.random.key(0)), x)
    _, dx = net.bwd(residuals, jnp.ones((7, 2)))
    assert y.shape == (7, 2)
    np.testing.assert_allclose(dx.sum(), 14)
    assert (dx != 0).sum() == 7 * 6


X = jnp.ones((3, 5, 4, 6))
BAD = [
    (
        lambda: max_pool(X[0, 0], window=2),
        ValueError,
        r"x is float64\[4,6\]; it must have at least",
    ),
    (
        lambda: max_pool(X, window=(2, 2, 2)),
        ValueError,
        "each of the 2 axes between the first and the last, got",
    ),
    (lambda: avg_pool(X, window=0), ValueError, "option window must be positive"),
    (lambda: max_pool(X, window=2.0), TypeError, "option window must be an integer or a tuple"),
    (lambda: max_pool(X, window=2, stride=2.0), TypeError, "option stride must be an integer"),
    (
        lambda: max_pool(X, window=2, padding="FULL"),
        ValueError,
        "padding must be 'SAME', 'SAME_LOWER'",
    ),
    (lambda: avg_pool(X, window=2, padding=((0, 1),)), ValueError, "a tuple of 2 that holds"),
    (lambda: max_pool(X, window=2, padding=((0, -1),) * 2), ValueError, "no negative number"),
    (lambda: max_pool(X, window=2, ceil_mode=1), TypeError, "ceil_mode must be True or False"),
    (lambda: max_pool(X, window=(5, 5)), ValueError, "length 5 along axis 2 but x is float64"),
    (lambda: max_pool(X[:, :0], window=1), ValueError, "length 1 along axis 1 but x is"),
    (
        lambda: avg_pool(X, window=2, padding=((0, 0), (2, 0))),
        ValueError,
        r"axis 2 lies entirely in the padding \(2, 0\)",
    ),
    (lambda: max_pool(X.astype(int), window=2), TypeError, "x must be floating point"),
    (lambda: avg_pool(X, window=2, count_padding=1), TypeError, "count_padding must be True"),
    (lambda: global_avg_pool(X[0, 0]), ValueError, "at least one axis to pool"),
    (lambda: global_avg_pool(X[:, :0]), ValueError, "at least one axis to pool"),
    (lambda: global_max_pool(X[:, :0]), ValueError, "at least one axis to pool"),
    (lambda: adaptive_avg_pool(X, size=0), ValueError, "option size must be positive"),
    (lambda: adaptive_avg_pool(X, size=(3,)), ValueError, "one for each of the 2 axes"),
    (lambda: adaptive_max_pool(X, size=2.0), TypeError, "option size must be an integer"),
    (lambda: flatten(jnp.float32(1)), ValueError, "first axis must be the batch"),
    (lambda: reshape(X, shape=(-1, 7)), ValueError, r"360 numbers, .* the shape \(-1, 7\)"),
    (lambda: reshape(X, shape=(-1, -1)), ValueError, "do not fit the shape"),
    (lambda: reshape(X, shape=360), TypeError, "must be a tuple of integers, got 360"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("window", "stride"), [(2, 5), (1, 3)])
def test_windows_that_leave_out_the_end_of_the_axis(window, stride):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 9, 5)))
    starts = range(0, 9 - window + 1, stride)
    maxima = np.stack([np.asarray(x)[:, i : i + window].max(1) for i in starts], 1)
    np.testing.assert_array_equal(max_pool(x, window=window, stride=stride), maxima)
