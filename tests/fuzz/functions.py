"""The functions around ops and layers: training, metrics, teaching, checks, other libraries."""

import inspect
import re
from collections.abc import Iterator
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn
from jaxnn import gradcheck, jacobians
from tests.fuzz.layers import example
from tests.fuzz.subjects import Subject, faults_of

LABELS = jnp.array([0, 2, 1, 1, 0, 2, 1], jnp.int32)
NET = jaxnn.serial(jaxnn.Linear(5, 4), jaxnn.tanh, jaxnn.Linear(4, 3))
LOSS = jaxnn.softmax_cross_entropy
SCALARS = r"array\(1\)|Array.*"

FITS = {  # where faults with these labels are none
    **{
        name: dict.fromkeys(places, "complex")
        for name, places in {
            "vec": "a",
            "devec": "v",
            "input_jacobian": "w",
            "weight_jacobian": "x",
            "vec_weight_jacobian": "x",
            "kronecker_gradient": ("x", "delta"),
        }.items()
    },
    # everything but linear layers stays as it is
    "convert_convention": {"params": "[^:]*|.*complex"},
    # the arguments are those of the user's function
    "check_numpy": {"x": ".*"},
    "check": {"further": ".*", "target": "Linear.*"},
    # tensors of other layers stay where they are
    "state_from_torch": {"tensors": "a further entry"},
    # a number may be an array without axes, and `None` in both trees is a leaf of neither
    "sgd_update": {"learning_rate": SCALARS, "grads": ".*: None"},
    # a gradient that is missing is a diagnosis
    "diagnose": {"learning_rate": SCALARS, "weight_decay": SCALARS, "grads": ".*: None"},
    # shapes do
    "summary": {"params": ".*a shape only", "x": "a shape only"},
    "fit": {"learning_rate": SCALARS, "callbacks": ".*", "checkpoint": ".*"},
}


def subjects_of_functions() -> Iterator[Subject]:
    """A subject for each public function; those with numbers have a truth in float64."""
    words = (*jaxnn.__all__, "x", "target", "weights")
    for name, function, arguments, truth in _functions():
        names = tuple(inspect.signature(function).parameters)
        faults = partial(_faults_of, name, function, arguments)
        yield Subject(name, function, arguments, faults, truth, (*words, *names))


def _faults_of(name, function, arguments):
    faults = faults_of(function, arguments)
    for place, labels in FITS.get(name, {}).items():
        faults[place] = [f for f in faults[place] if not re.fullmatch(labels, f.label)]
    return faults


