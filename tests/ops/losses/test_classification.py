"""Classification losses as people use them: weights, masks, ignored rows, any integers, any axis.

The truth is the formula in NumPy's or JAX's float64, written here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn.ops.losses.classification import multiclass_hinge, negative_log_likelihood
from jaxnn.ops.losses.contrastive import info_nce, nt_xent
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    sigmoid_cross_entropy,
)
from jaxnn.ops.losses.divergences import jensen_shannon, kl_divergence
from jaxnn.ops.losses.focal import focal_loss
from jaxnn.ops.losses.linear_softmax_cross_entropy import linear_softmax_cross_entropy
from jaxnn.ops.losses.poly import poly_loss
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy
from jaxnn.ops.losses.sparsemax import sparsemax_loss

RANDOM = np.random.default_rng(0)
N, K = 5, 4
LOGITS = jnp.asarray(RANDOM.normal(size=(N, K)))
SHARES = jnp.asarray(RANDOM.dirichlet(np.ones(K), size=N))
WEIGHTS = jnp.array([0.5, 2.0, 0.0, 1.5])
LABELS = jnp.array([0, 3, 1, 2, 1])
BOTH = pytest.mark.parametrize(
    "function", [lambda op: op, lambda op: op.definition], ids=["op", "definition"]
)


def evaluated(function, *args):
    """One program, compiled with little optimization."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*args).compile(quick)(*args)


def differentiated(loss, argnums=0):
    return jax.value_and_grad(lambda *args: jnp.sum(loss(*args)), argnums)


def value_and_gradients(loss, *args, argnums=0):
    return evaluated(differentiated(loss, argnums), *args)


