"""Constructors and methods of layers and combinators; the truth is their definition in float64."""

import inspect
import re
from collections.abc import Iterator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from tests.fuzz.faults import Fault, of_network, of_option, of_value
from tests.fuzz.subjects import Subject, faults_of, in_float64, of_cotangent, ones_like_output

IDS = jnp.array([[3, 1, 4], [1, 5, 2]])
CONSTRUCTORS = (
    (jaxnn.Linear, {"n_in": 5, "n_out": 6}, (7, 5)),
    (jaxnn.Conv, {"n_in": 4, "n_out": 6, "kernel": (3, 2)}, (7, 8, 9, 4)),
    (jaxnn.ConvTranspose, {"n_in": 4, "n_out": 6, "kernel": (3,)}, (7, 8, 4)),
    (jaxnn.RNN, {"n_in": 5, "n_hidden": 3}, (4, 7, 5)),
    (jaxnn.GRU, {"n_in": 5, "n_hidden": 3}, (4, 7, 5)),
    (jaxnn.LSTM, {"n_in": 5, "n_hidden": 3}, (4, 7, 5)),
    (jaxnn.LayerNorm, {"n": 5}, (7, 5)),
    (jaxnn.RMSNorm, {"n": 5}, (7, 5)),
    (jaxnn.GroupNorm, {"groups": 2, "n": 6}, (7, 5, 6)),
    (jaxnn.InstanceNorm, {"n": 6}, (7, 5, 6)),
    (jaxnn.BatchNorm, {"n": 6}, (7, 6)),
    (jaxnn.PReLU, {"n": 6}, (7, 6)),
    (jaxnn.DynamicTanh, {"n": 6}, (7, 6)),
    (jaxnn.Dropout, {"rate": 0.5}, (7, 6)),
    (jaxnn.GaussianSample, {}, None),
    (jaxnn.Embedding, {"n": 6, "dim": 4}, None),
    (jaxnn.MultiHeadAttention, {"dim": 6, "heads": 3}, (2, 5, 6)),
    (jaxnn.TransformerBlock, {"dim": 6, "heads": 3}, (2, 5, 6)),
    (jaxnn.mlp, {"sizes": (5, 4, 3), "activation": jaxnn.tanh}, (7, 5)),
)


def networks() -> dict:
    """A network of each combinator, with the shape of its input."""
    linear, square = jaxnn.Linear(5, 3), jaxnn.Linear(6, 6)
    autoencoder = jaxnn.serial(linear, jaxnn.Linear(3, 5))
    return {
        "serial": (jaxnn.serial(linear, jaxnn.relu, jaxnn.Linear(3, 2)), (7, 5)),
        "residual": (jaxnn.residual(square), (7, 6)),
        "parallel": (jaxnn.parallel(linear, jaxnn.identity, combine="concatenate"), (7, 5)),
        "each": (jaxnn.each(linear, jaxnn.tanh), ((7, 5), (7, 4))),
        "shared": (jaxnn.shared(linear), ((7, 5), (4, 5))),
        "pick": (jaxnn.pick(1, 0), ((7, 5), (4, 5))),
        "batch_first": (jaxnn.batch_first(jaxnn.RNN(5, 3)), (7, 4, 5)),
        "channels_first": (jaxnn.channels_first(jaxnn.Conv(3, 4, (2, 2))), (7, 3, 5, 6)),
        "tied": (
            jaxnn.tied(autoencoder, (1, "w"), (0, "w"), transpose=True),
            (7, 5),
        ),
        "remat": (jaxnn.remat(linear), (7, 5)),
        "stacked": (jaxnn.stacked(square, 3), (7, 6)),
        "reversible": (jaxnn.reversible(jaxnn.Linear(3, 3), jaxnn.Linear(3, 3)), (7, 6)),
        "Bidirectional": (jaxnn.Bidirectional(jaxnn.RNN, 5, 3), (4, 7, 5)),
    }


def example(shape):
    """Random numbers of a shape, or of each of several."""
    if shape and isinstance(shape[0], tuple):
        return tuple(map(example, shape))
    random = np.random.default_rng(sum(shape))
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


WORDS = tuple(jaxnn.__all__)


