"""What each mistake does to the gradients of a network.

Every hypothesis is the gradient that somebody gets who makes one mistake, in one reading of it, and
otherwise does everything right. `diagnose` compares with them; to plant a mistake is to evaluate
one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.tape import Gradients, Trace, is_weight, linear_gradient
from jaxnn.gradcheck.diagnosis.wrong_steps import (
    ACTIVATION,
    OUTPUT,
    Output,
    is_kinked,
    slope_from_output,
)

SAMPLES = 64  # examples, up to which each is tried as the only one or the missing one


class Hypothesis(NamedTuple):
    """One reading of a mistake.

    Attributes:
        mistake: the id of the mistake.
        variant: which reading.
        gradients: from a trace to the gradients it gives, once for each place it can be in; none
            where it makes no sense.
    """

    mistake: str
    variant: str
    gradients: Callable[[Trace], Iterator[Gradients]]


def _from_output(family, delta, trace):
    if trace.family == family:
        yield trace.backward(delta(Output.of(trace)))


def _activation_derivative(rule, at_output, trace):
    """A wrong way through one activation, through all hidden ones, and through all."""
    hidden = list(trace.activations(before=trace.last))
    output = list(trace.activations(after=trace.last)) if at_output(trace) else []
    for places in _scopes(hidden):
        wrong = {i: partial(rule, trace.stages[i]) for i in places}
        yield trace.backward(trace.delta, dx=wrong)
        if output and len(places) == len(hidden):
            yield trace.backward(_through(trace, rule, output), dx=wrong)
    if output:
        yield trace.backward(_through(trace, rule, output))


def _through(trace, rule, output):
    """δ at z where the activations of the output are passed by a wrong rule."""
    dy = trace.g
    for i in range(len(trace.stages) - 1, trace.last, -1):
        stage = trace.stages[i]
        dy = rule(stage, dy) if i in output else stage.dx(dy)
    return dy


def _scopes(places: list[int]) -> list[list[int]]:
    """Each place alone, and all of them."""
    return [[i] for i in places] + ([places] if len(places) > 1 else [])


def _derivative_of_error(trace):
    for i in trace.activations(after=trace.last):
        stage = trace.stages[i]
        if trace.family == "squared" and not is_kinked(stage):
            o = Output.of(trace)
            for e in (o.e, -o.e, o.two * o.e, -o.g):
                yield trace.backward(o.g * slope_from_output(stage, e))
                yield trace.backward(o.g * stage.slope_at(e))


def _has_output(trace) -> bool:
    return any(not np.all(s.slope == 1) for s in trace.stages[trace.last + 1 :])


def _no_output_derivative(trace):
    if _has_output(trace):
        yield trace.backward(trace.g)


def _no_output_derivative_for_the_last(trace):
    if _has_output(trace):
        g, last = trace.g, trace.stages[trace.last]
        yield trace.backward(trace.delta, dparams={trace.last: lambda dy: last.dparams(g)})


def _no_output_derivative_but_for_the_last(trace):
    if _has_output(trace):
        g, last = trace.g, trace.stages[trace.last]
        yield trace.backward(trace.delta, dx={trace.last: lambda dy: last.dx(g)})


def _target_mean(axis, trace):
    if trace.target.ndim > 1:
        mean = np.broadcast_to(trace.target.mean(axis, keepdims=True), trace.target.shape)
        yield trace.backward(trace.through_output(trace.dloss(mean)))


def _summed_target_broadcast(trace):
    if trace.weight == 1:
        mean = np.broadcast_to(trace.target.mean(0, keepdims=True), trace.target.shape)
        yield trace.backward(trace.n * trace.through_output(trace.dloss(mean)))


def _inputs(choose, trace):
    """dW of linear stages from another input, where there is one."""
    chosen = {i: choose(trace, i) for i in trace.linears()}
    for places in _scopes([i for i, x in chosen.items() if x is not None]):
        yield trace.backward(
            trace.delta,
            dparams={i: partial(linear_gradient, trace.stages[i], chosen[i]) for i in places},
        )


def _before_activation(trace, i):
    return trace.stages[i - 1].x if i - 1 in list(trace.activations()) else None


def _of_previous_batch(trace, i):
    if trace.previous is None or trace.previous.stages[i].x.shape != trace.stages[i].x.shape:
        return None
    return trace.previous.stages[i].x


def _reordered_input(reorder, trace, i):
    return reorder(trace.stages[i].x) if i == trace.linears()[0] else None


def _reordered_target(reorder, trace):
    yield trace.backward(trace.through_output(trace.dloss(reorder(trace.target))))


def _passing_weight(weight, trace):
    """δ passed back through another matrix than W, in one layer or all."""

    def dx(stage, dy):
        return dy @ weight(trace, stage, dy).T

    for places in _scopes(trace.linears()[1:]):
        yield trace.backward(trace.delta, dx={i: partial(dx, trace.stages[i]) for i in places})


def _updated(trace, stage, dy):
    if trace.learning_rate is None:
        return np.full_like(stage.params["w"], np.nan)
    decay = (trace.weight_decay or 0.0) * stage.params["w"]
    return stage.params["w"] - trace.learning_rate * (_dw(trace, stage, dy) + decay)


def _updated_by_the_truth(trace, stage, dy):
    if trace.learning_rate is None:
        return np.full_like(stage.params["w"], np.nan)
    return stage.params["w"] - trace.learning_rate * trace.truth.leaves[stage.leaves["w"]]


def _dw(trace, stage, dy):
    return linear_gradient(stage, stage.x, dy)["w"]


def _divided_layers(times, trace):
    """Every layer divides what it hands down by N."""
    linears = trace.linears()
    wrong = {i: lambda dy, s=trace.stages[i]: s.dx(dy) / trace.n for i in linears}
    if len(linears) > 1:
        yield trace.backward(trace.delta / trace.n**times, dx=wrong)


def _of_previous(combine, trace):
    if trace.previous_gradient is not None:
        pairs = zip(trace.truth.leaves, trace.previous_gradient, strict=True)
        leaves = [combine(now, before) for now, before in pairs]
        yield Gradients(leaves, [None] * len(leaves))


def _one_example(weight, trace):
    """Only one example is in the gradient."""
    for kept in _examples(trace):
        delta = np.zeros_like(trace.delta)
        delta[kept] = trace.delta[kept] * weight(trace)
        yield trace.backward(delta)


def _one_example_dropped(weight, trace):
    for dropped in _examples(trace):
        delta = trace.delta * weight(trace)
        delta[dropped] = 0
        yield trace.backward(delta)


def _examples(trace) -> list[int]:
    n = len(trace.delta)
    if n == 1:
        return []
    return list(range(n)) if n <= SAMPLES else [0, n - 1]


def _decay(amount, which, trace):
    """A multiple of the parameter added to weights, or to biases."""
    if trace.weight_decay:
        leaves = [
            grad + amount * trace.weight_decay * theta if is_weight(path) == which else grad
            for path, grad, theta in zip(trace.paths, trace.truth.leaves, trace.params, strict=True)
        ]
        yield trace.truth._replace(leaves=leaves)


def _kinks(slope, trace):
    """Another derivative where z is exactly at the kink."""
    at = {i: trace.stages[i].x == 0 for i in trace.activations(before=trace.last)}
    for places in _scopes([i for i, zero in at.items() if zero.any()]):
        yield trace.backward(
            trace.delta,
            dx={
                i: lambda dy, f=trace.stages[i].slope, at=at[i]: np.where(at, slope(f), f) * dy
                for i in places
            },
        )


def _beyond_output(trace) -> bool:
    return True


def _except_sigmoid_output(trace) -> bool:
    return trace.family != "sigmoid"


def _never(trace) -> bool:
    return False


def _activation_hypotheses():
    for mistake, variant, rule in ACTIVATION:
        at_output = _beyond_output
        if mistake in ("A1", "A4"):
            at_output = _never
        elif variant == "f'(z)²":
            at_output = _except_sigmoid_output
        yield Hypothesis(mistake, variant, partial(_activation_derivative, rule, at_output))


STRUCTURAL: tuple[Hypothesis, ...] = (
    *_activation_hypotheses(),
    *(
        Hypothesis(mistake, variant, partial(_from_output, family, delta))
        for family, table in OUTPUT.items()
        for mistake, variant, delta in table
    ),
    Hypothesis("A5", "f' of the error at the output", _derivative_of_error),
    Hypothesis("A6", "everywhere", _no_output_derivative),
    Hypothesis("A6", "for the last layer", _no_output_derivative_for_the_last),
    Hypothesis("A6", "for all but the last layer", _no_output_derivative_but_for_the_last),
    Hypothesis("L7", "the mean over the batch", partial(_target_mean, 0)),
    Hypothesis("L7", "the mean over everything", partial(_target_mean, None)),
    Hypothesis("L7", "all pairs, summed", _summed_target_broadcast),
    Hypothesis("C4", "the last layer is right", partial(_divided_layers, 0)),
    Hypothesis("C4", "the last layer has it too", partial(_divided_layers, 1)),
    Hypothesis("D1", "z for a", partial(_inputs, _before_activation)),
    Hypothesis("D2", "W − η·dW, layer by layer", partial(_passing_weight, _updated)),
    Hypothesis("D2", "W − η·dW, all at once", partial(_passing_weight, _updated_by_the_truth)),
    Hypothesis("D2", "dW", partial(_passing_weight, _dw)),
    Hypothesis("D3", "the cached input", partial(_inputs, _of_previous_batch)),
    Hypothesis("D3", "the gradient", partial(_of_previous, lambda now, before: before)),
    *(
        Hypothesis("D3", f"{what} {how}", partial(function, reorder))
        for what, function in (
            ("targets", _reordered_target),
            (
                "inputs of the first dW",
                lambda reorder, trace: _inputs(partial(_reordered_input, reorder), trace),
            ),
        )
        for how, reorder in (
            ("shifted", partial(np.roll, shift=1, axis=0)),
            ("shifted back", partial(np.roll, shift=-1, axis=0)),
            ("reversed", partial(np.flip, axis=0)),
        )
    ),
    Hypothesis("D4", "added to the previous one", partial(_of_previous, np.add)),
    Hypothesis("D5", "one example, as in the mean", partial(_one_example, lambda t: 1.0)),
    Hypothesis("D5", "one example", partial(_one_example, lambda t: 1 / t.weight)),
    Hypothesis("D5", "one missing", partial(_one_example_dropped, lambda t: 1.0)),
    Hypothesis(
        "D5",
        "one missing, mean of the others",
        partial(_one_example_dropped, lambda t: t.n / (t.n - 1)),
    ),
    *(
        Hypothesis("R1", variant, partial(_decay, amount, which))
        for variant, amount, which in (
            ("missing", -1, True),
            ("twice", 1, True),
            ("subtracted", -2, True),
            ("on the biases", 1, False),
        )
    ),
    Hypothesis("K1", "0", partial(_kinks, lambda slope: 0.0)),
    Hypothesis("K1", "1", partial(_kinks, lambda slope: 1.0)),
    Hypothesis("K1", "½", partial(_kinks, lambda slope: 0.5)),
    Hypothesis("K1", "between", partial(_kinks, lambda slope: (slope.min() + slope.max()) / 2)),
)
"""Mistakes that are recognised by making them: one for each reading."""
