"""The effect of each mistake on the gradients of a network.

A hypothesis is the gradient that somebody gets who makes one mistake, in one variant of it, and
does everything else right. `diagnose` compares gradients with all of them; a test plants a mistake
by evaluating one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.tape import Gradients, Tape, is_weight, linear_gradient
from jaxnn.gradcheck.diagnosis.wrong_steps import (
    ACTIVATION,
    OUTPUT,
    Output,
    slope_from_output,
)

SAMPLES = 64  # examples, up to which each is tried as the only one or the missing one


class Hypothesis(NamedTuple):
    """One variant of a mistake.

    Attributes:
        mistake: the id of the mistake.
        variant: a few words.
        gradients: from a tape to the wrong gradients, once for each place in which the mistake can
            be made; none if it does not apply.
    """

    mistake: str
    variant: str
    gradients: Callable[[Tape], Iterator[Gradients]]


def _from_output(family, delta, tape):
    if tape.family == family:
        yield tape.backward(delta(Output.of(tape)))


def _activation_derivative(rule, at_output, tape):
    """A wrong way through one activation, through all hidden ones, and through all."""
    hidden = list(tape.activations(before=tape.last))
    output = list(tape.activations(after=tape.last)) if at_output(tape) else []
    for places in _scopes(hidden):
        wrong = {i: partial(rule, tape.stages[i]) for i in places}
        yield tape.backward(tape.delta, dx=wrong)
        if output and len(places) == len(hidden):
            yield tape.backward(_through(tape, rule, output), dx=wrong)
    if output:
        yield tape.backward(_through(tape, rule, output))


def _through(tape, rule, output):
    """δ at z where the activations of the output are passed by a wrong rule."""
    dy = tape.g
    for i in range(len(tape.stages) - 1, tape.last, -1):
        stage = tape.stages[i]
        dy = rule(stage, dy) if i in output else stage.dx(dy)
    return dy


def _scopes(places: list[int]) -> list[list[int]]:
    """Each place alone, and all of them."""
    return [[i] for i in places] + ([places] if len(places) > 1 else [])


def _derivative_of_error(tape):
    for i in tape.activations(after=tape.last):
        stage = tape.stages[i]
        if tape.family == "squared" and not stage.is_mask:
            o = Output.of(tape)
            for e in (o.e, -o.e, o.two * o.e, -o.g):
                yield tape.backward(o.g * slope_from_output(stage, e))
                yield tape.backward(o.g * stage.slope_at(e))


def _has_output(tape) -> bool:
    return any(not np.all(s.slope == 1) for s in tape.stages[tape.last + 1 :])


def _no_output_derivative(tape):
    if _has_output(tape):
        yield tape.backward(tape.g)


def _no_output_derivative_for_the_last(tape):
    if _has_output(tape):
        g, last = tape.g, tape.stages[tape.last]
        yield tape.backward(tape.delta, dparams={tape.last: lambda dy: last.dparams(g)})


def _no_output_derivative_but_for_the_last(tape):
    if _has_output(tape):
        g, last = tape.g, tape.stages[tape.last]
        yield tape.backward(tape.delta, dx={tape.last: lambda dy: last.dx(g)})


def _target_mean(axis, tape):
    if tape.target.ndim > 1:
        mean = np.broadcast_to(tape.target.mean(axis, keepdims=True), tape.target.shape)
        yield tape.backward(tape.through_output(tape.dloss(mean)))


def _summed_target_broadcast(tape):
    if np.all(tape.weight == 1):
        mean = np.broadcast_to(tape.target.mean(0, keepdims=True), tape.target.shape)
        yield tape.backward(tape.n * tape.through_output(tape.dloss(mean)))


def _inputs(choose, tape):
    """dW of linear stages from another input, if there is one."""
    chosen = {i: choose(tape, i) for i in tape.linears()}
    for places in _scopes([i for i, x in chosen.items() if x is not None]):
        yield tape.backward(
            tape.delta,
            dparams={i: partial(linear_gradient, tape.stages[i], chosen[i]) for i in places},
        )


def _before_activation(tape, i):
    return tape.stages[i - 1].x if i - 1 in list(tape.activations()) else None


def _of_previous_batch(tape, i):
    if tape.previous is None or tape.previous.stages[i].x.shape != tape.stages[i].x.shape:
        return None
    return tape.previous.stages[i].x


def _reordered_input(reorder, tape, i):
    return reorder(tape.stages[i].x) if i == tape.linears()[0] else None


def _reordered_target(reorder, tape):
    yield tape.backward(tape.through_output(tape.dloss(reorder(tape.target))))


def _passing_weight(weight, tape):
    """δ passed back through another matrix than W, in one layer or all."""

    def dx(stage, dy):
        return dy @ weight(tape, stage, dy).T

    for places in _scopes(tape.linears()[1:]):
        yield tape.backward(tape.delta, dx={i: partial(dx, tape.stages[i]) for i in places})


def _updated(tape, stage, dy):
    if tape.learning_rate is None:
        return np.full_like(stage.params["w"], np.nan)
    decay = (tape.weight_decay or 0.0) * stage.params["w"]
    return stage.params["w"] - tape.learning_rate * (_dw(tape, stage, dy) + decay)


def _updated_by_the_truth(tape, stage, dy):
    if tape.learning_rate is None:
        return np.full_like(stage.params["w"], np.nan)
    return stage.params["w"] - tape.learning_rate * tape.truth.leaves[stage.leaves["w"]]


def _dw(tape, stage, dy):
    return linear_gradient(stage, stage.x, dy)["w"]


def _divided_layers(times, tape):
    """Every layer divides the gradient of its input by N."""
    linears = tape.linears()
    wrong = {i: lambda dy, s=tape.stages[i]: s.dx(dy) / tape.n for i in linears}
    if len(linears) > 1:
        yield tape.backward(tape.delta / tape.n**times, dx=wrong)


def _of_previous(combine, tape):
    if tape.previous_gradient is not None:
        pairs = zip(tape.truth.leaves, tape.previous_gradient, strict=True)
        leaves = [combine(now, before) for now, before in pairs]
        yield Gradients(leaves, [None] * len(leaves))


def _one_example(weight, tape):
    """Only one example is in the gradient."""
    for only in _examples(tape):
        delta = np.zeros_like(tape.delta)
        delta[only] = tape.delta[only] * weight(tape)
        yield tape.backward(delta)


def _one_example_dropped(weight, tape):
    for dropped in _examples(tape):
        delta = tape.delta * weight(tape)
        delta[dropped] = 0
        yield tape.backward(delta)


def _examples(tape) -> list[int]:
    n = len(tape.delta)
    if n == 1:
        return []
    return list(range(n)) if n <= SAMPLES else [0, n - 1]


def _with_decay(amount, which, tape):
    """A multiple of the parameter added to weights, or to biases."""
    if tape.weight_decay:
        leaves = [
            grad + amount * tape.weight_decay * theta if is_weight(path) == which else grad
            for path, grad, theta in zip(tape.paths, tape.truth.leaves, tape.params, strict=True)
        ]
        yield tape.truth._replace(leaves=leaves)


def _kinks(slope, tape):
    """Another derivative where z is exactly at a kink."""
    at = {
        i: np.isin(tape.stages[i].x, tape.stages[i].kinks)
        for i in tape.activations(before=tape.last)
    }
    for places in _scopes([i for i, kinked in at.items() if kinked.any()]):
        yield tape.backward(
            tape.delta,
            dx={
                i: lambda dy, f=tape.stages[i].slope, at=at[i]: np.where(at, slope(f), f) * dy
                for i in places
            },
        )


def _beyond_output(tape) -> bool:
    return True


def _except_sigmoid_output(tape) -> bool:
    return tape.family != "sigmoid"


def _never(tape) -> bool:
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
                lambda reorder, tape: _inputs(partial(_reordered_input, reorder), tape),
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
        Hypothesis("R1", variant, partial(_with_decay, amount, which))
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
"""The mistakes that are recognised by making them, in every variant."""
