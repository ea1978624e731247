"""Attention and the layers made of them, beyond what the battery covers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.layers.attention import MultiHeadAttention, TransformerBlock
from jaxnn.layers.normalisation import RMSNorm
from jaxnn.ops.activations.gated import swiglu
from jaxnn.ops.attention import attention

B, T, S, H, K, D = 3, 7, 8, 6, 2, 4


def random(seed, *shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def qkv(dtype=jnp.float64, s=S):
    return (
        random(1, B, T, H, D, dtype=dtype),
        random(2, B, s, K, D, dtype=dtype),
        random(3, B, s, K, D, dtype=dtype),
    )


def pulled_back(function, args):
    """The value and the gradients for a random cotangent."""

    @jax.jit
    def value_and_gradients(*args):
        y, pullback = jax.vjp(function, *args)
        return y, *pullback(random(9, *y.shape, dtype=y.dtype))

    return value_and_gradients(*args)


def assert_close(ours, theirs, rtol=1e-11, atol=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def test_it_is_the_attention_of_jax(standard_promotion):
    lengths = jnp.array([7, 3, 5], jnp.int32), jnp.array([2, 8, 6], jnp.int32)
    bias = random(4, B, 1, T, S, dtype=jnp.float32)
    mask = random(5, 1, H, T, S) < 1
    mask = mask.at[..., 0].set(True)
    arguments = (*qkv(jnp.float32), bias)
    ours = pulled_back(
        lambda *a: attention(*a, mask, *lengths, causal=True, scale=0.7, block=3),
        arguments,
    )
    with jax.numpy_rank_promotion("allow"):
        theirs = pulled_back(
            lambda *a: jax.nn.dot_product_attention(
                *a,
                mask,
                is_causal=True,
                scale=0.7,
                query_seq_lengths=lengths[0],
                key_value_seq_lengths=lengths[1],
            ),
            arguments,
        )
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, None])
def test_blocks_change_nothing(block):
    op = attention.bind(causal=True, block=block)
    arguments = (*qkv(), random(4, B, 1, T, 1))  # a bias that is the same for all keys
    assert_close(pulled_back(op, arguments), pulled_back(op.definition, arguments))


@pytest.mark.parametrize("function", [attention, attention.definition])
def test_a_query_that_sees_nothing_has_output_and_gradient_zero(function):
    mask = jnp.ones((1, 1, T, 1), bool).at[0, 0, 2].set(False)
    bias = jnp.zeros((1, 1, T, S)).at[0, 0, 4].set(-jnp.inf)
    y, dq, dk, dv, dbias = pulled_back(lambda *a: function(*a, mask), (*qkv(), bias))
    for row in (2, 4):
        assert not y[:, row].any()
        assert not dq[:, row].any()
        assert not dbias[:, :, row].any()
    assert all(jnp.isfinite(a).all() for a in (y, dq, dk, dv, dbias))
    assert y[:, 3].any()


def test_without_keys_the_output_is_zero_and_without_queries_empty():
    assert not attention(*qkv(s=0)).any()
    _, k, v = qkv()
    assert attention(jnp.zeros((B, 0, H, D)), k, v).shape == (B, 0, H, D)


def test_lengths_beyond_the_end_mean_the_end_where_they_are_not_known():
    lengths = jnp.full(B, 100)
    y = jax.jit(attention.bind(block=3))(*qkv(), q_lengths=lengths, kv_lengths=lengths)
    np.testing.assert_allclose(y, attention(*qkv()), rtol=1e-12)


def test_scores_of_any_size_lose_no_digits():
    _, k, v = qkv(jnp.float32)
    shifted = jnp.full((1, 1, 1, S), 1e6, jnp.float32)
    y, _, _, dv, _ = pulled_back(attention, (jnp.zeros((B, T, H, D), jnp.float32), k, v, shifted))
    mean = jnp.repeat(v.mean(1, keepdims=True), H // K, axis=2)
    np.testing.assert_allclose(y, jnp.broadcast_to(mean, y.shape), rtol=1e-6, atol=1e-7)
    dy = random(9, *y.shape, dtype=y.dtype).reshape(B, T, K, H // K, D).sum((1, 3))
    np.testing.assert_allclose(
        dv, jnp.broadcast_to(dy[:, None] / S, dv.shape), rtol=1e-6, atol=1e-6
    )


@jax.jit
def with_mask(mask, args):
    """The value and the gradients of attention with a mask, compiled once for each shape."""
    y, pullback = jax.vjp(lambda *a: attention(*a, mask), *args)
    return y, *pullback(random(9, *y.shape))


@pytest.mark.parametrize(
    ("options", "sees"),
    [
        ({"causal": "lower_right"}, lambda b, t, j: j <= t + S - T),
        ({"window": (1, None), "q_start": [0, 5, -1]}, lambda b, t, j: j >= (0, 5, -1)[b] + t - 1),
        (
            {"window": (1, 3), "causal": True, "q_start": 2},
            lambda b, t, j: t + 1 <= j <= t + 2,
        ),
    ],
)
def test_the_order_is_a_mask(options, sees):
    """Tiles outside the order are omitted, and nothing changes: value and gradients."""
    options = dict(options)
    start = {"q_start": jnp.array(options.pop("q_start"))} if "q_start" in options else {}
    mask = jnp.asarray(np.vectorize(sees)(*np.ogrid[:B, :T, :S]))[:, None]
    ours = pulled_back(lambda *a: attention(*a, **start, **options, block=3), qkv())
    assert_close(ours, with_mask(mask, (*qkv(), jnp.zeros((B, H, T, S))))[:4])


def test_a_window_is_that_of_jax(standard_promotion):
    q, k, v = random(1, B, T, H, D), *random(2, 2, B, T, K, D)
    ours = jax.jit(attention.bind(window=(1, 3), block=3))(q, k, v)
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.nn.dot_product_attention(q, k, v, local_window_size=(1, 3))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_one_query_at_a_time_from_a_cache_is_the_whole():
    """The query at position p sees the keys up to p, and not what the cache holds behind them."""
    q, k, v = random(1, B, S, H, D), *qkv()[1:]
    whole = jax.jit(attention.bind(causal=True))(q, k, v)
    step = jax.jit(lambda *a, start: attention(*a, q_start=start, causal=True))
    for p in range(S):
        cached = [a.at[:, p + 1 :].set(jnp.nan) for a in (k, v)]
        y = step(q[:, p : p + 1], *cached, start=jnp.array(p, jnp.uint8))
        np.testing.assert_allclose(y[:, 0], whole[:, p], rtol=1e-12)


def test_masks_and_biases_of_fewer_axes():
    mask = random(5, T, S) < 1

    bias = random(4, H, 1, 1)
    full = jnp.broadcast_to(bias[None], (B, H, T, S))
    *ours, dbias = pulled_back(lambda *a: attention(*a, mask, block=3), (*qkv(), bias))
    *same, dfull = with_mask(mask[None, None], (*qkv(), full))
    assert_close((*ours, dbias), (*same, dfull.sum((0, 2, 3))[:, None, None]))


def test_a_softcap_and_sinks_by_hand():
    """s = a·tanh(q·k/a) + bias, and the sink's e^sink in the denominator of each row."""
    k, v = jnp.array([3.0, -1.0]).reshape(1, 2, 1, 1), jnp.array([5.0, 7.0]).reshape(1, 2, 1, 1)
    q, bias = jnp.full((1, 1, 1, 1), 2.0), jnp.array([[0.25, 0.0]])
    y = jax.jit(attention.bind(softcap=4.0))(q, k, v, bias, sinks=jnp.array([0.5]))
    e = np.exp([4 * np.tanh(6 / 4) + 0.25, 4 * np.tanh(-2 / 4)])
    np.testing.assert_allclose(y.item(), (e @ [5, 7]) / (e.sum() + np.exp(0.5)), rtol=1e-12)


