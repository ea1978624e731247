"""Functions of JAX as people write them: each kind right, and with a mistake that is told."""

import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.gradcheck.laws.adapters import adapt
from jaxnn.gradcheck.laws.evaluation import Evaluation


@pytest.fixture(autouse=True)
def as_users_have_it():
    """32 bits, and the promotion of dtypes and ranks that users have."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def ints(*numbers):
    return jnp.asarray(numbers, jnp.int32)


def by_autodiff(function, static=()):
    """A `jax.custom_vjp` function whose rules are autodiff's."""
    made = jax.custom_vjp(function, nondiff_argnums=static)

    def fwd(*args):
        free = [i for i in range(len(args)) if i not in static]

        def of_free(*given):
            filled = list(args)
            for i, arg in zip(free, given, strict=True):
                filled[i] = arg
            return function(*filled)

        return jax.vjp(of_free, *[args[i] for i in free])

    made.defvjp(fwd, lambda *args: args[-2](args[-1]))
    return made


def with_rules(function, fwd, bwd, **options):
    made = jax.custom_vjp(function)
    made.defvjp(fwd, bwd, **options)
    return made


def on_host(x):
    return jax.pure_callback(
        lambda a: np.sinh(np.asarray(a)), jax.ShapeDtypeStruct(x.shape, x.dtype), x
    )


def settled(x):
    """The solution of z = ½ cos z + x."""

    def goes_on(pair):
        return jnp.abs(pair[0] - pair[1]).max() > 1e-6

    return jax.lax.while_loop(goes_on, lambda p: (0.5 * jnp.cos(p[0]) + x, p[0]), (x, x + 1))[0]


def covariance(a):
    return a @ a.T + jnp.eye(len(a))


AWKWARD = {
    "new numbers": (lambda x: jnp.sin(x) + jnp.zeros(4), random(1, 3, 4)),
    "a scan from zeros": (
        lambda x: jax.lax.scan(lambda c, r: (0.9 * c + jnp.tanh(r), c), jnp.zeros(4), x),
        random(1, 3, 4),
    ),
    "casts": (
        lambda x, w: (x.astype(jnp.bfloat16) @ w).astype(jnp.float32),
        random(1, 3, 4),
        random(2, 4, 5, dtype=jnp.bfloat16),
    ),
    "float16": (lambda x: jnp.sum(x * x, axis=0), random(1, 50, 7, dtype=jnp.float16)),
    "bernoulli": (
        lambda key, x: jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0),
        jax.random.key(0),
        random(1, 3, 4),
    ),
    "normal": (
        lambda key, x: x * (1 + jax.random.normal(key, x.shape)),
        jax.random.PRNGKey(0),
        random(1, 3, 4),
    ),
    "integers beside floats": (lambda x: jax.lax.top_k(x, 2), random(1, 3, 4)),
    "branches": (
        lambda x, i: jax.lax.switch(i, [jnp.sin, jax.nn.silu], x),
        random(1, 4),
        jnp.asarray(1, jnp.int32),
    ),
    "scatter": (
        lambda x, i, v: x.at[i].add(v),
        random(1, 5, 4),
        ints(0, 2, 2),
        random(2, 3, 4),
    ),
    "a rule for zero": (
        lambda x: jax.scipy.special.xlogy(x, x + 1),
        jnp.array([0, 1, 2], jnp.float32),
    ),
    "solve": (lambda a, b: jnp.linalg.solve(covariance(a), b), random(1, 4, 4), random(2, 4)),
    "cholesky": (lambda a: jnp.linalg.cholesky(covariance(a)), random(1, 4, 4)),
    "complex": (lambda z: jnp.fft.fft(z * z), random(1, 6).astype(jnp.complex64) * (1 + 0.5j)),
    "nothing": (
        lambda x, none, empty: x + empty.sum(),
        random(1, 3),
        None,
        jnp.zeros((0, 4), jnp.float32),
    ),
    "a constant part": (lambda x: x * jax.lax.stop_gradient(jnp.exp(x)), random(1, 5)),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_right_functions_of_awkward_kinds_pass(name):
    function, *args = AWKWARD[name]
    check(by_autodiff(function), *args).raise_if_failed()


def sine_with(factor):
    """w·sin x, with a gradient that is wrong unless the factor is 1."""
    return lambda x, w: jnp.sin(x) * w, lambda x, w, g: (
        factor * g * w * jnp.cos(x),
        g * jnp.sin(x),
    )


def as_custom_vjp(value, gradient):
    return with_rules(value, lambda x, w: (value(x, w), (x, w)), lambda r, g: gradient(*r, g))


def as_list(value, gradient):
    return with_rules(value, lambda x, w: (value(x, w), (x, w)), lambda r, g: [*gradient(*r, g)])


def as_symbolic(value, gradient):
    def fwd(x, w):
        return value(x.value, w.value), (x.value, w.value, x.perturbed and w.perturbed)

    def bwd(residuals, g):
        x, w, wanted = residuals
        return gradient(x, w, g) if wanted else (None, None)

    return with_rules(value, fwd, bwd, symbolic_zeros=True)


