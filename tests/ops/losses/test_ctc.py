"""The CTC loss against enumeration and optax, at its edges, and with arguments that do not fit."""

from functools import partial
from itertools import groupby, product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.ops.losses.ctc import ctc_loss

RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(3, 4, 3)))
LABELS = jnp.array([[1, 2], [1, 1], [2, 1]])


@partial(jax.jit, static_argnums=0, static_argnames="blank_id")
def losses_and_gradient(function, logits, *args, **options):
    losses, pullback = jax.vjp(lambda logits: function(logits, *args, **options), logits)
    return losses, *pullback(jnp.ones_like(losses))


def collapsed(alignment, blank_id):
    return tuple(k for k, _ in groupby(alignment) if k != blank_id)


def by_enumeration(logits, labels, blank_id):
    """−log of the summed probability of all alignments, one by one."""
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    alignments = product(range(p.shape[-1]), repeat=len(p))
    fitting = [a for a in alignments if collapsed(a, blank_id) == tuple(labels)]
    return -np.log(sum(np.prod(p[range(len(p)), a]) for a in fitting))


@pytest.mark.parametrize(
    ("blank_id", "n_frames", "labels"),
    [(0, 4, [[1, 1], [2, 3]]), (2, 4, [[1, 1], [0, 3]]), (0, 2, [[], []]), (1, 5, [[3, 2, 3]] * 2)],
)
def test_it_is_the_sum_over_all_alignments(blank_id, n_frames, labels):
    logits = RANDOM.normal(size=(2, n_frames, 4))
    losses, _ = losses_and_gradient(ctc_loss, logits, jnp.array(labels, int), blank_id=blank_id)
    expected = [by_enumeration(*pair, blank_id) for pair in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.usefixtures("standard_promotion")
def test_it_is_the_loss_of_optax():
    logits = LOGITS.astype(jnp.float32)
    n_frames, n_labels = np.array([4, 3, 2]), np.array([2, 2, 1])
    no_frame, no_label = (
        (np.arange(n) >= lengths[:, None]).astype(np.float32)
        for n, lengths in ((4, n_frames), (2, n_labels))
    )
    theirs = jax.jit(optax.ctc_loss)(logits, no_frame, LABELS, no_label)
    mine, _ = losses_and_gradient(ctc_loss, logits, LABELS, n_frames, n_labels)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_what_is_past_the_lengths_has_no_influence():
    n_frames, n_labels = np.array([3, 4, 2]), np.array([1, 2, 0])
    labels = jnp.array([[1, -1], [1, 1], [0, 99]])
    nowhere = np.arange(4)[:, None] >= n_frames[:, None, None]
    args = labels, n_frames, n_labels
    losses, dx = losses_and_gradient(ctc_loss, LOGITS, *args)
    np.testing.assert_allclose(losses[0], by_enumeration(LOGITS[0, :3], [1], 0), rtol=1e-12)
    np.testing.assert_allclose(losses[2], by_enumeration(LOGITS[2, :2], [], 0), rtol=1e-12)
    assert not np.where(nowhere, dx, 0).any()
    elsewhere, _ = losses_and_gradient(ctc_loss, np.where(nowhere, 7.0, LOGITS), *args)
    np.testing.assert_array_equal(elsewhere, losses)


@pytest.mark.parametrize("function", [ctc_loss, ctc_loss.definition])
def test_labels_that_do_not_fit_have_an_infinite_loss_and_no_gradient(function):
    """1 1 needs a blank between: three frames."""
    n_frames = jnp.array([1, 2, 0])
    losses, dx = losses_and_gradient(function, LOGITS, LABELS, n_frames)
    assert jnp.isposinf(losses).all()
    assert not dx.any()


def test_nothing_said_in_no_time():
    loss, _ = losses_and_gradient(ctc_loss, LOGITS[0, :0], jnp.zeros(0, int))
    assert loss == 0


@pytest.mark.parametrize("function", [ctc_loss, ctc_loss.definition])
def test_a_class_that_is_masked(function):
    """A logit of −∞ for a class without a part changes nothing; for a label it excludes it."""
    masked = jnp.concatenate([LOGITS, jnp.full((3, 4, 1), -jnp.inf)], axis=-1)
    labels = jnp.array([[1, 2], [1, 1], [1, 3]])
    losses, dx = losses_and_gradient(function, masked, labels)
    expected = [by_enumeration(LOGITS[n], labels[n].tolist(), 0) for n in (0, 1)]
    np.testing.assert_allclose(losses, [*expected, np.inf], rtol=1e-12)
    assert jnp.isfinite(dx).all()
    assert dx[:2, :, :3].all()
    assert not dx[..., 3].any()
    assert not dx[2].any()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("last_logit", [0.0, 1e4, -jnp.inf])
def test_no_intermediate_result_is_infinite(compiled, last_logit):
    """With these flags JAX raises at the first NaN or infinity, eagerly in any single operation."""
    logits = jnp.full((3, 4, 4), last_logit).at[..., :3].set(LOGITS)
    lengths = jnp.array([4, 3, 4]), jnp.array([2, 1, 0])

    def direct(logits):
        y, residuals = ctc_loss.fwd(logits, LABELS, *lengths)
        return y, residuals[4:], ctc_loss.bwd(residuals, jnp.ones_like(y))[0]

    def pulled_back(logits):
        y, pullback = jax.vjp(lambda logits: ctc_loss(logits, LABELS, *lengths), logits)
        return y, *pullback(jnp.ones_like(y))

    with jax.debug_nans(True), jax.debug_infs(True):
        for function in (direct, pulled_back):
            y, *_, dx = (jax.jit(function) if compiled else function)(logits)
            assert jnp.isfinite(y).all()
            assert jnp.isfinite(dx).all()


@pytest.mark.usefixtures("unannotated")
def test_one_export_serves_every_batch_and_length():
    b, t, s = jax.export.symbolic_shape("b, t, s")
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((b, t, 3), "float64"), ((b, s), "int64"), *[((b,), "int64")] * 2)
    ]
    exported = jax.export.export(jax.jit(partial(losses_and_gradient, ctc_loss)))(*shapes)
    args = LOGITS, LABELS, jnp.array([4, 3, 4]), jnp.array([2, 1, 0])
    theirs = losses_and_gradient(ctc_loss.definition, *args)
    for mine, true in zip(exported.call(*args), theirs, strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "n_frames", "n_labels"),
    [
        ([1, 3], 4, 2),
        ([-1, 1], 4, 2),
        ([0, 1], 4, 2),
        ([1, 2], 5, 2),
        ([1, 2], -1, 2),
        ([1, 2], 4, 3),
        ([1, 2], 4, -1),
    ],
)
def test_under_jit_what_is_out_of_range_gives_nan(labels, n_frames, n_labels):
    arrays = [jnp.array(a) for a in (labels, n_frames, n_labels)]
    loss, dx = losses_and_gradient(ctc_loss, LOGITS[0], *arrays)
    assert jnp.isnan(loss)
    assert jnp.isnan(dx).all()