def test_a_softcap_keeps_the_digits_of_its_slope_where_it_saturates():
    """1 − tanh² is 4e-16 here, which 1 − 1 would make 0."""
    q, k = jnp.full((1, 1, 1, 1), 18.0, jnp.float32), jnp.ones((1, 2, 1, 1), jnp.float32)
    v = jnp.array([0.0, 1.0], jnp.float32).reshape(k.shape)
    dk = jax.jit(jax.grad(lambda k: attention(q, k, v, softcap=1.0).sum()))(k)
    slope = 1 / np.cosh(18.0) ** 2 * 18 * 0.25
    np.testing.assert_allclose(dk.ravel(), [-slope, slope], rtol=1e-4)


def test_lengths_and_starts_of_every_integer_dtype():
    """299 positions, beyond the range of 8 bits."""
    q = random(1, 1, 299, 1, 4)
    op = attention.bind(causal=True, block=128)

    def run(function, *dtypes):
        q_lengths, kv_lengths, q_start = (jnp.array([120], dtype) for dtype in dtypes)
        given = {"q_lengths": q_lengths, "kv_lengths": kv_lengths, "q_start": q_start}
        return jax.jit(lambda: function(q, q, q, **given))()

    found = (
        run(op, jnp.int8, jnp.uint8, jnp.int16),
        run(op, jnp.uint16, jnp.int8, jnp.uint8),
        run(op.definition, jnp.uint8, jnp.int8, jnp.int8),
    )
    truth = attention(q[:, :120], *[q[:, :120]] * 2)  # every key is before position 120
    for y in found:
        np.testing.assert_allclose(y[:, :120], truth, rtol=1e-11, atol=1e-12)
        assert not y[:, 120:].any()
    endless = jax.jit(lambda n: op(q, q, q, kv_lengths=n))(jnp.array([2**32 - 1], jnp.uint32))
    assert endless[0, -1].all()


