"""Backward passes in NumPy pass unchanged, in many conventions, and planted mistakes are named."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.gradcheck import check_numpy
from jaxnn.gradcheck.differences import gradient_by_differences
from jaxnn.gradcheck.numpy.laws import NUMPY_LAWS

random = np.random.default_rng(0)
X, W, B = random.normal(size=(7, 5)), random.normal(size=(5, 6)), random.normal(size=6)


class Linear:
    def __init__(self, W=W, b=B):
        self.W, self.b = W, b

    def forward(self, x):
        self.inp = x
        return x @ self.W + self.b

    def backward(self, up_grad):
        self.dW = self.inp.T @ up_grad
        self.db = up_grad.sum(axis=0)
        return up_grad @ self.W.T


class ReLU:
    def __call__(self, x):
        self.x = x
        return np.maximum(0, x)

    def backward(self, dout):
        return dout * (self.x > 0)


class NothingReturned(Linear):
    def backward(self, up_grad):
        super().backward(up_grad)


class TupleReturned(Linear):
    def backward(self, up_grad):
        return up_grad @ self.W.T, self.inp.T @ up_grad, up_grad.sum(0)


class InputAndDictReturned(Linear):
    def backward(self, up_grad):
        return up_grad @ self.W.T, {"W": self.inp.T @ up_grad, "b": up_grad.sum(0)}


class Dictionaries:
    def __init__(self):
        self.params = {"W": W, "b": B}
        self.grads = {}

    def forward(self, x):
        self.cache = x, self.params["W"]
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dout):
        x, w = self.cache
        self.grads["W"], self.grads["b"] = x.T @ dout, dout.sum(0)
        return dout @ w.T


class Lists:
    def __init__(self):
        self.weights, self.biases = [W, W.T], [B, B[:5]]

    def feedforward(self, x):
        self.hidden = [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            self.hidden.append(np.tanh(self.hidden[-1] @ w + b))
        return self.hidden[-1]

    def backprop(self, delta):
        self.nabla_weights, self.nabla_biases = [None, None], [None, None]
        for i in (1, 0):
            delta = delta * (1 - self.hidden[i + 1] ** 2)
            self.nabla_weights[i], self.nabla_biases[i] = self.hidden[i].T @ delta, delta.sum(0)
            delta = delta @ self.weights[i].T


class Parameter:
    def __init__(self, data):
        self.data, self.grad = data, np.zeros_like(data)


class Accumulating(Linear):
    def __init__(self):
        self.W, self.b = Parameter(W), Parameter(B)

    def forward(self, x):
        self.inp = x
        return x @ self.W.data + self.b.data

    def backward(self, up_grad):
        self.W.grad += self.inp.T @ up_grad
        self.b.grad += up_grad.sum(0)
        return up_grad @ self.W.data.T


class ZeroedByHand(Accumulating):
    def zero_grad(self):
        self.W.grad[:] = self.b.grad[:] = 0


class Updating:
    def __init__(self):
        self.weights, self.bias = W, B

    def forward(self, inputs):
        self.inputs = inputs
        return inputs @ self.weights + self.bias

    def backward(self, output_gradient, learning_rate):
        dx = output_gradient @ self.weights.T
        self.weights = self.weights - learning_rate * self.inputs.T @ output_gradient
        self.bias = self.bias - learning_rate * output_gradient.sum(0)
        return dx


class Net:
    def __init__(self):
        self.layers = [Linear(), ReLU(), Linear(W.T, B[:5])]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) if isinstance(layer, ReLU) else layer.forward(x)
        return x

    def backward(self, grad):
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad


class MeanSquare:
    def forward(self, prediction, target):
        self.error = prediction - target
        return np.mean(self.error**2)

    def backward(self):
        return 2 * self.error / self.error.size


class Normalise:
    def __init__(self):
        self.gamma, self.beta = np.linspace(0.5, 2, 5), np.linspace(-1, 2, 5)
        self.running_mean = np.zeros(5)

    def forward(self, x):
        self.running_mean *= 0.9
        self.running_mean += 0.1 * x.mean(0)
        self.std = x.std(0)
        self.xhat = (x - x.mean(0)) / self.std
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(0), dy.sum(0)
        d = dy * self.gamma
        return (d - d.mean(0) - self.xhat * (d * self.xhat).mean(0)) / self.std


class InJax:
    def __init__(self):
        self.W = jnp.asarray(W, jnp.float32)

    def forward(self, x):
        self.y = jnp.tanh(x @ self.W)
        self.x = x
        return self.y

    def backward(self, up_grad):
        dz = up_grad * (1 - self.y**2)
        self.dW = self.x.T @ dz
        return dz @ self.W.T


LAYERS = {
    "attributes": (Linear(), X),
    "float32": (Linear(W.astype(np.float32), B.astype(np.float32)), X.astype(np.float32)),
    "nothing returned": (NothingReturned(), X),
    "a tuple returned": (TupleReturned(), X),
    "dx and a dict returned": (InputAndDictReturned(), X),
    "params and grads": (Dictionaries(), X),
    "data and grad": (ZeroedByHand(), X),
    "an update": (Updating(), X),
    "a call": (ReLU(), X),
    "a network": (Net(), X),
    "a loss": (MeanSquare(), X, X + 1),
    "batch norm": (Normalise(), X),
    "jax arrays": (InJax(), jnp.asarray(X)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_passes_as_it_is(case):
    report = check_numpy(*LAYERS[case])
    assert report.ok, report


def test_the_parameters_are_found():
    leaves = [row.leaf for row in check_numpy(Net(), X).rows]
    assert leaves == ["x", "layers[0].W", "layers[0].b", "layers[2].W", "layers[2].b"]
    assert [row.leaf for row in check_numpy(Normalise(), X).rows] == ["x", "gamma", "beta"]


def test_an_object_may_come_with_none_or_as_two_methods():
    layer = Linear()
    assert check_numpy(layer, None, X).ok
    assert check_numpy(layer.forward, layer.backward, X).ok
    net = Lists()
    assert check_numpy(net.feedforward, net.backprop, X).ok


def test_a_used_layer_is_checked_as_a_new_one_and_left_as_it_is():
    layer, x = Linear(), X.copy()
    layer.forward(x)
    layer.backward(np.ones((7, 6)))
    before = {name: (value, value.copy()) for name, value in vars(layer).items()}
    report = check_numpy(layer, x)
    assert report.ok
    assert [row.leaf for row in report.rows] == ["x", "W", "b"]
    for name, (value, copied) in before.items():
        assert getattr(layer, name) is value
        np.testing.assert_array_equal(value, copied)


def affine(x, w, b):
    return x @ w + b


def affine_with_cache(x, w, b):
    return affine(x, w, b), (x, w)


def affine_gradients(dy, x, w):
    return dy @ w.T, x.T @ dy, dy.sum(0)


def by_arguments(dy, x, w, b):
    return affine_gradients(dy, x, w)


def by_arguments_last(x, w, b, grad_output):
    return affine_gradients(grad_output, x, w)


def by_cache(dout, cache):
    return affine_gradients(dout, *cache)


def by_cache_first(cache, upstream):
    return affine_gradients(upstream, *cache)


def by_unnamed(one, other):
    return affine_gradients(one, *other)


def by_parts(delta, inputs, weights):
    return affine_gradients(delta, inputs, weights)


def by_name(dout, cache):
    dx, dw, db = affine_gradients(dout, *cache)
    return {"dx": dx, "w": dw, "grad_b": db}


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (affine, by_arguments),
        (affine, by_arguments_last),
        (affine_with_cache, by_cache),
        (affine_with_cache, by_cache_first),
        (affine_with_cache, by_unnamed),
        (affine_with_cache, by_parts),
        (affine_with_cache, by_name),
        (affine_with_cache, by_arguments),
    ],
)
def test_functions_pass_in_many_conventions(forward, backward):
    report = check_numpy(forward, backward, X, W, B)
    assert report.ok, report
    assert [row.verdict for row in report.rows] == ["right"] * 3


def test_numbers_and_dicts_are_arguments_too():
    assert check_numpy(lambda x, y: x * y, lambda dy, x, y: (y * dy, x * dy), 2.0, 3.0).ok

    def forward(x, params):
        return x @ params["W"] + params["b"]

    def backward(dy, x, params):
        return {"dx": dy @ params["W"].T, "dW": x.T @ dy, "db": dy.sum(0)}

    assert check_numpy(forward, backward, X, {"W": W, "b": B}).ok


def test_what_depends_on_the_output_gets_it():
    assert check_numpy(np.tanh, lambda dy, out: dy * (1 - out**2), X).ok


def wrong(**methods):
    """A linear layer with other methods."""
    return type("Linear", (Linear,), methods)()


def backward_with(**changes):
    """The layer's backward, then some attributes replaced."""

    def backward(self, up_grad):
        dx = Linear.backward(self, up_grad)
        for name, change in changes.items():
            setattr(self, name, change(getattr(self, name)))
        return dx

    return backward