def as_custom_gradient(value, gradient):
    return jax.custom_gradient(lambda x, w: (value(x, w), lambda g: gradient(x, w, g)))


def as_equinox(value, gradient):
    made = eqx.filter_custom_vjp(lambda pair: value(*pair))
    made.def_fwd(lambda perturbed, pair: (value(*pair), None))
    made.def_bwd(lambda residuals, g, perturbed, pair: gradient(*pair, g))
    return lambda x, w: made((x, w))


FORMS = {
    "custom_vjp": as_custom_vjp,
    "jit": lambda *rules: jax.jit(as_custom_vjp(*rules)),
    "vmap": lambda *rules: jax.vmap(as_custom_vjp(*rules)),
    "within a function": lambda *rules: lambda x, w: 2 * as_custom_vjp(*rules)(x, w),
    "list": as_list,
    "symbolic zeros": as_symbolic,
    "custom_gradient": as_custom_gradient,
    "equinox": as_equinox,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_checked(form):
    args = random(1, 5), random(2, 5)
    check(FORMS[form](*sine_with(1)), *args).raise_if_failed()
    report = check(FORMS[form](*sine_with(3)), *args)
    assert [row.verdict for row in report.rows] == ["WRONG", "right"]
    assert "d_x is 3 × the true gradient everywhere" in str(report)


@partial(jax.custom_vjp, nondiff_argnames=("power",))
def raised(x, power=2):
    return x**power


raised.defvjp(lambda x, power: (x**power, x), lambda power, x, g: (power * x ** (power - 1) * g,))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def always_squared(x, power=2):
    return x**power


always_squared.defvjp(lambda x, power: (x**power, x), lambda power, x, g: (2 * x * g,))


def test_static_arguments_come_by_position_by_keyword_and_by_default():
    x = random(1, 5)
    for call in (
        lambda: check(raised, x),
        lambda: check(raised, x, 3),
        lambda: check(raised, x, power=3),
        lambda: check(partial(raised, power=3), x),
        lambda: check(always_squared, x),
    ):
        call().raise_if_failed()
    assert check(always_squared, x, power=3).findings


def test_the_two_halves_of_an_op_need_no_definition():
    x = random(1, 3, 4)
    check((jaxnn.softmax.fwd, jaxnn.softmax.bwd), x).raise_if_failed()
    assert check((jaxnn.relu.fwd, lambda r, dy: (dy,)), x).findings


def test_any_number_of_arrays():
    def total(*arrays):
        return sum(a**2 for a in arrays)

    right = with_rules(total, lambda *a: (total(*a), a), lambda a, g: tuple(2 * g * b for b in a))
    args = random(1, 4), random(2, 4), random(3, 4)
    report = check(right, *args)
    assert report.ok
    assert [row.leaf for row in report.rows] == ["arrays[0]", "arrays[1]", "arrays[2]"]


def test_none_is_zero():
    def fwd(x, s):
        return s * x, s

    right = with_rules(lambda x, s: 2 * x, lambda x, s: (2 * x, None), lambda r, g: (2 * g, None))
    wrong = with_rules(lambda x, s: s * x, fwd, lambda s, g: (s * g, None))
    args = random(1, 4), random(2, 4)
    assert check(right, *args).ok
    report = check(wrong, *args)
    assert [row.verdict for row in report.rows] == ["right", "WRONG"]
    assert "d_s is None, which JAX reads as zero" in str(report)


def test_a_fault_in_one_argument_does_not_hide_another():
    wrong = with_rules(
        lambda x, w: x @ w,
        lambda x, w: (x @ w, (x, w)),
        lambda r, g: ((g @ r[1].T).T, 2 * r[0].T @ g),
    )
    messages = str(check(wrong, random(1, 3, 4), random(2, 4, 5)))
    assert "d_x has shape (4, 3) but x has (3, 4): it is the transpose" in messages
    assert "d_w is 2 × the true gradient everywhere" in messages


def test_an_output_whose_cotangent_is_not_used():
    def moments(x):
        return {"mean": x.mean(), "square": (x**2).mean()}

    wrong = with_rules(
        moments,
        lambda x: (moments(x), x),
        lambda x, g: (jnp.full_like(x, 1 / x.size) * g["mean"],),
    )
    report = check(wrong, random(1, 5))
    assert "d_x is wrong: the cotangent of output ['square'] is not used" in str(report)


def test_an_iteration_does_not_depend_on_where_it_starts():
    def halved(x, start):
        def step(state):
            return state[1], 0.5 * jnp.cos(state[1]) + x

        def moves(state):
            return jnp.abs(state[1] - state[0]).max() > 1e-7

        return jax.lax.while_loop(moves, step, (start, start + 1))[1]

    def made(factor):
        return with_rules(
            halved,
            lambda x, start: (halved(x, start), halved(x, start)),
            lambda z, g: (g / (1 + 0.5 * jnp.sin(z)), factor * g),
        )

    x, start = random(1, 5), random(2, 5)
    assert check(made(0), x, start).ok
    assert {f.leaf for f in check(made(0.01), x, start).findings} == {"start"}


def test_forgotten_noise_is_wrong():
    wrong = with_rules(
        lambda key, x: x * (1 + jax.random.normal(key, x.shape)),
        lambda key, x: (x * (1 + jax.random.normal(key, x.shape)), None),
        lambda r, g: (None, g),
    )
    assert check(wrong, jax.random.key(0), random(1, 3, 4)).findings


WITHOUT_REVERSE_MODE = {
    "a loop": (settled, lambda z, x, g: g / (1 + 0.5 * jnp.sin(z))),
    "a callback": (on_host, lambda y, x, g: g * jnp.cosh(x)),
}


@pytest.mark.parametrize("name", WITHOUT_REVERSE_MODE)
def test_differences_stand_in_for_reverse_mode(name):
    function, gradient = WITHOUT_REVERSE_MODE[name]

    def made(factor):
        return with_rules(
            function,
            lambda x: (function(x), (function(x), x)),
            lambda r, g: (factor * gradient(*r, g),),
        )

    check(made(1), random(1, 5)).raise_if_failed()
    assert "d_x is 1.01 × the true gradient" in str(check(made(1.01), random(1, 5)))


def test_a_wrong_tangent_rule_is_found_by_differences():
    def made(factor):
        function = jax.custom_jvp(jnp.square)
        function.defjvp(lambda x, t: (x[0] ** 2, factor * x[0] * t[0]))
        return function

    assert check(made(2), random(1, 5)).ok
    assert "d_x is 1.5 × the true gradient" in str(check(made(3), random(1, 5)))


def test_kinks_at_many_entries():
    x = jnp.where(jnp.arange(80) % 2 == 0, random(1, 80), 0)

    def rectifier(at_zero):
        return with_rules(
            lambda x: jnp.maximum(x, 0),
            lambda x: (jnp.maximum(x, 0), x),
            lambda x, g: (jnp.where(x > 0, g, jnp.where(x == 0, at_zero * g, 0)),),
        )

    report = check(rectifier(0), x)
    assert report.ok
    assert re.search(r"not smooth here: at x\[1\], .* and \d+ other entries", report.notes[0])
    assert check(rectifier(2), x).findings


LIES = {
    "straight-through estimator, declare.* definition=lambda x: x": (
        lambda x: jnp.round(x),
        lambda g: g,
    ),
    "is -0.25 × dy.* reversed on purpose.* definition=lambda x: -0.25": (
        lambda x: x,
        lambda g: -0.25 * g,
    ),
    r"is the true gradient clipped to \[-0.5, 0.5\]": (
        lambda x: x,
        lambda g: jnp.clip(g, -0.5, 0.5),
    ),
    "clipped to a fixed norm: it is 0.1": (
        lambda x: x,
        lambda g: g / jnp.maximum(1.0, jnp.linalg.norm(g)),
    ),
    "does not depend on dy: it is a value passed as a gradient": (jnp.sin, lambda g: 2 + 0 * g),
    "stands in for the true one on purpose": (jnp.sign, lambda g: g / 3),
}


@pytest.mark.parametrize("words", LIES)
def test_what_people_do_on_purpose_is_recognised(words):
    function, gradient = LIES[words]
    made = with_rules(function, lambda x: (function(x), None), lambda r, g: (gradient(g),))
    report = check(made, random(1, 30))
    assert report.findings
    assert re.search(words, str(report))


def test_an_intended_gradient_is_declared():
    made = with_rules(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda r, g: (g,))
    assert check(made, random(1, 7), definition=lambda x: x).ok
    report = check(made, random(1, 7), definition=lambda x: -x)
    assert "the true gradient with the opposite sign" in str(report)
    floor = with_rules(lambda x: jnp.round(x), lambda x: (jnp.floor(x), None), lambda r, g: (g,))
    report = check(floor, random(1, 7), definition=lambda x: x)
    assert "value" in {finding.law for finding in report.findings}


def test_a_backward_in_numpy_is_checked_without_jit():
    def bwd(x, g):
        return (jnp.asarray(np.cos(np.asarray(x)) * np.asarray(g)),)

    report = check(with_rules(jnp.sin, lambda x: (jnp.sin(x), x), bwd), random(1, 5))
    assert report.ok
    assert "jax.jit cannot trace the backward" in report.notes[0]


def test_an_evaluation_gives_both_gradients_for_any_cotangent():
    value, gradient = sine_with(3)
    checked, args = adapt(as_custom_vjp(value, gradient), (random(1, 5), random(2, 5)), {})
    evaluation = Evaluation(checked, args)
    dy = random(3, 5)
    for mine, truth, factor in zip(
        evaluation.given_gradient(dy), evaluation.true_gradient(dy), (3, 1), strict=True
    ):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, factor * truth, rtol=1e-6)
    assert [function.__code__.co_varnames[0] for function in checked.repairable] == ["r", "x"]