def _functions():
    x, x_and_labels = example((7, 5)), (example((7, 5)), LABELS)
    with jax.enable_x64(False):
        params = NET.init(jax.random.key(0))
    run = {"net": NET, "loss": LOSS, "params": params}
    batch = {"params": params, "x": x, "target": LABELS}
    logits = example((7, 3))
    scored = {"prediction": logits, "target": LABELS}

    yield (
        "sgd_update",
        jaxnn.sgd_update,
        {"params": params, "grads": jax.tree.map(jnp.ones_like, params), "learning_rate": 0.5},
        _sgd,
    )
    yield "accuracy", jaxnn.accuracy, scored, _accuracy
    yield "top_k_accuracy", jaxnn.top_k_accuracy, {**scored, "k": 2}, None
    yield "confusion_matrix", jaxnn.confusion_matrix, scored, None
    yield (
        "value_and_grad",
        jaxnn.value_and_grad,
        {"net": NET, "loss": LOSS, "reduction": "mean"},
        None,
    )
    gradient = jaxnn.value_and_grad(NET, LOSS)
    yield (
        "value_and_grad (call)",
        lambda params, x, target, key=None, weights=None, **further: gradient(
            params, x, target, key, weights, **further
        ),
        {**batch, "weights": jnp.ones(7)},
        None,
    )
    yield "evaluate", jaxnn.evaluate, {**run, "data": x_and_labels, "batch_size": 4}, None
    yield "predict", jaxnn.predict, {"net": NET, "params": params, "x": x, "batch_size": 4}, None
    yield "fit", _fitted, {**run, "data": x_and_labels, "epochs": 1, "progress": False}, None
    yield "validation_split", jaxnn.validation_split, {"data": x_and_labels, "fraction": 0.4}, None
    sgd = optax.sgd(0.1)
    yield "train_step", jaxnn.train_step, {"net": NET, "loss": LOSS, "optimizer": sgd}, None
    step = jaxnn.train_step(NET, LOSS, sgd)
    yield (
        "train_step (call)",
        lambda params, opt_state, x, target, key=None, weights=None, **further: step(
            params, opt_state, x, target, key, weights, **further
        ),
        {**batch, "opt_state": sgd.init(params), "weights": jnp.ones(7)},
        None,
    )
    yield (
        "train_epoch",
        jaxnn.train_epoch,
        {"net": NET, "loss": LOSS, "optimizer": sgd, "batch_size": 3},
        None,
    )

    def epoch(params, opt_state, x, target, key, weights=None, **further):
        run = jaxnn.train_epoch(NET, LOSS, sgd, 3)
        return run(params, opt_state, x, target, key, weights, **further)

    yield (
        "train_epoch (call)",
        epoch,
        {**batch, "opt_state": sgd.init(params), "key": jax.random.key(0), "weights": jnp.ones(7)},
        None,
    )

    one = {"net": NET, "loss": LOSS}
    for of_examples in (
        jaxnn.per_example.per_example_norms,
        jaxnn.per_example.per_example_grads,
        jaxnn.per_example.noise_scale,
        jaxnn.curvature.diag_ggn,
        jaxnn.curvature.kronecker_factors,
        jaxnn.curvature.gradient_moments,
    ):
        module = of_examples.__module__.removeprefix("jaxnn.")
        yield f"{module}.{of_examples.__name__}", of_examples, one, None
    clipped = jaxnn.per_example.value_and_clipped_grad
    yield "per_example.value_and_clipped_grad", clipped, one | {"clip": 1.0}, None
    of_batch = clipped(NET, LOSS, 1.0)
    yield (
        "per_example.value_and_clipped_grad (call)",
        lambda params, x, target, key=None, weights=None, **further: of_batch(
            params, x, target, key, weights, **further
        ),
        {**batch, "weights": jnp.ones(7)},
        None,
    )

    yield "least_squares", jaxnn.least_squares, {"x": x[:, :2], "y": logits}, _least_squares
    yield (
        "activation_jacobian",
        jacobians.activation_jacobian,
        {"activation": jaxnn.tanh, "z": x[0]},
        None,
    )
    yield "softmax_jacobian", jacobians.softmax_jacobian, {"z": x[0]}, _softmax_jacobian
    yield "bias_jacobian", jacobians.bias_jacobian, {"m": 3}, None
    yield "input_jacobian", jacobians.input_jacobian, {"w": x}, None
    yield "weight_jacobian", jacobians.weight_jacobian, {"x": x[0], "m": 3}, None
    yield "vec", jacobians.vec, {"a": x}, lambda a: np.asarray(a).ravel("F")
    yield "devec", jacobians.devec, {"v": x.ravel(), "shape": (7, 5)}, None
    yield "vec_weight_jacobian", jacobians.vec_weight_jacobian, {"x": x[0], "m": 3}, None
    yield (
        "kronecker_gradient",
        jacobians.kronecker_gradient,
        {"x": x[0], "delta": logits[0]},
        lambda x, delta: np.outer(*map(_vector, (delta, x))),
    )

    linear = {"w": example((5, 3)), "b": example((3,))}
    yield (
        "convert_convention",
        jaxnn.convert_convention,
        {"params": linear, "to": "column", "source": "row"},
        None,
    )
    for op, layer in ((jaxnn.rnn, jaxnn.RNN), (jaxnn.gru, jaxnn.GRU), (jaxnn.lstm, jaxnn.LSTM)):
        with jax.enable_x64(False):
            params_of_op = layer(4, 3).init(jax.random.key(0))
        for library in ("torch", "keras", "flax"):
            back, forth = (getattr(jaxnn, f"recurrent_{way}_{library}") for way in ("to", "from"))
            yield back.__name__, back, {"op": op, "params": params_of_op}, None
            arrays = back(op, params_of_op)
            yield forth.__name__, forth, {"op": op, "arrays": arrays}, None
    layer, names = jaxnn.serial(jaxnn.Linear(5, 3), jaxnn.BatchNorm(3)), {(0,): "fc", (1,): "bn"}
    with jax.enable_x64(False):
        to_torch = {"net": layer, "params": layer.init(jax.random.key(0)), "names": names}
        state = layer.init_state()
    tensors = {n: jnp.asarray(a) for n, a in jaxnn.params_to_torch(**to_torch, state=state).items()}
    statistics = {name: tensors.pop(f"bn.{name}") for name in ("running_mean", "running_var")}
    yield "params_to_torch", jaxnn.params_to_torch, to_torch, None
    from_torch = {"net": layer, "tensors": tensors, "names": names}
    yield "params_from_torch", jaxnn.params_from_torch, from_torch, None
    yield (
        "state_from_torch",
        jaxnn.state_from_torch,
        {"net": jaxnn.BatchNorm(3), "tensors": statistics, "names": {(): ""}},
        None,
    )

    yield "summary", jaxnn.summary, {"net": NET, "x": x, "params": params}, None
    model = jaxnn.serial(
        jaxnn.Embedding(7, 8), jaxnn.TransformerBlock(8, 2, causal=True), jaxnn.Linear(8, 7)
    )
    with jax.enable_x64(False):
        of_model = model.init(jax.random.key(0))
    yield (
        "generate",
        jaxnn.generate,
        {
            "net": model,
            "params": of_model,
            "prompt": jnp.array([[3, 1, 4]]),
            "n": 2,
            "key": jax.random.key(0),
            "temperature": 0.5,
            "top_k": 3,
        },
        None,
    )
    yield "autodiff", jaxnn.autodiff, {"function": jnp.sinh}, None

    grads = jax.tree.map(jnp.ones_like, params)
    diagnosed = {"net": NET, "loss": LOSS, **batch, "grads": grads}
    yield "diagnose", gradcheck.diagnose, diagnosed, None
    yield "locate_nonfinite", gradcheck.locate_nonfinite, {"net": NET, "loss": LOSS, **batch}, None

    def check(target, params, x, seed=0, second_order=False, laws=("value",), **options):
        return _verdict(
            gradcheck.check(
                target, params, x, seed=seed, second_order=second_order, laws=laws, **options
            )
        )

    yield "check", check, {"target": jaxnn.linear, "params": linear, "x": example((7, 5))}, None

    def check_numpy(forward, backward, x, seed=0):
        return _verdict(gradcheck.check_numpy(forward, backward, x, seed=seed))

    yield (
        "check_numpy",
        check_numpy,
        {"forward": np.square, "backward": lambda dy, x: 2 * x * dy, "x": np.ones((3, 2))},
        None,
    )
    yield (
        "Padded",
        lambda values, lengths=None: (
            jaxnn.batch_first(jaxnn.RNN(5, 3))
            .apply(RNN_PARAMS, jaxnn.Padded(values, lengths))
            .values
        ),
        {"values": example((4, 6, 5)), "lengths": jnp.array([6, 2, 0, 3], jnp.int32)},
        None,
    )


