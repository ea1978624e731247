"""The fused loss: what its unfused ops give, in a fraction of their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.gradcheck.memory import temporary_bytes
from jaxnn.ops.losses.linear_softmax_cross_entropy import linear_softmax_cross_entropy as fused

N, N_IN, K = 7, 5, 11
LABELS = jnp.array([0, 10, 4, 3, 10, 7, 4])
OPTIONS = {"label_smoothing": 0.1, "ignore_label": -1, "z_loss": 0.3, "softcap": 2.0}


def random(seed, *shape, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def params_and_x(dtype="float64"):
    return {"w": random(1, N_IN, K, dtype=dtype), "b": random(2, K, dtype=dtype)}, random(
        3, N, N_IN, dtype=dtype
    )


def unfused(params, x, labels, class_weights, *, z_loss, softcap, label_smoothing, ignore_label):
    """The formula, as PyTorch puts weights and smoothing together."""
    logits = softcap * jnp.tanh(jaxnn.linear(params, x) / softcap)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    t = (1 - label_smoothing) * jax.nn.one_hot(labels, K) + label_smoothing / K
    losses = jnp.sum(t * class_weights[None] * (log_total[:, None] - logits), -1)
    return jnp.where(labels == ignore_label, 0, losses + z_loss * log_total**2)


def gradients(loss, dy, params, x, labels, *weights, **options):
    """The losses, and the gradients of params, x and, where it is given, class_weights."""

    @jax.jit
    def pulled_back(dy, *variables):
        losses, pullback = jax.vjp(
            lambda params, x, *weights: loss(params, x, labels, *weights, **options), *variables
        )
        return losses, pullback(dy)

    return pulled_back(dy, params, x, *weights)


def assert_close(mine, true, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(true), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("chunk", [None, 4])
def test_all_options_together_give_what_the_unfused_ops_give(chunk):
    params, x = params_and_x()
    labels = LABELS.at[2].set(-1)
    args = random(4, N), params, x, labels, random(5, K)
    assert_close(
        gradients(fused, *args, chunk=chunk, **OPTIONS), gradients(unfused, *args, **OPTIONS)
    )


@pytest.mark.parametrize(("leading", "dtype"), [((), "int8"), ((3, 4), "uint8"), ((3, 0), "int64")])
def test_any_leading_axes_and_any_integers(leading, dtype):
    n_classes = 300  # more than int8 and uint8 can count
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 128, leading), dtype)
    params, x = {"w": random(1, N_IN, n_classes)}, random(3, *leading, N_IN)
    args = random(4, *leading), params, x, labels, random(5, n_classes)
    assert_close(gradients(fused, *args, chunk=80), gradients(fused.definition, *args))


def pushed_forward(loss, args, moving, **options):
    """The tangent for tangents of some of w, b, x and class_weights."""
    variables = [args[0]["w"], args[0]["b"], args[1], args[3]]
    dots = [random(10 + i, *a.shape) for i, a in enumerate(variables)]

    def of_moving(*moved):
        w, b, x, weights = map(dict(zip(moving, moved, strict=True)).get, range(4), variables)
        return loss({"w": w, "b": b}, x, args[2], weights, **options)

    inputs = tuple(zip(*[(variables[i], dots[i]) for i in moving], strict=True))
    return jax.jit(lambda primals, tangents: jax.jvp(of_moving, primals, tangents))(*inputs)


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (3,), (1, 2), (0, 3), (0, 1, 2, 3)])
def test_the_tangent_for_any_of_the_arguments(moving):
    args = *params_and_x(), LABELS.at[2].set(-1), random(5, K)
    assert_close(
        pushed_forward(fused, args, moving, chunk=4, **OPTIONS),
        pushed_forward(fused.definition, args, moving, **OPTIONS),
    )


def test_the_tangent_of_an_ignored_row_is_zero_and_of_a_wrong_label_nan():
    params, x = params_and_x()
    x_dot = random(4, N, N_IN).at[1].set(jnp.nan)
    labels = LABELS.at[1].set(-1).at[2].set(K)
    _, dot = jax.jit(
        lambda labels: jax.jvp(lambda x: fused(params, x, labels, ignore_label=-1), [x], [x_dot])
    )(labels)
    assert dot[1] == 0
    assert np.isnan(dot).tolist() == [row == 2 for row in range(N)]


@pytest.mark.usefixtures("unannotated")
def test_one_export_serves_every_batch():
    b, t = jax.export.symbolic_shape("b, t")
    params, _ = params_and_x()
    x, labels = random(3, 2, 3, N_IN), jnp.array([[0, 10, -1], [4, 3, 10]])

    def in_every_mode(loss):
        def run(x, labels):
            function = lambda params, x: loss(params, x, labels, **OPTIONS)  # noqa: E731
            y, pullback = jax.vjp(function, params, x)
            return y, pullback(y), jax.jvp(function, (params, x), (params, x))[1]

        return jax.jit(run)

    shapes = jax.ShapeDtypeStruct((b, t, N_IN), x.dtype), jax.ShapeDtypeStruct((b, t), labels.dtype)
    exported = jax.export.export(in_every_mode(fused))(*shapes)
    assert_close(exported.call(x, labels), in_every_mode(fused.definition)(x, labels))


def shapes(n_classes):
    shape = jax.ShapeDtypeStruct
    params = {"w": shape((16, n_classes), "float32"), "b": shape((n_classes,), "float32")}
    return params, shape((512, 16), "float32"), shape((512,), "int32")


def test_memory_of_the_tangent_does_not_grow_with_the_classes():
    def bytes_of(loss, n_classes):
        *moving, labels = shapes(n_classes)

        def push(moving, dots, labels):
            return jax.jvp(lambda params, x: loss(params, x, labels), moving, dots)

        compiled = jax.jit(push).lower(tuple(moving), tuple(moving), labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours = bytes_of(fused, 2**15)
    assert ours <= 0.2 * bytes_of(fused.definition, 2**15)
    assert bytes_of(fused, 2**16) <= 1.05 * ours


def test_memory_does_not_grow_with_the_classes():
    ours, autodiff = temporary_bytes(fused, *shapes(2**15), None)
    assert ours <= 0.2 * autodiff
    twice, _ = temporary_bytes(fused, *shapes(2**16), None)
    assert twice <= 1.05 * ours


def test_many_chunks_of_bfloat16_accumulate_in_float32():
    params = {"w": random(1, 8, 400, dtype="bfloat16")}
    labels = jnp.arange(0, 390, 130)
    args = params, random(3, 3, 8, dtype="bfloat16"), labels, None
    check(fused, *args, laws=("value", "gradient"), chunk=4).raise_if_failed()


@pytest.mark.parametrize(("gap", "offset"), [(5.0, 1e7), (20.0, 0.0), (80.0, 1e7)])
def test_confidence_loses_no_digits_and_an_offset_changes_nothing(gap, offset):
    """The loss −log p and its gradient p − 1 keep their relative accuracy when p → 1."""
    params = {"w": jnp.zeros((1, 4), jnp.float32), "b": jnp.array([0, 0, gap, 0], jnp.float32)}
    params["b"] = params["b"] + jnp.float32(offset)
    rest = 3 * np.exp(-np.float64(gap))
    x, dy = jnp.zeros((1, 1), jnp.float32), jnp.ones(1, jnp.float32)
    loss, (dparams, _) = gradients(fused, dy, params, x, jnp.array([2]), chunk=3)
    np.testing.assert_allclose(loss, [np.log1p(rest)], rtol=1e-6)
    np.testing.assert_allclose(dparams["b"][2], -rest / (1 + rest), rtol=1e-6)


def test_the_value_and_the_gradient_can_be_differentiated_together():
    params, x = params_and_x()
    labels = jnp.argmax(jaxnn.linear(params, x), axis=-1)  # at the maximum and elsewhere
    labels = labels.at[0].set((labels[0] + 1) % K)

    def penalised(loss):
        def total(x):
            value, dx = jax.value_and_grad(lambda x: loss(params, x, labels, chunk=4).sum())(x)
            return value + jnp.sum(dx**2)

        return jax.jit(jax.grad(total))(x)

    assert_close(penalised(fused), penalised(fused.definition))


def test_ignored_rows_have_no_loss_and_no_gradient_whatever_they_hold():
    params, x = params_and_x()
    x = x.at[1].set(jnp.nan)
    labels = LABELS.at[1].set(-1)
    dy = random(4, N)
    losses, (dparams, dx) = gradients(fused, dy, params, x, labels, ignore_label=-1)
    assert losses[1] == 0
    assert (dx[1] == 0).all()
    kept = jnp.array([0, 2, 3, 4, 5, 6])
    without = gradients(fused, dy[kept], params, x[kept], labels[kept])
    assert_close((losses[kept], (dparams, dx[kept])), without)


def test_huge_logits_with_smoothing():
    """It was NaN: the least finite number, where the maximum starts, minus 1e32 overflowed."""
    w, x, labels = jnp.array([[1e32, 0, -1e32]], jnp.float32), jnp.ones((1, 1), jnp.float32), [0]
    for chunk in (None, 2):
        loss = fused({"w": w}, x, jnp.array(labels), label_smoothing=0.1, chunk=chunk)
        np.testing.assert_allclose(loss, [1e31], rtol=1e-6)


@pytest.mark.parametrize("loss", [fused, fused.definition], ids=["op", "definition"])
def test_the_gradient_of_weights_is_finite_where_an_excluded_class_weighs_nothing(loss):
    """The gradient was NaN, and so was the loss: 0·∞."""
    params = {"w": jnp.zeros((1, 3)), "b": jnp.array([0.0, -jnp.inf, 1.0])}
    args = params, jnp.ones((2, 1)), jnp.array([0, 2])
    run = jax.value_and_grad(lambda v: loss(*args, v, label_smoothing=0.3).sum())
    value, dv = run(jnp.array([1.0, 0.0, 2.0]))
    of_0, of_2 = np.log1p(np.exp(1.0)), np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(
        dv, [0.8 * of_0 + 0.1 * of_0, 0, 0.8 * of_2 + 0.1 * of_2], rtol=1e-12
    )
    np.testing.assert_allclose(value, dv @ jnp.array([1.0, 0.0, 2.0]), rtol=1e-12)


def test_nothing_but_minus_infinity():
    """Such a row has p = 0: an infinite loss, and no gradient; 0 if its class weighs nothing."""
    params = {"w": jnp.ones((1, 3)), "b": jnp.full(3, -jnp.inf)}
    args = params, jnp.ones((1, 1)), jnp.array([1])
    assert fused(*args) == jnp.inf
    assert not jax.grad(lambda x: fused(params, x, args[2]).sum())(args[1]).any()
    value, dv = jax.value_and_grad(lambda v: fused(*args, v, z_loss=1.0).sum())(jnp.zeros(3))
    assert value == 0
    assert not dv.any()


def test_a_class_with_logit_minus_infinity_takes_no_part():
    params, x = params_and_x()
    excluded = [0, 1, 2, 5]  # a whole chunk of them
    masked = params | {"b": params["b"].at[jnp.array(excluded)].set(-jnp.inf)}
    labels = jnp.full(N, 3)
    left = jnp.array([3, 4, *range(6, K)])
    smaller = {"w": params["w"][:, left], "b": params["b"][left]}
    losses, (dparams, dx) = gradients(fused, random(4, N), masked, x, labels, chunk=3)
    true_losses, (true, true_dx) = gradients(fused, random(4, N), smaller, x, jnp.zeros(N, int))
    assert_close((losses, dparams["b"][left], dx), (true_losses, true["b"], true_dx))
    assert (dparams["w"][:, jnp.array(excluded)] == 0).all()


@pytest.mark.parametrize("wrong", [-1, K])
def test_a_label_out_of_range_is_refused_or_under_jit_nan(wrong):
    params, x = params_and_x()
    labels = LABELS.at[2].set(wrong)
    with pytest.raises(ValueError, match=rf"linear_softmax_cross_entropy: label {wrong} is out"):
        fused(params, x, labels)
    losses, (_, dx) = jax.jit(
        lambda labels: gradients(fused, jnp.ones(N), params, x, labels, chunk=4)
    )(labels)
    assert np.isnan(losses).tolist() == [row == 2 for row in range(N)]
    assert jnp.isnan(dx[2]).all()
    assert not jnp.isnan(dx[3]).any()


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"x": jnp.ones((N, 4))}, {}, "last axis of x must be 5"),
        ({"labels": jnp.ones(N)}, {}, r"labels must be integers, got float64\[7\]"),
        ({"labels": LABELS[:3]}, {}, r"labels have shape \(3,\)"),
        ({"params": {"w": jnp.ones((N_IN, 0))}}, {}, "with no class"),
        ({"class_weights": jnp.ones(3)}, {}, r"class_weights has shape \(3,\).*\(11,\)"),
        ({}, {"label_smoothing": 1.5}, "label_smoothing must be at least 0 and at most 1"),
        ({}, {"z_loss": -1.0}, "z_loss must be at least 0"),
        ({}, {"softcap": 0.0}, "softcap must be above 0"),
        ({}, {"ignore_label": 1.0}, "ignore_label must be an integer"),
        ({}, {"chunk": 0}, "chunk must be a positive integer"),
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_bad_input_is_told_in_words(change, options, words):
    params, x = params_and_x()
    with pytest.raises((TypeError, ValueError), match=f"linear_softmax_cross_entropy: .*{words}"):
        fused(**{"params": params, "x": x, "labels": LABELS} | change, **options)
