"""Rotary positions, beyond what the battery covers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.ops.rotary import rotary_embedding

H, D = 6, 4


def random(seed, *shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def in_every_mode(function):
    """`(x) ->` the value, the gradient and a tangent."""

    def run(x):
        y, pullback = jax.vjp(function, x)
        return y, *pullback(y), jax.jvp(function, (x,), (x,))[1]

    return jax.jit(run)


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
    found = exported.call(x, *given)
    for a, b in zip(found, of_x(rotary_embedding.definition)(x, *given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


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
        ([jnp.zeros((2, 3, 1, 4)), jnp.zeros(3, bool)], TypeError, "positions must be integers or"),
        ([jnp.zeros((2, 3, 1, 4)), jnp.zeros(2, int)], ValueError, "positions has shape"),
    ],
)
def test_bad_arguments_of_rotary(arguments, error, words):
    with pytest.raises(error, match=f"rotary_embedding: .*{words}"):
        rotary_embedding(*arguments)


def test_neighbours_are_pairs_when_interleaved():
    x, half = random(1, 2, 3, 1, 6), [0, 2, 4, 1, 3, 5]
    y = rotary_embedding(x, interleaved=True)
    np.testing.assert_allclose(y[..., jnp.array(half)], rotary_embedding(x[..., jnp.array(half)]))


def test_the_rest_is_not_turned():
    x = random(1, 2, 3, 1, 7)
    for interleaved in (False, True):
        op = rotary_embedding.bind(interleaved=interleaved)
        y = op.bind(rotated=4)(x)
        np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
        np.testing.assert_allclose(y[..., :4], op(x[..., :4]), rtol=1e-12)


def test_time_may_be_the_axis_behind_the_heads():
    x, positions = random(1, 2, 5, 3, 4), jnp.array([7.5, 0.0, -2.0, 1.0, 3.0])
    swapped = jnp.swapaxes(x, 1, 2)
    for given in ((), (positions,)):
        y = rotary_embedding(swapped, *given, time_axis=2)
        np.testing.assert_allclose(jnp.swapaxes(y, 1, 2), rotary_embedding(x, *given))
    with pytest.raises(ValueError, match=r"with time_axis=1 it must be \(3,\) or \(2, 3\)"):
        rotary_embedding(swapped, positions)


def test_scaling_by_a_number_divides_the_positions():
    x = random(1, 2, 5, 3, 4)
    scaled = rotary_embedding(x, scaling=4.0)
    np.testing.assert_allclose(scaled, rotary_embedding(x, jnp.arange(5) / 4), rtol=1e-12)


def test_scaling_of_llama_3():
    """Wavelengths 2π·100^(i/3) = 6.3, 29 and 135: more than 4, between, fewer than 1 in 60."""
    x = jnp.concatenate([jnp.ones((1, 1, 1, 3)), jnp.zeros((1, 1, 1, 3))], -1)
    y = rotary_embedding(x, jnp.array([1]), base=100.0, scaling=(8.0, 1.0, 4.0, 60))
    frequency = 100.0 ** (-np.arange(3) / 3)
    smooth = (60 * frequency[1] / (2 * np.pi) - 1) / 3
    frequency[1] *= (1 - smooth) / 8 + smooth
    frequency[2] /= 8
    np.testing.assert_allclose(y[..., 3:].ravel(), np.sin(frequency), rtol=1e-12)


def test_integer_positions_of_every_dtype():
    x, positions = random(1, 2, 3, 1, 6), [100, 3, 127]
    y = rotary_embedding(x, jnp.array(positions))
    for dtype in (jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32):
        np.testing.assert_array_equal(rotary_embedding(x, jnp.array(positions, dtype)), y)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rotated": 3}, ValueError, "rotated must be an even number"),
        ({"rotated": 6}, ValueError, "at most the 4 of x"),
        ({"interleaved": 1}, TypeError, "interleaved must be True or False"),
        ({"scaling": 0}, ValueError, "scaling must be above 0"),
        ({"scaling": (8.0, 4.0, 1.0, 60)}, ValueError, "low below high"),
        ({"scaling": (8.0, 4.0)}, ValueError, r"\(factor, low, high, length\)"),
        ({"time_axis": 3}, ValueError, r"2 for \(B, H, T, D\)"),
    ],
)
def test_bad_options_of_rotary(options, error, words):
    with pytest.raises(error, match=f"rotary_embedding: .*{words}"):
        rotary_embedding(jnp.zeros((2, 3, 1, 4)), **options)