def test_what_is_hidden_may_hold_anything():
    """Forward, backward and tangent are those of zeros there, whatever dy and the tangents hold.

    The order hides query 0 and key 7, the lengths query 6 and key 6, the mask query 2 and key 4,
    the bias query 5 and key 1.
    """
    t, j = np.ogrid[:T, :S]
    hiding = {
        "bias": jnp.where((t == 5) | (j == 1), -jnp.inf, 0.5),
        "mask": jnp.asarray((t != 2) & (j != 4)),
        "q_lengths": jnp.full(B, 6),
        "kv_lengths": jnp.full(B, 6),
        "q_start": jnp.array(-1),
    }
    queries, keys = jnp.array([0, 2, 5, 6]), jnp.array([1, 4, 6, 7])
    extra = {"sinks": random(5, H), "causal": True, "softcap": 2.0}

    def compiled(function, tangent=True):
        def in_every_mode(args, dots, dy):
            def op(*a):
                return function(*a, **hiding, **extra)

            y, pullback = jax.vjp(op, *args)
            return y, *pullback(dy), *([jax.jvp(op, args, dots)[1]] if tangent else [])

        return jax.jit(in_every_mode)

    def run(program, value, cotangent):
        args, dots = (
            (
                random(seed, B, T, H, D).at[:, queries].set(value),
                random(seed + 1, B, S, K, D).at[:, keys].set(-value),
                random(seed + 2, B, S, K, D).at[:, keys].set(value),
            )
            for seed in (1, 11)
        )
        return program(args, dots, random(9, B, T, H, D).at[:, queries].set(cotangent))

    small = compiled(attention.bind(block=3))
    truth = run(small, 0.0, 0.0)
    assert truth[0].any()
    for a, hidden in zip(truth[:4], (queries, queries, keys, keys), strict=True):
        assert not a[:, hidden].any()
    for value in (jnp.nan, jnp.inf):
        assert_close(run(small, value, jnp.nan), truth)
    assert_close(run(compiled(attention), jnp.nan, jnp.inf), truth)
    definition = compiled(attention.definition, tangent=False)
    assert_close(run(definition, jnp.nan, jnp.nan), truth[:4])


def test_a_nan_reaches_the_queries_that_see_it_and_no_others():
    """With causal attention in one tile a query before the NaN multiplies it by 0."""
    q, k, v = random(1, B, T, H, D), *random(2, 2, B, T, K, D)
    at = 3

    @jax.jit
    def run(q, k, v):
        y, pullback = jax.vjp(attention.bind(causal=True), q, k, v)
        return y, *pullback(random(9, *y.shape))

    clean = run(q, k, v)
    for name in ("k", "v"):
        given = {"q": q, "k": k, "v": v} | {name: {"k": k, "v": v}[name].at[:, at].set(jnp.nan)}
        y, dq, _, _ = run(**given)
        for found, truth in ((y, clean[0]), (dq, clean[1])):
            np.testing.assert_allclose(found[:, :at], truth[:, :at], rtol=1e-12)
            assert jnp.isnan(found[:, at:]).all()
    y, dq, dk, dv = run(q.at[:, at].set(jnp.nan), k, v)
    assert [bool(jnp.isnan(y[:, t]).all()) for t in range(T)] == [t == at for t in range(T)]
    for found, truth in ((dk, clean[2]), (dv, clean[3])):  # keys that the query does not see
        np.testing.assert_allclose(found[:, at + 1 :], truth[:, at + 1 :], rtol=1e-12)
        assert jnp.isnan(found[:, : at + 1]).all()