def noisy_forward(self, x):
    return Linear.forward(self, x) + np.random.default_rng().random()


def noisy_backward(self, up_grad):
    return Linear.backward(self, up_grad) * np.random.default_rng().random()


def first_cache(self, x):
    self.inp = getattr(self, "inp", x)
    return x @ self.W + self.b


def clipping_input(self, x):
    x[x > 1] = 1
    return Linear.forward(self, x)


def shrinking(self, x):
    y = Linear.forward(self, x)
    self.W *= 0.5
    return y


def masking_dy(self, up_grad):
    dx = Linear.backward(self, up_grad)
    up_grad[up_grad < 0] = 0
    return dx


def updating(self, up_grad):
    dx = Linear.backward(self, up_grad)
    self.W -= 0.1 * self.dW
    return dx


def popping(self, up_grad):
    dx = Linear.backward(self, up_grad)
    self.calls = getattr(self, "calls", 0) + 1
    return dx * self.calls**2


def raising(self, up_grad):
    raise ZeroDivisionError("oh")


def without_dy(self):
    return self.inp


def ignoring_dy(self, up_grad):
    return Linear.backward(self, np.ones_like(up_grad))


MISTAKES = {
    "sign": (wrong(backward=lambda self, g: -Linear.backward(self, g)), "gradient", "sign"),
    "mean": (wrong(backward=backward_with(db=lambda d: d / 7)), "gradient", "1/7"),
    "zero": (wrong(backward=backward_with(dW=np.zeros_like)), "gradient", "is zero"),
    "transpose": (wrong(backward=backward_with(dW=np.transpose)), "gradient", "transpose"),
    "not summed": (
        wrong(backward=lambda self, g: (Linear.backward(self, g), setattr(self, "db", g))[0]),
        "gradient",
        "not summed over axis 0",
    ),
    "keepdims": (wrong(backward=backward_with(db=np.atleast_2d)), "gradient", "keeps axis 0"),
    "dy ignored": (wrong(backward=ignoring_dy), "gradient", "dy = 1"),
    "no dW": (
        wrong(backward=lambda self, g: (Linear.backward(self, g), delattr(self, "dW"))[0]),
        "gradient",
        "d_W was not found",
    ),
    "not a number": (
        wrong(backward=backward_with(dW=lambda d: d * np.nan)),
        "finite",
        "d_W is not finite at index (0, 0)",
    ),
    "forward not a number": (
        wrong(forward=lambda self, x: Linear.forward(self, x) * np.inf),
        "finite",
        "the value is not finite",
    ),
    "x in place": (wrong(forward=clipping_input), "in_place", "forward changes x in place"),
    "W in place": (wrong(forward=shrinking), "in_place", "forward changes W, which only an update"),
    "accumulated": (Accumulating(), "accumulation", "sum of both"),
    "another at the second call": (wrong(backward=popping), "accumulation", "at a second call"),
    "stale cache": (wrong(forward=first_cache), "stale_cache", "d_W is that of an earlier call"),
    "random forward": (wrong(forward=noisy_forward), "determinism", "fix its seed"),
    "random backward": (wrong(backward=noisy_backward), "determinism", "between two calls"),
    "raising": (wrong(backward=raising), "runs", "backward raised ZeroDivisionError: oh"),
    "raising forward": (wrong(forward=raising), "runs", "forward raised ZeroDivisionError: oh"),
    "no dy": (wrong(backward=without_dy), "gradient", "d_W was not found"),
    "labels": (wrong(forward=lambda self, x: x.argmax(1)), "runs", "y is int64"),
    "too many": (wrong(backward=lambda self, g: (g,) * 5), "runs", "5 gradients for 1 argument"),
    "no gradient": (wrong(backward=lambda self, g: None), "runs", "no gradient"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named(case):
    layer, law, words = MISTAKES[case]
    report = check_numpy(layer, X)
    assert not report.ok
    assert law in {finding.law for finding in report.findings}
    assert any(words in finding.message for finding in report.findings), report


def test_every_law_has_a_planted_mistake():
    assert {law for _, law, _ in MISTAKES.values()} == {"runs", *NUMPY_LAWS}


@pytest.mark.parametrize(
    ("backward", "note"),
    [
        (masking_dy, "backward changes dy in place"),
        (updating, "backward updates the parameters itself"),
    ],
)
def test_a_habit_that_harms_no_gradient_is_a_note(backward, note):
    report = check_numpy(wrong(backward=backward), X)
    assert report.ok
    assert any(said.startswith(note) for said in report.notes), report


def test_only_what_is_wrong_is_called_wrong():
    report = check_numpy(MISTAKES["mean"][0], X)
    assert [(row.leaf, row.verdict) for row in report.rows] == [
        ("x", "right"),
        ("W", "right"),
        ("b", "WRONG"),
    ]


def with_other_names(self, g):
    dx = Linear.backward(self, g)
    self.decoy, self.first = np.ones_like(self.dW), self.dW
    del self.dW
    return dx


def test_names_only_break_ties():
    layer = wrong(backward=with_other_names)
    report = check_numpy(layer, X)
    assert report.ok
    assert "the gradient of W was taken from first" in report.notes
    assert not check_numpy(layer, X, grads={"W": "decoy"}).ok
    assert [row.leaf for row in check_numpy(layer, X, params=["b"]).rows] == ["x", "b"]
    with pytest.raises(ValueError, match=r"no floating-point array 'w'; it has: W, b"):
        check_numpy(layer, X, params=["w"])


def test_relu_at_zero_is_a_note():
    x = X.copy()
    x[0] = 0
    report = check_numpy(ReLU(), x)
    assert report.ok
    assert "not smooth here: at x[0, 0], " in report.notes[0]
    slope_two = check_numpy(np.abs, lambda dy, x: 2 * dy * np.sign(x), np.array([0.0, 1.0]))
    assert not slope_two.ok


def test_an_edge_of_the_domain_is_a_note():
    with np.errstate(divide="ignore"):
        report = check_numpy(np.log1p, lambda dy, x: dy / (1 + x), np.array([1e-9 - 1, 1.0]))
    assert "not finite next to x[0]" in report.notes[-1]


def test_a_gradient_that_is_not_given_is_a_note():
    report = check_numpy(MeanSquare(), X, X + 1)
    assert report.notes == ["backward gives no gradient of target, so none is checked"]
    assert [row.verdict for row in report.rows] == ["right", "no gradient"]


def test_zero_for_zero_is_not_tested():
    report = check_numpy(lambda x: np.ones(3), lambda dy: np.zeros(3), np.ones(3))
    assert not report.ok
    assert not report.findings
    assert report.rows[0].verdict == "not tested"


def test_low_precision_within_forward_is_allowed_for():
    def forward(x):
        return np.tanh(x.astype(np.float32))

    report = check_numpy(forward, lambda dy, x: dy * (1 - np.tanh(x) ** 2), X)
    assert report.ok
    assert "not in float64" in report.notes[0]


def test_a_class_is_no_object():
    with pytest.raises(TypeError, match="not a class"):
        check_numpy(Linear, X)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((np.tanh, None, X), "neither"),
        (
            (np.tanh, lambda dy, one, two, three: dy, X),
            "the meaning of one and two and three in its backward is unclear",
        ),
        ((lambda s: np.ones(3), lambda dy: dy, "text"), "no array is floating point"),
        ((np.tanh, lambda y_true: y_true, X), "takes the labels y_true"),
    ],
)
def test_what_cannot_be_run_is_said(given, words):
    report = check_numpy(*given)
    assert report.verdict == "could not be run"
    assert words in report.findings[0].message, report


