"""Every law catches a planted mistake, and passes the op that the mistake was planted in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import LAWS, GradientMismatch, check
from jaxnn.gradcheck.laws.adapters import subject_of
from jaxnn.gradcheck.laws.evaluation import Trial
from jaxnn.gradcheck.memory import residual_bytes, temporary_bytes
from jaxnn.op import Op
from jaxnn.ops._common.elementwise import OutputKept
from jaxnn.ops.activations.smooth import sigmoid_bwd, sigmoid_definition, sigmoid_fwd
from jaxnn.ops.linear import linear_bwd, linear_definition, linear_fwd


def make(definition, fwd, bwd, residual_bytes=lambda *args: 0):
    return Op(definition, fwd, bwd, residual_bytes=residual_bytes, check=lambda *args: None)


def planted_linear(mistake):
    def bwd(residuals, dy):
        dparams, dx = linear_bwd(residuals, dy)
        return mistake(dparams, dx, residuals, dy)

    return make(linear_definition, linear_fwd, bwd)


def planted_sigmoid(mistake, fwd=sigmoid_fwd):
    return make(sigmoid_definition, fwd, lambda residuals, dy: (mistake(residuals, dy),))


def exponential_sigmoid_bwd(residuals, dy):
    (y,) = residuals
    odds = y / (1 - y)
    return odds / (1 + odds) ** 2 * dy


@jax.custom_batching.custom_vmap
def unbatched_only(d):
    return d


@unbatched_only.def_vmap
def _(axis_size, in_batched, d):
    return d / axis_size, True


LINEAR = (
    {
        "w": jnp.asarray(np.random.default_rng(1).normal(size=(5, 6))),
        "b": jnp.asarray(np.random.default_rng(2).normal(size=6)),
    },
    jnp.asarray(np.random.default_rng(3).normal(size=(7, 5))),
)
VECTOR = (jnp.asarray(np.random.default_rng(4).normal(size=7)),)
SATURATED = (jnp.array([1e4, -1e4, 0.5]),)

PLANTED = {
    "structure: dw transposed": (
        "structure",
        planted_linear(lambda d, dx, r, dy: (d | {"w": d["w"].T}, dx)),
        LINEAR,
    ),
    "structure: no db": (
        "structure",
        planted_linear(lambda d, dx, r, dy: ({"w": d["w"]}, dx)),
        LINEAR,
    ),
    "structure: dx is None": (
        "structure",
        planted_linear(lambda d, dx, r, dy: (d, None)),
        LINEAR,
    ),
    "structure: db in float32": (
        "structure",
        planted_linear(lambda d, dx, r, dy: (d | {"b": d["b"].astype(jnp.float32)}, dx)),
        LINEAR,
    ),
    "runs: no tuple": (
        "runs",
        make(sigmoid_definition, sigmoid_fwd, lambda residuals, dy: dy),
        VECTOR,
    ),
    "value: fwd is another function": (
        "value",
        planted_sigmoid(
            lambda r, dy: sigmoid_bwd(r, dy)[0],
            fwd=lambda x: (jnp.tanh(x), OutputKept(jnp.tanh(x))),
        ),
        VECTOR,
    ),
    "gradient: db is a mean": (
        "gradient",
        planted_linear(lambda d, dx, r, dy: (d | {"b": d["b"] / 7}, dx)),
        LINEAR,
    ),
    "gradient: derivative missing": ("gradient", planted_sigmoid(lambda r, dy: dy), VECTOR),
    "one_entry: a gradient that needs a full cotangent": (
        "one_entry",
        planted_sigmoid(lambda r, dy: jnp.where((dy != 0).all(), sigmoid_bwd(r, dy)[0], 0)),
        VECTOR,
    ),
    "linearity: a constant": (
        "linearity",
        planted_sigmoid(lambda r, dy: sigmoid_bwd(r, dy)[0] + 1e-6),
        VECTOR,
    ),
    "linearity: a square": ("linearity", planted_sigmoid(lambda r, dy: r.y * dy * dy), VECTOR),
    "vmap: a batching rule that divides by the batch": (
        "vmap",
        planted_sigmoid(lambda r, dy: unbatched_only(sigmoid_bwd(r, dy)[0])),
        VECTOR,
    ),
    "second_order: a constant where a function should be": (
        "second_order",
        planted_sigmoid(lambda r, dy: jax.lax.stop_gradient(r.y * (1 - r.y)) * dy),
        VECTOR,
    ),
    "finite: infinity over infinity": (
        "finite",
        planted_sigmoid(exponential_sigmoid_bwd),
        SATURATED,
    ),
    "eager: right only when compiled": (
        "eager",
        planted_sigmoid(
            lambda r, dy: sigmoid_bwd(r, dy)[0] * (1 if isinstance(dy, jax.core.Tracer) else 2)
        ),
        VECTOR,
    ),
}


@pytest.mark.parametrize(("law", "op", "args"), PLANTED.values(), ids=PLANTED)
def test_a_planted_mistake_breaks_its_law(law, op, args):
    report = check(op, *args, second_order=True)
    assert law in {finding.law for finding in report.findings}
    with pytest.raises(GradientMismatch):
        report.raise_if_failed()


def test_a_value_that_jax_grad_does_not_see_breaks_export():
    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda residuals, dy: (2 * dy,))
    other = jax.custom_vjp(lambda x: 2 * x)
    other.defvjp(lambda x: (2 * x, None), lambda residuals, dy: (3 * dy,))
    subject, args = subject_of(doubled, VECTOR, {})
    trial = Trial(dataclasses.replace(subject, exported=other), args)
    assert not LAWS["gradient"](trial)
    assert LAWS["export"](trial)


def test_a_backward_that_changes_its_mind_breaks_determinism():
    calls = iter(range(1, 100))

    def bwd(residuals, dy):
        return (np.asarray(residuals) * dy * next(calls),)

    report = check(
        (lambda x: (0.5 * np.asarray(x) ** 2, x), bwd),
        *VECTOR,
        definition=lambda x: 0.5 * np.asarray(x) ** 2,
    )
    assert "determinism" in {finding.law for finding in report.findings}


def test_memory_figures_see_what_is_kept_and_what_is_built():
    def keeps_its_input(x):
        y, _ = sigmoid_fwd(x)
        return y, (y, x)

    x = jnp.linspace(-1.0, 1.0, 64)
    hoarder = make(sigmoid_definition, keeps_its_input, lambda r, dy: sigmoid_bwd((r[0],), dy))
    assert residual_bytes(hoarder, x) == 2 * residual_bytes(jaxnn.sigmoid, x) == 2 * x.nbytes
    builder = planted_sigmoid(lambda r, dy: jnp.diag(r.y * (1 - r.y)) @ dy)
    ours, theirs = temporary_bytes(builder, x)
    assert ours > theirs


def test_every_law_has_a_planted_mistake():
    assert {law for law, *_ in PLANTED.values()} | {"determinism", "export"} == set(LAWS)