@pytest.mark.parametrize("block", [1, None])
def test_no_gradient_is_dropped_where_p_is_1(block):
    """The weight of 2e-9 that the other key has counts; in one tile to all digits."""
    q, k = jnp.zeros((1, 1, 1, 1), jnp.float32), jnp.zeros((1, 2, 1, 1), jnp.float32)
    bias, op = jnp.array([[20.0, 0.0]], jnp.float32), attention.bind(block=block)
    gradient = jax.jit(jax.grad(lambda bias, v: op(q, k, v.reshape(k.shape), bias).sum()))
    p = np.exp(-20.0) / (1 + np.exp(-20.0))
    for values, tolerance in (((0.0, 1e6), 1e-6), ((1.0, 1e6), 1e-4), ((-2.0, 5.0), 1.0)):
        dbias = gradient(bias, jnp.array(values, jnp.float32))
        of_other = p * (1 - p) * (values[1] - values[0])
        np.testing.assert_allclose(dbias[0, 1], of_other, rtol=1e-6)
        rtol = 1e-6 if block is None else tolerance
        np.testing.assert_allclose(dbias[0, 0], -of_other, rtol=rtol)


def test_a_query_that_sees_one_key_has_gradient_zero():
    """p = 1, and no rounding error stands in for ds = 0."""
    q, k, v = random(1, B, T, H, 33), random(2, B, T, K, 33), random(3, B, T, K, 33)
    args = [a.astype(jnp.float32) for a in (q, k, v)]
    _, dq, _, _ = pulled_back(attention.bind(causal=True, block=3), args)
    assert not dq[:, 0].any()
    assert dq[:, 1].any()


def test_dropout_keeps_its_mean_and_does_not_depend_on_the_tiles():
    q, k = jnp.zeros((2, 64, 3, 1)), jnp.zeros((2, 64, 1, 1))
    v, key, rate = jnp.ones((2, 64, 1, 1)), jax.random.key(5), 0.999
    for block, given in ((64, key), (24, jax.random.key_data(key))):
        op = attention.bind(dropout_rate=rate, block=block)
        y = jax.jit(lambda given, op=op: op(q, k, v, key=given))(given)
        if block == 64:
            whole = y
    np.testing.assert_allclose(y, whole, rtol=1e-12)
    deviation = np.sqrt(rate / (1 - rate) / (2 * 64 * 3 * 64))
    assert 0 < abs(whole.mean() - 1) < 4 * deviation


@pytest.mark.usefixtures("unannotated")
def test_cudnn_is_refused_in_words_and_otherwise_left_alone(monkeypatch):
    """As if there was a GPU: what cuDNN cannot compute goes over tiles, or is named if it must."""
    small = [a.astype(jnp.bfloat16) for a in qkv()]
    plain = [random(i, B, S, H, 8, dtype=jnp.bfloat16) for i in range(3)]
    bias = jnp.zeros((T, S), jnp.bfloat16)

    def refused(*args, **options):
        with pytest.raises(ValueError, match=r"attention: .*cannot run here") as caught:
            attention(*args, **options, implementation="cudnn")
        assert jax.eval_shape(lambda *a: attention(*a, **options), *args).dtype == args[0].dtype
        return str(caught.value).split("here: ")[1]

    assert refused(*plain) == "the default backend is cpu, not a GPU"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert refused(*qkv()) == "it takes float16 and bfloat16, but q is float64"
    assert "those of q have 4 components" in refused(*small)
    assert refused(*small, bias) == "jaxnn passes it no bias"
    assert refused(*plain, softcap=1.0) == "jaxnn passes it neither softcap nor dropout_rate"
    assert "only causal windows" in refused(*plain, window=1)
    assert "different lengths" in refused(plain[0][:, :3], *plain[1:], causal="lower_right")
    assert refused(*plain) == "JAX rejects it: cuDNN is not detected."