def test_padding_may_hold_anything():
    """A NaN in a frame of padding used to make the gradient NaN, although the loss was finite."""
    frames, lengths = np.array([3, 4, 0]), np.array([1, 2, 0])
    nowhere = (np.arange(4) >= frames[:, None])[..., None]
    labels = np.where(np.arange(2) >= lengths[:, None], [[-7, 99]], LABELS)
    clean = losses_and_gradient(ctc_loss, LOGITS, LABELS, frames, lengths)
    for garbage in (jnp.nan, jnp.inf, -jnp.inf):
        logits = jnp.where(nowhere, garbage, LOGITS)
        for function in (ctc_loss, ctc_loss.definition):
            losses, dx = losses_and_gradient(function, logits, labels, frames, lengths)
            np.testing.assert_allclose(losses, clean[0], rtol=1e-12)
            np.testing.assert_allclose(dx, clean[1], rtol=1e-9, atol=1e-15)
            assert not jnp.where(nowhere, dx, 0).any()


def test_narrow_integers_are_compared_in_full():
    """300 frames and 300 classes are beyond the range of 8 bits."""
    random = np.random.default_rng(1)
    logits = jnp.asarray(random.normal(size=(2, 300, 300)))
    arrays = np.array([[1, 44], [120, 1]]), np.array([100, 120]), np.array([2, 1])
    losses, dx = losses_and_gradient(ctc_loss.definition, logits, *arrays, blank_id=299)
    narrow = (jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32)
    for function, dtype in [*product([ctc_loss], narrow), (ctc_loss.definition, jnp.int8)]:
        given = [jnp.asarray(a, dtype) for a in arrays]
        found = losses_and_gradient(function, logits, *given, blank_id=299)
        np.testing.assert_allclose(found[0], losses, rtol=1e-12)
        np.testing.assert_allclose(found[1], dx, atol=1e-13)
    too_wide = jnp.array([[2**32 + 1, 1]] * 2)  # as 32 bits it would be 1
    assert jnp.isnan(losses_and_gradient(ctc_loss, logits, too_wide)[0]).all()