def _verdict(report):
    """Whether a report is right; where the code did not run, its sentence, raised."""
    for finding in report.findings:
        if finding.law == "runs":
            raise ValueError(finding.message)
    return report.ok


@wraps(jaxnn.fit)
def _fitted(*args, **options):
    return jaxnn.fit(*args, **options).params  # the history has the seconds


def _vector(value):
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError("no vector")
    return array.astype(float)


def _sgd(params, grads, learning_rate):
    rate = float(np.asarray(learning_rate))
    return jax.tree.map(lambda p, g: _minus(p, rate, g), params, grads)


def _minus(p, rate, g):
    p, g = np.asarray(p), np.asarray(g)
    if p.shape != g.shape or p.dtype.newbyteorder("=") != g.dtype.newbyteorder("="):
        raise ValueError("not alike")
    return p.astype(float) - rate * g.astype(float)


def _accuracy(prediction, target, axis=-1, ignore_label=None):
    prediction, target = np.asarray(prediction).astype(float), np.asarray(target)
    predicted = prediction.argmax(axis)
    if target.shape == prediction.shape:
        target = target.argmax(axis)
    if target.shape != predicted.shape:
        raise ValueError("shapes")
    right = (predicted == target).astype(float)
    return right if ignore_label is None else np.where(target == ignore_label, np.nan, right)


def _softmax_jacobian(z, layout="numerator"):
    z = _vector(z)
    p = np.exp(z - z.max())
    p /= p.sum()
    return np.diag(p) - np.outer(p, p)


def _least_squares(x, y):
    x, y = np.asarray(x).astype(float), np.asarray(y).astype(float)
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError("no matrices")
    design = np.concatenate([x, np.ones((len(x), 1))], 1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError("not unique")
    solution = np.linalg.lstsq(design, y)[0]
    return {"w": solution[:-1], "b": solution[-1]}


with jax.enable_x64(False):
    RNN_PARAMS = jaxnn.RNN(5, 3).init(jax.random.key(0))