def test_cudnn_computes_forward_and_backward_on_a_gpu(monkeypatch):
    """What is lowered for a GPU; on a CPU the same program goes over tiles."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    versions = SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(fused, "cuda_versions", versions)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    args = [random(i, B, 16, H // (1 + (i > 0)), 8, dtype=jnp.bfloat16) for i in range(3)]

    def run(op):
        return jax.jit(lambda *args: jax.vjp(op, *args)[1](args[0]))

    for op in (attention, attention.bind(implementation="cudnn")):
        op = op.bind(window=(3, 0))
        traced = run(op).trace(*args)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert "fmhaSoftmax(" in text
        assert "fmhaSoftmaxBackward(" in text
        assert text.count("CAUSAL") == text.count("sliding_window_length\\22: 4") == 2
    tiles = run(op.bind(implementation="tiles"))
    for a, b in zip(run(op)(*args), tiles(*args), strict=True):
        np.testing.assert_array_equal(a, b)
    jax.eval_shape(jax.hessian(lambda q: op(q, *args[1:]).sum()), args[0])


def errors_of(found, truth):
    """‖found − truth‖/‖truth‖ of each array."""
    norm = np.linalg.norm
    wide = [np.asarray(a, np.float64) for a in found]
    return np.array([norm(a - b) / norm(b) for a, b in zip(wide, truth, strict=True)])


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("t", "s", "kv_heads", "options"),
    [
        pytest.param(40, 40, 4, {}, id="all"),
        pytest.param(24, 40, 2, {"scale": 0.3}, id="cross_grouped"),
        pytest.param(40, 40, 2, {"causal": True}, id="causal_grouped"),
        pytest.param(24, 40, 4, {"causal": True}, id="cross_causal"),
        pytest.param(40, 40, 1, {"causal": True, "window": 5}, id="window_one_head"),
    ],
)
def test_cudnn_is_as_exact_as_autodiff(standard_promotion, t, s, kv_heads, options, dtype):
    """Value, gradients and tangent: at most twice the errors of JAX's attention in that dtype."""
    if jax.default_backend() != "gpu":
        pytest.skip("cuDNN's kernels run on a GPU")
    shapes = (2, t, 4, 16), (2, s, kv_heads, 16), (2, s, kv_heads, 16)
    args, dots = (
        tuple(random(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes))
        for seed in (1, 11)
    )

    def run(function, args, dots, dy):
        @jax.jit
        def in_every_mode(args, dots, dy):
            y, pullback = jax.vjp(function, *args)
            return y, *pullback(dy), jax.jvp(function, args, dots)[1]

        return in_every_mode(args, dots, dy)

    def of_jax(*args):
        return jax.nn.dot_product_attention(
            *args,
            scale=options.get("scale"),
            is_causal=options.get("causal", False),
            local_window_size=options.get("window"),
        )

    op, inputs = attention.bind(**options), (args, dots, random(9, *shapes[0], dtype=dtype))
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), inputs)
    truth = [np.asarray(a) for a in run(op.definition, *wide)]
    with jax.numpy_rank_promotion("allow"):
        bound = 2 * errors_of(run(of_jax, *inputs), truth)
    for implementation in ("cudnn", "tiles"):
        found = run(op.bind(implementation=implementation), *inputs)
        assert all(a.dtype == dtype for a in found)
        errors = errors_of(found, truth)
        assert (errors <= bound).all(), (implementation, errors, bound)
    by_default = jax.jit(op).trace(*args).lower(lowering_platforms=("cuda",))
    assert "fmhaSoftmax(" in by_default.as_text()


def test_memory_grows_with_the_length_and_not_with_its_square():
    def gradients(q, k, v, dy):
        return attention.bwd(attention.fwd(q, k, v, causal=True)[1], dy, causal=True)[:3]

    def bytes_of(t):
        shapes = [jax.ShapeDtypeStruct((1, t, 4, 16), jnp.float32)] * 4
        return jax.jit(gradients).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    short, long, longer = map(bytes_of, (1024, 2048, 4096))
    assert long <= 2.1 * short
    assert longer <= 2.1 * long