def torch_cross_entropy(logits, t, weights, smoothing):
    """−Σₖ vₖ·((1 − s)·tₖ + s/K)·log pₖ, as `torch.nn.functional.cross_entropy` documents it."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -(weights * ((1 - smoothing) * t + smoothing / t.shape[-1]) * log_p).sum(-1)


def test_class_weights_and_smoothing_are_those_of_pytorch():
    """`torch.nn.functional.cross_entropy(weight=, label_smoothing=, reduction="none")`."""
    identity = np.eye(K)[np.asarray(LABELS)]
    targets = [
        (LABELS, identity),
        (SHARES, np.asarray(SHARES)),
        (jnp.asarray(identity > 0), identity),
    ]

    def every_loss(logits):
        log_p, params = jaxnn.log_softmax(logits), {"w": jnp.eye(K)}
        fused = linear_softmax_cross_entropy.bind(label_smoothing=0.3, chunk=3)
        smoothed = softmax_cross_entropy.bind(label_smoothing=0.3)
        return [fused(params, logits, LABELS, WEIGHTS)], [
            (
                smoothed(logits, target, WEIGHTS),
                softmax_cross_entropy(logits, target, WEIGHTS),
                negative_log_likelihood(log_p, target, WEIGHTS),
            )
            for target, _ in targets
        ]

    (fused,), found = evaluated(every_loss, LOGITS)
    np.testing.assert_allclose(fused, found[0][0], rtol=1e-12)
    for (_, t), (smoothed, plain, likelihood) in zip(targets, found, strict=True):
        expected = [
            torch_cross_entropy(np.asarray(LOGITS), t, np.asarray(WEIGHTS), s) for s in (0.3, 0)
        ]
        np.testing.assert_allclose(smoothed, expected[0], rtol=1e-12)
        np.testing.assert_allclose(plain, expected[1], rtol=1e-12)
        np.testing.assert_allclose(likelihood, expected[1], rtol=1e-12)


@BOTH
@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_several_axes_and_masks_are_those_of_optax(function, kind):
    logits = jnp.asarray(RANDOM.normal(size=(2, 3, 4, 5)))
    axes, where = (3, 1), jnp.asarray(RANDOM.random((2, 3, 4, 5)) > 0.4).at[:, 0, :, 0].set(True)
    if kind == "labels":
        target = jnp.zeros((2, 4), int).at[0, 1].set(7)  # 7 in (5, 3) is (2, 1)
        where = where.at[:, 1, :, 2].set(True)
        twin = optax.losses.softmax_cross_entropy_with_integer_labels
    else:
        target, twin = jnp.asarray(RANDOM.random(logits.shape)), optax.losses.softmax_cross_entropy
    loss = function(softmax_cross_entropy.bind(axis=axes))

    def every_loss(x):
        losses = [
            lambda x: loss(x, target),
            lambda x: twin(x, target, axis=axes),
            lambda x: loss(x, target, None, where),
            lambda x: twin(x, target, axis=axes, where=where),
        ]
        return [differentiated(loss)(x) for loss in losses]

    plain, true, masked, true_masked = evaluated(every_loss, logits)
    for mine, theirs in ((plain, true), (masked, true_masked)):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_segmentation_loss_is_that_of_each_pixel():
    logits = jnp.asarray(RANDOM.normal(size=(2, K, 3, 5)))
    labels = jnp.asarray(RANDOM.integers(0, K, (2, 3, 5))).at[0, 1].set(-100)
    loss = softmax_cross_entropy.bind(ignore_label=-100, label_smoothing=0.1)
    mask = jnp.asarray(RANDOM.random((2, 3, 5)) > 0.5)

    def every_loss(logits):
        return (
            loss(logits, labels, WEIGHTS, axis=1),
            loss(jnp.moveaxis(logits, 1, -1), labels, WEIGHTS),
            loss(logits, labels, WEIGHTS, mask, axis=1),
        )

    found, last, rows = evaluated(every_loss, logits)
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(found, last, rtol=1e-12)
    np.testing.assert_allclose(rows, jnp.where(mask, found, 0), rtol=1e-12)


@BOTH
@pytest.mark.parametrize("target", [jnp.array([1, 0]), jnp.array([[0.0, 0.5, 0.5], [0.5, 0, 0.5]])])
def test_dropped_classes_may_hold_anything(function, target):
    """What `where` drops takes no part: the rest is the loss without these classes."""
    where = jnp.array([[False, True, True], [True, False, True]])
    hidden = jnp.array([[jnp.nan, 1.0, 2.0], [0.5, jnp.inf, -1.0]])
    shown = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    small = jnp.array([0, 0]) if target.ndim == 1 else jnp.full((2, 2), 0.5)
    options = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 3.0}
    loss = function(softmax_cross_entropy.bind(**options))
    value, dx = value_and_gradients(lambda x: loss(x, target, None, where), hidden)
    expected, d = value_and_gradients(lambda x: softmax_cross_entropy(x, small, **options), shown)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(dx, [[0, *d[0]], [d[1, 0], 0, d[1, 1]]], rtol=1e-12)


@BOTH
def test_a_row_without_any_class_has_no_loss_and_no_gradient(function):
    """Nothing but −∞, and no share, was NaN; so was softmax of it, and of an empty axis."""
    empty, nothing = jnp.full((2, 3), -jnp.inf), jnp.zeros((2, 3), bool)
    labels = jnp.array([0, 1])
    loss, softmax = (function(op) for op in (softmax_cross_entropy, jaxnn.softmax))
    logarithms = [function(op) for op in (jaxnn.log_softmax, jaxnn.logsumexp)]

    def run(empty, shares, hidden):
        dropped = lambda x: loss(x, labels, None, nothing, z_loss=1.0)  # noqa: E731
        in_no_class = [jax.vjp(op, empty) for op in logarithms]
        return (
            [
                differentiated(loss, (0, 1))(empty, shares),
                differentiated(dropped)(hidden),
                differentiated(softmax)(empty),
            ],
            loss(empty, labels),
            [(y, pullback(jnp.ones_like(y))) for y, pullback in in_no_class],
        )

    zeros, of_label, infinite = evaluated(run, empty, jnp.zeros((2, 3)), empty * jnp.nan)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))
    assert (of_label == jnp.inf).all()
    for y, (dx,) in infinite:
        assert jnp.isneginf(y).all()
        assert not dx.any()
    for op in (softmax, *logarithms):
        assert (op(jnp.zeros((2, 0))) == -jnp.inf).all()


@pytest.mark.parametrize("op", [jaxnn.softmax, jaxnn.log_softmax, jaxnn.logsumexp], ids=str)
def test_masked_softmax_is_that_of_jax(op):
    """The same values, and a gradient of exactly 0 at NaN, ∞ and where dy is NaN."""
    x, where = jnp.asarray(RANDOM.normal(size=(3, 4))), jnp.asarray(RANDOM.random((3, 4)) > 0.3)
    theirs = getattr(jax.nn, op.__name__)
    hidden = jnp.where(where, x, jnp.array([[jnp.nan, jnp.inf, -jnp.inf, jnp.nan]]))

    def run(x, hidden):
        y, pullback = jax.vjp(lambda x: op(x, where), hidden)
        dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        if y.shape == x.shape:
            dy = jnp.where(where, dy, jnp.nan)
        true_y, true_pullback = jax.vjp(lambda x: theirs(x, axis=-1, where=where), x)
        true_dy = jnp.where(jnp.isnan(dy), 0, dy)
        both = op(x, where, axis=(0, 1)), theirs(x, where=where, axis=(0, 1))
        return (y, true_y), both, (pullback(dy)[0], true_pullback(true_dy)[0])

    *values, (dx, true_dx) = evaluated(run, x, hidden)
    for y, true in values:
        np.testing.assert_allclose(y, true, rtol=1e-12)
    np.testing.assert_allclose(dx[where], true_dx[where], rtol=1e-9, atol=1e-12)
    assert (dx[~where] == 0).all()


NARROW = [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32]


def test_labels_of_any_integer_dtype():
    """More classes than the dtype counts, and −1, which is 255 as a uint8."""
    scores = jnp.asarray(RANDOM.random(size=(2, 300)))
    last = jnp.array([jnp.iinfo(jnp.uint32).max, 3], jnp.uint32)  # out of range, and not −1
    ignoring = [
        loss.bind(ignore_label=-1)
        for loss in (softmax_cross_entropy, negative_log_likelihood, cross_entropy)
    ]
    definitions = [loss.definition for loss in ignoring]

    def run(scores, *labels):
        return [
            [differentiated(lambda x, t=t, loss=loss: loss(x, t))(scores) for t in labels]
            for loss in (*ignoring, *definitions, multiclass_hinge, sparsemax_loss, poly_loss)
        ]

    labels = [jnp.array([127, 3], dtype) for dtype in (int, *NARROW)]
    for expected, *found, (of_last, _) in evaluated(run, scores, *labels, last):
        for mine in found:
            for a, b in zip(mine, expected, strict=True):
                np.testing.assert_array_equal(a, b)
        assert jnp.isnan(of_last)


@BOTH
def test_ignored_rows_may_hold_anything(function):
    rest, labels = jnp.array([0, 2, 3, 4]), LABELS.at[1].set(7)
    softmax = softmax_cross_entropy.bind(label_smoothing=0.1, z_loss=0.2, softcap=2.0)
    losses = [
        function(op.bind(ignore_label=7))
        for op in (softmax, negative_log_likelihood, cross_entropy)
    ]

    def run(x, labels, weights):
        given = [(x, labels, weights), (x, labels, weights), (x, labels)]
        return [
            differentiated(loss, (0, 2)[: len(args) - 1])(*args)
            for loss, args in zip(losses, given, strict=True)
        ]

    found = evaluated(run, SHARES.at[1].set(jnp.nan), labels, WEIGHTS)
    expected = evaluated(run, SHARES[rest], labels[rest], WEIGHTS)
    for (value, (dx, *dweights)), (true, (true_dx, *true_dweights)) in zip(
        found, expected, strict=True
    ):
        np.testing.assert_allclose(value, true, rtol=1e-12)
        np.testing.assert_allclose(dx[rest], true_dx, rtol=1e-12)
        assert not dx[1].any()
        for a, b in zip(dweights, true_dweights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_options_that_vanish_in_float32():
    labels, params = jnp.array([0]), {"w": jnp.eye(3, dtype=jnp.float32)}
    losses = [
        lambda x: softmax_cross_entropy(x, labels, softcap=1e-50),
        lambda x: linear_softmax_cross_entropy(params, x, labels, softcap=1e-50),
        lambda x: softmax_cross_entropy(x, labels, label_smoothing=1e-50, z_loss=1e-50),
        lambda x: info_nce(x, x, temperature=1e-50),
        lambda x: nt_xent(x, x, temperature=1e-50),
    ]
    x = jnp.array([[0.0, 1.0, -2.0]], jnp.float32)
    found = evaluated(lambda x: [differentiated(loss)(x) for loss in losses], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_softcap_far_away_has_a_slope():
    """1 − tanh²(10) = 8.2e-9, where tanh(10) is 1 in float32."""
    logits = jnp.array([[10.0, 0.0]], jnp.float32)
    slope = np.exp(-1.0) / (1 + np.exp(-1.0)) / np.cosh(10.0) ** 2
    for loss in (
        softmax_cross_entropy.bind(softcap=1.0),
        lambda x, t, **o: linear_softmax_cross_entropy(
            {"w": jnp.eye(2, dtype=jnp.float32)}, x, t, softcap=1.0
        ),
    ):
        _, dx = value_and_gradients(lambda x, loss=loss: loss(x, jnp.array([0])), logits)
        np.testing.assert_allclose(dx[0, 0], -slope, rtol=1e-5)


def test_row_weights_are_the_divisor_of_pytorch():
    labels = LABELS.at[1].set(-1)
    for op, prediction in (
        (softmax_cross_entropy, LOGITS),
        (negative_log_likelihood, LOGITS),
        (cross_entropy, SHARES),
    ):
        rule = op.rules.row_weights
        assert rule(prediction, labels, ignore_label=-1).tolist() == [1, 0, 1, 1, 1]
        assert rule(prediction, SHARES).tolist() == [1] * N
        if op is not cross_entropy:
            found = rule(prediction, labels, WEIGHTS, ignore_label=-1)
            assert found.tolist() == [0.5, 0, 2, 0, 2]
            assert rule(prediction, SHARES, WEIGHTS).tolist() == [1] * N
    rule = linear_softmax_cross_entropy.rules.row_weights
    found = rule({"w": jnp.eye(K)}, LOGITS, labels, WEIGHTS, ignore_label=-1, chunk=3)
    assert found.tolist() == [0.5, 0, 2, 0, 2]
    pixels = softmax_cross_entropy.rules.row_weights(
        LOGITS.T, labels, None, jnp.array([True] * 4 + [False]), axis=0, ignore_label=-1
    )
    assert pixels.tolist() == [1, 0, 1, 1, 0]


YES_OR_NO = jnp.asarray(RANDOM.integers(0, 2, (N, K)))


@pytest.mark.parametrize("loss", [binary_cross_entropy, sigmoid_cross_entropy, focal_loss], ids=str)
@BOTH
def test_answers_may_be_integers_or_booleans(loss, function):
    """The same loss and gradient as with numbers, and no gradient of the answers."""

    def run(x):
        dtypes = (x.dtype, bool, jnp.int8, jnp.uint32)
        return [differentiated(function(loss))(x, YES_OR_NO.astype(dtype)) for dtype in dtypes]

    expected, *found = evaluated(run, SHARES)
    for mine in found:
        for a, b in zip(mine, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)

    def gradients(x):
        value, residuals = loss.fwd(x, YES_OR_NO)
        return loss.bwd(residuals, value)

    assert jax.eval_shape(gradients, SHARES)[1] is None


@BOTH
@pytest.mark.parametrize("shape", [(), (K,), (1,), (N, 1)])
def test_the_weight_of_a_yes_is_that_of_pytorch(function, shape):
    """−w·t·log σ(x) − (1 − t)·log σ(−x), as `torch.nn.BCEWithLogitsLoss(pos_weight=)`."""
    weight, x, t = jnp.asarray(RANDOM.random(shape)), np.asarray(LOGITS), np.asarray(SHARES)
    loss = lambda x, t, w: function(sigmoid_cross_entropy)(x, t, w)  # noqa: E731
    value, (dx, dt, dw) = value_and_gradients(loss, LOGITS, SHARES, weight, argnums=(0, 1, 2))
    p, w = 1 / (1 + np.exp(-x)), np.broadcast_to(weight, x.shape)
    of_yes, of_no = -np.log(p), -np.log(1 - p)
    np.testing.assert_allclose(value, (w * t * of_yes + (1 - t) * of_no).sum(), rtol=1e-12)
    np.testing.assert_allclose(dx, -w * t * (1 - p) + (1 - t) * p, rtol=1e-12)
    np.testing.assert_allclose(dt, w * of_yes - of_no, rtol=1e-12, atol=1e-14)
    summed = jax.vjp(lambda w: jnp.broadcast_to(w, x.shape), weight)[1](jnp.asarray(t * of_yes))
    np.testing.assert_allclose(dw, *summed, rtol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_all_rivals_are_the_sum_that_pytorch_divides_by_the_classes(power):
    """`torch.nn.functional.multi_margin_loss(p=, margin=, reduction="none")` times K."""
    x, expected = np.asarray(LOGITS), []
    for row, c in zip(x, np.asarray(LABELS), strict=True):
        missing = [max(0, 0.5 + row[k] - row[c]) ** power for k in range(K) if k != c]
        expected.append(sum(missing))
    hinge = multiclass_hinge.bind(margin=0.5, rivals="all", power=power)
    found = evaluated(hinge, LOGITS, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_kl_of_logarithms_is_that_of_optax_and_of_the_probabilities():
    def run(logits, t):
        log_p, log_t = jaxnn.log_softmax(logits), jnp.log(t)
        twin = optax.losses.kl_divergence_with_log_targets(log_p, log_t)
        return kl_divergence(log_p, log_t, log_target=True), kl_divergence(log_p, t), twin

    found, plain, twin = evaluated(run, LOGITS, SHARES)
    np.testing.assert_allclose(found, plain, rtol=1e-10)
    np.testing.assert_allclose(found, twin, rtol=1e-12)
    none = jnp.array([[0.0, -jnp.inf]])
    for function in (kl_divergence, kl_divergence.definition):
        run = lambda a, b, f=function: f(a, b, log_target=True)  # noqa: E731
        value, gradients = value_and_gradients(run, none, none, argnums=(0, 1))
        assert value == 0
        assert jnp.concatenate(gradients).tolist() == [[-1, 0], [1, 0]]


def test_jensen_shannon_by_hand_and_near_equality():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.0, 0.5])
    m = (p + q) / 2
    with np.errstate(divide="ignore"):
        found = jensen_shannon(jnp.log(jnp.array([p])), jnp.log(jnp.array([q])))
    expected = 0.5 * (0.5 * np.log(0.5 / m[1]) + 0.5 * np.log(0.5 / m[2]))
    np.testing.assert_allclose(found, [expected], rtol=1e-12)
    for step in (1e-3, 1e-2, 0.3):  # Σ p·δ²/8, to the second order
        a = jnp.log(jnp.array([[0.25, 0.75]], jnp.float32))
        b = a + jnp.array([[step, -step / 3]], jnp.float32)
        d = np.asarray(b, float) - np.asarray(a, float)
        exact = np.exp(np.asarray(a, float)) * np.stack([np.ones(2), np.exp(d[0])])
        m = exact.mean(0)
        true = 0.5 * (exact * np.log(exact / m)).sum()
        np.testing.assert_allclose(jensen_shannon(a, b), [true], rtol=1e-4)


@pytest.mark.usefixtures("standard_promotion")
@BOTH
def test_sparsemax_is_a_projection_and_its_loss_that_of_optax(function):
    rows = jnp.array([[-jnp.inf, 1.0, 1.2], [-jnp.inf] * 3, [1.0, jnp.nan, 0.0]])
    loss, sparsemax = function(sparsemax_loss), function(jaxnn.sparsemax)

    def run(x, rows):
        losses, pullback = jax.vjp(lambda z: loss(z, LABELS), x)
        twin = optax.losses.multiclass_sparsemax_loss(x, LABELS)
        return sparsemax(x), sparsemax(rows), losses, twin, *pullback(jnp.ones(N))

    p, of_rows, losses, twin, dz = map(np.asarray, evaluated(run, LOGITS, rows))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    for row, x in zip(p, np.asarray(LOGITS), strict=True):  # the optimality conditions
        threshold = (x - row)[row > 0]
        np.testing.assert_allclose(threshold, threshold[0], rtol=1e-12)
        assert (x[row == 0] <= threshold[0]).all()
    np.testing.assert_allclose(losses, twin, rtol=1e-9)
    np.testing.assert_allclose(dz, p - np.eye(K)[np.asarray(LABELS)], atol=1e-12)
    np.testing.assert_allclose(of_rows[:2], [[0, 0.4, 0.6], [0] * 3], rtol=1e-12)
    assert np.isnan(of_rows[2]).all()


def test_a_nearly_certain_sparsemax_loses_no_digits():
    """p = (1 − δ/2, δ/2) at the logits 0 and δ − 1: the loss is δ²/4, its gradient ∓δ/2."""
    edge = jnp.array([[0.0, np.float32(1e-4) - 1]], jnp.float32)
    delta = float(edge[0, 1]) + 1
    value, dz = value_and_gradients(lambda z: sparsemax_loss(z, jnp.array([0])), edge)
    np.testing.assert_allclose(value, delta**2 / 4, rtol=1e-5)
    np.testing.assert_allclose(dz, [[-delta / 2, delta / 2]], rtol=1e-5)


@pytest.mark.parametrize("target", [LABELS, SHARES], ids=["labels", "shares"])
def test_poly_loss_is_that_of_optax(target):
    t = SHARES if target is SHARES else jax.nn.one_hot(LABELS, K, dtype=SHARES.dtype)
    twin = evaluated(lambda x: optax.losses.poly_loss_cross_entropy(x, t, epsilon=0.7), LOGITS)
    found = evaluated(poly_loss.bind(epsilon=0.7), LOGITS, target)
    np.testing.assert_allclose(found, twin, rtol=1e-12)


@BOTH
def test_contrastive_losses_by_a_loop(function):
    a, b = np.asarray(LOGITS), RANDOM.normal(size=(N, K))
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    found = evaluated(function(info_nce.bind(temperature=0.2)), LOGITS, jnp.asarray(b))
    expected = []
    for i in range(N):
        similar = [np.exp(u[i] @ v[j] / 0.2) for j in range(N)]
        expected.append(-np.log(similar[i] / sum(similar)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    views, of_views = np.concatenate([u, v]), []
    for i in range(2 * N):
        similar = [np.exp(views[i] @ views[j] / 0.2) for j in range(2 * N)]
        of_views.append(-np.log(similar[(i + N) % (2 * N)] / (sum(similar) - similar[i])))
    found = evaluated(function(nt_xent.bind(temperature=0.2)), LOGITS, jnp.asarray(b))
    np.testing.assert_allclose(found, np.reshape(of_views, (2, N)).mean(0), rtol=1e-12)


BAD = [
    (lambda: softmax_cross_entropy(LOGITS, LABELS, WEIGHTS[:3]), ValueError, "with 4 classes it"),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, None, WEIGHTS > 1), ValueError, "as many axes"),
    (
        lambda: softmax_cross_entropy(LOGITS, LABELS, None, LOGITS),
        TypeError,
        "where must hold bool",
    ),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, axis=2), ValueError, "option axis is 2"),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, axis=(1, -1)), ValueError, "twice"),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, axis=0), ValueError, r"shape \(4,\)"),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, softcap=0.0), ValueError, "softcap must be"),
    (lambda: softmax_cross_entropy(LOGITS, LABELS, z_loss=-1.0), ValueError, "z_loss must be"),
    (
        lambda: negative_log_likelihood(LOGITS, LABELS, LABELS),
        TypeError,
        "class_weights must be fl",
    ),
    (lambda: sigmoid_cross_entropy(LOGITS, SHARES, WEIGHTS[:3]), ValueError, "does not broadcast"),
    (lambda: multiclass_hinge(LOGITS, LABELS, rivals="some"), ValueError, "rivals must be"),
    (lambda: multiclass_hinge(LOGITS, LABELS, power=3), ValueError, "power must be 1 or 2"),
    (lambda: jaxnn.softmax(LOGITS, LOGITS > 0, axis=(0, 0)), ValueError, "twice"),
    (lambda: jaxnn.softmax(LOGITS, SHARES), TypeError, "where must hold booleans"),
    (lambda: jaxnn.logsumexp(LOGITS, WEIGHTS[:3] > 1), ValueError, "does not broadcast"),
    (lambda: info_nce(LOGITS, SHARES, temperature=0.0), ValueError, "temperature must be above 0"),
    (lambda: nt_xent(LOGITS, SHARES[:2]), ValueError, "nothing is broadcast"),
    (lambda: info_nce(LOGITS[None], SHARES[None]), ValueError, "must be .examples, components."),
]


@pytest.mark.usefixtures("unannotated")
def test_bad_input_is_refused_in_words():
    for call, error, words in BAD:
        with pytest.raises(error, match=words):
            call()
