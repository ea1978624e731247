"""Every law catches a planted mistake, and passes the op that the mistake was planted in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import LAWS
from jaxnn.op import Op
from jaxnn.ops.activations import (
    OutputKept,
    sigmoid_bwd,
    sigmoid_definition,
    sigmoid_fwd,
)
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


def copying_sigmoid_fwd(x):
    y, _ = sigmoid_fwd(x)
    return y, (y, x)


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
    "structure: no tuple": (
        "structure",
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
    "export: the derivative of another function": (
        "export",
        planted_sigmoid(lambda r, dy: 1.0001 * sigmoid_bwd(r, dy)[0]),
        VECTOR,
    ),
    "one_example: the rows are mixed": (
        "one_example",
        planted_sigmoid(lambda r, dy: sigmoid_bwd(r, jnp.flip(dy))[0]),
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
    "hard_inputs: infinity over infinity": (
        "hard_inputs",
        planted_sigmoid(exponential_sigmoid_bwd),
        SATURATED,
    ),
    "residual_bytes: the input is kept too": (
        "residual_bytes",
        make(
            sigmoid_definition,
            copying_sigmoid_fwd,
            lambda residuals, dy: sigmoid_bwd(OutputKept(residuals[0]), dy),
            residual_bytes=lambda x: x.size * x.dtype.itemsize,
        ),
        VECTOR,
    ),
    "temporary_memory: the whole Jacobian": (
        "temporary_memory",
        planted_sigmoid(lambda r, dy: jnp.diag(r.y * (1 - r.y)) @ dy),
        (jnp.linspace(-1.0, 1.0, 64),),
    ),
}


@pytest.mark.parametrize(("law", "op", "args"), PLANTED.values(), ids=PLANTED)
def test_a_planted_mistake_breaks_its_law(law, op, args):
    findings = LAWS[law](op, args, 0)
    assert findings
    assert all(finding.law == law and finding.message for finding in findings)


def test_determinism_is_broken_by_a_counter(monkeypatch):
    from jaxnn.gradcheck import laws

    counter = iter(range(1, 100))
    gradient = laws._gradient

    def drifting(op, args, dy):
        factor = next(counter)
        return jax.tree.map(lambda d: d * factor, gradient(op, args, dy))

    monkeypatch.setattr(laws, "_gradient", drifting)
    assert LAWS["determinism"](jaxnn.sigmoid, VECTOR, 0)


def test_every_law_has_a_planted_mistake():
    assert {law for law, *_ in PLANTED.values()} | {"determinism"} == set(LAWS)