def pushed_forward(function, args, moving, dots):
    """The tangent for tangents of some of the arguments."""

    def of_moving(*moved):
        filled = list(args)
        for i, a in zip(moving, moved, strict=True):
            filled[i] = a
        return function(*filled)

    inputs = [args[i] for i in moving], [dots[i] for i in moving]
    return jax.jit(lambda primals, tangents: jax.jvp(of_moving, primals, tangents)[1])(*inputs)


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (3,), (0, 2), (1, 3), (0, 1, 2, 3)])
def test_the_tangent_for_any_of_the_arguments(moving):
    mask = random(5, 1, H, T, S) < 1
    lengths = jnp.array([7, 3, 5], jnp.int32), jnp.array([2, 8, 0], jnp.int32)
    args = (*qkv(), random(4, B, 1, T, 1))
    dots = [random(10 + i, *a.shape) for i, a in enumerate(args)]

    def run(function):
        op = lambda *a: function(*a, mask, *lengths, causal=True, scale=0.7, block=3)  # noqa: E731
        return pushed_forward(op, args, moving, dots)

    assert_close([run(attention)], [run(attention.definition)])


def test_the_tangent_of_half_precision_is_rounded_once():
    args = qkv(jnp.bfloat16)
    dots = [random(10 + i, *a.shape, dtype=jnp.bfloat16) for i, a in enumerate(args)]
    op = attention.bind(causal=True, block=3)
    found = pushed_forward(op, args, (0, 1, 2), dots)
    wider = [[a.astype(jnp.float64) for a in each] for each in (args, dots)]
    true = pushed_forward(op.definition, wider[0], (0, 1, 2), wider[1])
    theirs = pushed_forward(op.definition, args, (0, 1, 2), dots)
    error, their_error = (jnp.linalg.norm(a.astype(true.dtype) - true) for a in (found, theirs))
    assert found.dtype == jnp.bfloat16
    assert error <= their_error


def test_the_tangent_loses_nothing_where_one_key_has_almost_all_the_weight():
    """p = 1 in float32, and the other p of 2e-9 counts: its value is 1e6."""
    q = k = jnp.zeros((1, 2, 1, 1), jnp.float32)
    v = jnp.array([0.0, 1e6], jnp.float32).reshape(k.shape)
    bias = jnp.array([[[[20.0, 0.0]]]], jnp.float32)
    for dot in ([1.0, 0.0], [0.0, 1.0]):
        dots = [None, None, None, jnp.array([[[dot]]], jnp.float32)]
        found = pushed_forward(attention, (q, k, v, bias), (3,), dots)
        true = pushed_forward(attention.definition, (q, k, v, bias), (3,), dots)
        np.testing.assert_allclose(found, true, rtol=1e-6)
        assert (found != 0).all()


def test_the_tangent_never_holds_all_the_scores():
    """At most .06 of the temporary memory of the definition's tangent."""
    shapes = (jax.ShapeDtypeStruct((1, 2048, 4, 32), jnp.float32),) * 3

    def bytes_of(function):
        compiled = jax.jit(lambda x, dot: jax.jvp(function, x, dot)).lower(shapes, shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    op = attention.bind(causal=True)
    assert bytes_of(op) <= 0.06 * bytes_of(op.definition)


def in_every_mode(function):
    """`(*args) ->` the value, the gradients and a tangent."""

    def run(*args):
        y, pullback = jax.vjp(function, *args)
        return y, *pullback(y), jax.jvp(function, args, args)[1]

    return jax.jit(run)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "block": 3}])