def subjects_of_constructors() -> Iterator[Subject]:
    """Each constructor, with the output of the layer that it makes, and each combinator."""
    for constructor, arguments, shape in CONSTRUCTORS:
        x = _input_of(constructor, shape)
        output = partial(_output, constructor, x)
        yield Subject(
            name=constructor.__name__,
            call=output,
            arguments=dict(arguments),
            faults=partial(_constructor_faults, constructor, arguments),
            truth=partial(_by_definition, output),
            words=(*WORDS, *inspect.signature(constructor).parameters),
        )
    linear, square = jaxnn.Linear(5, 3), jaxnn.Linear(6, 6)
    autoencoder = jaxnn.serial(linear, jaxnn.Linear(3, 5))
    tie = {"layer": autoencoder, "path": (1, "w"), "to": (0, "w"), "transpose": True}
    around = ("residual", "shared", "batch_first", "channels_first", "remat")
    for combinator, arguments in (
        *((name, {"layer": linear}) for name in around),
        ("stacked", {"layer": square, "n": 3}),
        ("tied", tie),
    ):
        make = getattr(jaxnn, combinator)
        yield Subject(
            name=combinator,
            call=make,
            arguments=arguments,
            faults=partial(faults_of, make, arguments),
            words=(*WORDS, *inspect.signature(make).parameters),
        )
    for combinator in ("serial", "parallel", "each", "reversible"):
        make = getattr(jaxnn, combinator)
        yield Subject(
            name=combinator,
            call=lambda a, b, make=make, **options: make(a, b, **options),
            arguments={"a": jaxnn.tanh, "b": linear},
            faults=partial(_faults_of_two_layers, linear, combinator == "parallel"),
            words=(*WORDS, "combine"),
        )
    yield Subject(
        name="pick",
        call=lambda index: jaxnn.pick(0, index),
        arguments={"index": 1},
        faults=lambda: {"index": list(of_option(int, 1, required=False))},
        words=WORDS,
    )


def subjects_of_methods() -> Iterator[Subject]:
    """The methods of each layer, and of a network of each combinator."""
    for constructor, arguments, shape in CONSTRUCTORS:
        x = _input_of(constructor, shape)
        yield from _methods(constructor.__name__, constructor(**arguments), x, WORDS)
    for name, (net, shape) in networks().items():
        yield from _methods(name, net, example(shape), WORDS)


def _input_of(constructor, shape):
    return IDS if constructor is jaxnn.Embedding else example(shape or ((7, 6), (7, 6)))


def _faults_of_two_layers(valid, with_combine):
    faults = {place: list(of_network(valid, required=False)) for place in "ab"}
    if with_combine:
        faults["combine"] = list(of_option(str | None, "sum", required=False))
    return faults


def _constructor_faults(constructor, arguments):
    faults = faults_of(constructor, arguments)
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name not in faults:
            valid = arguments.get(name, parameter.default)
            faults[name] = list(of_option(parameter.annotation, valid, required=False))
    return faults


def _output(constructor, x, **arguments):
    layer = constructor(**arguments)
    with jax.enable_x64(False):
        params = layer.init(jax.random.key(0))
        state = layer.init_state() if layer.stateful else None
    if jax.config.jax_enable_x64:
        params, x, state = in_float64((params, x, state))
    return layer.apply(params, x, state)


def _by_definition(call, **arguments):
    """The call in float64, every op run by its definition."""
    with jaxnn.definitions(), jax.enable_x64(True):
        return call(**arguments)


def _methods(name, layer, x, words) -> Iterator[Subject]:
    key = jax.random.key(1)
    with jax.enable_x64(False):
        params = layer.init(jax.random.key(0))
        state = layer.init_state() if layer.stateful else None
        y = ones_like_output(lambda: layer.fwd(params, x, key)[0])
    arguments = {"params": params, "x": x}

    def apply(**arguments):
        return layer.apply(**arguments) if state is None else layer.apply(**arguments, state=state)

    def truth(**arguments):
        wide = in_float64(arguments)
        return apply(**wide)

    def faults(of_key=False):
        found = {
            "x": list(of_value(x, required=True, lists=False)),
            "further": [Fault("a further argument", 1)],
        }
        if jax.tree.leaves(params):
            found["params"] = list(of_value(params, required=True, lists=False))
        if name == "pick":  # it passes entries of any kind
            found["x"] = [fault for fault in found["x"] if not re.search(": |list", fault.label)]
        if of_key:
            found["key"] = list(of_value(key, required=False, lists=False))
        return found

    yield Subject(f"{name}.apply", apply, arguments, faults, partial(_by_definition, truth), words)

    def fwd(**arguments):
        return layer.fwd(**arguments)[0]

    of_key = partial(faults, of_key=name in ("Dropout", "GaussianSample"))
    yield Subject(f"{name}.fwd", fwd, {**arguments, "key": key}, of_key, None, words)

    @cache
    def residuals():
        return layer.fwd(params, x, key)[1]

    def bwd(dy):
        return layer.bwd(residuals(), dy)

    yield Subject(f"{name}.bwd", bwd, {"dy": y}, lambda: {"dy": of_cotangent(y)}, None, words)
