"""Convolutions against plain loops, JAX and Flax; their transposes, a batch in parts, bad input."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn
from jaxnn.layers.convolution import Conv, ConvTranspose
from jaxnn.ops._common.convolutions import transposed
from jaxnn.ops.convolution import conv, conv_transpose


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def by_loops(x, w, stride, before, dilation, groups, size):
    """y[n, p, o] = Σₖᵢ x[n, s·p + d·k − l, i]·W[k, i, o], one product after the other."""
    *kernel, per_group, n_out = w.shape
    y = np.zeros((x.shape[0], *size, n_out))
    for p in itertools.product(*map(range, size)):
        for k in itertools.product(*map(range, kernel)):
            at = [
                s * a + d * b - z
                for s, a, d, b, z in zip(stride, p, dilation, k, before, strict=True)
            ]
            if all(0 <= q < n for q, n in zip(at, x.shape[1:-1], strict=True)):
                for o in range(n_out):
                    first = o // (n_out // groups) * per_group
                    entries = x[(slice(None), *at, slice(first, first + per_group))]
                    y[(slice(None), *p, o)] += entries @ w[(*k, slice(None), o)]
    return y


@pytest.mark.parametrize(
    ("x_shape", "kernel", "groups", "options", "before", "size"),
    [
        ((3, 5, 4), (3,), 1, {}, (1,), (5,)),
        ((3, 7, 4), (4,), 2, {"stride": 3}, (1,), (3,)),
        ((3, 9, 4), (3,), 4, {"padding": "VALID", "dilation": 2, "stride": 2}, (0,), (3,)),
        ((2, 5, 6, 4), (2, 4), 2, {}, (0, 1), (5, 6)),
        (
            (2, 6, 5, 4),
            (3, 2),
            4,
            {"stride": (2, 1), "padding": ((0, 3), (2, 0)), "dilation": (1, 3)},
            (0, 2),
            (4, 4),
        ),
        ((3, 5, 4), (4,), 1, {"padding": "SAME_LOWER"}, (2,), (5,)),
        ((3, 9, 4), (3,), 2, {"padding": "CAUSAL", "dilation": 2, "stride": 4}, (4,), (3,)),
        ((2, 3, 4, 5, 4), (2, 3, 2), 2, {"padding": [1, "SAME", (2, 0)]}, (1, 1, 2), (4, 4, 6)),
        ((2, 4, 3, 5, 4), (2, 1, 3), 1, {"padding": 1, "stride": [2, 1, 3]}, (1, 1, 1), (3, 5, 2)),
    ],
)
def test_conv_is_its_sum(x_shape, kernel, groups, options, before, size):
    x, w = random(1, *x_shape), random(2, *kernel, 4 // groups, 8)
    steps = [options.get(name, 1) for name in ("stride", "dilation")]
    stride, dilation = ((s,) * len(kernel) if isinstance(s, int) else s for s in steps)
    expected = by_loops(np.asarray(x), np.asarray(w), stride, before, dilation, groups, size)
    y = conv({"w": w}, x, groups=groups, **options)
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "kernel", "size"),
    [
        ({"stride": 2}, 3, 8),
        ({"stride": 3}, 2, 9),
        ({"stride": 2, "dilation": 3, "padding": "VALID"}, 3, 9),
    ],
)
def test_conv_transpose_is_the_adjoint_of_conv(options, kernel, size):
    x, w = random(1, 3, size, 4), random(2, kernel, 4, 5)
    y = conv({"w": w}, x, **options)
    dy = random(3, *y.shape)
    back = conv_transpose({"w": transposed(w)}, dy, **options)
    np.testing.assert_allclose(jnp.vdot(y, dy), jnp.vdot(x, back), rtol=1e-12)


def assert_equal_to_autodiff(op, params, x, **options):
    """Value and gradients against the definition, in float64."""
    y, residuals = op.fwd(params, x, **options)
    truth, pullback = jax.vjp(lambda *args: op.definition(*args, **options), params, x)
    np.testing.assert_allclose(y, truth, atol=1e-12)
    dy = random(9, *y.shape)
    for mine, true in zip(
        jax.tree.leaves(op.bwd(residuals, dy)), jax.tree.leaves(pullback(dy)), strict=True
    ):
        np.testing.assert_allclose(mine, true, atol=1e-12)


@pytest.mark.parametrize("reach", [(1, 1), (2, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_conv_transpose_has_the_sizes_of_lax(reach, stride):
    kernel, dilation = reach
    w, x = random(1, kernel, 3, 4), random(2, 2, 6, 3)
    for padding in ("SAME", "VALID", ((4, 7),)):
        true = lax.conv_transpose(x, w, (stride,), padding, rhs_dilation=(dilation,))
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        np.testing.assert_allclose(conv_transpose({"w": w}, x, **options), true, atol=1e-12)
        if padding == "SAME":
            lower = conv_transpose({"w": w}, x, **options | {"padding": "SAME_LOWER"})
            odd = max(kernel * dilation - dilation + 1 - stride, 0) % 2
            np.testing.assert_allclose(lower[:, : 6 * stride - odd], true[:, odd:], atol=1e-12)


def scattered(x, w, stride, cut, dilation, groups, extra):
    """PyTorch's sum: y[s·q + d·k − c] += x[q]·W[k] with W of shape (I, O/G, *kernel)."""
    n_in, per_group, *kernel = w.shape
    sizes = [
        s * (n - 1) + d * (k - 1) + 1 - 2 * c + e
        for n, k, s, c, d, e in zip(x.shape[2:], kernel, stride, cut, dilation, extra, strict=True)
    ]
    y = np.zeros((x.shape[0], per_group * groups, *sizes))
    for i, q in itertools.product(range(n_in), np.ndindex(*x.shape[2:])):
        first = i // (n_in // groups) * per_group
        for k in np.ndindex(*kernel):
            at = [
                s * a + d * b - c for s, a, d, b, c in zip(stride, q, dilation, k, cut, strict=True)
            ]
            if all(0 <= p < n for p, n in zip(at, sizes, strict=True)):
                target = (slice(None), slice(first, first + per_group), *at)
                y[target] += np.outer(x[(slice(None), i, *q)], w[(i, slice(None), *k)])
    return y


