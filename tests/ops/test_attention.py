"""Attention, rotary positions and the layers made of them, beyond what the battery covers."""

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
from jaxnn.ops.rotary import rotary_embedding

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
        lambda *a: attention(*a, mask, *lengths, causal=True, scale=0.7, block=3), arguments
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
@pytest.mark.parametrize("shape", [None, "t", "b, t"])
def test_one_export_of_rotary_serves_every_batch_and_length(shape):
    scope = jax.export.SymbolicScope()
    symbolic = {"x": jax.export.symbolic_shape("b, t, 6, 4", scope=scope)}
    positions = jnp.array([[3, 0, -7], [9, 9, 1]])
    if shape is not None:
        symbolic["positions"] = jax.export.symbolic_shape(shape, scope=scope)
    shapes = [
        jax.ShapeDtypeStruct(size, jnp.float64 if name == "x" else positions.dtype)
        for name, size in symbolic.items()
    ]
    given = [] if shape is None else [positions if shape == "b, t" else positions[0]]

    def of_x(function):
        return lambda x, *rest: in_every_mode(lambda x: function(x, *rest))(x)

    x = random(1, 2, 3, H, D)
    exported = jax.export.export(jax.jit(of_x(rotary_embedding)))(*shapes)
    assert_close(exported.call(x, *given), of_x(rotary_embedding.definition)(x, *given))


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"q": jnp.zeros((T, H, D))}, ValueError, "q must be"),
        ({"q": jnp.zeros((B, T, 5, D))}, ValueError, "k has 2 heads, which do not divide the 5"),
        ({"q": jnp.zeros((B, T, H, 3))}, ValueError, "components"),
        ({"v": jnp.zeros((B, S, K, 3))}, ValueError, "v has shape"),
        ({"k": jnp.zeros((B, S, K, D), jnp.float32)}, TypeError, "convert them to one dtype"),
        ({"bias": jnp.zeros((B, H, S, T))}, ValueError, "bias has shape"),
        ({"mask": jnp.zeros((1, 1, T, S))}, TypeError, "mask must be boolean"),
        ({"q_lengths": jnp.array([1, 2, 8])}, ValueError, "q_lengths holds 8, .* 0 … 7"),
        ({"kv_lengths": jnp.array([1, -2, 8])}, ValueError, "kv_lengths holds -2, .* 0 … 8"),
        ({"kv_lengths": jnp.array([1, 2])}, ValueError, r"one for each example, shape \(3,\)"),
        ({"kv_lengths": jnp.ones(3)}, TypeError, "must be integers"),
        ({"causal": 1}, TypeError, "causal must be True or False"),
        ({"scale": "1"}, TypeError, "scale must be a number"),
        ({"block": 0}, ValueError, "block must be a positive integer"),
    ],
)
def test_bad_arguments_of_attention(change, error, words):
    with pytest.raises(error, match=f"attention: .*{words}"):
        attention(**dict(zip("qkv", qkv(), strict=True)) | change)


def test_rotary_multiplies_complex_numbers():
    x, positions = random(1, 2, 3, 1, 6), jnp.array([[0, 5, 2], [7, 1, 1]])
    y = rotary_embedding(x, positions, base=100.0)
    angle = np.asarray(positions)[..., None, None] * 100.0 ** (-np.arange(3) / 3)
    turned = (np.asarray(x[..., :3]) + 1j * np.asarray(x[..., 3:])) * np.exp(1j * angle)
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], -1), rtol=1e-12)


def test_rotary_makes_products_depend_on_the_distance():
    q, k = random(1, 1, 1, 1, 6), random(2, 1, 1, 1, 6)
    products = [
        jnp.vdot(rotary_embedding(q, jnp.array([t])), rotary_embedding(k, jnp.array([t - 3])))
        for t in (3, 50)
    ]
    np.testing.assert_allclose(*products, rtol=1e-12)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([jnp.zeros((2, 3, 1, 5))], ValueError, "the last axis must be even"),
        ([jnp.zeros((2, 3, 4))], ValueError, "x must be"),
        ([jnp.zeros((2, 3, 1, 4)), jnp.zeros(3)], TypeError, "positions must be integers"),
        ([jnp.zeros((2, 3, 1, 4)), jnp.zeros(2, int)], ValueError, "positions has shape"),
    ],
)
def test_bad_arguments_of_rotary(arguments, error, words):
    with pytest.raises(error, match=f"rotary_embedding: .*{words}"):
        rotary_embedding(*arguments)


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