def test_large_arrays_are_refused():
    with pytest.raises(ValueError, match="30000 entries"):
        check_numpy(np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2), np.ones(30_000))


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (np.exp, np.exp),
        (np.abs, np.sign),
        (lambda x: np.abs(x) ** 2, lambda x: 2 * x),
        (lambda x: np.array([float(v) ** 2 for v in x]), lambda x: 2 * x),
        (lambda x: np.where(x > 0, x, 0.1 * x), lambda x: np.where(x > 0, 1, 0.1)),
    ],
)
def test_differences(function, slope):
    x = np.array([-2.0, -1e-4, 1e-4, 0.5])
    (grad, nothing), error = gradient_by_differences(
        lambda x, n: function(x), [x, np.arange(2)], np.array([1.0, 2, 3, 4])
    )
    assert nothing is None
    assert error < 1e-9
    np.testing.assert_allclose(grad, slope(x) * [1, 2, 3, 4], rtol=1e-8, atol=1e-10)


def scaled_tanh(x, *, scale=1.0):
    return scale * np.tanh(x), x


def scaled_tanh_backward(dy, cache, *, scale=1.0):
    return scale * dy * (1 - np.tanh(cache) ** 2)


def test_options_go_by_name_to_whoever_takes_them():
    assert check_numpy(scaled_tanh, scaled_tanh_backward, X, scale=3.0).ok
    without = check_numpy(
        scaled_tanh, lambda dy, cache: dy * (1 - np.tanh(cache) ** 2), X, scale=3.0
    )
    assert "0.333 × the true gradient" in without.findings[0].message
    with pytest.raises(TypeError, match="neither forward nor backward nor loss takes 'sclae'"):
        check_numpy(scaled_tanh, scaled_tanh_backward, X, sclae=3.0)


@pytest.mark.usefixtures("unannotated")
def test_a_loss_is_a_function():
    with pytest.raises(TypeError, match="loss must be a function of the output"):
        check_numpy(scaled_tanh, scaled_tanh_backward, X, loss=3.0)


def mean_for_the_bias(self, up_grad):
    self.dW = self.inp.T @ up_grad
    self.db = up_grad.mean(axis=0)
    return up_grad @ self.W.T


def test_the_line_of_the_mistake_and_its_repair():
    (repair,) = check_numpy(wrong(backward=mean_for_the_bias), X).repairs
    assert re.fullmatch(
        r"test_check_numpy\.py:\d+: self\.db = up_grad\.mean\(axis=0\): write "
        r"up_grad\.sum\(axis=0\) here \(a mean is used instead of a sum\)",
        repair,
    )
    assert check_numpy(Linear(), X).repairs == []


def test_an_exception_is_told_with_its_line():
    (finding,) = check_numpy(wrong(backward=raising), X).findings
    assert re.search(r"oh \(test_check_numpy\.py:\d+: raise ZeroDivisionError", finding.message)