def test_one_export_serves_every_batch_and_length(options):
    op = attention.bind(**options)
    b, t, s = jax.export.symbolic_shape("b, t, s")
    symbolic = [(b, t, H, D), (b, s, K, D), (b, s, K, D)]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in symbolic]
    exported = jax.export.export(in_every_mode(op))(*shapes)
    for batch, n_queries, n_keys in ((3, 7, 8), (1, 130, 128)):
        args = random(1, batch, n_queries, H, D), *random(2, 2, batch, n_keys, K, D)
        assert_close(exported.call(*args), in_every_mode(op.definition)(*args), rtol=1e-10)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"q": jnp.zeros((T, H, D))}, ValueError, "q must be"),
        ({"q": jnp.zeros((B, T, 5, D))}, ValueError, "k has 2 heads, which do not divide the 5"),
        ({"q": jnp.zeros((B, T, H, 3))}, ValueError, "components"),
        ({"v": jnp.zeros((B, S, 3, D))}, ValueError, "v has shape"),
        ({"bias": jnp.zeros((B, H, S, T))}, ValueError, "bias has shape"),
        ({"mask": jnp.zeros((1, 1, T, S))}, TypeError, "mask must be boolean"),
        ({"q_lengths": jnp.array([1, 2, 8])}, ValueError, "q_lengths holds 8, .* 0 … 7"),
        ({"kv_lengths": jnp.array([1, -2, 8])}, ValueError, "kv_lengths holds -2, .* 0 … 8"),
        ({"kv_lengths": jnp.array([1, 2])}, ValueError, r"one for each example, shape \(3,\)"),
        ({"kv_lengths": jnp.ones(3)}, TypeError, "must be integers"),
        ({"causal": 1}, TypeError, "causal must be True or False or 'lower_right'"),
        ({"bias": jnp.zeros((B, B, H, T, S))}, ValueError, "leading axes may be omitted"),
        ({"q_start": jnp.zeros(2, int)}, ValueError, r"q_start has shape \(2,\)"),
        ({"q_start": jnp.zeros(())}, TypeError, "q_start must be integers"),
        (
            {"q_start": jnp.array(1), "causal": "lower_right"},
            ValueError,
            "both set the position of the first query",
        ),
        ({"sinks": jnp.zeros(K)}, ValueError, r"sinks has shape \(2,\)"),
        ({"window": -1}, ValueError, "window must be an integer that is not negative"),
        ({"window": (1, 2, 3)}, ValueError, "or a pair"),
        ({"softcap": 0.0}, ValueError, "softcap must be above 0"),
        ({"dropout_rate": 0.5}, ValueError, "dropout_rate is 0.5, which needs the argument key"),
        ({"dropout_rate": 1.0}, ValueError, "dropout_rate must be below 1"),
        ({"key": jnp.zeros(2)}, TypeError, "key must be one PRNG key"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"implementation": "flash"}, ValueError, "must be 'tiles' or 'cudnn'"),
        ({"block": 0}, ValueError, "block must be a positive integer"),
    ],
)
def test_bad_arguments_of_attention(change, error, words):
    with pytest.raises(error, match=f"attention: .*{words}"):
        attention(**dict(zip("qkv", qkv(), strict=True)) | change)


def test_multi_head_attention_has_the_gradient_of_its_definition():
    layer = MultiHeadAttention(12, 6, kv_heads=3, causal=True, rotary=True)
    params = jax.tree.map(lambda a: a + 0.1, layer.init(jax.random.key(0)))
    check(layer, params, random(1, 5, 4, 12), laws=("value", "gradient")).raise_if_failed()


def test_a_transformer_block_has_the_gradient_of_its_definition():
    block = TransformerBlock(
        6, 3, hidden=5, use_bias=False, norm=RMSNorm, activation=swiglu, dropout=0.3
    )
    params, x = block.init(jax.random.key(0)), random(1, 5, 4, 6)
    report = check(block, params, x, jax.random.key(2), laws=("value", "gradient"))
    report.raise_if_failed()
    widths = [p["w"].shape for p in params[1] if isinstance(p, dict) and "w" in p]
    assert widths == [(6, 10), (5, 6)]


def test_a_causal_block_does_not_see_what_comes_later():
    block = TransformerBlock(6, 3, causal=True, activation=jaxnn.relu)
    params, x = block.init(jax.random.key(0)), random(1, 2, 5, 6)
    apply = jax.jit(block.apply)
    y, changed = apply(params, x), apply(params, x.at[:, 3].multiply(-2.0))
    np.testing.assert_array_equal(y[:, :3], changed[:, :3])
    assert (y[:, 3:] != changed[:, 3:]).any(-1).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 0, "heads": 1}, "dim must be a positive integer"),
        ({"dim": 6, "heads": 4}, "4 heads do not divide dim 6"),
        ({"dim": 6, "heads": 3, "kv_heads": 2}, "2 kv_heads do not divide 3 heads"),
        ({"dim": 9, "heads": 3, "rotary": True}, "the size of a head, dim/heads = 3, must be even"),
    ],
)
def test_bad_sizes_of_a_layer(arguments, words):
    with pytest.raises(ValueError, match=words):
        MultiHeadAttention(**arguments)


def test_a_layer_wants_batch_time_and_dim():
    layer = MultiHeadAttention(6, 3)
    with pytest.raises(ValueError, match=r"x has shape \(5, 6\); it must be \(B, T, 6\)"):
        layer.apply(layer.init(jax.random.key(0)), jnp.ones((5, 6)))