@pytest.mark.parametrize("function", [ctc_loss, ctc_loss.definition])
def test_zero_infinity_drops_what_cannot_be_aligned(function):
    labels, frames = jnp.array([[1, 2], [1, 1], [2, 1]]), jnp.array([4, 2, 3])
    dropping = partial(function, zero_infinity=True)
    losses, dx = losses_and_gradient(dropping, LOGITS, labels, frames)
    plain, plain_dx = losses_and_gradient(function, LOGITS, labels, frames)
    assert jnp.isposinf(plain).tolist() == [False, True, False]
    assert jnp.array_equal(losses, jnp.where(jnp.isposinf(plain), 0, plain))
    assert jnp.array_equal(dx, plain_dx)
    assert not dx[1].any()


def test_given_log_probabilities_the_gradient_is_minus_the_occupancy():
    """−γ by enumeration; with PyTorch's p − γ it agrees only through a log_softmax."""
    log_p = jax.nn.log_softmax(LOGITS)
    given = partial(ctc_loss, log_probabilities=True)
    losses, d_log_p = losses_and_gradient(given, log_p, LABELS)
    np.testing.assert_allclose(losses, ctc_loss(LOGITS, LABELS), rtol=1e-12)
    p = np.exp(log_p[0])
    weights = {
        a: np.prod(p[range(4), a])
        for a in product(range(3), repeat=4)
        if collapsed(a, 0) == tuple(LABELS[0].tolist())
    }
    gamma = np.zeros((4, 3))
    for alignment, weight in weights.items():
        gamma[range(4), alignment] += weight / sum(weights.values())
    np.testing.assert_allclose(d_log_p[0], -gamma, rtol=1e-11)
    through = losses_and_gradient(lambda x: given(jax.nn.log_softmax(x), LABELS), LOGITS)[1]
    of_logits = losses_and_gradient(ctc_loss, LOGITS, LABELS)[1]
    np.testing.assert_allclose(through, of_logits, atol=1e-14)
    np.testing.assert_allclose(of_logits, jnp.exp(log_p) + d_log_p, atol=1e-14)


BAD = [
    (lambda: ctc_loss(LABELS, LABELS), TypeError, "logits must be floating point"),
    (lambda: ctc_loss(LOGITS[0, 0], LABELS[0]), ValueError, "logits must be"),
    (lambda: ctc_loss(LOGITS, LOGITS[..., 0]), TypeError, "labels must be integers"),
    (lambda: ctc_loss(LOGITS, LABELS[0]), ValueError, "labels have shape"),
    (lambda: ctc_loss(LOGITS, LABELS + 1), ValueError, "label 3 is out of range"),
    (lambda: ctc_loss(LOGITS, LABELS - 1), ValueError, "which is the blank"),
    (lambda: ctc_loss(LOGITS, LABELS, jnp.ones(3)), TypeError, "logit_lengths must be integers"),
    (lambda: ctc_loss(LOGITS, LABELS, jnp.array([4])), ValueError, "one for each example"),
    (lambda: ctc_loss(LOGITS, LABELS, jnp.array([4, 5, 4])), ValueError, "logit_lengths holds 5"),
    (
        lambda: ctc_loss(LOGITS, LABELS, label_lengths=jnp.array([2, -1, 0])),
        ValueError,
        "label_lengths holds -1",
    ),
    (lambda: ctc_loss(LOGITS, LABELS, blank_id=3), ValueError, "blank_id is 3"),
    (lambda: ctc_loss(LOGITS, LABELS, zero_infinity=1), TypeError, "zero_infinity must be True or"),
    (lambda: ctc_loss(LOGITS, LABELS, blank_id=0.0), TypeError, "blank_id must be an integer"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