@pytest.mark.parametrize(
    ("space", "kernel", "groups", "stride", "cut", "dilation", "extra"),
    [
        ((5,), (4,), 1, (2,), (1,), (1,), (1,)),
        ((4,), (3,), 2, (1,), (3,), (2,), (1,)),
        ((3, 4), (3, 2), 3, (3, 2), (1, 0), (1, 3), (2, 1)),
        ((3, 2, 4), (2, 3, 1), 2, (2, 1, 3), (0, 1, 0), (1, 1, 2), (0, 0, 2)),
    ],
)
def test_conv_transpose_is_that_of_pytorch(space, kernel, groups, stride, cut, dilation, extra):
    """Integers as padding, output_padding and groups; PyTorch's kernel, flipped and transposed."""
    images, stored = random(1, 2, 6, *space), random(2, 6, 12 // groups, *kernel)
    truth = scattered(*map(np.asarray, (images, stored)), stride, cut, dilation, groups, extra)
    by_group = stored.reshape(groups, 6 // groups, 12 // groups, *kernel)
    flipped = jnp.flip(by_group, range(3, by_group.ndim))
    w = jnp.moveaxis(flipped, (1, 0, 2), (-3, -2, -1)).reshape(*kernel, 6 // groups, 12)
    options = {"stride": stride, "padding": cut, "dilation": dilation, "groups": groups}
    options["output_padding"] = list(extra)
    layer = jaxnn.channels_first(ConvTranspose(6, 12, list(kernel), use_bias=False, **options))
    np.testing.assert_allclose(layer.apply({"w": w}, images), truth, atol=1e-12)
    params = {"w": w, "b": random(3, 12)}
    assert_equal_to_autodiff(conv_transpose, params, jnp.moveaxis(images, 1, -1), **options)


def test_output_padding_tells_sizes_apart():
    """For each size that conv maps to 4 there is an output_padding that gives it back."""
    w = random(1, 3, 4, 5)
    for size in (7, 8):
        x = random(2, 3, size, 4)
        y = conv({"w": w}, x, stride=2, padding=1)
        back = conv_transpose({"w": transposed(w)}, y, stride=2, padding=1, output_padding=size - 7)
        assert back.shape == x.shape
        np.testing.assert_allclose(jnp.vdot(y, y), jnp.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize(
    "op",
    [
        conv.bind(padding="CAUSAL", stride=2, dilation=2),
        conv_transpose.bind(padding="CAUSAL", stride=3),
        conv_transpose.bind(padding="CAUSAL", stride=2, dilation=3),
    ],
    ids=str,
)
def test_causal_depends_on_nothing_that_follows(op):
    jacobian = jax.jacobian(lambda x: op({"w": jnp.ones((3, 1, 1))}, x)[0, :, 0])(
        jnp.ones((1, 8, 1))
    )
    at, of = np.nonzero(jacobian[:, 0, :, 0])
    stride = op.options["stride"]
    assert np.all(of <= at * stride if op.is_same_as(conv) else of <= at // stride)
    assert len(jacobian) == (4 if op.is_same_as(conv) else 8 * stride)


def test_conv_is_that_of_flax():
    x, w, b = random(1, 3, 7, 4), random(2, 3, 2, 6), random(3, 6)
    options = {"padding": "CAUSAL", "kernel_dilation": 2, "feature_group_count": 2}
    native = nn.Conv(6, (3,), param_dtype=float, **options)
    true = native.apply({"params": {"kernel": w, "bias": b}}, x)
    y = conv({"w": w, "b": b}, x, padding="CAUSAL", dilation=2, groups=2)
    np.testing.assert_allclose(y, true, atol=1e-12)


def test_what_no_window_holds_changes_nothing():
    """NaN between windows of stride 3 and behind the last one, forward and backward."""
    params, x = {"w": random(1, 2, 4, 5)}, random(2, 3, 9, 4)
    holed = x.at[:, 2::3].set(jnp.nan)
    for padding in ("VALID", 0):
        op = conv.bind(stride=3, padding=padding)
        y, residuals = op.fwd(params, holed)
        true, clean = op.fwd(params, x)
        np.testing.assert_array_equal(y, true)
        jax.tree.map(np.testing.assert_array_equal, op.bwd(residuals, y), op.bwd(clean, y))


@pytest.mark.parametrize("groups", [1, 3])
def test_a_batch_that_is_summed_by_parts(groups):
    """32 images and 1, also under vmap and twice differentiated."""
    params, x = {"w": random(1, 3, 6 // groups, 9)}, random(2, 33, 3200, 6)
    op = conv.bind(groups=groups, stride=2)
    dy = random(3, 33, 1600, 9)

    def gradients(function):
        def first(params, x):
            return jax.vjp(function, params, x)[1](dy)

        def both(params, x):
            grads, pullback = jax.vjp(first, params, x)
            return grads, pullback(jax.tree.map(jnp.cos, grads))

        return jax.jit(both)(params, x)

    ours, theirs = gradients(op), gradients(op.definition)
    for mine, true in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-9, atol=1e-9)
    bwd = jax.vmap(lambda x, dy: op.bwd(op.fwd(params, x)[1], dy)[0]["w"])
    mapped = bwd(jnp.stack([x, 2 * x]), jnp.stack([dy, dy]))
    np.testing.assert_allclose(mapped[0], ours[0][0]["w"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mapped[1], 2 * mapped[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 3])
def test_forward_mode_costs_no_more_than_that_of_the_definition(groups):
    """Where dW is a loop over parts of the batch, its transpose would take 18 times as long."""
    op = conv.bind(groups=groups)
    args = jax.eval_shape(
        lambda: ({"w": jnp.zeros((3, 3, 6 // groups, 9))}, jnp.zeros((33, 56, 56, 6)))
    )

    def costs(function):
        pushed = jax.jit(lambda params, x: jax.jvp(function, (params, x), (params, x)))
        compiled = pushed.lower(*args).compile()
        return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes

    for ours, theirs in zip(costs(op), costs(op.definition), strict=True):
        assert ours <= theirs


@pytest.mark.parametrize("name", ["w", "b", "x"])
@pytest.mark.parametrize("op", [conv.bind(stride=2), conv_transpose.bind(stride=2)], ids=str)
def test_forward_mode_in_one_argument_alone(op, name):
    params, x = {"w": random(1, 3, 4, 5), "b": random(2, 5)}, random(3, 6, 7, 4)

    def jacobian(function):
        if name == "x":
            return jax.jacfwd(lambda x: function(params, x))(x)
        return jax.jacfwd(lambda value: function(params | {name: value}, x))(params[name])

    np.testing.assert_allclose(jacobian(op), jacobian(op.definition), atol=1e-12)


@pytest.mark.parametrize("op", [conv, conv_transpose], ids=str)
def test_two_halves_make_the_backward(op):
    params, x = {"w": random(1, 3, 4, 5), "b": random(2, 5)}, random(3, 6, 7, 4)
    y, residuals = op.fwd(params, x, stride=2, padding="VALID")
    deltas, dx = op.bwd_input(residuals, y)
    halves = op.bwd_params(residuals, deltas), dx
    for half, whole in zip(
        jax.tree.leaves(halves), jax.tree.leaves(op.bwd(residuals, y)), strict=True
    ):
        assert jnp.array_equal(half, whole)


@pytest.mark.parametrize("op", [conv, conv.bind(groups=2, stride=2), conv_transpose], ids=str)
def test_a_batch_of_symbolic_size(op):
    groups = op.options.get("groups", 1)
    params, x = {"w": random(1, 3, 3, 4 // groups, 6), "b": random(2, 6)}, random(3, 5, 8, 7, 4)

    @jax.jit
    def value_and_gradients(params, x):
        y, pullback = jax.vjp(op, params, x)
        return y, pullback(jnp.cos(y))

    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.eval_shape(lambda: params), jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
    exported = jax.export.export(value_and_gradients)(*shapes).call(params, x)
    known = value_and_gradients(params, x)
    for mine, true in zip(jax.tree.leaves(exported), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(mine, true, atol=1e-12)


def test_temporary_memory_does_not_grow_with_the_batch():
    def temporary(n):
        shapes = jax.eval_shape(lambda: (jnp.zeros((3, 3, 8, 8)), jnp.zeros((n, 56, 56, 8))))

        def dw(w, x):
            return conv.bwd(conv.fwd({"w": w}, x)[1], x)[0]["w"]

        return jax.jit(dw).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) <= 1.1 * temporary(16)


def test_no_cotangent_of_another_shape():
    params, x = {"w": random(1, 3, 4, 5)}, random(2, 6, 7, 4)
    for op in (conv, conv_transpose):
        with pytest.raises(ValueError, match=rf"{op.__name__}: dy has shape \(6, 1, 5\)"):
            op.bwd(op.fwd(params, x)[1], jnp.ones((6, 1, 5)))


W = jnp.zeros((3, 3, 4, 6))
X = jnp.zeros((2, 8, 8, 4))


@pytest.mark.parametrize(
    ("params", "x", "options", "error", "words"),
    [
        ({"w": W}, X[:, :2], {"padding": "VALID"}, ValueError, "kernel covers 3 entries"),
        ({"w": W}, X, {"padding": "VALID", "dilation": 4}, ValueError, "kernel covers 9 entries"),
        ({"w": W}, X[:, :, :0], {}, ValueError, "with no entries along a spatial axis"),
        ({"w": W}, X[..., :3], {}, ValueError, "its axis -2 must be 3"),
        ({"w": W}, X[0], {}, ValueError, r"params\['w'\] must be \(w, inputs, outputs\)"),
        ({"w": W}, X[None], {}, ValueError, r"params\['w'\] must be \(d, h, w, inputs, outputs\)"),
        ({"w": W}, X[0, 0], {}, ValueError, "x must be"),
        ({"w": W[:0]}, X, {}, ValueError, r"params\['w'\] is empty"),
        ({"w": W, "b": jnp.zeros(4)}, X, {}, ValueError, r"b must be \(6,\)"),
        ({"w": W}, X, {"stride": 0}, ValueError, "option stride must be positive"),
        ({"w": W}, X, {"stride": (1, 1, 1)}, ValueError, "one for each of the 2 axes"),
        ({"w": W}, X, {"dilation": 1.5}, TypeError, "option dilation must be an integer or"),
        ({"w": W}, X, {"padding": "same"}, ValueError, "option padding must be 'SAME'"),
        ({"w": W}, X, {"padding": 1.0}, ValueError, "option padding must be 'SAME'"),
        ({"w": W}, X, {"padding": (1,)}, ValueError, "a tuple of 2 that holds one of these"),
        ({"w": W}, X, {"padding": -1}, ValueError, "with no negative number, got -1"),
        ({"w": W}, X, {"padding": ((1, -1), (0, 0))}, ValueError, "option padding must be 'SAME'"),
        ({"w": W}, X.astype(int), {}, TypeError, "x must be floating point"),
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_bad_input_is_told_in_words(params, x, options, error, words):
    with pytest.raises(error, match=f"conv: .*{words}"):
        conv(params, x, **options)
    if words.startswith("kernel"):  # a transposed convolution makes room
        words, options = "nothing remains of the output", {"padding": (5, 5)}
    with pytest.raises(error, match=f"conv_transpose: .*{words}"):
        conv_transpose(params, x, **options)


@pytest.mark.usefixtures("unannotated")
def test_output_padding_is_less_than_a_stride():
    for extra, error, words in (
        (2, ValueError, "it must be smaller than the stride, 2, or the dilation, 1"),
        (-1, ValueError, "option output_padding must be at least 0"),
        (0.5, TypeError, "option output_padding must be an integer"),
    ):
        with pytest.raises(error, match=words):
            conv_transpose({"w": W}, X, stride=2, output_padding=extra)
    assert conv_transpose({"w": W}, X, dilation=3, output_padding=2).shape == (2, 10, 10, 6)


@pytest.mark.usefixtures("unannotated")
def test_groups_divide():
    with pytest.raises(ValueError, match="groups is 3; it must divide the 4 channels"):
        conv({"w": W}, X, groups=3)
    with pytest.raises(ValueError, match="in 2 groups its axis -2 must be 2"):
        conv({"w": W}, X, groups=2)
    with pytest.raises(TypeError, match="groups must be an integer"):
        conv({"w": W}, X, groups=1.0)


def test_layers():
    layer = Conv(4, 6, (3, 5), stride=2, groups=2)
    params = layer.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"w": (3, 5, 2, 6), "b": (6,)}
    y, residuals = layer.fwd(params, X)
    assert y.shape == layer.apply(params, X).shape == (2, 4, 4, 6)
    dparams, dx = layer.bwd(residuals, y)
    assert jax.tree.map(jnp.shape, (dparams, dx)) == jax.tree.map(jnp.shape, (params, X))
    assert Conv(4, 6, [3, 5], padding=[1, [2, 0]]) == Conv(4, 6, (3, 5), padding=(1, (2, 0)))
    layer = ConvTranspose(4, 6, (3,), stride=2, use_bias=False)
    params = layer.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"w": (3, 4, 6)}
    assert layer.apply(params, X[0]).shape == (8, 16, 6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv(4, 0, (3,)), "Conv: n_out must be a positive integer"),
        (lambda: Conv(4, 6, (3,), groups=3), "Conv: groups is 3; it must divide"),
        (lambda: Conv(4, 6, 3), r"Conv: kernel must be \(w,\)"),
        (lambda: Conv(4, 6, (3,) * 4), r"or \(d, h, w\) for volumes"),
        (lambda: ConvTranspose(4, 6, (3,), groups=4), "ConvTranspose: groups is 4; it must divide"),
        (lambda: ConvTranspose(4, 6, (3, 0)), "kernel must hold positive integers"),
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_bad_sizes_of_a_layer(make, words):
    with pytest.raises(ValueError, match=words):
        make()
