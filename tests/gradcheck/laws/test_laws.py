"""Every law catches a planted mistake, and passes the op in which the mistake was planted."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.example_gradients import Outer, Whole
from jaxnn.gradcheck import LAWS, GradientMismatch, check
from jaxnn.gradcheck.arrays import relative_error, relative_or_absolute_error
from jaxnn.gradcheck.laws.adapters import adapt
from jaxnn.gradcheck.laws.evaluation import Evaluation
from jaxnn.gradcheck.memory import residual_bytes, temporary_bytes
from jaxnn.ops.linear import linear_bwd_examples, linear_bwd_input, linear_bwd_params


class Output(NamedTuple):
    y: jax.Array


class Inputs(NamedTuple):
    params: dict
    x: jax.Array


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def sigmoid_fwd(x):
    y = jax.nn.sigmoid(x)
    return y, Output(y)


def sigmoid_bwd(residuals, dy):
    return (residuals.y * (1 - residuals.y) * dy,)


def linear(params, x):
    return x @ params["w"] + jnp.broadcast_to(params["b"], (x.shape[0], params["b"].size))


def linear_fwd(params, x):
    return linear(params, x), Inputs(params, x)


def linear_bwd(residuals, dy):
    params, x = residuals
    return {"w": x.T @ dy, "b": dy.sum(0)}, dy @ params["w"].T


def op_of(definition, fwd, bwd, **rules):
    made = jaxnn.op(definition)
    made.forward(fwd)
    made.backward(bwd)
    for name, rule in rules.items():
        getattr(made, name)(rule)
    return made


def planted_linear(mistake):
    """The linear op with a mistake in what its backward returns."""
    return op_of(linear, linear_fwd, lambda r, dy: mistake(*linear_bwd(r, dy)))


def planted_sigmoid(mistake, fwd=sigmoid_fwd, **rules):
    return op_of(sigmoid, fwd, lambda residuals, dy: (mistake(residuals, dy),), **rules)


def exponential_slope(residuals, dy):
    odds = residuals.y / (1 - residuals.y)
    return odds / (1 + odds) ** 2 * dy


@jax.custom_batching.custom_vmap
def divided_by_the_batch(d):
    return d


@divided_by_the_batch.def_vmap
def _(axis_size, in_batched, d):
    return d / axis_size, True


def linear_in_halves(deltas=lambda dy: dy, dparams=lambda d: d):
    def bwd_input(residuals, dy):
        return deltas(dy), linear_bwd(residuals, dy)[1]

    def bwd_params(residuals, dy):
        return dparams(linear_bwd(residuals, dy)[0])

    return op_of(
        linear, linear_fwd, linear_bwd, backward_input=bwd_input, backward_params=bwd_params
    )


def linear_of_examples(gradients):
    """The linear op with other gradients of each example, made of those that are right."""

    def bwd_examples(residuals, dy, *, examples_axis):
        return gradients(linear_bwd_examples(residuals, dy, examples_axis=examples_axis))

    return op_of(
        linear,
        linear_fwd,
        linear_bwd,
        backward_input=linear_bwd_input,
        backward_params=linear_bwd_params,
        backward_examples=bwd_examples,
    )


@jax.tree_util.register_pytree_node_class
class WrongNorms(Whole):
    """Gradients of which one has a wrong norm."""

    def tree_flatten(self):
        return (self.gradients,), self.n_places

    @classmethod
    def tree_unflatten(cls, n_places, children):
        return cls(*children, n_places)

    def squared_norms(self):
        return super().squared_norms().at[0].add(1e-3)


class WeightsOfALayer(jaxnn.Linear):
    """A linear layer whose second half ignores the weights."""

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        return super().bwd_params(residuals, deltas)

    def bwd_examples(self, residuals, deltas, axis=0):
        return super().bwd_examples(residuals, deltas, axis)


class HalvesOfALayer(jaxnn.Linear):
    """A linear layer whose `bwd` is right and whose second half forgets the bias."""

    def bwd_params(self, residuals, deltas):
        dparams = super().bwd_params(residuals, deltas)
        return dparams | {"b": jnp.zeros_like(dparams["b"])}


def exact(residuals, dy):
    return sigmoid_bwd(residuals, dy)[0]


def sigmoid_tangent(factor):
    def tangent(residuals, tangents):
        (x_dot,) = tangents
        return factor * residuals.y * (1 - residuals.y) * x_dot

    return tangent


def arguments(kind):
    random = np.random.default_rng(1)
    if kind == "vector":
        return (jnp.asarray(random.normal(size=7)),)
    if kind == "saturated":
        return (jnp.array([1e4, -1e4, 0.5]),)
    params = {"w": random.normal(size=(5, 6)), "b": random.normal(size=6)}
    return jax.tree.map(jnp.asarray, (params, random.normal(size=(7, 5))))


PLANTED = {
    "structure: dw transposed": lambda: planted_linear(lambda d, dx: (d | {"w": d["w"].T}, dx)),
    "structure: no db": lambda: planted_linear(lambda d, dx: ({"w": d["w"]}, dx)),
    "gradient: dx is None": lambda: planted_linear(lambda d, dx: (d, None)),
    "runs: no tuple": lambda: op_of(sigmoid, sigmoid_fwd, lambda residuals, dy: dy),
    "value: fwd is another function": lambda: planted_sigmoid(
        exact, fwd=lambda x: (jnp.tanh(x), Output(jnp.tanh(x)))
    ),
    "gradient: db is a mean": lambda: planted_linear(lambda d, dx: (d | {"b": d["b"] / 7}, dx)),
    "gradient: derivative missing": lambda: planted_sigmoid(lambda r, dy: dy),
    "one_entry: a gradient that needs a full cotangent": lambda: planted_sigmoid(
        lambda r, dy: jnp.where((dy != 0).all(), exact(r, dy), 0)
    ),
    "linearity: a constant": lambda: planted_sigmoid(lambda r, dy: exact(r, dy) + 1e-6),
    "linearity: a square": lambda: planted_sigmoid(lambda r, dy: r.y * dy * dy),
    "vmap: a batching rule that divides by the batch": lambda: planted_sigmoid(
        lambda r, dy: divided_by_the_batch(exact(r, dy))
    ),
    "second_order: a constant in place of a function": lambda: planted_sigmoid(
        lambda r, dy: jax.lax.stop_gradient(r.y * (1 - r.y)) * dy
    ),
    "finite: infinity over infinity": lambda: planted_sigmoid(exponential_slope),
    "eager: right only when compiled": lambda: planted_sigmoid(
        lambda r, dy: exact(r, dy) * (1 if isinstance(dy, jax.core.Tracer) else 2)
    ),
    "halves: deltas without a sign": lambda: linear_in_halves(deltas=jnp.abs),
    "halves: db is a mean": lambda: linear_in_halves(dparams=lambda d: d | {"b": d["b"] / 7}),
    "halves: no db": lambda: linear_in_halves(dparams=lambda d: {"w": d["w"]}),
    "halves: of a layer": lambda: HalvesOfALayer(5, 6),
    "examples: dbₙ is a mean": lambda: linear_of_examples(
        lambda g: g | {"b": Whole(g["b"].gradients / 7)}
    ),
    "examples: two examples exchanged": lambda: linear_of_examples(
        lambda g: g | {"w": Outer(g["w"].inputs, g["w"].deltas[jnp.array([1, 0, 2, 3, 4, 5, 6])])}
    ),
    "examples: norms": lambda: linear_of_examples(
        lambda g: g | {"b": WrongNorms(g["b"].gradients)}
    ),
    "examples: a layer that ignores the weights": lambda: WeightsOfALayer(5, 6),
    "duality: a tangent of twice the size": lambda: planted_sigmoid(
        exact, tangent=sigmoid_tangent(2.0)
    ),
    "duality: a backward that JAX cannot transpose": lambda: planted_sigmoid(
        lambda r, dy: r.y * (1 - r.y) * jnp.maximum(dy, 0) - r.y * (1 - r.y) * jnp.maximum(-dy, 0)
    ),
}
RIGHT = {
    "structure": lambda: planted_linear(lambda d, dx: (d, dx)),
    "gradient": lambda: planted_sigmoid(exact),
    "halves": linear_in_halves,
    "examples": lambda: linear_of_examples(lambda g: g),
    "duality": lambda: planted_sigmoid(exact, tangent=sigmoid_tangent(1.0)),
}


def arguments_for(target):
    if isinstance(target, jaxnn.Op) and len(target.arguments) == 1:
        return arguments("vector")
    return arguments("linear")


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_breaks_its_law(name):
    law, target = name.split(":")[0], PLANTED[name]()
    args = arguments("saturated") if law == "finite" else arguments_for(target)
    report = check(target, *args, second_order=True)
    assert law in {finding.law for finding in report.findings}, report
    with pytest.raises(GradientMismatch):
        report.raise_if_failed()


@pytest.mark.parametrize("name", RIGHT)
def test_without_the_mistake_every_law_holds(name):
    target = RIGHT[name]()
    report = check(target, *arguments_for(target), second_order=True)
    report.raise_if_failed()
    assert ("halves" in report.laws) == (name in ("halves", "examples"))
    assert ("examples" in report.laws) == (name == "examples")
    assert set(LAWS) - set(report.laws) <= {"halves", "examples"}


def test_duality_is_tried_in_float64_or_on_request():
    (x,) = arguments("vector")
    x = x.astype(jnp.float32)
    wrong = planted_sigmoid(exact, tangent=sigmoid_tangent(1.01))
    assert "duality" not in check(wrong, x).laws
    (finding,) = check(wrong, x, laws=("duality",)).findings
    assert finding.law == "duality"
    assert 1e-3 < finding.error < 1e-1
    check(RIGHT["duality"](), x, laws=("duality",)).raise_if_failed()


def test_a_gradient_in_another_dtype_breaks_structure():
    def bwd(residuals, dy):
        dparams, dx = linear_bwd(residuals, dy)
        return dparams | {"b": dparams["b"].astype(jnp.float32)}, dx

    report = check((linear_fwd, bwd), *arguments("linear"), definition=linear)
    assert [finding.law for finding in report.findings] == ["structure"]


def test_a_value_that_jax_grad_does_not_see_breaks_export():
    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda residuals, dy: (2 * dy,))
    other = jax.custom_vjp(lambda x: 2 * x)
    other.defvjp(lambda x: (2 * x, None), lambda residuals, dy: (3 * dy,))
    checked, args = adapt(doubled, arguments("vector"), {})
    evaluation = Evaluation(dataclasses.replace(checked, exported=other), args)
    assert not LAWS["gradient"](evaluation)
    assert LAWS["export"](evaluation)


def test_a_backward_that_changes_its_mind_breaks_determinism():
    calls = iter(range(1, 100))

    def bwd(residuals, dy):
        return (np.asarray(residuals) * dy * next(calls),)

    report = check(
        (lambda x: (0.5 * np.asarray(x) ** 2, x), bwd),
        *arguments("vector"),
        definition=lambda x: 0.5 * np.asarray(x) ** 2,
    )
    assert "determinism" in {finding.law for finding in report.findings}


def test_every_law_has_a_planted_mistake():
    planted = {name.split(":")[0] for name in PLANTED}
    assert planted | {"determinism", "export"} == set(LAWS)


def test_memory_figures_see_what_is_saved_and_what_is_built():
    def saves_its_input_too(x):
        y, _ = sigmoid_fwd(x)
        return y, Inputs(y, x)

    x = jnp.linspace(-1.0, 1.0, 64)
    hoarder = op_of(sigmoid, saves_its_input_too, lambda r, dy: sigmoid_bwd(Output(r.params), dy))
    assert residual_bytes(hoarder, x) == 2 * residual_bytes(jaxnn.sigmoid, x) == 2 * x.nbytes
    builder = planted_sigmoid(lambda r, dy: jnp.diag(r.y * (1 - r.y)) @ dy)
    ours, theirs = temporary_bytes(builder, x)
    assert ours > theirs


def test_relative_error_of_zero_and_of_numbers_that_are_not_finite():
    zero, small = np.zeros(3), np.full(3, 1e-20)
    assert relative_error(zero, zero) == 0
    assert relative_error(small, zero) == np.inf
    assert relative_error(zero, small) == 1
    assert relative_error(np.zeros((3, 1)), zero) == np.inf
    assert relative_error(np.full(3, np.nan), np.ones(3)) == np.inf
    assert relative_error(np.full(3, np.inf), np.full(3, np.inf)) == np.inf
    assert relative_error(np.full(3, 1e300), np.full(3, 2e300)) == 0.5
    assert relative_error(np.full(3, -1e308), np.full(3, 1e308)) == 2
    assert relative_error(np.full(3, 1e-300), np.full(3, 2e-300)) == 0.5
    assert relative_error(np.full(3, 2.0), np.ones(3), whole=np.full(3, 4.0)) == 0.25
    assert relative_or_absolute_error(small, zero) == np.linalg.norm(small)
    assert relative_or_absolute_error(np.full(3, np.inf), zero) == np.inf
    assert relative_or_absolute_error(zero, small) == 1
    assert relative_or_absolute_error(small, zero, whole=np.ones(3)) == 1e-20


def test_noise_where_a_gradient_cancels_condemns_zero_only_for_what_it_is():
    def cosine(a):
        b = jnp.array([3.0, 0.1, -2.0], a.dtype)
        return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

    def cosine_fwd(a):
        return cosine(a), a

    parallel = jnp.array([3.0, 0.1, -2.0])
    zero = check((cosine_fwd, lambda a, dy: (jnp.zeros_like(a),)), parallel, definition=cosine)
    assert not zero.findings, zero
    wrong = check((cosine_fwd, lambda a, dy: (dy * a,)), parallel, definition=cosine)
    assert {finding.law for finding in wrong.findings} >= {"gradient"}
